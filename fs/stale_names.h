/// Keeps open() from going through a name that the kernel still believes after the file was removed
/// or replaced on the source. Told so (ESTALE), the kernel looks the whole path up again and tries
/// once more (do_filp_open()); what a thread opens then is right even if it has lost its name
/// meanwhile, or never came by one (/proc/PID/fd).
///
/// Thread safety: any. Threads whose numbers share a slot may lose each other's mark, upon which
/// one sees ESTALE.
///
/// Invariants:
///  1. A thread is marked from the ESTALE it is told until its path turns out to lead nowhere, or
///  it
///     has opened or created a file.
#pragma once

#include <sys/types.h>

#include <array>
#include <atomic>

namespace lockfs {

class StaleNames {
 public:
  /// Whether `thread` must be told ESTALE, which opens a file with `links` names; marks it if so.
  bool refuses(pid_t thread, nlink_t links) noexcept {
    if (links > 0 || is_marked(thread)) {
      forget(thread);
      return false;
    }
    mark(thread);
    return true;
  }

  /// ESTALE is told for another reason.
  void mark(pid_t thread) noexcept { slot(thread).store(value(thread), std::memory_order_relaxed); }

  /// The thread's path leads nowhere, or it has got its file.
  void forget(pid_t thread) noexcept {
    if (is_marked(thread)) slot(thread).store(0, std::memory_order_relaxed);
  }

 private:
  /// Never 0, although threads of other pid namespaces are all number 0.
  static pid_t value(pid_t thread) noexcept { return thread + 1; }
  std::atomic<pid_t>& slot(pid_t thread) noexcept {
    return slots_[static_cast<std::size_t>(thread) % slots_.size()];
  }
  bool is_marked(pid_t thread) noexcept {
    return slot(thread).load(std::memory_order_relaxed) == value(thread);
  }

  std::array<std::atomic<pid_t>, 1024> slots_{};
};

}  // namespace lockfs
