/// A trace as what each thread does, one step after the other: the form in which it can be lived
/// through again under another policy.
#pragma once

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "lockmgr/trace/trace.h"

namespace replay {

using lockmgr::trace::Index;
using lockmgr::trace::Nanoseconds;
using lockmgr::trace::Trace;
using lockmgr::trace::TraceEvent;

/// What came of a request.
struct Answer {
  int error = 0;
  Nanoseconds waited{0};
  friend bool operator==(const Answer& a, const Answer& b) {
    return a.error == b.error && a.waited == b.waited;
  }
};

/// One thing a thread does.
struct Step {
  std::size_t event = 0;                ///< in Trace::events: an ask, flush or close
  Nanoseconds think{0};                 ///< since the end of the step before; since 0 for the first
  std::optional<Nanoseconds> patience;  ///< its wait is ended from without after so long
  int gives_up_with = EINTR;            ///< errno of a wait that is ended so
  std::size_t gives_up = SIZE_MAX;      ///< the event that ends it; SIZE_MAX: none
  std::optional<Answer> recorded;       ///< of an ask; nothing: it was never answered
  std::size_t ask = 0;                  ///< number among the asks
};

/// One script an actor, in the order of Trace::actors.
struct Scripts {
  std::vector<std::vector<Step>> actors;
  std::size_t asks = 0;
  /// What happened by itself: the events of type kTick, kPolicy, kRevoke and kOutsideEnd.
  std::vector<std::size_t> others;
};

Scripts scripts_of(const Trace& trace);

}  // namespace replay
