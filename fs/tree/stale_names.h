/// Keeps open() from going through a name that the kernel still believes after the file was removed
/// or replaced on the source. Told so (ESTALE), the kernel looks the whole path up again and tries
/// once more (do_filp_open()); what a thread opens then is right even if it has lost its name
/// meanwhile, or never came by one (/proc/PID/fd).
///
/// Thread safety: any. Threads whose numbers share a slot may lose each other's mark, upon which
/// one sees ESTALE.
///
/// Invariants:
///  1. A thread is marked from the ESTALE it is told until it has opened or created a file, or its
///     path turns out to lead nowhere.
#pragma once

#include <sys/types.h>

#include <cstdint>

#include "fs/base/thread_notes.h"

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
  void mark(pid_t thread) noexcept { notes_.set(thread, Note::kMarked); }

  /// The thread's path leads nowhere, or it has got its file.
  void forget(pid_t thread) noexcept {
    if (is_marked(thread)) notes_.set(thread, Note::kNone);
  }

 private:
  enum class Note : std::uint8_t { kNone, kMarked };

  bool is_marked(pid_t thread) const noexcept { return notes_.get(thread) == Note::kMarked; }

  ThreadNotes<Note, 1024> notes_;
};

}  // namespace lockfs
