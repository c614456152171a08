/// The parked requests of a file in their order: who stands behind whom, whom a granted lock
/// blocks, and whose turn it is. Knows nothing of the backing.
///
/// A request that finds nothing granted in its way still queues behind an earlier waiter that it
/// conflicts with, unless that one waits for a lock of the same owner or thread (an upgrade, a
/// second shared lock): queueing would then wait for itself. See also LockManager::relent().
///
/// Example: 1 holds 0-9. 2 waits for 0-9 (blocked), 3 for 5-14 (behind 2), 4 for 12-19 (behind 3),
/// 5 for 30-39 (granted at once). When 1 lets go, 2 is found in the tree of the blocked ones and
/// granted; its leaving lets 3 be looked at, which becomes blocked. 4 was not touched.
///
/// Thread safety: guarded by the mutex of its file; takes none.
///
/// Invariants (check() verifies them):
///  1. A waiter that is `behind` conflicts with the one ahead, whose turn comes before its own (see
///     Policy::turn()) and which still waits.
///  2. A waiter that is `blocked` conflicts with a granted lock of another owner.
///  3. behind() is the number of those that are `behind`.
#pragma once

#include <cstdint>

#include "lockmgr/granted.h"
#include "lockmgr/interval_tree.h"
#include "lockmgr/outcomes.h"
#include "lockmgr/owner.h"
#include "lockmgr/policy.h"
#include "lockmgr/range.h"
#include "lockmgr/waiter.h"
#include "lockmgr/waiter_order.h"

namespace lockmgr {

class Queue {
 public:
  using Tree = IntervalTree<QueueTreeTraits>;

  Queue() = default;
  Queue(const Queue&) = delete;
  Queue& operator=(const Queue&) = delete;

  // -- looking -----------------------------------------------------------------------------------
  bool empty() const { return waiters_.empty(); }
  /// Whether a granted lock stands in somebody's way.
  bool any_blocked() const { return !blocked_.empty(); }
  std::uint32_t behind() const { return behind_; }
  const Tree& waiters() const { return waiters_; }
  const IntervalTree<BlockedTreeTraits>& blocked() const { return blocked_; }
  /// One that came through `opened`, or null.
  Waiter* find_of(const Opened& opened) const;

  /// Whether the request has to mind earlier waiters.
  static bool queues(const Policy& policy, const Request& request) {
    return request.wait && policy.queues_behind_waiters();
  }
  /// The turn of a request that comes now.
  std::uint64_t turn_of(const Policy& policy, const Request& request) const {
    return policy.turn(request.mode, next_arrival_);
  }
  /// The last waiter that such a request stands behind if its turn is `turn`; null: none.
  Waiter* latest_ahead(const Granted& granted, const Party& party, const Request& request,
                       std::uint64_t turn) const {
    return waiters_.empty() ? nullptr : find_ahead(granted, party, request, turn);
  }
  /// Whether a request of `party` for `mode` on a common byte stands behind `waiter`.
  static bool conflicts(const Policy& policy, const Waiter& waiter, const Party& party, Mode mode) {
    return waiter.request.wait && modes_conflict(waiter.request.mode, mode) &&
           policy.excludes(waiter.party(), party);
  }
  /// The waiter at the front of the chain that `waiter` stands in. Whenever something in its way is
  /// released it is looked at anew, so the time it was placed tells how long nothing has moved.
  static const Waiter& front_of(const Waiter& waiter);

  // -- coming, going and being placed ------------------------------------------------------------
  /// A new waiter, nowhere yet. REQUIRES: its owner and opened are set.
  void enter(const Policy& policy, Waiter& waiter) noexcept;
  /// Takes out one that is nowhere; those behind it are to be looked at again. Its owner stays.
  void leave(Waiter& waiter, Outcomes& out) noexcept;
  void put_behind(Waiter& waiter, Waiter& ahead) noexcept;
  void put_blocked(Waiter& waiter) noexcept;
  /// Takes one that is `behind` or `blocked` out of its place: it is nowhere then.
  void take_out(Waiter& waiter) noexcept;

  // -- turns -------------------------------------------------------------------------------------
  /// To be called before `owner` gets `mode` on `range`: has those looked at again who may stand
  /// before what it thereby gives up.
  void wake(const Policy& policy, const Owner& owner, const Range& range, Mode mode,
            Outcomes& out) noexcept {
    if (!blocked_.empty()) wake_blocked(policy, owner, range, mode, out);
  }
  /// A request is granted in its turn. Should that pass waiters for the last time, they go by
  /// arrival from now on.
  void count_pass(const Policy& policy, const Party& party, const Request& request,
                  std::uint64_t turn, Outcomes& out) noexcept;
  /// Gives everybody the turn that `policy` says, and has all looked at again. Returns how many
  /// there are. REQUIRES: all are nowhere.
  std::uint64_t reorder(const Policy& policy, Outcomes& out) noexcept;

  /// Verifies the invariants. Returns nullptr or what is broken.
  const char* check(const Granted& granted) const;

 private:
  /// A request that looks for those ahead of it.
  struct Search {
    const Policy& policy;
    const Party& party;
    const Range& range;
    Mode mode;
    std::uint64_t before;  ///< turns from here on do not count
    Waiter* best = nullptr;
  };
  static void search(Waiter* node, Search& search);
  Waiter* find_ahead(const Granted& granted, const Party& party, const Request& request,
                     std::uint64_t turn) const;
  void wake_blocked(const Policy& policy, const Owner& owner, const Range& range, Mode mode,
                    Outcomes& out) noexcept;
  const char* check_waiter(const Granted& granted, const Waiter& waiter) const;

  Tree waiters_;
  IntervalTree<BlockedTreeTraits> blocked_;
  std::uint64_t next_arrival_ = 1;
  [[no_unique_address]] PassBound passes_;
  std::uint32_t behind_ = 0;
};

}  // namespace lockmgr
