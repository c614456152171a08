#include "fs/tree/data_passthrough.h"

#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <sys/ioctl.h>
#include <sys/mount.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "fs/base/credentials.h"
#include "fs/loop/fuse_protocol.h"
#include "fs/tree/device.h"

namespace lockfs {
namespace {

/// Returns the backing id or -errno.
std::int32_t ioctl_backing_open(int fuse_fd, int fd) noexcept {
  proto::BackingMap map{fd, 0, 0};
  const int id = ::ioctl(fuse_fd, proto::kDevIocBackingOpen, &map);
  return id >= 0 ? id : -errno;
}

/// An O_PATH descriptor of the file on a mount that nobody else sees; none, with errno, where the
/// kernel does not make one. (backing_file_open() leaves out the flag O_NOATIME.)
UniqueFd open_without_access_times(int path_fd) noexcept {
  UniqueFd tree(::open_tree(path_fd, "", AT_EMPTY_PATH | OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC));
  mount_attr wanted{};
  wanted.attr_set = MOUNT_ATTR_NOATIME;
  wanted.attr_clr = MOUNT_ATTR__ATIME;
  if (tree && ::mount_setattr(tree.get(), "", AT_EMPTY_PATH, &wanted, sizeof wanted) != 0) {
    const int error = errno;
    tree.reset();
    errno = error;
  }
  return tree;
}

}  // namespace

std::int32_t DataPassthroughTable::attach(Handle& handle) noexcept {
  const std::lock_guard lock(mutex_of(*handle.inode));
  DataMode& mode = handle.inode->data_mode;
  const bool first = mode.opens++ == 0;
  if (first && handle.append_only) give_up(*handle.inode);
  if (first && !handle.append_only && mode.backing.value() == 0 && fuse_fd_ >= 0) {
    const int error = register_backing(*handle.inode, mode);
    if (error != 0) report_refusal(error);
    handle.inode->record_backing();
  }
  count(handle);
  return mode.backing.value();
}

void DataPassthroughTable::attach_again(Handle& handle) noexcept {
  const std::lock_guard lock(mutex_of(*handle.inode));
  ++handle.inode->data_mode.opens;
  handle.inode->adopt_backing(fuse_fd_);
  count(handle);
}

void DataPassthroughTable::count(Handle& handle) noexcept {
  handle.passthrough = handle.inode->data_mode.backing.value() != 0;
  if (handle.maps_backing()) {
    ++handle.inode->mappers;
    ++handle.inode->mapped;
  }
}

/// The kernel is told first: a registration that is in no record would stay.
void DataPassthroughTable::give_up(Inode& inode) noexcept {
  inode.data_mode.backing = {};
  inode.record_backing();
}

void DataPassthroughTable::detach(Handle& handle) noexcept {
  const std::lock_guard lock(mutex_of(*handle.inode));
  DataMode& mode = handle.inode->data_mode;
  if (handle.maps_backing()) --handle.inode->mappers;
  if (--mode.opens == 0 && mode.reads_backing) give_up(*handle.inode);
}

int DataPassthroughTable::register_backing(const Inode& inode, DataMode& mode) const noexcept {
  // The kernel writes with the rights of whoever registers (backing_file_write_iter()), and leaves
  // it to the backing filesystem to clear set-ID bits.
  const StrangersRights rights(inode.device().is_local());
  if (rights.error() != 0) return rights.error();
  UniqueFd noatime;
  if (keep_access_times_) {
    noatime = open_without_access_times(inode.fd());
    if (!noatime) return errno;
  }
  const int path_fd = noatime ? noatime.get() : inode.fd();
  std::int32_t id = ioctl_backing_open(fuse_fd_, path_fd);
  mode.reads_backing = id == -EBADF;  // older kernels want a descriptor that can read
  if (mode.reads_backing) {
    const UniqueFd readable(reopen(path_fd, O_RDONLY));
    id = ioctl_backing_open(fuse_fd_, readable.get());
  }
  if (id < 0) return -id;
  mode.backing = BackingId(fuse_fd_, id);
  return 0;
}

void DataPassthroughTable::report_refusal(int error) noexcept {
  const bool first = !refusal_reported_.exchange(true);
  if (!first) return;
  spdlog::log(
      wanted_ == DataPassthrough::kOn ? spdlog::level::err : spdlog::level::info,
      "the kernel refused data passthrough for a file ({}); the daemon reads and writes such "
      "files itself",
      ::strerrordesc_np(error));
}

std::mutex& DataPassthroughTable::mutex_of(const Inode& inode) noexcept {
  return mutexes_[inode.nodeid() % mutexes_.size()];
}

}  // namespace lockfs
