#include "lockmgr/range_tree.h"

#include <gtest/gtest.h>

#include <algorithm>
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

  /// Returns false when that owner has a lock that begins there.
  bool add(const Range& range, Owner* owner) {
    const auto it = tree.lower_bound({range.first, owner});
    if (it != tree.end() && it->range.first == range.first && it->owner == owner) return false;
    const Lock lock{range, owner, 0, Mode::kShared};
    EXPECT_TRUE(tree.prepare(1));
    tree.insert(lock);
    locks.push_back(lock);
    return true;
  }
  void remove(std::size_t n) {
    tree.erase(LockTreeTraits::key(locks[n]));
    locks[n] = locks.back();
    locks.pop_back();
  }
  void change(std::size_t n, Offset last) {
    locks[n].range.last = last;
    tree.replace(locks[n]);
  }

  LockTree tree;
  std::vector<Lock> locks;

 private:
  Ledger ledger_;
  std::vector<std::unique_ptr<Owner>> owners_;
};

Range random_range(Random& random, std::uint64_t span) {
  const Offset first = static_cast<Offset>(random.below(span));
  if (random.one_in(10)) return {first, kEof};
  if (random.one_in(3)) return {first, first};
  return {first, first + static_cast<Offset>(random.below(40))};
}

/// Compares every kind of search, with `left_out` left out, with a look at each lock.
void compare(const Model& model, const Range& range, const Owner* left_out) {
  const auto reach = [left_out](const LockTreeTraits::Summary& s) {
    return s.reach_without(left_out);
  };
  const auto counts = [left_out](const Lock& l) { return l.owner != left_out; };

  Offset smallest = kEof;
  std::size_t overlaps = 0;
  Offset cover = -1;
  for (const Lock& lock : model.locks) {
    if (lock.owner == left_out) continue;
    if (lock.range.overlaps(range)) {
      smallest = std::min(smallest, lock.range.first);
      ++overlaps;
    }
    if (lock.range.first <= range.first) cover = std::max(cover, lock.range.last);
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

std::size_t entries(const LockTree& tree) {
  std::size_t count = 0;
  tree.for_each([&](const Lock&) { return ++count != 0; });
  return count;
}

/// Lets the tree grow to `most` locks and shrink again, over and over, by random steps. What is
/// added or searched for begins within `span` bytes of a place that moves on every `stay` steps.
void compare_random_steps(int steps, std::size_t most, std::uint64_t span, int stay = 0) {
  Random random(testing::test_seed());
  Model model;
  std::size_t limit = most;
  Offset place = 0;
  const auto near = [&] {
    const Range range = random_range(random, span);
    return Range{place + range.first, range.last == kEof ? kEof : place + range.last};
  };
  for (int step = 0; step < testing::scaled(steps); ++step) {
    if (step % 500 == 0) limit = static_cast<std::size_t>(random.below(most + 1));
    if (stay != 0 && step % stay == 0) place = static_cast<Offset>(random.below(most));
    const bool full = model.locks.size() >= limit;
    if (model.locks.empty() || (!full && !random.one_in(3))) {
      model.add(near(), model.owner(random.below(model.owner_count())));
    } else if (!full && random.one_in(3)) {
      const std::size_t n = random.below(model.locks.size());
      model.change(n, model.locks[n].range.first + static_cast<Offset>(random.below(60)));
    } else {
      model.remove(random.below(model.locks.size()));
    }
    ASSERT_STREQ(model.tree.check(), nullptr) << "step " << step;
    ASSERT_EQ(model.tree.size(), model.locks.size());
    const std::size_t who = random.below(model.owner_count() + 1);
    const Owner* left_out = who == model.owner_count() ? nullptr : model.owner(who);
    compare(model, near(), left_out);
    if (::testing::Test::HasFatalFailure()) FAIL() << "step " << step;
    ASSERT_EQ(entries(model.tree), model.locks.size());
  }
}

TEST(RangeTree, Empty) {
  Model model;
  EXPECT_TRUE(model.tree.empty());
  EXPECT_EQ(model.tree.begin(), model.tree.end());
  EXPECT_EQ(model.tree.check(), nullptr);
  compare(model, kWholeFile, nullptr);
  // Room that nobody has used yet changes nothing.
  EXPECT_TRUE(model.tree.prepare(2));
  EXPECT_EQ(model.tree.begin(), model.tree.end());
  EXPECT_EQ(model.tree.check(), nullptr);
  compare(model, kWholeFile, nullptr);
}

TEST(RangeTree, FewLocksAgreeWithAVector) { compare_random_steps(20'000, 40, 100); }

TEST(RangeTree, ThreeLevelsAgreeWithAVector) { compare_random_steps(20'000, 2'000, 1'000); }

// Most steps find the finger in the right place, or just beside it.
TEST(RangeTree, NeighbouringStepsAgreeWithAVector) { compare_random_steps(20'000, 2'000, 30, 50); }

// What lies at both ends of a node and of the tree, in each order of coming and going.
TEST(RangeTree, GrowsAndShrinksFromEitherEnd) {
  constexpr int kLocks = 3'000;
  for (const bool ascending : {true, false}) {
    for (const int going : {0, 1, 2}) {
      Model model;
      for (int i = 0; i < kLocks; ++i) {
        const int at = ascending ? i : kLocks - i;
        ASSERT_TRUE(model.add({at * 2, at * 2}, model.owner(0)));
      }
      ASSERT_STREQ(model.tree.check(), nullptr);
      while (!model.locks.empty()) {
        // Places in the vector: the last come, the first come, one of the middle.
        const std::size_t left = model.locks.size();
        model.remove(going == 0 ? left - 1 : going == 1 ? 0 : left / 2);
        if (left % 16 == 0) {
          ASSERT_STREQ(model.tree.check(), nullptr) << left;
        }
        ASSERT_EQ(model.tree.size(), left - 1);
      }
      EXPECT_TRUE(model.tree.empty());
    }
  }
}

// prepare() promises room for several entries, whatever goes before and between.
TEST(RangeTree, PreparedInsertionsNeedNothingMore) {
  Random random(testing::test_seed());
  Model model;
  for (int step = 0; step < testing::scaled(20'000); ++step) {
    ASSERT_TRUE(model.tree.prepare(2));
    if (model.locks.size() > 1) model.remove(random.below(model.locks.size()));
    for (int i = 0; i < 2; ++i) {
      const auto at = static_cast<Offset>(random.below(1'000'000));
      const Lock lock{{at, at}, model.owner(0), 0, Mode::kShared};
      const auto it = model.tree.lower_bound(LockTreeTraits::key(lock));
      if (it != model.tree.end() && it->range.first == at) continue;
      model.tree.insert(lock);
      model.locks.push_back(lock);
      if (i == 0 && random.one_in(2)) model.remove(model.locks.size() - 1);
    }
    if (step % 64 == 0) {
      ASSERT_STREQ(model.tree.check(), nullptr) << step;
    }
  }
}

TEST(RangeTree, FindsNeighboursOfAByte) {
  HeldTree tree;
  const auto last_from = [&tree](Offset at) {
    const Held* held = tree.last_from(at);
    return held == nullptr ? Offset{-1} : held->range.first;
  };
  const auto first_from = [&tree](Offset at) {
    const auto it = tree.from(at);
    return it == tree.end() ? Offset{-1} : it->range.first;
  };
  EXPECT_EQ(first_from(0), -1);
  for (Offset i = 0; i < 500; ++i) {
    ASSERT_TRUE(tree.prepare(1));
    tree.insert({{i * 10, i * 10 + 4}, 0, Mode::kShared});
    const Offset last = i * 10;
    EXPECT_EQ(first_from(0), 0);
    EXPECT_EQ(first_from(last), last);
    EXPECT_EQ(first_from(last + 4), last);
    EXPECT_EQ(first_from(last + 5), -1);
    EXPECT_EQ(last_from(last), last);
    EXPECT_EQ(last_from(kEof), last);
    EXPECT_EQ(last_from(last - 1), last - 10 < 0 ? -1 : last - 10);
    if (i > 0) {
      EXPECT_EQ(first_from(last - 6), last - 10);
      EXPECT_EQ(first_from(last - 5), last);
    }
  }
}

// However many locks the one left out has, a search past them looks at few nodes.
TEST(RangeTree, SearchPastOwnLocksIsShort) {
  constexpr int kLocks = 1 << 14;
  Model model;
  for (int i = 0; i < kLocks; ++i) model.add({i * 2, i * 2}, model.owner(0));
  model.add({kLocks * 2 - 1, kLocks * 2 - 1}, model.owner(1));
  int looks = 0;
  const auto reach = [&](const LockTreeTraits::Summary& s) {
    ++looks;
    return s.reach_without(model.owner(0));
  };
  const auto counts = [&](const Lock& l) {
    ++looks;
    return l.owner != model.owner(0);
  };
  const Lock* hit = model.tree.first_overlap(kWholeFile, reach, counts);
  ASSERT_NE(hit, nullptr);
  EXPECT_EQ(hit->owner, model.owner(1));
  EXPECT_LE(looks, 128);
}

}  // namespace
}  // namespace lockmgr
