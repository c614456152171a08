/// A model of the record locks of one file beneath the manager: the manager's own lock owner,
/// outsiders who hold and await locks, and waits that end when a test says so.
///
/// Thread safety: all methods may be called from any thread. Fields marked "set up" are to be
/// changed only while nobody else uses the object.
///
/// Invariants:
///  1. Locks of different holders do not overlap unless both are shared.
///  2. Every wait() that returned 0 is in `pending_` or `due_` until its WaitDone was called.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "lockmgr/backing.h"
#include "lockmgr/file_locks.h"

namespace lockmgr::testing {

/// A stretch of bytes locked in one mode.
struct Segment {
  Range range;
  Mode mode = Mode::kNone;
  friend bool operator==(const Segment& a, const Segment& b) {
    return a.range == b.range && a.mode == b.mode;
  }
};

std::string to_text(const Range& range);
std::string to_text(const std::vector<Segment>& segments);

/// The strongest mode granted at each byte, in order, neighbours of equal mode merged.
std::vector<Segment> union_of(const std::vector<LockView>& locks);

class FakeBacking : public Backing {
 public:
  /// A lock owner of the model: the manager, or an outsider with a number above 0. Where a derived
  /// class has several owners for the manager, they have numbers below 0.
  using Who = int;
  static constexpr Who kManager = 0;

  // -- set up --------------------------------------------------------------------------------
  /// A recall takes effect only in land_recalls(), so a wait may succeed after its recall.
  bool lazy_recalls = false;
  /// Outsiders who wait get a lock that became free only in let_outsiders_in(), as a thread woken
  /// by the kernel that has not run yet; the manager can overtake them.
  bool lazy_outsiders = false;
  /// Before the next set() to kExclusive all locks of the manager are lost, and put back as it says
  /// they were, as by a backing that has to open its file anew. Waits under way then succeed in
  /// vain: their locks went, or will go, with the old file.
  bool restart_next = false;
  /// Errors to inject: asked before each call, an errno fails the call and changes nothing.
  /// EAGAIN stands for kRefused, EINPROGRESS for kNoAnswer.
  std::function<int(const Range&, Mode)> fail_set;
  std::function<int(const Range&, Mode)> fail_wait;
  std::function<int(const Range&, Mode)> fail_test;
  /// Called by each inspection before it looks; false: the backing cannot tell.
  std::function<bool()> before_inspection;

  // -- Backing -------------------------------------------------------------------------------
  Reply set(const Range& range, Mode mode, const Carried& carried) noexcept override;
  Reply test(const Range& range, Mode mode, std::optional<OutsideLock>& found) noexcept override;
  int wait(WaitId id, const Range& range, Mode mode, const Carried& carried, bool yield_first,
           WaitDone done) noexcept override;
  void recall(WaitId id) noexcept override;
  bool outsiders_waiting() noexcept override;
  /// A FakeBacking of its own, whose outsiders take flocks.
  FakeBacking& flocks() noexcept override;
  /// Null while nobody has asked for it.
  [[nodiscard]] FakeBacking* known_flocks() const { return flocks_.get(); }
  Inspector inspector() override;

  // -- outsiders -----------------------------------------------------------------------------
  /// Locks or unlocks at once: 0 or EAGAIN.
  int outsider_set(Who who, const Range& range, Mode mode);
  /// Locks at once (true) or queues up (false).
  bool outsider_wait(Who who, const Range& range, Mode mode);
  /// Takes back everything that `who` waits for and holds.
  void outsider_leaves(Who who);
  /// With lazy_outsiders: those whose turn it is take their locks.
  void let_outsiders_in();

  /// While `shut`, nothing is taken that the manager does not hold already (kPutOff), and waits
  /// end when it is over; one that was under way may get its lock, but in doubt.
  void set_shut(bool shut);
  [[nodiscard]] bool is_shut() const;

  // -- waits of the manager ------------------------------------------------------------------
  /// How many waits have ended and can be delivered.
  std::size_t due() const;
  /// Calls the WaitDone of the n-th wait that has ended; false when there are not so many.
  bool deliver(std::size_t n = 0);
  /// Delivers in order until nothing is due. Returns how many.
  std::size_t deliver_all();
  /// Ends a wait with an error of the test's choice; false when none is pending.
  bool fail_pending(int error);
  /// With lazy_recalls: recalled waits that have not got their lock end now.
  void land_recalls();
  /// Outsiders had their time: waits that let them go first do so no longer.
  void stop_yielding();
  /// The waits that have not been delivered, with their ranges and modes.
  std::vector<Segment> under_way() const;

  // -- state ---------------------------------------------------------------------------------
  std::vector<Segment> held(Who who = kManager) const;
  /// Whether somebody else than `who` holds what excludes `mode` on `range`.
  bool refused(Who who, const Range& range, Mode mode) const;
  /// "" when the manager's locks here are the union of `granted`; beyond it only where a wait is
  /// under way. Else a description of the difference.
  std::string compare(const std::vector<LockView>& granted) const;

  std::uint64_t sets() const;
  std::uint64_t waits() const;
  std::uint64_t recalls() const;
  std::uint64_t tests() const;

 protected:
  struct Held {
    Offset last = 0;
    Mode mode = Mode::kNone;
  };
  using Holding = std::map<Offset, Held>;  ///< by first byte, disjoint
  struct Pending {
    Who who = kManager;
    Range range;
    Mode mode = Mode::kNone;
    WaitId id = 0;
    bool yields = false;
    bool recalled = false;
    WaitDone done;
    bool lost = false;  ///< waits on what the backing has given up
    bool shut = false;  ///< waits for set_shut(false) only
  };
  struct Due {
    Segment what;
    Who who = kManager;
    WaitEnd end;
    WaitDone done;
  };

  static bool is_ours(Who who) { return who <= kManager; }

  // All below: REQUIRES mutex_ held.
  void replace(Who who, const Range& range, Mode mode);
  /// Whether somebody else than `who` is in the way; of kManager, only outsiders count.
  [[nodiscard]] bool is_refused(Who who, const Range& range, Mode mode) const;
  /// Ends the n-th of those that wait.
  void end_pending(std::size_t n, WaitEnd end);

  /// Makes the manager's lock on `range` exactly `mode`; false: an outsider is in the way.
  virtual bool set_own(const Range& range, Mode mode);
  /// The owner that a wait of the manager runs on.
  virtual Who begin_own(const Range& range, Mode mode);
  /// A wait of the manager has ended without its lock.
  virtual void give_up_own(Who /*who*/) {}
  /// Called at the end of each change.
  virtual void changed() {}

  mutable std::mutex mutex_;  ///< guards all that follows
  std::map<Who, Holding> held_;
  std::vector<Pending> pending_;
  std::vector<Due> due_;

 private:
  [[nodiscard]] bool may_take(std::size_t position, bool outsiders) const;
  void pump(bool outsiders);

  std::unique_ptr<FakeBacking> flocks_;  ///< made when first asked for, by one thread at a time

  // Guarded by mutex_.
  bool shut_ = false;
  std::uint64_t sets_ = 0;
  std::uint64_t waits_ = 0;
  std::uint64_t recalls_ = 0;
  std::uint64_t tests_ = 0;
};

}  // namespace lockmgr::testing
