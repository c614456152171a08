/// Threads that sit in fcntl(F_OFD_SETLKW), or another call that may wait, for the lock manager:
/// the one way to be told when an outsider lets a lock go, without polling. Threads are kept for
/// the next wait.
///
/// Thread safety: all methods may be called from any thread.
///
/// Invariants:
///  1. `done` of a wait that was accepted is called exactly once, on the waiting thread.
///  2. A recalled wait ends at once, with EINTR unless the lock came first.
///  3. An idle thread holds nothing for the wait that it has carried out.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <unordered_map>

#include "fs/base/unique_fd.h"
#include "lockmgr/backing.h"

namespace lockfs {

class WaitThreads {
 public:
  using WaitId = lockmgr::Backing::WaitId;

  struct Wait {
    WaitId id = 0;
    /// Does the waiting. A kick interrupts the system call it is in; returns 0, or an errno, EINTR
    /// once `recalled`. Must not throw.
    std::function<int(const std::atomic<bool>& recalled)> sit;
    /// Told what sit() returned.
    std::function<void(int error)> done;
  };

  WaitThreads() = default;
  /// REQUIRES: every wait has ended, or will without further calls.
  ~WaitThreads();
  WaitThreads(const WaitThreads&) = delete;
  WaitThreads& operator=(const WaitThreads&) = delete;

  /// Begins a wait. Returns 0, or an errno (no thread or memory to be had; `done` isn't called).
  int start(Wait wait) noexcept;

  /// An id that is none of the manager's.
  static WaitId own_id() noexcept;

  /// Ends a wait early. Unknown ids are ignored. Does not block.
  void recall(WaitId id) noexcept;

  /// Blocks until no wait is under way and nothing is held for one that has ended.
  void settle() noexcept;

 private:
  struct Job {
    Wait wait;
    std::atomic<bool> recalled{false};
    pid_t thread = 0;  ///< 0: not taken up yet; guarded by mutex_
  };

  void work();

  std::mutex mutex_;
  std::condition_variable work_;            ///< a job came, or the end
  std::condition_variable rested_;          ///< a thread left, or has nothing to do
  std::deque<std::shared_ptr<Job>> queue_;  ///< guarded by mutex_
  std::unordered_map<WaitId, std::shared_ptr<Job>> under_way_;  ///< guarded by mutex_
  unsigned threads_ = 0;                                        ///< guarded by mutex_
  unsigned idle_ = 0;                                           ///< guarded by mutex_
  bool ended_ = false;                                          ///< guarded by mutex_
};

}  // namespace lockfs
