#include "lockmgr/deadlock.h"

#include <algorithm>
#include <iterator>

#include "lockmgr/file_locks.h"
#include "lockmgr/wait_nodes.h"

namespace lockmgr {

template <typename Visit>
void WaitingOwners::Seen::add(const Range& range, const Visit& visit) {
  auto at = ranges_.upper_bound(range.first);
  if (at != ranges_.begin() && std::prev(at)->second >= range.first) --at;
  Range whole = range;
  Offset next = range.first;  // the first byte that is not known to be in the set
  bool all = false;
  while (at != ranges_.end() && at->first <= range.last) {
    const auto [first, last] = *at;
    at = ranges_.erase(at);
    if (first > next) visit({next, first - 1});
    whole = hull(whole, {first, last});
    all = last >= range.last;
    if (!all) next = last + 1;
  }
  if (!all) visit({next, range.last});
  ranges_.emplace(whole.first, whole.last);
}

namespace {

/// Whether a lock of `owner` is in the way of `mode` on `range`.
bool holds_against(const Owner& owner, const Range& range, Mode mode) {
  for (auto at = owner.locks.from(range.first);
       at != owner.locks.end() && at->range.first <= range.last; ++at) {
    if (modes_conflict(at->mode, mode)) return true;
  }
  return false;
}

}  // namespace

/// Appends the nodes whose locks on one file are in the way of such a request, but for those that
/// another look there has found.
void WaitingOwners::add_edges(const Granted& granted, Looked& looked, const Leaves& leaves,
                              Nodes& out) {
  const Policy& policy = granted.policy();
  const Request& request = leaves.request;
  const auto node_of = [&policy](const Owner& owner) {
    return holder_node(policy, owner.party(), owner.caller);
  };
  const auto hand_out = [&out](WaitGraph::Node node) {
    if (out.empty() || out.back() != node) out.push_back(node);
  };
  std::erase_if(looked.passed_by, [&](const Owner* owner) {
    ++looks_;
    const bool due = owner != leaves.self && policy.excludes(owner->party(), leaves.party) &&
                     holds_against(*owner, request.range, request.mode);
    if (due) hand_out(*node_of(*owner));
    return due;
  });
  // Those of its own are left out by whole branches of the tree.
  if (leaves.self != nullptr) {
    const auto node = node_of(*leaves.self);
    if (node && (leaves.from == nullptr || *node != *leaves.from)) {
      looked.passed_by.insert(leaves.self);
    }
  }
  const auto look_at = [&](const LockTree& tree, Seen& seen) {
    seen.add(request.range, [&](const Range& part) {
      tree.for_each_overlap(part, reach_without(leaves.self), [&](const Lock& lock) {
        ++looks_;
        if (lock.owner == leaves.self) return true;
        const auto node = node_of(*lock.owner);
        if (!node) return true;
        if (policy.excludes(lock.owner->party(), leaves.party)) {
          hand_out(*node);
        } else {
          looked.passed_by.insert(lock.owner);
        }
        return true;
      });
    });
  };
  const LockSpace& space = granted.space_of(request.owner);
  look_at(space.exclusive, looked.exclusive);
  if (request.mode == Mode::kExclusive) look_at(space.shared, looked.shared);
}

std::vector<WaitGraph::Node> WaitingOwners::find_cycle(const Granted& granted, const Owner& owner,
                                                       const Request& request) {
  const Policy& policy = granted.policy();
  Nodes blockers;
  Looked& looked = entry(home_).looked[static_cast<std::size_t>(policy.space_of(owner.id.type))];
  add_edges(granted, looked, {nullptr, owner.party(), &owner, request}, blockers);
  if (blockers.empty()) return {};
  Nodes goals;
  for (const auto& goal : waiting_nodes(policy, owner.party(), request.caller)) {
    if (goal) goals.push_back(*goal);
  }
  return WaitGraph::find_path(*this, blockers, goals);
}

void WaitingOwners::waits_for(WaitGraph::Node node, std::vector<WaitGraph::Node>& out) {
  for (const auto& waiter : registry_.waiters_at(node)) {
    File& file = entry(*waiter->file);
    if (waiter->place == Waiter::Place::kDone || waiter->place == Waiter::Place::kNowhere) continue;
    const Granted& granted = waiter->file->granted_;
    const Request& request = waiter->request;
    const Space space = granted.policy().space_of(request.owner.type);
    add_edges(granted, file.looked[static_cast<std::size_t>(space)],
              {&node, waiter->party(), waiter->owner, request}, out);
  }
}

/// The entry of a file, which is locked from then on.
WaitingOwners::File& WaitingOwners::entry(const FileLocks& file) {
  const auto [at, is_new] = files_.try_emplace(&file);
  File& entry = at->second;
  if (is_new && &file != &home_) {
    entry.file = const_cast<FileLocks&>(file).shared_from_this();
    entry.lock = std::unique_lock(entry.file->mutex_);
  }
  return entry;
}

}  // namespace lockmgr
