/// How the manager speaks to whatever arbitrates beneath it: the locks of the backing file, a lock
/// server, or a fake in a test. One Backing serves one file and acts as one lock owner there.
///
/// Thread safety: the manager calls set(), test(), expect_release(), outsiders_waiting(), wait()
/// and recall() one at a time per file, under the lock of that file. WaitDone is called by the
/// Backing on a thread of its own choosing with no lock held, never from within wait() or recall().
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "lockmgr/owner.h"
#include "lockmgr/range.h"

namespace lockmgr {

/// A lock that somebody outside the manager holds on the backing.
struct OutsideLock {
  Range range;
  Mode mode = Mode::kExclusive;
  pid_t pid = 0;  ///< 0 or -1 where the backing does not say
};

/// Bytes that carry a lock at the backing.
struct CarriedLock {
  Range range;
  Mode mode = Mode::kNone;
};

class Backing {
 public:
  /// Names one wait(); unique among those under way.
  using WaitId = std::uint64_t;
  /// 0: the lock is held now, unless the backing has started afresh since; EAGAIN: likewise, but
  /// set() has the last word; EINTR: recalled, or worth another set(), nothing taken; another
  /// errno: failed, nothing taken.
  using WaitDone = std::function<void(int error)>;

  /// What the manager has granted, hence what the backing has been told so far. Valid during the
  /// call it is passed to.
  class Carried {
   public:
    virtual ~Carried() = default;
    /// Calls visit for ranges of one mode, in order, until it returns false.
    virtual void for_each(const std::function<bool(const Range&, Mode)>& visit) const = 0;
  };

  virtual ~Backing() = default;

  /// Makes the manager's lock on `range` exactly `mode` (kNone: not locked), in one step and
  /// without waiting for a lock. `carried` is for a backing that has to start afresh; it may do so
  /// for kExclusive only, since the other modes can be parts of a larger change, and need not carry
  /// over what waits have taken or will take: the manager sets that again. Returns
  /// 0; EAGAIN when an outsider stands in the way (nothing has changed); EINPROGRESS when it gets
  /// no answer in time (what was asked may or may not come true; all calls fail alike until that is
  /// decided, and FileLocks::carry_anew() is called then) or may not take more for now (nothing has
  /// changed); another errno of the backing (nothing has changed).
  virtual int set(const Range& range, Mode mode, const Carried& carried) noexcept = 0;

  /// The first outside lock that would refuse `mode` on `range`. Returns 0 and fills `found`
  /// (empty: none), or an errno.
  virtual int test(const Range& range, Mode mode, std::optional<OutsideLock>& found) noexcept = 0;

  /// Starts to wait until outsiders allow `mode` on `range`, and takes it. `yield_first`: outsiders
  /// who wait already get their turn before this wait joins. Returns 0, and `done` will be called
  /// exactly once; or an errno, and it won't.
  virtual int wait(WaitId id, const Range& range, Mode mode, bool yield_first,
                   WaitDone done) noexcept = 0;

  /// Asks a wait to end early. Its `done` is still called, with EINTR or with what came first. Does
  /// not block. Unknown ids are ignored.
  virtual void recall(WaitId id) noexcept = 0;

  /// A request begins to wait while the manager holds what others wait for: outsiders_waiting()
  /// will be asked when that is let go of. Does not block.
  virtual void expect_release() noexcept {}

  /// Whether outsiders are queueing for a lock that the manager holds on this file. May answer from
  /// what it saw a short while ago; false when it cannot know.
  virtual bool outsiders_waiting() noexcept = 0;

  /// Puts the locks that the backing really holds for the manager into `found`: not overlapping, in
  /// any order. Returns false when it cannot tell. Called with no lock held, by one thread, while
  /// the Backing exists; may block; may throw std::bad_alloc.
  using Inspector = std::function<bool(std::vector<CarriedLock>& found)>;
  /// A way to look at the backing as it is now, for FileLocks::audit(); empty when there is none.
  /// Called like set(). May throw std::bad_alloc.
  virtual Inspector inspector() { return {}; }

  /// The backing for what the policy carries as flocks (Space::kFlocks) instead of as record locks.
  /// It is part of this object, and asked for whole-file ranges only. A refused set() there may
  /// cost the weaker lock that was to be converted, as flock(2) does: the manager sets that again.
  virtual Backing& flocks() noexcept { return *this; }

  /// What to call the file in reports, such as its path; may be empty.
  virtual std::string name() const { return {}; }
};

/// The backing of a manager that stands alone: nobody is outside.
class NoBacking : public Backing {
 public:
  int set(const Range&, Mode, const Carried&) noexcept override { return 0; }
  int test(const Range&, Mode, std::optional<OutsideLock>& found) noexcept override {
    found.reset();
    return 0;
  }
  int wait(WaitId, const Range&, Mode, bool, WaitDone) noexcept override;
  void recall(WaitId) noexcept override {}
  bool outsiders_waiting() noexcept override { return false; }
};

}  // namespace lockmgr
