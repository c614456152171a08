/// The locks of one file: who holds what, who waits for what, and what the backing carries.
///
/// This class is the conductor: it tells the story of a request and leaves the work to four parts,
/// each with invariants of its own and none knowing this class.
///
///   granted  who holds what: the graph of bytes
///   queue    who stands behind whom, and whose turn it is: the graph of waiting
///   outside  waits for outsiders at the backing, and who depends on them
///   mirror   what the backing carries
///
/// The story: attempt() looks at the queue, what is granted, the waits outside, the limits, and the
/// backing, in this order, and either grants or says what stands in the way. place() puts a waiter
/// where that will move it (Waiter). Whatever changes the file puts those whom it may move on the
/// worklist of its Outcomes; settle() looks at them again, in the order of their turns; announce()
/// calls the completions, with no mutex of a file held. A Change makes that so for every public
/// method.
///
/// Beside it: leases, policy_switch and deadlock (the search over all files); reports and pages say
/// what is there.
///
/// Where there is a Journal, what is granted outlives the process. The next one makes a FileLocks
/// with the journal and, before anything else happens on it, puts back each lock that is written
/// down, in any order (restore()), then the change that had begun and not ended, if there is one
/// (finish_change()), and has the backing carry the outcome (restored()); then it parks again
/// whoever waited, in the order in which they were parked (park_again()). It may die at any instant
/// of that, too.
///
/// Thread safety: all public methods may be called from any thread, but for begin_with(), restore()
/// and finish_change(); each takes mutex_ that looks at more than key() and backing(), but for
/// announce(). None but search(), its two steps, audit() and restored() takes longer than a
/// non-blocking call of the backing.
///
/// Invariants (check() verifies them; so does each change, where LOCKMGR_CHECK_INVARIANTS is
/// defined, while the manager has few locks): those of the parts, and
///  1. A parked request is in the queue and in exactly one of the places of Waiter: in the list or
///     tree of that place, and in no other.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "lockmgr/backing.h"
#include "lockmgr/clock.h"
#include "lockmgr/context.h"
#include "lockmgr/granted.h"
#include "lockmgr/journal.h"
#include "lockmgr/mirror.h"
#include "lockmgr/outcomes.h"
#include "lockmgr/outside.h"
#include "lockmgr/owner.h"
#include "lockmgr/policy.h"
#include "lockmgr/policy_switch.h"
#include "lockmgr/queue.h"
#include "lockmgr/range.h"
#include "lockmgr/reports.h"
#include "lockmgr/views.h"
#include "lockmgr/waiter.h"

namespace lockmgr {

class Outsiders;

/// What the backing did not give when a request that is to wait was tried: it need not be asked
/// again to park the request, since a wait begins with that question. For the next call about the
/// request.
enum class Refusal : std::uint8_t {
  kNone,   ///< nothing; or the backing was not asked
  kLock,   ///< the lock itself
  kGuard,  ///< the bypass guard
};

class FileLocks final : public std::enable_shared_from_this<FileLocks>, public RegisteredFile {
 public:
  /// `context` must outlive the object. To be entered in its registry before others know of it; see
  /// LockManager::open_file().
  FileLocks(Context& context, const FileKey& key, std::unique_ptr<Backing> backing,
            std::unique_ptr<Journal> journal = nullptr);
  /// REQUIRES: every Opened is closed and nothing is parked.
  ~FileLocks();
  FileLocks(const FileLocks&) = delete;
  FileLocks& operator=(const FileLocks&) = delete;

  const FileKey& key() const { return key_; }
  const Backing& backing() const { return mirror_.backing(); }

  // -- requests ----------------------------------------------------------------------------------
  /// Decides a request (lock or unlock) at once if it can: 0 when done; EAGAIN for a conflict (only
  /// when it is not to wait); EBADF when the open mode forbids it; ENOLCK for a limit or want of
  /// memory; EINPROGRESS when the backing does not answer (only when it is not to wait; ask again
  /// after carry_anew()); an errno of the backing. Nothing: it must wait; call park(), with what
  /// was put into `refusal`.
  [[nodiscard]] std::optional<int> try_now(Opened& opened, const Request& request,
                                           Refusal* refusal = nullptr) noexcept;

  /// Decides a request, or parks it: then returns nothing and calls `done` once. Besides the
  /// results of try_now(): EDEADLK when it would close a cycle that the policy looks for. `ticket`
  /// is for cancel(); it is valid from this call's beginning. `opened` must stay until `done`.
  /// `refusal`: of a try_now() just before.
  [[nodiscard]] std::optional<int> park(Opened& opened, const Request& request, Ticket ticket,
                                        Completion done, Refusal refusal = Refusal::kNone) noexcept;

  /// What would refuse the request, or nothing: of all that would, what blocks the first byte.
  /// Returns 0 and fills `blocker`, or an errno of the backing, as try_now(). Looks at granted
  /// locks only, then at the backing. Mode::kNone asks for the first lock of the asker's own, as
  /// F_OFD_GETLK with F_UNLCK does (posix_test_locks_conflict()).
  [[nodiscard]] int test(const Request& request, std::optional<Blocker>& blocker) noexcept;

  /// What outsiders hold on the backing that would refuse `mode`, by the kind of lock it is there.
  /// Empty where the backing cannot tell.
  void outsiders(const Range& range, Mode mode, std::optional<OutsideLock>& record,
                 std::optional<OutsideLock>& flock) const noexcept;

  /// close(2) by a process of any descriptor of this file: drops the locks of that process.
  void close_by_process(std::uint64_t cookie) noexcept {
    close_owner({OwnerType::kProcess, cookie});
  }
  /// Drops the locks of an owner that has gone.
  void close_owner(const OwnerId& id) noexcept;

  /// The last close of an open file: drops the locks of every owner that belongs to it, and ends
  /// what they wait for with EBADF.
  void close(Opened& opened) noexcept;

  /// True when nothing is granted, parked or under way here.
  bool quiet() const noexcept;

  /// Takes `range` away from `owner` as if it had unlocked: the backing is lowered, waiters get
  /// their turn. The owner is not told. Returns 0; ENOENT when it holds nothing there; ENOLCK for
  /// want of memory (nothing has changed). `taken`: the bounds of what it held there.
  [[nodiscard]] int revoke(const OwnerId& owner, const Range& range, Range& taken) noexcept;

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

  // -- what a process before had -----------------------------------------------------------------
  /// Puts back a lock that is written down in the journal as `record`, without asking the policy,
  /// the limits (it is charged all the same) or the backing. `opened`: the open file that the entry
  /// names. Its caller counts as the one who asked last for all that the owner has, so the record
  /// of the latest is to come last where that matters. Where records of an owner overlap, as a
  /// change that did not end leaves them, what they say becomes one and the journal is kept right:
  /// so `record`, or others that were put back before, may be gone then. Returns 0, or ENOLCK for
  /// want of memory: then nothing has changed.
  /// REQUIRES: the FileLocks has a journal, and nothing has happened on it but this.
  [[nodiscard]] int restore(Opened& opened, const Journal::Entry& entry,
                            Journal::Record record) noexcept;
  /// Makes the change that was announced last and had not ended, and ends it in the journal.
  /// Returns 0, or ENOLCK for want of memory: then nothing has changed. REQUIRES: all that was
  /// written down has been put back by restore(), and nothing else has happened.
  [[nodiscard]] int finish_change(const OwnerId& owner, const Range& range, Mode mode) noexcept;
  /// All is put back. Whatever the backing carries now, it is told to carry what is granted, as by
  /// carry_anew(), with few calls where it does already. To be called once, under the policy in
  /// force, before anything else but restore() and finish_change(); also when nothing was put back,
  /// for the backing may carry what was just about to be granted or had been released.
  void restored() noexcept;
  /// As park(), for a request that had been parked by a process before: it has waited since
  /// `since`, and no limit on waiting refuses it; nor does it count as a wait once more, or cost
  /// the owner what it converts. REQUIRES: restored() was called, and those who were parked here
  /// before it have been parked again.
  [[nodiscard]] std::optional<int> park_again(Opened& opened, const Request& request, Ticket ticket,
                                              Completion done, Clock::time_point since) noexcept;

  // -- for the LockManager -----------------------------------------------------------------------
  /// The policy of a file on which nothing has happened yet.
  void begin_with(const Policy& policy) noexcept { granted_.begin_with(policy); }
  /// When the completion of one that waited outside is called.
  enum class Answer : std::uint8_t {
    kOnceWithdrawn,  ///< when the backing has withdrawn the wait, or by relent()
    kAtOnce,
  };
  /// Ends the wait of a parked request; one that was decided before is left alone, but answered if
  /// it still waits for that and is to be at once.
  void cancel(Waiter& waiter, int error, Answer when) noexcept;
  /// See LockManager::relent().
  void relent(Clock::time_point now) noexcept;
  /// Breaks the locks whose lease has ended (Policy::has_lease()).
  void break_leases(Clock::time_point now) noexcept;
  /// Follows another policy, and adds to `report` what came of it, and to `due` who is to be
  /// announced. REQUIRES: Context::parking is held.
  void switch_policy(const Policy& to, PolicySwitch& report, Waiter::PeerList& due) noexcept;
  /// Refuses parked requests that are in a cycle, the latest first. REQUIRES: Context::parking is
  /// held.
  void refuse_cycles(PolicySwitch& report, Waiter::PeerList& due) noexcept;
  /// Looks whether a parked request closes a cycle, and refuses it then. Returns false when that
  /// cannot be told, since locks came and went meanwhile. Takes long where many wait; holds mutexes
  /// for longer than one waiter's edges take only to look again at a cycle that was found. May
  /// throw std::bad_alloc.
  [[nodiscard]] bool search(Waiter& waiter);
  /// The two steps of search(), also for cycles through outsiders (null: nobody is seen outside).
  [[nodiscard]] WaitGraph::Nodes find_cycle(const Waiter& waiter, const Outsiders* outsiders);
  bool refuse_in_cycle(Waiter& waiter, WaitGraph::Nodes cycle, const Outsiders* outsiders);
  /// Calls the completions of those who are done. REQUIRES: the caller holds no mutex of this
  /// library.
  static void announce(Waiter::PeerList& due) noexcept;

 private:
  friend class WaitingOwners;

  class Change;

  /// What an attempt came to.
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
    bool unanswered = false;           ///< kOutside: whatever is missing, its answer is awaited
  };
  /// What an attempt is made for.
  struct Turn {
    std::uint64_t turn = 0;             ///< the asker's place in the queue
    bool queues = false;                ///< earlier waiters come first
    const OutsideWait* have = nullptr;  ///< it has just taken the lock at the backing
    bool yields = false;                ///< outsiders who wait come first
    Refusal refusal = Refusal::kNone;   ///< what is known to be refused
  };
  /// What park() or park_again() was told beside the request.
  struct Parking {
    Ticket ticket = 0;
    Completion done;
    Refusal refusal = Refusal::kNone;
    std::optional<Clock::time_point> since;  ///< it was parked before, by another process
  };

  // All below: REQUIRES mutex_ held, but for decide_or_park() and outside_ended(), which take it.

  // -- a request: file_locks.cpp, in the order in which things happen -----------------------------
  [[nodiscard]] int unlock_now(const Request& request, Outcomes& out) noexcept;
  static Refusal refusal_of(const Attempt& attempt);
  template <typename Waits>
  [[nodiscard]] std::optional<int> decide(Opened& opened, const Request& request,
                                          const Parking& parking, Outcomes& out,
                                          const Waits& waits);
  Attempt attempt(Owner& owner, const Request& request, const Turn& turn, Outcomes& out) noexcept;
  Attempt collision(OutsideWait& wait, const Request& request, std::uint64_t turn) const noexcept;
  void drop_refused_conversion(Owner& owner, const Request& request, Verdict verdict,
                               Outcomes& out) noexcept;
  [[nodiscard]] std::optional<int> answer(Owner& owner, const Request& request,
                                          const Attempt& attempt) noexcept;
  [[nodiscard]] std::optional<int> park(Opened& opened, const Request& request,
                                        Parking parking) noexcept;
  [[nodiscard]] std::optional<int> decide_or_park(Opened& opened, const Request& request,
                                                  Parking& parking) noexcept;
  [[nodiscard]] int admit(Owner& owner, Opened& opened, const Request& request, Parking& parking,
                          const Attempt& attempt, Outcomes& out) noexcept;
  void place(Waiter& waiter, const Attempt& attempt, Outcomes& out) noexcept;
  void wait_outside(Waiter& waiter, const Attempt& attempt, Outcomes& out) noexcept;
  [[nodiscard]] int begin_wait(Waiter& waiter, Space space, const Range& range,
                               bool yields) noexcept;
  void outside_ended(Backing::WaitId id, WaitEnd end) noexcept;
  bool look_again(Waiter& waiter, OutsideWait* have, bool yields, Outcomes& out) noexcept;
  bool is_guard(const OutsideWait& wait) const;
  void give_back(OutsideWait& wait) noexcept;
  [[nodiscard]] int release(Owner& owner, const Range& range, Outcomes& out,
                            EventKind why = EventKind::kRelease) noexcept;
  void release_all(Owner& owner, Outcomes& out) noexcept;
  void commit(Owner& owner, const Range& range, Mode mode) noexcept;
  void note_outsiders(Space space, Outcomes& out) noexcept;
  void detach(Waiter& waiter) noexcept;
  void finish(Waiter& waiter, int error, Outcomes& out) noexcept;
  void abandon(Waiter& waiter, int error, Answer when, Outcomes& out) noexcept;
  void settle(Outcomes& out) noexcept;
  bool may_pass(const Waiter& waiter, Clock::time_point now) const noexcept;

  bool closes_cycle(const Owner& owner, const Request& request, std::uint64_t most,
                    bool& is_open) const;
  void recall(OutsideWait& wait) const noexcept {
    Outside::recall(wait, mirror_.backing(wait.space));
  }
  /// How long a waiter stands behind one that stands still before it may pass.
  Clock::duration patience() const;
  /// Waiters that relent() looks at.
  std::uint64_t queued() const { return std::uint64_t{queue_.behind()} + outside_.unsettled(); }
  const Policy& policy() const { return granted_.policy(); }
  Context& context() const { return reports_.context(); }

  const char* check_place(const Waiter& waiter) const;
  const char* check_parts() const;
  void verify() const noexcept;

  const FileKey key_;
  const Reports reports_;

  mutable std::mutex mutex_;  ///< guards all that follows
  Granted granted_;
  Queue queue_;
  Outside outside_;
  [[no_unique_address]] Mirror mirror_;
  /// How often relenting has used up patience() without a regular grant in between.
  std::uint8_t relented_ = 0;
};

}  // namespace lockmgr
