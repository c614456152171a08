/// What an open file and an open directory are to the daemon, from the OPEN reply to RELEASE. The
/// kernel has a number of each (HandleSet).
#pragma once

#include <fcntl.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <utility>

#include "fs/base/unique_fd.h"
#include "fs/tree/descriptor_shares.h"
#include "fs/tree/inode.h"
#include "fs/tree/lock_state.h"
#include "fs/tree/records.h"

namespace lockfs {

/// An open regular file. Any number of threads may use one at a time; the members are fixed between
/// the OPEN reply and RELEASE, except `locks`, which the lock operations guard.
/// No lock is ever taken on `fd`.
struct Handle {
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

  /// Enters what the set does not know.
  void describe(HandleRecord& record) const noexcept {
    record.nodeid = inode->nodeid();
    record.fd = fd.get();
    record.open_flags = static_cast<std::uint32_t>(flags);
    record.uid = share.uid();
    record.flags = append_only ? HandleRecord::kAppendOnly : 0;
  }

  std::uint64_t fh = 0;  ///< its number
  const DescriptorShares::Share share;
  const InodePtr inode;
  UniqueFd fd;
  const int flags;           ///< as the caller gave them to open(2)
  bool passthrough = false;  ///< the kernel reads and writes the backing file itself
  bool append_only = false;  ///< the file was so (chattr +a) when it was opened
  std::unique_ptr<LockAttachment> locks;
};

/// An open directory, streamed with getdents64.
struct DirHandle {
  DirHandle(DescriptorShares::Share part, InodePtr directory, UniqueFd descriptor) noexcept
      : share(std::move(part)), inode(std::move(directory)), fd(std::move(descriptor)) {}

  void describe(HandleRecord& record) const noexcept {
    record.nodeid = inode->nodeid();
    record.fd = fd.get();
    record.open_flags = 0;
    record.uid = share.uid();
    record.flags = HandleRecord::kDirectory;
  }

  std::uint64_t fh = 0;  ///< its number
  const DescriptorShares::Share share;
  const InodePtr inode;
  UniqueFd fd;

  std::mutex mutex;                     ///< guards what follows and the position of `fd`
  std::unique_ptr<std::byte[]> buffer;  ///< entries as getdents64 wrote them; made at first use
  std::size_t begin = 0;                ///< first entry in `buffer` that was not delivered
  std::size_t end = 0;
  /// Directory offset of the entry at `begin`; kUnknown: where `fd` stands is not known.
  off_t offset = 0;
  static constexpr off_t kUnknown = -1;
};

}  // namespace lockfs
