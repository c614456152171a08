/// Granted locks in the book: what a new daemon restores.
///
/// Thread safety: LockRecords may be used from any thread; a FileJournal is guarded by the mutex of
/// its file.
///
/// Invariants:
///  1. A record whose `opened` is not 0 is of a lock that is granted, or part of the change that
///     the record of its file announces.
#pragma once

#include <array>
#include <atomic>
#include <boost/container/small_vector.hpp>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "fs/base/book.h"
#include "lockmgr/journal.h"
#include "lockmgr/owner.h"
#include "lockmgr/range.h"

namespace lockfs {

/// A granted lock.
struct LockRecord {
  std::atomic<std::uint64_t> opened;  ///< the number of the open file; 0: free; written last
  std::uint64_t cookie;
  std::int64_t first;
  std::atomic<std::int64_t> last;
  std::int32_t pid, tid;
  std::uint32_t uid;
  std::int32_t process;
  std::uint32_t since;
  std::uint16_t epoch;
  std::uint8_t type;
  std::uint8_t mode;
};
static_assert(sizeof(LockRecord) == 56);

/// A file with locks: the change of its locks that is under way.
struct LockedFileRecord {
  std::atomic<std::uint64_t> nodeid;  ///< 0: free
  std::atomic<std::uint32_t> changing;
  std::uint8_t type;
  std::uint8_t mode;
  std::uint64_t cookie;
  std::int64_t first, last;
  std::uint64_t padding;
};
static_assert(sizeof(LockedFileRecord) == 48);

class LockRecords {
 public:
  static constexpr std::uint32_t kMostFiles = 1U << 22;
  static constexpr Book::Shape kFileShape{sizeof(LockedFileRecord), kMostFiles};
  /// For a mount that grants at most so many locks.
  static Book::Shape shape_for(std::uint64_t most_locks) noexcept;

  /// As Filesystem::damage_in().
  static std::string_view damage_in(Book& book);

  /// Finds what an earlier daemon has left. May throw std::bad_alloc.
  explicit LockRecords(Book& book);

  /// A lock that was left, and its record.
  using Left = std::pair<lockmgr::Journal::Record, lockmgr::Journal::Entry>;
  /// Gives up those that were left, by the number of the open file.
  [[nodiscard]] std::unordered_map<std::uint64_t, std::vector<Left>> take_left();
  /// Frees the record of a lock that cannot be restored.
  void drop(lockmgr::Journal::Record record) noexcept;

  /// A change that was announced and not ended.
  struct Change {
    lockmgr::OwnerId owner;
    lockmgr::Range range;
    lockmgr::Mode mode = lockmgr::Mode::kNone;
  };
  /// Gives up the changes that were under way, by the file's nodeid: to be made once its locks are
  /// restored.
  [[nodiscard]] std::vector<std::pair<std::uint64_t, Change>> take_changes();
  /// Frees the records of files that nobody has taken over.
  void end_recovery() noexcept;

  /// A journal for the locks of a file; takes over the file's record if one was left. It must not
  /// outlive the object. Throws std::bad_alloc, also when the book is full.
  std::unique_ptr<lockmgr::Journal> journal_of(std::uint64_t nodeid);

 private:
  friend class FileJournal;
  using LockPool = RecordPool<LockRecord, Kind::kLocks>;
  using FilePool = RecordPool<LockedFileRecord, Kind::kLockedFiles>;

  /// Files share pools, some by one.
  struct Shard {
    explicit Shard(Book& book) : pool(book) {}
    std::mutex mutex;
    LockPool pool;  ///< guarded by mutex
  };
  Shard& shard_of(std::uint64_t nodeid) noexcept { return *shards_[nodeid % shards_.size()]; }

  Records<LockRecord, Kind::kLocks> locks_;
  std::array<std::unique_ptr<Shard>, 16> shards_;
  std::mutex files_mutex_;
  FilePool files_;                                               ///< guarded by files_mutex_
  std::unordered_map<std::uint64_t, std::uint32_t> left_files_;  ///< guarded by files_mutex_
  std::unordered_map<std::uint64_t, std::vector<Left>> left_;
  std::vector<std::pair<std::uint64_t, Change>> left_changes_;
};

}  // namespace lockfs
