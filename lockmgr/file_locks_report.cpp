// What administrators want of a file: reports, comparison with the backing, taking locks away.
#include <algorithm>
#include <cerrno>
#include <chrono>
#include <utility>

#include "lockmgr/file_locks.h"

namespace lockmgr {

namespace {

std::uint32_t whole_seconds(LockManager::Clock::duration time) {
  return static_cast<std::uint32_t>(std::chrono::duration_cast<std::chrono::seconds>(time).count());
}

LockView view_of(const Lock& lock, std::uint32_t now) {
  return {lock.owner->id, lock.owner->caller, lock.range,
          lock.mode,      now - lock.since,   lock.owner->opened};
}

WaitView view_of(const Waiter& w, LockManager::Clock::time_point now) {
  return {w.ticket,
          w.request,
          w.place,
          whole_seconds(now - w.since),
          w.ahead != nullptr ? w.ahead->ticket : 0,
          w.opened};
}

Offset first_of(const Lock& lock) { return lock.range.first; }
Offset first_of(const Waiter& waiter) { return waiter.request.range.first; }

/// Walks waiters in order of the first byte.
class QueueIterator {
 public:
  using Queue = IntervalTree<QueueTreeTraits>;

  QueueIterator() = default;
  /// From the first that begins at or after `at`.
  QueueIterator(const Queue& queue, Offset at) {
    for (Waiter* n = queue.root(); n != nullptr;) {
      if (first_of(*n) >= at) {
        at_ = n;
        n = Queue::left(*n);
      } else {
        n = Queue::right(*n);
      }
    }
  }
  const Waiter& operator*() const { return *at_; }
  QueueIterator& operator++() {
    at_ = Queue::next(*at_);
    return *this;
  }
  friend bool operator==(const QueueIterator& a, const QueueIterator& b) { return a.at_ == b.at_; }

 private:
  Waiter* at_ = nullptr;
};

/// Calls visit(node) for up to `limit` nodes from `mark` on, `at` being the first one that begins
/// at or after mark.first. Returns whether there are more.
template <typename Iterator, typename Visit>
bool walk_page(Iterator at, PageMark& mark, std::size_t limit, const Visit& visit) {
  const Iterator end;
  for (std::uint64_t left = mark.skip; left > 0 && at != end; --left) {
    if (first_of(*at) != mark.first) break;
    ++at;
  }
  for (; at != end && limit > 0; --limit, ++at) {
    visit(*at);
    if (first_of(*at) != mark.first) {
      mark.first = first_of(*at);
      mark.skip = 0;
    }
    ++mark.skip;
  }
  return at != end;
}

/// The stretches of `a` and of `b` where they differ. Both are disjoint and in order.
class Comparison {
 public:
  Comparison(const std::vector<CarriedLock>& a, const std::vector<CarriedLock>& b) : a_(a), b_(b) {}

  /// Calls visit(range, mode in a, mode in b) for each stretch on which both are constant.
  template <typename Visit>
  void for_each(const Visit& visit) {
    for (Offset at = 0;;) {
      Offset last = kEof;
      const Mode in_a = mode_at(a_, i_, at, last);
      const Mode in_b = mode_at(b_, j_, at, last);
      if (!visit(Range{at, last}, in_a, in_b) || last == kEof) return;
      at = last + 1;
    }
  }

 private:
  /// The mode at `at`; lowers `last` to where it changes.
  static Mode mode_at(const std::vector<CarriedLock>& locks, std::size_t& next, Offset at,
                      Offset& last) {
    while (next < locks.size() && locks[next].range.last < at) ++next;
    if (next == locks.size()) return Mode::kNone;
    if (locks[next].range.first > at) {
      last = std::min(last, locks[next].range.first - 1);
      return Mode::kNone;
    }
    last = std::min(last, locks[next].range.last);
    return locks[next].mode;
  }

  const std::vector<CarriedLock>& a_;
  const std::vector<CarriedLock>& b_;
  std::size_t i_ = 0;
  std::size_t j_ = 0;
};

/// The bounds of what `owner` holds within `range`. REQUIRES: something.
Range bounds_of(const Owner& owner, const Range& range) {
  const Offset first = owner.locks.from(range.first)->range.first;
  // Locks are disjoint: the last one that begins within the range also ends last.
  const Offset last = owner.locks.last_from(range.last)->range.last;
  return {std::max(first, range.first), std::min(last, range.last)};
}

/// Appends up to `limit` of the stretches where the two differ. `awaited`: where a wait outside may
/// have its lock already without having said so.
void compare(const std::vector<CarriedLock>& granted, std::vector<CarriedLock> carried,
             const std::vector<Range>& awaited, std::size_t limit, std::vector<Difference>& out) {
  std::sort(carried.begin(), carried.end(), [](const CarriedLock& a, const CarriedLock& b) {
    return a.range.first < b.range.first;
  });
  const auto end = out.size() + limit;
  Comparison(granted, carried).for_each([&](const Range& range, Mode ours, Mode theirs) {
    if (out.size() >= end) return false;
    const bool expected =
        ours == theirs ||
        (theirs > ours && std::any_of(awaited.begin(), awaited.end(),
                                      [&](const Range& wait) { return wait.overlaps(range); }));
    if (!expected) out.push_back({range, ours, theirs});
    return true;
  });
}

}  // namespace

const char* to_string(EventKind kind) {
  switch (kind) {
    case EventKind::kGrant:
      return "grant";
    case EventKind::kWait:
      return "wait";
    case EventKind::kRefusal:
      return "refusal";
    case EventKind::kDeadlock:
      return "deadlock";
    case EventKind::kGivenUp:
      return "given_up";
    case EventKind::kRelease:
      return "release";
    case EventKind::kRevoke:
      return "revoke";
  }
  return "unknown";
}

// -- events --------------------------------------------------------------------------------------

void FileLocks::tell_watchers(EventKind kind, const OwnerId& owner, const Caller& caller,
                              const Range& range, Mode mode, const Waiter* waiter,
                              int error) const noexcept {
  if (manager_.observer_ == nullptr) return;
  Event event{kind, owner, caller, range, mode, {}, error};
  if (waiter != nullptr) event.waited = manager_.now() - waiter->since;
  manager_.observer_->event(*this, event);
}

void FileLocks::tell_end(const Waiter& waiter, int error) const noexcept {
  const Request& r = waiter.request;
  EventKind kind = EventKind::kGivenUp;
  if (error == 0) {
    kind = EventKind::kGrant;
    manager_.record(Timing::kWaits, manager_.now() - waiter.since);
  } else if (error == EAGAIN && !r.wait) {
    kind = EventKind::kRefusal;
  }
  tell(kind, r.owner, r.caller, r.range, r.mode, &waiter, error);
}

/// To be called while `owner` still has what it is about to lose.
void FileLocks::tell_released(EventKind why, const Owner& owner,
                              const Range& range) const noexcept {
  const Range held = bounds_of(owner, range);
  tell_watchers(why, owner.id, owner.caller, held, Mode::kNone, nullptr, 0);
}

// -- taking away ---------------------------------------------------------------------------------

int FileLocks::revoke(const OwnerId& id, const Range& range, Range& taken) noexcept {
  Outcomes out;
  {
    const std::lock_guard guard(mutex_);
    repair_backing();
    Owner* owner = owners_.find(id);
    if (owner == nullptr) return ENOENT;
    const auto first = owner->locks.from(range.first);
    if (first == owner->locks.end() || first->range.first > range.last) return ENOENT;
    taken = bounds_of(*owner, range);
    if (const int error = unlock(*owner, range, out, EventKind::kRevoke); error != 0) return error;
    manager_.counters_.add(Counter::kRevocations);
    drop_if_idle(*owner);
    settle(out);
    verify();
  }
  announce(out);
  return 0;
}

// -- reports -------------------------------------------------------------------------------------

bool FileLocks::locks_page(PageMark& mark, std::size_t limit, std::vector<LockView>& out) const {
  out.reserve(out.size() + limit);
  const std::lock_guard guard(mutex_);
  const std::uint32_t now = whole_seconds(manager_.now().time_since_epoch());
  const std::size_t end = out.size() + limit;
  const auto trees = this->trees();
  for (; mark.tree < trees.size(); ++mark.tree, mark.first = 0, mark.skip = 0) {
    if (walk_page(trees[mark.tree]->lower_bound({mark.first}), mark, end - out.size(),
                  [&](const Lock& lock) { out.push_back(view_of(lock, now)); })) {
      return true;
    }
  }
  return false;
}

bool FileLocks::waiters_page(PageMark& mark, std::size_t limit, std::vector<WaitView>& out) const {
  out.reserve(out.size() + limit);
  const std::lock_guard guard(mutex_);
  const auto now = manager_.now();
  return walk_page(QueueIterator(queue_, mark.first), mark, limit,
                   [&](const Waiter& w) { out.push_back(view_of(w, now)); });
}

Audit FileLocks::audit(std::size_t limit, std::vector<Difference>& out) const {
  constexpr int kTries = 4;
  constexpr std::size_t kMostReadLocked = 256;
  for (int left = kTries; left > 0; --left) {
    std::vector<CarriedLock> granted;
    std::vector<CarriedLock> carried;
    std::vector<Range> awaited;
    std::unique_lock lock(mutex_);
    const Backing::Inspector inspect = backing_->inspector();
    if (!inspect) return Audit::kUnknown;
    CarriedIn(*this, Space::kRecords).for_each([&](const Range& range, Mode mode) {
      granted.push_back({range, mode});
      return true;
    });
    for (const auto& wait : outside_) {
      if (wait->space == Space::kRecords) awaited.push_back(wait->range);
    }
    const std::uint64_t changes = changes_;
    const bool keep = left == 1 && granted.size() <= kMostReadLocked;
    if (!keep) lock.unlock();
    if (!inspect(carried)) return Audit::kUnknown;
    if (!keep) lock.lock();
    if (changes != changes_) continue;
    lock.unlock();
    compare(granted, std::move(carried), awaited, limit, out);
    return Audit::kCompared;
  }
  return Audit::kChanging;
}

std::vector<LockView> FileLocks::locks() const {
  const std::lock_guard guard(mutex_);
  const std::uint32_t now = whole_seconds(manager_.now().time_since_epoch());
  std::vector<LockView> views;
  for (const LockTree* tree : trees()) {
    tree->for_each([&](const Lock& l) {
      views.push_back(view_of(l, now));
      return true;
    });
  }
  std::stable_sort(views.begin(), views.end(), [](const LockView& a, const LockView& b) {
    return a.range.first < b.range.first;
  });
  return views;
}

std::vector<WaitView> FileLocks::waiters() const {
  const std::lock_guard guard(mutex_);
  const auto now = manager_.now();
  std::vector<std::pair<std::uint64_t, WaitView>> found;
  queue_.for_each([&](const Waiter& w) {
    found.emplace_back(w.arrival, view_of(w, now));
    return true;
  });
  std::sort(found.begin(), found.end(),
            [](const auto& a, const auto& b) { return a.first < b.first; });
  std::vector<WaitView> views;
  views.reserve(found.size());
  for (auto& [arrival, view] : found) views.push_back(view);
  return views;
}

}  // namespace lockmgr
