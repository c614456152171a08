#include "lockmgr/wait_nodes.h"

namespace lockmgr {

namespace {

// Ids of processes and threads are far below; they share a graph with the cookies of owners whose
// process or thread is unknown.
constexpr WaitGraph::Node kProcessTag = WaitGraph::Node{1} << 62;
constexpr WaitGraph::Node kThreadTag = WaitGraph::Node{2} << 62;

WaitGraph::Node process_node(pid_t pid) { return kProcessTag | static_cast<std::uint32_t>(pid); }
WaitGraph::Node thread_node(pid_t tid) { return kThreadTag | static_cast<std::uint32_t>(tid); }

}  // namespace

std::optional<WaitGraph::Node> holder_node(const Policy& policy, const Party& holder,
                                           const Caller& last) {
  if (!policy.in_deadlock_detection(holder.owner.type)) return std::nullopt;
  if (policy.knows_processes_by_cookie()) return holder.owner.cookie;
  if (holder.owner.type == OwnerType::kProcess) {
    return holder.process != 0 ? process_node(holder.process) : holder.owner.cookie;
  }
  return last.tid != 0 ? thread_node(last.tid) : holder.owner.cookie;
}

WaitNodes waiting_nodes(const Policy& policy, const Party& party, const Caller& caller) {
  if (!policy.in_deadlock_detection(party.owner.type)) return {};
  if (policy.knows_processes_by_cookie()) return {party.owner.cookie, std::nullopt};
  const pid_t process = caller.pid != 0 ? caller.pid : party.process;
  WaitNodes nodes{party.owner.cookie, party.owner.cookie};
  if (process != 0) nodes[0] = process_node(process);
  if (caller.tid != 0) nodes[1] = thread_node(caller.tid);
  return nodes;
}

}  // namespace lockmgr
