// Where nothing moves: waiters that pass those ahead of them, waits that are called back, and those
// who gave up and are not answered yet.
#include <algorithm>
#include <chrono>

#include "lockmgr/change.h"
#include "lockmgr/file_locks.h"

namespace lockmgr {

namespace {

/// Patience of relent(); doubles each time it was used up on a file without a regular grant in
/// between, so that nobody starves.
constexpr auto kPatience = std::chrono::seconds(1);
constexpr auto kMostPatience = std::chrono::minutes(5);

/// How long the answer to one who has given up may wait for the backing to withdraw the wait, which
/// takes it a few milliseconds at most, unless it does not answer at all.
constexpr auto kWithdrawal = std::chrono::milliseconds(250);

/// How many waiters one relent() lets pass on a file.
constexpr int kMostPassing = 64;

}  // namespace

Clock::duration FileLocks::patience() const {
  return std::min<Clock::duration>(kPatience * (1 << relented_), kMostPatience);
}

/// Whether a waiter stands behind others only, and nothing has moved there for long enough.
bool FileLocks::may_pass(const Waiter& w, Clock::time_point now) const noexcept {
  const Request& r = w.request;
  return w.place == Waiter::Place::kBehind && now - w.since >= patience() &&
         granted_.find_conflict(w.party(), w.owner, r.range, r.mode) == nullptr &&
         now - Queue::front_of(w).placed >= patience() &&
         (outside_.empty() ||
          !mirror_.outsider_refuses(policy().space_of(r.owner.type), r.range, r.mode, true));
}

void FileLocks::relent(Clock::time_point now) noexcept {
  Change change(*this);
  if (queued() == 0) return;
  outside_.answer_early(now - kWithdrawal, change.out);
  Worklist& passing = change.out.again;
  int left = kMostPassing;
  queue_.waiters().for_each([&](Waiter& w) {
    const Request& r = w.request;
    // The outsider that refused it may have gone, and another keep that wait going.
    if (w.place == Waiter::Place::kAside && !w.outside->recalled &&
        !mirror_.outsider_refuses(policy().space_of(r.owner.type), r.range, r.mode, true)) {
      recall(*w.outside);
    }
    if (may_pass(w, now)) {
      passing.insert(w);
      --left;
    }
    return left > 0;
  });
  // Of those in each other's way only the earliest passes, so that the others keep their order.
  for (auto it = passing.begin(); it != passing.end();) {
    const Request& r = it->request;
    const bool in_the_way = std::any_of(passing.begin(), it, [&](const Waiter& earlier) {
      return earlier.request.range.overlaps(r.range) &&
             Queue::conflicts(policy(), earlier, it->party(), r.mode);
    });
    if (in_the_way) {
      it = passing.erase(it);
      continue;
    }
    it->bypass = true;
    context().counters.add(Counter::kBypasses);
    ++it;
  }
  if (!passing.empty() && patience() < kMostPatience) ++relented_;
}

}  // namespace lockmgr
