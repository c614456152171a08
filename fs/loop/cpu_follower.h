/// Brings the thread that answers requests to the CPU of a client that makes them one after the
/// other. Each of the two then sleeps while the other works; on different CPUs every step wakes a
/// halted CPU, which costs ten times the rest of the call in a virtual machine.
///
/// The scheduler would part them again at once: a task that wakes is put on an idle CPU
/// (select_idle_sibling()). So while the client goes on asking, the answering thread stays on its
/// CPU, and runs there with the policy SCHED_IDLE: a CPU with nothing else counts as idle, hence
/// the client is woken on it. Such a thread starves beside any other work, so this ends as soon as
/// somebody else asks, the client pauses or the thread stops leading; and a second thread must look
/// after it meanwhile, and set it free.
///
/// Thread safety: note() and thread_changed() are called by one thread at a time, the leader of a
/// request loop, after start(); the others by any thread.
///
/// Invariants:
///  1. A thread that is bound is named in `bound_` before it reads the next request. Whoever takes
///     it out of there sets it free.
#pragma once

#include <sched.h>
#include <sys/types.h>

#include <atomic>
#include <chrono>
#include <ctime>

#include "fs/loop/cpu_finder.h"

namespace lockfs {

class CpuFollower {
 public:
  using Clock = std::chrono::steady_clock;

  /// Whether any thread of the machine runs besides the calling one.
  static bool others_run() noexcept;

  /// Tries whether threads may be bound and set free again; else they only follow. None is bound
  /// while `busy()`: requests are slow then because others work, beside whom it would starve.
  explicit CpuFollower(bool (*busy)() noexcept = &others_run);

  /// Starts what looks for the caller's CPU.
  void start() noexcept { finder_.start(); }

  /// To be called by the thread that will carry out the request just read; `caller` is the thread
  /// that made it, `now` the time. Has the caller's CPU looked up, and moves there at the next slow
  /// request, only after several requests in a row from one caller that came about as slowly as
  /// halted CPUs make them, and ever more seldom when that does not help. Does not wait. Returns
  /// whether the thread is bound from now on: rescue() must be called.
  bool note(pid_t caller, Clock::time_point now) noexcept;

  /// Whether answered() is to be called when the request has been carried out: what takes long
  /// itself would else look like what comes slowly.
  [[nodiscard]] bool wants_end() const noexcept { return wants_end_; }
  void answered(Clock::time_point now) noexcept { last_ = now; }

  /// Another thread has become the one that calls note(): it may look at once where it should be.
  void thread_changed() noexcept { again_ = {}; }

  /// Whether some thread is bound.
  bool binds() const noexcept { return bound_.load() != 0; }

  /// Whether a caller's CPU is being looked up.
  bool looks() const noexcept { return finder_.busy(); }

  /// The CPU time that the bound thread has had so far; of no use while none is bound.
  std::chrono::nanoseconds cpu_time() const noexcept;

  /// Sets the bound thread free, if there is one.
  void set_free() noexcept;

  /// The same because it does not get to run; none is bound for some time. Called by one thread.
  void rescue(Clock::time_point now) noexcept;

  /// The calling thread is the one that looks after the bound one. It is kept off the CPU of that:
  /// next to it, it would keep the CPU from counting as idle.
  void look_after() noexcept;
  /// It has nothing to look after for now, and may be anywhere.
  void rest() noexcept;

  /// Sets the calling thread free: one that was started by a bound thread inherits its state.
  static void start_free() noexcept;

 private:
  bool follow(int cpu, bool bind) noexcept;
  void keep_off(int cpu, cpu_set_t elsewhere) noexcept;

  bool (*const busy_)() noexcept;
  bool may_bind_ = false;  ///< constant after construction

  pid_t caller_ = 0;         ///< of the last request
  Clock::time_point read_;   ///< when it was read
  Clock::time_point last_;   ///< when it was answered, where that is known, or read
  bool wants_end_ = false;   ///< see wants_end()
  int slow_ = 0;             ///< requests in a row that were slow to come; see kEnough
  int quick_ = 0;            ///< what the requests in a row count that came at once; see kHelped
  int in_vain_ = 0;          ///< looks in a row that have not helped; see kPatience
  Clock::time_point again_;  ///< no look before
  CpuFinder finder_;
  Clock::time_point asked_;  ///< when it was asked last

  std::atomic<pid_t> bound_{0};               ///< the thread, or 0
  std::atomic<clockid_t> cpu_clock_{0};       ///< of the thread that was bound last
  std::atomic<Clock::rep> unbound_until_{0};  ///< none is bound before, on Clock

  std::atomic<pid_t> keeper_{0};   ///< the thread of look_after()
  std::atomic<int> kept_off_{-1};  ///< the CPU that it may not use

  // Used by rescue() only.
  Clock::time_point rescued_;  ///< when it was called last with effect
  Clock::duration unbound_for_{};
};

}  // namespace lockfs
