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
    case Limit::kOutsideWaitsPerUser:
      return "max_outside_waits_per_user";
    case Limit::kCount:
      break;
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
    account = std::make_shared<Account>(*this, uid);
    accounts_[uid] = account;
  }
  return account;
}

Limits Ledger::limits() const {
  return {.locks = limit(Limit::kLocks),
          .locks_per_user = limit(Limit::kLocksPerUser),
          .locks_per_owner = limit(Limit::kLocksPerOwner),
          .waiters = limit(Limit::kWaiters),
          .waiters_per_user = limit(Limit::kWaitersPerUser),
          .outside_waits = limit(Limit::kOutsideWaits),
          .outside_waits_per_user = limit(Limit::kOutsideWaitsPerUser)};
}

void Ledger::set_limits(const Limits& limits) {
  const auto set = [this](Limit limit, std::uint64_t value) {
    limits_[static_cast<std::size_t>(limit)].store(value, std::memory_order_relaxed);
  };
  set(Limit::kLocks, limits.locks);
  set(Limit::kLocksPerUser, limits.locks_per_user);
  set(Limit::kLocksPerOwner, limits.locks_per_owner);
  set(Limit::kWaiters, limits.waiters);
  set(Limit::kWaitersPerUser, limits.waiters_per_user);
  set(Limit::kOutsideWaits, limits.outside_waits);
  set(Limit::kOutsideWaitsPerUser, limits.outside_waits_per_user);
}

Tally::Tally(Ledger& ledger, uid_t uid, Kind kind) : account_(ledger.account(uid)), kind_(kind) {}

std::atomic<std::uint64_t>& Tally::of_user() const noexcept {
  switch (kind_) {
    case Kind::kLocks:
      break;
    case Kind::kWaiters:
      return account_->waiters;
    case Kind::kOutsideWaits:
      return account_->outside_waits;
  }
  return account_->locks;
}

std::atomic<std::uint64_t>& Tally::of_all() const noexcept {
  switch (kind_) {
    case Kind::kLocks:
      break;
    case Kind::kWaiters:
      return account_->ledger.waiters_;
    case Kind::kOutsideWaits:
      return account_->ledger.outside_waits_;
  }
  return account_->ledger.locks_;
}

void Tally::set(std::uint64_t count) noexcept {
  if (count == charged_) return;
  // Unsigned arithmetic wraps, so adding the difference also takes away.
  const std::uint64_t difference = count - charged_;
  of_user().fetch_add(difference, std::memory_order_relaxed);
  of_all().fetch_add(difference, std::memory_order_relaxed);
  charged_ = count;
}

std::optional<Limit> Tally::would_break(std::uint64_t more) const noexcept {
  const auto full = [this, more](std::uint64_t now, Limit limit) {
    const std::uint64_t most = account_->ledger.limit(limit);
    return now >= most || more > most - now;
  };
  const std::uint64_t user = of_user().load(std::memory_order_relaxed);
  const std::uint64_t all = of_all().load(std::memory_order_relaxed);
  switch (kind_) {
    case Kind::kLocks:
      if (full(charged_, Limit::kLocksPerOwner)) return Limit::kLocksPerOwner;
      if (full(user, Limit::kLocksPerUser)) return Limit::kLocksPerUser;
      if (full(all, Limit::kLocks)) return Limit::kLocks;
      break;
    case Kind::kWaiters:
      if (full(all, Limit::kWaiters)) return Limit::kWaiters;
      if (full(user, Limit::kWaitersPerUser)) return Limit::kWaitersPerUser;
      break;
    case Kind::kOutsideWaits:
      if (full(user, Limit::kOutsideWaitsPerUser)) return Limit::kOutsideWaitsPerUser;
      if (full(all, Limit::kOutsideWaits)) return Limit::kOutsideWaits;
      break;
  }
  return std::nullopt;
}

}  // namespace lockmgr
