/// What is granted and parked on a file, in pages or whole, and the comparison of what is granted
/// with what the backing carries.
///
/// Thread safety: pure functions; Granted and Queue are guarded by the mutex of their file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "lockmgr/backing.h"
#include "lockmgr/clock.h"
#include "lockmgr/granted.h"
#include "lockmgr/queue.h"
#include "lockmgr/range.h"
#include "lockmgr/views.h"

namespace lockmgr {

/// A granted lock as it is shown at `now`, in whole seconds.
LockView view_of(const Lock& lock, std::uint32_t now);

/// FileLocks::locks_page() and waiters_page(). REQUIRES: `out` has room for `limit` more.
bool lock_page(const Granted& granted, std::uint32_t now, PageMark& mark, std::size_t limit,
               std::vector<LockView>& out);
bool waiter_page(const Queue& queue, Clock::time_point now, PageMark& mark, std::size_t limit,
                 std::vector<WaitView>& out);

/// All of them, in order of the first byte, and in order of arrival. May throw std::bad_alloc.
std::vector<LockView> all_locks(const Granted& granted, std::uint32_t now);
std::vector<WaitView> all_waiters(const Queue& queue, Clock::time_point now);

/// Appends up to `limit` of the stretches where the two differ. `granted` is in order. `awaited`:
/// where a wait outside may have its lock already without having said so. May throw std::bad_alloc.
void compare(const std::vector<CarriedLock>& granted, std::vector<CarriedLock> carried,
             const std::vector<Range>& awaited, std::size_t limit, std::vector<Difference>& out);

}  // namespace lockmgr
