/// Locks, waiters and what stands in the way, as reports show them.
///
/// Thread safety: plain values.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>

#include "lockmgr/owner.h"
#include "lockmgr/range.h"
#include "lockmgr/waiter.h"

namespace lockmgr {

class Opened;

/// A granted lock as reports show it.
struct LockView {
  OwnerId owner;
  Caller caller;
  Range range;
  Mode mode = Mode::kNone;
  std::uint32_t held_seconds = 0;
  const Opened* opened = nullptr;  ///< that its owner first came through; null once that closed
};

/// A parked request as reports show it.
struct WaitView {
  Ticket ticket = 0;
  Request request;
  Waiter::Place place = Waiter::Place::kNowhere;
  std::uint32_t waited_seconds = 0;
  Ticket ahead = 0;                ///< kBehind: the request it is chained to
  const Opened* opened = nullptr;  ///< that it came through
};

/// How far a paged report has come; a new one starts at the beginning. A lock that comes, goes or
/// moves between two pages may be reported once, twice or not at all; those that stay are reported
/// exactly once unless others with the same first byte come or go.
struct PageMark {
  std::uint8_t tree = 0;   ///< exclusive locks come before shared ones
  Offset first = 0;        ///< the first byte of the next
  std::uint64_t skip = 0;  ///< how many that begin there have been reported
};

/// Bytes at which the manager and the backing do not agree.
struct Difference {
  Range range;
  Mode granted = Mode::kNone;  ///< the strongest mode granted there
  Mode carried = Mode::kNone;  ///< what the backing holds for the manager
};

/// How far a comparison with the backing came.
enum class Audit : std::uint8_t {
  kCompared,
  kUnknown,   ///< the backing cannot tell what it holds
  kChanging,  ///< locks came and went too fast to compare one moment with the same moment
};

/// What stands in the way of a tested request.
struct Blocker {
  std::optional<OwnerId> owner;  ///< nothing: an outsider on the backing
  pid_t pid = 0;
  Range range;
  Mode mode = Mode::kNone;
};

}  // namespace lockmgr
