/// Mount points of lockfs as the kernel knows them.
///
/// Thread safety: a function without state.
#pragma once

#include <string>
#include <vector>

namespace lockfs::ctl {

/// Those of type fuse.lockfs in `mountinfo`, the path of such a table, in its order and whether
/// anybody serves them or not. Nothing when it cannot be read.
std::vector<std::string> lockfs_mount_points(const std::string& mountinfo);

}  // namespace lockfs::ctl
