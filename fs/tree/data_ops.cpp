/// Open files: OPEN and CREATE, and what is done through a handle.

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <memory>
#include <optional>
#include <utility>

#include "fs/base/credentials.h"
#include "fs/base/death_point.h"
#include "fs/base/process_look.h"
#include "fs/base/scratch_buffer.h"
#include "fs/loop/current_request.h"
#include "fs/loop/fuse_protocol.h"
#include "fs/tree/filesystem.h"
#include "fs/tree/repeats.h"

namespace lockfs {
namespace {

/// Flags of open(2) that the kernel has dealt with, or that mean nothing for a reopened file.
constexpr int kConsumedFlags = O_CREAT | O_EXCL | O_NOCTTY | O_NOFOLLOW | O_ASYNC | O_NONBLOCK;

/// Clears status flags that matter at open only. O_DIRECT: a backing filesystem that cannot do it
/// refuses the open, but the daemon's buffers need not suit it. O_APPEND: an append-only file
/// demands it, but pages written back through the descriptor belong at their offsets; write()
/// appends by request. Returns 0 or errno.
int settle_status_flags(int fd, int flags) noexcept {
  if ((flags & (O_DIRECT | O_APPEND)) == 0) return 0;
  const int status = ::fcntl(fd, F_GETFL);
  if (status < 0) return errno;
  if (::fcntl(fd, F_SETFL, status & ~(O_DIRECT | O_APPEND)) == 0) return 0;
  // An append-only file keeps O_APPEND.
  if (errno != EPERM) return errno;
  return ::fcntl(fd, F_SETFL, status & ~O_DIRECT) == 0 ? 0 : errno;
}

/// Whether an OPEN comes from an ioctl() on an open file: fuse_priv_ioctl_prepare() opens the file
/// once more for it, by no name, and does not try again after ESTALE. It leaves O_LARGEFILE out,
/// which only 32-bit programs without large files do besides.
bool opens_for_ioctl(pid_t thread, int flags) noexcept {
  constexpr int kLargeFile = 0100000;  // the C library's O_LARGEFILE is 0 on 64-bit machines
  constexpr long kIoctlCompat = 54;    // of a 32-bit x86 program
  if ((flags & (kLargeFile | O_ACCMODE)) != 0) return false;
  const long call = system_call_of(thread).value_or(SYS_ioctl);
  return call == SYS_ioctl || call == kIoctlCompat;
}

std::uint32_t nanoseconds(double seconds) noexcept {
  return static_cast<std::uint32_t>(
      (seconds - static_cast<double>(static_cast<std::uint64_t>(seconds))) * 1e9);
}

fuse_attr wire_attributes(const struct stat& st) noexcept {
  fuse_attr attr{};
  attr.ino = st.st_ino;
  attr.size = static_cast<std::uint64_t>(st.st_size);
  attr.blocks = static_cast<std::uint64_t>(st.st_blocks);
  attr.atime = static_cast<std::uint64_t>(st.st_atim.tv_sec);
  attr.mtime = static_cast<std::uint64_t>(st.st_mtim.tv_sec);
  attr.ctime = static_cast<std::uint64_t>(st.st_ctim.tv_sec);
  attr.atimensec = static_cast<std::uint32_t>(st.st_atim.tv_nsec);
  attr.mtimensec = static_cast<std::uint32_t>(st.st_mtim.tv_nsec);
  attr.ctimensec = static_cast<std::uint32_t>(st.st_ctim.tv_nsec);
  attr.mode = st.st_mode;
  attr.nlink = static_cast<std::uint32_t>(st.st_nlink);
  attr.uid = st.st_uid;
  attr.gid = st.st_gid;
  attr.rdev = static_cast<std::uint32_t>(st.st_rdev);
  attr.blksize = static_cast<std::uint32_t>(st.st_blksize);
  return attr;
}

fuse_entry_out wire_entry(const fuse_entry_param& param) noexcept {
  fuse_entry_out out{};
  out.nodeid = param.ino;
  out.generation = param.generation;
  out.entry_valid = static_cast<std::uint64_t>(param.entry_timeout);
  out.entry_valid_nsec = nanoseconds(param.entry_timeout);
  out.attr_valid = static_cast<std::uint64_t>(param.attr_timeout);
  out.attr_valid_nsec = nanoseconds(param.attr_timeout);
  out.attr = wire_attributes(param.attr);
  return out;
}

/// libfuse 3.14 cannot put a backing id into an OPEN reply, so it is laid out here.
/// `known`: the file's attributes if they have just been read.
proto::OpenOut wire_open(const Handle& handle, std::int32_t backing_id,
                         const struct stat* known = nullptr) noexcept {
  proto::OpenOut out{};
  out.fh = handle.fh;
  out.backing_id = backing_id;
  // Without pages the kernel cannot map the file for writing (fuse_file_mmap()), and the daemon's
  // descriptor appends whatever becomes of the caller's O_APPEND.
  if (handle.append_only && handle.writable()) out.open_flags = FOPEN_DIRECT_IO;
  if (backing_id == 0) return out;
  out.open_flags |= proto::kOpenPassthrough;
  // Passed-through writes take set-ID bits away whoever writes (see register_backing()). Those of
  // such a file come to the daemon instead, which knows who may leave them; a mapping still
  // doesn't.
  struct stat st {};
  if (known == nullptr && handle.writable() && ::fstat(handle.fd.get(), &st) == 0) known = &st;
  if (known != nullptr && handle.writable() && has_set_id_bits(*known)) {
    out.open_flags |= FOPEN_DIRECT_IO;
  }
  return out;
}

}  // namespace

int Filesystem::open_descriptor(fuse_req_t req, const Inode& inode, int flags, UniqueFd& fd) {
  // Truncation clears set-ID bits unless the caller has CAP_FSETID. With ATOMIC_O_TRUNC the kernel
  // leaves that to this open.
  std::optional<CallerIdentity> identity;
  if ((flags & O_TRUNC) != 0) identity.emplace(req);
  if (identity && identity->error() != 0) return identity->error();
  if ((flags & O_TRUNC) != 0) {
    const auto change = repeats::look_at_change(inode.fd(), 0);
    if (change == repeats::Change::kUnknown) return EIO;
    if (change == repeats::Change::kMade) flags &= ~O_TRUNC;
  }
  death_point("source.before");
  const int opened = inode.reopen(flags & ~kConsumedFlags);
  death_point("source.after");
  if (opened < 0) return -opened;
  fd.reset(opened);
  return settle_status_flags(opened, flags);
}

int Filesystem::open(fuse_req_t req, fuse_ino_t nodeid, fuse_file_info* fi) {
  auto [refused, share] = take_share(fuse_req_ctx(req)->uid);
  if (refused != 0) return refused;
  InodePtr inode;
  UniqueFd fd;
  if (const int error = inodes_.acquire(nodeid, inode); error != 0) return error;
  struct statx at {};
  if (inode->type() == S_IFREG && ::statx(inode->fd(), "", AT_EMPTY_PATH, STATX_NLINK, &at) == 0 &&
      !(at.stx_nlink == 0 && opens_for_ioctl(fuse_req_ctx(req)->pid, fi->flags)) &&
      stale_names_.refuses(fuse_req_ctx(req)->pid, at.stx_nlink, nodeid)) {
    return ESTALE;
  }
  nfs_watch_.note_open(fuse_req_ctx(req)->pid, [&inode] { return inode->path(); });
  if (const int error = open_descriptor(req, *inode, fi->flags, fd); error != 0) return error;
  if (access_times_.keep) keep_access_time(fd.get());
  auto made =
      std::make_unique<Handle>(std::move(share), std::move(inode), std::move(fd), fi->flags);
  made->append_only = (at.stx_attributes & STATX_ATTR_APPEND) != 0;
  Handle& handle = files_.add(std::move(made));
  // By attributes read anew: to open may take long, or set-ID bits away.
  const proto::OpenOut out = wire_open(handle, passthrough_.attach(handle));
  // It was opened by somebody before it was append-only, so that it is passed through: it could be
  // mapped for writing.
  if (handle.append_only && handle.maps_backing()) {
    close_handle(&handle);
    return EPERM;
  }
  if (handle.maps_backing()) forget_attributes(*handle.inode);
  if (fuse_reply_buf(req, reinterpret_cast<const char*>(&out), sizeof out) != 0) {
    close_handle(&handle);  // the caller is gone: there will be no RELEASE
  }
  return 0;
}

int Filesystem::create(fuse_req_t req, fuse_ino_t parent, const char* name, mode_t mode,
                       fuse_file_info* fi) {
  auto [refused, share] = take_share(fuse_req_ctx(req)->uid);
  if (refused != 0) return refused;
  InodePtr directory;
  if (const int error = inodes_.acquire(parent, directory); error != 0) return error;
  UniqueFd fd;
  if (const int error = create_descriptor(req, *directory, name, mode, fi->flags, fd); error != 0) {
    if (error == ESTALE) stale_names_.told(fuse_req_ctx(req)->pid);
    return error;
  }
  stale_names_.forget(fuse_req_ctx(req)->pid);
  if (access_times_.keep) keep_access_time(fd.get());
  Entry entry;
  const int path_fd = reopen(fd.get(), O_PATH);
  if (path_fd < 0) return -path_fd;
  if (const int error = enter(UniqueFd(path_fd), entry); error != 0) return error;
  Handle& handle =
      files_.add(std::make_unique<Handle>(std::move(share), entry.inode, std::move(fd), fi->flags));
  const std::int32_t backing_id = passthrough_.attach(handle);  // before entry_param()

  struct {
    fuse_entry_out entry;
    proto::OpenOut open;
  } out{wire_entry(entry_param(entry)), wire_open(handle, backing_id, &entry.st)};
  static_assert(sizeof out == sizeof(fuse_entry_out) + sizeof(proto::OpenOut));
  inodes_.add_lookup(*entry.inode);
  if (fuse_reply_buf(req, reinterpret_cast<const char*>(&out), sizeof out) != 0) {
    inodes_.forget(entry.inode->nodeid(), 1);
    close_handle(&handle);
  }
  return 0;
}

int Filesystem::create_descriptor(fuse_req_t req, const Inode& directory, const char* name,
                                  mode_t mode, int flags, UniqueFd& fd) {
  const CallerIdentity identity(req);
  if (identity.error() != 0) return identity.error();
  // Always O_EXCL: a file that has appeared since the kernel's lookup has not been checked against
  // the caller's permissions, and may be a link or a FIFO. ESTALE makes the kernel look the name up
  // again (do_filp_open) and open what it finds.
  const int create_flags = (flags & ~kConsumedFlags) | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC;
  death_point("source.before");
  fd.reset(::openat(directory.fd(), name, create_flags, mode));
  death_point("source.after");
  if (!fd && errno == EEXIST &&
      repeats::has_made(directory.fd(), name, S_IFREG, fuse_req_ctx(req)->uid)) {
    // By now somebody may have written to it.
    fd.reset(::openat(directory.fd(), name, create_flags & ~(O_CREAT | O_EXCL | O_TRUNC)));
    if (!fd) return errno;
  }
  if (!fd) return errno == EEXIST && (flags & O_EXCL) == 0 ? ESTALE : errno;
  return settle_status_flags(fd.get(), flags);
}

int Filesystem::open_to_flush(const Handle& handle) noexcept {
  // close() is what makes a filesystem flush; the handle has to stay open.
  const int duplicate = ::fcntl(handle.fd.get(), F_DUPFD_CLOEXEC, 0);
  return duplicate < 0 ? -errno : duplicate;
}

int Filesystem::flush_data(const Handle& handle) noexcept {
  if (handle.inode->device().is_local()) return 0;
  const int duplicate = open_to_flush(handle);
  if (duplicate < 0) return -duplicate;
  return ::close(duplicate) == 0 ? 0 : errno;
}

void Filesystem::close_handle(Handle* handle) noexcept {
  const std::unique_ptr<Handle> last = files_.remove(handle->fh);
  death_point("handle.to_be_closed");
  if (last != nullptr) passthrough_.detach(*last);
}

int Filesystem::read(fuse_req_t req, fuse_ino_t /*nodeid*/, size_t size, off_t offset,
                     fuse_file_info* fi) {
  const Handle* const handle = files_.find(fi->fh);
  if (handle == nullptr) return EBADF;
  handle->inode->data_cached.store(true);  // before the data is read, as with attr_cached
  char* const data = scratch_buffer(size);
  const ssize_t count = ::pread(handle->fd.get(), data, size, offset);
  if (count < 0) return errno;
  fuse_reply_buf(req, data, static_cast<size_t>(count));
  return 0;
}

int Filesystem::write(fuse_req_t req, fuse_ino_t /*nodeid*/, const char* data, size_t size,
                      off_t offset, fuse_file_info* fi) {
  // Appending goes by the backing file's end, not by the offset that the kernel made of the size it
  // knew: what others appended meanwhile stays. Pages written back stand where they stand.
  const bool appends = (fi->flags & O_APPEND) != 0 && fi->writepage == 0;
  const Handle* const found = files_.find(fi->fh);
  if (found == nullptr) return EBADF;
  const Handle& handle = *found;
  // Pages are written back by whoever comes by.
  const AllocatesAs allocates(fi->writepage == 0 ? fuse_req_ctx(req)->uid : kNobody,
                              handle.inode->device().is_local());
  std::optional<CallerIdentity> identity;
  if (CurrentRequest::clears_set_id_bits()) {
    if (const int error = act_as_caller(req, *handle.inode, identity); error != 0) return error;
  }
  handle.inode->data_cached.store(true);  // the kernel keeps pages that it writes whole
  size_t done = 0;
  if (appends) {
    const auto change = repeats::look_at_append(handle.inode->fd(), data, size, done);
    if (const auto answer = repeats::answer_for(change)) {
      if (*answer == 0) fuse_reply_write(req, size);
      return *answer;
    }
  }
  iovec part{const_cast<char*>(data) + done, size - done};
  death_point("source.before");
  const ssize_t count = ::pwritev2(handle.fd.get(), &part, 1, offset, appends ? RWF_APPEND : 0);
  death_point("source.after");
  if (count < 0) return errno;
  handle.inode->raise_known_size(offset + count);
  // The times of a store to a mapping: the kernel does not expect them to change now.
  if (fi->writepage != 0) forget_attributes(*handle.inode);
  fuse_reply_write(req, done + static_cast<size_t>(count));
  return 0;
}

int Filesystem::fsync(fuse_req_t /*req*/, fuse_ino_t /*nodeid*/, int datasync, fuse_file_info* fi) {
  const Handle* const handle = files_.find(fi->fh);
  if (handle == nullptr) return EBADF;
  const int fd = handle->fd.get();
  return (datasync != 0 ? ::fdatasync(fd) : ::fsync(fd)) == 0 ? 0 : errno;
}

int Filesystem::fallocate(fuse_req_t req, fuse_ino_t /*nodeid*/, int mode, off_t offset,
                          off_t length, fuse_file_info* fi) {
  const Handle* const found = files_.find(fi->fh);
  if (found == nullptr) return EBADF;
  const Handle& handle = *found;
  const AllocatesAs allocates(fuse_req_ctx(req)->uid, handle.inode->device().is_local());
  std::optional<CallerIdentity> identity;
  if (const int error = act_as_caller(req, *handle.inode, identity); error != 0) return error;
  // To reserve is the same twice; to take data away is not. (Requests that move data do not come:
  // fuse_file_fallocate().)
  constexpr int kZeroes = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE;
  if ((mode & kZeroes) != 0) {
    const bool extends = (mode & FALLOC_FL_KEEP_SIZE) == 0;
    const auto change = repeats::look_at_zeroing(handle.inode->fd(), offset, length, extends);
    if (const auto answer = repeats::answer_for(change)) return *answer;
  }
  death_point("source.before");
  if (::fallocate(handle.fd.get(), mode, offset, length) != 0) return errno;
  death_point("source.after");
  if ((mode & FALLOC_FL_KEEP_SIZE) == 0) handle.inode->raise_known_size(offset + length);
  return 0;
}

int Filesystem::copy_file_range(fuse_req_t req, fuse_ino_t /*nodeid_in*/, off_t offset_in,
                                fuse_file_info* fi_in, fuse_ino_t /*nodeid_out*/, off_t offset_out,
                                fuse_file_info* fi_out, size_t length, int flags) {
  constexpr size_t kMaxLength = 1U << 30;  // the reply has 32 bits for the count
  const Handle* const from = files_.find(fi_in->fh);
  const Handle* const found = files_.find(fi_out->fh);
  if (from == nullptr || found == nullptr) return EBADF;
  const Handle& to = *found;
  const AllocatesAs allocates(fuse_req_ctx(req)->uid, to.inode->device().is_local());
  std::optional<CallerIdentity> identity;
  if (const int error = act_as_caller(req, *to.inode, identity); error != 0) return error;
  length = repeats::length_to_copy(from->fd.get(), offset_in, length);
  death_point("source.before");
  const ssize_t count =
      ::copy_file_range(from->fd.get(), &offset_in, to.fd.get(), &offset_out,
                        std::min(length, kMaxLength), static_cast<unsigned>(flags));
  if (count < 0) return errno;
  death_point("source.after");
  to.inode->raise_known_size(offset_out);  // where the call has moved it
  fuse_reply_write(req, static_cast<size_t>(count));
  return 0;
}

int Filesystem::lseek(fuse_req_t req, fuse_ino_t /*nodeid*/, off_t offset, int whence,
                      fuse_file_info* fi) {
  const Handle* const handle = files_.find(fi->fh);
  if (handle == nullptr) return EBADF;
  const off_t position = ::lseek(handle->fd.get(), offset, whence);
  if (position < 0) return errno;
  fuse_reply_lseek(req, position);
  return 0;
}

int Filesystem::ioctl(fuse_req_t req, fuse_ino_t /*nodeid*/, unsigned command, void* /*argument*/,
                      fuse_file_info* fi, unsigned flags, const void* in, size_t in_size,
                      size_t out_size) {
  const bool get = command == FS_IOC_GETFLAGS || command == FS_IOC_FSGETXATTR;
  const bool set = command == FS_IOC_SETFLAGS || command == FS_IOC_FSSETXATTR;
  if (!get && !set) return ENOTTY;
  // FS_IOC_GETFLAGS is declared with a long but has always moved an int.
  const bool plain_flags = command == FS_IOC_GETFLAGS || command == FS_IOC_SETFLAGS;
  const size_t size = plain_flags ? sizeof(int) : sizeof(fsxattr);
  if ((get ? out_size : in_size) < size) return EINVAL;

  std::array<char, sizeof(fsxattr)> data{};
  if (set) std::memcpy(data.data(), in, size);
  int fd = -1;
  Inode* inode = nullptr;
  const auto use = [&](const auto* handle) {
    if (handle == nullptr) return;
    fd = handle->fd.get();
    inode = handle->inode.get();
  };
  if ((flags & FUSE_IOCTL_DIR) != 0) {
    use(directories_.find(fi->fh));
  } else {
    use(files_.find(fi->fh));
  }
  if (inode == nullptr) return EBADF;
  if (::ioctl(fd, command, data.data()) != 0) return errno;
  if (set) forget_attributes(*inode);
  fuse_reply_ioctl(req, 0, get ? data.data() : nullptr, get ? size : 0);
  return 0;
}

}  // namespace lockfs
