/// Requests that were read from the device and are not answered yet, in the book: whatever the
/// daemon dies of, the next one finds them and answers each.
///
/// A request is read into a slot, which its thread keeps until it has carried the request out; one
/// that waits for something (a lock, as a rule) is moved to a kept record first, which is small.
///
/// Invariants:
///  1. A request that was read and not answered is in a slot or a kept record, or for a moment in
///     both, with the same number.
///  2. An answer that must not come out otherwise a second time is in the slot, and the slot is
///     done, before the answer is written to the device. One that is written twice does no harm:
///     the second time nobody waits for it (ENOENT).
#pragma once

#include <linux/fuse.h>
#include <sys/uio.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <string_view>
#include <vector>

#include "fs/base/book.h"
#include "fs/loop/current_request.h"

namespace lockfs {

/// A request under way. Of one thread, but for the atomics' next reader after a death.
struct RequestSlot {
  /// The largest request and what goes before it, as libfuse has it (256 pages and one).
  static constexpr std::size_t kRoom = std::size_t{257} * 4096;
  static constexpr std::size_t kMostCounts = 128;

  enum State : std::uint32_t {
    kFree,
    kReading,  ///< there is a request in it once its length is not 0
    kDoing,    ///< carried out, or about to be
    kDone,     ///< and its answer stands behind it
  };

  std::atomic<std::uint32_t> state;
  std::uint32_t answer_size;  ///< bytes
  std::uint64_t unique;
  std::int64_t begun_at;                      ///< CurrentRequest::begun_at()
  std::uint32_t repeats;                      ///< earlier daemons that began it
  std::atomic<std::int32_t> process, thread;  ///< that carry it out
  std::atomic<std::uint32_t> noted;           ///< `note` is there
  CurrentRequest::Note note;
  // CurrentRequest::CountChange:
  std::atomic<std::uint32_t> counts_made;
  /// Which one is being made: counts_made and one; 0: none, and so is any other number. With
  /// kTakesBack it is the last of those made that is being undone.
  std::atomic<std::uint32_t> count_pending;
  static constexpr std::uint32_t kTakesBack = 1U << 31;
  std::uint64_t count_node, count_after;
  std::array<std::uint64_t, kMostCounts> counted;  ///< the nodeids of those made
  alignas(4096) char bytes[kRoom];

  [[nodiscard]] fuse_in_header& header() noexcept {
    return *reinterpret_cast<fuse_in_header*>(bytes);
  }
  /// Where the answer goes: behind the request.
  [[nodiscard]] char* answer() noexcept {
    constexpr std::size_t kUnit = 8;
    const std::size_t size = header().len;
    return bytes + (size + kUnit - 1) / kUnit * kUnit;
  }
  [[nodiscard]] std::size_t answer_room() noexcept {
    return static_cast<std::size_t>(bytes + kRoom - answer());
  }

  void begin_reading() noexcept;
  void begin() noexcept;
  /// The calling thread carries it out from now on.
  void take_up() noexcept;
  /// Whether the thread that carried it out, of a process that died, is still in a system call:
  /// what that does is not over yet.
  [[nodiscard]] bool is_under_way() const noexcept;
  void end() noexcept { state.store(kFree, std::memory_order_release); }
  /// An answer is about to be written to the device.
  void note_answer(const iovec* parts, int count) noexcept;
};

/// A request that was set aside.
struct KeptRecord {
  static constexpr std::size_t kRoom = 344;

  enum State : std::uint32_t { kFree, kWaits, kDone };

  std::atomic<std::uint32_t> state;
  std::int32_t error;  ///< the answer, if kDone
  std::uint64_t unique;
  std::int64_t parked_at;  ///< nanoseconds on CLOCK_MONOTONIC; 0: it is not parked
  std::atomic<std::uint32_t> interrupted;
  std::uint32_t size;  ///< of `bytes`
  char padding[8];
  char bytes[kRoom];

  [[nodiscard]] const fuse_in_header& header() const noexcept {
    return *reinterpret_cast<const fuse_in_header*>(bytes);
  }
};
static_assert(sizeof(KeptRecord) == 384);

/// Slots for the threads of a loop.
///
/// Thread safety: all methods may be called from any thread.
class RequestSlots {
 public:
  static constexpr std::uint32_t kMost = 4096;
  static constexpr Book::Shape kShape{sizeof(RequestSlot), kMost};

  explicit RequestSlots(Book& book) : pool_(book) {}

  /// What kind of record cannot be right, whatever the process died of; empty: none.
  static std::string_view damage_in(Book& book);

  /// A slot whose memory is there: the kernel answers a request with EIO if it dies while it
  /// copies to memory that is not. Null: none is left, or no memory.
  RequestSlot* take() noexcept;
  void give(RequestSlot& slot) noexcept;
  /// Whether they outlive the process.
  [[nodiscard]] bool outlive() const noexcept { return pool_.records().book().is_shared(); }

  /// Slots that an earlier daemon left in use, which give() takes back; for the first call. May
  /// throw std::bad_alloc.
  std::vector<RequestSlot*> take_over();

 private:
  std::mutex mutex_;
  RecordPool<RequestSlot, Kind::kSlots> pool_;  ///< guarded by mutex_
  std::vector<bool> present_;                   ///< by index: memory is there; guarded by mutex_
};

/// Thread safety: all methods may be called from any thread.
class KeptRequests {
 public:
  static constexpr std::uint32_t kMost = 1U << 20;
  static constexpr Book::Shape kShape{sizeof(KeptRecord), kMost};

  explicit KeptRequests(Book& book) : pool_(book) {}

  /// As RequestSlots::damage_in().
  static std::string_view damage_in(Book& book);

  /// Copies a request. Returns its record; 0: it does not fit, or no memory.
  std::uint32_t keep(const char* bytes, std::size_t size) noexcept;
  /// It is about to be answered with an errno or 0. 0 as the record is ignored, here and below.
  void answering(std::uint32_t record, int error) noexcept;
  /// It was answered.
  void give(std::uint32_t record) noexcept;
  /// It is parked since then, by CLOCK_MONOTONIC.
  void note_parked(std::uint32_t record, std::int64_t nanoseconds) noexcept;
  void note_interrupted(std::uint32_t record) noexcept;
  [[nodiscard]] KeptRecord& operator[](std::uint32_t record) const noexcept {
    return pool_.records()[record];
  }

  /// Those that an earlier daemon left. May throw std::bad_alloc.
  std::vector<std::uint32_t> take_over();

 private:
  std::mutex mutex_;
  RecordPool<KeptRecord, Kind::kKept> pool_;  ///< guarded by mutex_
};

}  // namespace lockfs
