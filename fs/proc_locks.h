/// What /proc/locks tells of the file locks of this machine. It lists all of them, so reading it
/// costs time in proportion to how many there are, and up to 20 ms in any case. On a thread of the
/// request loop that gives up the lead.
///
/// The device is left out of comparisons: for some filesystems (btrfs) it is not the one that
/// stat(2) shows, and a mistaken yes costs only a moment.
///
/// Thread safety: an OutsiderLook as its owner has it; functions from any thread.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <optional>

#include "lockmgr/backing.h"

namespace lockfs {

/// Whether anybody waits for a lock on inode `ino`. False when /proc/locks cannot be read.
bool anybody_waits_on(ino_t ino);

/// A flock on inode `ino` that another process holds and that refuses `mode`.
std::optional<lockmgr::OutsideLock> foreign_flock(ino_t ino, lockmgr::Mode mode);

/// anybody_waits_on() for one file, read at most every few milliseconds, and so that reading takes
/// no more than a hundredth of the time.
class OutsiderLook {
 public:
  /// Whoever was seen gets one turn before it is looked again.
  bool anybody_waits(ino_t ino);

 private:
  bool seen_ = false;
  std::chrono::steady_clock::time_point next_look_;
};

}  // namespace lockfs
