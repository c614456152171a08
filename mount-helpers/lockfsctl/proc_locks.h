/// The kernel's own lists of locks: /proc/locks, and the same lines in /proc/PID/fdinfo/FD.
///
/// Thread safety: free functions without state.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

namespace lockfs::ctl {

/// One line: "1: POSIX  ADVISORY  WRITE 42 fe:00:131 0 EOF"; "1: -> POSIX ..." waits for the first.
struct ProcLock {
  std::string type;  ///< POSIX, OFDLCK, FLOCK (leases and the like are left out)
  bool exclusive = false;
  std::string device;  ///< "MAJOR:MINOR", decimal; of the superblock
  std::uint64_t inode = 0;
  std::int64_t first = 0;
  std::int64_t last = INT64_MAX;
  bool waiting = false;
  pid_t pid = 0;  ///< -1 for OFD locks

  /// What /proc/locks and fdinfo both say of one lock.
  using Name =
      std::tuple<std::string, bool, std::string, std::uint64_t, std::int64_t, std::int64_t, pid_t>;
  [[nodiscard]] Name name() const { return {type, exclusive, device, inode, first, last, pid}; }
};

/// Nothing for lines that are no lock, and for leases, delegations and layouts.
std::optional<ProcLock> parse_proc_lock(const std::string& line);

/// What cannot be read is empty. Beside programs that lock, a long table (more than a page) may
/// show a lock twice, or not.
std::vector<ProcLock> read_proc_locks(const std::string& path = "/proc/locks");

/// A lock that a process holds through one of its descriptors.
struct HeldLock {
  ProcLock lock;
  pid_t pid = 0;
  std::string path;  ///< of the descriptor
};

/// The locks that `pid` holds through descriptors whose path begins with `prefix`; all with an
/// empty one. `readable` becomes false when the process's descriptors may not be looked at.
std::vector<HeldLock> locks_of_process(pid_t pid, const std::string& prefix,
                                       bool* readable = nullptr);

/// Every process now.
std::vector<pid_t> all_processes();

/// The device numbers under which /proc/locks shows files of `folder`: that of its superblock,
/// which for some filesystems (btrfs) is not the one of stat(2).
std::string superblock_device(const std::string& folder);

}  // namespace lockfs::ctl
