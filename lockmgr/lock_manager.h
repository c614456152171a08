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
/// What happens per file, and how, is in file_locks.h. The manager holds what files share: policy,
/// limits and counts, the parked requests by ticket, and the search for deadlocks.
///
/// Thread safety: all methods may be called from any thread.
///
/// Order in which mutexes are taken: block_mutex_, then FileLocks::mutex_ (several only by a thread
/// that holds block_mutex_), then registry_mutex_ or the ledger's, which are never held while
/// another is taken.
///
/// Invariants:
///  1. A parked request is in the registry from before it is visible in its file until its
///     completion is about to be called.
///  2. Requests that take part in deadlock detection are parked under block_mutex_, so two that
///     would close a cycle cannot both miss it.
#pragma once

#include <array>
#include <atomic>
#include <boost/intrusive/list.hpp>
#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <utility>
#include <vector>

#include "lockmgr/accounting.h"
#include "lockmgr/backing.h"
#include "lockmgr/histogram.h"
#include "lockmgr/owner.h"
#include "lockmgr/policy.h"
#include "lockmgr/policy_switch.h"
#include "lockmgr/wait_nodes.h"

namespace lockmgr {

namespace bi = boost::intrusive;

class FileLocks;
struct LockView;
struct Waiter;

/// Names a file: the backing's device and inode number, never a path.
struct FileKey {
  std::uint64_t device = 0;
  std::uint64_t inode = 0;
};

/// What has happened to a lock or a request.
enum class EventKind : std::uint8_t {
  kGrant,     ///< granted, at once or after waiting
  kWait,      ///< parked
  kRefusal,   ///< a non-blocking request met a conflict
  kDeadlock,  ///< refused with EDEADLK
  kGivenUp,   ///< a parked request ended without a grant
  kRelease,   ///< unlocked or closed by the owner
  kRevoke,    ///< taken away by FileLocks::revoke()
};

/// "grant", "wait", "refusal", "deadlock", "given_up", "release" or "revoke".
const char* to_string(EventKind kind);

/// One thing that has happened, for those who watch.
struct Event {
  EventKind kind = EventKind::kGrant;
  OwnerId owner;
  Caller caller;
  Range range;
  Mode mode = Mode::kNone;             ///< kNone for what is released or revoked
  std::chrono::nanoseconds waited{0};  ///< kGrant, kGivenUp: since it was parked
  int error = 0;                       ///< errno of a request that ended without a grant
};

/// Told of what an administrator wants to know. Called with a file's lock held: must not call the
/// manager back, must not throw, and should not block.
class Observer {
 public:
  virtual ~Observer() = default;
  /// A request was refused with ENOLCK because `limit` (of `value`) is reached.
  virtual void limit_reached(const FileLocks&, const Request&, Limit, std::uint64_t /*value*/) {}
  /// The backing refused with something else than a conflict. `unlocking`: the manager has let go
  /// all the same and will set the backing right later.
  virtual void backing_failed(const FileLocks&, const Range&, Mode, int /*error*/,
                              bool /*unlocking*/) {}
  /// A request was refused with EDEADLK; `cycle` lists the nodes (wait_nodes.h) from the blocker
  /// on: the cookies of processes, unless the policy counts other owners in.
  virtual void deadlock(const FileLocks&, const Request&,
                        const std::vector<std::uint64_t>& /*cycle*/) {}
  /// `lock` is about to be broken because `waiter`, one of `waiting` requests, has waited for it
  /// too long, or because there are too many (Policy::has_lease()).
  virtual void lease_ended(const FileLocks&, const LockView& /*lock*/, const Request& /*waiter*/,
                           std::uint64_t /*waiting*/) {}
  /// While LockManager::watch() is on: what happens to locks and requests. Calls on one file come
  /// in the order of what happened.
  virtual void event(const FileLocks&, const Event&) {}
};

/// Events counted since the manager was made.
enum class Counter : std::uint8_t {
  kGrants,         ///< requests granted, at once or after waiting
  kRefusals,       ///< non-blocking requests refused for a conflict
  kWaits,          ///< requests parked
  kLooks,          ///< parked requests looked at again since something had changed
  kInterrupts,     ///< parked requests cancelled
  kDeadlocks,      ///< requests refused with EDEADLK
  kLimits,         ///< requests refused with ENOLCK for a limit
  kUnlocks,        ///< unlock requests, those of nothing included
  kBackingCalls,   ///< calls that changed the backing's lock state
  kBackingErrors,  ///< of these, failed other than by conflict
  kOutsideWaits,   ///< waits for outsiders begun
  kBypasses,       ///< waiters granted out of turn since those ahead stood still
  kRevocations,    ///< locks, or parts of some, taken away by FileLocks::revoke()
  kCount,
};

/// Relaxed counters, one a Counter.
class Counters {
 public:
  /// Returns what it was before.
  std::uint64_t add(Counter c) noexcept {
    return values_[static_cast<std::size_t>(c)].fetch_add(1, std::memory_order_relaxed);
  }
  std::uint64_t get(Counter c) const noexcept {
    return values_[static_cast<std::size_t>(c)].load(std::memory_order_relaxed);
  }

 private:
  std::array<std::atomic<std::uint64_t>, static_cast<std::size_t>(Counter::kCount)> values_{};
};

/// What makes a FileLocks one of its manager's list.
struct RegisteredFile {
  bi::list_member_hook<> registry_hook;  ///< guarded by LockManager::registry_mutex_
};
using RegisteredFiles =
    bi::list<RegisteredFile, bi::member_hook<RegisteredFile, bi::list_member_hook<>,
                                             &RegisteredFile::registry_hook>>;

class LockManager {
 public:
  using Clock = std::chrono::steady_clock;

  /// `observer` may be null; else it must outlive the manager.
  LockManager(const Limits& limits, const Policy& policy, Observer* observer);
  /// REQUIRES: every FileLocks is gone.
  ~LockManager();
  LockManager(const LockManager&) = delete;
  LockManager& operator=(const LockManager&) = delete;

  /// The locks of one file, from now until the last reference goes. The caller keeps one FileLocks
  /// a file. May throw std::bad_alloc.
  std::shared_ptr<FileLocks> open_file(const FileKey& key, std::unique_ptr<Backing> backing);

  /// A name for a request that is about to be passed to FileLocks::park(), which uses it up,
  /// whatever it answers. May throw std::bad_alloc.
  Ticket new_ticket();

  /// Ends the wait of a request: its completion gets `error` unless it was decided before. A
  /// request that is not parked yet is answered `error` when it would be. Tickets used up are
  /// ignored.
  void cancel(Ticket ticket, int error) noexcept;

  /// Ends every wait with `error` and refuses to park from now on (same error).
  void shut_down(int error) noexcept;

  /// Lets waiters pass that stand behind a waiter ahead while nothing granted is in their own way,
  /// and have done so for `Patience`: the one ahead may depend on them in a way no lock manager can
  /// see. Of those in each other's way only the earliest passes. Also calls
  /// a wait for outsiders back that keeps aside a request which outsiders refuse no longer. To be
  /// called a few times a second while has_queued() is true. Does not block on files' backings
  /// longer than their try calls.
  void relent(Clock::time_point now) noexcept;
  bool has_queued() const noexcept { return queued_.load(std::memory_order_relaxed) != 0; }

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

  /// The manager's clock: the steady one, or the time it was last set to, where it stands still
  /// until it is set again: for simulations.
  Clock::time_point now() const noexcept {
    const Clock::rep set = set_time_.load(std::memory_order_relaxed);
    if (set != 0) return Clock::time_point(Clock::duration(set));
    return moment_ == 0 ? Clock::now() : Clock::time_point(Clock::duration(moment_));
  }
  /// While it lives, now() stands still for the calling thread (unless `time` is the clock's
  /// epoch): all that a call does happens at a time that can be written down, and be gone through
  /// again.
  class Moment {
   public:
    explicit Moment(Clock::time_point time) noexcept
        : outer_(std::exchange(moment_, time.time_since_epoch().count())) {}
    ~Moment() { moment_ = outer_; }
    Moment(const Moment&) = delete;
    Moment& operator=(const Moment&) = delete;

    /// Of the latest on the calling thread; the clock's epoch if there is none.
    static Clock::time_point current() noexcept {
      return Clock::time_point(Clock::duration(moment_));
    }

   private:
    const Clock::rep outer_;
  };
  /// `time` must not go back, nor be the clock's epoch.
  void set_time(Clock::time_point time) noexcept {
    set_time_.store(time.time_since_epoch().count(), std::memory_order_relaxed);
  }

  const Ledger& ledger() const { return ledger_; }
  /// New limits for requests from now on.
  void set_limits(const Limits& limits) { ledger_.set_limits(limits); }
  const Counters& counters() const { return counters_; }
  const Histogram& timing(Timing what) const { return timings_[static_cast<std::size_t>(what)]; }

  /// Switches Observer::event() on or off. Off at first; it then costs one relaxed load an event.
  void watch(bool on) noexcept { watched_.store(on, std::memory_order_relaxed); }
  bool watched() const noexcept { return watched_.load(std::memory_order_relaxed); }

  std::uint64_t outside_waits() const { return outside_waits_.load(std::memory_order_relaxed); }

  /// Every file with locks or waiters now. May throw std::bad_alloc.
  std::vector<std::shared_ptr<FileLocks>> files() const;

  /// Verifies the invariants of every file and that counts agree with what is granted and parked.
  /// REQUIRES: no call is under way. Returns nullptr or what is broken.
  const char* check() const;

 private:
  friend class FileLocks;

  /// What a ticket stands for.
  struct Slot {
    std::shared_ptr<Waiter> waiter;  ///< null: not parked yet
    int cancelled = 0;               ///< error that it was cancelled with before it was parked
    WaitNodes nodes;                 ///< under which it is in by_node_
  };

  void record(Timing what, Clock::duration time) noexcept {
    timings_[static_cast<std::size_t>(what)].record(time);
  }
  int enroll(const std::shared_ptr<Waiter>& waiter);
  void strike(Waiter& waiter) noexcept;
  void use_up(Ticket ticket) noexcept;
  void take_out(std::map<Ticket, Slot>::iterator it) noexcept;
  std::vector<std::shared_ptr<Waiter>> waiters_at(WaitGraph::Node node) const;
  void forget_file(FileLocks& file) noexcept;

  static inline constinit thread_local Clock::rep moment_ = 0;  ///< 0: none

  Ledger ledger_;
  Counters counters_;
  std::array<Histogram, static_cast<std::size_t>(Timing::kCount)> timings_;
  Observer* const observer_;
  std::atomic<Clock::rep> set_time_{0};  ///< 0: the clock runs
  std::atomic<bool> watched_{false};
  std::atomic<bool> leases_;  ///< Policy::has_lease() of policy_
  std::atomic<std::uint64_t> next_wait_{1};
  std::atomic<std::uint64_t> outside_waits_{0};
  std::atomic<std::uint64_t> queued_{0};  ///< waiters that relent() looks at
  std::atomic<int> closed_{0};            ///< error of shut_down(), 0 before

  std::mutex block_mutex_;  ///< serialises parking of requests that take part in deadlock detection

  mutable std::mutex registry_mutex_;
  Policy policy_;                                         ///< guarded by registry_mutex_
  Ticket next_ticket_ = 1;                                ///< guarded by registry_mutex_
  std::map<Ticket, Slot> tickets_;                        ///< guarded by registry_mutex_
  std::set<std::pair<WaitGraph::Node, Ticket>> by_node_;  ///< guarded by registry_mutex_
  mutable RegisteredFiles files_;                         ///< guarded by registry_mutex_
};

}  // namespace lockmgr
