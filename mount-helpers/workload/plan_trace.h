/// A plan as a trace for lockfs-replay, as if nobody ever had to wait: the replay finds out who
/// has.
#pragma once

#include <string>

#include "lockmgr/trace/trace.h"
#include "mount-helpers/workload/plan.h"

namespace workload {

/// `program`: what to name as the trace's writer.
lockmgr::trace::Trace trace_of(const Plan& plan, const std::string& program);

}  // namespace workload
