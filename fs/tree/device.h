/// The filesystems below the source: the one the source directory is on and those mounted further
/// down.
///
/// Thread safety: a Device doesn't change once made; DeviceTable may be used from any thread.
///
/// Invariants:
///   1. A filesystem keeps its index and its descriptor from one process to the next as long as a
///      NameRecord has them. The source's own is looked at anew.
#pragma once

#include <sys/stat.h>
#include <sys/types.h>

#include <cstdint>
#include <list>
#include <shared_mutex>
#include <string>

#include "fs/base/unique_fd.h"

namespace lockfs {

class Device {
 public:
  /// `path_fd` is any file of the filesystem. `index` is 0 for the source's own.
  Device(dev_t dev, std::uint16_t index, int path_fd, mode_t type) noexcept;

  /// What an earlier process knew of a filesystem.
  struct Known {
    std::uint16_t index = 0;
    int mount_fd = -1;
    std::uint16_t traits = 0;
  };
  /// Owns the descriptor. Not for the source's own.
  Device(dev_t dev, const Known& known) noexcept;

  [[nodiscard]] dev_t dev() const noexcept { return dev_; }
  [[nodiscard]] std::uint16_t index() const noexcept { return index_; }
  /// What open_handle() needs; -1: there is none.
  [[nodiscard]] int mount_fd() const noexcept { return mount_fd_.get(); }
  [[nodiscard]] std::uint16_t traits() const noexcept;
  [[nodiscard]] bool is_source() const noexcept { return index_ == 0; }

  /// The backing files live on a local disk or in memory: close() has nothing to write back, and
  /// the number of an open file is not given to another one.
  [[nodiscard]] bool is_local() const noexcept { return local_; }

  /// A call may take for ever, because another machine or a program must answer it.
  [[nodiscard]] bool may_stall() const noexcept { return may_stall_; }

  /// /proc lists the record locks that are taken here. A FUSE filesystem that keeps locks itself
  /// has none there (fuse_setlk() does not record them).
  [[nodiscard]] bool lists_locks() const noexcept { return lists_locks_; }

  /// open_handle() works: a descriptor may be closed and had again.
  [[nodiscard]] bool can_reopen() const noexcept { return can_reopen_; }

  /// File handle (name_to_handle_at) of the file behind `fd`; empty if there is none.
  [[nodiscard]] std::string handle_of(int fd) const;

  /// Whether `handle` is that of the file `name` in the folder behind `folder` (a symbolic link is
  /// not followed).
  [[nodiscard]] static bool leads_to(int folder, const char* name,
                                     const std::string& handle) noexcept;

  /// O_PATH descriptor of the file that `handle` names, or -errno (ESTALE: it no longer exists).
  [[nodiscard]] int open_handle(const std::string& handle) const noexcept;

  /// number_of() and open_number() work.
  [[nodiscard]] bool finds_numbers() const noexcept { return numbers_ != Numbers::kNone; }

  /// A number that open_number() turns back into the file, whatever became of this process since:
  /// the inode number where the filesystem finds files by it (ext4, f2fs, jfs, btrfs, xfs), inode
  /// number and generation in one on tmpfs; 0 where there is no such number. Below 2^63; the low
  /// bits are the inode number's.
  [[nodiscard]] std::uint64_t number_of(ino_t ino, const std::string& handle) const noexcept;

  /// O_PATH descriptor of the file with that number, or -errno (ESTALE: there is none, or no file
  /// can be found by number).
  [[nodiscard]] int open_number(std::uint64_t number) const noexcept;

  /// The inode number in a number_of().
  [[nodiscard]] static ino_t ino_of(std::uint64_t number) noexcept {
    return (number & kPacked) != 0 ? number & ((std::uint64_t{1} << kInoBits) - 1) : number;
  }

  /// Inode number to show. The mount shows one st_dev, by which tar or rsync detect hard links, so
  /// files of different filesystems must not share a number.
  [[nodiscard]] ino_t shown_ino(ino_t ino) const noexcept {
    return ino ^ (static_cast<ino_t>(index_) << 48);
  }

 private:
  /// How a file handle is had from an inode number, see open_number().
  enum class Numbers { kNone, kIno32, kBtrfs, kXfs, kPacked };
  static constexpr std::uint64_t kPacked = std::uint64_t{1} << 62;
  static constexpr unsigned kInoBits = 30;

  enum Trait : std::uint16_t { kLocal = 1, kMayStall = 2, kListsLocks = 4, kCanReopen = 8 };

  void learn_numbers(std::uint64_t magic, int path_fd);
  [[nodiscard]] std::string handle_of_number(std::uint64_t number) const;

  const dev_t dev_;
  const std::uint16_t index_;
  bool local_ = false;
  bool may_stall_ = true;
  bool lists_locks_ = false;
  bool can_reopen_ = false;
  Numbers numbers_ = Numbers::kNone;
  std::string sample_;  ///< a handle of this filesystem
  UniqueFd mount_fd_;   ///< open_by_handle_at takes no O_PATH descriptor
};

class DeviceTable {
 public:
  /// The device of a file, added if it is new. Devices are never removed: their number is that of
  /// the filesystems ever met.
  Device& find_or_add(const struct stat& st, int path_fd);

  /// Null when no file of this filesystem has been met.
  [[nodiscard]] const Device* find(dev_t dev) const noexcept;

  /// Adds one that an earlier process knew. REQUIRES: find() has none. Throws std::bad_alloc, and
  /// then has not taken the descriptor.
  void restore(dev_t dev, const Device::Known& known);

 private:
  mutable std::shared_mutex mutex_;
  std::list<Device> devices_;   ///< guarded by mutex_; elements stay where they are
  std::size_t next_index_ = 0;  ///< guarded by mutex_
};

}  // namespace lockfs
