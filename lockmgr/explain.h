/// Says what every preset, and the policy in force, would make of a request beside what is held and
/// awaited now. Works on a report, not on the file itself: nothing is locked or tried.
///
/// Thread safety: pure functions.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "lockmgr/backing.h"
#include "lockmgr/file_locks.h"
#include "lockmgr/policy.h"

namespace lockmgr {

/// A file and a request that nobody has made.
struct Hypothesis {
  Request request;  ///< the cookie may be one that nobody has
  bool readable = true;
  bool writable = true;  ///< the descriptor's open mode
  std::vector<LockView> locks;
  std::vector<WaitView> waiters;
  /// What outsiders hold on the backing that refuses the mode: record locks, flocks.
  std::optional<OutsideLock> outside_record;
  std::optional<OutsideLock> outside_flock;
};

/// One that stands in the way, or would under another policy.
struct Obstacle {
  enum class What { kLock, kWaiter, kOutsider };
  What what = What::kLock;
  OwnerId owner;  ///< not for kOutsider
  pid_t pid = 0;
  Range range;
  Mode mode = Mode::kNone;
  bool blocks = false;   ///< false: named because another policy would have it block
  std::string_view why;  ///< a sentence without its full stop
};

struct Explanation {
  std::string policy;
  int error = 0;        ///< 0: granted at once; EAGAIN: not; EBADF: the open mode forbids it
  bool queues = false;  ///< granted at once only to one who does not wait
  std::vector<Obstacle> obstacles;
};

/// What `policy` makes of it. May throw std::bad_alloc.
Explanation explain(const Policy& policy, std::string name, const Hypothesis& hypothesis);

/// The same for the policy in force, called "now", and for every preset.
std::vector<Explanation> explain_all(const Policy& in_force, const Hypothesis& hypothesis);

}  // namespace lockmgr
