#include "lockmgr/deadlock.h"

#include <algorithm>
#include <cerrno>
#include <iterator>
#include <utility>

#include "lockmgr/change.h"
#include "lockmgr/file_locks.h"
#include "lockmgr/outsiders.h"
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

/// Whether a lock of `owner` is in the way of `mode` on `range`.
bool WaitingOwners::holds_against(const Owner& owner, const Range& range, Mode mode) {
  for (auto at = owner.locks.from(range.first);
       at != owner.locks.end() && at->range.first <= range.last && spend(); ++at) {
    ++looks_;
    if (modes_conflict(at->mode, mode)) return true;
  }
  return false;
}

/// Appends the nodes whose locks on one file are in the way of such a request, but for those that
/// another look there has found. REQUIRES: the file is locked.
void WaitingOwners::add_edges(const FileLocks& locks, File& file, const Leaves& leaves,
                              Nodes& out) {
  const Granted& granted = locks.granted_;
  const Policy& policy = granted.policy();
  const Request& request = leaves.request;
  if (scope_.outsiders != nullptr && policy.space_of(request.owner.type) == Space::kRecords) {
    scope_.outsiders->for_each_holder(
        locks.key(), request.range, request.mode, [this] { return spend(); },
        [&out](pid_t process) { out.push_back(Outsiders::node_of(process)); });
  }
  Looked& looked = file.looked[static_cast<std::size_t>(policy.space_of(request.owner.type))];
  const auto node_of = [&policy](const Owner& owner) {
    return holder_node(policy, owner.party(), owner.caller);
  };
  const auto hand_out = [&out](WaitGraph::Node node) {
    if (out.empty() || out.back() != node) out.push_back(node);
  };
  std::erase_if(looked.passed_by, [&](const OwnerId& id) {
    const Owner* owner = granted.find_owner(id);
    if (!spend() || owner == nullptr || owner == leaves.self) return false;
    const auto node = node_of(*owner);
    const bool due = node && policy.excludes(owner->party(), leaves.party) &&
                     holds_against(*owner, request.range, request.mode);
    if (due) hand_out(*node);
    return due;
  });
  // Those of its own are left out by whole branches of the tree.
  const auto own = node_of(*leaves.self);
  if (own && (leaves.from == nullptr || *own != *leaves.from)) {
    looked.passed_by.insert(leaves.self->id);
  }
  const auto look_at = [&](const LockTree& tree, const Range& part) {
    tree.for_each_overlap(part, reach_without(leaves.self), [&](const Lock& lock) {
      ++looks_;
      if (!spend()) return false;
      if (lock.owner == leaves.self) return true;
      const auto node = node_of(*lock.owner);
      if (!node) return true;
      if (policy.excludes(lock.owner->party(), leaves.party)) {
        hand_out(*node);
      } else {
        looked.passed_by.insert(lock.owner->id);
      }
      return true;
    });
  };
  const LockSpace& space = granted.space_of(request.owner);
  if (request.mode == Mode::kExclusive) {
    // Exclusive ones again: a shared lock that becomes exclusive while the search roams was in the
    // way all the time.
    looked.shared.add(request.range, [&](const Range& part) {
      look_at(space.exclusive, part);
      look_at(space.shared, part);
    });
    looked.exclusive.add(request.range, [](const Range&) {});
  } else {
    looked.exclusive.add(request.range, [&](const Range& part) { look_at(space.exclusive, part); });
  }
}

WaitingOwners::Nodes WaitingOwners::find_cycle(const FileLocks& file, const Owner& owner,
                                               const Request& request) {
  Nodes blockers;
  add_edges(file, entry(file), {nullptr, owner.party(), &owner, request}, blockers);
  return path_from(blockers, file.policy(), owner.party(), request.caller);
}

WaitingOwners::Nodes WaitingOwners::find_cycle(const Waiter& waiter) {
  Nodes blockers;
  Policy policy;
  {
    const std::lock_guard lock(waiter.file->mutex_);
    if (!waiter.is_parked()) return {};
    policy = waiter.file->policy();
    add_edges(*waiter.file, entry(*waiter.file),
              {nullptr, waiter.party(), waiter.owner, waiter.request}, blockers);
  }
  return path_from(blockers, policy, waiter.party(), waiter.request.caller);
}

WaitingOwners::Nodes WaitingOwners::find_cycle(pid_t outsider) {
  Nodes blockers;
  leave_outsider(outsider, blockers);
  return WaitGraph::find_path(*this, blockers, Outsiders::node_of(outsider));
}

WaitingOwners::Nodes WaitingOwners::path_from(const Nodes& blockers, const Policy& policy,
                                              const Party& party, const Caller& caller) {
  if (blockers.empty()) return {};
  Nodes goals;
  for (const auto& goal : waiting_nodes(policy, party, caller)) {
    if (goal) goals.push_back(*goal);
  }
  Nodes path = WaitGraph::find_path(*this, blockers, goals);
  if (!path.empty()) exhausted_ = false;
  return path;
}

void WaitingOwners::waits_for(WaitGraph::Node node, Nodes& out) {
  if (registry_.closed() != 0) exhausted_ = true;  // everybody is about to be answered
  if (exhausted_) return;
  if (scope_.only != nullptr &&
      !std::binary_search(scope_.only->begin(), scope_.only->end(), node)) {
    return;
  }
  if (const auto process = Outsiders::process_of(node); process && scope_.outsiders != nullptr) {
    leave_outsider(*process, out);
    return;
  }
  const bool whole = registry_.waiters_at(node, scope_.most, [&](const auto& waiter) {
    // Of those that came later each has a search of its own.
    if (waiter->enrolled < scope_.before) waiters_.push_back(waiter);
  });
  exhausted_ = !whole;
  for (const auto& waiter : waiters_) {
    if (!spend()) break;
    File& file = entry(*waiter->file);
    std::unique_lock<std::mutex> lock;
    if (home_ == nullptr) lock = std::unique_lock(waiter->file->mutex_);
    if (!waiter->is_parked()) continue;
    add_edges(*waiter->file, file, {&node, waiter->party(), waiter->owner, waiter->request}, out);
  }
  waiters_.clear();
}

/// A process outside waits for what is carried for owners here, and for others outside.
void WaitingOwners::leave_outsider(pid_t process, Nodes& out) {
  scope_.outsiders->for_each_awaited(process, [&](const OutsiderLock& wait) {
    if (!spend()) return;
    scope_.outsiders->for_each_holder(
        wait.file, wait.range, wait.mode, [this] { return spend(); },
        [&](pid_t other) {
          if (other != process) out.push_back(Outsiders::node_of(other));
        });
    const FileLocks* const locks = scope_.outsiders->find(wait.file);
    if (locks == nullptr) return;
    entry(*locks);
    std::unique_lock<std::mutex> lock;
    if (home_ == nullptr) lock = std::unique_lock(locks->mutex_);
    const Granted& granted = locks->granted_;
    const auto look_at = [&](const LockTree& tree) {
      tree.for_each_overlap(wait.range, kFullReach, [&](const Lock& held) {
        ++looks_;
        const auto node = holder_node(granted.policy(), held.owner->party(), held.owner->caller);
        if (node && (out.empty() || out.back() != *node)) out.push_back(*node);
        return spend();
      });
    };
    look_at(granted.space(Space::kRecords).exclusive);
    if (wait.mode == Mode::kExclusive) look_at(granted.space(Space::kRecords).shared);
  });
}

/// The entry of a file, which is locked from then on unless none is to be.
WaitingOwners::File& WaitingOwners::entry(const FileLocks& file) {
  const auto [at, is_new] = files_.try_emplace(&file);
  File& entry = at->second;
  if (is_new && &file != home_) {
    entry.file = const_cast<FileLocks&>(file).shared_from_this();
    if (home_ != nullptr) entry.lock = std::unique_lock(entry.file->mutex_);
  }
  return entry;
}

// -- FileLocks -----------------------------------------------------------------------------------

/// Whether a request closes a cycle; `is_open`: it looked at `most` waiters and locks, and that did
/// not tell. REQUIRES: Context::parking is held.
bool FileLocks::closes_cycle(const Owner& owner, const Request& request, std::uint64_t most,
                             bool& is_open) const {
  WaitingOwners waiting(this, context().registry, {.most = most});
  const auto cycle = waiting.find_cycle(*this, owner, request);
  context().counters.add(Counter::kDeadlockLooks, waiting.looks());
  is_open = waiting.exhausted();
  if (!cycle.empty()) reports_.deadlock(request, cycle);
  return !cycle.empty();
}

bool FileLocks::search(Waiter& waiter) {
  auto cycle = find_cycle(waiter, nullptr);
  return cycle.empty() || refuse_in_cycle(waiter, std::move(cycle), nullptr);
}

/// The cycle that a parked request closes with those that were parked before; empty: none.
WaitGraph::Nodes FileLocks::find_cycle(const Waiter& waiter, const Outsiders* outsiders) {
  std::uint64_t enrolled = 0;
  {
    // It may still be about to be parked, or to be refused that.
    const std::lock_guard lock(mutex_);
    if (!waiter.is_parked()) return {};
    enrolled = waiter.enrolled;
  }
  WaitingOwners roaming(nullptr, context().registry, {.before = enrolled, .outsiders = outsiders});
  auto cycle = roaming.find_cycle(waiter);
  context().counters.add(Counter::kDeadlockLooks, roaming.looks());
  return cycle;
}

/// Looks at a cycle again while all stands still. False: it is there no longer.
bool FileLocks::refuse_in_cycle(Waiter& waiter, WaitGraph::Nodes cycle,
                                const Outsiders* outsiders) {
  std::sort(cycle.begin(), cycle.end());
  Change change(*this);
  change.serialise_parking();
  if (!waiter.is_parked()) return true;
  WaitingOwners standing(this, context().registry,
                         {.before = waiter.enrolled, .only = &cycle, .outsiders = outsiders});
  const auto confirmed = standing.find_cycle(*this, *waiter.owner, waiter.request);
  context().counters.add(Counter::kDeadlockLooks, standing.looks());
  if (confirmed.empty()) return false;
  context().counters.add(Counter::kDeadlocks);
  reports_.deadlock(waiter.request, confirmed);
  abandon(waiter, EDEADLK, Answer::kOnceWithdrawn, change.out);
  return true;
}

}  // namespace lockmgr
