/// Brings the thread that answers requests to the CPU of a client that makes them one after
/// the other. Each of the two then sleeps while the other works; on different CPUs every step wakes
/// a halted CPU, which costs ten times the rest of the call in a virtual machine, and the scheduler
/// leaves them there (wake_affine_idle() prefers the CPU a thread ran on before, if idle). Nothing
/// is pinned: the scheduler may move both again.
///
/// Thread safety: used by one thread at a time, the leader of a request loop.
#pragma once

#include <sys/types.h>

#include <chrono>

namespace lockfs {

class CpuFollower {
 public:
  /// To be called by the thread that will carry out the request just read; `caller` is the thread
  /// that made it. Looks up the caller's CPU and moves there only after several requests in a row
  /// from one caller that came about as slowly as halted CPUs make them, and seldom.
  void note(pid_t caller) noexcept;

  /// Another thread has become the one that calls note(): it may look at once where it should be.
  void thread_changed() noexcept { again_ = {}; }

 private:
  using Clock = std::chrono::steady_clock;

  static void follow(pid_t caller) noexcept;

  pid_t caller_ = 0;         ///< of the last request
  Clock::time_point last_;   ///< when it was read
  int slow_ = 0;             ///< requests in a row that came slowly
  Clock::time_point again_;  ///< no look before
};

}  // namespace lockfs
