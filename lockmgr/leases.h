/// Which locks may be broken because others have waited for them too long, or because too many do
/// (Policy::has_lease()).
///
/// Thread safety: pure functions; Granted and Queue are guarded by the mutex of their file.
#pragma once

#include <cstdint>

#include "lockmgr/clock.h"
#include "lockmgr/granted.h"
#include "lockmgr/queue.h"

namespace lockmgr {

/// A lock whose lease has ended, and one that waits for it; both null: there is none.
struct EndedLease {
  const Lock* lock = nullptr;
  const Waiter* waiter = nullptr;
};
EndedLease find_ended_lease(const Granted& granted, const Queue& queue, Clock::time_point now);

/// The requests that wait while `lock` is in their way; stops counting beyond `enough`.
std::uint64_t waiters_for(const Granted& granted, const Queue& queue, const Lock& lock,
                          std::uint64_t enough);

}  // namespace lockmgr
