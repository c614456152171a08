/// A byte-range lock manager for many files: flock, POSIX and open-file-description locks in one
/// conflict space, carried to a backing that arbitrates with everybody else.
///
///   LockManager manager({}, *Policy::named("nfs"), nullptr);
///   auto file = manager.open_file({dev, ino}, std::make_unique<MyBacking>(...));
///   Opened opened(readable, writable);
///   std::optional<int> now = file->try_now(opened, request);
///   if (!now) now = file->park(opened, request, manager.new_ticket(), on_done);
///   ...
///   file->close(opened);
///
/// What happens per file, and how, is in file_locks.h; what files share, in context.h.
///
/// Thread safety: all methods may be called from any thread. The order in which mutexes are taken
/// is in context.h.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <vector>

#include "lockmgr/accounting.h"
#include "lockmgr/backing.h"
#include "lockmgr/clock.h"
#include "lockmgr/context.h"
#include "lockmgr/counters.h"
#include "lockmgr/histogram.h"
#include "lockmgr/journal.h"
#include "lockmgr/observer.h"
#include "lockmgr/owner.h"
#include "lockmgr/policy.h"
#include "lockmgr/policy_switch.h"
#include "lockmgr/registry.h"
#include "lockmgr/wait_graph.h"

namespace lockmgr {

class FileLocks;
class Outsiders;

class LockManager {
 public:
  using Clock = lockmgr::Clock;

  /// `observer` may be null; else it must outlive the manager.
  LockManager(const Limits& limits, const Policy& policy, Observer* observer);
  /// REQUIRES: every FileLocks is gone.
  ~LockManager();
  LockManager(const LockManager&) = delete;
  LockManager& operator=(const LockManager&) = delete;

  /// The locks of one file, from now until the last reference goes. The caller keeps one FileLocks
  /// a file. `journal`: where granted locks are written down; null: nowhere. May throw
  /// std::bad_alloc.
  std::shared_ptr<FileLocks> open_file(const FileKey& key, std::unique_ptr<Backing> backing,
                                       std::unique_ptr<Journal> journal = nullptr);

  /// A name for a request that is about to be passed to FileLocks::park(), which uses it up,
  /// whatever it answers. May throw std::bad_alloc.
  Ticket new_ticket();

  /// Ends the wait of a request: its completion gets `error` unless it was decided before. Where it
  /// waited for an outsider the completion is called when the backing has withdrawn that wait, so
  /// that nothing of it is left in an outsider's way; or, where the backing takes longer than a
  /// quarter of a second, with the next relent(). A request that is not parked yet is answered
  /// `error` when it would be. Tickets used up are ignored.
  void cancel(Ticket ticket, int error) noexcept;

  /// Ends every wait with `error` and refuses to park from now on (same error). Does not wait for
  /// the backing.
  void shut_down(int error) noexcept;

  /// To be called a few times a second while anybody waits or has_queued() is true. Three things
  /// move then:
  ///
  ///  - A waiter passes the one that it stands behind, if nothing granted has been in its own way,
  ///    and nothing there has moved, for some time: the one ahead may depend on it in a way no lock
  ///    manager can see. Of those in each other's way only the earliest passes. The time is a
  ///    second, and doubles with each use until a grant comes in turn.
  ///  - A wait for an outsider is called back if it keeps a request aside which no outsider refuses
  ///    any longer.
  ///  - Who has given up is answered (see cancel()).
  ///
  /// Also breaks locks whose lease has ended. Does not block on files' backings longer than their
  /// try calls.
  void relent(Clock::time_point now) noexcept;
  bool has_queued() const noexcept { return context_.queued.load(std::memory_order_relaxed) != 0; }

  /// Where very many wait, a request is parked before it is known whether it closes a cycle. While
  /// has_searches() is true, which changes when a request is parked, search() is to be called: it
  /// looks for one such request, and refuses it with EDEADLK if it does. Takes as long as the graph
  /// of who waits for whom is large, and hinders others only while a cycle that was found is looked
  /// at again. Returns false when that could not be told, since locks came and went, and is put off
  /// once more: a pause does no harm then.
  bool search() noexcept;
  /// Looks for cycles that lead through outsiders. `outsiders`: those that wait, none of whom has
  /// held or awaited anything else while it was found out. Of each cycle the request that was
  /// parked last is refused with EDEADLK. Gives up where very many wait, here or outside; hinders
  /// others only while a cycle is looked at again.
  void search_outside(Outsiders outsiders) noexcept;
  bool has_searches() const noexcept { return context_.searches.count() != 0; }
  /// How many waiters and locks a request is held up for instead, at most; by default 1,000.
  void set_short_search(std::uint64_t most) noexcept { context_.short_search = most; }

  /// The policy of files opened from now on, and, but for the moment of a switch, of all.
  Policy policy() const;
  /// Switches all files to another policy. What is granted stays granted, also where the new policy
  /// would not have granted it beside what else is held; who asks for such a lock again is refused
  /// until the others let go. Flocks that the new policy carries in another way are carried anew
  /// at once; where an outsider stands in the way the lock stays without. Whoever waits keeps
  /// waiting by the new rules, in the new order: granted if these allow, refused with EDEADLK if
  /// they find a cycle. Does not block on backings longer than their try calls. May throw
  /// std::bad_alloc; then either nothing has changed, or some files follow with the next switch.
  PolicySwitch switch_policy(const Policy& to);

  /// The manager's clock; see TimeSource.
  Clock::time_point now() const noexcept { return context_.clock.now(); }
  using Moment = lockmgr::Moment;
  /// See TimeSource::set(): for simulations.
  void set_time(Clock::time_point time) noexcept { context_.clock.set(time); }

  const Ledger& ledger() const { return context_.ledger; }
  /// New limits for requests from now on.
  void set_limits(const Limits& limits) { context_.ledger.set_limits(limits); }
  const Counters& counters() const { return context_.counters; }
  const Histogram& timing(Timing what) const { return context_.timings.get(what); }

  /// Switches Observer::event() on or off. Off at first; it then costs one relaxed load an event.
  void watch(bool on) noexcept { context_.watched.store(on, std::memory_order_relaxed); }
  bool watched() const noexcept { return context_.watched.load(std::memory_order_relaxed); }

  /// How long the request that has waited longest has; 0: none waits.
  Clock::duration longest_wait() const noexcept;

  /// Waits for outsiders under way.
  std::uint64_t outside_waits() const { return context_.ledger.outside_waits(); }

  /// Every file with locks or waiters now. May throw std::bad_alloc.
  std::vector<std::shared_ptr<FileLocks>> files() const;

  /// Verifies the invariants of every file and that counts agree with what is granted and parked.
  /// REQUIRES: no call is under way. Returns nullptr or what is broken.
  const char* check() const;

 private:
  void refuse_last_in(const WaitGraph::Nodes& cycle, const Outsiders& outsiders);

  Context context_;
  std::atomic<bool> leases_;  ///< Policy::has_lease() of the policy in force
};

}  // namespace lockmgr
