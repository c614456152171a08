/// Looks at the machine before anything is mounted, so that what can be foreseen is refused with
/// one line that names the cure, instead of an errno from the depths of mount(2).
///
/// Not thread-safe against changes of the machine: what passes here may still fail a moment later,
/// and then the mount itself reports it.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "fs/base/mount_table.h"
#include "fs/options/options.h"

namespace lockfs {

/// Where check_start() looks; tests point it elsewhere.
struct Machine {
  std::string fuse_device = "/dev/fuse";
  std::string fuse_conf = "/etc/fuse.conf";
  std::string mountinfo = "/proc/self/mountinfo";
  std::string journal_socket = "/run/systemd/journal/socket";
  /// Folders searched for fusermount3; empty: those libfuse uses (its own and $PATH).
  std::vector<std::string> fusermount_folders;
};

/// Quotes `text` so that a shell reads it as one word; plain words stay as they are.
std::string shell_quote(const std::string& text);

/// Checks that `options` can be mounted, fills in source_path, source_mount, mountpoint_path and
/// fsname, and restricts them as the source is (heed_source_mounts()). Returns an empty string, or
/// one line: what is in the way and how to cure it. Blocks as long as the filesystems under both
/// paths take to answer a stat().
std::string check_start(Options& options, const Machine& machine = {});

/// Whether this process may call mount(2) itself (CAP_SYS_ADMIN); else fusermount3 has to.
bool may_mount();

}  // namespace lockfs
