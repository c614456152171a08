// FileLocks where somebody stops waiting before there is an answer.
#include <cerrno>

#include "lockmgr/change.h"
#include "lockmgr/file_locks.h"

namespace lockmgr {

/// Ends the wait of a parked request from without; with kOnceWithdrawn nothing of it is left at the
/// backing when it is answered.
void FileLocks::abandon(Waiter& waiter, int error, Answer when, Outcomes& out) noexcept {
  OutsideWait* outside = waiter.place == Waiter::Place::kOutside ? waiter.outside : nullptr;
  detach(waiter);
  finish(waiter, error, out);
  if (outside == nullptr || !outside->attached.empty()) return;
  // Until it is withdrawn it may be in the way of outsiders, or still get its lock.
  recall(*outside);
  if (when == Answer::kAtOnce) return;
  waiter.placed = context().clock.now();
  outside_.let_leave(waiter, *outside, out);
}

void FileLocks::cancel(Waiter& waiter, int error, Answer when) noexcept {
  Change change(*this);
  if (waiter.place == Waiter::Place::kNowhere) return;
  if (waiter.place == Waiter::Place::kDone) {
    const bool leaves = waiter.outside != nullptr;
    if (leaves && when == Answer::kAtOnce) outside_.answer(waiter, change.out);
    return;
  }
  abandon(waiter, error, when, change.out);
  context().counters.add(Counter::kInterrupts);
}

}  // namespace lockmgr
