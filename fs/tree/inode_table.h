/// All inodes the kernel or the daemon refers to.
///
/// They are kept in the book (fs/tree/records.h), so that the table of a later process, which has
/// the descriptors too, goes on with them. To be quick it makes an Inode of such a record only when
/// the file is asked for; until then the record is "known".
///
/// Thread safety: all members may be called from any thread. The table is split into shards with a
/// mutex each; none is held across a system call.
///
/// Invariants:
///   1. An inode is found by its nodeid while it exists, and by its FileId until a newer file with
///      the same number is met.
///   2. At most `pin_limit` descriptors are kept for inodes that nobody uses and whose filesystem
///      can find them again; the least recently used are closed first (clock algorithm).
///   3. A nodeid names its shard, and is never given to a second live inode.
///   4. The nodeid of a file of the source's own filesystem is what Device::number_of() says, if
///      that says anything and no other live inode has it: it is the same after a restart.
///   5. Inodes are numbered in the order in which they are added; is_among() compares with a count.
///   6. After clear_attr_cached() has said that nobody need be notified, no attributes read before
///      it are given to the kernel: set_attr_cached() refuses them.
///   7. A record that is in use is an inode's, or known and not yet one's. A shard's records never
///      come to another shard. A nodeid that is counted is above all that are in the records.
///   8. What a known record's nodeid leads to has the record's generation, or it is another file,
///      and the nodeid is stale.
#pragma once

#include <array>
#include <atomic>
#include <boost/intrusive/list.hpp>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "fs/base/book.h"
#include "fs/base/unique_fd.h"
#include "fs/tree/device.h"
#include "fs/tree/inode.h"
#include "fs/tree/record_index.h"
#include "fs/tree/records.h"

namespace lockfs {

class InodeTable {
 public:
  /// `root` is an O_PATH descriptor of the source directory. `book` must outlive the object. Throws
  /// std::system_error.
  InodeTable(Book& book, UniqueFd root, std::size_t pin_limit);
  InodeTable(const InodeTable&) = delete;
  InodeTable& operator=(const InodeTable&) = delete;

  /// Frees every inode, known to the kernel or not. No InodePtr may be left.
  ~InodeTable();

  /// Goes on with the inodes that an earlier process left in the book, before the first request.
  /// Takes milliseconds for a million, and makes no system call for any. `passthrough`: the kernel
  /// may read and write backing files itself, and so have mappings of them. Throws std::bad_alloc:
  /// then the process must end without destroying the object, which would take the records with it.
  void recover_known(bool passthrough);

  /// After that: makes inodes of the other records that have a descriptor which may be closed, for
  /// it to be closed one day. May throw std::bad_alloc.
  void adopt_descriptors();

  /// The last step of that, when acquire_open() was called for all files that are open: lets inodes
  /// go that nobody refers to any more, and has unregister(id) called for each registration of a
  /// file that is not open.
  template <typename Unregister>
  void finish_recovery(const Unregister& unregister) noexcept;

  /// Finds the inode with this nodeid. Returns 0, or an errno: ESTALE when there is none or its
  /// backing file is gone.
  [[nodiscard]] int acquire(std::uint64_t nodeid, InodePtr& inode) noexcept;

  /// The same for one that an earlier process had open as `open_fd`, deleted or not. Should there
  /// be no record of it, which there always is, it gets a nodeid as a new one would.
  [[nodiscard]] int acquire_open(std::uint64_t nodeid, int open_fd, InodePtr& inode) noexcept;

  /// Finds a file again that acquire() does not know: an NFS server comes with numbers that were
  /// given out long ago, maybe by an earlier process. Returns 0, or an errno: ESTALE when there is
  /// no such file, or its filesystem finds none by number. May throw std::bad_alloc.
  [[nodiscard]] int recover(std::uint64_t nodeid, InodePtr& inode);

  /// The inode of the backing file that `path_fd` (O_PATH) refers to and `st` describes; made if it
  /// isn't known.
  [[nodiscard]] InodePtr intern(UniqueFd path_fd, const struct stat& st);

  /// The inode with this id, or none, as where it is in a known record only. `*pinned` tells
  /// whether its descriptor is open: on a local filesystem (Device::is_local) that is then the file
  /// that has the number now. Otherwise only what is constant in an Inode is of use.
  [[nodiscard]] InodePtr find(const FileId& id, bool* pinned = nullptr) noexcept;

  /// Whether the file with this id, if it is known, is lost with its last name, since no descriptor
  /// keeps it.
  [[nodiscard]] bool may_lose(const FileId& id) noexcept;

  /// How many inodes have been added so far, and whether one was before there were so many. A file
  /// that has a number now and was known before had it all the time.
  [[nodiscard]] std::uint32_t added() const noexcept { return added_.load(); }
  [[nodiscard]] static bool is_among(std::uint32_t added, const Inode& inode) noexcept {
    return static_cast<std::int32_t>(added - inode.serial_) >= 0;
  }

  /// How often clear_attr_cached() has been called, for any inode.
  [[nodiscard]] std::uint64_t attribute_looks() const noexcept { return attribute_looks_.load(); }

  /// The kernel is about to be told attributes of `inode` that were read from the backing file
  /// after attribute_looks() was `looks`. False: they may be older than what somebody has done for
  /// whom clear_attr_cached() was false, and must be read once more.
  [[nodiscard]] bool set_attr_cached(Inode& inode, std::uint64_t looks) const noexcept {
    inode.attr_cached.store(true);
    return attribute_looks_.load() == looks;
  }

  /// Whether the kernel must be notified for it not to believe attributes of `inode` that were read
  /// before this call.
  [[nodiscard]] bool clear_attr_cached(Inode& inode) noexcept {
    attribute_looks_.fetch_add(1);  // first, so that one of the two sees the other
    return inode.attr_cached.exchange(false);
  }

  /// The kernel is about to learn this inode by a reply.
  void add_lookup(Inode& inode) noexcept;

  /// The kernel dropped `count` of its lookups.
  void forget(std::uint64_t nodeid, std::uint64_t count) noexcept;

  /// How many lookups the kernel has of it; 0: it is not known.
  [[nodiscard]] std::uint64_t lookups(std::uint64_t nodeid) noexcept;

  [[nodiscard]] const InodePtr& root() const noexcept { return root_; }

  /// The inode number that the mount shows for a backing file; see Device::shown_ino().
  [[nodiscard]] ino_t shown_ino(const FileId& id) const noexcept {
    const Device* device = devices_.find(id.dev);
    return device == nullptr ? id.ino : device->shown_ino(id.ino);
  }

  /// Closes descriptors nobody used since the last call. They keep deleted files' space occupied
  /// and mounts busy.
  void close_idle() noexcept;

  /// Gives memory back to the system once most inodes that there were are forgotten. To be called
  /// now and then, by one thread.
  void release_memory() noexcept;

  struct Counts {
    std::size_t inodes = 0;
    std::size_t pinned = 0;  ///< evictable inodes whose descriptor is open
  };
  [[nodiscard]] Counts counts() const noexcept;

 private:
  friend class InodePtr;

  struct FileIdHash {
    std::size_t operator()(const FileId& id) const noexcept;
  };
  using ClockHook =
      boost::intrusive::member_hook<Inode, decltype(Inode::clock_hook_), &Inode::clock_hook_>;

  struct Shard {
    mutable std::mutex mutex;  ///< guards the rest
    std::unordered_map<std::uint64_t, Inode*> by_nodeid;
    std::unordered_map<FileId, Inode*, FileIdHash> by_id;
    /// Inodes whose open descriptor may be closed when unused; the clock hand is at the front.
    boost::intrusive::list<Inode, ClockHook> clock;
    std::uint64_t next_number = 0;  ///< for files that cannot have their inode number as nodeid

    std::optional<RecordPool<InodeRecord, Kind::kInodes>> records;  ///< always there
    std::optional<RecordPool<NameRecord, Kind::kNames>> names;      ///< likewise
    RecordIndex known;            ///< by nodeid; entries may be of records that are no longer known
    RecordIndex known_names;      ///< by FileId, those whose nodeid is counted; likewise
    std::size_t known_count = 0;  ///< records that are known
  };
  static constexpr unsigned kShardBits = 6;
  static constexpr std::size_t kShards = std::size_t{1} << kShardBits;
  using Lock = std::lock_guard<std::mutex>;

  /// Drops one reference.
  void release(Inode& inode) noexcept;

  /// Opens an inode again that was found without a descriptor. Returns 0 or errno.
  int repin(Shard& shard, Inode& inode) noexcept;

  static std::size_t shard_index(ino_t ino) noexcept;
  Shard& shard_of(const Inode& inode) noexcept { return shards_[shard_index(inode.id_.ino)]; }
  Shard& shard_of(std::uint64_t nodeid) noexcept;

  /// How the file of a known record is found.
  struct Trace {
    std::uint64_t nodeid = 0;
    std::uint32_t generation = 0;
    bool open = false;   ///< the record has its descriptor
    bool named = false;  ///< `st` has the type and the numbers, `handle` is there
    struct stat st {};
    std::string handle;
  };
  static int open_known(Trace& trace, const Device& device, UniqueFd& path_fd);
  /// acquire() for what was a known record a moment ago.
  int acquire_known(Shard& shard, std::uint64_t nodeid, std::uint32_t known,
                    InodePtr& inode) noexcept;

  // With the shard's mutex held:
  /// The inode takes `path_fd`, unless the record has a descriptor for it. `known`: the record that
  /// it takes over; 0: it gets a new one. May throw std::bad_alloc.
  Inode& add(Shard& shard, const Device& device, UniqueFd& path_fd, const struct stat& st,
             std::string handle, std::uint32_t known);
  /// Makes the record of a new inode. The pools have been provided.
  static void write_record(Shard& shard, Inode& inode) noexcept;
  /// A known record by its nodeid, which no Inode has; 0: there is none.
  static std::uint32_t find_known(const Shard& shard, std::uint64_t nodeid) noexcept;
  /// The known record of this very file, whatever its nodeid; 0: there is none.
  static std::uint32_t find_known(const Shard& shard, const Device& device, const struct stat& st,
                                  const std::string& handle) noexcept;
  static void leave_known(Shard& shard) noexcept;
  /// The caller closes the descriptor that the record had.
  static UniqueFd free_known(Shard& shard, std::uint32_t index) noexcept;
  static void free_record(Shard& shard, InodeRecord& record) noexcept;
  static Trace trace_of(const Shard& shard, std::uint32_t index);
  static void replace(Shard& shard, const FileId& id) noexcept;
  static std::uint64_t new_nodeid(Shard& shard, const Device& device, ino_t ino,
                                  const std::string& handle) noexcept;
  static InodePtr refer(Inode& inode) noexcept;
  /// Gives the inode this descriptor if it has none.
  static void pin(Shard& shard, Inode& inode, UniqueFd& path_fd) noexcept;
  /// What an inode gives up with its descriptor.
  struct Descriptors {
    UniqueFd fd;
    BackingId backing;
  };
  /// Takes descriptors to close while the shard has more than its share: as a rule more than come
  /// in, so that the limit holds in the long run.
  using Evicted = std::array<Descriptors, 2>;
  void evict(Shard& shard, Evicted& evicted) const noexcept;
  /// One step of the clock: the descriptor of the inode under the hand if it is idle.
  static Descriptors advance_hand(Shard& shard) noexcept;
  static std::unique_ptr<Inode> take_out(Shard& shard, Inode& inode) noexcept;

  Book& book_;
  const std::size_t pins_per_shard_;
  DeviceTable devices_;
  std::array<Shard, kShards> shards_;
  std::atomic<std::uint32_t> added_{0};
  std::atomic<std::uint64_t> attribute_looks_{0};
  InodePtr root_;
  bool mapped_before_ = false;  ///< recover_known()'s `passthrough`; constant afterwards
  /// What finish_recovery() looks at: records that nobody may refer to, and with registrations.
  std::vector<std::uint32_t> unreferenced_;
  std::vector<std::uint32_t> registered_;
  std::size_t most_inodes_ = 0;  ///< since memory was given back; used by release_memory() alone
};

template <typename Unregister>
void InodeTable::finish_recovery(const Unregister& unregister) noexcept {
  const InodeRecords records(book_);
  for (const std::uint32_t index : registered_) {
    InodeRecord& record = records[index];
    const std::uint64_t nodeid = record.nodeid;
    if (nodeid == 0) continue;
    {
      Shard& shard = shard_of(nodeid);
      const Lock lock(shard.mutex);
      if (shard.by_nodeid.contains(nodeid)) continue;  // open, and its own now
    }
    const std::int32_t id = record.backing_id;
    unregister(id < 0 ? -id : id);
    record.backing_id = 0;
  }
  for (const std::uint32_t index : unreferenced_) {
    const std::uint64_t nodeid = records[index].nodeid;
    if (nodeid == 0) continue;
    Shard& shard = shard_of(nodeid);
    UniqueFd closed;  // after the mutex is released
    const Lock lock(shard.mutex);
    if (!shard.by_nodeid.contains(nodeid)) closed = free_known(shard, index);
  }
  unreferenced_.clear();
  registered_.clear();
}

}  // namespace lockfs
