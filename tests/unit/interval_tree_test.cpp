#include "lockmgr/interval_tree.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <vector>

#include "lockmgr/file_locks.h"
#include "tests/unit/random.h"

namespace lockmgr {
namespace {

using testing::Random;

/// Locks of a few owners in a LockTree, the summary of which leaves one owner out, beside a plain
/// vector.
class Model {
 public:
  Model() : ledger_({}) {
    for (std::uint64_t i = 0; i < 5; ++i) {
      owners_.push_back(
          std::make_unique<Owner>(ledger_, OwnerId{OwnerType::kOpenFile, i}, Caller{}));
    }
  }

  Owner* owner(std::size_t n) { return owners_[n].get(); }
  std::size_t owner_count() const { return owners_.size(); }

  Lock& add(const Range& range, Owner* owner) {
    auto lock = std::make_unique<Lock>();
    lock->range = range;
    lock->owner = owner;
    lock->mode = Mode::kShared;
    tree.insert(*lock);
    locks.push_back(std::move(lock));
    return *locks.back();
  }
  void remove(std::size_t n) {
    tree.erase(*locks[n]);
    EXPECT_FALSE(locks[n]->hook.linked());
    std::swap(locks[n], locks.back());
    locks.pop_back();
  }

  LockTree tree;
  std::vector<std::unique_ptr<Lock>> locks;

 private:
  Ledger ledger_;
  std::vector<std::unique_ptr<Owner>> owners_;
};

Range random_range(Random& random) {
  const Offset first = static_cast<Offset>(random.below(100));
  if (random.one_in(10)) return {first, kEof};
  if (random.one_in(3)) return {first, first};
  return {first, first + static_cast<Offset>(random.below(40))};
}

/// Compares every kind of search, with `left_out` left out, with a look at each lock.
void compare(const Model& model, const Range& range, const Owner* left_out) {
  const auto reach = [left_out](const Lock& l) { return l.reach_without(left_out); };
  const auto counts = [left_out](const Lock& l) { return l.owner != left_out; };

  Offset smallest = kEof;
  std::size_t overlaps = 0;
  Offset cover = -1;
  for (const auto& lock : model.locks) {
    if (lock->owner == left_out) continue;
    if (lock->range.overlaps(range)) {
      smallest = std::min(smallest, lock->range.first);
      ++overlaps;
    }
    if (lock->range.first <= range.first) cover = std::max(cover, lock->range.last);
  }
  const Lock* hit = model.tree.first_overlap(range, reach, counts);
  ASSERT_EQ(hit != nullptr, overlaps > 0);
  if (hit != nullptr) {
    ASSERT_TRUE(hit->range.overlaps(range));
    ASSERT_NE(hit->owner, left_out);
    ASSERT_EQ(hit->range.first, smallest);
  }
  ASSERT_EQ(model.tree.cover_end(range.first, reach, counts), cover);

  std::size_t visited = 0;
  Offset previous = -1;
  ASSERT_TRUE(model.tree.for_each_overlap(range, reach, [&](const Lock& lock) {
    EXPECT_TRUE(lock.range.overlaps(range));
    EXPECT_GE(lock.range.first, previous);
    previous = lock.range.first;
    // A subtree that others reach may hold locks of the one left out.
    if (lock.owner != left_out) ++visited;
    return true;
  }));
  ASSERT_EQ(visited, overlaps);
  if (overlaps > 0) {
    int calls = 0;
    ASSERT_FALSE(model.tree.for_each_overlap(range, reach, [&](const Lock&) {
      ++calls;
      return false;
    }));
    ASSERT_EQ(calls, 1);
  }
}

TEST(IntervalTree, Empty) {
  Model model;
  EXPECT_TRUE(model.tree.empty());
  EXPECT_EQ(model.tree.first(), nullptr);
  EXPECT_EQ(model.tree.check(), nullptr);
  compare(model, kWholeFile, nullptr);
}

TEST(IntervalTree, RandomOperationsAgreeWithAVector) {
  Random random(testing::test_seed());
  Model model;
  std::size_t limit = 40;
  for (int step = 0; step < testing::scaled(20'000); ++step) {
    if (step % 500 == 0) limit = static_cast<std::size_t>(random.between(1, 200));
    const bool full = model.locks.size() >= limit;
    if (model.locks.empty() || (!full && !random.one_in(3))) {
      model.add(random_range(random), model.owner(random.below(model.owner_count())));
    } else if (random.one_in(3)) {
      Lock& lock = *model.locks[random.below(model.locks.size())];
      lock.range.last = lock.range.first + static_cast<Offset>(random.below(60));
      model.tree.refresh(lock);
    } else {
      model.remove(random.below(model.locks.size()));
    }
    ASSERT_STREQ(model.tree.check(), nullptr) << "step " << step;
    const std::size_t who = random.below(model.owner_count() + 1);
    const Owner* left_out = who == model.owner_count() ? nullptr : model.owner(who);
    compare(model, random_range(random), left_out);
    if (HasFatalFailure()) FAIL() << "step " << step;
    std::size_t seen = 0;
    model.tree.for_each([&](const Lock&) { return ++seen != 0; });
    ASSERT_EQ(seen, model.locks.size());
  }
}

// Ascending, descending and alternating insertions are what an unbalanced tree suffers from.
TEST(IntervalTree, StaysBalanced) {
  constexpr int kLocks = 4096;
  for (int order = 0; order < 3; ++order) {
    Model model;
    for (int i = 0; i < kLocks; ++i) {
      const int at = order == 0 ? i : order == 1 ? kLocks - i : (i % 2 == 0 ? i : 2 * kLocks - i);
      model.add({at * 2, at * 2}, model.owner(0));
    }
    ASSERT_STREQ(model.tree.check(), nullptr);
    // An AVL tree is never higher than 1.45 log2(n + 2).
    EXPECT_LE(model.tree.root()->hook.height, std::ceil(1.45 * std::log2(kLocks + 2)));
    while (!model.locks.empty()) model.remove(model.locks.size() / 2);
    EXPECT_TRUE(model.tree.empty());
  }
}

// However many locks the one left out has, a search past them looks at few nodes.
TEST(IntervalTree, SearchPastOwnLocksIsShort) {
  constexpr int kLocks = 1 << 14;
  Model model;
  for (int i = 0; i < kLocks; ++i) model.add({i * 2, i * 2}, model.owner(0));
  const Lock& other = model.add({kLocks * 2 - 1, kLocks * 2 - 1}, model.owner(1));
  int looks = 0;
  const auto reach = [&](const Lock& l) {
    ++looks;
    return l.reach_without(model.owner(0));
  };
  const auto counts = [&](const Lock& l) { return l.owner != model.owner(0); };
  EXPECT_EQ(model.tree.first_overlap(kWholeFile, reach, counts), &other);
  EXPECT_LE(looks, 64);
}

}  // namespace
}  // namespace lockmgr
