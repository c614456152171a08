/// The kernel's table of mounts as text: shared by the daemon and the programs around it, hence
/// without anything of FUSE or of options.
///
/// Thread safety: functions without state. All may throw std::bad_alloc.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace lockfs {

/// One line of /proc/self/mountinfo.
struct MountEntry {
  std::string mount_point;
  std::string type;           ///< with the subtype, as in "fuse.lockfs"
  std::string source;         ///< first column of /proc/mounts
  std::string device;         ///< major:minor
  std::string options;        ///< of this mount, such as "rw,nosuid"
  std::string super_options;  ///< of the filesystem, such as "rw,allow_other"
  std::uint64_t id = 0;       ///< as STATX_MNT_ID
  std::uint64_t parent = 0;   ///< id of the mount that this one lies on
};

/// Parses the text of /proc/self/mountinfo; lines that don't fit its format are left out.
std::vector<MountEntry> parse_mountinfo(std::string_view text);

/// What is mounted on exactly `path`, a canonical one; of several the topmost. Reads the file
/// `mountinfo`; one that cannot be read has no mounts.
std::optional<MountEntry> find_mount(const std::string& path,
                                     const std::string& mountinfo = "/proc/self/mountinfo");

/// Whether `path` is `folder` or lies below it, by their names: absolute ones without "." or "..";
/// a slash at the end of `path` is left out.
bool is_below(std::string_view path, std::string_view folder);

/// Undoes the kernel's \ooo escapes for blanks, tabs, newlines and backslashes.
std::string unescape_octal(std::string_view text);

}  // namespace lockfs
