/// What an administrator wants to know of locks, as it happens.
///
/// Thread safety: see Observer; the rest are plain values.
#pragma once

#include <chrono>
#include <cstdint>
#include <vector>

#include "lockmgr/accounting.h"
#include "lockmgr/owner.h"
#include "lockmgr/range.h"

namespace lockmgr {

class FileLocks;
struct LockView;

/// What has happened to a lock or a request.
enum class EventKind : std::uint8_t {
  kGrant,     ///< granted, at once or after waiting
  kWait,      ///< parked
  kRefusal,   ///< a non-blocking request met a conflict
  kDeadlock,  ///< refused with EDEADLK
  kGivenUp,   ///< a parked request ended without a grant
  kRelease,   ///< unlocked or closed by the owner
  kRevoke,    ///< taken away: by FileLocks::revoke(), or a lease
};

/// "grant", "wait", "refusal", "deadlock", "given_up", "release" or "revoke".
const char* to_string(EventKind kind);

/// One thing that has happened, for those who watch.
struct Event {
  EventKind kind = EventKind::kGrant;
  OwnerId owner;
  Caller caller;
  Range range;
  Mode mode = Mode::kNone;             ///< kNone for what is released or revoked
  std::chrono::nanoseconds waited{0};  ///< kGrant, kGivenUp: since it was parked
  int error = 0;                       ///< errno of a request that ended without a grant
};

/// Told of what an administrator wants to know. Called with a file's lock held: must not call the
/// manager back, must not throw, and should not block.
class Observer {
 public:
  virtual ~Observer() = default;
  /// A request was refused with ENOLCK because `limit` (of `value`) is reached.
  virtual void limit_reached(const FileLocks&, const Request&, Limit, std::uint64_t /*value*/) {}
  /// The backing refused with something else than a conflict. `unlocking`: the manager has let go
  /// all the same and will set the backing right later.
  virtual void backing_failed(const FileLocks&, const Range&, Mode, int /*error*/,
                              bool /*unlocking*/) {}
  /// A request was refused with EDEADLK; `cycle` lists the nodes (wait_nodes.h) from the blocker
  /// on: the cookies of processes, unless the policy counts other owners in.
  virtual void deadlock(const FileLocks&, const Request&,
                        const std::vector<std::uint64_t>& /*cycle*/) {}
  /// `lock` is about to be broken because `waiter`, one of `waiting` requests, has waited for it
  /// too long, or because there are too many (Policy::has_lease()).
  virtual void lease_ended(const FileLocks&, const LockView& /*lock*/, const Request& /*waiter*/,
                           std::uint64_t /*waiting*/) {}
  /// While LockManager::watch() is on: what happens to locks and requests. Calls on one file come
  /// in the order of what happened.
  virtual void event(const FileLocks&, const Event&) {}
};

}  // namespace lockmgr
