/// Where a replay departs from the recording.
#pragma once

#include <string>

#include "mount-helpers/replay/script.h"
#include "mount-helpers/replay/simulation.h"

namespace replay {

/// The first request, in the order of the trace, whose answer or wait is not the recorded one, in
/// words; empty when there is none.
std::string first_difference(const Trace& trace, const Scripts& scripts, const Outcome& outcome);

}  // namespace replay
