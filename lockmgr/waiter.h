/// A parked request. It stands in exactly one of four places:
///
///   behind   chained to the last waiter before it that it conflicts with (Queue). It is looked at
///            again only when that one leaves the queue, so a release costs the same with one
///            waiter as with ten thousand: it wakes those it can grant and nobody else.
///   blocked  in the tree of those that a granted lock stands in the way of (Queue); a release
///            looks up the ones that overlap what was released.
///   outside  attached to a wait for an outsider on the backing (Outside).
///   aside    until a wait for an outsider that its grant would collide with has come to its end
///            (Outside); it is called back when nothing else stands in the way.
///
/// It is `done` from the moment that its result is known until its completion is called.
///
/// Thread safety: guarded by the mutex of its file but for what is const.
#pragma once

#include <boost/intrusive/list.hpp>
#include <boost/intrusive/set.hpp>
#include <cstdint>
#include <memory>
#include <utility>

#include "lockmgr/accounting.h"
#include "lockmgr/clock.h"
#include "lockmgr/interval_tree.h"
#include "lockmgr/owner.h"
#include "lockmgr/policy.h"
#include "lockmgr/range.h"

namespace lockmgr {

namespace bi = boost::intrusive;

class FileLocks;
class Opened;
struct OutsideWait;
struct Owner;

struct Waiter {
  enum class Place : std::uint8_t { kNowhere, kBehind, kBlocked, kOutside, kAside, kDone };
  using ListHook = bi::list_member_hook<>;
  using WorkHook = bi::set_member_hook<>;

  /// `waits_on` is what Registry and LockManager find its file by.
  Waiter(std::shared_ptr<FileLocks> waits_on, const Request& what, Ticket name,
         Clock::time_point now, Completion on_done, Ledger& ledger)
      : file(std::move(waits_on)),
        request(what),
        ticket(name),
        since(now),
        done(std::move(on_done)),
        tally(ledger, what.caller.uid, Tally::Kind::kWaiters) {}

  const std::shared_ptr<FileLocks> file;
  const Request request;
  const Ticket ticket;
  const Clock::time_point since;
  Completion done;
  Tally tally;

  Party party() const { return {request.owner, process}; }
  /// Neither about to be parked nor decided.
  bool is_parked() const { return place != Place::kNowhere && place != Place::kDone; }

  Owner* owner = nullptr;
  Opened* opened = nullptr;
  pid_t process = 0;           ///< of its owner; see Party
  std::uint64_t enrolled = 0;  ///< smaller was parked earlier, over all files; never changes then
  std::uint64_t arrival = 0;   ///< smaller came earlier
  std::uint64_t turn = 0;      ///< smaller goes first; see Policy::turn()
  Clock::time_point placed;    ///< when it was last looked at, or given up
  Place place = Place::kNowhere;
  bool bypass = false;    ///< no longer queues behind other waiters
  bool admitted = false;  ///< by a process before: limits on waiting do not refuse it
  int result = 0;         ///< for the completion, once kDone

  Waiter* ahead = nullptr;         ///< kBehind: the waiter it is chained to
  OutsideWait* outside = nullptr;  ///< kOutside, kAside; kDone: it leaves this one
  ListHook peer_hook;              ///< in `followers` of the one ahead, or a list of `outside`
  WorkHook work_hook;              ///< in the worklist of a settle()

  using PeerList = bi::list<Waiter, bi::member_hook<Waiter, ListHook, &Waiter::peer_hook>>;
  PeerList followers;  ///< those chained behind this one

  // In the tree of all waiters, and (kBlocked) in that of the blocked ones.
  TreeHook<Waiter> queue_hook;
  TreeHook<Waiter> blocked_hook;
  /// The first and the last turn within a subtree; last 0: none.
  struct Turns {
    std::uint64_t last = 0;
    std::uint64_t first = UINT64_MAX;
  };
  Offset queue_reach = -1;    ///< summary in the tree of all: the last byte of the subtree
  Turns all_turns;            ///< summary in the tree of all: turns of the subtree
  Turns exclusive_turns;      ///< of these, the turns of those that want an exclusive lock
  Offset blocked_reach = -1;  ///< summary in the tree of the blocked: the last byte of the subtree
};

struct QueueTreeTraits {
  using Node = Waiter;
  static TreeHook<Waiter>& hook(Waiter& n) { return n.queue_hook; }
  static Range range(const Waiter& n) { return n.request.range; }
  static void summarise(Waiter& n, const Waiter* left, const Waiter* right);
  static bool summary_ok(const Waiter& n, const Waiter* left, const Waiter* right);
};
struct BlockedTreeTraits {
  using Node = Waiter;
  static TreeHook<Waiter>& hook(Waiter& n) { return n.blocked_hook; }
  static Range range(const Waiter& n) { return n.request.range; }
  static void summarise(Waiter& n, const Waiter* left, const Waiter* right);
  static bool summary_ok(const Waiter& n, const Waiter* left, const Waiter* right);
};

/// The waiters that are to be looked at again, the one whose turn comes first before the others.
struct ByTurn {
  using type = std::uint64_t;
  std::uint64_t operator()(const Waiter& w) const { return w.turn; }
};
using Worklist = bi::set<Waiter, bi::member_hook<Waiter, Waiter::WorkHook, &Waiter::work_hook>,
                         bi::key_of_value<ByTurn>>;

}  // namespace lockmgr
