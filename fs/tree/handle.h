/// What an open file and an open directory are to the daemon: `fi->fh` points to one of these from
/// the OPEN reply to RELEASE.
#pragma once

#include <fcntl.h>

#include <boost/intrusive/list.hpp>
#include <cstddef>
#include <memory>
#include <mutex>
#include <utility>

#include "fs/base/unique_fd.h"
#include "fs/tree/descriptor_shares.h"
#include "fs/tree/inode.h"
#include "fs/tree/lock_state.h"

struct fuse_file_info;

namespace lockfs {

/// An open regular file. Any number of threads may use one at a time; the members are fixed between
/// the OPEN reply and RELEASE, except `locks`, which the lock operations guard.
/// No lock is ever taken on `fd`.
struct Handle : boost::intrusive::list_base_hook<> {
  Handle(DescriptorShares::Share part, InodePtr file, UniqueFd descriptor, int open_flags) noexcept
      : share(std::move(part)),
        inode(std::move(file)),
        fd(std::move(descriptor)),
        flags(open_flags) {
    if (writable()) ++inode->writers;
  }
  ~Handle() {
    if (writable()) --inode->writers;
  }
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;

  [[nodiscard]] bool readable() const noexcept { return (flags & O_ACCMODE) != O_WRONLY; }
  [[nodiscard]] bool writable() const noexcept { return (flags & O_ACCMODE) != O_RDONLY; }
  /// The kernel lets it be mapped for writing, into the backing file (mmap(2) wants both).
  [[nodiscard]] bool maps_backing() const noexcept {
    return passthrough && readable() && writable();
  }

  static Handle& of(const fuse_file_info& fi) noexcept;

  const DescriptorShares::Share share;
  const InodePtr inode;
  const UniqueFd fd;
  const int flags;           ///< as the caller gave them to open(2)
  bool passthrough = false;  ///< the kernel reads and writes the backing file itself
  bool append_only = false;  ///< the file was so (chattr +a) when it was opened
  std::unique_ptr<LockAttachment> locks;
};

/// An open directory, streamed with getdents64.
struct DirHandle : boost::intrusive::list_base_hook<> {
  DirHandle(DescriptorShares::Share part, InodePtr directory, UniqueFd descriptor) noexcept
      : share(std::move(part)), inode(std::move(directory)), fd(std::move(descriptor)) {}

  static DirHandle& of(const fuse_file_info& fi) noexcept;

  const DescriptorShares::Share share;
  const InodePtr inode;
  const UniqueFd fd;

  std::mutex mutex;                     ///< guards what follows and the position of `fd`
  std::unique_ptr<std::byte[]> buffer;  ///< entries as getdents64 wrote them; made at first use
  std::size_t begin = 0;                ///< first entry in `buffer` that was not delivered
  std::size_t end = 0;
  off_t offset = 0;  ///< directory offset of the entry at `begin`
};

/// The handles that the kernel knows. It does not release those that are open when a mount is ended
/// by force, or in the moment of its end; they go with the set.
///
/// Thread safety: add() and remove() may be called from any thread.
template <typename Handle>
class HandleSet {
 public:
  HandleSet() = default;
  HandleSet(const HandleSet&) = delete;
  HandleSet& operator=(const HandleSet&) = delete;
  ~HandleSet() {
    handles_.clear_and_dispose([](Handle* handle) { delete handle; });
  }

  /// Owns the handle from now on.
  Handle* add(std::unique_ptr<Handle> handle) noexcept {
    const std::lock_guard lock(mutex_);
    handles_.push_back(*handle);
    return handle.release();
  }
  /// Gives the handle up to the caller.
  std::unique_ptr<Handle> remove(Handle& handle) noexcept {
    const std::lock_guard lock(mutex_);
    handles_.erase(handles_.iterator_to(handle));
    return std::unique_ptr<Handle>(&handle);
  }

 private:
  std::mutex mutex_;
  boost::intrusive::list<Handle> handles_;  ///< guarded by mutex_
};

}  // namespace lockfs
