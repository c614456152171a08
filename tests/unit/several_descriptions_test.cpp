// A backing with several open file descriptions beneath the manager: none carries the mirror and
// waits for somebody else, and none waits for another of this side.
#include "tests/unit/several_descriptions.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <memory>
#include <string>
#include <vector>

#include "tests/unit/world.h"

namespace lockmgr {
namespace {

using namespace testing;  // NOLINT(google-build-using-namespace): the vocabulary of these tests
using Place = Waiter::Place;

constexpr FakeBacking::Who kOne = 1;
constexpr FakeBacking::Who kTwo = 2;

class SeveralDescriptionsTest : public ::testing::Test {
 protected:
  static std::unique_ptr<FakeBacking> make() { return std::make_unique<SeveralDescriptions>(); }
  SeveralDescriptions& backing() { return dynamic_cast<SeveralDescriptions&>(w.backing()); }
  std::string carried() { return to_text(backing().held()); }
  std::string descriptions() { return backing().descriptions(); }
  std::string under_way() { return to_text(backing().under_way()); }

  World w{{}, 1, {}, &make};
};

TEST_F(SeveralDescriptionsTest, SharedLocksLieOnOneAndExclusiveOnesOnAnother) {
  ASSERT_EQ(w.lock(ofd(1), {0, 9}, kS), 0);
  ASSERT_EQ(w.lock(ofd(2), {20, 29}, kX), 0);
  EXPECT_EQ(descriptions(), "-1: S[0,9] -2: X[20,29] ");
  ASSERT_EQ(w.lock(ofd(1), {5, 9}, kX), 0);
  EXPECT_EQ(descriptions(), "-1: S[0,4] -2: X[5,9] X[20,29] ");
  ASSERT_EQ(w.lock(ofd(2), {25, 29}, kS), 0);
  EXPECT_EQ(descriptions(), "-1: S[0,4] S[25,29] -2: X[5,9] X[20,24] ");
  w.unlock(ofd(2), kWholeFile);
  EXPECT_EQ(carried(), "S[0,4] X[5,9] ");
}

// A naive backing would meet itself: an empty second description is refused by the first.
TEST_F(SeveralDescriptionsTest, DescriptionsConflictWithEachOther) {
  ASSERT_EQ(w.lock(ofd(1), {0, 9}, kX), 0);
  EXPECT_TRUE(backing().refused(SeveralDescriptions::kReadOnly, {5, 5}, kS));
  EXPECT_FALSE(backing().refused(SeveralDescriptions::kWritable, {5, 5}, kX));
  EXPECT_FALSE(backing().refused(FakeBacking::kManager, {5, 5}, kX));
}

TEST_F(SeveralDescriptionsTest, ARefusedUpgradeLeavesEverythingAsItWas) {
  ASSERT_EQ(w.lock(ofd(1), {0, 9}, kS), 0);
  ASSERT_EQ(backing().outsider_set(kOne, {9, 9}, kS), 0);
  const std::string before = descriptions();
  EXPECT_EQ(w.lock(ofd(1), {0, 9}, kX), EAGAIN);
  EXPECT_EQ(w.lock(ofd(1), {5, 20}, kX), EAGAIN);
  EXPECT_EQ(descriptions(), before);
}

// The part that is held goes over to the description of the wait, and back when it is called off.
TEST_F(SeveralDescriptionsTest, AnUpgradeOfAPartThatIsHeld) {
  for (const bool called_off : {false, true}) {
    World world({}, 1, {}, &make);
    auto& several = dynamic_cast<SeveralDescriptions&>(world.backing());
    ASSERT_EQ(world.lock(ofd(1), {0, 9}, kS), 0);
    ASSERT_EQ(world.lock(ofd(2), {20, 29}, kS), 0);
    ASSERT_EQ(several.outsider_set(kOne, {4, 6}, kS), 0);
    const AnswerPtr answer = world.wait(ofd(1), {5, 14}, kX);
    EXPECT_EQ(world.place(answer), Place::kOutside);
    EXPECT_EQ(several.descriptions(), "-1: S[0,4] S[20,29] -3: S[5,9] ");
    EXPECT_EQ(to_text(several.held()), "S[0,9] S[20,29] ");
    if (called_off) {
      world.cancel(answer);
      world.deliver();
      EXPECT_EQ(several.descriptions(), "-1: S[0,9] S[20,29] ");
      continue;
    }
    several.outsider_leaves(kOne);
    world.deliver();
    EXPECT_TRUE(answer->granted());
    EXPECT_EQ(several.descriptions(), "-1: S[0,4] S[20,29] -3: X[5,14] ");
    // What the wait has won stays there until it is changed.
    ASSERT_EQ(world.lock(ofd(1), {8, 9}, kS), 0);
    EXPECT_EQ(to_text(several.held()), "S[0,4] X[5,7] S[8,9] X[10,14] S[20,29] ");
    world.unlock(ofd(1), kWholeFile);
    EXPECT_EQ(several.descriptions(), "-1: S[20,29] ");
  }
}

TEST_F(SeveralDescriptionsTest, AnExtensionWaitsForWhatIsMissing) {
  ASSERT_EQ(w.lock(ofd(1), {0, 4}, kX), 0);
  ASSERT_EQ(backing().outsider_set(kOne, {8, 9}, kX), 0);
  const AnswerPtr answer = w.wait(ofd(1), {0, 9}, kX);
  EXPECT_EQ(under_way(), "X[5,9] ");
  EXPECT_EQ(descriptions(), "-2: X[0,4] ");
  backing().outsider_leaves(kOne);
  w.deliver();
  EXPECT_TRUE(answer->granted());
  EXPECT_EQ(carried(), "X[0,9] ");
}

// Of several missing pieces one is waited for at a time, and nothing is kept of it meanwhile.
TEST_F(SeveralDescriptionsTest, AnExtensionWithTwoMissingPieces) {
  ASSERT_EQ(w.lock(ofd(1), {10, 19}, kX), 0);
  ASSERT_EQ(backing().outsider_set(kOne, {0, 0}, kX), 0);
  ASSERT_EQ(backing().outsider_set(kTwo, {25, 25}, kX), 0);
  const AnswerPtr answer = w.wait(ofd(1), {0, 29}, kX);
  EXPECT_EQ(under_way(), "X[0,9] ");
  backing().outsider_leaves(kOne);
  w.deliver();
  EXPECT_TRUE(answer->waiting());
  EXPECT_EQ(under_way(), "X[20,29] ");
  EXPECT_EQ(carried(), "X[10,19] ");
  backing().outsider_leaves(kTwo);
  w.deliver();
  EXPECT_TRUE(answer->granted());
  EXPECT_EQ(carried(), "X[0,29] ");
}

// The case that made outsiders fail with a false deadlock: the description that carries somebody's
// lock does not wait for anybody.
TEST_F(SeveralDescriptionsTest, ManyWaitsAtOnce) {
  ASSERT_EQ(w.lock(ofd(1), {0, 0}, kX), 0);
  ASSERT_EQ(backing().outsider_set(kOne, {100, 199}, kX), 0);
  std::vector<AnswerPtr> answers;
  for (std::uint64_t n = 0; n < 10; ++n) {
    const auto first = static_cast<Offset>(100 + 10 * n);
    answers.push_back(w.wait(process(n + 2), {first, first + 9}, n % 2 == 0 ? kX : kS));
  }
  EXPECT_EQ(descriptions(), "-2: X[0,0] ");
  EXPECT_EQ(backing().waits_beside_locks(), 10);
  backing().outsider_set(kOne, {120, 149}, kU);
  w.deliver();
  EXPECT_EQ(carried(), "X[0,0] X[120,129] S[130,139] X[140,149] ");
  backing().outsider_leaves(kOne);
  w.deliver();
  for (const AnswerPtr& answer : answers) EXPECT_TRUE(answer->granted());
  // Each is where its wait won it; letting go empties them all.
  for (std::uint64_t n = 0; n < 10; ++n) w.close_by_process(process(n + 2));
  EXPECT_EQ(descriptions(), "-2: X[0,0] ");
}

TEST_F(SeveralDescriptionsTest, ARecallThatComesTooLate) {
  backing().lazy_recalls = true;
  ASSERT_EQ(w.lock(ofd(1), {20, 29}, kS), 0);
  ASSERT_EQ(backing().outsider_set(kOne, {0, 9}, kX), 0);
  const AnswerPtr answer = w.wait(ofd(1), {0, 29}, kX);
  EXPECT_EQ(descriptions(), "-3: S[20,29] ");
  w.cancel(answer);
  backing().outsider_leaves(kOne);
  EXPECT_EQ(descriptions(), "-3: X[0,29] ");
  w.deliver();
  EXPECT_EQ(descriptions(), "-1: S[20,29] ");
}

// Two threads of one process wait for overlapping bytes: the one that comes second would wait for
// what the first has won.
TEST_F(SeveralDescriptionsTest, TwoWaitsOfOneProcess) {
  for (const bool shared_before : {false, true}) {
    World world({}, 1, {}, &make);
    auto& several = dynamic_cast<SeveralDescriptions&>(world.backing());
    if (shared_before) {
      ASSERT_EQ(world.lock(process(1), {5, 9}, kS), 0);
    }
    ASSERT_EQ(several.outsider_set(kOne, {0, 4}, kX), 0);
    ASSERT_EQ(several.outsider_set(kTwo, {10, 14}, kX), 0);
    const AnswerPtr a = world.wait(process(1), {0, 9}, kX, {.tid = 1});
    const AnswerPtr b = world.wait(process(1), {5, 14}, kX, {.tid = 2});
    for (int i = 0; i < 100 && several.deliver(); ++i) world.inspect();
    ASSERT_EQ(several.due(), 0U) << "waits end and begin again without end";
    several.outsider_leaves(kOne);
    world.deliver();
    EXPECT_TRUE(a->granted());
    EXPECT_EQ(to_text(several.under_way()), "X[10,14] ");
    several.outsider_leaves(kTwo);
    world.deliver();
    EXPECT_TRUE(b->granted());
    EXPECT_EQ(to_text(several.held()), "X[0,14] ");
  }
}

TEST_F(SeveralDescriptionsTest, TheComparisonSeesTheSum) {
  ASSERT_EQ(w.lock(ofd(1), {0, 9}, kS), 0);
  ASSERT_EQ(w.lock(ofd(2), {20, 29}, kX), 0);
  ASSERT_EQ(backing().outsider_set(kOne, {40, 49}, kX), 0);
  const AnswerPtr answer = w.wait(ofd(3), {40, 49}, kX);
  std::vector<Difference> found;
  EXPECT_EQ(w.file().audit(10, found), Audit::kCompared);
  EXPECT_TRUE(found.empty());
  backing().outsider_leaves(kOne);
  w.deliver();
  EXPECT_TRUE(answer->granted());
  EXPECT_EQ(w.file().audit(10, found), Audit::kCompared);
  EXPECT_TRUE(found.empty());
}

}  // namespace
}  // namespace lockmgr
