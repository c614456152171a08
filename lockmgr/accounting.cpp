#include "lockmgr/accounting.h"

namespace lockmgr {

const char* to_string(Limit limit) {
  switch (limit) {
    case Limit::kLocks:
      return "max_locks";
    case Limit::kLocksPerUser:
      return "max_locks_per_user";
    case Limit::kLocksPerOwner:
      return "max_locks_per_owner";
    case Limit::kWaiters:
      return "max_waiters";
    case Limit::kWaitersPerUser:
      return "max_waiters_per_user";
    case Limit::kOutsideWaits:
      return "max_outside_waits";
  }
  return "unknown";
}

std::shared_ptr<Account> Ledger::account(uid_t uid) {
  const std::lock_guard guard(mutex_);
  std::weak_ptr<Account>& known = accounts_[uid];
  std::shared_ptr<Account> account = known.lock();
  if (account == nullptr) {
    // A uid that comes back finds its slot; slots of uids long gone go when the map would grow.
    if (accounts_.size() >= 1024) {
      std::erase_if(accounts_,
                    [uid](const auto& slot) { return slot.first != uid && slot.second.expired(); });
    }
    account = std::make_shared<Account>(uid);
    accounts_[uid] = account;
  }
  return account;
}

Tally::Tally(Ledger& ledger, uid_t uid, Kind kind)
    : ledger_(ledger), account_(ledger.account(uid)), kind_(kind) {}

void Tally::set(std::uint64_t count) noexcept {
  if (count == charged_) return;
  // Unsigned arithmetic wraps, so adding the difference also takes away.
  const std::uint64_t difference = count - charged_;
  const bool locks = kind_ == Kind::kLocks;
  (locks ? account_->locks : account_->waiters).fetch_add(difference, std::memory_order_relaxed);
  (locks ? ledger_.locks_ : ledger_.waiters_).fetch_add(difference, std::memory_order_relaxed);
  charged_ = count;
}

std::optional<Limit> Tally::would_break(std::uint64_t more) const noexcept {
  const Limits& limits = ledger_.limits();
  const auto full = [more](std::uint64_t now, std::uint64_t limit) {
    return now >= limit || more > limit - now;
  };
  if (kind_ == Kind::kWaiters) {
    if (full(ledger_.waiters(), limits.waiters)) return Limit::kWaiters;
    if (full(account_->waiters.load(std::memory_order_relaxed), limits.waiters_per_user)) {
      return Limit::kWaitersPerUser;
    }
    return std::nullopt;
  }
  if (full(charged_, limits.locks_per_owner)) return Limit::kLocksPerOwner;
  if (full(account_->locks.load(std::memory_order_relaxed), limits.locks_per_user)) {
    return Limit::kLocksPerUser;
  }
  if (full(ledger_.locks(), limits.locks)) return Limit::kLocks;
  return std::nullopt;
}

}  // namespace lockmgr
