/// INIT, names to inodes, attributes.

#include <fcntl.h>
#include <linux/capability.h>
#include <sys/statvfs.h>

#include <array>
#include <cerrno>
#include <climits>
#include <optional>

#include "fs/base/credentials.h"
#include "fs/base/death_point.h"
#include "fs/base/process_look.h"
#include "fs/loop/current_request.h"
#include "fs/tree/filesystem.h"
#include "fs/tree/repeats.h"

namespace lockfs {
namespace {

int chown_to(const Inode& inode, const struct stat& attr, int to_set) noexcept {
  const uid_t uid = (to_set & FUSE_SET_ATTR_UID) != 0 ? attr.st_uid : static_cast<uid_t>(-1);
  const gid_t gid = (to_set & FUSE_SET_ATTR_GID) != 0 ? attr.st_gid : static_cast<gid_t>(-1);
  const int flags = AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW;
  return ::fchownat(inode.fd(), "", uid, gid, flags) == 0 ? 0 : errno;
}

int chmod_to(const Inode& inode, const struct stat& attr) noexcept {
  return ::chmod(ProcPath(inode.fd()).c_str(), attr.st_mode & ALLPERMS) == 0 ? 0 : errno;
}

int truncate_to(const Inode& inode, off_t size, const Handle* handle) noexcept {
  const auto change = repeats::look_at_truncation(inode.fd(), size);
  if (const auto answer = repeats::answer_for(change)) return *answer;
  death_point("source.before");
  const bool by_handle = handle != nullptr && handle->writable();
  const int rc = by_handle ? ::ftruncate(handle->fd.get(), size)
                           : ::truncate(ProcPath(inode.fd()).c_str(), size);
  const int error = rc == 0 ? 0 : errno;
  death_point("source.after");
  return error;
}

timespec time_to(const timespec& value, int to_set, int set, int set_now) noexcept {
  if ((to_set & set_now) != 0) return {0, UTIME_NOW};
  if ((to_set & set) != 0) return value;
  return {0, UTIME_OMIT};
}

int set_times(const Inode& inode, const struct stat& attr, int to_set) noexcept {
  const std::array<timespec, 2> times = {
      time_to(attr.st_atim, to_set, FUSE_SET_ATTR_ATIME, FUSE_SET_ATTR_ATIME_NOW),
      time_to(attr.st_mtim, to_set, FUSE_SET_ATTR_MTIME, FUSE_SET_ATTR_MTIME_NOW),
  };
  return ::utimensat(AT_FDCWD, ProcPath(inode.fd()).c_str(), times.data(), 0) == 0 ? 0 : errno;
}

constexpr int kAnyOwner = FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID;
constexpr int kAnyTime =
    FUSE_SET_ATTR_ATIME | FUSE_SET_ATTR_ATIME_NOW | FUSE_SET_ATTR_MTIME | FUSE_SET_ATTR_MTIME_NOW;

/// What a SETATTR that sets nothing is about. With HANDLE_KILLPRIV_V2 the kernel says nothing more
/// of chown(-1, -1), nor before a write that takes set-ID bits or a capability away
/// (__remove_privs()). Returns 0 or an errno; `same_owner`: it is chown() by whoever may.
int settle_empty_change(fuse_req_t req, const Inode& inode, bool& same_owner) {
  const fuse_ctx& caller = *fuse_req_ctx(req);
  const Errand errand = errand_of(caller.pid);
  // The write itself takes the bits away, or leaves them to root.
  if (errand == Errand::kChangesData) return 0;
  struct stat st {};
  if (::fstat(inode.fd(), &st) != 0) return errno;
  same_owner = caller.uid == 0 || caller.uid == st.st_uid || has_capability(caller.pid, CAP_FOWNER);
  // As setattr_prepare() does where it knows that the mode is to change.
  const bool refused = !same_owner && errand == Errand::kChangesOwner && has_set_id_bits(st);
  return refused ? EPERM : 0;
}

/// Mode comes after size and owner, which may clear set-ID bits that the kernel wants kept; times
/// come last because a changed size changes them.
int apply(const Inode& inode, const struct stat& attr, int to_set, const Handle* handle) noexcept {
  int error = 0;
  if ((to_set & FUSE_SET_ATTR_SIZE) != 0) error = truncate_to(inode, attr.st_size, handle);
  if (error == 0 && (to_set & kAnyOwner) != 0) error = chown_to(inode, attr, to_set);
  if (error == 0 && (to_set & FUSE_SET_ATTR_MODE) != 0) error = chmod_to(inode, attr);
  if (error == 0 && (to_set & kAnyTime) != 0) error = set_times(inode, attr, to_set);
  return error;
}

}  // namespace

void Filesystem::init(fuse_conn_info& conn) noexcept {
  // HANDLE_KILLPRIV stays off: it does not say whose bits may stay; its second version, which does,
  // is granted in complete_init_reply(). WRITEBACK_CACHE stays off: what was written must be in the
  // backing file when a lock is released.
  constexpr unsigned kUnwanted = FUSE_CAP_HANDLE_KILLPRIV | FUSE_CAP_WRITEBACK_CACHE |
                                 FUSE_CAP_SPLICE_READ | FUSE_CAP_SPLICE_WRITE |
                                 FUSE_CAP_SPLICE_MOVE | FUSE_CAP_POSIX_ACL;
  unsigned wanted = FUSE_CAP_ASYNC_READ | FUSE_CAP_ASYNC_DIO | FUSE_CAP_ATOMIC_O_TRUNC |
                    FUSE_CAP_AUTO_INVAL_DATA | FUSE_CAP_CACHE_SYMLINKS | FUSE_CAP_DONT_MASK |
                    FUSE_CAP_EXPORT_SUPPORT | FUSE_CAP_IOCTL_DIR | FUSE_CAP_PARALLEL_DIROPS |
                    FUSE_CAP_READDIRPLUS | FUSE_CAP_READDIRPLUS_AUTO;
  // POSIX_ACL turns default_permissions on, even where the user didn't ask for it.
  if (options_.default_permissions) wanted |= FUSE_CAP_POSIX_ACL;
  conn.want = (conn.want & ~kUnwanted) | (wanted & conn.capable);

  // RELEASE is a background request: a low limit delays it, and with it the unlock at close().
  conn.max_background = 1024;
  conn.congestion_threshold = 768;
  conn.time_gran = 1;
}

int Filesystem::lookup(fuse_req_t req, fuse_ino_t parent, const char* name) {
  Entry entry;
  const int error = find_child(parent, name, entry, expect_known_.load(std::memory_order_relaxed));
  if (error == 0) {
    expect_known_.store(entry.known, std::memory_order_relaxed);
    stale_names_.found(fuse_req_ctx(req)->pid, entry.inode->nodeid());
    if (entry.inode->type() != S_IFDIR) habits_.note_lookup(fuse_req_ctx(req)->pid, parent);
    return reply_entry(req, entry);
  }
  if (error == ENOENT) stale_names_.forget(fuse_req_ctx(req)->pid);
  if (error != ENOENT || cache_times_.negative <= 0) return error;
  fuse_entry_param missing{};  // nodeid 0: the kernel may remember that the name does not exist
  missing.entry_timeout = cache_times_.negative;
  fuse_reply_entry(req, &missing);
  return 0;
}

void Filesystem::forget(fuse_ino_t nodeid, std::uint64_t count) noexcept {
  inodes_.forget(nodeid, count);
}

int Filesystem::getattr(fuse_req_t req, fuse_ino_t nodeid, fuse_file_info* /*fi*/) {
  InodePtr inode;
  if (const int error = inodes_.acquire(nodeid, inode); error != 0) return error;
  return reply_attributes(req, *inode);
}

int Filesystem::setattr(fuse_req_t req, fuse_ino_t nodeid, struct stat* attr, int to_set,
                        fuse_file_info* fi) {
  InodePtr inode;
  if (const int error = inodes_.acquire(nodeid, inode); error != 0) return error;
  const Handle* const handle = fi != nullptr ? files_.find(fi->fh) : nullptr;
  if (fi != nullptr && handle == nullptr) return EBADF;
  bool same_owner = false;
  if (to_set == 0) {
    if (const int error = settle_empty_change(req, *inode, same_owner); error != 0) return error;
  }
  if (same_owner) {
    to_set = kAnyOwner;
    attr->st_uid = static_cast<uid_t>(-1);
    attr->st_gid = static_cast<gid_t>(-1);
  }
  std::optional<CallerIdentity> identity;
  if (same_owner || CurrentRequest::clears_set_id_bits()) {
    if (const int error = act_as_caller(req, *inode, identity); error != 0) return error;
  }
  if (const int error = apply(*inode, *attr, to_set, handle); error != 0) return error;
  death_point("source.attributes_set");
  if ((to_set & FUSE_SET_ATTR_SIZE) != 0) inode->raise_known_size(attr->st_size);
  return reply_attributes(req, *inode);
}

int Filesystem::readlink(fuse_req_t req, fuse_ino_t nodeid) {
  InodePtr inode;
  if (const int error = inodes_.acquire(nodeid, inode); error != 0) return error;
  std::array<char, PATH_MAX + 1> target;
  const ssize_t length = ::readlinkat(inode->fd(), "", target.data(), target.size());
  if (length < 0) return errno;
  if (static_cast<std::size_t>(length) == target.size()) return ENAMETOOLONG;
  target[static_cast<std::size_t>(length)] = '\0';
  fuse_reply_readlink(req, target.data());
  return 0;
}

int Filesystem::access(fuse_req_t /*req*/, fuse_ino_t nodeid, int mask) {
  // Only asked without default_permissions, when the daemon's own rights are what counts.
  InodePtr inode;
  if (const int error = inodes_.acquire(nodeid, inode); error != 0) return error;
  return ::access(ProcPath(inode->fd()).c_str(), mask) == 0 ? 0 : errno;
}

int Filesystem::statfs(fuse_req_t req, fuse_ino_t nodeid) {
  InodePtr inode;
  if (const int error = inodes_.acquire(nodeid, inode); error != 0) return error;
  struct statvfs info {};
  if (::fstatvfs(inode->fd(), &info) != 0) return errno;
  fuse_reply_statfs(req, &info);
  return 0;
}

}  // namespace lockfs
