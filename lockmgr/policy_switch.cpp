// FileLocks where the policy is switched.
#include "lockmgr/policy_switch.h"

#include <algorithm>
#include <cerrno>
#include <new>
#include <vector>

#include "lockmgr/change.h"
#include "lockmgr/file_locks.h"

namespace lockmgr {

void FileLocks::switch_policy(const Policy& to, PolicySwitch& report,
                              Waiter::PeerList& due) noexcept {
  Change change(*this, &due);
  Outcomes& out = change.out;
  mirror_.repair();
  const bool moves =
      !policy().places_like(to) &&
      std::any_of(granted_.owners().begin(), granted_.owners().end(), [](const Owner& owner) {
        return owner.id.type == OwnerType::kFlock && !owner.idle();
      });
  mirror_.drop_guard();
  // Waits outside are for what the old policy asked there.
  queue_.waiters().for_each([&](Waiter& w) {
    detach(w);
    return true;
  });
  outside_.make_stray([this](OutsideWait& wait) { recall(wait); });
  if (!granted_.follow(to)) {
    ++report.left_behind;
  } else if (moves) {
    // What is to be carried anew comes first: nobody gets in between.
    const Space first = to.space_of(OwnerType::kFlock);
    const Space second = first == Space::kFlocks ? Space::kRecords : Space::kFlocks;
    const bool first_carried = mirror_.restore(first, kWholeFile);
    const bool second_carried = mirror_.restore(second, kWholeFile);
    if (!first_carried || !second_carried) ++report.not_carried;
  }
  if (policy().guards()) {
    mirror_.set_guard(false);
    if (mirror_.guard() != granted_.strongest()) ++report.not_carried;
  }
  ++report.files;
  for (const LockTree* tree : granted_.trees()) {
    tree->for_each([&](const Lock& lock) {
      ++report.locks;
      if (granted_.find_conflict(lock.owner->party(), lock.owner, lock.range, lock.mode) !=
          nullptr) {
        ++report.conflicting;
      }
      return true;
    });
  }
  report.waiters += queue_.reorder(policy(), out);
  settle(out);
  report.granted += static_cast<std::uint64_t>(std::count_if(
      out.finished.begin(), out.finished.end(), [](const Waiter& w) { return w.result == 0; }));
}

void FileLocks::refuse_cycles(PolicySwitch& report, Waiter::PeerList& due) noexcept {
  Change change(*this, &due);
  try {
    std::vector<Waiter*> latest_first;
    queue_.waiters().for_each([&](Waiter& w) {
      if (w.request.wait && policy().in_deadlock_detection(w.request.owner.type)) {
        latest_first.push_back(&w);
      }
      return true;
    });
    std::sort(latest_first.begin(), latest_first.end(),
              [](const Waiter* a, const Waiter* b) { return a->arrival > b->arrival; });
    bool is_open = false;
    for (Waiter* w : latest_first) {
      if (w->place == Waiter::Place::kDone ||
          !closes_cycle(*w->owner, w->request, UINT64_MAX, is_open)) {
        continue;
      }
      context().counters.add(Counter::kDeadlocks);
      ++report.deadlocks;
      abandon(*w, EDEADLK, Answer::kOnceWithdrawn, change.out);
    }
  } catch (const std::bad_alloc&) {
    // They wait on, as they did.
  }
}

}  // namespace lockmgr
