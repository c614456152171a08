#include "lockmgr/deadlock.h"

#include <algorithm>

#include "lockmgr/file_locks.h"
#include "lockmgr/wait_nodes.h"

namespace lockmgr {

namespace {

/// Appends the nodes whose locks on one file are in the way of such a request.
void add_edges(const Granted& granted, const Party& party, const Owner* self, const Range& range,
               Mode mode, std::vector<WaitGraph::Node>& out) {
  granted.for_each_conflict(party, self, range, mode, [&](const Lock& lock) {
    const auto node = holder_node(granted.policy(), lock.owner->party(), lock.owner->caller);
    if (node && (out.empty() || out.back() != *node)) out.push_back(*node);
    return true;
  });
}

}  // namespace

std::vector<WaitGraph::Node> WaitingOwners::find_cycle(const Granted& granted, const Owner& owner,
                                                       const Request& request) {
  std::vector<WaitGraph::Node> blockers;
  add_edges(granted, owner.party(), &owner, request.range, request.mode, blockers);
  if (blockers.empty()) return {};
  for (const auto& goal : waiting_nodes(granted.policy(), owner.party(), request.caller)) {
    if (!goal) continue;
    std::vector<WaitGraph::Node> cycle = WaitGraph::find_path(*this, blockers, *goal);
    if (!cycle.empty()) return cycle;
  }
  return {};
}

void WaitingOwners::waits_for(WaitGraph::Node node, std::vector<WaitGraph::Node>& out) {
  for (const auto& waiter : registry_.waiters_at(node)) {
    hold(waiter->file);
    if (waiter->place == Waiter::Place::kDone || waiter->place == Waiter::Place::kNowhere) continue;
    const Request& r = waiter->request;
    add_edges(waiter->file->granted_, waiter->party(), waiter->owner, r.range, r.mode, out);
  }
}

void WaitingOwners::hold(const std::shared_ptr<FileLocks>& file) {
  if (file.get() == &home_) return;
  const bool held =
      std::any_of(held_.begin(), held_.end(), [&](const auto& each) { return each.first == file; });
  if (!held) held_.emplace_back(file, std::unique_lock(file->mutex_));
}

}  // namespace lockmgr
