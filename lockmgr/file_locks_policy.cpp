// What the policy does to a file besides deciding requests: locks broken because others have waited
// for them too long, and the switch to another policy.
#include <algorithm>
#include <cerrno>
#include <new>
#include <vector>

#include "lockmgr/file_locks.h"
#include "lockmgr/policy_switch.h"

namespace lockmgr {

namespace {

/// How many locks of a file are broken at one time; the others' turn comes with the next look.
constexpr int kMostBroken = 64;

}  // namespace

void FileLocks::outsiders(const Range& range, Mode mode, std::optional<OutsideLock>& record,
                          std::optional<OutsideLock>& flock) const noexcept {
  const std::lock_guard guard(mutex_);
  if (backing_of(Space::kRecords).test(range, mode, record) != 0) record.reset();
  if (backing_of(Space::kFlocks).test(range, mode, flock) != 0) flock.reset();
}

// -- the bypass guard ----------------------------------------------------------------------------

/// What is granted anywhere on the file.
Mode FileLocks::strongest() const {
  const LockSpace& space = spaces_[static_cast<std::size_t>(Space::kRecords)];
  if (!space.exclusive.empty()) return Mode::kExclusive;
  return space.shared.empty() ? Mode::kNone : Mode::kShared;
}

/// A wait for the guard whose thread would convert what the grant of `mode` needs: flock() of one
/// open file description has one mode, and who waits in it converts when woken.
OutsideWait* FileLocks::find_guard_collision(Mode mode) const {
  if (guard_ >= mode) return nullptr;
  for (const auto& wait : outside_) {
    if (wait->space == Space::kFlocks && wait->mode != mode) return wait.get();
  }
  return nullptr;
}

int FileLocks::raise_guard(Mode mode, const OutsideWait* have) noexcept {
  if (have != nullptr && have->space == Space::kFlocks && !have->disturbed) guard_ = have->mode;
  if (guard_ >= mode) return 0;
  const int error = set_backing(Space::kFlocks, kWholeFile, mode, false);
  if (error == 0) guard_ = mode;
  return error;
}

/// Makes the guard what is granted. `anew`: whatever guard_ says is carried.
void FileLocks::set_guard(bool anew) noexcept {
  const Mode wanted = policy_.guards() ? strongest() : Mode::kNone;
  if (guard_ == wanted && !anew) return;
  const int error = set_backing(Space::kFlocks, kWholeFile, wanted, false);
  guard_ = error == 0 ? wanted : Mode::kNone;  // else tried again with the next request
}

/// A wait has taken the flock at the backing, and its waiters have been looked at.
void FileLocks::flock_wait_ended(const OutsideWait& wait, bool used) noexcept {
  if (policy_.conflict_space == ConflictSpace::kSeparate) {
    if (!used) restore_backing(Space::kFlocks, wait.range);
  } else {
    set_guard(true);
  }
}

// -- leases --------------------------------------------------------------------------------------

bool FileLocks::lease_ended(const Lock& lock, const Waiter& waiter,
                            LockManager::Clock::time_point now) const {
  if (policy_.lease != 0) {
    // `since` is in whole seconds: up to one late, never early.
    const LockManager::Clock::time_point granted(std::chrono::seconds(lock.since + 1));
    const auto waited = now - std::max(waiter.since, granted);
    if (waited >= std::chrono::seconds(policy_.lease)) return true;
  }
  if (policy_.lease_waiters == 0) return false;
  return waiters_for(lock, policy_.lease_waiters) > policy_.lease_waiters;
}

/// The requests that wait while `lock` is in their way; stops counting beyond `enough`.
std::uint64_t FileLocks::waiters_for(const Lock& lock, std::uint64_t enough) const {
  std::uint64_t count = 0;
  queue_.for_each([&](const Waiter& w) {
    const Request& r = w.request;
    if (r.wait && w.owner != lock.owner && r.range.overlaps(lock.range) &&
        modes_conflict(r.mode, lock.mode) && policy_.excludes(lock.owner->party(), w.party())) {
      ++count;
    }
    return count <= enough;
  });
  return count;
}

/// A lock whose lease has ended, or null; `waiter` is one that waits for it.
const Lock* FileLocks::find_ended_lease(LockManager::Clock::time_point now,
                                        const Waiter** waiter) const {
  const Lock* found = nullptr;
  blocked_.for_each([&](const Waiter& w) {
    for_each_conflict(w.party(), w.owner, w.request.range, w.request.mode, [&](const Lock& lock) {
      if (lease_ended(lock, w, now)) found = &lock;
      return found == nullptr;
    });
    *waiter = &w;
    return found == nullptr;
  });
  return found;
}

void FileLocks::break_leases(LockManager::Clock::time_point now) noexcept {
  Outcomes out;
  {
    const std::lock_guard guard(mutex_);
    if (!policy_.has_lease() || blocked_.empty()) return;
    repair_backing();
    for (int left = kMostBroken; left > 0; --left) {
      const Waiter* waiter = nullptr;
      const Lock* lock = find_ended_lease(now, &waiter);
      if (lock == nullptr) break;
      Owner& owner = *lock->owner;
      const LockView view{
          owner.id, owner.caller, lock->range, lock->mode,
          static_cast<std::uint32_t>(
              std::chrono::duration_cast<std::chrono::seconds>(now.time_since_epoch()).count()) -
              lock->since};
      const std::uint64_t waiting = waiters_for(*lock, UINT64_MAX - 1);
      if (manager_.observer_ != nullptr) {
        manager_.observer_->lease_ended(*this, view, waiter->request, waiting);
      }
      // Its whole range is let go, so nothing is split and nothing can fail.
      unlock(owner, view.range, out, EventKind::kRevoke);
      manager_.counters_.add(Counter::kRevocations);
      settle(out);
      drop_if_idle(owner);
    }
    verify();
  }
  announce(out);
}

// -- switching -----------------------------------------------------------------------------------

/// Puts the flocks into the trees of the space that `to` has them in, and follows `to`. Returns
/// false, having changed nothing, for want of memory.
bool FileLocks::move_flocks(const Policy& to) noexcept {
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
  if (all) policy_ = to;
  return all;
}

void FileLocks::switch_policy(const Policy& to, PolicySwitch& report) noexcept {
  Outcomes out;
  {
    const std::lock_guard guard(mutex_);
    repair_backing();
    const bool moves = to.conflict_space != policy_.conflict_space &&
                       std::any_of(owners_.begin(), owners_.end(), [](const Owner& owner) {
                         return owner.id.type == OwnerType::kFlock && !owner.idle();
                       });
    ++epoch_;
    if (guard_ != Mode::kNone) {
      set_backing(Space::kFlocks, kWholeFile, Mode::kNone, true);
      guard_ = Mode::kNone;
    }
    // Waits outside are for what the old policy asked there.
    queue_.for_each([&](Waiter& w) {
      detach(w);
      return true;
    });
    for (const auto& wait : outside_) {
      wait->stray = true;
      recall(*wait);
    }
    if (moves && !move_flocks(to)) {
      ++report.left_behind;
    } else if (moves) {
      // What is to be carried anew comes first: nobody gets in between.
      const bool flocks_first = to.space_of(OwnerType::kFlock) == Space::kFlocks;
      const bool first =
          restore_backing(flocks_first ? Space::kFlocks : Space::kRecords, kWholeFile);
      const bool second =
          restore_backing(flocks_first ? Space::kRecords : Space::kFlocks, kWholeFile);
      if (!first || !second) ++report.not_carried;
    } else {
      policy_ = to;
    }
    if (policy_.guards()) {
      set_guard(false);
      if (guard_ != strongest()) ++report.not_carried;
    }
    ++report.files;
    for (const LockTree* tree : trees()) {
      tree->for_each([&](const Lock& lock) {
        ++report.locks;
        if (find_conflict(lock.owner->party(), lock.owner, lock.range, lock.mode) != nullptr) {
          ++report.conflicting;
        }
        return true;
      });
    }
    passes_ = {};
    queue_.for_each([&](Waiter& w) {
      w.turn = policy_.turn(w.request.mode, w.arrival);
      queue_.refresh(w);
      out.again.insert(w);
      ++report.waiters;
      return true;
    });
    settle(out);
    for (const Waiter& w : out.finished) {
      if (w.result == 0) ++report.granted;
    }
    verify();
  }
  announce(out);
}

void FileLocks::refuse_cycles(PolicySwitch& report) noexcept {
  Outcomes out;
  {
    const std::lock_guard guard(mutex_);
    try {
      std::vector<Waiter*> latest_first;
      queue_.for_each([&](Waiter& w) {
        if (w.request.wait && policy_.in_deadlock_detection(w.request.owner.type)) {
          latest_first.push_back(&w);
        }
        return true;
      });
      std::sort(latest_first.begin(), latest_first.end(),
                [](const Waiter* a, const Waiter* b) { return a->arrival > b->arrival; });
      for (Waiter* w : latest_first) {
        if (w->place == Waiter::Place::kDone || !closes_cycle(*w->owner, w->request)) continue;
        manager_.counters_.add(Counter::kDeadlocks);
        ++report.deadlocks;
        abandon(*w, EDEADLK, out);
      }
    } catch (const std::bad_alloc&) {
      // They wait on, as they did.
    }
    settle(out);
    verify();
  }
  announce(out);
}

}  // namespace lockmgr
