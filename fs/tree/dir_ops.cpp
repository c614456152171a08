/// Open directories.

#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "fs/base/scratch_buffer.h"
#include "fs/tree/filesystem.h"

namespace lockfs {
namespace {

constexpr std::size_t kBufferSize = std::size_t{32} * 1024;

/// How many entries of a reply have attributes; the kernel asks for the rest. One that fills its
/// buffer takes long enough for the lead to pass to another thread, on another CPU.
constexpr int kMostAttributes = 48;

/// Makes the next entry after `offset` available, reading more of the directory if needed. Returns
/// 0 or errno; `entry` is null at the end. The handle's mutex is held.
int next_entry(DirHandle& handle, off_t offset, const dirent64*& entry) {
  entry = nullptr;
  if (!handle.buffer) handle.buffer = std::make_unique<std::byte[]>(kBufferSize);
  if (offset != handle.offset) {
    if (::lseek(handle.fd.get(), offset, SEEK_SET) < 0) return errno;
    handle.begin = handle.end = 0;
    handle.offset = offset;
  }
  if (handle.begin == handle.end) {
    const ssize_t count = ::getdents64(handle.fd.get(), handle.buffer.get(), kBufferSize);
    if (count < 0) return errno;
    handle.begin = 0;
    handle.end = static_cast<std::size_t>(count);
    if (count == 0) return 0;
  }
  entry = reinterpret_cast<const dirent64*>(handle.buffer.get() + handle.begin);
  return 0;
}

/// The entry that next_entry() gave was delivered.
void advance(DirHandle& handle, const dirent64& entry) noexcept {
  handle.offset = entry.d_off;
  handle.begin += entry.d_reclen;
}

/// Calls `add(entry)` for each entry after `offset` until it returns false: the reply is full.
/// Returns 0 or errno.
template <class Add>
int deliver(DirHandle& handle, off_t offset, const Add& add) {
  const std::lock_guard lock(handle.mutex);
  for (;; offset = handle.offset) {
    const dirent64* entry = nullptr;
    if (const int error = next_entry(handle, offset, entry); error != 0) return error;
    if (entry == nullptr || !add(*entry)) return 0;
    advance(handle, *entry);
  }
}

bool is_dots(const char* name) noexcept {
  return std::strcmp(name, ".") == 0 || std::strcmp(name, "..") == 0;
}

struct stat entry_stat(const DirHandle& handle, const dirent64& entry) noexcept {
  struct stat st {};
  st.st_ino = handle.inode->device().shown_ino(entry.d_ino);
  st.st_mode = static_cast<mode_t>(DTTOIF(entry.d_type));
  return st;
}

/// The inodes a READDIRPLUS reply names: the kernel's references to them, taken back unless the
/// reply arrives.
class Lookups {
 public:
  explicit Lookups(InodeTable& inodes) noexcept : inodes_(inodes) {}
  Lookups(const Lookups&) = delete;
  Lookups& operator=(const Lookups&) = delete;
  ~Lookups() {
    for (const std::uint64_t nodeid : nodeids_) inodes_.forget(nodeid, 1);
  }

  void add(Inode& inode) {
    nodeids_.push_back(inode.nodeid());
    inodes_.add_lookup(inode);
  }
  void keep() noexcept { nodeids_.clear(); }

 private:
  InodeTable& inodes_;
  std::vector<std::uint64_t> nodeids_;
};

}  // namespace

int Filesystem::opendir(fuse_req_t req, fuse_ino_t nodeid, fuse_file_info* fi) {
  auto [refused, share] = take_share(fuse_req_ctx(req)->uid);
  if (refused != 0) return refused;
  InodePtr inode;
  if (const int error = inodes_.acquire(nodeid, inode); error != 0) return error;
  UniqueFd fd(::openat(inode->fd(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd) return errno;
  if (access_times_.keep || access_times_.keep_directories) keep_access_time(fd.get());
  const DirHandle& given = directories_.add(
      std::make_unique<DirHandle>(std::move(share), std::move(inode), std::move(fd)));
  fi->fh = given.fh;
  // The caller is gone: there will be no RELEASEDIR.
  if (fuse_reply_open(req, fi) != 0) directories_.remove(fi->fh);
  return 0;
}

int Filesystem::releasedir(fuse_req_t /*req*/, fuse_ino_t /*nodeid*/, fuse_file_info* fi) {
  directories_.remove(fi->fh);  // none: an earlier process has done it, and died over the answer
  return 0;
}

int Filesystem::fsyncdir(fuse_req_t /*req*/, fuse_ino_t /*nodeid*/, int datasync,
                         fuse_file_info* fi) {
  const DirHandle* const handle = directories_.find(fi->fh);
  if (handle == nullptr) return EBADF;
  const int fd = handle->fd.get();
  return (datasync != 0 ? ::fdatasync(fd) : ::fsync(fd)) == 0 ? 0 : errno;
}

int Filesystem::readdir(fuse_req_t req, fuse_ino_t /*nodeid*/, size_t size, off_t offset,
                        fuse_file_info* fi) {
  DirHandle* const found = directories_.find(fi->fh);
  if (found == nullptr) return EBADF;
  DirHandle& handle = *found;
  char* const reply = scratch_buffer(size);
  size_t used = 0;
  const int error = deliver(handle, offset, [&](const dirent64& entry) {
    const struct stat st = entry_stat(handle, entry);
    const size_t needed =
        fuse_add_direntry(req, reply + used, size - used, entry.d_name, &st, entry.d_off);
    if (needed > size - used) return false;
    used += needed;
    return true;
  });
  if (error != 0 && used == 0) return error;
  fuse_reply_buf(req, reply, used);
  return 0;
}

int Filesystem::plus_param(const DirHandle& handle, const dirent64& entry, fuse_entry_param& param,
                           InodePtr& inode) {
  param.attr = entry_stat(handle, entry);
  if (is_dots(entry.d_name)) return 0;
  Entry found;
  Inode& parent = *handle.inode;
  const bool known = static_cast<bool>(inodes_.find({parent.id().dev, entry.d_ino}));
  if (const int error = find_child(parent, entry.d_name, found, known); error != 0) return error;
  param = entry_param(found);
  inode = std::move(found.inode);
  return 0;
}

int Filesystem::readdirplus(fuse_req_t req, fuse_ino_t nodeid, size_t size, off_t offset,
                            fuse_file_info* fi) {
  DirHandle* const found = directories_.find(fi->fh);
  if (found == nullptr) return EBADF;
  DirHandle& handle = *found;
  char* const reply = scratch_buffer(size);
  size_t used = 0;
  Lookups lookups(inodes_);
  const pid_t thread = fuse_req_ctx(req)->pid;
  bool names_only = false;
  bool leave_out = false;  // the next file
  if (offset == 0) {
    names_only = habits_.begin_listing(thread, nodeid) == ListingHabits::Answer::kNames;
    leave_out = !names_only;
  }
  int attributes = 0;
  const int error = deliver(handle, offset, [&](const dirent64& entry) {
    const size_t needed = fuse_add_direntry_plus(req, nullptr, 0, entry.d_name, nullptr, 0);
    if (needed > size - used) return false;
    if (attributes == kMostAttributes) return false;
    // With nodeid 0 the kernel takes the name alone and looks it up when asked for.
    fuse_entry_param param{};
    InodePtr inode;
    if (entry.d_type == DT_DIR || !(names_only || std::exchange(leave_out, false))) {
      if (plus_param(handle, entry, param, inode) == ENOENT) return true;  // gone meanwhile
      ++attributes;
    } else {
      param.attr = entry_stat(handle, entry);
    }
    if (inode) lookups.add(*inode);
    fuse_add_direntry_plus(req, reply + used, size - used, entry.d_name, &param, entry.d_off);
    used += needed;
    return true;
  });
  if (error != 0 && used == 0) return error;
  if (leave_out) habits_.note_lookup(thread, nodeid);
  if (fuse_reply_buf(req, reply, used) == 0) lookups.keep();
  return 0;
}

}  // namespace lockfs
