/// What /proc/locks tells of the file locks of this machine. It lists all of them, so reading it
/// costs time in proportion to how many there are, and up to 20 ms in any case. On a thread of the
/// request loop that gives up the lead. See also OutsiderWatch.
///
/// The device is left out of comparisons: for some filesystems (btrfs) it is not the one that
/// stat(2) shows, and a mistaken yes costs only a moment.
///
/// Thread safety: from any thread.
#pragma once

#include <sys/types.h>

#include <optional>
#include <vector>

#include "lockmgr/backing.h"

namespace lockfs {

/// The inodes on which anybody waits for a lock, in order. None when /proc/locks cannot be read.
/// May throw std::bad_alloc.
std::vector<ino_t> inodes_waited_for();

/// A flock on inode `ino` that another process holds and that refuses `mode`.
std::optional<lockmgr::OutsideLock> foreign_flock(ino_t ino, lockmgr::Mode mode);

}  // namespace lockfs
