/// The waits of a file for outsiders on its backing, and the waiters that depend on them: `outside`
/// those that a wait is for, `aside` those whose grant would collide with it.
///
/// While a wait is under way its range may become locked at the backing at any moment; nothing that
/// this would weaken, or that would not be granted beside it, is granted meanwhile.
///
/// Example: an outsider holds 0-9. 1 waits for 0-19 exclusively: a wait for 0-19 is begun. 2 tries
/// to share 12-15, which nothing granted forbids. Were it granted, the wait might end with an
/// exclusive lock at the backing beside it; so 2 stands aside, the wait is called back, and
/// whatever became of it, 2 is looked at before 1 waits again.
///
/// Who gives up as the last that a wait is for is leaving: it is answered once the wait is
/// withdrawn, so that it leaves nothing in the way of outsiders, or when that takes too long.
///
/// Thread safety: guarded by the mutex of its file; takes none. A wait ends on a thread of the
/// Backing, which takes that mutex first.
///
/// Invariants (check() verifies them, and FileLocks that of 2 which concerns waiters in no list):
///  1. No granted lock collides with a wait under way, unless the policy was switched since it
///     began.
///  2. A waiter is `outside` or `aside` exactly while it is in a list of the wait it points to.
///  3. A wait that serves nobody was recalled.
///  4. unsettled() is the number of those that are `aside` or leaving.
///  5. Who is leaving is done, and the wait that it is with was recalled.
#pragma once

#include <boost/intrusive/list.hpp>
#include <cstdint>
#include <memory>
#include <optional>

#include "lockmgr/accounting.h"
#include "lockmgr/backing.h"
#include "lockmgr/clock.h"
#include "lockmgr/granted.h"
#include "lockmgr/outcomes.h"
#include "lockmgr/owner.h"
#include "lockmgr/policy.h"
#include "lockmgr/range.h"
#include "lockmgr/waiter.h"

namespace lockmgr {

/// A wait at the backing for an outsider, under way until the backing says how it ended. Identical
/// requests share one.
struct OutsideWait {
  Backing::WaitId id = 0;
  Range range;
  Mode mode = Mode::kNone;
  Space space = Space::kRecords;
  Party party;                 ///< of the request it was begun for
  std::optional<Tally> tally;  ///< charged to the user of that request
  bool recalled = false;       ///< asked to end
  bool stray = false;          ///< the policy has changed since it began: serves nobody
  bool disturbed = false;      ///< the mirror was changed within `range` since it began
  bool given_back = false;     ///< what it took was let go of again
  Waiter::PeerList attached;   ///< kOutside: it waits for these
  Waiter::PeerList aside;      ///< kAside: these wait for its end
  Waiter::PeerList leaving;    ///< kDone: their completions wait for its end
  bi::list_member_hook<> hook;
};

class Outside {
 public:
  using Waits = bi::list<OutsideWait,
                         bi::member_hook<OutsideWait, bi::list_member_hook<>, &OutsideWait::hook>,
                         bi::constant_time_size<false>>;

  Outside() = default;
  ~Outside() { waits_.clear_and_dispose(std::default_delete<OutsideWait>()); }
  Outside(const Outside&) = delete;
  Outside& operator=(const Outside&) = delete;

  // -- looking -----------------------------------------------------------------------------------
  /// Nothing is under way.
  bool empty() const { return waits_.empty(); }
  const Waits& waits() const { return waits_; }
  /// How many waiters are `aside` or leaving.
  std::uint32_t unsettled() const { return unsettled_; }
  /// Changes whenever a wait begins or ends, or the mirror changes.
  std::uint32_t changes() const { return changes_; }

  /// Whether a grant of `mode` on `range` to `party` must not come while `wait` is under way.
  static bool collides(const Policy& policy, const OutsideWait& wait, const Party& party,
                       const Range& range, Mode mode);
  /// A wait that such a grant collides with, or null.
  OutsideWait* find_collision(const Policy& policy, const Party& party, const Range& range,
                              Mode mode) const;
  /// A wait for the bypass guard whose thread would convert what the grant of `mode` needs: flock()
  /// of one open file description has one mode, and who waits in it converts when woken.
  OutsideWait* find_guard_collision(Mode mode) const;
  /// A wait for just that, not recalled, or null.
  OutsideWait* find_same(Space space, const Range& range, Mode mode) const;

  // -- waits -------------------------------------------------------------------------------------
  /// Begins `wait`, whose range, mode, space, id and party are set, at the backing of its space,
  /// which carries `carried`.
  /// Returns 0, and `wait` is under way; or the errno of Backing::wait(), and it is not.
  [[nodiscard]] int begin(std::unique_ptr<OutsideWait>& wait, Backing& backing,
                          const Backing::Carried& carried, bool yields,
                          Backing::WaitDone done) noexcept;
  /// A wait that has come to its end: no longer under way. Its waiters are still with it, and are
  /// to be taken out before it is destroyed.
  std::unique_ptr<OutsideWait> end(Backing::WaitId id) noexcept;
  /// Asks a wait to end, if nobody has. `backing`: that of its space.
  static void recall(OutsideWait& wait, Backing& backing) noexcept;
  /// They were begun under another policy; `visit` is called for each.
  template <typename Visit>
  void make_stray(const Visit& visit) noexcept {
    for (OutsideWait& wait : waits_) {
      wait.stray = true;
      visit(wait);
    }
  }
  /// The mirror changes within `range`: what waits have taken there can no longer be relied upon.
  void disturb(Space space, const Range& range) noexcept {
    ++changes_;
    for (OutsideWait& wait : waits_) {
      if (wait.space == space && wait.range.overlaps(range)) wait.disturbed = true;
    }
  }

  // -- waiters -----------------------------------------------------------------------------------
  void attach(Waiter& waiter, OutsideWait& wait) noexcept;
  void put_aside(Waiter& waiter, OutsideWait& wait) noexcept;
  /// Takes one that is `outside` or `aside` out of its place: it is nowhere then.
  void take_out(Waiter& waiter) noexcept;
  /// One that is done and due, and was the last that `wait` was for, is leaving from now on.
  void let_leave(Waiter& waiter, OutsideWait& wait, Outcomes& out) noexcept;
  /// One that is leaving is due.
  void answer(Waiter& waiter, Outcomes& out) noexcept;
  /// So are those who gave up before `time`.
  void answer_early(Clock::time_point time, Outcomes& out) noexcept;

  /// Verifies the invariants. Returns nullptr or what is broken.
  const char* check(const Granted& granted) const;

 private:
  Waits waits_;  ///< owns them
  std::uint32_t unsettled_ = 0;
  std::uint32_t changes_ = 0;
};

}  // namespace lockmgr
