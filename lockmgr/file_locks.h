/// The locks of one file: who holds what, who waits for what, and what the backing carries.
///
/// Two graphs meet here. The first is of bytes: granted locks lie in two B+-trees, the exclusive
/// and the shared ones, each of which also knows the farthest byte that an owner *other than the
/// asker* reaches beneath each node; so the search for a conflict stays logarithmic even among a
/// million locks of the asker itself. Each owner has its own locks in order besides: they are
/// disjoint, and neighbours of equal mode are merged, as POSIX asks.
///
/// The second is of waiting. A parked request stands in exactly one of four places:
///
///   behind   chained to the last waiter before it that it conflicts with. It is looked at again
///            only when that one leaves the queue, so a release costs the same with one waiter as
///            with ten thousand: it wakes those it can grant and nobody else.
///   blocked  in the tree of those that a granted lock stands in the way of; a release looks up the
///            ones that overlap what was released.
///   outside  attached to a wait for an outsider on the backing (OutsideWait).
///   aside    until an OutsideWait that its grant would collide with has come to its end; it is
///            called back when nothing else stands in the way.
///
/// The mirror: at every byte the backing carries exactly the strongest mode granted there. A grant
/// that raises it is carried first and committed when the backing accepts; a release is committed
/// whatever the backing says. While an OutsideWait is under way its range may become locked at the
/// backing at any moment; nothing that this would weaken is granted meanwhile (invariant 6).
///
/// A request that finds nothing granted in its way still queues behind an earlier waiter that it
/// conflicts with, unless that one waits for a lock of the same owner or thread (an upgrade, a
/// second shared lock): queueing would then wait for itself. See also LockManager::relent().
///
/// Thread safety: all public methods may be called from any thread; each takes mutex_. None blocks
/// longer than a non-blocking call of the backing takes.
///
/// Invariants (verified after each change when LOCKMGR_CHECK_INVARIANTS is defined):
///  1. Two granted locks of owners that exclude each other do not overlap unless both are shared,
///     or the policy has been switched since the older was granted.
///  2. An owner's locks are disjoint; neighbours that touch differ in mode.
///  3. Every granted lock is in the tree of its space and mode, and among its owner's.
///  4. An owner's tally is the number of its locks.
///  5. A waiter that is `behind` conflicts with the one ahead, whose turn comes before its own (see
///     Policy::turn()) and which still waits; a waiter that is `blocked` conflicts with a granted
///     lock of another owner.
///  6. No granted lock collides with an OutsideWait under way (see collides()).
///  7. An owner without locks and waiters is one of the few that its Opened keeps.
#pragma once

#include <array>
#include <boost/intrusive/list.hpp>
#include <boost/intrusive/set.hpp>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "lockmgr/accounting.h"
#include "lockmgr/backing.h"
#include "lockmgr/interval_tree.h"
#include "lockmgr/lock_manager.h"
#include "lockmgr/lock_trees.h"
#include "lockmgr/owner.h"
#include "lockmgr/owner_table.h"
#include "lockmgr/policy.h"
#include "lockmgr/range.h"
#include "lockmgr/wait_graph.h"
#include "lockmgr/waiter_order.h"

namespace lockmgr {

namespace bi = boost::intrusive;

struct OutsideWait;
class FileLocks;
struct PolicySwitch;

class Opened;

/// Somebody who holds or awaits locks on this file. Guarded by FileLocks::mutex_.
struct Owner {
  Owner(Ledger& ledger, const OwnerId& owner_id, const Caller& who)
      : id(owner_id), caller(who), tally(ledger, who.uid, Tally::Kind::kLocks) {}

  bool idle() const { return locks.empty() && waiting == 0; }
  Party party() const { return {id, process}; }

  const OwnerId id;
  Caller caller;      ///< who asked last
  pid_t process = 0;  ///< who asked when it was last idle; see Party
  HeldTree locks;
  std::uint32_t waiting = 0;  ///< parked requests
  Tally tally;
  Opened* opened = nullptr;  ///< the open file it first came through; null once that closed
  bool kept = false;         ///< it is in Opened::idle_, not in Opened::busy_
  bi::list_member_hook<> opened_hook;
  bi::unordered_set_member_hook<> table_hook;
};
using OwnerList =
    bi::list<Owner, bi::member_hook<Owner, bi::list_member_hook<>, &Owner::opened_hook>,
             bi::constant_time_size<false>>;

/// The granted locks of a conflict space; see Space.
struct LockSpace {
  bool empty() const { return exclusive.empty() && shared.empty(); }
  LockTree& tree(Mode mode) { return mode == Mode::kExclusive ? exclusive : shared; }

  LockTree exclusive;
  LockTree shared;
  std::optional<Range> stale;  ///< where the backing may carry more or less than it should
};

/// An open file description as the manager sees it: what modes it may take, and the owners that
/// first came through it. Its holder passes it to FileLocks and must close() it there before it is
/// destroyed. Fields are guarded by FileLocks::mutex_.
class Opened {
 public:
  Opened(bool readable, bool writable) : readable_(readable), writable_(writable) {}
  ~Opened() = default;
  Opened(const Opened&) = delete;
  Opened& operator=(const Opened&) = delete;

  bool readable() const { return readable_; }
  bool writable() const { return writable_; }

 private:
  friend class FileLocks;

  const bool readable_;
  const bool writable_;
  OwnerList busy_;            ///< with locks or waiters, or about to ask
  OwnerList idle_;            ///< kept for their next request; the last to become idle comes first
  std::uint32_t parked_ = 0;  ///< requests that came through it and wait
};

/// A parked request. Guarded by the mutex of its file but for what is const.
struct Waiter {
  enum class Place : std::uint8_t { kNowhere, kBehind, kBlocked, kOutside, kAside, kDone };
  using ListHook = bi::list_member_hook<>;
  using WorkHook = bi::set_member_hook<>;

  Waiter(FileLocks& waits_on, const Request& what, Ticket name, Completion on_done, Ledger& ledger);

  const std::shared_ptr<FileLocks> file;
  const Request request;
  const Ticket ticket;
  const LockManager::Clock::time_point since;
  Completion done;
  Tally tally;

  Party party() const { return {request.owner, process}; }

  Owner* owner = nullptr;
  Opened* opened = nullptr;
  pid_t process = 0;                      ///< of its owner; see Party
  std::uint64_t arrival = 0;              ///< smaller came earlier
  std::uint64_t turn = 0;                 ///< smaller goes first; see Policy::turn()
  LockManager::Clock::time_point placed;  ///< when it was last looked at
  Place place = Place::kNowhere;
  bool bypass = false;  ///< no longer queues behind other waiters
  int result = 0;       ///< for the completion, once kDone

  Waiter* ahead = nullptr;         ///< kBehind: the waiter it is chained to
  OutsideWait* outside = nullptr;  ///< kOutside, kAside
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
  Offset queue_reach = -1;    ///< summary in the first tree, with ...
  Turns all_turns;            ///< ... all waiters of the subtree and ...
  Turns exclusive_turns;      ///< ... those that want an exclusive lock
  Offset blocked_reach = -1;  ///< summary in the second tree
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

/// A wait at the backing for an outsider, under way until the backing says how it ended. Identical
/// requests share one.
struct OutsideWait {
  Backing::WaitId id = 0;
  Range range;
  Mode mode = Mode::kNone;
  Space space = Space::kRecords;
  Party party;                ///< of the request it was begun for
  bool recalled = false;      ///< asked to end
  bool stray = false;         ///< the policy has changed since it began: serves nobody
  bool disturbed = false;     ///< the mirror was changed within `range` since it began
  Waiter::PeerList attached;  ///< kOutside: it waits for these
  Waiter::PeerList aside;     ///< kAside: these wait for its end
};

/// A granted lock as reports show it.
struct LockView {
  OwnerId owner;
  Caller caller;
  Range range;
  Mode mode = Mode::kNone;
  std::uint32_t held_seconds = 0;
  const Opened* opened = nullptr;  ///< that its owner first came through; null once that closed
};

/// A parked request as reports show it.
struct WaitView {
  Ticket ticket = 0;
  Request request;
  Waiter::Place place = Waiter::Place::kNowhere;
  std::uint32_t waited_seconds = 0;
  Ticket ahead = 0;                ///< kBehind: the request it is chained to
  const Opened* opened = nullptr;  ///< that it came through
};

/// How far a paged report has come; a new one starts at the beginning. A lock that comes, goes or
/// moves between two pages may be reported once, twice or not at all; those that stay are reported
/// exactly once unless others with the same first byte come or go.
struct PageMark {
  std::uint8_t tree = 0;   ///< exclusive locks come before shared ones
  Offset first = 0;        ///< where to go on, ...
  std::uint64_t skip = 0;  ///< ... after so many that begin there
};

/// Bytes at which the manager and the backing do not agree.
struct Difference {
  Range range;
  Mode granted = Mode::kNone;  ///< the strongest mode granted there
  Mode carried = Mode::kNone;  ///< what the backing holds for the manager
};

/// How far a comparison with the backing came.
enum class Audit : std::uint8_t {
  kCompared,
  kUnknown,   ///< the backing cannot tell what it holds
  kChanging,  ///< locks came and went too fast to compare one moment with the same moment
};

/// What stands in the way of a tested request.
struct Blocker {
  std::optional<OwnerId> owner;  ///< nothing: an outsider on the backing
  pid_t pid = 0;
  Range range;
  Mode mode = Mode::kNone;
};

class FileLocks final : public std::enable_shared_from_this<FileLocks>, private RegisteredFile {
 public:
  FileLocks(LockManager& manager, const FileKey& key, std::unique_ptr<Backing> backing);
  /// REQUIRES: every Opened is closed and nothing is parked.
  ~FileLocks();
  FileLocks(const FileLocks&) = delete;
  FileLocks& operator=(const FileLocks&) = delete;

  const FileKey& key() const { return key_; }
  const Backing& backing() const { return *backing_; }

  /// Decides a request (lock or unlock) at once if it can: 0 when done; EAGAIN for a conflict (only
  /// when it is not to wait); EBADF when the open mode forbids it; ENOLCK for a limit or want of
  /// memory; EINPROGRESS when the backing does not answer (only when it is not to wait; ask again
  /// after carry_anew()); an errno of the backing. Nothing: it must wait; call park().
  std::optional<int> try_now(Opened& opened, const Request& request) noexcept;

  /// Decides a request, or parks it: then returns nothing and calls `done` once. Besides the
  /// results of try_now(): EDEADLK when a process would wait for itself. `ticket` is for cancel();
  /// it is valid from this call's beginning. `opened` must stay until `done`.
  std::optional<int> park(Opened& opened, const Request& request, Ticket ticket,
                          Completion done) noexcept;

  /// What would refuse the request, or nothing. Returns 0 and fills `blocker`, or an errno of the
  /// backing, as try_now(). Looks at granted locks only, then at the backing.
  int test(const Request& request, std::optional<Blocker>& blocker) noexcept;

  /// What outsiders hold on the backing that would refuse `mode`, by the kind of lock it is there.
  /// Empty where the backing cannot tell.
  void outsiders(const Range& range, Mode mode, std::optional<OutsideLock>& record,
                 std::optional<OutsideLock>& flock) const noexcept;

  /// close(2) by a process of any descriptor of this file: drops the locks of that process.
  void close_by_process(std::uint64_t cookie) noexcept;

  /// The last close of an open file: drops the locks of every owner that belongs to it, and ends
  /// what they wait for with EBADF.
  void close(Opened& opened) noexcept;

  /// True when nothing is granted, parked or under way here.
  bool quiet() const noexcept;

  /// Takes `range` away from `owner` as if it had unlocked: the backing is lowered, waiters get
  /// their turn. The owner is not told. Returns 0; ENOENT when it holds nothing there; ENOLCK for
  /// want of memory (nothing has changed). `taken`: the bounds of what it held there.
  int revoke(const OwnerId& owner, const Range& range, Range& taken) noexcept;

  /// Appends up to `limit` granted locks to `out`, in order of mode and first byte, and moves
  /// `mark`. Returns whether there may be more. Holds the file for one page only. May throw
  /// std::bad_alloc.
  bool locks_page(PageMark& mark, std::size_t limit, std::vector<LockView>& out) const;
  /// The same for parked requests, in order of the first byte.
  bool waiters_page(PageMark& mark, std::size_t limit, std::vector<WaitView>& out) const;

  /// The backing may carry anything by now (see Backing::set()): has it carry what is granted.
  void carry_anew() noexcept;

  /// Compares what is granted with what the backing says it holds (Backing::inspector()) and
  /// appends up to `limit` differences. Where a wait for an outsider is under way, the backing may
  /// hold more. The file is held while what is granted is collected, and while the backing is read
  /// only when that is short and the locks change too fast otherwise. May throw std::bad_alloc.
  Audit audit(std::size_t limit, std::vector<Difference>& out) const;

  /// Lists what is granted, in order of the first byte. May throw std::bad_alloc.
  std::vector<LockView> locks() const;
  /// Lists what is parked, in order of arrival. May throw std::bad_alloc.
  std::vector<WaitView> waiters() const;

  /// Verifies the invariants. Returns nullptr or what is broken.
  const char* check() const;

 private:
  friend class LockManager;
  friend struct Waiter;

  /// Why an attempt did not end in a grant.
  enum class Verdict : std::uint8_t {
    kGranted,
    kBehind,    ///< an earlier waiter comes first
    kBlocked,   ///< a granted lock is in the way
    kCollides,  ///< an OutsideWait must end first
    kOutside,   ///< an outsider is in the way
    kFailed,    ///< an errno
  };
  struct Attempt {
    Verdict verdict = Verdict::kFailed;
    int error = 0;                     ///< kFailed
    Waiter* ahead = nullptr;           ///< kBehind
    OutsideWait* collision = nullptr;  ///< kCollides
    bool recalls = false;              ///< kCollides: nothing else is known to stand in the way
    bool yields = false;               ///< kOutside: those who wait outside come first
    bool guard = false;                ///< kOutside: it is the bypass guard that was refused
  };

  struct ByTurn {
    using type = std::uint64_t;
    std::uint64_t operator()(const Waiter& w) const { return w.turn; }
  };
  using Worklist = bi::set<Waiter, bi::member_hook<Waiter, Waiter::WorkHook, &Waiter::work_hook>,
                           bi::key_of_value<ByTurn>>;
  /// What a public method has decided, to be announced when mutex_ is released.
  struct Outcomes {
    Worklist again;             ///< waiters whose situation may have changed
    Waiter::PeerList finished;  ///< waiters whose completion is due
    bool yields = false;        ///< outsiders were waiting for what was released: they come first
    /// Where the backing carries more than what is granted, by space.
    std::array<std::optional<Range>, kSpaces.size()> lowered;
  };
  class WaitingOwners;
  /// What is granted in a space, for its backing.
  class CarriedIn final : public Backing::Carried {
   public:
    CarriedIn(const FileLocks& file, Space space) : file_(file), space_(space) {}
    void for_each(const std::function<bool(const Range&, Mode)>& visit) const override;

   private:
    const FileLocks& file_;
    const Space space_;
  };

  // -- looking ---------------------------------------------------------------------------------
  const Lock* find_conflict(const Party& party, const Owner* self, const Range& range,
                            Mode mode) const;
  const Lock* find_conflict_in(const LockTree& tree, const Party& party, const Owner* self,
                               const Range& range) const;
  /// Calls visit(lock) for every lock in the way of such a request, until it returns false.
  template <typename Visit>
  void for_each_conflict(const Party& party, const Owner* self, const Range& range, Mode mode,
                         const Visit& visit) const {
    const auto reach = [self](const LockTreeTraits::Summary& s) { return s.reach_without(self); };
    const auto check = [&](const Lock& l) {
      return l.owner == self || !policy_.excludes(l.owner->party(), party) || visit(l);
    };
    const LockSpace& space = space_of(party.owner);
    if (space.exclusive.for_each_overlap(range, reach, check) && mode == Mode::kExclusive) {
      space.shared.for_each_overlap(range, reach, check);
    }
  }
  Waiter* latest_ahead(const Party& party, const Caller& caller, const Range& range, Mode mode,
                       std::uint64_t before) const;
  void search_ahead(Waiter* node, const Party& party, const Range& range, Mode mode,
                    std::uint64_t before, Waiter** best) const;
  bool depends_on(const Waiter& waiter, const Party& party, const Caller& caller) const;
  bool blocked_by(const Waiter& waiter, const Party& party, const Caller& caller) const;
  bool requests_conflict(const Waiter& waiter, const Party& party, Mode mode) const;
  OutsideWait* find_collision(const Party& party, const Range& range, Mode mode) const;
  bool collides(const OutsideWait& wait, const Party& party, const Range& range, Mode mode) const;
  /// The strongest mode that owners other than `left_out` hold at `at`, and in `last` how far,
  /// within `limit`, that is certain.
  Mode mode_at(Space where, Offset at, Offset limit, const Owner* left_out, Offset* last) const;
  static bool covered(const LockSpace& space, const Range& range);
  bool outsider_refuses(Space space, const Range& range, Mode mode, bool unknown) const noexcept;

  // -- owners ----------------------------------------------------------------------------------
  Owner& get_owner(Opened& opened, const OwnerId& id, const Caller& caller);
  void drop_if_idle(Owner& owner) noexcept;
  void remove_owner(Owner& owner) noexcept;
  static void join_opened(Owner& owner, Opened& opened) noexcept;
  static void leave_opened(Owner& owner) noexcept;

  // -- granting and releasing ------------------------------------------------------------------
  /// `turn` is the asker's place in the queue; `queues`: earlier waiters come first; `have`:
  /// a wait that has just taken the lock at the backing; `yields`: outsiders who wait come first.
  Attempt collision(OutsideWait& wait, const Request& request, std::uint64_t turn) const noexcept;
  Attempt attempt(Owner& owner, const Request& request, std::uint64_t turn, bool queues,
                  const OutsideWait* have, bool yields, Outcomes& out) noexcept;
  bool queues(const Request& request) const;
  std::uint64_t turn_of(const Request& request) const;
  void count_pass(const Party& party, const Request& request, std::uint64_t turn,
                  Outcomes& out) noexcept;
  void drop_refused_conversion(Owner& owner, const Request& request, Verdict verdict,
                               Outcomes& out) noexcept;
  int reserve(Owner& owner, const Range& range, Mode mode) noexcept;
  std::uint64_t growth(const Owner& owner, const Range& range, Mode mode) const;
  bool must_raise(const Owner& owner, const Range& range, Mode mode) const;
  int raise_backing(const Owner& owner, const Range& range, Mode mode) noexcept;
  void commit(Owner& owner, const Range& range, Mode mode) noexcept;
  void trim(Owner& owner, const Held& held, const Range& range) noexcept;
  /// `why`: kRelease or kRevoke, for those who watch.
  int unlock(Owner& owner, const Range& range, Outcomes& out,
             EventKind why = EventKind::kRelease) noexcept;
  void unlock_all(Owner& owner, Outcomes& out) noexcept;
  void lower_backing(Owner& owner, const Range& range) noexcept;
  void lower_to_others(const Owner& owner, const Range& part, Mode held) noexcept;
  void note_outsiders(Space space, Outcomes& out) noexcept;
  void disturb(Space space, const Range& range) noexcept;
  int set_backing(Space space, const Range& range, Mode mode, bool unlocking) noexcept;
  void report(const Range& range, Mode mode, int error, bool unlocking) noexcept;
  bool restore_backing(Space space, const Range& range) noexcept;
  void mark_stale(Space space, const Range& range) noexcept;
  void repair_backing() noexcept;
  void add(Owner& owner, const Held& held) noexcept;
  void shorten(Owner& owner, const Held& held, Offset last) noexcept;
  void remove(Owner& owner, const Held& held) noexcept;
  LockSpace& space_of(const OwnerId& id) {
    return spaces_[static_cast<std::size_t>(policy_.space_of(id.type))];
  }
  const LockSpace& space_of(const OwnerId& id) const {
    return const_cast<FileLocks*>(this)->space_of(id);
  }
  LockTree& tree_of(const Owner& owner, Mode mode) { return space_of(owner.id).tree(mode); }
  const LockTree& tree_of(const Owner& owner, Mode mode) const {
    return const_cast<FileLocks*>(this)->tree_of(owner, mode);
  }
  /// The exclusive trees of all spaces, then the shared ones.
  std::array<const LockTree*, 2 * kSpaces.size()> trees() const {
    return {&spaces_[0].exclusive, &spaces_[1].exclusive, &spaces_[0].shared, &spaces_[1].shared};
  }
  Backing& backing_of(Space space) const {
    return space == Space::kFlocks ? backing_->flocks() : *backing_;
  }

  // -- waiting ---------------------------------------------------------------------------------
  std::optional<int> decide_or_park(Opened& opened, const Request& request, Ticket ticket,
                                    Completion done) noexcept;
  std::optional<int> answer(Owner& owner, const Request& request, const Attempt& attempt) noexcept;
  int admit(Owner& owner, Opened& opened, const Request& request, Ticket ticket, Completion done,
            const Attempt& attempt, Outcomes& out) noexcept;
  void place(Waiter& waiter, const Attempt& attempt, Outcomes& out) noexcept;
  void wait_outside(Waiter& waiter, const Attempt& attempt, Outcomes& out) noexcept;
  std::optional<Range> outside_range(const Request& request) const;
  void outside_ended(Backing::WaitId id, int error) noexcept;
  void recall(OutsideWait& wait) noexcept;
  void count_queued(int change) noexcept;
  void detach(Waiter& waiter) noexcept;
  void finish(Waiter& waiter, int error, Outcomes& out) noexcept;
  void abandon(Waiter& waiter, int error, Outcomes& out) noexcept;
  bool reconsider(Waiter& waiter, const OutsideWait* have, bool yields, Outcomes& out) noexcept;
  void wake(const Owner& owner, const Range& range, Mode mode, Outcomes& out) noexcept;
  void settle(Outcomes& out) noexcept;
  void announce(Outcomes& out) noexcept;
  void cancel(Waiter& waiter, int error) noexcept;
  static const Waiter& front_of(const Waiter& waiter);
  void relent(LockManager::Clock::time_point now) noexcept;
  int refuse(const Request& request, Limit limit) noexcept;

  // -- reports (file_locks_report.cpp) -----------------------------------------------------------
  /// Tells those who watch, if anybody does.
  void tell(EventKind kind, const OwnerId& owner, const Caller& caller, const Range& range,
            Mode mode, const Waiter* waiter = nullptr, int error = 0) const noexcept {
    if (manager_.watched()) tell_watchers(kind, owner, caller, range, mode, waiter, error);
  }
  void tell_watchers(EventKind kind, const OwnerId& owner, const Caller& caller, const Range& range,
                     Mode mode, const Waiter* waiter, int error) const noexcept;
  void tell_end(const Waiter& waiter, int error) const noexcept;
  void tell_released(EventKind why, const Owner& owner, const Range& range) const noexcept;
  bool closes_cycle(const Owner& owner, const Request& request) const;
  bool lease_ended(const Lock& lock, const Waiter& waiter,
                   LockManager::Clock::time_point now) const;
  std::uint64_t waiters_for(const Lock& lock, std::uint64_t enough) const;
  const Lock* find_ended_lease(LockManager::Clock::time_point now, const Waiter** waiter) const;
  void break_leases(LockManager::Clock::time_point now) noexcept;
  Mode strongest() const;
  OutsideWait* find_guard_collision(Mode mode) const;
  int raise_guard(Mode mode, const OutsideWait* have) noexcept;
  void set_guard(bool anew) noexcept;
  void flock_wait_ended(const OutsideWait& wait, bool used) noexcept;
  bool move_flocks(const Policy& to) noexcept;
  void switch_policy(const Policy& to, PolicySwitch& report) noexcept;
  void refuse_cycles(PolicySwitch& report) noexcept;
  void deadlock_edges(const Party& party, const Owner* self, const Range& range, Mode mode,
                      std::vector<WaitGraph::Node>& out) const;

  const char* check_locks() const;
  const char* check_waiters() const;
  void verify() const noexcept;

  LockManager& manager_;
  const FileKey key_;
  const std::unique_ptr<Backing> backing_;

  mutable std::mutex mutex_;  ///< guards all that follows
  Policy policy_;
  std::array<LockSpace, kSpaces.size()> spaces_;
  OwnerTable<Owner> owners_;
  IntervalTree<QueueTreeTraits> queue_;
  IntervalTree<BlockedTreeTraits> blocked_;
  std::vector<std::unique_ptr<OutsideWait>> outside_;
  std::uint64_t next_arrival_ = 1;
  PassBound passes_;
  Mode guard_ = Mode::kNone;   ///< the flock that the backing carries as a bypass guard
  std::uint16_t epoch_ = 0;    ///< how often the policy was switched
  std::uint64_t queued_ = 0;   ///< waiters that are kBehind or kAside: see relent()
  std::uint64_t changes_ = 0;  ///< of what is granted, carried or waited for outside; for audit()
  LockManager::Clock::duration patience_;  ///< see relent()
};

}  // namespace lockmgr
