/// The open file descriptions through which the daemon holds and awaits OFD locks on one file: the
/// several owners of a lockmgr::Backing, whose rules stand in lockmgr/backing.h.
///
/// Shared locks are held through a read-only description and exclusive ones through a writable one,
/// which is there only while there is something for it to hold: an open for writing breaks leases
/// and delegations, keeps a program on the source from being run (ETXTBSY) and looks like a writer
/// to those who watch the file. None is ever the descriptor of a caller's open file: those are
/// registered with the kernel for data passthrough, which pins them, and locks on them would
/// outlive their close.
///
/// Each wait has a description of its own, and what it wins stays there: the kernel's search for
/// deadlocks follows an owner from what it holds to what it waits for, whoever asks for what
/// (posix_locks_deadlock()). Example: the daemon holds 1 for X and waits for 2, which S outside
/// holds, for Y. Were both one owner, S would be refused 1 with EDEADLK.
///
/// A shared lock goes from one description to another without a gap: it is always granted beside
/// shared ones. An exclusive one cannot go; it stays until it is let go of or shared.
///
/// They outlive the daemon (DescriptorLog), and the next one adopts them: what each holds it reads
/// in fdinfo, so that a set() that finds all as it should be makes no call, and one that does not
/// puts it right. (Measured: 12 us a description, and 0.5 us a call. So it reads where there are
/// many locks.) A death may have left more than one operation ever leaves: shared bytes held
/// twice, which one of the two is to let go of (surplus_), what a wait has won, descriptions that
/// hold nothing. Where it does not read the whole file is in doubt at first: the first set() on a
/// stretch makes every description that may hold something there take exactly the mode or let go,
/// and no byte is free meanwhile that is to stay locked.
///
/// Thread safety: all methods may be called from any thread. They make calls to the backing
/// filesystem with the mutex held, except where a wait sits.
///
/// Invariants:
///  1. held_ is what the descriptions hold, but for a wait that has its lock and has not said so,
///     for surplus_, and where doubt_ is.
///  2. A description that waits holds nothing but what it waits for, and nothing exclusively.
///  3. The description for shared locks holds no exclusive ones.
///  4. A description that neither holds nor waits is closed, but for the one for shared locks and,
///     while somebody has the file open for writing through the mount, the one for exclusive ones;
///     and but for those that were adopted, until the next set(), and while anything is in doubt.
///  5. A description is on record while it is open.
///  6. What is in surplus_ is held in shared mode, by a second description as well, the one that
///     held_ names. Before anything is taken, looked at or waited for, it is let go of.
#pragma once

#include <atomic>
#include <boost/container/small_vector.hpp>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "fs/mirror/descriptor_log.h"
#include "fs/mirror/held_ranges.h"
#include "fs/mirror/wait_threads.h"
#include "lockmgr/backing.h"

namespace lockfs {

class LockDescriptions {
 public:
  using WaitId = lockmgr::Backing::WaitId;

  /// `threads` carry out wait(). `writers`: how many open files of the mount may write to the file;
  /// null: the description for exclusive locks stays once it is there. Both must outlive the object
  /// but for a call of set() or test() that is still under way, where `writers` is null. `log`,
  /// null for none, must outlive that, too; `nodeid` is the file's there.
  LockDescriptions(WaitThreads& threads, const std::atomic<std::uint32_t>* writers,
                   DescriptorLog* log = nullptr, std::uint64_t nodeid = 0)
      : threads_(threads), writers_(writers), log_(log), nodeid_(nodeid) {}
  LockDescriptions(const LockDescriptions&) = delete;
  LockDescriptions& operator=(const LockDescriptions&) = delete;

  /// Takes over what an earlier daemon has left of the file. `read`: what it holds is read in
  /// fdinfo, which shows the locks of its filesystem; else all is in doubt at first. Makes no call
  /// that could block on it. Returns 0, or ENOLCK where there is no memory; then they stay open and
  /// on record for the next daemon, which had better come soon. REQUIRES: nothing was done with the
  /// object yet. The next thing is set() for every stretch of the file, FileLocks::restored().
  int adopt(std::span<LoggedFd> left, bool read) noexcept;

  // Each returns 0 or an errno. `path_fd`: an O_PATH descriptor of the file. All may block as
  // open(2) and fcntl(2) may on the filesystem; none waits for a lock but wait().

  /// lockmgr::Backing::set(): EAGAIN when an outsider refuses it.
  int set(int path_fd, const lockmgr::Range& range, lockmgr::Mode mode) noexcept;
  /// lockmgr::Backing::test().
  int test(int path_fd, const lockmgr::Range& range, lockmgr::Mode mode,
           std::optional<lockmgr::OutsideLock>& found) noexcept;
  /// Waits until outsiders allow `mode` on `range`, and takes it. EINTR when recalled, or when
  /// something that the daemon holds came to be in the way. `yield_first`: outsiders who wait
  /// already get their turn before.
  int wait(WaitId id, int path_fd, const lockmgr::Range& range, lockmgr::Mode mode,
           bool yield_first, const std::atomic<bool>& recalled) noexcept;

  /// The last set() that was timed took so long that others should not wait for the next: the
  /// kernel looks through all locks of a file one by one (posix_lock_inode()). Does not block.
  [[nodiscard]] bool slow() const noexcept { return slow_.load(std::memory_order_relaxed); }
  /// Nothing has been opened yet, so there is nothing to let go of. Does not block.
  [[nodiscard]] bool untouched() const noexcept { return !touched_; }
  /// To be called when `writers` has become 0.
  void close_idle() noexcept;

  /// Appends what is really held to `found`, not overlapping. False when it cannot be told, also
  /// because it changes too fast. May throw std::bad_alloc.
  bool inspect(std::vector<lockmgr::CarriedLock>& found);

 private:
  using Index = std::uint32_t;
  static constexpr Index kNobody = UINT32_MAX;
  using Stretches = boost::container::small_vector<lockmgr::Range, 4>;

  struct Description {
    std::shared_ptr<const LoggedFd> fd;  ///< null: the place is free
    bool waits = false;
  };
  struct Wait {
    WaitId id = 0;
    lockmgr::Range range;
    lockmgr::Mode mode = lockmgr::Mode::kNone;
    Index by = kNobody;
    bool recalled = false;  ///< by this class
    bool won = false;       ///< what it has taken was put down
  };

  /// Bytes that two descriptions hold, and the one that is to let go of them.
  struct Surplus {
    Index by = kNobody;
    lockmgr::Range range;
  };

  // All below: REQUIRES mutex_ held.
  bool learn(Index by, const std::vector<lockmgr::CarriedLock>& locks);
  void let_go_of_surplus() noexcept;
  [[nodiscard]] bool in_doubt(const lockmgr::Range& range) const noexcept;
  int end_doubt(int path_fd, const lockmgr::Range& range, lockmgr::Mode mode);
  int make_certain(const lockmgr::Range& range, lockmgr::Mode mode);
  int keep_only(Index keeper, const lockmgr::Range& range, lockmgr::Mode mode) noexcept;
  int open(int path_fd, bool writable, Index& opened);
  int provide(int path_fd, lockmgr::Mode mode);
  void close_unused() noexcept;
  void close(Index by) noexcept;
  int take(Index by, const lockmgr::Range& range, lockmgr::Mode mode) noexcept;
  int note(const lockmgr::Range& range, lockmgr::Mode mode, Index by) noexcept;
  int move_shared(const lockmgr::Range& piece, Index from, Index to) noexcept;
  int let_go(const lockmgr::Range& range) noexcept;
  int share(int path_fd, const lockmgr::Range& range);
  int exclude(int path_fd, const lockmgr::Range& range);
  [[nodiscard]] Stretches missing(const lockmgr::Range& range, lockmgr::Mode mode, Index by) const;
  int raise(const lockmgr::Range& range, lockmgr::Mode mode) noexcept;
  [[nodiscard]] bool holds(Index by, const lockmgr::Range& range, lockmgr::Mode mode) const;
  void weaken(const lockmgr::Range& range, Index by) noexcept;
  void shared_go_home(const lockmgr::Range& range, Index from) noexcept;
  int begin(Wait& wait, int path_fd);
  int won(const Wait& wait) noexcept;
  void settle(const Wait& wait) noexcept;
  bool note_silent_winners(const lockmgr::Range& range) noexcept;
  [[nodiscard]] bool stuck(const Wait& wait, const lockmgr::Range& range) const;
  void end_stuck(const lockmgr::Range& range, lockmgr::Mode mode) noexcept;
  Index& home(lockmgr::Mode mode) {
    return mode == lockmgr::Mode::kExclusive ? exclusive_ : shared_;
  }

  WaitThreads& threads_;
  const std::atomic<std::uint32_t>* const writers_;
  DescriptorLog* const log_;
  const std::uint64_t nodeid_;
  std::atomic<bool> touched_{false};  ///< something was opened
  std::atomic<bool> slow_{false};

  std::mutex mutex_;  ///< guards what follows
  std::vector<Description> descriptions_;
  Index shared_ = kNobody;     ///< where shared locks are taken
  Index exclusive_ = kNobody;  ///< where exclusive locks are taken
  HeldRanges held_;
  std::vector<Surplus> surplus_;
  std::vector<lockmgr::Range>
      doubt_;                  ///< where adopted descriptions may hold anything; none overlap
  std::vector<Wait> waits_;    ///< under way
  std::uint32_t sets_ = 0;     ///< counts calls of set()
  std::uint64_t changes_ = 0;  ///< counts what may change the sum of the descriptions
};

}  // namespace lockfs
