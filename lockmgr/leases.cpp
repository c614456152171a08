#include "lockmgr/leases.h"

#include <algorithm>
#include <chrono>
#include <optional>
#include <tuple>

#include "lockmgr/change.h"
#include "lockmgr/file_locks.h"
#include "lockmgr/pages.h"

namespace lockmgr {

namespace {

/// How many locks of a file are broken at one time; the others' turn comes with the next look.
constexpr int kMostBroken = 64;

bool has_ended(const Granted& granted, const Queue& queue, const Lock& lock, const Waiter& waiter,
               Clock::time_point now) {
  const Policy& policy = granted.policy();
  // Lock::since is in whole seconds: up to one late, never early.
  const Clock::time_point since(std::chrono::seconds(lock.since + 1));
  if (policy.outlasts_lease(now - std::max(waiter.since, since))) return true;
  const std::optional<std::uint32_t> most = policy.most_waiters();
  return most && waiters_for(granted, queue, lock, *most) > *most;
}

}  // namespace

std::uint64_t waiters_for(const Granted& granted, const Queue& queue, const Lock& lock,
                          std::uint64_t enough) {
  std::uint64_t count = 0;
  queue.waiters().for_each([&](const Waiter& w) {
    if (w.owner != lock.owner && w.request.range.overlaps(lock.range) &&
        Queue::conflicts(granted.policy(), w, lock.owner->party(), lock.mode)) {
      ++count;
    }
    return count <= enough;
  });
  return count;
}

EndedLease find_ended_lease(const Granted& granted, const Queue& queue, Clock::time_point now) {
  EndedLease found;
  queue.blocked().for_each([&](const Waiter& w) {
    granted.for_each_conflict(w.party(), w.owner, w.request.range, w.request.mode,
                              [&](const Lock& lock) {
                                if (has_ended(granted, queue, lock, w, now)) found = {&lock, &w};
                                return found.lock == nullptr;
                              });
    return found.lock == nullptr;
  });
  return found;
}

void FileLocks::break_leases(Clock::time_point now) noexcept {
  Change change(*this);
  if (!policy().has_lease() || !queue_.any_blocked()) return;
  mirror_.repair();
  for (int left = kMostBroken; left > 0; --left) {
    const EndedLease ended = find_ended_lease(granted_, queue_, now);
    if (ended.lock == nullptr) return;
    Owner& owner = *ended.lock->owner;
    const LockView view = view_of(*ended.lock, seconds_of(now));
    reports_.lease_ended(view, ended.waiter->request,
                         waiters_for(granted_, queue_, *ended.lock, UINT64_MAX - 1));
    // Its whole range is let go, so nothing is split and nothing can fail.
    std::ignore = release(owner, view.range, change.out, EventKind::kRevoke);
    context().counters.add(Counter::kRevocations);
    settle(change.out);
    granted_.drop_if_idle(owner);
  }
}

}  // namespace lockmgr
