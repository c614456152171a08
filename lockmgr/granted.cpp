#include "lockmgr/granted.h"

#include <algorithm>
#include <cerrno>
#include <memory>
#include <new>

namespace lockmgr {

namespace {

/// How many steps covered() takes before it gives up and answers "no", which costs a call of the
/// backing that changes nothing.
constexpr int kCoverSteps = 64;

/// Owners without locks that an Opened keeps, so that lock-unlock loops need not make them anew.
constexpr std::size_t kIdleOwnersKept = 4;

}  // namespace

// -- looking -------------------------------------------------------------------------------------

const Lock* Granted::find_conflict(const Party& party, const Owner* self, const Range& range,
                                   Mode mode) const {
  const LockSpace& space = space_of(party.owner);
  const Lock* conflict = find_conflict_in(space.exclusive, party, self, range);
  if (conflict == nullptr && mode == Mode::kExclusive) {
    conflict = find_conflict_in(space.shared, party, self, range);
  }
  return conflict;
}

const Lock* Granted::find_conflict_in(const LockTree& tree, const Party& party, const Owner* self,
                                      const Range& range) const {
  const Lock* hit = tree.first_overlap(range, reach_without(self), not_of(self));
  if (hit == nullptr || policy_.excludes(hit->owner->party(), party)) return hit;
  return find_further_conflict(tree, party, self, range);
}

const Lock* Granted::first_conflict(const Party& party, const Owner* self, const Range& range,
                                    Mode mode) const {
  const LockSpace& space = space_of(party.owner);
  const Lock* first = find_conflict_in(space.exclusive, party, self, range);
  if (mode == Mode::kExclusive) {
    const Lock* shared = find_conflict_in(space.shared, party, self, range);
    if (first == nullptr || (shared != nullptr && shared->range.first < first->range.first)) {
      first = shared;
    }
  }
  return first;
}

/// The first lock found is of an owner that the policy exempts: looks at the others one by one.
const Lock* Granted::find_further_conflict(const LockTree& tree, const Party& party,
                                           const Owner* self, const Range& range) const {
  const Lock* conflict = nullptr;
  tree.for_each_overlap(range, reach_without(self), [&](const Lock& lock) {
    if (lock.owner != self && policy_.excludes(lock.owner->party(), party)) conflict = &lock;
    return conflict == nullptr;
  });
  return conflict;
}

Mode Granted::mode_at(Space where, Offset at, Offset limit, const Owner* left_out,
                      Offset* last) const {
  const LockSpace& space = this->space(where);
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

bool Granted::covered(const LockSpace& space, const Range& range) {
  Offset at = range.first;
  for (int step = 0; step < kCoverSteps; ++step) {
    const Offset end = space.shared.cover_end(at, kFullReach, kAnyLock);
    if (end >= range.last) return true;
    if (end < at) return false;
    at = end + 1;
  }
  return false;
}

Mode Granted::strongest() const {
  const LockSpace& space = this->space(Space::kRecords);
  if (!space.exclusive.empty()) return Mode::kExclusive;
  return space.shared.empty() ? Mode::kNone : Mode::kShared;
}

// -- owners --------------------------------------------------------------------------------------

Owner& Granted::get_owner(Opened& opened, const OwnerId& id, const Caller& caller, Ledger& ledger) {
  const auto kept = std::find_if(opened.idle_.begin(), opened.idle_.end(),
                                 [&id](const Owner& o) { return o.id == id; });
  Owner* owner = kept != opened.idle_.end() ? &*kept : owners_.find(id);
  if (owner != nullptr && owner->idle() && owner->tally.uid() != caller.uid) {
    // The file description has changed hands; charge whom it works for now.
    remove_owner(*owner);
    owner = nullptr;
  }
  if (owner == nullptr) {
    owner = &owners_.insert(std::make_unique<Owner>(ledger, id, caller));
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

void Granted::join_opened(Owner& owner, Opened& opened) noexcept {
  owner.opened = &opened;
  opened.busy_.push_front(owner);
}

void Granted::leave_opened(Owner& owner) noexcept {
  if (owner.opened == nullptr) return;
  OwnerList& list = owner.kept ? owner.opened->idle_ : owner.opened->busy_;
  list.erase(OwnerList::s_iterator_to(owner));
  owner.opened = nullptr;
  owner.kept = false;
}

void Granted::remove_owner(Owner& owner) noexcept {
  leave_opened(owner);
  owners_.erase(owner);
}

void Granted::drop(Owner& owner) noexcept {
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

void Granted::part_from_opened(Owner& owner) noexcept {
  if (owner.idle()) {
    remove_owner(owner);
  } else {
    leave_opened(owner);
  }
}

Owner* Granted::any_owner(Opened& opened) noexcept {
  for (OwnerList* list : {&opened.busy_, &opened.idle_}) {
    if (!list->empty()) return &list->front();
  }
  return nullptr;
}

// -- changing -------------------------------------------------------------------------------------

void Granted::add(Owner& owner, const Held& held) noexcept {
  owner.locks.insert(held);
  tree_of(owner, held.mode).insert({held.range, &owner, held.since, held.mode, held.epoch});
}

void Granted::shorten(Owner& owner, const Held& held, Offset last) noexcept {
  if (journal_ != nullptr) journal_->shorten(held.record, last);
  const Range range{held.range.first, last};
  owner.locks.replace({range, held.since, held.mode, held.epoch, held.record});
  tree_of(owner, held.mode).replace({range, &owner, held.since, held.mode, held.epoch});
}

void Granted::remove(Owner& owner, const Held& held) noexcept {
  if (journal_ != nullptr) journal_->remove(held.record);
  owner.locks.erase(held.range.first);
  tree_of(owner, held.mode).erase({held.range.first, &owner});
}

std::uint64_t Granted::growth(const Owner& owner, const Range& range, Mode mode) {
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

int Granted::reserve(Owner& owner, const Range& range, Mode mode) noexcept {
  return provide(owner, range, mode, mode == Mode::kNone ? 0 : 1);
}

/// reserve(), with `records` in the journal for what is granted.
int Granted::provide(Owner& owner, const Range& range, Mode mode, unsigned records) noexcept {
  const unsigned fresh = mode == Mode::kNone ? 0 : 1;
  if (fresh != 0 && !tree_of(owner, mode).prepare(1)) return ENOLCK;
  // What reaches beyond the range in another mode leaves a rest there.
  const auto it = owner.locks.from(range.last);
  const bool rest = it != owner.locks.end() && it->range.first <= range.last &&
                    it->range.last > range.last && it->mode != mode;
  if (rest && !tree_of(owner, it->mode).prepare(1)) return ENOLCK;
  if (!owner.locks.prepare(fresh + (rest ? 1 : 0))) return ENOLCK;
  if (journal_ == nullptr) return 0;
  records += rest ? 1 : 0;
  return records == 0 || journal_->provide(records) ? 0 : ENOLCK;
}

/// Leaves of `held`, a lock of another mode, what lies outside `range`.
void Granted::trim(Owner& owner, const Held& held, const Range& range) noexcept {
  // Written down before the lock that it was part of is shortened or goes.
  const auto add_rest = [&] {
    Held rest{{range.last + 1, held.range.last}, held.since, held.mode, held.epoch};
    if (journal_ != nullptr) rest.record = write_down(owner, rest);
    add(owner, rest);
  };
  switch (relate(held.range, range)) {
    case Overlap::kApart:
      return;
    case Overlap::kEqual:
    case Overlap::kInside:
      remove(owner, held);
      return;
    case Overlap::kContains:
      add_rest();
      shorten(owner, held, range.first - 1);
      return;
    case Overlap::kOverHead:
      shorten(owner, held, range.first - 1);
      return;
    case Overlap::kOverTail:
      // In this order, so that no tree becomes empty between.
      add_rest();
      remove(owner, held);
      return;
  }
}

/// Whether to grant `wanted` would leave all as it is.
bool Granted::is_so(const Owner& owner, const Held& wanted) {
  if (wanted.mode == Mode::kNone) return !owner.holds(wanted.range);
  const auto it = owner.locks.from(wanted.range.first);
  return it != owner.locks.end() && it->mode == wanted.mode && it->range.contains(wanted.range) &&
         it->since <= wanted.since;
}

/// `fresh` takes `held`, a lock of its mode that it touches, in.
void Granted::absorb(Held& fresh, const Held& held) const {
  fresh.range = hull(fresh.range, held.range);
  fresh.since = std::min(fresh.since, held.since);
  if (held.epoch != epoch_) fresh.epoch = held.epoch;
}

/// What put() makes of `fresh`.
Held Granted::merged(const Owner& owner, Held fresh) const {
  const Range range = fresh.range;
  auto it = owner.locks.from(range.first == 0 ? 0 : range.first - 1);
  for (; it != owner.locks.end() && it->range.touches(range); ++it) {
    if (it->mode == fresh.mode) absorb(fresh, *it);
  }
  return fresh;
}

Journal::Record Granted::write_down(const Owner& owner, const Held& held) noexcept {
  return journal_->add({.owner = owner.id,
                        .caller = owner.caller,
                        .process = owner.process,
                        .opened = owner.opened != nullptr ? owner.opened->name() : 0,
                        .range = held.range,
                        .mode = held.mode,
                        .since = held.since,
                        .epoch = held.epoch});
}

/// Makes what `owner` holds on `range` `fresh`, which is written down already, as merged() has it.
void Granted::put(Owner& owner, const Range& range, Held fresh) noexcept {
  for (Offset at = range.first == 0 ? 0 : range.first - 1;;) {
    const auto it = owner.locks.from(at);
    if (it == owner.locks.end() || !it->range.touches(range)) break;
    const Held held = *it;
    if (held.mode == fresh.mode) {
      absorb(fresh, held);
      remove(owner, held);
    } else {
      trim(owner, held, range);
    }
    if (held.range.last > range.last || held.range.last == kEof) break;
    at = held.range.last + 1;
  }
  if (fresh.mode != Mode::kNone) add(owner, fresh);
  owner.tally.set(owner.locks.size());
}

void Granted::commit(Owner& owner, const Range& range, Mode mode, std::uint32_t seconds) noexcept {
  Held fresh{range, seconds, mode, epoch_};
  if (journal_ == nullptr) {
    put(owner, range, fresh);
    return;
  }
  if (is_so(owner, fresh)) return;
  journal_->begin(owner.id, range, mode);
  if (mode != Mode::kNone) fresh.record = write_down(owner, merged(owner, fresh));
  put(owner, range, fresh);
  journal_->end();
}

// -- putting back --------------------------------------------------------------------------------

/// Of several records that a change under way has left it takes what they say in any order. No
/// change is announced for that: pieces of one mode may overlap at any time, and those of two do so
/// within the range of the change that is announced still.
int Granted::restore(Opened& opened, const Journal::Entry& entry, Journal::Record record,
                     Ledger& ledger) noexcept try {
  Owner& owner = get_owner(opened, entry.owner, entry.caller, ledger);
  owner.process = entry.process;
  epoch_ = std::max(epoch_, entry.epoch);
  const Held own{entry.range, entry.since, entry.mode, entry.epoch, record};
  const auto at = owner.locks.from(own.range.first);
  if (at != owner.locks.end() && at->mode == own.mode && at->range.contains(own.range)) {
    journal_->remove(record);
    return 0;
  }
  Held whole = merged(owner, own);
  const bool stays =
      whole.range == own.range && whole.since == own.since && whole.epoch == own.epoch;
  if (provide(owner, own.range, own.mode, stays ? 0 : 1) != 0) {
    drop_if_idle(owner);
    return ENOLCK;
  }
  if (!stays) whole.record = write_down(owner, whole);
  put(owner, own.range, whole);
  if (!stays) journal_->remove(record);
  // Both may be older than the last switch of the policy, after which nothing was granted.
  if (conflicts_within(epoch_, {whole.range, &owner, whole.since, whole.mode, whole.epoch})) {
    ++epoch_;
  }
  return 0;
} catch (const std::bad_alloc&) {
  return ENOLCK;
}

int Granted::finish_change(const OwnerId& id, const Range& range, Mode mode,
                           std::uint32_t seconds) noexcept {
  Owner* owner = owners_.find(id);
  // Without one nothing of a grant was written down, or all of a release.
  if (owner == nullptr || is_so(*owner, {range, seconds, mode, epoch_})) {
    journal_->end();
    return 0;
  }
  if (const int error = reserve(*owner, range, mode); error != 0) return error;
  commit(*owner, range, mode, seconds);
  drop_if_idle(*owner);
  return 0;
}

// -- another policy ------------------------------------------------------------------------------

bool Granted::follow(const Policy& policy) noexcept {
  ++epoch_;
  if (!policy_.places_like(policy) && !move_flocks(policy)) return false;
  policy_ = policy;
  return true;
}

/// Puts the flocks into the trees of the space that `to` has them in. Returns false, having changed
/// nothing, for want of memory.
bool Granted::move_flocks(const Policy& to) noexcept {
  // Until all have found room in the new space they are in both.
  LockSpace& source = spaces_[static_cast<std::size_t>(policy_.space_of(OwnerType::kFlock))];
  LockSpace& target = spaces_[static_cast<std::size_t>(to.space_of(OwnerType::kFlock))];
  const auto for_each_flock = [this](const auto& visit) {
    for (Owner& owner : owners_) {
      if (owner.id.type != OwnerType::kFlock) continue;
      for (const Held& held : owner.locks) {
        if (!visit(owner, held)) return false;
      }
    }
    return true;
  };
  std::size_t found_room = 0;
  const bool all = for_each_flock([&](Owner& owner, const Held& held) {
    LockTree& tree = target.tree(held.mode);
    if (!tree.prepare(1)) return false;
    tree.insert({held.range, &owner, held.since, held.mode, held.epoch});
    ++found_room;
    return true;
  });
  LockSpace& left = all ? source : target;
  for_each_flock([&](Owner& owner, const Held& held) {
    if (found_room == 0) return false;
    --found_room;
    left.tree(held.mode).erase({held.range.first, &owner});
    return true;
  });
  return all;
}

// -- invariants ----------------------------------------------------------------------------------

bool Granted::conflicts_within(std::uint16_t epoch, const Lock& lock) const {
  bool found = false;
  if (lock.epoch != epoch) return found;
  for_each_conflict(lock.owner->party(), lock.owner, lock.range, lock.mode, [&](const Lock& other) {
    found = other.epoch == epoch;
    return !found;
  });
  return found;
}

const char* Granted::check_trees(std::size_t& locks) const {
  const char* broken = nullptr;
  for (const LockTree* tree : trees()) {
    if (broken == nullptr) broken = tree->check();
    if (broken != nullptr) return broken;
    tree->for_each([&](const Lock& l) {
      ++locks;
      if (&tree_of(*l.owner, l.mode) != tree) {
        broken = "a lock is in the tree of another mode or space";
      }
      if (l.range.first < 0 || l.range.first > l.range.last) broken = "a lock has no proper range";
      if (conflicts_within(epoch_, l)) {
        broken = "granted locks of owners that exclude each other overlap";
      }
      return broken == nullptr;
    });
  }
  return broken;
}

const char* Granted::check_owner(const Owner& owner) const {
  if (const char* broken = owner.locks.check()) return broken;
  const Held* previous = nullptr;
  for (const Held& l : owner.locks) {
    if (previous != nullptr && previous->range.overlaps(l.range)) return "an owner's locks overlap";
    if (previous != nullptr && previous->mode == l.mode && previous->range.touches(l.range)) {
      return "an owner's neighbouring locks of one mode are not merged";
    }
    const LockTree& tree = tree_of(owner, l.mode);
    const auto it = tree.lower_bound({l.range.first, &owner});
    if (it == tree.end() || it->owner != &owner || it->mode != l.mode || it->since != l.since ||
        it->epoch != l.epoch || !(it->range == l.range)) {
      return "an owner's lock is not in the tree of its mode";
    }
    if ((l.record != 0) != (journal_ != nullptr)) return "a lock is not written down";
    previous = &l;
  }
  if (owner.tally.charged() != owner.locks.size()) return "an owner's tally has drifted";
  if (owner.idle() != owner.kept) return "an idle owner is not kept, or a kept one not idle";
  if (!owner.kept) return nullptr;
  if (owner.opened == nullptr) return "an idle owner is kept by nobody";
  const OwnerList& kept = owner.opened->idle_;
  if (kept.size() > kIdleOwnersKept) return "an open file keeps too many idle owners";
  return std::any_of(kept.begin(), kept.end(), [&owner](const Owner& o) { return &o == &owner; })
             ? nullptr
             : "an idle owner is not among those that its open file keeps";
}

const char* Granted::check() const {
  std::size_t in_trees = 0;
  if (const char* broken = check_trees(in_trees)) return broken;
  std::size_t of_owners = 0;
  for (const Owner& owner : owners_) {
    if (const char* broken = check_owner(owner)) return broken;
    of_owners += owner.locks.size();
  }
  return in_trees == of_owners ? nullptr : "trees and owners disagree on what is granted";
}

}  // namespace lockmgr
