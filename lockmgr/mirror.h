/// What the backing carries for one file, and how it follows what is granted: a grant that raises
/// it is carried first and committed when the backing accepts; a release is committed whatever the
/// backing says.
///
/// The central promise is invariant 0. Example: 1 shares 0-9, 2 shares 5-14, 3 holds 20-29
/// exclusively: the backing carries a shared lock on 0-14 and an exclusive one on 20-29, whatever
/// the owners. When 1 lets go, 5-14 remains; 4 sharing 6-7 then costs no call.
///
/// While a wait for an outsider is under way (Outside), its range may become locked at the backing
/// at any moment; the mirror is told of it when the wait has ended.
///
/// Thread safety: guarded by the mutex of its file; takes none.
///
/// Invariants (check() verifies them between two changes of the file):
///  0. At every byte the backing carries exactly the strongest mode granted there, in each space:
///     except where it is marked stale, since it refused to be weakened, or did not answer; and
///     beyond that where a wait under way has taken its lock. (Verified in builds with
///     LOCKMGR_CHECK_INVARIANTS, which remember what the backing was told.)
///  1. guard() is the strongest mode granted if the policy guards (Policy::guards()), else none;
///     the backing carries it as a flock of the whole file: except while the backing refuses or
///     does not answer, when guard() is none and repair() tries again. (Verified as invariant 0
///     is.)
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <optional>

#include "lockmgr/backing.h"
#include "lockmgr/carried_record.h"
#include "lockmgr/granted.h"
#include "lockmgr/outside.h"
#include "lockmgr/owner.h"
#include "lockmgr/policy.h"
#include "lockmgr/range.h"
#include "lockmgr/reports.h"

namespace lockmgr {

/// What is granted in a space, as its backing should carry it.
class Coverage final : public Backing::Carried {
 public:
  Coverage(const Granted& granted, Space space) : granted_(granted), space_(space) {}
  void for_each(const std::function<bool(const Range&, Mode)>& visit) const override;

 private:
  const Granted& granted_;
  const Space space_;
};

class Mirror {
 public:
  /// `outside` are the waits at this backing. All references must outlive the object.
  Mirror(std::unique_ptr<Backing> backing, const Granted& granted, Outside& outside,
         const Reports& reports)
      : backing_(std::move(backing)),
        carries_(backing_->carries()),
        granted_(granted),
        outside_(outside),
        reports_(reports) {}
  Mirror(const Mirror&) = delete;
  Mirror& operator=(const Mirror&) = delete;

  const Backing& backing() const { return *backing_; }
  Backing& backing(Space space) const {
    return space == Space::kFlocks ? backing_->flocks() : *backing_;
  }

  // -- looking -----------------------------------------------------------------------------------
  /// What outsiders hold that refuses `mode` on `range`, the bypass guard included; as
  /// Backing::test().
  Reply test(Space space, const Range& range, Mode mode,
             std::optional<OutsideLock>& found) const noexcept;
  /// Whether outsiders refuse it; `unknown` when the backing cannot tell.
  bool outsider_refuses(Space space, const Range& range, Mode mode, bool unknown) const noexcept;
  /// Whether the backing has to be asked before `owner` gets `mode` on `range`.
  bool must_raise(const Owner& owner, const Range& range, Mode mode) const {
    if (mode == Mode::kExclusive) {
      const auto it = owner.locks.from(range.first);
      return it == owner.locks.end() || it->mode != mode || !it->range.contains(range);
    }
    // A downgrade is carried by the same call as a raise, hence an exclusive lock also needs one.
    const LockSpace& space = granted_.space_of(owner.id);
    return space.exclusive.first_overlap(range, kFullReach, kAnyLock) != nullptr ||
           !Granted::covered(space, range);
  }
  /// The part of a request to wait for at the backing: what is not carried exclusively already. Of
  /// several parts, one that an outsider refuses; nothing when that is all of it. So a wait that is
  /// called off after it took the lock is undone by weakening the backing only: where an exclusive
  /// lock is about to become shared, that part is left to the final attempt. And an exclusive wait
  /// does not meet what another owner beneath the backing carries; see backing.h.
  std::optional<Range> awaited_part(const Request& request) const;

  // -- changing what is carried ------------------------------------------------------------------
  /// Has the backing carry `mode` for `owner` on `range`, which nothing granted forbids. Says what
  /// Backing::set() does; unless it is done, all is carried as it was.
  Reply raise(const Owner& owner, const Range& range, Mode mode) noexcept;
  /// `owner` is about to lose what it has within `range`: has the backing carry what the others
  /// have.
  void lower(const Owner& owner, const Range& range) noexcept;
  /// Has the backing carry what is granted within `range`. Returns whether it does; else it is
  /// stale.
  bool restore(Space space, const Range& range) noexcept;
  /// The backing may carry anything within `range`.
  void mark_stale(Space space, const Range& range) noexcept { stale(space).add(range); }
  /// The backing may carry anything, anywhere.
  void doubt_all() noexcept;
  /// After doubt_all(): has the backing carry what is granted, with few calls where it does
  /// already.
  void adopt() noexcept;
  /// Tries to set right what is stale.
  void repair() noexcept {
    if (!stale_[0].empty() || !stale_[1].empty() || granted_.policy().guards()) repair_stale();
  }
  /// A wait has ended with its lock, which the mirror carries now.
  void take_over(const OutsideWait& wait) noexcept;

  // -- the bypass guard --------------------------------------------------------------------------
  /// The flock that the backing carries as a bypass guard.
  Mode guard() const { return guard_; }
  /// A wait under way that raising the guard to `mode` collides with, or null.
  OutsideWait* find_guard_collision(Mode mode) const {
    return guard_ >= mode ? nullptr : outside_.find_guard_collision(mode);
  }
  /// `have`: a wait that has just taken a lock at the backing, or null. Says what Backing::set()
  /// does.
  Reply raise_guard(Mode mode, const OutsideWait* have) noexcept;
  /// Makes the guard what is granted. `anew`: whatever guard() says is carried.
  void set_guard(bool anew) noexcept;
  /// No guard any more: the policy is about to change.
  void drop_guard() noexcept;

  /// Verifies the invariants. Returns nullptr or what is broken.
  const char* check() const;

 private:
  Reply set(Space space, const Range& range, Mode mode, bool unlocking) noexcept;
  Reply raise_beside_others(const Owner& owner, const Range& range) noexcept;
  void lower_to_others(const Owner& owner, const Range& part, Mode held) noexcept;
  void repair_stale() noexcept;
  bool restore_differences() noexcept;
  void remember(Space space, const Range& range, Mode mode, const Reply& reply) noexcept;
  const char* check_carried(Space space) const;
  Bounds& stale(Space space) { return stale_[static_cast<std::size_t>(space)]; }

  const std::unique_ptr<Backing> backing_;
  const bool carries_;
  const Granted& granted_;
  Outside& outside_;
  const Reports& reports_;
  std::array<Bounds, kSpaces.size()> stale_;
  Mode guard_ = Mode::kNone;
#ifdef LOCKMGR_CHECK_INVARIANTS
  std::array<CarriedRecord, kSpaces.size()> told_;
#endif
};

}  // namespace lockmgr
