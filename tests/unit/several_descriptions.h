/// A FakeBacking beneath which the manager has several open file descriptions, as OFD locks of the
/// kernel have it: each is an owner of its own, so they conflict with each other as with outsiders.
/// Shared locks lie on a read-only one and exclusive ones on a writable one; each wait has one of
/// its own. A model of what a backing has to do to follow the rules in lockmgr/backing.h, which it
/// asserts of itself and of the manager.
///
/// Thread safety: as FakeBacking.
///
/// Invariants (asserted after each change):
///  1. The read-only description carries shared locks only.
///  2. A description that waits carries nothing outside of what it waits for, and nothing exclusive
///     unless it waits for an exclusive lock.
///  3. No wait is refused by a description of this side that neither waits nor has a wait whose end
///     is yet to be told.
///  4. An exclusive wait begins for bytes on which no other description that rests carries an
///     exclusive lock.
#pragma once

#include <optional>
#include <string>

#include "tests/unit/fake_backing.h"

namespace lockmgr::testing {

class SeveralDescriptions final : public FakeBacking {
 public:
  static constexpr Who kReadOnly = -1;
  static constexpr Who kWritable = -2;

  /// What each description of this side carries: "-1: S[0,9] -3: X[20,29] ".
  std::string descriptions() const;
  /// How many descriptions carried something when a wait began on another, over all waits.
  int waits_beside_locks() const;

 private:
  // All below: REQUIRES mutex_ held.
  bool set_own(const Range& range, Mode mode) override;
  Who begin_own(const Range& range, Mode mode) override;
  void give_up_own(Who who) override;
  void changed() override;

  /// fcntl(F_OFD_SETLK) on one description.
  bool take(Who description, const Range& range, Mode mode);
  bool set_piece(const Range& piece, Mode mode);
  /// Has `target` carry what is shared there, and nobody else, without a gap.
  void move_shared(const Range& piece, Who target);
  [[nodiscard]] Who home(const Range& piece, Mode mode) const;
  [[nodiscard]] const Pending* wait_of(Who description) const;
  /// It neither waits nor has a wait whose end is yet to be told.
  [[nodiscard]] bool rests(Who description) const;
  [[nodiscard]] bool refused_by_resting(const Pending& pending) const;
  [[nodiscard]] std::optional<Held> held_at(Who description, Offset at) const;
  void end_stuck();
  void check_rules() const;

  Who next_ = -3;
  bool ending_ = false;  ///< end_stuck() is under way
  int waits_beside_locks_ = 0;
};

}  // namespace lockmgr::testing
