/// What the tree writes into the book: inodes, how the less usual ones are found again, open files
/// and directories.
///
/// Thread safety: each record is guarded by what guards its inode or handle. Its first member is
/// its state: written last, cleared first, so that at every instant a record is right or free.
///
/// Invariants:
///  1. A descriptor that a record names is open. It is recorded as soon as it is known what it is
///     for, and is taken out of the record before it is closed: an open one that no record names
///     was on its way, and can be closed.
///  2. A record that is in use is not moved; a number that the kernel was given does not come back
///     for something else while the kernel may use it.
#pragma once

#include <fcntl.h>

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "fs/base/book.h"

namespace lockfs {

/// An inode that the kernel knows or an open file refers to; not the root.
struct InodeRecord {
  std::atomic<std::uint64_t> nodeid;  ///< 0: free
  std::atomic<std::uint64_t> nlookup;
  std::uint32_t generation;  ///< Inode::generation()
  /// The kernel's registration of it for data passthrough; 0: none. Below 0: what is registered is
  /// a descriptor that can read (DataMode::reads_backing).
  std::atomic<std::int32_t> backing_id;
  /// Its O_PATH descriptor; -1: none. Below that -2 - N for a descriptor N that may be closed,
  /// since the file can be opened anew.
  std::atomic<std::int32_t> fd;
  std::uint32_t name;  ///< of one that its nodeid does not lead to: of a NameRecord, else 0

  /// -1: none.
  [[nodiscard]] int descriptor() const noexcept {
    const std::int32_t value = fd.load(std::memory_order_relaxed);
    return value < -1 ? -2 - value : value;
  }
  [[nodiscard]] bool needs_descriptor() const noexcept {
    return fd.load(std::memory_order_relaxed) >= 0;
  }
  void set_descriptor(int number, bool can_reopen) noexcept {
    fd.store(can_reopen && number >= 0 ? -2 - number : number, std::memory_order_release);
  }
};
static_assert(sizeof(InodeRecord) == 32);

/// How a file is found again that no number leads to, and what is known of its filesystem.
struct NameRecord {
  std::uint64_t dev;
  std::uint64_t ino;
  std::int32_t mount_fd;       ///< Device::mount_fd(); -1: none, or it is the source's own
  std::uint16_t device_index;  ///< Device::index()
  std::uint16_t device_traits;
  std::uint32_t type;         ///< S_IFREG, S_IFDIR, ...
  std::uint32_t handle_size;  ///< 0: the inode's record has its descriptor
  char handle[sizeof(file_handle) + MAX_HANDLE_SZ];
};
static_assert(sizeof(NameRecord) == 168);

/// An open file or directory.
struct alignas(64) HandleRecord {
  static constexpr std::uint32_t kDirectory = 1;
  static constexpr std::uint32_t kAppendOnly = 2;

  std::atomic<std::uint64_t> fh;  ///< 0: free
  std::uint64_t nodeid;
  std::uint64_t unique;  ///< of the request that made it
  std::int32_t fd;
  std::uint32_t open_flags;  ///< as the caller gave them
  std::uint32_t uid;         ///< whose share of descriptors it counts for
  std::uint32_t generation;  ///< of the last fh that was given out; stays when it is free
  std::uint32_t flags;

  [[nodiscard]] static std::uint64_t fh_of(std::uint32_t index, std::uint32_t generation) noexcept {
    return std::uint64_t{generation} << 32 | index;
  }
};
static_assert(sizeof(HandleRecord) == 64);

/// For Book's constructor: far more than there are inodes and descriptors.
inline constexpr Book::Shape kInodeShape{sizeof(InodeRecord), 1U << 27};
inline constexpr Book::Shape kNameShape{sizeof(NameRecord), 1U << 24};
inline constexpr Book::Shape kHandleShape{sizeof(HandleRecord), 1U << 21};

using InodeRecords = Records<InodeRecord, Kind::kInodes>;
using NameRecords = Records<NameRecord, Kind::kNames>;
using HandleRecords = Records<HandleRecord, Kind::kHandles>;

}  // namespace lockfs
