#include "fs/tree/device.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/ioctl.h>
#include <sys/vfs.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <mutex>
#include <new>
#include <optional>
#include <string_view>

#include "fs/tree/inode.h"

namespace lockfs {
namespace {

constexpr std::uint64_t kJfsMagic = 0x3153464a;

/// What file handles consist of (exportfs.h and the filesystems' export.c).
struct Ino32Id {
  std::uint32_t ino;
  std::uint32_t generation;
};
struct [[gnu::packed]] BtrfsId {
  std::uint64_t objectid;
  std::uint64_t root;
  std::uint32_t generation;
};
struct [[gnu::packed]] XfsId {
  std::uint64_t ino;
  std::uint32_t generation;
};
struct TmpfsId {
  std::uint32_t generation;
  std::uint32_t ino_low;
  std::uint32_t ino_high;
};

/// XFS_IOC_FSBULKSTAT_SINGLE and its structures (xfs_fs.h), which the kernel's headers leave out.
struct XfsBulkRequest {
  std::uint64_t* ino;
  std::int32_t count;
  void* buffer;
  std::int32_t* returned;
};
struct XfsTime {
  std::int64_t seconds;
  std::int32_t nanoseconds;
};
struct XfsBulkStat {
  std::uint64_t ino;
  std::uint16_t mode, nlink;
  std::uint32_t uid, gid, rdev;
  std::int32_t block_size;
  std::int64_t size;
  XfsTime atime, mtime, ctime;
  std::int64_t blocks;
  std::uint32_t flags;
  std::int32_t extent_size, extents;
  std::uint32_t generation;
  std::uint16_t project_low, fork_offset, project_high, sick;
  std::uint8_t pad[2];
  std::uint32_t cow_extent_size, dmapi_mask;
  std::uint16_t dmapi_state, attribute_extents;
};
static_assert(sizeof(XfsBulkStat) == 136);

std::optional<std::uint32_t> xfs_generation(int fd, std::uint64_t ino) noexcept {
  XfsBulkStat found{};
  std::int32_t returned = 0;
  XfsBulkRequest request{&ino, 1, &found, &returned};
  const unsigned long call = _IOWR('X', 102, XfsBulkRequest);
  if (::ioctl(fd, call, &request) != 0 || found.ino != ino) return std::nullopt;
  return found.generation;
}

/// Filesystems with no `flush` of their own whose inode numbers belong to this machine. Any other
/// is treated as a network filesystem, which costs time and not correctness.
bool is_local_type(std::uint64_t type) noexcept {
  constexpr std::array<std::uint64_t, 9> kLocal = {
      EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC,  BTRFS_SUPER_MAGIC,
      TMPFS_MAGIC,      F2FS_SUPER_MAGIC, RAMFS_MAGIC,
      0x2fc12fc1,  // ZFS
      kJfsMagic,
      0xca451a4e,  // bcachefs
  };
  return std::find(kLocal.begin(), kLocal.end(), type) != kLocal.end();
}

union HandleBuffer {
  file_handle header;
  std::array<char, sizeof(file_handle) + MAX_HANDLE_SZ> bytes;
};

/// name_to_handle_at(2): the handle with its header, in `buffer`; empty if there is none.
std::string_view read_handle(int folder, const char* name, int flags,
                             HandleBuffer& buffer) noexcept {
  buffer = {};
  buffer.header.handle_bytes = MAX_HANDLE_SZ;
  int mount_id = 0;
  if (::name_to_handle_at(folder, name, &buffer.header, &mount_id, flags) != 0) return {};
  return {buffer.bytes.data(), sizeof(file_handle) + buffer.header.handle_bytes};
}

}  // namespace

Device::Device(dev_t dev, std::uint16_t index, int path_fd, mode_t type) noexcept
    : dev_(dev), index_(index) {
  struct statfs info {};
  if (::fstatfs(path_fd, &info) != 0) return;
  const auto magic = static_cast<std::uint64_t>(info.f_type);
  local_ = is_local_type(magic);
  may_stall_ = !local_ && magic != OVERLAYFS_SUPER_MAGIC;
  lists_locks_ = magic != FUSE_SUPER_MAGIC;
  // A FUSE filesystem hands out handles that end when its kernel inode is dropped. Only directories
  // and regular files can be opened without side effects.
  if (magic == FUSE_SUPER_MAGIC || (type != S_IFDIR && type != S_IFREG)) return;
  mount_fd_.reset(::open(ProcPath(path_fd).c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
  if (!mount_fd_) return;
  const UniqueFd again(open_handle(handle_of(path_fd)));
  can_reopen_ = again.valid();
  if (can_reopen_) learn_numbers(magic, path_fd);
}

Device::Device(dev_t dev, const Known& known) noexcept
    : dev_(dev),
      index_(known.index),
      local_((known.traits & kLocal) != 0),
      may_stall_((known.traits & kMayStall) != 0),
      lists_locks_((known.traits & kListsLocks) != 0),
      can_reopen_((known.traits & kCanReopen) != 0),
      mount_fd_(known.mount_fd) {}

std::uint16_t Device::traits() const noexcept {
  return static_cast<std::uint16_t>((local_ ? kLocal : 0) | (may_stall_ ? kMayStall : 0) |
                                    (lists_locks_ ? kListsLocks : 0) |
                                    (can_reopen_ ? kCanReopen : 0));
}

void Device::learn_numbers(std::uint64_t magic, int path_fd) {
  sample_ = handle_of(path_fd);
  switch (magic) {
    case EXT4_SUPER_MAGIC:
    case F2FS_SUPER_MAGIC:
    case kJfsMagic:
      numbers_ = Numbers::kIno32;
      break;
    case BTRFS_SUPER_MAGIC:
      numbers_ = Numbers::kBtrfs;
      break;
    case XFS_SUPER_MAGIC:
      numbers_ = Numbers::kXfs;
      break;
    case TMPFS_MAGIC:
      numbers_ = Numbers::kPacked;
      break;
    default:
      return;
  }
  // Another kernel may make its handles otherwise: what does not lead back is not used.
  struct stat st {};
  struct stat found {};
  if (::fstat(path_fd, &st) == 0) {
    const UniqueFd again(open_number(number_of(st.st_ino, sample_)));
    if (again && ::fstat(again.get(), &found) == 0 && found.st_ino == st.st_ino) return;
  }
  numbers_ = Numbers::kNone;
}

std::uint64_t Device::number_of(ino_t ino, const std::string& handle) const noexcept {
  if (numbers_ == Numbers::kNone) return 0;
  if (numbers_ != Numbers::kPacked) return ino < kPacked ? ino : 0;
  TmpfsId id{};
  if (handle.size() != sizeof(file_handle) + sizeof id || ino >> kInoBits != 0) return 0;
  std::memcpy(&id, handle.data() + sizeof(file_handle), sizeof id);
  return kPacked | static_cast<std::uint64_t>(id.generation) << kInoBits | ino;
}

int Device::open_number(std::uint64_t number) const noexcept {
  try {
    return open_handle(handle_of_number(number));
  } catch (const std::bad_alloc&) {
    return -ENOMEM;
  }
}

/// Empty when there is none. The handle is the sample's with another file's identity in it. A
/// generation of 0 stands for any (ext4_nfs_get_inode(), btrfs_get_dentry()); xfs wants the right
/// one and tells it, tmpfs wants it as well, and there the number has it.
std::string Device::handle_of_number(std::uint64_t number) const {
  std::string handle = sample_;
  const auto put = [&handle](const auto& id) -> std::string& {
    if (handle.size() != sizeof(file_handle) + sizeof id) return handle.erase();
    std::memcpy(handle.data() + sizeof(file_handle), &id, sizeof id);
    return handle;
  };
  const ino_t ino = ino_of(number);
  switch (numbers_) {
    case Numbers::kNone:
      return {};
    case Numbers::kIno32:
      return ino >> 32 != 0 ? "" : put(Ino32Id{static_cast<std::uint32_t>(ino), 0});
    case Numbers::kBtrfs: {
      BtrfsId id{};
      if (handle.size() != sizeof(file_handle) + sizeof id) return {};
      std::memcpy(&id, handle.data() + sizeof(file_handle), sizeof id);
      id.objectid = ino;
      id.generation = 0;
      return put(id);
    }
    case Numbers::kXfs: {
      const std::optional<std::uint32_t> generation = xfs_generation(mount_fd_.get(), ino);
      if (!generation) return {};
      if (handle.size() == sizeof(file_handle) + sizeof(Ino32Id)) {
        return ino >> 32 != 0 ? "" : put(Ino32Id{static_cast<std::uint32_t>(ino), *generation});
      }
      return put(XfsId{ino, *generation});
    }
    case Numbers::kPacked:
      return put(TmpfsId{static_cast<std::uint32_t>((number & ~kPacked) >> kInoBits),
                         static_cast<std::uint32_t>(ino), 0});
  }
  return {};
}

std::string Device::handle_of(int fd) const {
  HandleBuffer buffer;
  return std::string(read_handle(fd, "", AT_EMPTY_PATH, buffer));
}

bool Device::leads_to(int folder, const char* name, const std::string& handle) noexcept {
  HandleBuffer buffer;
  return !handle.empty() && read_handle(folder, name, 0, buffer) == handle;
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
  const auto index = static_cast<std::uint16_t>(std::min<std::size_t>(next_index_, UINT16_MAX));
  Device& added = devices_.emplace_back(st.st_dev, index, path_fd, st.st_mode & S_IFMT);
  ++next_index_;
  return added;
}

void DeviceTable::restore(dev_t dev, const Device::Known& known) {
  const std::unique_lock lock(mutex_);
  devices_.emplace_back(dev, known);
  next_index_ = std::max<std::size_t>(next_index_, std::size_t{known.index} + 1);
}

}  // namespace lockfs
