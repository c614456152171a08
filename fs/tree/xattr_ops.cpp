/// Extended attributes and, as system.posix_acl_*, access control lists. All go through the path of
/// the O_PATH descriptor, which leads to a symbolic link itself, not to its target.

#include <linux/capability.h>
#include <linux/limits.h>
#include <sys/xattr.h>

#include <cerrno>
#include <cstring>
#include <optional>
#include <string_view>

#include "fs/base/credentials.h"
#include "fs/base/death_point.h"
#include "fs/base/process_look.h"
#include "fs/base/scratch_buffer.h"
#include "fs/loop/current_request.h"
#include "fs/tree/filesystem.h"
#include "fs/tree/repeats.h"

namespace lockfs {
namespace {

/// Answers a request that asked with `asked` bytes of room (0: how much is needed) and got `result`
/// from the system call. Returns 0 or errno.
int reply_value(fuse_req_t req, size_t asked, ssize_t result, const char* value) {
  if (result < 0) return errno;
  const auto length = static_cast<size_t>(result);
  if (asked == 0) {
    fuse_reply_xattr(req, length);
  } else {
    fuse_reply_buf(req, value, length);
  }
  return 0;
}

/// Removes the names that the backing filesystem shows to root only; returns the new length.
size_t drop_trusted(char* names, size_t length) noexcept {
  size_t kept = 0;
  for (size_t begin = 0; begin < length;) {
    const std::string_view name(names + begin);
    const size_t size = name.size() + 1;
    if (!name.starts_with("trusted.")) {
      std::memmove(names + kept, names + begin, size);
      kept += size;
    }
    begin += size;
  }
  return kept;
}

/// Whether the attribute has that value.
bool has(const Inode& inode, const char* name, const char* value, size_t size) {
  char* const now = scratch_buffer(size + 1);
  const ssize_t length = ::getxattr(ProcPath(inode.fd()).c_str(), name, now, size + 1);
  return length == static_cast<ssize_t>(size) && std::memcmp(now, value, size) == 0;
}

}  // namespace

int Filesystem::setxattr(fuse_req_t req, fuse_ino_t nodeid, const char* name, const char* value,
                         size_t size, int flags) {
  InodePtr inode;
  if (const int error = inodes_.acquire(nodeid, inode); error != 0) return error;
  const AllocatesAs allocates(fuse_req_ctx(req)->uid, inode->device().is_local());
  // An ACL set by somebody outside the file's group clears the set-group-ID bit.
  std::optional<CallerIdentity> identity;
  if (std::string_view(name).starts_with("system.posix_acl_")) identity.emplace(req);
  if (identity && identity->error() != 0) return identity->error();
  death_point("source.before");
  const int set = ::setxattr(ProcPath(inode->fd()).c_str(), name, value, size, flags);
  const int error = set == 0 ? 0 : errno;
  death_point("source.after");
  const bool made = error == EEXIST && CurrentRequest::repeated() && has(*inode, name, value, size);
  return made ? 0 : error;
}

int Filesystem::getxattr(fuse_req_t req, fuse_ino_t nodeid, const char* name, size_t size) {
  InodePtr inode;
  if (const int error = inodes_.acquire(nodeid, inode); error != 0) return error;
  char* const value = size > 0 ? scratch_buffer(size) : nullptr;
  return reply_value(req, size, ::getxattr(ProcPath(inode->fd()).c_str(), name, value, size),
                     value);
}

int Filesystem::listxattr(fuse_req_t req, fuse_ino_t nodeid, size_t size) {
  InodePtr inode;
  if (const int error = inodes_.acquire(nodeid, inode); error != 0) return error;
  char* const names = scratch_buffer(XATTR_LIST_MAX);
  const ssize_t length = ::listxattr(ProcPath(inode->fd()).c_str(), names, XATTR_LIST_MAX);
  if (length < 0) return errno;
  size_t kept = static_cast<size_t>(length);
  if (fuse_req_ctx(req)->uid != 0) kept = drop_trusted(names, kept);
  if (size > 0 && kept > size) return ERANGE;
  return reply_value(req, size, static_cast<ssize_t>(kept), names);
}

int Filesystem::removexattr(fuse_req_t req, fuse_ino_t nodeid, const char* name) {
  InodePtr inode;
  if (const int error = inodes_.acquire(nodeid, inode); error != 0) return error;
  // The kernel takes the capability away before it knows whether chown(-1, -1) is allowed, since it
  // leaves the mode to the daemon (fuse_setattr(), then setattr_prepare()).
  const fuse_ctx& caller = *fuse_req_ctx(req);
  if (caller.uid != 0 && std::string_view(name) == "security.capability") {
    struct stat st {};
    if (::fstat(inode->fd(), &st) != 0) return errno;
    const bool may = st.st_uid == caller.uid || has_capability(caller.pid, CAP_CHOWN) ||
                     has_capability(caller.pid, CAP_FOWNER);
    if (!may && errand_of(caller.pid) == Errand::kChangesOwner) return EPERM;
  }
  if (repeats::has_removed_attribute(ProcPath(inode->fd()).c_str(), name)) return 0;
  death_point("source.before");
  const int removed = ::removexattr(ProcPath(inode->fd()).c_str(), name);
  const int error = removed == 0 ? 0 : errno;
  death_point("source.after");
  return error;
}

}  // namespace lockfs
