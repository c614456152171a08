#include "lockmgr/reports.h"

#include <cerrno>

namespace lockmgr {

const char* to_string(EventKind kind) {
  switch (kind) {
    case EventKind::kGrant:
      return "grant";
    case EventKind::kWait:
      return "wait";
    case EventKind::kRefusal:
      return "refusal";
    case EventKind::kDeadlock:
      return "deadlock";
    case EventKind::kGivenUp:
      return "given_up";
    case EventKind::kRelease:
      return "release";
    case EventKind::kRevoke:
      return "revoke";
  }
  return "unknown";
}

void Reports::tell_watchers(EventKind kind, const OwnerId& owner, const Caller& caller,
                            const Range& range, Mode mode, const Waiter* waiter,
                            int error) const noexcept {
  if (context_.observer == nullptr) return;
  Event event{kind, owner, caller, range, mode, {}, error};
  if (waiter != nullptr) event.waited = context_.clock.now() - waiter->since;
  context_.observer->event(*file_, event);
}

void Reports::tell_end(const Waiter& waiter, int error) const noexcept {
  const Request& r = waiter.request;
  EventKind kind = EventKind::kGivenUp;
  if (error == 0) {
    kind = EventKind::kGrant;
    context_.timings.record(Timing::kWaits, context_.clock.now() - waiter.since);
  } else if (error == EAGAIN && !r.wait) {
    kind = EventKind::kRefusal;
  } else if (error == EDEADLK) {
    kind = EventKind::kDeadlock;
  }
  tell(kind, r.owner, r.caller, r.range, r.mode, &waiter, error);
}

void Reports::backing_failed(const Range& range, Mode mode, int error,
                             bool unlocking) const noexcept {
  context_.counters.add(Counter::kBackingErrors);
  if (context_.observer != nullptr) {
    context_.observer->backing_failed(*file_, range, mode, error, unlocking);
  }
}

int Reports::refuse(const Request& request, Limit limit) const noexcept {
  context_.counters.add(Counter::kLimits);
  if (context_.observer != nullptr) {
    context_.observer->limit_reached(*file_, request, limit, context_.ledger.limit(limit));
  }
  return ENOLCK;
}

void Reports::deadlock(const Request& request, const std::vector<std::uint64_t>& cycle) const {
  if (context_.observer != nullptr) context_.observer->deadlock(*file_, request, cycle);
}

void Reports::lease_ended(const LockView& lock, const Request& waiter,
                          std::uint64_t waiting) const {
  if (context_.observer != nullptr) context_.observer->lease_ended(*file_, lock, waiter, waiting);
}

}  // namespace lockmgr
