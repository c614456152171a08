/// Calls about the locks of one file to a backing filesystem that may not answer, such as an NFS
/// server that is down. They are made one at a time on a WaitThreads thread, and whoever asks waits
/// for a moment only: a thread inside such a call cannot be interrupted but by the end of its
/// process (rpc_wait_bit_killable()), and here it must hold up nobody else.
///
/// Thread safety: all methods may be called from any thread.
///
/// Invariants:
///  1. At most one call is under way.
///  2. When run() has given a call up, `on_late` is called once, after the end of that call.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "fs/mirror/wait_threads.h"

namespace lockfs {

/// The files whose calls are overdue now. Thread-safe.
class OverdueFiles {
 public:
  void add(const std::string& name);
  void remove(const std::string& name);
  [[nodiscard]] std::vector<std::string> names() const;

 private:
  mutable std::mutex mutex_;
  std::multiset<std::string> names_;  ///< guarded by mutex_
};

class RemoteCalls : public std::enable_shared_from_this<RemoteCalls> {
 public:
  /// `threads` and `overdue` must outlive the object. `on_late` is called on a thread of `threads`.
  RemoteCalls(WaitThreads& threads, OverdueFiles& overdue, std::function<void()> on_late);

  /// What `call` returns, 0 or an errno; EINPROGRESS when that takes too long, or while an earlier
  /// call that did is still under way. `call` must own all it uses and must not throw. `name` says
  /// what to call the file in the log. May throw std::bad_alloc; then nothing was called.
  int run(std::function<int()> call, const std::function<std::string()>& name);

  /// A call is under way.
  [[nodiscard]] bool busy() const;
  /// One that run() has given up is: `on_late` will be called.
  [[nodiscard]] bool overdue() const;

  /// Waits until no call is under way, or `recalled` and nudge() was called since. Returns EINTR.
  int wait_until_idle(const std::atomic<bool>& recalled);
  void nudge();

 private:
  using Clock = std::chrono::steady_clock;

  void ended(int error);
  void tell_end(Clock::duration took) noexcept;

  WaitThreads& threads_;
  OverdueFiles& overdue_files_;
  const std::function<void()> on_late_;

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  bool busy_ = false;         ///< guarded by mutex_
  bool overdue_ = false;      ///< run() no longer waits for it; guarded by mutex_
  int result_ = 0;            ///< of the last call; guarded by mutex_
  Clock::time_point begun_;   ///< guarded by mutex_
  std::string name_;          ///< of the file, while overdue_; guarded by mutex_
  Clock::duration patience_;  ///< how long run() waits; guarded by mutex_
};

}  // namespace lockfs
