#include "mount-helpers/lockfsctl/mount_points.h"

#include <fstream>
#include <iterator>
#include <utility>

#include "fs/base/mount_table.h"

namespace lockfs::ctl {

std::vector<std::string> lockfs_mount_points(const std::string& mountinfo) {
  std::ifstream table(mountinfo);
  const std::string text{std::istreambuf_iterator<char>(table), {}};
  std::vector<std::string> points;
  for (MountEntry& entry : parse_mountinfo(text)) {
    if (entry.type == "fuse.lockfs") points.push_back(std::move(entry.mount_point));
  }
  return points;
}

}  // namespace lockfs::ctl
