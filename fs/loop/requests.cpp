#include "fs/loop/requests.h"

#include <sys/mman.h>
#include <unistd.h>

#include <csignal>
#include <cstring>
#include <ctime>
#include <new>

#include "fs/base/clock.h"
#include "fs/base/death_point.h"

namespace lockfs {
namespace {

/// Slots whose memory stays when nobody uses them; the rest gives it back.
constexpr std::size_t kKeptSlots = 8;

}  // namespace

// -- a slot ---------------------------------------------------------------------------------------

void RequestSlot::begin_reading() noexcept {
  std::atomic_ref(header().len).store(0, std::memory_order_relaxed);
  state.store(kReading, std::memory_order_release);
}

void RequestSlot::begin() noexcept {
  unique = header().unique;
  begun_at = nanoseconds_on(CLOCK_REALTIME_COARSE);
  repeats = 0;
  take_up();
  noted.store(0, std::memory_order_relaxed);
  counts_made.store(0, std::memory_order_relaxed);
  count_pending.store(0, std::memory_order_relaxed);
  state.store(kDoing, std::memory_order_release);
}

void RequestSlot::take_up() noexcept {
  static thread_local const pid_t self = ::gettid();
  process.store(::getpid(), std::memory_order_relaxed);
  thread.store(self, std::memory_order_relaxed);
}

bool RequestSlot::is_under_way() const noexcept {
  if (state.load() != kDoing || process == ::getpid()) return false;
  return ::tgkill(process, thread, 0) == 0;
}

void RequestSlot::note_answer(const iovec* parts, int count) noexcept {
  if (state.load(std::memory_order_relaxed) != kDoing) return;
  const auto& out = *static_cast<const fuse_out_header*>(parts[0].iov_base);
  // What was read is read again: data would be copied for nothing.
  if (out.unique != unique || header().opcode == FUSE_READ || out.len > answer_room()) return;
  death_point("answer.to_be_stored");
  char* to = answer();
  for (int i = 0; i < count; ++i) {
    std::memcpy(to, parts[i].iov_base, parts[i].iov_len);
    to += parts[i].iov_len;
  }
  answer_size = out.len;
  state.store(kDone, std::memory_order_release);
  death_point("answer.stored");
}

// -- slots ----------------------------------------------------------------------------------------

std::string_view RequestSlots::damage_in(Book& book) {
  const Records<RequestSlot, Kind::kSlots> slots(book);
  const bool right = slots.all_of([](RequestSlot& slot) {
    const std::uint32_t state = slot.state;
    if (state == RequestSlot::kFree) return true;
    const std::uint32_t size = slot.header().len;
    if (state == RequestSlot::kReading && size == 0) return true;
    const bool fits = size >= sizeof(fuse_in_header) && size <= RequestSlot::kRoom;
    if (!fits || state > RequestSlot::kDone) return false;
    if (state == RequestSlot::kReading) return true;
    if (slot.counts_made > RequestSlot::kMostCounts) return false;
    return state != RequestSlot::kDone || slot.answer_size <= slot.answer_room();
  });
  return right ? "" : "a request under way";
}

RequestSlot* RequestSlots::take() noexcept try {
  bool present = false;
  std::uint32_t index = 0;
  {
    const std::lock_guard lock(mutex_);
    index = pool_.take();
    if (index == 0) return nullptr;
    if (present_.size() <= index) present_.resize(pool_.records().high());
    present = present_[index];
    present_[index] = true;
  }
  RequestSlot& slot = pool_.records()[index];
  // Where it cannot be had now, it comes as it is touched.
  if (!present) ::madvise(&slot, sizeof slot, MADV_POPULATE_WRITE);
  return &slot;
} catch (const std::bad_alloc&) {
  return nullptr;
}

void RequestSlots::give(RequestSlot& slot) noexcept {
  slot.end();
  const std::uint32_t index = pool_.records().index_of(slot);
  if (index > kKeptSlots) {
    const int advice = pool_.records().book().is_shared() ? MADV_REMOVE : MADV_DONTNEED;
    ::madvise(slot.bytes, sizeof slot.bytes, advice);
  }
  const std::lock_guard lock(mutex_);
  if (index > kKeptSlots && index < present_.size()) present_[index] = false;
  pool_.give(index);
}

std::vector<RequestSlot*> RequestSlots::take_over() {
  std::vector<RequestSlot*> left;
  const std::lock_guard lock(mutex_);
  const auto& records = pool_.records();
  left.reserve(records.high());
  for (std::uint32_t i = records.high(); i-- > 1;) {
    RequestSlot& slot = records[i];
    const std::uint32_t state = slot.state.load();
    const bool read = state == RequestSlot::kReading && slot.header().len != 0;
    if (read || state == RequestSlot::kDoing || state == RequestSlot::kDone) {
      left.push_back(&slot);
    } else {
      slot.end();
      pool_.give(i);
    }
  }
  return left;
}

// -- kept ones ------------------------------------------------------------------------------------

std::string_view KeptRequests::damage_in(Book& book) {
  const Records<KeptRecord, Kind::kKept> records(book);
  const bool right = records.all_of([](const KeptRecord& record) {
    const std::uint32_t state = record.state;
    return state == KeptRecord::kFree ||
           (state <= KeptRecord::kDone && record.size >= sizeof(fuse_in_header) &&
            record.size <= KeptRecord::kRoom && record.header().len == record.size);
  });
  return right ? "" : "a request that waits";
}

std::uint32_t KeptRequests::keep(const char* bytes, std::size_t size) noexcept {
  if (size > KeptRecord::kRoom) return 0;
  std::uint32_t index = 0;
  {
    const std::lock_guard lock(mutex_);
    index = pool_.take();
  }
  if (index == 0) return 0;
  KeptRecord& record = pool_.records()[index];
  std::memcpy(record.bytes, bytes, size);
  record.size = static_cast<std::uint32_t>(size);
  record.unique = reinterpret_cast<const fuse_in_header*>(record.bytes)->unique;
  record.parked_at = 0;
  record.interrupted.store(0, std::memory_order_relaxed);
  record.state.store(KeptRecord::kWaits, std::memory_order_release);
  return index;
}

void KeptRequests::answering(std::uint32_t record, int error) noexcept {
  if (record == 0) return;
  KeptRecord& kept = pool_.records()[record];
  kept.error = error;
  kept.state.store(KeptRecord::kDone, std::memory_order_release);
  death_point("kept.answer_stored");
}

void KeptRequests::give(std::uint32_t record) noexcept {
  if (record == 0) return;
  death_point("kept.answered");
  pool_.records()[record].state.store(KeptRecord::kFree, std::memory_order_release);
  const std::lock_guard lock(mutex_);
  pool_.give(record);
}

void KeptRequests::note_parked(std::uint32_t record, std::int64_t nanoseconds) noexcept {
  if (record == 0) return;
  pool_.records()[record].parked_at = nanoseconds;
  death_point("kept.parked_noted");
}

void KeptRequests::note_interrupted(std::uint32_t record) noexcept {
  if (record == 0) return;
  pool_.records()[record].interrupted.store(1, std::memory_order_release);
  death_point("kept.interrupt_noted");
}

std::vector<std::uint32_t> KeptRequests::take_over() {
  std::vector<std::uint32_t> left;
  const std::lock_guard lock(mutex_);
  const auto& records = pool_.records();
  for (std::uint32_t i = records.high(); i-- > 1;) {
    if (records[i].state.load() != KeptRecord::kFree) {
      left.push_back(i);
    } else {
      pool_.give(i);
    }
  }
  return left;
}

}  // namespace lockfs
