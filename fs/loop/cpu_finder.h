/// Looks up the CPU that a thread last ran on, on a thread of its own.
///
/// The kernel tells it in /proc/<tid>/stat only, which may have to wait: a process in execve(2)
/// holds exec_update_lock, which do_task_stat() takes too, while it closes its close-on-exec files,
/// that is, until we have answered FLUSH; or until the server of another mount has, which may be
/// dead.
///
/// Thread safety: start(), ask() and answer() are called by one thread at a time, busy() by any.
///
/// Invariants:
///  1. Nobody ever waits for a look. One that does not end is left behind at destruction.
#pragma once

#include <sys/types.h>

#include <memory>
#include <optional>
#include <thread>

namespace lockfs {

class CpuFinder {
 public:
  CpuFinder() = default;
  ~CpuFinder();
  CpuFinder(const CpuFinder&) = delete;
  CpuFinder& operator=(const CpuFinder&) = delete;

  /// Starts the thread; where that fails for want of memory or threads, no question is answered.
  void start() noexcept;

  /// Has the CPU of `tid` looked up, unless a look is under way.
  void ask(pid_t tid) noexcept;

  /// Whether a look is under way.
  bool busy() const noexcept;

  /// The CPU of `tid`, once, if the last look was at it and has ended and found something.
  std::optional<int> answer(pid_t tid) noexcept;

 private:
  struct Shared;
  static void work(const std::shared_ptr<Shared>& shared) noexcept;

  std::shared_ptr<Shared> shared_;  ///< with the thread, which may outlive this object
  std::thread thread_;
};

}  // namespace lockfs
