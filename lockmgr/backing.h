/// How the manager speaks to whatever arbitrates beneath it: the locks of the backing file, a lock
/// server, or a fake in a test. One Backing serves one file and acts as one lock owner there.
///
/// It may use several owners beneath, such as open file descriptions. What it carries for the
/// manager is then the sum over them, at each byte the strongest mode that any of them holds, and
/// the rules are:
///
///  1. set() makes the sum on its range exactly the mode, whichever of them hold what is there.
///  2. Each wait has an owner of its own, which carries at most what it waits for: so whoever looks
///     for deadlocks beneath never follows the mirror from what it holds to what somebody else on
///     this side waits for. (The kernel does: posix_locks_deadlock() spares an OFD caller, but no
///     OFD owner on the way.)
///  3. What the others carry within the range of an exclusive wait is taken over by the wait's
///     owner before they let go of it: a shared lock beside shared ones is always granted. It is of
///     the request that waits, or of one that goes together with it. Nothing there is exclusive,
///     for a wait is for what is missing: of 0-9, where 0-4 is held exclusively, for 5-9. Of
///     several missing pieces one is waited for at a time, and nothing is kept of it while another
///     is waited for.
///  4. What a wait has won stays on its owner, and counts in the sum, until set() changes it.
///  5. No wait waits for what the backing's other owners carry: where a set(), or another wait
///     having won, puts something in its way, it ends (WaitEnd::Kind::kNotHeld). Of two waits that
///     are in each other's way one may have to wait until the other's WaitDone was called.
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

/// What a backing says to a call that does not wait for a lock.
struct [[nodiscard]] Reply {
  enum class Kind : std::uint8_t {
    kDone,
    kRefused,   ///< an outsider stands in the way; nothing has changed
    kPutOff,    ///< nothing more may be taken for now; nothing has changed
    kNoAnswer,  ///< what was asked may or may not come true. All calls fail alike until that is
                ///< decided, and FileLocks::carry_anew() is called then
    kFailed,    ///< `error` says why; nothing has changed
  };

  static constexpr Reply done() { return {}; }
  static constexpr Reply refused() { return {Kind::kRefused}; }
  static constexpr Reply put_off() { return {Kind::kPutOff}; }
  static constexpr Reply no_answer() { return {Kind::kNoAnswer}; }
  static constexpr Reply failed(int error) { return {Kind::kFailed, error}; }

  constexpr bool is_done() const { return kind == Kind::kDone; }
  constexpr bool is_refused() const { return kind == Kind::kRefused; }
  /// Neither yes nor no: to be asked again later.
  constexpr bool is_open() const { return kind == Kind::kPutOff || kind == Kind::kNoAnswer; }

  friend constexpr bool operator==(const Reply&, const Reply&) = default;

  Kind kind = Kind::kDone;
  int error = 0;  ///< kFailed: an errno
};

/// How a wait at a backing has ended.
struct WaitEnd {
  enum class Kind : std::uint8_t {
    kHeld,         ///< the lock is held now, unless the backing has started afresh since
    kHeldInDoubt,  ///< likewise, but set() has the last word
    kNotHeld,      ///< nothing taken: recalled, or what it waited for is worth another set()
    kFailed,       ///< nothing taken; `error` says why
  };

  static constexpr WaitEnd held() { return {}; }
  static constexpr WaitEnd in_doubt() { return {Kind::kHeldInDoubt}; }
  static constexpr WaitEnd not_held() { return {Kind::kNotHeld}; }
  static constexpr WaitEnd failed(int error) { return {Kind::kFailed, error}; }

  /// The lock was taken.
  constexpr bool has_lock() const { return kind == Kind::kHeld || kind == Kind::kHeldInDoubt; }

  friend constexpr bool operator==(const WaitEnd&, const WaitEnd&) = default;

  Kind kind = Kind::kHeld;
  int error = 0;  ///< kFailed: an errno
};

class Backing {
 public:
  /// Names one wait(); unique among those under way.
  using WaitId = std::uint64_t;
  using WaitDone = std::function<void(WaitEnd end)>;

  /// What the manager has granted, hence what the backing has been told so far. Valid during the
  /// call it is passed to.
  class Carried {
   public:
    virtual ~Carried() = default;
    /// Calls visit for ranges of one mode, in order, until it returns false.
    virtual void for_each(const std::function<bool(const Range&, Mode)>& visit) const = 0;
  };

  virtual ~Backing() = default;

  /// False: nothing is carried anywhere, and set() need not be called. Always the same.
  virtual bool carries() const noexcept { return true; }

  /// Makes what is carried on `range` exactly `mode` (kNone: not locked), in one step as seen from
  /// outside and without waiting for a lock. Does not say kRefused to kNone.
  ///
  /// `carried` is for a backing that has to start afresh, such as one that opens its file anew for
  /// the first exclusive lock. It may do so for kExclusive only: set() to another mode may be one
  /// of several that make up a larger change. It need not carry over what waits have taken or will
  /// take: the manager sets that again.
  virtual Reply set(const Range& range, Mode mode, const Carried& carried) noexcept = 0;

  /// Fills `found` with the first outside lock that would refuse `mode` on `range` (empty: none).
  /// Says anything but kRefused; `found` means something with kDone only.
  virtual Reply test(const Range& range, Mode mode, std::optional<OutsideLock>& found) noexcept = 0;

  /// Starts to wait until outsiders allow `mode` on `range`, and takes it. `carried`: as for set();
  /// see the rules for several owners. `yield_first`: outsiders who wait already get their turn
  /// before this wait joins. Returns 0, and `done` will be called exactly once; or an errno, and it
  /// won't.
  [[nodiscard]] virtual int wait(WaitId id, const Range& range, Mode mode, const Carried& carried,
                                 bool yield_first, WaitDone done) noexcept = 0;

  /// Asks a wait to end early. Its `done` is still called, with kNotHeld or with what came first.
  /// Does not block. Unknown ids are ignored.
  virtual void recall(WaitId id) noexcept = 0;

  /// A request begins to wait while the manager holds what others wait for: outsiders_waiting()
  /// will be asked when that is let go of. Does not block.
  virtual void expect_release() noexcept {}

  /// Whether outsiders are queueing for a lock that the manager holds on this file. May answer from
  /// what it saw a short while ago; false when it cannot know.
  virtual bool outsiders_waiting() noexcept = 0;

  /// Puts the locks that the backing really holds for the manager, the sum over its owners, into
  /// `found`: not overlapping, in any order. Returns false when it cannot tell. Called
  /// without the mutex of the file where there may be much to read, else, and by
  /// FileLocks::restored(), with it; by one thread, while the Backing exists; may block; may throw
  /// std::bad_alloc.
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
  bool carries() const noexcept override { return false; }
  Reply set(const Range&, Mode, const Carried&) noexcept override { return Reply::done(); }
  Reply test(const Range&, Mode, std::optional<OutsideLock>& found) noexcept override {
    found.reset();
    return Reply::done();
  }
  int wait(WaitId, const Range&, Mode, const Carried&, bool, WaitDone) noexcept override;
  void recall(WaitId) noexcept override {}
  bool outsiders_waiting() noexcept override { return false; }
};

}  // namespace lockmgr
