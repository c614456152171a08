#include "lockmgr/queue.h"

#include <algorithm>
#include <utility>

namespace lockmgr {

namespace {

/// How many waiters ahead, or locks in their way, are looked at for a dependency on the asker.
/// Beyond it LockManager::relent() decides, later.
constexpr int kDependencySteps = 64;

Waiter::Turns merge(Waiter::Turns a, const Waiter::Turns& b) {
  a.last = std::max(a.last, b.last);
  a.first = std::min(a.first, b.first);
  return a;
}

struct QueueSummary {
  Offset reach;
  Waiter::Turns all;
  Waiter::Turns exclusive;
};

QueueSummary queue_summary(const Waiter& n, const Waiter* left, const Waiter* right) {
  QueueSummary s{n.request.range.last, {}, {}};
  // A request that does not wait (it stands aside for a moment) goes before nobody.
  if (n.request.wait) {
    s.all = {n.turn, n.turn};
    if (n.request.mode == Mode::kExclusive) s.exclusive = s.all;
  }
  for (const Waiter* child : {left, right}) {
    if (child == nullptr) continue;
    s.reach = std::max(s.reach, child->queue_reach);
    s.all = merge(s.all, child->all_turns);
    s.exclusive = merge(s.exclusive, child->exclusive_turns);
  }
  return s;
}

Offset blocked_reach(const Waiter& n, const Waiter* left, const Waiter* right) {
  Offset reach = n.request.range.last;
  if (left != nullptr) reach = std::max(reach, left->blocked_reach);
  if (right != nullptr) reach = std::max(reach, right->blocked_reach);
  return reach;
}

bool operator==(const Waiter::Turns& a, const Waiter::Turns& b) {
  return a.last == b.last && a.first == b.first;
}

/// Whether a lock of the asker, or of one whom the asker's thread used last, is in the way of
/// `waiter`.
bool blocked_by(const Granted& granted, const Waiter& waiter, const Party& party,
                const Caller& caller) {
  const Policy& policy = granted.policy();
  const Request& r = waiter.request;
  if (const Owner* owner = granted.find_owner(party.owner);
      owner != nullptr && policy.excludes(party, waiter.party())) {
    for (auto it = owner->locks.from(r.range.first);
         it != owner->locks.end() && it->range.first <= r.range.last; ++it) {
      if (modes_conflict(it->mode, r.mode)) return true;
    }
  }
  if (caller.tid == 0) return false;
  int steps = 0;
  bool found = false;
  const auto visit = [&](const Lock& lock) {
    found = lock.owner->caller.tid == caller.tid && lock.owner != waiter.owner &&
            policy.excludes(lock.owner->party(), waiter.party());
    return !found && ++steps < kDependencySteps;
  };
  const LockSpace& space = granted.space_of(r.owner);
  const bool on = space.exclusive.for_each_overlap(r.range, kFullReach, visit);
  if (on && r.mode == Mode::kExclusive) space.shared.for_each_overlap(r.range, kFullReach, visit);
  return found;
}

/// The same of all those that `waiter` stands behind.
bool depends_on(const Granted& granted, const Waiter& waiter, const Party& party,
                const Caller& caller) {
  const Waiter* w = &waiter;
  for (int step = 0; w != nullptr && step < kDependencySteps; ++step, w = w->ahead) {
    if (blocked_by(granted, *w, party, caller)) return true;
  }
  return false;
}

}  // namespace

// -- tree summaries ------------------------------------------------------------------------------

void QueueTreeTraits::summarise(Waiter& n, const Waiter* left, const Waiter* right) {
  const QueueSummary s = queue_summary(n, left, right);
  n.queue_reach = s.reach;
  n.all_turns = s.all;
  n.exclusive_turns = s.exclusive;
}

bool QueueTreeTraits::summary_ok(const Waiter& n, const Waiter* left, const Waiter* right) {
  const QueueSummary s = queue_summary(n, left, right);
  return n.queue_reach == s.reach && n.all_turns == s.all && n.exclusive_turns == s.exclusive;
}

void BlockedTreeTraits::summarise(Waiter& n, const Waiter* left, const Waiter* right) {
  n.blocked_reach = blocked_reach(n, left, right);
}

bool BlockedTreeTraits::summary_ok(const Waiter& n, const Waiter* left, const Waiter* right) {
  return n.blocked_reach == blocked_reach(n, left, right);
}

// -- looking -------------------------------------------------------------------------------------

Waiter* Queue::find_of(const Opened& opened) const {
  if (opened.parked_ == 0) return nullptr;
  Waiter* found = nullptr;
  waiters_.for_each([&](Waiter& w) {
    if (w.opened == &opened) found = &w;
    return found == nullptr;
  });
  return found;
}

void Queue::search(Waiter* node, Search& search) {
  if (node == nullptr || node->queue_reach < search.range.first) return;
  const bool all = search.mode == Mode::kExclusive;
  const Waiter::Turns& turns = all ? node->all_turns : node->exclusive_turns;
  if (turns.first >= search.before) return;
  Waiter*& best = search.best;
  if (best != nullptr && turns.last <= best->turn) return;
  if (node->turn < search.before && (best == nullptr || node->turn > best->turn) &&
      node->request.range.overlaps(search.range) &&
      conflicts(search.policy, *node, search.party, search.mode)) {
    best = node;
  }
  // The last first: among many on one range, all else is then left out.
  Waiter* first = node->queue_hook.left;
  Waiter* second = node->request.range.first > search.range.last ? nullptr : node->queue_hook.right;
  const auto last = [all](const Waiter* n) {
    if (n == nullptr) return std::uint64_t{0};
    return (all ? n->all_turns : n->exclusive_turns).last;
  };
  if (last(second) > last(first)) std::swap(first, second);
  Queue::search(first, search);
  Queue::search(second, search);
}

Waiter* Queue::find_ahead(const Granted& granted, const Party& party, const Request& request,
                          std::uint64_t turn) const {
  Search ahead{granted.policy(), party, request.range, request.mode, turn};
  search(waiters_.root(), ahead);
  if (ahead.best != nullptr && depends_on(granted, *ahead.best, party, request.caller)) {
    return nullptr;
  }
  return ahead.best;
}

const Waiter& Queue::front_of(const Waiter& waiter) {
  const Waiter* front = &waiter;
  while (front->ahead != nullptr) front = front->ahead;
  return *front;
}

// -- coming, going and being placed --------------------------------------------------------------

void Queue::enter(const Policy& policy, Waiter& waiter) noexcept {
  waiter.turn = turn_of(policy, waiter.request);
  waiter.arrival = next_arrival_++;
  ++waiter.owner->waiting;
  ++waiter.opened->parked_;
  waiters_.insert(waiter);
}

void Queue::leave(Waiter& waiter, Outcomes& out) noexcept {
  waiters_.erase(waiter);
  while (!waiter.followers.empty()) {
    Waiter& follower = waiter.followers.front();
    take_out(follower);
    out.look_again(follower);
  }
  out.forget(waiter);
  --waiter.owner->waiting;
  --waiter.opened->parked_;
}

void Queue::put_behind(Waiter& waiter, Waiter& ahead) noexcept {
  waiter.place = Waiter::Place::kBehind;
  waiter.ahead = &ahead;
  ahead.followers.push_back(waiter);
  ++behind_;
}

void Queue::put_blocked(Waiter& waiter) noexcept {
  waiter.place = Waiter::Place::kBlocked;
  blocked_.insert(waiter);
}

void Queue::take_out(Waiter& waiter) noexcept {
  if (waiter.place == Waiter::Place::kBehind) {
    waiter.ahead->followers.erase(Waiter::PeerList::s_iterator_to(waiter));
    waiter.ahead = nullptr;
    --behind_;
  } else {
    blocked_.erase(waiter);
  }
  waiter.place = Waiter::Place::kNowhere;
}

// -- turns ---------------------------------------------------------------------------------------

void Queue::wake_blocked(const Policy& policy, const Owner& owner, const Range& range, Mode mode,
                         Outcomes& out) noexcept {
  const Space space = policy.space_of(owner.id.type);
  for (auto it = owner.locks.from(range.first);
       it != owner.locks.end() && it->range.first <= range.last; ++it) {
    if (it->mode <= mode) continue;
    blocked_.for_each_overlap(
        common(it->range, range), [](const Waiter& w) { return w.blocked_reach; },
        [&](Waiter& w) {
          if (policy.space_of(w.request.owner.type) == space) out.look_again(w);
          return true;
        });
  }
}

void Queue::count_pass(const Policy& policy, const Party& party, const Request& request,
                       std::uint64_t turn, Outcomes& out) noexcept {
  Search last{policy, party, request.range, request.mode, UINT64_MAX};
  search(waiters_.root(), last);
  if (last.best == nullptr || last.best->turn <= turn) return;
  const std::uint64_t patient_from = passes_.count(next_arrival_);
  if (patient_from == 0) return;
  waiters_.for_each([&](Waiter& w) {
    if (w.arrival >= patient_from || w.turn == w.arrival) return true;
    const bool due = w.work_hook.is_linked();
    out.forget(w);
    w.turn = w.arrival;
    waiters_.refresh(w);
    // It may stand behind one that it comes before now.
    const bool again = w.place == Waiter::Place::kBehind && w.ahead->turn > w.turn;
    if (again) take_out(w);
    if (due || again) out.look_again(w);
    return true;
  });
}

std::uint64_t Queue::reorder(const Policy& policy, Outcomes& out) noexcept {
  passes_ = {};
  std::uint64_t count = 0;
  waiters_.for_each([&](Waiter& w) {
    w.turn = policy.turn(w.request.mode, w.arrival);
    waiters_.refresh(w);
    out.look_again(w);
    ++count;
    return true;
  });
  return count;
}

// -- invariants ----------------------------------------------------------------------------------

const char* Queue::check_waiter(const Granted& granted, const Waiter& w) const {
  const Request& r = w.request;
  switch (w.place) {
    case Waiter::Place::kBehind:
      if (w.ahead == nullptr || w.ahead->turn >= w.turn) {
        return "a waiter stands behind one whose turn comes later";
      }
      if (!w.ahead->request.range.overlaps(r.range) ||
          !conflicts(granted.policy(), *w.ahead, w.party(), r.mode)) {
        return "a waiter stands behind one that it does not conflict with";
      }
      if (!w.ahead->queue_hook.linked()) return "a waiter stands behind one that has left";
      return nullptr;
    case Waiter::Place::kBlocked:
      if (granted.find_conflict(w.party(), w.owner, r.range, r.mode) == nullptr) {
        return "a blocked waiter has nothing in its way";
      }
      return nullptr;
    case Waiter::Place::kOutside:
    case Waiter::Place::kAside:
      return nullptr;
    case Waiter::Place::kNowhere:
    case Waiter::Place::kDone:
      return "a parked waiter is nowhere";
  }
  return nullptr;
}

const char* Queue::check(const Granted& granted) const {
  if (const char* broken = waiters_.check()) return broken;
  if (const char* broken = blocked_.check()) return broken;
  const char* broken = nullptr;
  std::uint32_t behind = 0;
  waiters_.for_each([&](const Waiter& w) {
    behind += w.place == Waiter::Place::kBehind ? 1 : 0;
    broken = check_waiter(granted, w);
    return broken == nullptr;
  });
  if (broken != nullptr) return broken;
  return behind == behind_ ? nullptr : "the number of waiters behind others has drifted";
}

}  // namespace lockmgr
