/// Tells the observer of a manager what happens on one file, and counts what it is told of.
///
/// Thread safety: guarded by the mutex of its file; takes none.
#pragma once

#include <cstdint>
#include <vector>

#include "lockmgr/accounting.h"
#include "lockmgr/context.h"
#include "lockmgr/granted.h"
#include "lockmgr/observer.h"
#include "lockmgr/owner.h"
#include "lockmgr/range.h"
#include "lockmgr/views.h"
#include "lockmgr/waiter.h"

namespace lockmgr {

class Reports {
 public:
  /// `file` is whom the observer is told of; it may be null where there is no observer. Both must
  /// outlive the object.
  Reports(Context& context, const FileLocks* file) : context_(context), file_(file) {}

  Context& context() const { return context_; }

  /// Tells those who watch, if anybody does. `waiter`: the request had been parked.
  void tell(EventKind kind, const OwnerId& owner, const Caller& caller, const Range& range,
            Mode mode, const Waiter* waiter = nullptr, int error = 0) const noexcept {
    if (watched()) tell_watchers(kind, owner, caller, range, mode, waiter, error);
  }
  void tell(EventKind kind, const Request& request, int error = 0) const noexcept {
    tell(kind, request.owner, request.caller, request.range, request.mode, nullptr, error);
  }
  /// `owner` is about to lose what it has within `range`. `why`: kRelease or kRevoke.
  void tell_released(EventKind why, const Owner& owner, const Range& range) const noexcept {
    if (!watched()) return;
    tell_watchers(why, owner.id, owner.caller, owner.bounds(range), Mode::kNone, nullptr, 0);
  }
  /// A parked request has ended with `error`, 0: granted.
  void tell_end(const Waiter& waiter, int error) const noexcept;

  /// A call of the backing has failed other than by conflict.
  void backing_failed(const Range& range, Mode mode, int error, bool unlocking) const noexcept;
  /// A limit is reached. Returns ENOLCK, with which the request is refused.
  [[nodiscard]] int refuse(const Request& request, Limit limit) const noexcept;
  void deadlock(const Request& request, const std::vector<std::uint64_t>& cycle) const;
  void lease_ended(const LockView& lock, const Request& waiter, std::uint64_t waiting) const;

 private:
  bool watched() const noexcept { return context_.watched.load(std::memory_order_relaxed); }
  void tell_watchers(EventKind kind, const OwnerId& owner, const Caller& caller, const Range& range,
                     Mode mode, const Waiter* waiter, int error) const noexcept;

  Context& context_;
  const FileLocks* const file_;
};

}  // namespace lockmgr
