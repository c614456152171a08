#include "lockmgr/file_locks.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <new>
#include <utility>

#include "lockmgr/wait_nodes.h"

namespace lockmgr {

namespace {

/// How long a waiter stands behind one that stands still before it may pass; doubles each time it
/// was used up on a file without a regular grant in between, so that nobody starves.
constexpr auto kPatience = std::chrono::seconds(1);
constexpr auto kMostPatience = std::chrono::minutes(5);

/// How many waiters ahead, or locks in their way, are looked at for a dependency on the asker.
/// Beyond it relent() decides, later.
constexpr int kDependencySteps = 64;

/// How many steps covered() takes before it gives up and answers "no", which costs a call of the
/// backing that changes nothing.
constexpr int kCoverSteps = 64;

/// Owners without locks that an Opened keeps, so that lock-unlock loops need not make them anew.
constexpr std::size_t kIdleOwnersKept = 4;

std::uint32_t seconds_of(LockManager::Clock::time_point time) {
  const auto since = std::chrono::duration_cast<std::chrono::seconds>(time.time_since_epoch());
  return static_cast<std::uint32_t>(since.count());
}

Range hull(const Range& a, const Range& b) {
  return {std::min(a.first, b.first), std::max(a.last, b.last)};
}

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

constexpr auto kAnyLock = [](const Lock&) { return true; };
constexpr auto kFullReach = [](const LockTreeTraits::Summary& s) { return s.reach; };

/// Searches that leave out the locks of one owner.
auto reach_without(const Owner* owner) {
  return [owner](const LockTreeTraits::Summary& s) { return s.reach_without(owner); };
}
auto not_of(const Owner* owner) {
  return [owner](const Lock& l) { return l.owner != owner; };
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

// -- small parts ---------------------------------------------------------------------------------

Waiter::Waiter(FileLocks& waits_on, const Request& what, Ticket name, Completion on_done,
               Ledger& ledger)
    : file(waits_on.shared_from_this()),
      request(what),
      ticket(name),
      since(waits_on.manager_.now()),
      done(std::move(on_done)),
      tally(ledger, what.caller.uid, Tally::Kind::kWaiters) {}

int NoBacking::wait(WaitId, const Range&, Mode, bool, WaitDone) noexcept { return ENOSYS; }

FileLocks::FileLocks(LockManager& manager, const FileKey& key, std::unique_ptr<Backing> backing)
    : manager_(manager),
      key_(key),
      backing_(std::move(backing)),
      policy_(manager.policy()),
      patience_(kPatience) {}

FileLocks::~FileLocks() { manager_.forget_file(*this); }

// -- looking -------------------------------------------------------------------------------------

const Lock* FileLocks::find_conflict_in(const LockTree& tree, const Party& party, const Owner* self,
                                        const Range& range) const {
  const Lock* hit = tree.first_overlap(range, reach_without(self), not_of(self));
  if (hit == nullptr || policy_.excludes(hit->owner->party(), party)) return hit;
  // The first one is of an owner that the policy exempts; look at the others one by one.
  const Lock* conflict = nullptr;
  tree.for_each_overlap(range, reach_without(self), [&](const Lock& lock) {
    if (lock.owner != self && policy_.excludes(lock.owner->party(), party)) conflict = &lock;
    return conflict == nullptr;
  });
  return conflict;
}

const Lock* FileLocks::find_conflict(const Party& party, const Owner* self, const Range& range,
                                     Mode mode) const {
  const LockSpace& space = space_of(party.owner);
  const Lock* conflict = find_conflict_in(space.exclusive, party, self, range);
  if (conflict == nullptr && mode == Mode::kExclusive) {
    conflict = find_conflict_in(space.shared, party, self, range);
  }
  return conflict;
}

bool FileLocks::requests_conflict(const Waiter& waiter, const Party& party, Mode mode) const {
  return waiter.request.wait && modes_conflict(waiter.request.mode, mode) &&
         policy_.excludes(waiter.party(), party);
}

void FileLocks::search_ahead(Waiter* node, const Party& party, const Range& range, Mode mode,
                             std::uint64_t before, Waiter** best) const {
  if (node == nullptr || node->queue_reach < range.first) return;
  const Waiter::Turns& turns = mode == Mode::kExclusive ? node->all_turns : node->exclusive_turns;
  if (turns.first >= before) return;
  if (*best != nullptr && turns.last <= (*best)->turn) return;
  if (node->turn < before && (*best == nullptr || node->turn > (*best)->turn) &&
      node->request.range.overlaps(range) && requests_conflict(*node, party, mode)) {
    *best = node;
  }
  // The last first: among many on one range, all else is then left out.
  Waiter* first = node->queue_hook.left;
  Waiter* second = node->request.range.first > range.last ? nullptr : node->queue_hook.right;
  const auto last = [mode](const Waiter* n) {
    if (n == nullptr) return std::uint64_t{0};
    return (mode == Mode::kExclusive ? n->all_turns : n->exclusive_turns).last;
  };
  if (last(second) > last(first)) std::swap(first, second);
  search_ahead(first, party, range, mode, before, best);
  search_ahead(second, party, range, mode, before, best);
}

Waiter* FileLocks::latest_ahead(const Party& party, const Caller& caller, const Range& range,
                                Mode mode, std::uint64_t before) const {
  Waiter* best = nullptr;
  search_ahead(queue_.root(), party, range, mode, before, &best);
  if (best != nullptr && depends_on(*best, party, caller)) return nullptr;
  return best;
}

bool FileLocks::blocked_by(const Waiter& waiter, const Party& party, const Caller& caller) const {
  const Request& r = waiter.request;
  if (Owner* owner = owners_.find(party.owner);
      owner != nullptr && policy_.excludes(party, waiter.party())) {
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
            policy_.excludes(lock.owner->party(), waiter.party());
    return !found && ++steps < kDependencySteps;
  };
  const LockSpace& space = space_of(r.owner);
  const bool on = space.exclusive.for_each_overlap(r.range, kFullReach, visit);
  if (on && r.mode == Mode::kExclusive) space.shared.for_each_overlap(r.range, kFullReach, visit);
  return found;
}

bool FileLocks::depends_on(const Waiter& waiter, const Party& party, const Caller& caller) const {
  const Waiter* w = &waiter;
  for (int step = 0; w != nullptr && step < kDependencySteps; ++step, w = w->ahead) {
    if (blocked_by(*w, party, caller)) return true;
  }
  return false;
}

bool FileLocks::collides(const OutsideWait& wait, const Party& party, const Range& range,
                         Mode mode) const {
  if (wait.space != policy_.space_of(party.owner.type)) return false;
  if (!wait.range.overlaps(range) || !modes_conflict(wait.mode, mode)) return false;
  if (policy_.excludes(wait.party, party)) return true;
  // Of one owner, or of owners that go together: success of a shared wait would weaken an exclusive
  // lock; a shared lock beside an exclusive wait at worst disturbs it.
  return mode == Mode::kExclusive && wait.mode == Mode::kShared;
}

OutsideWait* FileLocks::find_collision(const Party& party, const Range& range, Mode mode) const {
  for (const auto& wait : outside_) {
    if (collides(*wait, party, range, mode)) return wait.get();
  }
  return nullptr;
}

/// Whether outsiders stand in the way of the request; `unknown` when the backing cannot tell.
bool FileLocks::outsider_refuses(Space space, const Range& range, Mode mode,
                                 bool unknown) const noexcept {
  std::optional<OutsideLock> found;
  if (backing_of(space).test(range, mode, found) != 0) return unknown;
  if (found || !policy_.guards() || guard_ >= mode) return found.has_value();
  return backing_of(Space::kFlocks).test(kWholeFile, mode, found) == 0 ? found.has_value()
                                                                       : unknown;
}

Mode FileLocks::mode_at(Space where, Offset at, Offset limit, const Owner* left_out,
                        Offset* last) const {
  const LockSpace& space = spaces_[static_cast<std::size_t>(where)];
  const auto reach = reach_without(left_out);
  const auto counts = not_of(left_out);
  if (const Offset end = space.exclusive.cover_end(at, reach, counts); end >= at) {
    *last = std::min(end, limit);
    return Mode::kExclusive;
  }
  if (const Lock* next = space.exclusive.first_overlap({at, limit}, reach, counts)) {
    limit = next->range.first - 1;
  }
  if (const Offset end = space.shared.cover_end(at, reach, counts); end >= at) {
    *last = std::min(end, limit);
    return Mode::kShared;
  }
  const Lock* next = space.shared.first_overlap({at, limit}, reach, counts);
  *last = next != nullptr ? next->range.first - 1 : limit;
  return Mode::kNone;
}

bool FileLocks::covered(const LockSpace& space, const Range& range) {
  Offset at = range.first;
  for (int step = 0; step < kCoverSteps; ++step) {
    const Offset end = space.shared.cover_end(at, kFullReach, kAnyLock);
    if (end >= range.last) return true;
    if (end < at) return false;
    at = end + 1;
  }
  return false;
}

// -- owners --------------------------------------------------------------------------------------

Owner& FileLocks::get_owner(Opened& opened, const OwnerId& id, const Caller& caller) {
  const auto kept = std::find_if(opened.idle_.begin(), opened.idle_.end(),
                                 [&id](const Owner& o) { return o.id == id; });
  Owner* owner = kept != opened.idle_.end() ? &*kept : owners_.find(id);
  if (owner != nullptr && owner->idle() && owner->tally.uid() != caller.uid) {
    // The file description has changed hands; charge whom it works for now.
    remove_owner(*owner);
    owner = nullptr;
  }
  if (owner == nullptr) {
    owner = &owners_.insert(std::make_unique<Owner>(manager_.ledger_, id, caller));
  }
  if (owner->opened == nullptr || owner->kept) {
    Opened& home = owner->opened != nullptr ? *owner->opened : opened;
    leave_opened(*owner);
    join_opened(*owner, home);
  }
  if (owner->idle()) owner->process = caller.pid;
  owner->caller = caller;
  return *owner;
}

void FileLocks::join_opened(Owner& owner, Opened& opened) noexcept {
  owner.opened = &opened;
  opened.busy_.push_front(owner);
}

void FileLocks::leave_opened(Owner& owner) noexcept {
  if (owner.opened == nullptr) return;
  OwnerList& list = owner.kept ? owner.opened->idle_ : owner.opened->busy_;
  list.erase(OwnerList::s_iterator_to(owner));
  owner.opened = nullptr;
  owner.kept = false;
}

void FileLocks::remove_owner(Owner& owner) noexcept {
  leave_opened(owner);
  owners_.erase(owner);
}

void FileLocks::drop_if_idle(Owner& owner) noexcept {
  if (!owner.idle() || owner.kept) return;
  Opened* opened = owner.opened;
  if (opened == nullptr) {
    remove_owner(owner);
    return;
  }
  if (opened->idle_.size() >= kIdleOwnersKept) remove_owner(opened->idle_.back());
  leave_opened(owner);
  owner.opened = opened;
  owner.kept = true;
  opened->idle_.push_front(owner);
}

// -- the backing ---------------------------------------------------------------------------------

/// The mirror changes within `range`: what waits have taken there can no longer be relied upon.
void FileLocks::disturb(Space space, const Range& range) noexcept {
  for (const auto& wait : outside_) {
    if (wait->space == space && wait->range.overlaps(range)) wait->disturbed = true;
  }
}

int FileLocks::set_backing(Space space, const Range& range, Mode mode, bool unlocking) noexcept {
  // An exclusive lock may make the backing start afresh, without what waits have taken.
  disturb(space, mode == Mode::kExclusive ? kWholeFile : range);
  ++changes_;
  // The clock costs a tenth of what a call on a local file does.
  const bool timed = manager_.counters_.add(Counter::kBackingCalls) % kTimedCalls == 0;
  const auto begin = timed ? LockManager::Clock::now() : LockManager::Clock::time_point{};
  const int error = backing_of(space).set(range, mode, CarriedIn(*this, space));
  if (timed) manager_.record(Timing::kBackingCalls, LockManager::Clock::now() - begin);
  // EINPROGRESS: the backing knows, and tells, that it has no answer.
  const bool refused = error == EAGAIN && !unlocking;
  if (error != 0 && error != EINPROGRESS && !refused) report(range, mode, error, unlocking);
  return error;
}

void FileLocks::report(const Range& range, Mode mode, int error, bool unlocking) noexcept {
  manager_.counters_.add(Counter::kBackingErrors);
  if (manager_.observer_ != nullptr) {
    manager_.observer_->backing_failed(*this, range, mode, error, unlocking);
  }
}

void FileLocks::CarriedIn::for_each(const std::function<bool(const Range&, Mode)>& visit) const {
  for (Offset at = 0;;) {
    Offset last = at;
    const Mode mode = file_.mode_at(space_, at, kEof, nullptr, &last);
    if (mode != Mode::kNone && !visit({at, last}, mode)) return;
    if (last == kEof) return;
    at = last + 1;
  }
}

/// To be called before the backing is weakened: afterwards those who waited there no longer do.
void FileLocks::note_outsiders(Space space, Outcomes& out) noexcept {
  if (!blocked_.empty() && !out.yields && policy_.yields_to_outsiders()) {
    out.yields = backing_of(space).outsiders_waiting();
  }
}

void FileLocks::mark_stale(Space space, const Range& range) noexcept {
  std::optional<Range>& stale = spaces_[static_cast<std::size_t>(space)].stale;
  stale = stale ? hull(*stale, range) : range;
}

bool FileLocks::restore_backing(Space space, const Range& range) noexcept {
  bool well = true;
  for (Offset at = range.first;;) {
    Offset last = at;
    const Mode mode = mode_at(space, at, range.last, nullptr, &last);
    well = set_backing(space, {at, last}, mode, true) == 0 && well;
    if (last >= range.last) break;
    at = last + 1;
  }
  if (!well) mark_stale(space, range);
  return well;
}

void FileLocks::repair_backing() noexcept {
  for (const Space space : kSpaces) {
    std::optional<Range>& stale = spaces_[static_cast<std::size_t>(space)].stale;
    if (stale) restore_backing(space, *std::exchange(stale, std::nullopt));
  }
  if (policy_.guards()) set_guard(false);
}

void FileLocks::carry_anew() noexcept {
  Outcomes out;
  {
    const std::lock_guard guard(mutex_);
    mark_stale(Space::kRecords, kWholeFile);
    if (policy_.conflict_space == ConflictSpace::kSeparate) mark_stale(Space::kFlocks, kWholeFile);
    repair_backing();
    if (policy_.guards()) set_guard(true);
    settle(out);
    verify();
  }
  announce(out);
}

bool FileLocks::must_raise(const Owner& owner, const Range& range, Mode mode) const {
  if (mode == Mode::kExclusive) {
    const auto it = owner.locks.from(range.first);
    return it == owner.locks.end() || it->mode != mode || !it->range.contains(range);
  }
  // A downgrade is carried by the same call as a raise, hence an exclusive lock also needs one.
  const LockSpace& space = space_of(owner.id);
  return space.exclusive.first_overlap(range, kFullReach, kAnyLock) != nullptr ||
         !covered(space, range);
}

int FileLocks::raise_backing(const Owner& owner, const Range& range, Mode mode) noexcept {
  const Space space = policy_.space_of(owner.id.type);
  if (mode == Mode::kExclusive || space_of(owner.id).exclusive.first_overlap(
                                      range, reach_without(&owner), not_of(&owner)) == nullptr) {
    return set_backing(space, range, mode, false);
  }
  // A shared lock beside exclusive ones of owners that the policy exempts: those must stay. What is
  // free comes first, since outsiders may refuse it, and what they refuse can be undone only while
  // nothing was weakened; then what the owner itself held exclusively.
  for (const bool weaken : {false, true}) {
    for (Offset at = range.first;;) {
      Offset last = at;
      const Mode now = mode_at(space, at, range.last, nullptr, &last);
      const Mode others = mode_at(space, at, last, &owner, &last);
      const bool due = weaken ? now == Mode::kExclusive && others != now : now == Mode::kNone;
      const int error = due ? set_backing(space, {at, last}, Mode::kShared, false) : 0;
      if (error != 0) {
        restore_backing(space, range);
        return error;
      }
      if (last >= range.last) break;
      at = last + 1;
    }
  }
  return 0;
}

void FileLocks::lower_to_others(const Owner& owner, const Range& part, Mode held) noexcept {
  const Space space = policy_.space_of(owner.id.type);
  for (Offset at = part.first;;) {
    Offset last = at;
    const Mode others = mode_at(space, at, part.last, &owner, &last);
    if (others < held && set_backing(space, {at, last}, others, true) != 0) {
      mark_stale(space, {at, last});
    }
    if (last >= part.last) return;
    at = last + 1;
  }
}

void FileLocks::lower_backing(Owner& owner, const Range& range) noexcept {
  const auto begin = owner.locks.from(range.first);
  if (begin == owner.locks.end() || begin->range.first > range.last) return;
  auto end = begin;
  Offset last = 0;
  for (; end != owner.locks.end() && end->range.first <= range.last; ++end) last = end->range.last;
  const Range held{std::max(begin->range.first, range.first), std::min(last, range.last)};
  const auto reach = reach_without(&owner);
  const auto counts = not_of(&owner);
  const LockSpace& space = space_of(owner.id);
  if (space.exclusive.first_overlap(held, reach, counts) == nullptr &&
      space.shared.first_overlap(held, reach, counts) == nullptr) {
    const Space where = policy_.space_of(owner.id.type);
    if (set_backing(where, held, Mode::kNone, true) != 0) mark_stale(where, held);
    return;
  }
  for (auto it = begin; it != end; ++it) {
    lower_to_others(owner,
                    {std::max(it->range.first, range.first), std::min(it->range.last, range.last)},
                    it->mode);
  }
}

// -- granting and releasing ----------------------------------------------------------------------

void FileLocks::add(Owner& owner, const Held& held) noexcept {
  owner.locks.insert(held);
  tree_of(owner, held.mode).insert({held.range, &owner, held.since, held.mode, held.epoch});
}

void FileLocks::shorten(Owner& owner, const Held& held, Offset last) noexcept {
  const Range range{held.range.first, last};
  owner.locks.replace({range, held.since, held.mode, held.epoch});
  tree_of(owner, held.mode).replace({range, &owner, held.since, held.mode, held.epoch});
}

void FileLocks::remove(Owner& owner, const Held& held) noexcept {
  owner.locks.erase(held.range.first);
  tree_of(owner, held.mode).erase({held.range.first, &owner});
}

std::uint64_t FileLocks::growth(const Owner& owner, const Range& range, Mode mode) const {
  std::uint64_t gone = 0;
  std::uint64_t come = 1;
  auto it = owner.locks.from(range.first == 0 ? 0 : range.first - 1);
  for (; it != owner.locks.end() && it->range.touches(range); ++it) {
    const Overlap how = relate(it->range, range);
    if (it->mode == mode || how == Overlap::kEqual || how == Overlap::kInside) ++gone;
    if (it->mode != mode && how == Overlap::kContains) ++come;
  }
  return come > gone ? come - gone : 0;
}

/// Takes the memory for a grant or a release before anything is changed.
int FileLocks::reserve(Owner& owner, const Range& range, Mode mode) noexcept {
  const unsigned fresh = mode == Mode::kNone ? 0 : 1;
  if (fresh != 0 && !tree_of(owner, mode).prepare(1)) return ENOLCK;
  // What reaches beyond the range in another mode leaves a rest there.
  const auto it = owner.locks.from(range.last);
  const bool rest = it != owner.locks.end() && it->range.first <= range.last &&
                    it->range.last > range.last && it->mode != mode;
  if (rest && !tree_of(owner, it->mode).prepare(1)) return ENOLCK;
  return owner.locks.prepare(fresh + (rest ? 1 : 0)) ? 0 : ENOLCK;
}

/// Leaves of `held`, a lock of another mode, what lies outside `range`.
void FileLocks::trim(Owner& owner, const Held& held, const Range& range) noexcept {
  const auto rest = [&] {
    return Held{{range.last + 1, held.range.last}, held.since, held.mode, held.epoch};
  };
  switch (relate(held.range, range)) {
    case Overlap::kApart:
      return;
    case Overlap::kEqual:
    case Overlap::kInside:
      remove(owner, held);
      return;
    case Overlap::kContains:
      shorten(owner, held, range.first - 1);
      add(owner, rest());
      return;
    case Overlap::kOverHead:
      shorten(owner, held, range.first - 1);
      return;
    case Overlap::kOverTail:
      // In this order, so that no tree becomes empty between.
      add(owner, rest());
      remove(owner, held);
      return;
  }
}

void FileLocks::commit(Owner& owner, const Range& range, Mode mode) noexcept {
  ++changes_;
  Held fresh{range, mode == Mode::kNone ? 0 : seconds_of(manager_.now()), mode, epoch_};
  for (Offset at = range.first == 0 ? 0 : range.first - 1;;) {
    const auto it = owner.locks.from(at);
    if (it == owner.locks.end() || !it->range.touches(range)) break;
    const Held held = *it;
    if (held.mode == mode) {
      fresh.range = hull(fresh.range, held.range);
      fresh.since = std::min(fresh.since, held.since);
      if (held.epoch != epoch_) fresh.epoch = held.epoch;
      remove(owner, held);
    } else {
      trim(owner, held, range);
    }
    if (held.range.last > range.last || held.range.last == kEof) break;
    at = held.range.last + 1;
  }
  if (mode != Mode::kNone) add(owner, fresh);
  owner.tally.set(owner.locks.size());
  // A waiter of the mount that comes first takes the guard over, too.
  if (policy_.guards() && (policy_.yields_to_outsiders() || blocked_.empty())) set_guard(false);
}

int FileLocks::refuse(const Request& request, Limit limit) noexcept {
  manager_.counters_.add(Counter::kLimits);
  if (manager_.observer_ != nullptr) {
    manager_.observer_->limit_reached(*this, request, limit, manager_.ledger_.limit(limit));
  }
  return ENOLCK;
}

// -- the order of turns --------------------------------------------------------------------------

bool FileLocks::queues(const Request& request) const {
  return request.wait && policy_.queues_behind_waiters();
}

std::uint64_t FileLocks::turn_of(const Request& request) const {
  return policy_.turn(request.mode, next_arrival_);
}

/// A request is granted in its turn. Should that pass waiters for the last time, they go by arrival
/// from now on.
void FileLocks::count_pass(const Party& party, const Request& request, std::uint64_t turn,
                           Outcomes& out) noexcept {
  Waiter* last = nullptr;
  search_ahead(queue_.root(), party, request.range, request.mode, UINT64_MAX, &last);
  if (last == nullptr || last->turn <= turn) return;
  const std::uint64_t patient_from = passes_.count(next_arrival_);
  if (patient_from == 0) return;
  queue_.for_each([&](Waiter& w) {
    if (w.arrival >= patient_from || w.turn == w.arrival) return true;
    const bool due = w.work_hook.is_linked();
    if (due) out.again.erase(out.again.iterator_to(w));
    w.turn = w.arrival;
    queue_.refresh(w);
    // It may stand behind one that it comes before now.
    const bool again = w.place == Waiter::Place::kBehind && w.ahead->turn > w.turn;
    if (again) detach(w);
    if (due || again) out.again.insert(w);
    return true;
  });
}

/// What to do about a wait outside that a grant would collide with. To call it back costs it its
/// turn there: only for one whom outsiders do not refuse as well, or whose own turn comes first.
/// relent() looks after the others.
FileLocks::Attempt FileLocks::collision(OutsideWait& wait, const Request& request,
                                        std::uint64_t turn) const noexcept {
  const bool first = request.wait && std::all_of(wait.attached.begin(), wait.attached.end(),
                                                 [&](const Waiter& w) { return turn < w.turn; });
  const bool refused = !first && outsider_refuses(policy_.space_of(request.owner.type),
                                                  request.range, request.mode, request.wait);
  if (refused && !request.wait) return {.verdict = Verdict::kOutside};
  return {.verdict = Verdict::kCollides, .collision = &wait, .recalls = !refused};
}

FileLocks::Attempt FileLocks::attempt(Owner& owner, const Request& request, std::uint64_t turn,
                                      bool queues, const OutsideWait* have, bool yields,
                                      Outcomes& out) noexcept {
  const Party party = owner.party();
  const Space space = policy_.space_of(owner.id.type);
  const Range& range = request.range;
  const Mode mode = request.mode;
  const auto failed = [](int error) {
    return Attempt{.verdict = Verdict::kFailed, .error = error};
  };

  if (queues && !queue_.empty()) {
    if (Waiter* ahead = latest_ahead(party, request.caller, range, mode, turn)) {
      return {.verdict = Verdict::kBehind, .ahead = ahead};
    }
  }
  if (find_conflict(party, &owner, range, mode) != nullptr) return {.verdict = Verdict::kBlocked};
  if (!outside_.empty()) {
    if (OutsideWait* wait = find_collision(party, range, mode)) {
      return collision(*wait, request, turn);
    }
  }
  // Two more is the most that one request can add: itself, and the tail of a lock it splits.
  if (owner.tally.would_break(2)) {
    if (const std::uint64_t more = growth(owner, range, mode); more > 0) {
      if (const auto limit = owner.tally.would_break(more)) return failed(refuse(request, *limit));
    }
  }
  if (const int error = reserve(owner, range, mode); error != 0) return failed(error);
  const bool held_already =
      have != nullptr && !have->disturbed && have->range == range && have->space == space;
  const bool raises = !held_already && must_raise(owner, range, mode);
  if (raises && yields && outside_range(request)) {
    return {.verdict = Verdict::kOutside, .yields = true};
  }
  if (policy_.guards()) {
    if (OutsideWait* wait = find_guard_collision(mode)) return collision(*wait, request, turn);
    const int error = raise_guard(mode, have);
    if (error == EAGAIN || (error == EINPROGRESS && request.wait)) {
      return {.verdict = Verdict::kOutside, .guard = true};
    }
    if (error != 0) return failed(error);
  }
  if (raises) {
    if (mode == Mode::kShared) note_outsiders(space, out);
    const int error = raise_backing(owner, range, mode);
    // flock(2) may have lost what it was to convert.
    if (error != 0 && space == Space::kFlocks && !owner.locks.empty()) mark_stale(space, range);
    if (error != 0 && policy_.guards()) set_guard(false);
    // Whoever is ready to wait also waits for a backing that does not answer.
    if (error == EAGAIN || (error == EINPROGRESS && request.wait)) {
      return {.verdict = Verdict::kOutside};
    }
    if (error != 0) return failed(error);
  }
  if (queues && policy_.reorders() && !queue_.empty()) count_pass(party, request, turn, out);
  wake(owner, range, mode, out);
  commit(owner, range, mode);
  manager_.counters_.add(Counter::kGrants);
  return {.verdict = Verdict::kGranted};
}

/// BSD and Linux let go of a flock before they look whether its new mode can be had.
void FileLocks::drop_refused_conversion(Owner& owner, const Request& request, Verdict verdict,
                                        Outcomes& out) noexcept {
  const bool refused = verdict == Verdict::kBehind || verdict == Verdict::kBlocked ||
                       verdict == Verdict::kOutside ||
                       (verdict == Verdict::kCollides && request.wait);
  if (!refused || !policy_.drops_refused_conversion(owner.id.type) || owner.locks.empty()) return;
  const bool converts = std::any_of(owner.locks.begin(), owner.locks.end(),
                                    [&](const Held& l) { return l.mode != request.mode; });
  if (converts) unlock_all(owner, out);
}

int FileLocks::unlock(Owner& owner, const Range& range, Outcomes& out, EventKind why) noexcept {
  const auto first = owner.locks.from(range.first);
  if (first == owner.locks.end() || first->range.first > range.last) return 0;
  if (const int error = reserve(owner, range, Mode::kNone); error != 0) return error;
  const Space space = policy_.space_of(owner.id.type);
  if (policy_.yields_to_outsiders() || blocked_.empty()) {
    note_outsiders(space, out);
    lower_backing(owner, range);
  } else {
    // Whoever of the mount comes next takes the lock over at the backing; settle() lets go of what
    // is left.
    std::optional<Range>& lowered = out.lowered[static_cast<std::size_t>(space)];
    lowered = lowered ? hull(*lowered, range) : range;
  }
  wake(owner, range, Mode::kNone, out);
  if (manager_.watched()) tell_released(why, owner, range);
  commit(owner, range, Mode::kNone);
  return 0;
}

void FileLocks::unlock_all(Owner& owner, Outcomes& out) noexcept {
  // The whole file contains every lock, so nothing is split and nothing can fail.
  if (!owner.locks.empty()) unlock(owner, kWholeFile, out);
}

// -- requests ------------------------------------------------------------------------------------

std::optional<int> FileLocks::answer(Owner& owner, const Request& request,
                                     const Attempt& attempt) noexcept {
  switch (attempt.verdict) {
    case Verdict::kGranted:
      tell(EventKind::kGrant, request.owner, request.caller, request.range, request.mode);
      return 0;
    case Verdict::kFailed:
      drop_if_idle(owner);
      return attempt.error;
    case Verdict::kBlocked:
    case Verdict::kOutside:
      if (!request.wait) {
        tell(EventKind::kRefusal, request.owner, request.caller, request.range, request.mode,
             nullptr, EAGAIN);
        drop_if_idle(owner);
        manager_.counters_.add(Counter::kRefusals);
        return EAGAIN;
      }
      return std::nullopt;
    case Verdict::kBehind:
    case Verdict::kCollides:
      return std::nullopt;
  }
  return EIO;
}

std::optional<int> FileLocks::try_now(Opened& opened, const Request& request) noexcept {
  // What is in no cache comes all at once then, not line by line as it is met.
  constexpr std::size_t kCacheLine = 64;
  for (std::size_t at = 0; at < sizeof *this; at += kCacheLine) {
    __builtin_prefetch(reinterpret_cast<const char*>(this) + at);
  }
  __builtin_prefetch(&opened);
  Outcomes out;
  std::optional<int> result;
  try {
    const std::lock_guard guard(mutex_);
    if (const int error = policy_.check_open_mode(request.owner.type, request.mode,
                                                  opened.readable_, opened.writable_)) {
      return error;
    }
    repair_backing();
    if (request.mode == Mode::kNone) {
      manager_.counters_.add(Counter::kUnlocks);
      Owner* owner = owners_.find(request.owner);
      result = owner == nullptr ? 0 : unlock(*owner, request.range, out);
      if (owner != nullptr) drop_if_idle(*owner);
    } else {
      Owner& owner = get_owner(opened, request.owner, request.caller);
      const Attempt tried =
          attempt(owner, request, turn_of(request), queues(request), nullptr, false, out);
      drop_refused_conversion(owner, request, tried.verdict, out);
      result = answer(owner, request, tried);
      if (!result) drop_if_idle(owner);
    }
    settle(out);
    verify();
  } catch (const std::bad_alloc&) {
    return ENOLCK;
  }
  announce(out);
  return result;
}

std::optional<int> FileLocks::park(Opened& opened, const Request& request, Ticket ticket,
                                   Completion done) noexcept {
  const std::optional<int> result = decide_or_park(opened, request, ticket, std::move(done));
  if (result) manager_.use_up(ticket);
  return result;
}

std::optional<int> FileLocks::decide_or_park(Opened& opened, const Request& request, Ticket ticket,
                                             Completion done) noexcept {
  if (const auto now = try_now(opened, request)) return now;
  Outcomes out;
  std::optional<int> result;
  try {
    std::unique_lock block(manager_.block_mutex_, std::defer_lock);
    std::unique_lock guard(mutex_);
    if (request.wait && policy_.in_deadlock_detection(request.owner.type)) {
      guard.unlock();
      block.lock();
      guard.lock();
    }
    repair_backing();
    Owner& owner = get_owner(opened, request.owner, request.caller);
    const Attempt tried =
        attempt(owner, request, turn_of(request), queues(request), nullptr, false, out);
    result = answer(owner, request, tried);
    if (!result) {
      const int error = admit(owner, opened, request, ticket, std::move(done), tried, out);
      if (error != 0) {
        drop_if_idle(owner);
        result = error;
      }
    }
    settle(out);
    verify();
  } catch (const std::bad_alloc&) {
    return ENOLCK;
  }
  announce(out);
  return result;
}

/// Makes a waiter of a request that has to wait. Returns 0, or the errno that it is refused with.
int FileLocks::admit(Owner& owner, Opened& opened, const Request& request, Ticket ticket,
                     Completion done, const Attempt& attempt, Outcomes& out) noexcept try {
  if (const int closed = manager_.closed_.load(); closed != 0) return closed;
  if (request.wait && policy_.in_deadlock_detection(owner.id.type) &&
      closes_cycle(owner, request)) {
    manager_.counters_.add(Counter::kDeadlocks);
    tell(EventKind::kDeadlock, request.owner, request.caller, request.range, request.mode, nullptr,
         EDEADLK);
    return EDEADLK;
  }
  auto waiter = std::make_shared<Waiter>(*this, request, ticket, std::move(done), manager_.ledger_);
  waiter->process = owner.process;
  if (const auto limit = waiter->tally.would_break(1)) return refuse(request, *limit);
  outside_.reserve(outside_.size() + 1);
  if (const int cancelled = manager_.enroll(waiter); cancelled != 0) return cancelled;
  // From here on nothing throws.
  waiter->tally.set(1);
  waiter->owner = &owner;
  waiter->opened = &opened;
  waiter->turn = turn_of(request);
  waiter->arrival = next_arrival_++;
  ++owner.waiting;
  ++opened.parked_;
  queue_.insert(*waiter);
  manager_.counters_.add(Counter::kWaits);
  tell(EventKind::kWait, request.owner, request.caller, request.range, request.mode);
  place(*waiter, attempt, out);
  if (!blocked_.empty() && policy_.yields_to_outsiders()) {
    backing_of(policy_.space_of(owner.id.type)).expect_release();
  }
  return 0;
} catch (const std::bad_alloc&) {
  return ENOLCK;
}

int FileLocks::test(const Request& request, std::optional<Blocker>& blocker) noexcept {
  blocker.reset();
  const std::lock_guard guard(mutex_);
  const Owner* self = owners_.find(request.owner);
  const Party party =
      self != nullptr && !self->idle() ? self->party() : Party{request.owner, request.caller.pid};
  if (const Lock* lock = find_conflict(party, self, request.range, request.mode)) {
    blocker = Blocker{lock->owner->id, lock->owner->caller.pid, lock->range, lock->mode};
    return 0;
  }
  std::optional<OutsideLock> found;
  if (const int error =
          backing_of(policy_.space_of(request.owner.type)).test(request.range, request.mode, found);
      error != 0)
    return error;
  if (!found && policy_.guards() && guard_ < request.mode) {
    if (const int error = backing_of(Space::kFlocks).test(kWholeFile, request.mode, found)) {
      return error;
    }
  }
  if (found) blocker = Blocker{std::nullopt, found->pid, found->range, found->mode};
  return 0;
}

void FileLocks::close_by_process(std::uint64_t cookie) noexcept {
  Outcomes out;
  {
    const std::lock_guard guard(mutex_);
    Owner* owner = owners_.find({OwnerType::kProcess, cookie});
    if (owner == nullptr) return;
    repair_backing();
    unlock_all(*owner, out);
    // The cookie may name another process next; only a thread that still waits keeps the owner.
    if (owner->idle()) {
      remove_owner(*owner);
    } else {
      leave_opened(*owner);
    }
    settle(out);
    verify();
  }
  announce(out);
}

void FileLocks::close(Opened& opened) noexcept {
  Outcomes out;
  {
    const std::lock_guard guard(mutex_);
    repair_backing();
    // The kernel keeps a file open while a request on it is under way; an embedder might not.
    while (opened.parked_ != 0) {
      Waiter* left = nullptr;
      queue_.for_each([&](Waiter& w) {
        if (w.opened == &opened) left = &w;
        return left == nullptr;
      });
      abandon(*left, EBADF, out);
    }
    for (OwnerList* list : {&opened.busy_, &opened.idle_}) {
      while (!list->empty()) {
        Owner& owner = list->front();
        unlock_all(owner, out);
        if (owner.idle()) {
          remove_owner(owner);
        } else {
          leave_opened(owner);
        }
      }
    }
    settle(out);
    verify();
  }
  announce(out);
}

bool FileLocks::quiet() const noexcept {
  const std::lock_guard guard(mutex_);
  return std::all_of(spaces_.begin(), spaces_.end(),
                     [](const LockSpace& s) { return s.empty(); }) &&
         queue_.empty() && outside_.empty();
}

// -- waiting -------------------------------------------------------------------------------------

void FileLocks::place(Waiter& waiter, const Attempt& attempt, Outcomes& out) noexcept {
  waiter.placed = manager_.now();
  switch (attempt.verdict) {
    case Verdict::kBehind:
      waiter.place = Waiter::Place::kBehind;
      waiter.ahead = attempt.ahead;
      attempt.ahead->followers.push_back(waiter);
      count_queued(1);
      return;
    case Verdict::kBlocked:
      waiter.place = Waiter::Place::kBlocked;
      blocked_.insert(waiter);
      return;
    case Verdict::kCollides:
      waiter.place = Waiter::Place::kAside;
      waiter.outside = attempt.collision;
      attempt.collision->aside.push_back(waiter);
      count_queued(1);
      // It got past the queue, so it need not wait for a mere waiter.
      if (attempt.recalls) recall(*attempt.collision);
      return;
    case Verdict::kOutside:
      wait_outside(waiter, attempt, out);
      return;
    case Verdict::kGranted:
      finish(waiter, 0, out);
      return;
    case Verdict::kFailed:
      finish(waiter, attempt.error, out);
      return;
  }
}

/// The part of a request to wait for. A wait that is called off after it took the lock must be
/// undone by weakening the backing only; so where the owner's own exclusive lock is about to become
/// shared, that part is left to the final attempt. Nothing when that is all of it.
std::optional<Range> FileLocks::outside_range(const Request& request) const {
  if (request.mode == Mode::kExclusive) return request.range;
  const Range range = request.range;
  std::optional<Range> free;
  Offset at = range.first;
  const LockSpace& space = space_of(request.owner);
  while (const Lock* own = space.exclusive.first_overlap({at, range.last}, kFullReach, kAnyLock)) {
    if (own->range.first > at) {
      free = Range{at, own->range.first - 1};
      // Of several parts, one that an outsider has: a wait for another would end at once, in vain.
      if (outsider_refuses(policy_.space_of(request.owner.type), *free, request.mode, true)) {
        return *free;
      }
    }
    if (own->range.last >= range.last) return free;
    at = own->range.last + 1;
  }
  return Range{at, range.last};
}

void FileLocks::wait_outside(Waiter& waiter, const Attempt& attempt, Outcomes& out) noexcept {
  const std::optional<Range> free = attempt.guard ? kWholeFile : outside_range(waiter.request);
  if (!free) {
    // The backing refuses what it was told is the manager's own.
    finish(waiter, EIO, out);
    return;
  }
  const Range range = *free;
  const Mode mode = waiter.request.mode;
  const Space space = attempt.guard ? Space::kFlocks : policy_.space_of(waiter.request.owner.type);
  const auto attach = [&waiter](OutsideWait& wait) {
    waiter.place = Waiter::Place::kOutside;
    waiter.outside = &wait;
    wait.attached.push_back(waiter);
  };
  for (const auto& wait : outside_) {
    if (wait->space == space && wait->range == range && wait->mode == mode && !wait->recalled) {
      attach(*wait);
      return;
    }
  }
  const std::uint64_t limit = manager_.ledger_.limit(Limit::kOutsideWaits);
  if (manager_.outside_waits_.fetch_add(1, std::memory_order_relaxed) >= limit) {
    manager_.outside_waits_.fetch_sub(1, std::memory_order_relaxed);
    finish(waiter, refuse(waiter.request, Limit::kOutsideWaits), out);
    return;
  }
  int error = ENOLCK;
  try {
    auto wait = std::make_unique<OutsideWait>();
    wait->id = manager_.next_wait_.fetch_add(1, std::memory_order_relaxed);
    wait->space = space;
    wait->range = range;
    wait->mode = mode;
    wait->party = waiter.party();
    outside_.reserve(outside_.size() + 1);
    error = backing_of(space).wait(wait->id, range, mode, attempt.yields,
                                   [self = shared_from_this(), id = wait->id](int result) {
                                     self->outside_ended(id, result);
                                   });
    if (error == 0) {
      manager_.counters_.add(Counter::kOutsideWaits);
      outside_.push_back(std::move(wait));
      ++changes_;
      attach(*outside_.back());
      return;
    }
    report(range, mode, error, false);
  } catch (const std::bad_alloc&) {
    error = ENOLCK;
  }
  manager_.outside_waits_.fetch_sub(1, std::memory_order_relaxed);
  finish(waiter, error, out);
}

void FileLocks::recall(OutsideWait& wait) noexcept {
  if (std::exchange(wait.recalled, true)) return;
  backing_of(wait.space).recall(wait.id);
}

void FileLocks::outside_ended(Backing::WaitId id, int error) noexcept {
  Outcomes out;
  {
    const std::lock_guard guard(mutex_);
    const auto it = std::find_if(outside_.begin(), outside_.end(),
                                 [id](const auto& wait) { return wait->id == id; });
    const std::unique_ptr<OutsideWait> wait = std::move(*it);
    outside_.erase(it);
    ++changes_;
    manager_.outside_waits_.fetch_sub(1, std::memory_order_relaxed);

    if (error == EAGAIN) {
      wait->disturbed = true;
      error = 0;
    }
    // It may have weakened what an exclusive wait of the same owner took before it.
    if (error == 0 && wait->mode == Mode::kShared) disturb(wait->space, wait->range);
    const bool failed = error != 0 && error != EINTR;
    if (failed) report(wait->range, wait->mode, error, false);
    // Several waits may have to be called back for one of those aside. Until it is decided all the
    // others follow it to the next: were they to wait anew, waits would be called back for ever.
    OutsideWait* next = nullptr;
    const auto follow = [&](Waiter& waiter) {
      if (next != nullptr) place(waiter, {.verdict = Verdict::kCollides, .collision = next}, out);
      return next != nullptr;
    };
    const auto settle_aside = [&] {
      while (!wait->aside.empty()) {
        Waiter& waiter = wait->aside.front();
        detach(waiter);
        if (follow(waiter)) continue;
        reconsider(waiter, nullptr, false, out);
        if (waiter.place == Waiter::Place::kAside && waiter.outside->recalled) {
          next = waiter.outside;
        }
      }
    };
    // A wait that was called back makes room for those aside; one that succeeded was for its own.
    if (error == EINTR) settle_aside();
    bool used = false;
    while (!wait->attached.empty()) {
      Waiter& waiter = wait->attached.front();
      detach(waiter);
      if (follow(waiter)) continue;
      if (failed) {
        finish(waiter, error, out);
      } else if (reconsider(waiter, error == 0 ? wait.get() : nullptr, false, out)) {
        used = true;
      } else {
        wait->disturbed = true;  // a refused attempt may have set the mirror back
      }
    }
    if (error == 0 && wait->space == Space::kFlocks) flock_wait_ended(*wait, used);
    if (error == 0 && !used && wait->space == Space::kRecords) {
      restore_backing(wait->space, wait->range);
    }
    settle_aside();
    settle(out);
    verify();
  }
  announce(out);
}

void FileLocks::count_queued(int change) noexcept {
  const auto more = static_cast<std::uint64_t>(static_cast<std::int64_t>(change));
  queued_ += more;
  manager_.queued_.fetch_add(more, std::memory_order_relaxed);
}

/// Takes a waiter out of its place; it stays in the queue.
void FileLocks::detach(Waiter& waiter) noexcept {
  switch (waiter.place) {
    case Waiter::Place::kBehind:
      waiter.ahead->followers.erase(Waiter::PeerList::s_iterator_to(waiter));
      waiter.ahead = nullptr;
      count_queued(-1);
      break;
    case Waiter::Place::kBlocked:
      blocked_.erase(waiter);
      break;
    case Waiter::Place::kOutside:
      waiter.outside->attached.erase(Waiter::PeerList::s_iterator_to(waiter));
      waiter.outside = nullptr;
      break;
    case Waiter::Place::kAside:
      waiter.outside->aside.erase(Waiter::PeerList::s_iterator_to(waiter));
      waiter.outside = nullptr;
      count_queued(-1);
      break;
    case Waiter::Place::kNowhere:
    case Waiter::Place::kDone:
      break;
  }
  waiter.place = Waiter::Place::kNowhere;
}

/// Takes a detached waiter out of the queue and puts down its result.
void FileLocks::finish(Waiter& waiter, int error, Outcomes& out) noexcept {
  queue_.erase(waiter);
  while (!waiter.followers.empty()) {
    Waiter& follower = waiter.followers.front();
    detach(follower);
    if (!follower.work_hook.is_linked()) out.again.insert(follower);
  }
  if (waiter.work_hook.is_linked()) out.again.erase(out.again.iterator_to(waiter));
  --waiter.owner->waiting;
  --waiter.opened->parked_;
  waiter.tally.set(0);
  waiter.place = Waiter::Place::kDone;
  waiter.result = error;
  tell_end(waiter, error);
  out.finished.push_back(waiter);
  drop_if_idle(*waiter.owner);
  waiter.owner = nullptr;
}

/// Ends the wait of a parked request from without.
void FileLocks::abandon(Waiter& waiter, int error, Outcomes& out) noexcept {
  OutsideWait* outside = waiter.place == Waiter::Place::kOutside ? waiter.outside : nullptr;
  detach(waiter);
  if (outside != nullptr && outside->attached.empty()) recall(*outside);
  finish(waiter, error, out);
}

/// Looks again at a detached waiter. Returns whether it was granted.
bool FileLocks::reconsider(Waiter& waiter, const OutsideWait* have, bool yields,
                           Outcomes& out) noexcept {
  const Request& request = waiter.request;
  manager_.counters_.add(Counter::kLooks);
  const bool in_turn = queues(request) && !waiter.bypass;
  Attempt tried = attempt(*waiter.owner, request, waiter.turn, in_turn, have, yields, out);
  const bool refused = tried.verdict == Verdict::kBlocked || tried.verdict == Verdict::kOutside;
  if (!request.wait && refused) {
    drop_refused_conversion(*waiter.owner, request, tried.verdict, out);
    manager_.counters_.add(Counter::kRefusals);
    tried = {.verdict = Verdict::kFailed, .error = EAGAIN};
  }
  const bool granted = tried.verdict == Verdict::kGranted;
  if (granted) {
    if (!waiter.bypass) patience_ = kPatience;
    // A close by the process may have come while this thread waited: the lock belongs to the open
    // file that it came through.
    if (waiter.owner->opened == nullptr) join_opened(*waiter.owner, *waiter.opened);
  }
  place(waiter, tried, out);
  return granted;
}

/// To be called before `owner` gets `mode` on `range`: has those looked at again who may stand
/// before what it thereby gives up.
void FileLocks::wake(const Owner& owner, const Range& range, Mode mode, Outcomes& out) noexcept {
  if (blocked_.empty()) return;
  const Space space = policy_.space_of(owner.id.type);
  for (auto it = owner.locks.from(range.first);
       it != owner.locks.end() && it->range.first <= range.last; ++it) {
    if (it->mode <= mode) continue;
    blocked_.for_each_overlap(
        {std::max(it->range.first, range.first), std::min(it->range.last, range.last)},
        [](const Waiter& w) { return w.blocked_reach; },
        [&](Waiter& w) {
          if (policy_.space_of(w.request.owner.type) == space && !w.work_hook.is_linked()) {
            out.again.insert(w);
          }
          return true;
        });
  }
}

void FileLocks::settle(Outcomes& out) noexcept {
  while (!out.again.empty()) {
    Waiter& waiter = *out.again.begin();
    out.again.erase(out.again.begin());
    detach(waiter);
    reconsider(waiter, nullptr, out.yields, out);
  }
  for (const Space space : kSpaces) {
    std::optional<Range>& lowered = out.lowered[static_cast<std::size_t>(space)];
    if (lowered) restore_backing(space, *std::exchange(lowered, std::nullopt));
  }
  if (policy_.guards()) set_guard(false);
}

void FileLocks::announce(Outcomes& out) noexcept {
  if (out.finished.empty()) return;
  const auto self = shared_from_this();
  while (!out.finished.empty()) {
    Waiter& waiter = out.finished.front();
    out.finished.pop_front();
    const int result = waiter.result;
    const Completion done = std::move(waiter.done);
    manager_.strike(waiter);
    done(result);
  }
}

void FileLocks::cancel(Waiter& waiter, int error) noexcept {
  Outcomes out;
  {
    const std::lock_guard guard(mutex_);
    if (waiter.place == Waiter::Place::kDone || waiter.place == Waiter::Place::kNowhere) return;
    abandon(waiter, error, out);
    manager_.counters_.add(Counter::kInterrupts);
    settle(out);
    verify();
  }
  announce(out);
}

/// The waiter at the front of the chain that `waiter` stands in. Whenever something in its way is
/// released it is looked at anew, so the time it was placed tells how long nothing has moved.
const Waiter& FileLocks::front_of(const Waiter& waiter) {
  const Waiter* front = &waiter;
  while (front->ahead != nullptr) front = front->ahead;
  return *front;
}

void FileLocks::relent(LockManager::Clock::time_point now) noexcept {
  Outcomes out;
  {
    const std::lock_guard guard(mutex_);
    if (queued_ == 0) return;
    int steps = kDependencySteps;
    queue_.for_each([&](Waiter& w) {
      const Request& r = w.request;
      // The outsider that refused it may have gone, and another keep that wait going.
      if (w.place == Waiter::Place::kAside && !w.outside->recalled &&
          !outsider_refuses(policy_.space_of(r.owner.type), r.range, r.mode, true)) {
        recall(*w.outside);
      }
      if (w.place == Waiter::Place::kBehind && now - w.since >= patience_ &&
          find_conflict(w.party(), w.owner, r.range, r.mode) == nullptr &&
          now - front_of(w).placed >= patience_ &&
          (outside_.empty() ||
           !outsider_refuses(policy_.space_of(r.owner.type), r.range, r.mode, true))) {
        out.again.insert(w);
        --steps;
      }
      return steps > 0;
    });
    // Of those in each other's way only the earliest passes, so that the others keep their order.
    for (auto it = out.again.begin(); it != out.again.end();) {
      const Request& r = it->request;
      const bool in_the_way = std::any_of(out.again.begin(), it, [&](const Waiter& earlier) {
        return earlier.request.range.overlaps(r.range) &&
               requests_conflict(earlier, it->party(), r.mode);
      });
      if (in_the_way) {
        it = out.again.erase(it);
        continue;
      }
      it->bypass = true;
      manager_.counters_.add(Counter::kBypasses);
      ++it;
    }
    if (out.again.empty()) return;
    patience_ = std::min<LockManager::Clock::duration>(patience_ * 2, kMostPatience);
    settle(out);
    verify();
  }
  announce(out);
}

// -- deadlocks -----------------------------------------------------------------------------------

void FileLocks::deadlock_edges(const Party& party, const Owner* self, const Range& range, Mode mode,
                               std::vector<WaitGraph::Node>& out) const {
  const auto visit = [&](const Lock& lock) {
    if (lock.owner != self && policy_.excludes(lock.owner->party(), party)) {
      const auto node = holder_node(policy_, lock.owner->party(), lock.owner->caller);
      if (node && (out.empty() || out.back() != *node)) out.push_back(*node);
    }
    return true;
  };
  const LockSpace& space = space_of(party.owner);
  space.exclusive.for_each_overlap(range, reach_without(self), visit);
  if (mode == Mode::kExclusive) space.shared.for_each_overlap(range, reach_without(self), visit);
}

/// Whom parked requests wait for, over all files. Keeps each file it has looked at
/// locked, so that the graph stands still during the search; LockManager::block_mutex_ makes that
/// safe.
class FileLocks::WaitingOwners final : public WaitGraph::Source {
 public:
  explicit WaitingOwners(const FileLocks& home) : home_(home) {}

  void waits_for(WaitGraph::Node node, std::vector<WaitGraph::Node>& out) override {
    for (const auto& waiter : home_.manager_.waiters_at(node)) {
      const FileLocks& file = *waiter->file;
      hold(waiter->file);
      if (waiter->place == Waiter::Place::kDone || waiter->place == Waiter::Place::kNowhere)
        continue;
      const Request& r = waiter->request;
      file.deadlock_edges(waiter->party(), waiter->owner, r.range, r.mode, out);
    }
  }

 private:
  void hold(const std::shared_ptr<FileLocks>& file) {
    if (file.get() == &home_) return;
    for (const auto& held : held_) {
      if (held.first == file) return;
    }
    held_.emplace_back(file, std::unique_lock(file->mutex_));
  }

  const FileLocks& home_;  ///< locked by the caller
  // Destroyed last to first: a pair unlocks (second) before it lets go of the file (first).
  std::vector<std::pair<std::shared_ptr<FileLocks>, std::unique_lock<std::mutex>>> held_;
};

bool FileLocks::closes_cycle(const Owner& owner, const Request& request) const {
  std::vector<WaitGraph::Node> blockers;
  deadlock_edges(owner.party(), &owner, request.range, request.mode, blockers);
  if (blockers.empty()) return false;
  WaitingOwners source(*this);
  for (const auto& goal : waiting_nodes(policy_, owner.party(), request.caller)) {
    if (!goal) continue;
    const std::vector<WaitGraph::Node> cycle = WaitGraph::find_path(source, blockers, *goal);
    if (cycle.empty()) continue;
    if (manager_.observer_ != nullptr) manager_.observer_->deadlock(*this, request, cycle);
    return true;
  }
  return false;
}

// -- invariants ----------------------------------------------------------------------------------

const char* FileLocks::check_locks() const {
  for (const LockTree* tree : trees()) {
    if (const char* broken = tree->check()) return broken;
  }
  std::size_t in_trees = 0;
  const char* broken = nullptr;
  for (const LockTree* tree : trees()) {
    tree->for_each([&](const Lock& l) {
      ++in_trees;
      if (&tree_of(*l.owner, l.mode) != tree)
        broken = "a lock is in the tree of another mode or space";
      if (l.range.first < 0 || l.range.first > l.range.last) broken = "a lock has no proper range";
      for_each_conflict(l.owner->party(), l.owner, l.range, l.mode, [&](const Lock& other) {
        if (l.epoch == epoch_ && other.epoch == epoch_) {
          broken = "granted locks of owners that exclude each other overlap";
        }
        return broken == nullptr;
      });
      const OutsideWait* wait = find_collision(l.owner->party(), l.range, l.mode);
      if (wait != nullptr && !wait->stray) {
        broken = "a granted lock collides with a wait outside";
      }
      return broken == nullptr;
    });
  }
  if (broken != nullptr) return broken;

  std::size_t of_owners = 0;
  for (const Owner& owner : owners_) {
    if (const char* wrong = owner.locks.check()) return wrong;
    const Held* previous = nullptr;
    for (const Held& l : owner.locks) {
      if (previous != nullptr && previous->range.overlaps(l.range)) {
        return "an owner's locks overlap";
      }
      if (previous != nullptr && previous->mode == l.mode && previous->range.touches(l.range)) {
        return "an owner's neighbouring locks of one mode are not merged";
      }
      const LockTree& tree = tree_of(owner, l.mode);
      const auto it = tree.lower_bound({l.range.first, &owner});
      if (it == tree.end() || it->owner != &owner || it->mode != l.mode || it->since != l.since ||
          it->epoch != l.epoch || !(it->range == l.range)) {
        return "an owner's lock is not in the tree of its mode";
      }
      previous = &l;
      ++of_owners;
    }
    if (owner.tally.charged() != owner.locks.size()) return "an owner's tally has drifted";
    if (owner.idle() != owner.kept) return "an idle owner is not kept, or a kept one not idle";
  }
  return in_trees == of_owners ? nullptr : "trees and owners disagree on what is granted";
}

const char* FileLocks::check_waiters() const {
  if (const char* broken = queue_.check()) return broken;
  if (const char* broken = blocked_.check()) return broken;
  const char* broken = nullptr;
  std::uint64_t queued = 0;
  queue_.for_each([&](const Waiter& w) {
    const Request& r = w.request;
    switch (w.place) {
      case Waiter::Place::kBehind:
        ++queued;
        if (w.ahead == nullptr || w.ahead->turn >= w.turn) {
          broken = "a waiter stands behind one whose turn comes later";
        } else if (!w.ahead->request.range.overlaps(r.range) ||
                   !requests_conflict(*w.ahead, w.party(), r.mode)) {
          broken = "a waiter stands behind one that it does not conflict with";
        } else if (!w.ahead->queue_hook.linked()) {
          broken = "a waiter stands behind one that has left";
        }
        break;
      case Waiter::Place::kBlocked:
        if (find_conflict(w.party(), w.owner, r.range, r.mode) == nullptr) {
          broken = "a blocked waiter has nothing in its way";
        }
        break;
      case Waiter::Place::kAside:
        ++queued;
        [[fallthrough]];
      case Waiter::Place::kOutside:
        if (w.outside == nullptr) broken = "a waiter outside is attached to nothing";
        break;
      case Waiter::Place::kNowhere:
      case Waiter::Place::kDone:
        broken = "a parked waiter is nowhere";
        break;
    }
    return broken == nullptr;
  });
  if (broken == nullptr && queued != queued_) broken = "the number of queued waiters has drifted";
  for (const auto& wait : outside_) {
    if (broken == nullptr && wait->attached.empty() && !wait->recalled) {
      broken = "a wait outside serves nobody and was not recalled";
    }
  }
  return broken;
}

const char* FileLocks::check() const {
  const std::lock_guard guard(mutex_);
  if (const char* broken = check_locks()) return broken;
  return check_waiters();
}

/// In debug builds: verifies the invariants of a small file after a change, and stops on a break.
void FileLocks::verify() const noexcept {
#ifdef LOCKMGR_CHECK_INVARIANTS
  constexpr std::uint64_t kMostChecked = 256;
  if (manager_.ledger_.locks() + manager_.ledger_.waiters() > kMostChecked) return;
  const char* broken = check_locks();
  if (broken == nullptr) broken = check_waiters();
  if (broken != nullptr) {
    std::fprintf(stderr, "lockmgr: invariant broken: %s\n", broken);
    std::abort();
  }
#endif
}

}  // namespace lockmgr
