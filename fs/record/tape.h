/// What the lock operations do, on its way to a trace: a ring of fixed size between the threads
/// that carry out requests and the one that writes them down. Neither a slow nor a dead reader can
/// delay a lock or use up memory; what does not fit is counted. While nothing is recorded it costs
/// one relaxed load a request.
///
/// Thread safety: open(), close() and take() from one thread at a time, all else from any thread.
/// What is put on the tape for one file within its strand keeps that order.
///
/// Invariants:
///  1. While the tape is closed it holds nothing, so it keeps no file alive.
///  2. While it is open, putting something on it allocates nothing.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "fs/base/unique_fd.h"
#include "lockmgr/file_locks.h"
#include "lockmgr/lock_manager.h"
#include "lockmgr/trace/trace.h"

namespace lockfs {

/// One entry of the tape. Which fields mean something depends on the kind.
struct TapeItem {
  enum class Kind : std::uint8_t {
    kAsk,
    kAnswer,
    kFlush,
    kClose,
    kTick,        ///< LockManager::relent() was called
    kHeld,        ///< a lock granted before the recording began
    kWaiting,     ///< a request that waited before it
    kOutside,     ///< what the backing said that is decided outside of the manager
    kOutsideEnd,  ///< a wait at the backing has ended
    kPolicy,      ///< the mount was switched to another policy
    kRevoke,      ///< an administrator took a lock away
  };
  using Clock = std::chrono::steady_clock;

  Kind kind = Kind::kTick;
  Clock::time_point time;
  std::uint64_t ask = 0;       ///< kAsk, kAnswer; 0: the answer to a kWaiting
  lockmgr::Ticket ticket = 0;  ///< kWaiting, kAnswer
  std::shared_ptr<const lockmgr::FileLocks> file;
  const void* open = nullptr;  ///< which open file; null: unknown. Names, never dereferenced
  bool readable = true;
  bool writable = true;
  /// kFlush: only owner and caller; kOutside: range and mode of who is in the way, if anybody is
  /// known (mode kNone: nobody); kRevoke: owner and range.
  lockmgr::Request request;
  int error = 0;           ///< kAnswer, kOutside, kOutsideEnd
  lockmgr::FileKey key;    ///< kOutside, kRevoke: of the file
  std::uint64_t wait = 0;  ///< kOutside: the wait that is begun, 0: none; kOutsideEnd: which
  lockmgr::trace::OutsideSaid said = lockmgr::trace::OutsideSaid::kRefused;  ///< kOutside
  std::uint32_t call = 0;                                                    ///< kOutside
  lockmgr::Policy policy;                                                    ///< kPolicy
};

class Tape {
 public:
  static constexpr std::size_t kRoom = 16384;

  /// Closed at first. Throws std::system_error.
  Tape();
  Tape(const Tape&) = delete;
  Tape& operator=(const Tape&) = delete;

  /// Lets items in from now on. Throws std::bad_alloc.
  void open();
  void close() noexcept;
  [[nodiscard]] bool is_open() const noexcept { return open_.load(std::memory_order_relaxed); }

  /// The number of the recording under way, 0 if there is none: files note in which one they have
  /// been described.
  [[nodiscard]] std::uint32_t recording() const noexcept {
    return is_open() ? recording_.load(std::memory_order_relaxed) : 0;
  }

  /// While it lives, what this thread puts on the tape, and does to locks, carries the time at
  /// which it was made, which no other has: so a reader can tell what came of what.
  class Cause {
   public:
    explicit Cause(Tape& tape) noexcept
        : moment_(tape.is_open() && !time() ? tape.next_time() : Moment::current()) {}
    Cause(const Cause&) = delete;
    Cause& operator=(const Cause&) = delete;

    /// That of the one that lives on the calling thread.
    static std::optional<TapeItem::Clock::time_point> time() noexcept {
      const auto now = Moment::current();
      if (now == TapeItem::Clock::time_point{}) return std::nullopt;
      return now;
    }

   private:
    using Moment = lockmgr::LockManager::Moment;
    const Moment moment_;
  };

  /// Puts the item on the tape and fills in its time. An ask gets a number, never used twice, which
  /// is returned; 0 when it was not put down. An answer to 0 is ignored.
  std::uint64_t put(TapeItem item) noexcept;

  /// Becomes readable when there is something to take; owned by the object.
  [[nodiscard]] int fd() const { return wake_.get(); }

  /// Becomes readable when half the room is taken; owned by the object.
  [[nodiscard]] int hurry_fd() const { return hurry_.get(); }

  /// Moves everything into `items` (emptied first) and returns how many were lost after these.
  std::uint64_t take(std::vector<TapeItem>& items);

 private:
  TapeItem::Clock::time_point next_time() noexcept;

  UniqueFd wake_;   ///< eventfd
  UniqueFd hurry_;  ///< eventfd
  std::atomic<bool> open_{false};
  std::atomic<std::uint32_t> recording_{0};
  std::atomic<TapeItem::Clock::rep> last_time_{0};
  std::mutex mutex_;
  std::vector<TapeItem> items_;  ///< guarded by mutex_; never more than kRoom
  std::uint64_t next_ask_ = 1;   ///< guarded by mutex_
  std::uint64_t lost_ = 0;       ///< guarded by mutex_; once one is lost, all are until take()
};

}  // namespace lockfs
