#include "lockmgr/outside.h"

#include <algorithm>
#include <utility>

namespace lockmgr {

// -- looking -------------------------------------------------------------------------------------

bool Outside::collides(const Policy& policy, const OutsideWait& wait, const Party& party,
                       const Range& range, Mode mode) {
  if (wait.space != policy.space_of(party.owner.type)) return false;
  if (!wait.range.overlaps(range) || !modes_conflict(wait.mode, mode)) return false;
  if (policy.excludes(wait.party, party)) return true;
  // Of one owner, or of owners that go together: success of a shared wait would weaken an exclusive
  // lock; a shared lock beside an exclusive wait at worst disturbs it.
  return mode == Mode::kExclusive && wait.mode == Mode::kShared;
}

namespace {

/// The first wait of which `is_it` says so, or null.
template <typename Match>
OutsideWait* find(const Outside::Waits& waits, const Match& is_it) {
  const auto it = std::find_if(waits.begin(), waits.end(), is_it);
  return it == waits.end() ? nullptr : const_cast<OutsideWait*>(&*it);
}

}  // namespace

OutsideWait* Outside::find_collision(const Policy& policy, const Party& party, const Range& range,
                                     Mode mode) const {
  return find(waits_,
              [&](const OutsideWait& wait) { return collides(policy, wait, party, range, mode); });
}

OutsideWait* Outside::find_guard_collision(Mode mode) const {
  return find(waits_, [mode](const OutsideWait& wait) {
    return wait.space == Space::kFlocks && wait.mode != mode;
  });
}

OutsideWait* Outside::find_same(Space space, const Range& range, Mode mode) const {
  return find(waits_, [&](const OutsideWait& wait) {
    return wait.space == space && wait.range == range && wait.mode == mode && !wait.recalled;
  });
}

// -- waits ---------------------------------------------------------------------------------------

int Outside::begin(std::unique_ptr<OutsideWait>& wait, Backing& backing,
                   const Backing::Carried& carried, bool yields, Backing::WaitDone done) noexcept {
  const int error =
      backing.wait(wait->id, wait->range, wait->mode, carried, yields, std::move(done));
  if (error != 0) return error;
  waits_.push_back(*wait.release());
  ++changes_;
  return 0;
}

std::unique_ptr<OutsideWait> Outside::end(Backing::WaitId id) noexcept {
  std::unique_ptr<OutsideWait> wait(
      find(waits_, [id](const OutsideWait& each) { return each.id == id; }));
  waits_.erase(waits_.iterator_to(*wait));
  ++changes_;
  return wait;
}

void Outside::recall(OutsideWait& wait, Backing& backing) noexcept {
  if (!std::exchange(wait.recalled, true)) backing.recall(wait.id);
}

// -- waiters -------------------------------------------------------------------------------------

void Outside::attach(Waiter& waiter, OutsideWait& wait) noexcept {
  waiter.place = Waiter::Place::kOutside;
  waiter.outside = &wait;
  wait.attached.push_back(waiter);
}

void Outside::put_aside(Waiter& waiter, OutsideWait& wait) noexcept {
  waiter.place = Waiter::Place::kAside;
  waiter.outside = &wait;
  wait.aside.push_back(waiter);
  ++unsettled_;
}

void Outside::take_out(Waiter& waiter) noexcept {
  const bool aside = waiter.place == Waiter::Place::kAside;
  Waiter::PeerList& list = aside ? waiter.outside->aside : waiter.outside->attached;
  list.erase(Waiter::PeerList::s_iterator_to(waiter));
  if (aside) --unsettled_;
  waiter.outside = nullptr;
  waiter.place = Waiter::Place::kNowhere;
}

void Outside::let_leave(Waiter& waiter, OutsideWait& wait, Outcomes& out) noexcept {
  out.finished.erase(Waiter::PeerList::s_iterator_to(waiter));
  waiter.outside = &wait;
  wait.leaving.push_back(waiter);
  ++unsettled_;
}

void Outside::answer(Waiter& waiter, Outcomes& out) noexcept {
  waiter.outside->leaving.erase(Waiter::PeerList::s_iterator_to(waiter));
  waiter.outside = nullptr;
  out.finished.push_back(waiter);
  --unsettled_;
}

void Outside::answer_early(Clock::time_point time, Outcomes& out) noexcept {
  for (OutsideWait& wait : waits_) {
    while (!wait.leaving.empty() && wait.leaving.front().placed < time) {
      answer(wait.leaving.front(), out);
    }
  }
}

// -- invariants ----------------------------------------------------------------------------------

const char* Outside::check(const Granted& granted) const {
  std::uint32_t unsettled = 0;
  const auto all_at = [](const OutsideWait& wait, const Waiter::PeerList& list,
                         Waiter::Place place) {
    return std::all_of(list.begin(), list.end(),
                       [&](const Waiter& w) { return w.place == place && w.outside == &wait; });
  };
  for (const OutsideWait& wait : waits_) {
    if (wait.attached.empty() && !wait.recalled) {
      return "a wait outside serves nobody and was not recalled";
    }
    if (!all_at(wait, wait.attached, Waiter::Place::kOutside) ||
        !all_at(wait, wait.aside, Waiter::Place::kAside) ||
        !all_at(wait, wait.leaving, Waiter::Place::kDone)) {
      return "a waiter outside points to another wait than the one it is with";
    }
    if (!wait.leaving.empty() && !wait.recalled) return "somebody leaves a wait that goes on";
    unsettled += static_cast<std::uint32_t>(wait.aside.size() + wait.leaving.size());
  }
  if (unsettled != unsettled_) return "the number of those aside or leaving has drifted";
  const char* broken = nullptr;
  for (const LockTree* tree : granted.trees()) {
    if (waits_.empty()) return nullptr;
    tree->for_each([&](const Lock& l) {
      const OutsideWait* wait = find_collision(granted.policy(), l.owner->party(), l.range, l.mode);
      if (wait != nullptr && !wait->stray) broken = "a granted lock collides with a wait outside";
      return broken == nullptr;
    });
    if (broken != nullptr) return broken;
  }
  return nullptr;
}

}  // namespace lockmgr
