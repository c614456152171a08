/// Counts granted locks, parked requests and waits for outsiders, per user and in all, and knows
/// the limits.
///
/// Counts cannot drift: a Tally is tied to the thing it counts (an owner's locks on a file, a
/// parked request), is told the present number and charges the difference, and gives everything
/// back when it is destroyed.
///
/// Thread safety: Ledger is thread-safe. A Tally is used under the lock of what it is part of.
///
/// Invariants:
///  1. Account::locks is the sum over the live Tallies of that user; Ledger's totals are the sums
///     over the accounts (each may lag by the operations in flight on other threads).
///  2. An account lives while a Tally refers to it.
#pragma once

#include <sys/types.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <unordered_map>

namespace lockmgr {

struct Limits {
  std::uint64_t locks = 4'000'000;               ///< granted, in all
  std::uint64_t locks_per_user = 2'000'000;      ///< granted to one uid
  std::uint64_t locks_per_owner = 1'000'000;     ///< granted to one owner on one file
  std::uint64_t waiters = 100'000;               ///< parked requests, in all
  std::uint64_t waiters_per_user = 50'000;       ///< parked requests of one uid
  std::uint64_t outside_waits = 4'096;           ///< ranges waited for on outsiders at one time
  std::uint64_t outside_waits_per_user = 1'024;  ///< those of one uid
};

enum class Limit : std::uint8_t {
  kLocks,
  kLocksPerUser,
  kLocksPerOwner,
  kWaiters,
  kWaitersPerUser,
  kOutsideWaits,
  kOutsideWaitsPerUser,
  kCount,
};

/// The name of the limit as the command line spells it, such as "max_locks_per_user".
const char* to_string(Limit limit);

class Ledger;

/// One user's counts.
struct Account {
  Account(Ledger& in, uid_t user) : ledger(in), uid(user) {}
  Ledger& ledger;
  const uid_t uid;
  std::atomic<std::uint64_t> locks{0};
  std::atomic<std::uint64_t> waiters{0};
  std::atomic<std::uint64_t> outside_waits{0};
};

/// A number of locks, of waiters or of waits for outsiders charged to a user.
class Tally {
 public:
  enum class Kind : std::uint8_t { kLocks, kWaiters, kOutsideWaits };

  /// Starts at 0. May throw std::bad_alloc when the user has no account yet.
  Tally(Ledger& ledger, uid_t uid, Kind kind);
  ~Tally() { set(0); }
  Tally(const Tally&) = delete;
  Tally& operator=(const Tally&) = delete;

  /// Makes the charged number `count`.
  void set(std::uint64_t count) noexcept;
  std::uint64_t charged() const { return charged_; }
  uid_t uid() const { return account_->uid; }

  /// The limit that charging `more` would break, if any. Kind::kLocks also looks at the limit per
  /// owner, taking this Tally for the owner's.
  std::optional<Limit> would_break(std::uint64_t more) const noexcept;

 private:
  [[nodiscard]] std::atomic<std::uint64_t>& of_user() const noexcept;
  [[nodiscard]] std::atomic<std::uint64_t>& of_all() const noexcept;

  const std::shared_ptr<Account> account_;
  std::uint64_t charged_ = 0;
  const Kind kind_;
};

class Ledger {
 public:
  explicit Ledger(const Limits& limits) { set_limits(limits); }

  std::uint64_t limit(Limit limit) const {
    return limits_[static_cast<std::size_t>(limit)].load(std::memory_order_relaxed);
  }
  Limits limits() const;
  /// What is held or awaited beyond a new limit stays; only requests from now on feel it.
  void set_limits(const Limits& limits);
  std::uint64_t locks() const { return locks_.load(std::memory_order_relaxed); }
  std::uint64_t waiters() const { return waiters_.load(std::memory_order_relaxed); }
  std::uint64_t outside_waits() const { return outside_waits_.load(std::memory_order_relaxed); }

 private:
  friend class Tally;
  std::shared_ptr<Account> account(uid_t uid);

  std::array<std::atomic<std::uint64_t>, static_cast<std::size_t>(Limit::kCount)> limits_{};
  std::atomic<std::uint64_t> locks_{0};
  std::atomic<std::uint64_t> waiters_{0};
  std::atomic<std::uint64_t> outside_waits_{0};
  std::mutex mutex_;
  std::unordered_map<uid_t, std::weak_ptr<Account>> accounts_;  ///< guarded by mutex_
};

}  // namespace lockmgr
