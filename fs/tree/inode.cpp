#include "fs/tree/inode.h"

#include <fcntl.h>
#include <pthread.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "fs/tree/inode_table.h"

namespace lockfs {
namespace {

constexpr const char* kProcDescriptors = "/proc/self/fd/";

/// /proc/self/fd: an open below it takes two thirds of the time of one along the whole path. It is
/// the folder of this process only, so a child goes without.
std::atomic<int> descriptor_folder{AT_FDCWD};

void open_descriptor_folder() noexcept {
  const int fd = ::open(kProcDescriptors, O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return;
  if (::pthread_atfork(nullptr, nullptr, [] { descriptor_folder.store(AT_FDCWD); }) == 0) {
    descriptor_folder.store(fd);
  } else {
    ::close(fd);
  }
}

}  // namespace

/// FNV-1a. 32 bits, because that is what the kernel keeps of a generation: a wider one would look
/// like another file at each lookup (fuse_stale_inode).
std::uint32_t generation_of(const std::string& handle) noexcept {
  std::uint32_t hash = 2166136261U;
  for (const char byte : handle) hash = (hash ^ static_cast<unsigned char>(byte)) * 16777619U;
  return hash == 0 ? 1 : hash;  // 0 would match any generation (fuse_get_dentry)
}

Inode::Inode(InodeTable& table, const Device& device, std::uint64_t nodeid, const struct stat& st,
             std::string handle, std::uint32_t generation) noexcept
    : table_(table),
      device_(device),
      nodeid_(nodeid),
      id_{st.st_dev, st.st_ino},
      handle_(std::move(handle)),
      generation_(generation),
      type_(st.st_mode & S_IFMT) {}

std::string Inode::path() const {
  char target[PATH_MAX];
  const ssize_t length = readlink(ProcPath(fd()).c_str(), target, sizeof target);
  return length > 0 ? std::string(target, static_cast<std::size_t>(length))
                    : "inode " + std::to_string(id_.ino);
}

int reopen(int path_fd, int flags) noexcept {
  [[maybe_unused]] static const bool tried = (open_descriptor_folder(), true);
  const int folder = descriptor_folder.load(std::memory_order_relaxed);
  const ProcPath path(path_fd);
  const int fd =
      ::openat(folder, folder == AT_FDCWD ? path.c_str() : path.name(), flags | O_CLOEXEC);
  return fd >= 0 ? fd : -errno;
}

void keep_access_time(int fd) noexcept {
  const int status = ::fcntl(fd, F_GETFL);
  if (status >= 0) ::fcntl(fd, F_SETFL, status | O_NOATIME);
}

bool Inode::is_at(int folder, const char* name) const noexcept {
  return Device::leads_to(folder, name, handle_);
}

bool Inode::can_reopen() const noexcept { return device_.can_reopen() && !handle_.empty(); }

InodePtr::InodePtr(const InodePtr& other) noexcept : inode_(other.inode_) {
  if (inode_ != nullptr) inode_->refs_.fetch_add(1, std::memory_order_relaxed);
}

InodePtr::~InodePtr() {
  if (inode_ != nullptr) inode_->table_.release(*inode_);
}

ProcPath::ProcPath(int fd) noexcept {
  std::snprintf(text_, sizeof text_, "%s%d", kProcDescriptors, fd);
}

const char* ProcPath::name() const noexcept { return text_ + std::strlen(kProcDescriptors); }

}  // namespace lockfs
