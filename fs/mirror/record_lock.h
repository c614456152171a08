/// The kernel's record locks in the manager's terms.
#pragma once

#include <fcntl.h>

#include <atomic>
#include <chrono>

#include "lockmgr/range.h"

namespace lockfs {

/// How long an outsider who waits gets to take a lock that was released.
inline constexpr std::chrono::milliseconds kOutsidersTurn{10};

/// A request for fcntl(F_OFD_*): l_pid must be 0.
inline struct flock record_lock(const lockmgr::Range& range, lockmgr::Mode mode) {
  struct flock lock {};
  switch (mode) {
    case lockmgr::Mode::kNone:
      lock.l_type = F_UNLCK;
      break;
    case lockmgr::Mode::kShared:
      lock.l_type = F_RDLCK;
      break;
    case lockmgr::Mode::kExclusive:
      lock.l_type = F_WRLCK;
      break;
  }
  lock.l_whence = SEEK_SET;
  lock.l_start = range.first;
  lock.l_len = range.last == lockmgr::kEof ? 0 : range.last - range.first + 1;
  return lock;
}

/// The mode of an l_type.
inline lockmgr::Mode mode_of(short type) {
  if (type == F_RDLCK) return lockmgr::Mode::kShared;
  return type == F_WRLCK ? lockmgr::Mode::kExclusive : lockmgr::Mode::kNone;
}

/// The bytes that a struct flock with l_whence SEEK_SET names. The kernel gives l_len 0 for "to the
/// end" and otherwise a positive length.
inline lockmgr::Range range_of(const struct flock& lock) {
  return {lock.l_start, lock.l_len == 0 ? lockmgr::kEof : lock.l_start + lock.l_len - 1};
}

/// Waits for the lock and takes it with the open file description of `fd`; on a thread of
/// WaitThreads. `yield_first`: outsiders who wait for it already get a moment to take it. Returns 0
/// or an errno, EINTR once `recalled`.
int wait_for_record_lock(int fd, const lockmgr::Range& range, lockmgr::Mode mode, bool yield_first,
                         const std::atomic<bool>& recalled) noexcept;

}  // namespace lockfs
