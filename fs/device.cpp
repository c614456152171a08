#include "fs/device.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/vfs.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <mutex>

#include "fs/inode.h"

namespace lockfs {
namespace {

/// Filesystems with no `flush` of their own whose inode numbers belong to this machine. Any other
/// is treated as a network filesystem, which costs time and not correctness.
bool is_local_type(std::uint64_t type) noexcept {
  constexpr std::array<std::uint64_t, 9> kLocal = {
      EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC,  BTRFS_SUPER_MAGIC,
      TMPFS_MAGIC,      F2FS_SUPER_MAGIC, RAMFS_MAGIC,
      0x2fc12fc1,  // ZFS
      0x3153464a,  // JFS
      0xca451a4e,  // bcachefs
  };
  return std::find(kLocal.begin(), kLocal.end(), type) != kLocal.end();
}

union HandleBuffer {
  file_handle header;
  std::array<char, sizeof(file_handle) + MAX_HANDLE_SZ> bytes;
};

}  // namespace

Device::Device(dev_t dev, std::uint16_t index, int path_fd, mode_t type) noexcept
    : dev_(dev), index_(index) {
  struct statfs info {};
  if (::fstatfs(path_fd, &info) != 0) return;
  const auto magic = static_cast<std::uint64_t>(info.f_type);
  local_ = is_local_type(magic);
  lists_locks_ = magic != FUSE_SUPER_MAGIC;
  // A FUSE filesystem hands out handles that end when its kernel inode is dropped. Only directories
  // and regular files can be opened without side effects.
  if (magic == FUSE_SUPER_MAGIC || (type != S_IFDIR && type != S_IFREG)) return;
  mount_fd_.reset(::open(ProcPath(path_fd).c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
  if (!mount_fd_) return;
  const UniqueFd again(open_handle(handle_of(path_fd)));
  can_reopen_ = again.valid();
}

std::string Device::handle_of(int fd) const {
  HandleBuffer buffer{};
  buffer.header.handle_bytes = MAX_HANDLE_SZ;
  int mount_id = 0;
  if (::name_to_handle_at(fd, "", &buffer.header, &mount_id, AT_EMPTY_PATH) != 0) return {};
  return {buffer.bytes.data(), sizeof(file_handle) + buffer.header.handle_bytes};
}

int Device::open_handle(const std::string& handle) const noexcept {
  HandleBuffer buffer{};
  if (handle.empty() || handle.size() > buffer.bytes.size()) return -ESTALE;
  std::memcpy(buffer.bytes.data(), handle.data(), handle.size());
  const int fd =
      ::open_by_handle_at(mount_fd_.get(), &buffer.header, O_PATH | O_NOFOLLOW | O_CLOEXEC);
  return fd >= 0 ? fd : -errno;
}

const Device* DeviceTable::find(dev_t dev) const noexcept {
  const std::shared_lock lock(mutex_);
  const auto it = std::find_if(devices_.begin(), devices_.end(),
                               [dev](const Device& device) { return device.dev() == dev; });
  return it == devices_.end() ? nullptr : &*it;
}

Device& DeviceTable::find_or_add(const struct stat& st, int path_fd) {
  const auto find = [&] {
    return std::find_if(devices_.begin(), devices_.end(),
                        [&](const Device& device) { return device.dev() == st.st_dev; });
  };
  {
    const std::shared_lock lock(mutex_);
    if (const auto it = find(); it != devices_.end()) return *it;
  }
  const std::unique_lock lock(mutex_);
  if (const auto it = find(); it != devices_.end()) return *it;
  const auto index = static_cast<std::uint16_t>(std::min<std::size_t>(devices_.size(), UINT16_MAX));
  return devices_.emplace_back(st.st_dev, index, path_fd, st.st_mode & S_IFMT);
}

}  // namespace lockfs
