/// Who waits for locks outside the mount, as /proc/locks tells: asked when a lock that the mount
/// holds is handed over, since an outsider who came first is to have it first.
///
/// To read /proc/locks takes up to 20 ms, since the kernel waits for an RCU grace period first
/// (locks_start() takes file_rwsem for writing). So a thread looks beforehand, when somebody begins
/// to wait, and one look serves all files. A hand-over that comes before that look has ended waits
/// for it, as long as such waits take no more than a hundredth of the time; otherwise the last look
/// decides. The thread itself spends no more than a hundredth of its time on the CPU.
///
/// Thread safety: all methods may be called from any thread; an OutsiderLook as its owner has it.
///
/// Invariants:
///  1. Look n has begun after the begin() that returned n.
///  2. The thread runs, or nobody waits for a look.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace lockfs {

class OutsiderWatch {
 public:
  using Clock = std::chrono::steady_clock;
  /// The name of a look; they are counted from 1.
  using Look = std::uint64_t;

  struct Result {
    Look look = 0;  ///< 0: there was none yet
    bool waits = false;
  };

  OutsiderWatch() = default;
  /// REQUIRES: no call is under way, and none comes.
  ~OutsiderWatch();
  OutsiderWatch(const OutsiderWatch&) = delete;
  OutsiderWatch& operator=(const OutsiderWatch&) = delete;

  /// Asks for a look that begins from now on. Does not block. Returns its name.
  Look begin() noexcept;

  /// Whether anybody waited for a lock on inode `ino` at the latest look, which is `wanted` or a
  /// later one unless waits have taken too long of late. May block, at most 50 ms. Asks for another
  /// look if the latest is not recent, so that the next answer is not old.
  Result answer(ino_t ino, Look wanted) noexcept;

 private:
  void run() noexcept;
  bool ask() noexcept;

  std::mutex mutex_;
  std::condition_variable changed_;
  bool ended_ = false;               ///< guarded by mutex_
  bool asked_ = false;               ///< a look is to begin; guarded by mutex_
  Look begun_ = 0;                   ///< guarded by mutex_
  Look finished_ = 0;                ///< guarded by mutex_
  std::vector<ino_t> waiting_;       ///< as of the look finished_, sorted; guarded by mutex_
  Clock::time_point finished_at_;    ///< guarded by mutex_
  Clock::time_point next_look_;      ///< none begins before; guarded by mutex_
  Clock::time_point may_wait_from_;  ///< guarded by mutex_
  std::thread thread_;               ///< started by the first begin(); guarded by mutex_
};

/// What one file's hand-overs make of it.
class OutsiderLook {
 public:
  /// `watch` must outlive the object.
  OutsiderLook(OutsiderWatch& watch, ino_t ino) : watch_(watch), ino_(ino) {}

  /// Somebody begins to wait for what the mount holds: anybody_waits() will be asked.
  void expect() noexcept { wanted_ = watch_.begin(); }

  /// Whether outsiders wait. Whoever was seen gets one turn before it is looked again.
  bool anybody_waits() noexcept;

 private:
  OutsiderWatch& watch_;
  const ino_t ino_;
  OutsiderWatch::Look wanted_ = 0;
  OutsiderWatch::Look used_ = 0;  ///< the look of the last answer
};

}  // namespace lockfs
