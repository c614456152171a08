// What a file shows to administrators.
#include <mutex>
#include <utility>

#include "lockmgr/file_locks.h"
#include "lockmgr/pages.h"

namespace lockmgr {

void FileLocks::outsiders(const Range& range, Mode mode, std::optional<OutsideLock>& record,
                          std::optional<OutsideLock>& flock) const noexcept {
  const std::lock_guard guard(mutex_);
  if (!mirror_.backing(Space::kRecords).test(range, mode, record).is_done()) record.reset();
  if (!mirror_.backing(Space::kFlocks).test(range, mode, flock).is_done()) flock.reset();
}

bool FileLocks::locks_page(PageMark& mark, std::size_t limit, std::vector<LockView>& out) const {
  out.reserve(out.size() + limit);
  const std::lock_guard guard(mutex_);
  return lock_page(granted_, seconds_of(context().clock.now()), mark, limit, out);
}

bool FileLocks::waiters_page(PageMark& mark, std::size_t limit, std::vector<WaitView>& out) const {
  out.reserve(out.size() + limit);
  const std::lock_guard guard(mutex_);
  return waiter_page(queue_, context().clock.now(), mark, limit, out);
}

std::vector<LockView> FileLocks::locks() const {
  const std::lock_guard guard(mutex_);
  return all_locks(granted_, seconds_of(context().clock.now()));
}

std::vector<WaitView> FileLocks::waiters() const {
  const std::lock_guard guard(mutex_);
  return all_waiters(queue_, context().clock.now());
}

Audit FileLocks::audit(std::size_t limit, std::vector<Difference>& out) const {
  constexpr int kTries = 4;
  constexpr std::size_t kMostReadLocked = 256;
  for (int left = kTries; left > 0; --left) {
    std::vector<CarriedLock> granted;
    std::vector<CarriedLock> carried;
    std::vector<Range> awaited;
    std::unique_lock lock(mutex_);
    const Backing::Inspector inspect = mirror_.backing(Space::kRecords).inspector();
    if (!inspect) return Audit::kUnknown;
    Coverage(granted_, Space::kRecords).for_each([&](const Range& range, Mode mode) {
      granted.push_back({range, mode});
      return true;
    });
    for (const OutsideWait& wait : outside_.waits()) {
      if (wait.space == Space::kRecords) awaited.push_back(wait.range);
    }
    const std::uint32_t changes = outside_.changes();
    const bool keep = left == 1 && granted.size() <= kMostReadLocked;
    if (!keep) lock.unlock();
    if (!inspect(carried)) return Audit::kUnknown;
    if (!keep) lock.lock();
    if (changes != outside_.changes()) continue;
    lock.unlock();
    compare(granted, std::move(carried), awaited, limit, out);
    return Audit::kCompared;
  }
  return Audit::kChanging;
}

}  // namespace lockmgr
