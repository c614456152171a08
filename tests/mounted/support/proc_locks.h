/// The byte-range locks the kernel has on a backing file.
///
/// Thread safety: free functions without state.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <ostream>
#include <string>
#include <vector>

#include "tests/mounted/support/actor.h"

namespace lockfs::test {

inline constexpr std::int64_t kEof = INT64_MAX;

/// Bytes first..last (inclusive) and how they are locked.
struct LockedRange {
  std::int64_t first = 0;
  std::int64_t last = kEof;
  Mode mode = Mode::kShared;
  auto operator<=>(const LockedRange&) const = default;
};
std::ostream& operator<<(std::ostream& out, const LockedRange& range);

/// Granted (not waiting) POSIX and OFD locks that /proc/locks shows on the file, in order of start.
/// `path` names the backing file, not the one in the mount. The kernel hands that table out in
/// pieces, so it is only exact while no other process of the machine takes or drops locks.
std::vector<LockedRange> proc_locks_of(const std::string& path);
std::vector<LockedRange> proc_locks_of(dev_t device, ino_t inode);

/// Whether anybody waits for a lock on the backing file, as the kernel lists it: what waits in the
/// daemon sits in its call at the backing a moment later.
bool waits_at_backing(const std::string& path);

/// Locks that process `pid` (the daemon) holds through its own open files on that inode, from
/// /proc/<pid>/fdinfo: exact at any time, and without those of other processes.
std::vector<LockedRange> locks_held_by(pid_t pid, const std::string& path);
std::vector<LockedRange> locks_held_by(pid_t pid, dev_t device, ino_t inode);

/// Every lock the process holds through any of its descriptors.
std::vector<LockedRange> all_locks_held_by(pid_t pid);

/// Expects that both tables show exactly `expected` on the backing file (only the first when
/// `pid` <= 0).
::testing::AssertionResult mirror_is(pid_t pid, const std::string& path,
                                     const std::vector<LockedRange>& expected);

}  // namespace lockfs::test
