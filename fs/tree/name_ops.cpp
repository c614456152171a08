/// Operations that make, remove and move names.

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <new>
#include <optional>
#include <utility>

#include "fs/base/credentials.h"
#include "fs/base/death_point.h"
#include "fs/loop/current_request.h"
#include "fs/tree/filesystem.h"
#include "fs/tree/repeats.h"

namespace lockfs {

template <class Create>
int Filesystem::make_entry(fuse_req_t req, fuse_ino_t parent, const char* name, mode_t type,
                           const Create& create) {
  InodePtr directory;
  if (const int error = inodes_.acquire(parent, directory); error != 0) return error;
  {
    const CallerIdentity identity(req);
    if (identity.error() != 0) return identity.error();
    death_point("source.before");
    const bool made = create(directory->fd()) == 0;
    const int error = made ? 0 : errno;
    death_point("source.after");
    const uid_t uid = fuse_req_ctx(req)->uid;
    if (error != 0 && (error != EEXIST || !repeats::has_made(directory->fd(), name, type, uid))) {
      return error;
    }
  }
  Entry entry;
  if (const int error = find_child(*directory, name, entry, false); error != 0) return error;
  return reply_entry(req, entry);
}

int Filesystem::mknod(fuse_req_t req, fuse_ino_t parent, const char* name, mode_t mode,
                      dev_t rdev) {
  return make_entry(req, parent, name, mode & S_IFMT,
                    [&](int directory) { return ::mknodat(directory, name, mode, rdev); });
}

int Filesystem::mkdir(fuse_req_t req, fuse_ino_t parent, const char* name, mode_t mode) {
  return make_entry(req, parent, name, S_IFDIR,
                    [&](int directory) { return ::mkdirat(directory, name, mode); });
}

int Filesystem::symlink(fuse_req_t req, const char* target, fuse_ino_t parent, const char* name) {
  return make_entry(req, parent, name, S_IFLNK,
                    [&](int directory) { return ::symlinkat(target, directory, name); });
}

int Filesystem::link(fuse_req_t req, fuse_ino_t nodeid, fuse_ino_t parent, const char* name) {
  Entry entry;
  InodePtr directory;
  if (const int error = inodes_.acquire(nodeid, entry.inode); error != 0) return error;
  if (const int error = inodes_.acquire(parent, directory); error != 0) return error;
  const AllocatesAs allocates(fuse_req_ctx(req)->uid, directory->device().is_local());
  death_point("source.before");
  const int linked = ::linkat(AT_FDCWD, ProcPath(entry.inode->fd()).c_str(), directory->fd(), name,
                              AT_SYMLINK_FOLLOW);
  const int refused = linked == 0 ? 0 : errno;
  death_point("source.after");
  if (refused != 0) {
    // Two links to one file are no different, whoever made them.
    const bool there = refused == EEXIST && CurrentRequest::repeated() &&
                       entry.inode->is_at(directory->fd(), name);
    if (!there) return refused;
  }
  if (const int error = read_attributes(*entry.inode, entry.st); error != 0) return error;
  return reply_entry(req, entry);
}

/// The kernel has allowed the caller to take a name away from the file that it believes to be
/// there. In a sticky folder that depends on whose file it is (may_delete()), and by now it may be
/// another's: there the backing filesystem decides once more, as for the caller. Elsewhere who may
/// take one name away may take any.
int Filesystem::guard_names(fuse_req_t req, const Inode& folder,
                            std::optional<CallerIdentity>& identity) {
  if (identity || fuse_req_ctx(req)->uid == 0) return 0;
  struct stat st {};
  if (::fstat(folder.fd(), &st) != 0) return errno;
  if ((st.st_mode & S_ISVTX) == 0) return 0;
  identity.emplace(req, CallerIdentity::Powers::kOwn);
  return identity->error();
}

void Filesystem::keep_removed(const Inode& folder, const char* name) noexcept try {
  struct stat st {};
  if (::fstatat(folder.fd(), name, &st, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT) != 0) return;
  if (!inodes_.may_lose({st.st_dev, st.st_ino})) return;
  UniqueFd fd(::openat(folder.fd(), name, O_PATH | O_NOFOLLOW | O_CLOEXEC));
  if (fd && ::fstat(fd.get(), &st) == 0) const InodePtr kept = inodes_.intern(std::move(fd), st);
} catch (const std::bad_alloc&) {
  // It may be lost then.
}

int Filesystem::remove_name(fuse_req_t req, fuse_ino_t parent, const char* name, int flags) {
  InodePtr directory;
  if (const int error = inodes_.acquire(parent, directory); error != 0) return error;
  std::optional<CallerIdentity> identity;
  if (const int error = guard_names(req, *directory, identity); error != 0) return error;
  if (repeats::has_removed(directory->fd(), name)) return 0;
  keep_removed(*directory, name);
  death_point("source.before");
  const int error = ::unlinkat(directory->fd(), name, flags) == 0 ? 0 : errno;
  death_point("source.after");
  return error;
}

int Filesystem::unlink(fuse_req_t req, fuse_ino_t parent, const char* name) {
  return remove_name(req, parent, name, 0);
}

int Filesystem::rmdir(fuse_req_t req, fuse_ino_t parent, const char* name) {
  return remove_name(req, parent, name, AT_REMOVEDIR);
}

int Filesystem::rename(fuse_req_t req, fuse_ino_t parent, const char* name, fuse_ino_t new_parent,
                       const char* new_name, unsigned flags) {
  InodePtr from;
  InodePtr to;
  if (const int error = inodes_.acquire(parent, from); error != 0) return error;
  if (const int error = inodes_.acquire(new_parent, to); error != 0) return error;
  const AllocatesAs allocates(fuse_req_ctx(req)->uid,
                              to->device().is_local());  // the folder may grow
  std::optional<CallerIdentity> identity;
  if (const int error = guard_names(req, *from, identity); error != 0) return error;
  if (const int error = guard_names(req, *to, identity); error != 0) return error;
  const bool exchanges = (flags & RENAME_EXCHANGE) != 0;
  if (repeats::has_renamed(from->fd(), name, to->fd(), new_name, exchanges)) return 0;
  keep_removed(*to, new_name);
  death_point("source.before");
  const int error = ::renameat2(from->fd(), name, to->fd(), new_name, flags) == 0 ? 0 : errno;
  death_point("source.after");
  return error;
}

}  // namespace lockfs
