/// Which descriptors carry locks at the backing, on record in the book, so that the next daemon
/// finds them after a death: the table of descriptors outlives the daemon, and with it every open
/// file description and the OFD locks and flocks on it. What is locked through a descriptor is not
/// written down; the kernel knows it.
///
/// Thread safety: all methods may be called from any thread; none blocks. A LoggedFd is moved or
/// reset by one thread at a time.
///
/// Invariants:
///  1. A descriptor is open while it is on record: it is written down after it was opened, before
///     any lock is taken through it, and taken off before it is closed. So one that is not on
///     record carries nothing that is wanted.
///  2. The number of the file, which is what makes a record one, is written last and cleared first.
///  3. What an earlier daemon left is handed out once.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <string_view>
#include <utility>
#include <vector>

#include "fs/base/book.h"
#include "fs/base/unique_fd.h"

namespace lockfs {

/// What a descriptor is for.
enum class DescriptorUse : std::uint32_t {
  kShared = 1,     ///< shared record locks: read-only, where the file can be opened so
  kExclusive = 2,  ///< record locks of either mode: writable
  kFlock = 3,      ///< a flock
};

struct DescriptorRecord {
  std::atomic<std::uint64_t> nodeid;  ///< of the file; 0: the record is free
  std::int32_t fd;
  DescriptorUse use;
};
static_assert(sizeof(DescriptorRecord) == 16);

class LoggedFd;

class DescriptorLog {
 public:
  /// What Kind::kDescriptors must be in the book.
  static constexpr Book::Shape kShape{sizeof(DescriptorRecord), 1U << 21U};

  /// Finds what an earlier daemon left in `book`, which must outlive the object. May throw
  /// std::bad_alloc.
  explicit DescriptorLog(Book& book);
  DescriptorLog(const DescriptorLog&) = delete;
  DescriptorLog& operator=(const DescriptorLog&) = delete;

  /// Puts `fd`, which remains the caller's, on record. `nodeid` is not 0. Returns the index of the
  /// record; 0: no memory. See LoggedFd, which does it.
  [[nodiscard]] std::uint32_t add(std::uint64_t nodeid, int fd, DescriptorUse use) noexcept;
  /// Takes it off. To be called before the descriptor is closed.
  void remove(std::uint32_t index) noexcept;

  /// What an earlier daemon left for this file, in the order of the records; it is the caller's
  /// now. May throw std::bad_alloc; then nothing was handed out.
  [[nodiscard]] std::vector<LoggedFd> take_over(std::uint64_t nodeid);
  /// All that nobody has taken over: of files that nobody will ask for again, once everything is
  /// recovered. To drop it is to close it. May throw std::bad_alloc, as take_over().
  [[nodiscard]] std::vector<LoggedFd> abandoned();

  /// Appends all descriptors that are on record, for whoever closes the others. May throw
  /// std::bad_alloc.
  static void known_descriptors(const Book& book, std::vector<int>& found);
  /// As Filesystem::damage_in().
  static std::string_view damage_in(Book& book);

 private:
  using Pool = RecordPool<DescriptorRecord, Kind::kDescriptors>;
  struct Left {
    std::uint64_t nodeid = 0;
    std::uint32_t index = 0;  ///< 0: taken over
  };

  [[nodiscard]] LoggedFd hand_out(Left& left) noexcept;

  std::mutex mutex_;
  Pool pool_;               ///< guarded by mutex_
  std::vector<Left> left_;  ///< sorted; guarded by mutex_
};

/// Sole owner of a descriptor that is on record while it is open.
class LoggedFd {
 public:
  LoggedFd() noexcept = default;
  /// Puts `fd` on record in `log`, which must outlive it; null: it is not on record anywhere.
  /// Returns 0, or ENOLCK where there is no memory; then `fd` was closed.
  [[nodiscard]] static int make(UniqueFd fd, DescriptorUse use, DescriptorLog* log,
                                std::uint64_t nodeid, LoggedFd& made) noexcept;
  LoggedFd(LoggedFd&& other) noexcept { *this = std::move(other); }
  LoggedFd& operator=(LoggedFd&& other) noexcept;
  LoggedFd(const LoggedFd&) = delete;
  LoggedFd& operator=(const LoggedFd&) = delete;
  ~LoggedFd() { reset(); }

  [[nodiscard]] int get() const noexcept { return fd_.get(); }
  [[nodiscard]] bool valid() const noexcept { return fd_.valid(); }
  explicit operator bool() const noexcept { return valid(); }
  [[nodiscard]] DescriptorUse use() const noexcept { return use_; }

  void reset() noexcept;
  /// Gives it up, open and on record as it is, to the next daemon.
  void leave() noexcept;

 private:
  friend class DescriptorLog;

  DescriptorLog* log_ = nullptr;
  std::uint32_t index_ = 0;
  DescriptorUse use_ = DescriptorUse::kShared;
  UniqueFd fd_;
};

}  // namespace lockfs
