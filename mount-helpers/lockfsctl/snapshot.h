/// The locks of a mount at one moment, as the commands show them: those that the mount has granted,
/// the requests that wait, and the locks of outsiders on the source.
///
/// Thread safety: none; plain data.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "lockmgr/policy.h"
#include "mount-helpers/lockfsctl/client.h"

namespace lockfs::ctl {

inline constexpr std::int64_t kEof = INT64_MAX;

/// A file on which somebody holds or awaits a lock.
struct File {
  std::string path;         ///< in the mount, where it has a name there; else what is known
  std::string source_path;  ///< empty: unknown
  std::string device;       ///< "MAJOR:MINOR", of the source
  std::uint64_t inode = 0;
  bool deleted = false;
};

/// A granted lock or a parked request.
struct Record {
  std::size_t file = 0;  ///< index in Snapshot::files
  std::string type;      ///< posix, ofd, flock
  std::string owner;     ///< "TYPE:COOKIE"; empty for outsiders
  pid_t pid = 0;         ///< 0: unknown
  pid_t tid = 0;
  std::optional<uid_t> uid;
  std::string command;  ///< of the process, or what the holder is; empty: unknown
  bool exclusive = false;
  std::int64_t first = 0;
  std::int64_t last = kEof;
  std::optional<std::int64_t> seconds;  ///< held or waited for
  bool outside = false;                 ///< by the source, not through the mount
  std::string client;                   ///< address of the NFS client, where it is known

  // requests only
  bool waiting = false;
  std::uint64_t ticket = 0;
  std::uint64_t ahead = 0;  ///< ticket of the request it stands behind
  std::string place;        ///< behind, blocked, outside, aside

  [[nodiscard]] bool overlaps(const Record& other) const {
    return file == other.file && first <= other.last && other.first <= last;
  }
};

struct Snapshot {
  MountInfo mount;
  lockmgr::Policy policy;  ///< in force
  std::vector<File> files;
  std::vector<Record> locks;  ///< granted; the outsiders' at the end of each file
  std::vector<Record> waits;

  /// Whether `wait` cannot be granted while `lock` is there.
  [[nodiscard]] bool stands_in_the_way(const Record& lock, const Record& wait) const;
  /// How many requests wait for `lock` to go.
  [[nodiscard]] std::size_t waiters_behind(const Record& lock) const;
};

/// Asks the mount, and looks at the source's locks in /proc/locks unless `outsiders` is false.
/// Throws Error.
Snapshot take_snapshot(Target& target, bool outsiders = true);

/// "0-99", "100-EOF".
std::string range_text(const Record& record);
/// "bytes 0-99", "the whole file".
std::string range_words(const Record& record);
/// The user's name, or number.
std::string user_name(const std::optional<uid_t>& uid);
/// The name of a process's program (/proc/PID/comm); empty when it has gone.
std::string command_of(pid_t pid);
/// "pid 12 (cat, user joe)", "an unknown holder outside", "nfsd for client 10.0.0.1".
std::string who_text(const Record& record);

}  // namespace lockfs::ctl
