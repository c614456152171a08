/// What stands for owners and threads in the wait-for graph, as the policy's deadlock axis says:
///
///   process  the process, by its cookie. Other owners are not in the graph.
///   all      a process-owned lock is held by the process: it is stuck while any of its threads
///            waits, as POSIX has it. A lock of an open file is held by the thread that asked last
///            through it: it is stuck while that thread waits. Where process or thread are
///            unknown, the owner itself.
///
/// Thread safety: pure functions.
#pragma once

#include <array>
#include <optional>

#include "lockmgr/owner.h"
#include "lockmgr/policy.h"
#include "lockmgr/wait_graph.h"

namespace lockmgr {

/// The nodes from which a parked request's edges lead.
using WaitNodes = std::array<std::optional<WaitGraph::Node>, 2>;

/// The node that a lock of `holder` is held by; nothing: in no cycle.
std::optional<WaitGraph::Node> holder_node(const Policy& policy, const Party& holder,
                                           const Caller& last);

/// The nodes that wait when a request of `party` by `caller` waits.
WaitNodes waiting_nodes(const Policy& policy, const Party& party, const Caller& caller);

}  // namespace lockmgr
