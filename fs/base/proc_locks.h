/// The file locks of this machine as the kernel lists them: in /proc/locks, which shows all of
/// them, and in /proc/PID/fdinfo/FD, which shows those of one open file. Shared by the daemon and
/// the programs around it, hence without anything of FUSE or of options.
///
/// Reading /proc/locks costs time in proportion to how many locks there are, and up to 20 ms in any
/// case: it waits for an RCU grace period (locks_start() takes file_rwsem for writing). On a thread
/// of the request loop that gives up the lead. See also OutsiderWatch.
///
/// inodes_waited_for() and foreign_flock() leave the device out of comparisons: for some
/// filesystems (btrfs) it is not the one that stat(2) shows, and a mistaken yes costs only a
/// moment.
///
/// Thread safety: free functions without state, from any thread.
#pragma once

#include <sys/types.h>

#include <optional>
#include <vector>

#include "lockmgr/backing.h"

namespace lockfs {

/// One line of these lists: "1: POSIX  ADVISORY  WRITE 42 fe:00:131 0 EOF", with "lock:" before it
/// in fdinfo; "1: -> POSIX ..." waits for the one above.
struct LockLine {
  enum class Type { kPosix, kOpenFile, kFlock };

  Type type = Type::kPosix;
  bool waiting = false;
  lockmgr::Mode mode = lockmgr::Mode::kShared;
  pid_t pid = 0;           ///< -1 for locks of open files
  unsigned dev_major = 0;  ///< of the superblock
  unsigned dev_minor = 0;
  ino_t ino = 0;
  lockmgr::Range range;
};

/// Nothing for lines that are no lock, and for leases, delegations and layouts.
std::optional<LockLine> parse_lock_line(const char* line) noexcept;

/// The inodes on which anybody waits for a lock, in order. None when /proc/locks cannot be read.
/// May throw std::bad_alloc.
std::vector<ino_t> inodes_waited_for();

/// The classic POSIX locks of other processes that wait for such a lock, and those waits; none of
/// those that have not stood still while the table was read, which is not of one moment. Nor of
/// processes with several threads, which may have several tables of files, and so several owners;
/// nor of the kernel's servers. Nothing if there are more than `most`. May throw std::bad_alloc.
std::vector<LockLine> posix_locks_of_waiting_programs(std::size_t most);

/// A flock on inode `ino` that another process holds and that refuses `mode`.
std::optional<lockmgr::OutsideLock> foreign_flock(ino_t ino, lockmgr::Mode mode);

/// Appends the locks that the calling process holds through its descriptor `fd` as an open file; a
/// wait is none. Returns false when the list cannot be read. May throw std::bad_alloc.
bool read_open_file_locks(int fd, std::vector<lockmgr::CarriedLock>& found);

/// Finds what flock the open file of the calling process's descriptor `fd` holds, kNone if none.
/// Returns false when the list cannot be read.
bool read_flock(int fd, lockmgr::Mode& held);

}  // namespace lockfs
