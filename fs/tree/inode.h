/// One backing file as the kernel knows it through this mount, and the counted reference to it.
///
/// Thread safety: an Inode is used by any number of threads, each through an InodePtr of its own.
///
/// Invariants:
///   1. One backing file is one Inode, whatever its hard links: (st_dev, st_ino) names it.
///   2. While an InodePtr exists, fd() is open and does not change, unless it says otherwise where
///      the pointer comes from. An open O_PATH descriptor keeps the backing inode alive, so its
///      number cannot be given to another file meanwhile.
///   3. While only the kernel refers to an Inode (nlookup > 0), the table may close the descriptor
///      if the file can be found again by its file handle, which holds the generation: a reused
///      inode number never passes for the old file.
///   4. An Inode is destroyed when the kernel has forgotten it and the last InodePtr is gone.
///   5. The kernel's references are counted in the book, so that another process can go on with
///      them; each Inode but the root has a record of its own (fs/tree/records.h).
#pragma once

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/types.h>

#include <atomic>
#include <boost/intrusive/list_hook.hpp>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "fs/base/unique_fd.h"
#include "fs/tree/backing_id.h"
#include "fs/tree/lock_state.h"
#include "fs/tree/records.h"

namespace lockfs {

class Device;
class InodeTable;

/// The name of a backing file, unique while the file exists.
struct FileId {
  dev_t dev = 0;
  ino_t ino = 0;
  bool operator==(const FileId&) const = default;
};

/// Whether the file has bits that a write or a change of owner may take away; in a regular file,
/// running it changes the user or the group.
[[nodiscard]] inline bool has_set_id_bits(const struct stat& st) noexcept {
  return !S_ISDIR(st.st_mode) && (st.st_mode & (S_ISUID | S_ISGID)) != 0;
}

/// How the data of an inode's open files is served: the kernel wants one way for all of them.
/// Every field is guarded by DataPassthroughTable; while no InodePtr exists, `backing` by the
/// shard's mutex.
struct DataMode {
  BackingId backing;           ///< none: the daemon reads and writes
  std::uint32_t opens = 0;     ///< open handles
  bool reads_backing = false;  ///< what is registered is a descriptor that can read
};

/// Opens the file behind a descriptor, an O_PATH one too: a descriptor the caller owns
/// (close-on-exec), or -errno. `flags` as for open(2), without O_CREAT. May block as open(2) may
/// (leases, delegations, network filesystems). Not for symbolic links.
[[nodiscard]] int reopen(int path_fd, int flags) noexcept;

/// What is read through `fd` from now on leaves the file's access time alone, where the daemon is
/// the file's owner or above that.
void keep_access_time(int fd) noexcept;

/// What Inode::generation() is made of a file handle.
[[nodiscard]] std::uint32_t generation_of(const std::string& handle) noexcept;

class Inode {
 public:
  /// `st` needs the type and numbers only; `handle` names the file for Device::open_handle and is
  /// empty where the filesystem has no usable file handles.
  Inode(InodeTable& table, const Device& device, std::uint64_t nodeid, const struct stat& st,
        std::string handle, std::uint32_t generation) noexcept;
  Inode(const Inode&) = delete;
  Inode& operator=(const Inode&) = delete;
  ~Inode() = default;

  /// The number FUSE requests and notifications use for this file.
  [[nodiscard]] std::uint64_t nodeid() const noexcept { return nodeid_; }
  [[nodiscard]] const FileId& id() const noexcept { return id_; }
  [[nodiscard]] const Device& device() const noexcept { return device_; }

  /// S_IFREG, S_IFDIR, ...: never changes while the file exists.
  [[nodiscard]] mode_t type() const noexcept { return type_; }

  /// O_PATH descriptor of the backing file; owned by the Inode.
  [[nodiscard]] int fd() const noexcept { return fd_.get(); }

  /// Whether this is the file `name` in the folder behind `folder`; needs no descriptor.
  [[nodiscard]] bool is_at(int folder, const char* name) const noexcept;

  /// Tells two files apart that had the same nodeid one after the other; never 0.
  [[nodiscard]] std::uint32_t generation() const noexcept { return generation_; }

  /// lockfs::reopen() of fd().
  [[nodiscard]] int reopen(int flags) const noexcept { return lockfs::reopen(fd(), flags); }

  /// Where the file is now, for messages to people; "(deleted)" behind it when it has no name any
  /// more. May throw std::bad_alloc.
  [[nodiscard]] std::string path() const;

  /// State of the lock engine; only the lock operations look inside.
  std::unique_ptr<LockAttachment> locks;

  /// When a lock on the file was last granted through the mount, in nanoseconds on
  /// CLOCK_MONOTONIC_COARSE; 0: never.
  std::atomic<std::int64_t> granted_at{0};

  /// The kernel takes the file to be at least as long. Attributes that it is told may be dropped on
  /// the way, and so can lower it, but not raise it.
  std::atomic<std::int64_t> known_size{0};
  void raise_known_size(std::int64_t size) noexcept {
    std::int64_t known = known_size.load();
    while (known < size && !known_size.compare_exchange_weak(known, size)) {
    }
  }
  void lower_known_size(std::int64_t size) noexcept {
    std::int64_t known = known_size.load();
    while (known > size && !known_size.compare_exchange_weak(known, size)) {
    }
  }

  /// How many open files (Handle) may write.
  std::atomic<std::uint32_t> writers{0};

  /// How many open files may be mapped for writing into the backing file, unseen, and how often one
  /// was opened since it was last found that nobody can. A mapping outlives the open file: the
  /// kernel puts the backing file in its place (backing_file_mmap()).
  std::atomic<std::uint32_t> mappers{0};
  std::atomic<std::uint32_t> mapped{0};

  /// Attributes may be in the kernel's cache. Set before the attributes are read from the backing
  /// file, or afterwards by InodeTable::set_attr_cached(): whoever clears it and then notifies the
  /// kernel outruns every older answer, because the kernel drops answers to requests that it sent
  /// before the notification (attr_version).
  std::atomic<bool> attr_cached{false};

  /// Data that the daemon read or wrote may be in the kernel's page cache.
  std::atomic<bool> data_cached{false};

  DataMode data_mode;
  /// Writes `data_mode.backing` down; to be called by whoever has changed it, before its guard is
  /// released.
  void record_backing() noexcept {
    if (record_ == nullptr) return;
    const std::int32_t id = data_mode.backing.value();
    record_->backing_id.store(data_mode.reads_backing ? -id : id);
  }
  /// Takes over what an earlier process had registered, if it had. `device` as for BackingId.
  void adopt_backing(const std::atomic<int>& device) noexcept {
    if (record_ == nullptr || data_mode.backing.value() != 0) return;
    const std::int32_t id = record_->backing_id;
    if (id == 0) return;
    data_mode.reads_backing = id < 0;
    data_mode.backing = BackingId(device, id < 0 ? -id : id);
  }

 private:
  friend class InodePtr;
  friend class InodeTable;

  /// Whether a file found under this inode's id is this file.
  [[nodiscard]] bool is(const struct stat& st, const std::string& handle) const noexcept {
    return (st.st_mode & S_IFMT) == type_ && handle == handle_;
  }
  [[nodiscard]] bool can_reopen() const noexcept;

  /// The kernel has no references; with the shard's mutex held.
  [[nodiscard]] bool is_forgotten() const noexcept {
    return record_ == nullptr || record_->nlookup.load(std::memory_order_relaxed) == 0;
  }

  InodeTable& table_;
  const Device& device_;
  const std::uint64_t nodeid_;
  const FileId id_;
  const std::string handle_;
  const std::uint32_t generation_;
  const mode_t type_;

  std::atomic<std::uint32_t> refs_{0};  ///< InodePtrs; goes to and from 0 under the shard's mutex
  std::uint32_t serial_ = 0;            ///< InodeTable::added() with it; constant once added
  InodeRecord* record_ = nullptr;       ///< null: the root; constant once added
  UniqueFd fd_;                         ///< guarded by the shard's mutex; fixed while refs_ > 0
  bool used_ = false;      ///< since the clock hand passed; guarded by the shard's mutex
  bool replaced_ = false;  ///< a newer file has id_ now; guarded by the shard's mutex
  boost::intrusive::list_member_hook<> clock_hook_;  ///< guarded by the shard's mutex
};

/// Counted reference; copying and moving are cheap, the last one going may free the Inode (closing
/// a descriptor). Not itself thread safe.
class InodePtr {
 public:
  InodePtr() noexcept = default;
  InodePtr(const InodePtr& other) noexcept;
  InodePtr(InodePtr&& other) noexcept : inode_(std::exchange(other.inode_, nullptr)) {}
  InodePtr& operator=(InodePtr other) noexcept {
    std::swap(inode_, other.inode_);
    return *this;
  }
  ~InodePtr();

  [[nodiscard]] Inode* get() const noexcept { return inode_; }
  Inode& operator*() const noexcept { return *inode_; }
  Inode* operator->() const noexcept { return inode_; }
  explicit operator bool() const noexcept { return inode_ != nullptr; }
  bool operator==(const InodePtr&) const = default;

 private:
  friend class InodeTable;
  /// Takes over a reference that is already counted.
  explicit InodePtr(Inode* counted) noexcept : inode_(counted) {}

  Inode* inode_ = nullptr;
};

/// Path of a descriptor under /proc: following it leads to the very file, an O_PATH descriptor's
/// too, and stops there even if that is a symbolic link.
class ProcPath {
 public:
  explicit ProcPath(int fd) noexcept;
  [[nodiscard]] const char* c_str() const noexcept { return text_; }
  /// The last part alone.
  [[nodiscard]] const char* name() const noexcept;

 private:
  char text_[32];
};

}  // namespace lockfs
