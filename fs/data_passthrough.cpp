#include "fs/data_passthrough.h"

#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "fs/credentials.h"
#include "fs/fuse_protocol.h"

namespace lockfs {
namespace {

/// Returns the backing id or -errno.
std::int32_t ioctl_backing_open(int fuse_fd, int fd) noexcept {
  proto::BackingMap map{fd, 0, 0};
  const int id = ::ioctl(fuse_fd, proto::kDevIocBackingOpen, &map);
  return id >= 0 ? id : -errno;
}

}  // namespace

std::int32_t DataPassthroughTable::attach(Handle& handle) noexcept {
  const std::lock_guard lock(mutex_of(*handle.inode));
  DataMode& mode = handle.inode->data_mode;
  if (mode.opens++ == 0 && fuse_fd_ >= 0) {
    const std::int32_t result = register_backing(*handle.inode);
    if (result < 0) report_refusal(-result);
    mode.backing_id = std::max(result, 0);
  }
  handle.passthrough = mode.backing_id != 0;
  return mode.backing_id;
}

void DataPassthroughTable::detach(Handle& handle) noexcept {
  const std::lock_guard lock(mutex_of(*handle.inode));
  DataMode& mode = handle.inode->data_mode;
  if (--mode.opens > 0 || mode.backing_id == 0) return;
  auto id = static_cast<std::uint32_t>(std::exchange(mode.backing_id, 0));
  ::ioctl(fuse_fd_, proto::kDevIocBackingClose, &id);
}

std::int32_t DataPassthroughTable::register_backing(const Inode& inode) const noexcept {
  // The kernel writes with the rights of whoever registers (backing_file_write_iter()), and leaves
  // it to the backing filesystem to clear set-ID bits.
  const WithoutSetIdRights without;
  if (without.error() != 0) return -without.error();
  const int id = ioctl_backing_open(fuse_fd_, inode.fd());
  if (id != -EBADF) return id;
  // Older kernels want a descriptor that can read.
  const UniqueFd readable(inode.reopen(O_RDONLY));
  return ioctl_backing_open(fuse_fd_, readable.get());
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
