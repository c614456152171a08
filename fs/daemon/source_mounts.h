/// The mounts that the source consists of, and what they forbid. A bind mount keeps nosuid, nodev,
/// noexec and nosymfollow of what it shows, and so does lockfs. FUSE knows these flags for a mount
/// as a whole, so that the strictest of all filesystems mounted in the source counts, unless the
/// opposite was asked for by name. What else such a mount does (ro, noatime) the source itself does
/// to what is carried out there.
///
/// Thread safety: the functions have no state. A SourceMounts is made and destroyed by one thread.
///
/// Invariants:
///  1. A flag is put on once for each mount that has it, so that an administrator's remount that
///     takes it away stands until something else is mounted.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "fs/base/mount_table.h"
#include "fs/base/unique_fd.h"
#include "fs/options/options.h"

namespace lockfs {

/// A flag of a mount that forbids something.
struct Restriction {
  std::string_view name;
  std::string_view opposite;
  std::uint64_t attribute;           ///< for mount_setattr(2)
  bool Options::*wanted;             ///< whether the mount has it
  bool Options::*opposite_is_asked;  ///< whether it was refused by name
};
inline constexpr std::size_t kRestrictions = 4;
const std::array<Restriction, kRestrictions>& restrictions();

/// Where in the source each restriction is found, in their order: mount points by STATX_MNT_ID.
using Restrictors = std::array<std::map<std::uint64_t, std::string>, kRestrictions>;

/// Looks at the mount `source_mount` and all that is mounted on it at `source` or below.
Restrictors restrictors_of(const std::vector<MountEntry>& mounts, std::uint64_t source_mount,
                           std::string_view source);

/// Restricts `options` as the source is now, and adds a line to start_notes for each mount that it
/// was done for. `mountinfo`: the table of mounts.
void heed_source_mounts(Options& options, const std::string& mountinfo);

/// Puts flags on the mount that libfuse does not know, and watches what is mounted in the
/// source later.
class SourceMounts {
 public:
  /// The mount is made; its `options` must outlive the object. Starts a thread where this process
  /// may mount. May throw std::system_error and std::bad_alloc.
  explicit SourceMounts(const Options& options);
  ~SourceMounts();
  SourceMounts(const SourceMounts&) = delete;
  SourceMounts& operator=(const SourceMounts&) = delete;

 private:
  void watch();
  void follow();
  int restrict_mount(std::uint64_t attributes) const;

  const Options& options_;
  std::string device_;  ///< of the mount, as in the table of mounts
  Restrictors seen_;    ///< used by the thread once it runs
  UniqueFd table_;
  UniqueFd stop_;  ///< an eventfd
  std::thread thread_;
};

}  // namespace lockfs
