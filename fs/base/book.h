/// What the daemon must know to go on after a death: records in memory that outlives the process.
///
/// The book is a memory file that the keeper makes and maps before it clones the first daemon; each
/// daemon inherits the mapping and uses the records in place. Without a keeper it is the process's
/// own memory, and goes with it: the code that keeps records is the same.
///
/// Each room keeps records of its own kinds; what a kind looks like, the book does not know. A
/// record's place is its index; index 0 is never given out.
///
/// Thread safety: areas are handed out by any thread; a record is guarded by whoever keeps it. The
/// mapping never moves.
///
/// Invariants:
///  1. What is written at one instant is seen by the next daemon as it was then: the memory is the
///     same, and stores of one thread become visible in their order (x86-64), or are ordered by
///     release stores where it matters: a record's state word is written last.
///  2. An index is below Area::high() from before its record is used.
#pragma once

#include <sys/types.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "fs/base/unique_fd.h"

namespace lockfs {

/// The kinds of records.
enum class Kind : std::uint8_t {
  kInodes,       ///< files that the kernel knows (fs/tree)
  kNames,        ///< how those are found again that no number leads to (fs/tree)
  kHandles,      ///< open files and directories (fs/tree)
  kDescriptors,  ///< descriptors that carry locks at the backing (fs/mirror)
  kLockedFiles,  ///< files with locks, and the change under way (fs/locks)
  kLocks,        ///< granted locks (fs/locks)
  kKept,         ///< requests that were set aside, parked ones among them (fs/loop)
  kSlots,        ///< requests under way (fs/loop)
};
inline constexpr std::size_t kKinds = 8;

class Book {
 public:
  /// What the records of a kind are: their size in bytes, and how many there can be. Memory is
  /// taken when they are first used.
  struct Shape {
    std::uint32_t size = 0;
    std::uint32_t most = 0;
  };
  using Shapes = Shape[kKinds];

  /// `shared`: in a memory file, for daemons to come; else the process's own. Where the address
  /// space is limited (RLIMIT_AS) the records take at most half of it. Throws std::system_error.
  Book(const Shapes& shapes, std::size_t header_size, bool shared);
  /// That of an earlier program, by the descriptor of its memory file, which it owns from now on.
  /// Its records must have these sizes; there can be as many as there could be. Throws
  /// std::system_error: EINVAL for one that is not, or of another size.
  Book(UniqueFd fd, const Shapes& shapes, std::size_t header_size);
  Book(const Book&) = delete;
  Book& operator=(const Book&) = delete;
  ~Book();

  /// The descriptor of the memory file, or -1.
  [[nodiscard]] int fd() const noexcept { return fd_.get(); }
  [[nodiscard]] bool is_shared() const noexcept { return fd_.valid(); }

  /// The header, zero at first.
  template <typename T>
  [[nodiscard]] T& header() const noexcept {
    static_assert(std::is_standard_layout_v<T>);
    return *reinterpret_cast<T*>(memory_);
  }

  [[nodiscard]] std::byte* records(Kind kind) const noexcept { return area(kind).begin; }
  /// Indices below have been given out.
  [[nodiscard]] std::uint32_t high(Kind kind) const noexcept { return area(kind).high->load(); }

  /// Whether there are as many records as there can be; not so where memory was written over.
  [[nodiscard]] bool is_sound() const noexcept;

  /// Gives out `count` records in a row that were never used, which are zero. Returns the first
  /// index; 0: there are no more.
  std::uint32_t extend(Kind kind, std::uint32_t count) noexcept;

 private:
  struct Area {
    std::byte* begin = nullptr;
    Shape shape;
    std::atomic<std::uint32_t>* high = nullptr;  ///< in the page behind the header
  };
  /// What that page holds.
  struct Marks {
    std::atomic<std::uint32_t> highs[kKinds];
    Shape shapes[kKinds];
  };
  void map(int flags);
  void lay_out(std::size_t header, const Marks& marks) noexcept;
  [[nodiscard]] const Area& area(Kind kind) const noexcept {
    return areas_[static_cast<std::size_t>(kind)];
  }

  UniqueFd fd_;
  std::byte* memory_ = nullptr;
  std::size_t bytes_ = 0;
  Area areas_[kKinds];
};

/// Records of one kind, typed. A copy refers to the same.
template <typename Record, Kind kKind>
class Records {
 public:
  static_assert(std::is_standard_layout_v<Record> && std::is_trivially_destructible_v<Record>);

  explicit Records(Book& book) noexcept
      : book_(&book), first_(reinterpret_cast<Record*>(book.records(kKind))) {}

  [[nodiscard]] Record& operator[](std::uint32_t index) const noexcept { return first_[index]; }
  [[nodiscard]] std::uint32_t index_of(const Record& record) const noexcept {
    return static_cast<std::uint32_t>(&record - first_);
  }
  [[nodiscard]] std::uint32_t high() const noexcept { return book_->high(kKind); }
  [[nodiscard]] Book& book() const noexcept { return *book_; }

  /// Calls visit(index, record) for all that have ever been given out.
  template <typename Visit>
  void for_each(const Visit& visit) const {
    const std::uint32_t high = this->high();
    for (std::uint32_t i = 1; i < high; ++i) visit(i, first_[i]);
  }
  /// `holds(record)` for each.
  template <typename Predicate>
  [[nodiscard]] bool all_of(const Predicate& holds) const {
    return std::all_of(first_ + 1, first_ + this->high(), holds);
  }

 private:
  Book* book_;
  Record* first_;
};

/// Gives out records of one kind and takes them back.
///
/// Thread safety: none of its own. Several pools may share a kind, each guarded by its owner.
template <typename Record, Kind kKind>
class RecordPool {
 public:
  explicit RecordPool(Book& book) noexcept : records_(book) {}

  /// Makes sure that the next take() succeeds. False: no memory.
  [[nodiscard]] bool provide() noexcept {
    if (!free_.empty()) return true;
    constexpr std::uint32_t kAtOnce = 64;
    try {
      free_.reserve(free_.size() + kAtOnce);
    } catch (...) {
      return false;
    }
    const std::uint32_t first = records_.book().extend(kKind, kAtOnce);
    if (first == 0) return false;
    for (std::uint32_t i = kAtOnce; i-- > 0;) free_.push_back(first + i);
    return true;
  }
  /// The index of a record, as it was left when it was last used; 0: no memory.
  [[nodiscard]] std::uint32_t take() noexcept {
    if (!provide()) return 0;
    const std::uint32_t index = free_.back();
    free_.pop_back();
    return index;
  }
  /// The caller has marked it as free.
  void give(std::uint32_t index) noexcept {
    try {
      free_.push_back(index);
    } catch (...) {
      return;  // it is not used again until the next daemon finds it
    }
  }
  [[nodiscard]] const Records<Record, kKind>& records() const noexcept { return records_; }

 private:
  Records<Record, kKind> records_;
  std::vector<std::uint32_t> free_;
};

}  // namespace lockfs
