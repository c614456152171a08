/// Keeps open() from going through a name that the kernel still believes after the file was removed
/// or replaced on the source. Told so (ESTALE), the kernel looks the whole path up again and tries
/// once more (do_filp_open()); what a thread opens then is right even if it has lost its name
/// meanwhile, or never came by one (/proc/PID/fd).
///
/// An example: a thread opens "log", which the kernel believes to be A; A has no name any more,
/// since "log" is B now.
///
///   OPEN A          ESTALE; noted: the thread may open A
///   LOOKUP log      is B; noted: the thread may open B
///   OPEN B          goes through, even if B has been replaced by now; nothing is noted
///
/// A thread that was told ESTALE and does not come back is left with its note: it may open A, and
/// what it looks up next, and no other file without a name.
///
/// Thread safety: any. Threads whose numbers share a slot may lose each other's note, upon which
/// one sees ESTALE.
///
/// Invariants:
///  1. A thread opens a file without a name only after it was told ESTALE, and then only the file
///  of
///     that answer or the one that it has looked up last.
#pragma once

#include <sys/types.h>

#include <cstdint>

#include "fs/base/thread_notes.h"

namespace lockfs {

class StaleNames {
 public:
  /// Whether `thread` must be told ESTALE, which opens a file with `links` names; notes it if so.
  bool refuses(pid_t thread, nlink_t links, std::uint64_t nodeid) noexcept {
    if (links > 0 || notes_.get(thread) == note_of(nodeid)) {
      forget(thread);
      return false;
    }
    notes_.set(thread, note_of(nodeid));
    return true;
  }

  /// ESTALE is told for another reason.
  void told(pid_t thread) noexcept { notes_.set(thread, kToldOnly); }

  /// The thread has looked up a file.
  void found(pid_t thread, std::uint64_t nodeid) noexcept {
    if (notes_.get(thread) != kNone) notes_.set(thread, note_of(nodeid));
  }

  /// The thread's path leads nowhere, or it has got its file.
  void forget(pid_t thread) noexcept {
    if (notes_.get(thread) != kNone) notes_.set(thread, kNone);
  }

 private:
  using Note = std::uint32_t;
  static constexpr Note kNone = 0;
  static constexpr Note kToldOnly = 1;
  /// Files whose numbers are alike in 31 bits are taken for one another, which is a moment's harm.
  static Note note_of(std::uint64_t nodeid) noexcept {
    constexpr Note kFile = 1U << 31;
    return static_cast<Note>(nodeid ^ nodeid >> 31) | kFile;
  }

  ThreadNotes<Note, 1024> notes_;
};

}  // namespace lockfs
