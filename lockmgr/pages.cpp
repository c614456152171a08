#include "lockmgr/pages.h"

#include <algorithm>
#include <utility>

namespace lockmgr {

namespace {

WaitView view_of(const Waiter& w, Clock::time_point now) {
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
  using Tree = Queue::Tree;

  QueueIterator() = default;
  /// From the first that begins at or after `at`.
  QueueIterator(const Tree& queue, Offset at) {
    for (Waiter* n = queue.root(); n != nullptr;) {
      if (first_of(*n) >= at) {
        at_ = n;
        n = Tree::left(*n);
      } else {
        n = Tree::right(*n);
      }
    }
  }
  const Waiter& operator*() const { return *at_; }
  QueueIterator& operator++() {
    at_ = Tree::next(*at_);
    return *this;
  }
  bool operator==(const QueueIterator& other) const { return at_ == other.at_; }
  /// Written out: clang 14's static analyzer does not follow the one that C++20 makes of ==.
  bool operator!=(const QueueIterator& other) const { return at_ != other.at_; }

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

}  // namespace

LockView view_of(const Lock& lock, std::uint32_t now) {
  return {lock.owner->id, lock.owner->caller, lock.range,
          lock.mode,      now - lock.since,   lock.owner->opened};
}

bool lock_page(const Granted& granted, std::uint32_t now, PageMark& mark, std::size_t limit,
               std::vector<LockView>& out) {
  const std::size_t end = out.size() + limit;
  const auto trees = granted.trees();
  for (; mark.tree < trees.size(); ++mark.tree, mark.first = 0, mark.skip = 0) {
    if (walk_page(trees[mark.tree]->lower_bound({mark.first}), mark, end - out.size(),
                  [&](const Lock& lock) { out.push_back(view_of(lock, now)); })) {
      return true;
    }
  }
  return false;
}

bool waiter_page(const Queue& queue, Clock::time_point now, PageMark& mark, std::size_t limit,
                 std::vector<WaitView>& out) {
  return walk_page(QueueIterator(queue.waiters(), mark.first), mark, limit,
                   [&](const Waiter& w) { out.push_back(view_of(w, now)); });
}

std::vector<LockView> all_locks(const Granted& granted, std::uint32_t now) {
  std::vector<LockView> views;
  for (const LockTree* tree : granted.trees()) {
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

std::vector<WaitView> all_waiters(const Queue& queue, Clock::time_point now) {
  std::vector<std::pair<std::uint64_t, WaitView>> found;
  queue.waiters().for_each([&](const Waiter& w) {
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

}  // namespace lockmgr
