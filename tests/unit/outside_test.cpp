// Waits for outsiders, without anybody who grants.
#include "lockmgr/outside.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <memory>
#include <optional>

#include "lockmgr/mirror.h"
#include "tests/unit/parts.h"

namespace lockmgr {
namespace {

using namespace testing;  // NOLINT(google-build-using-namespace): the vocabulary of these tests
using Place = Waiter::Place;

class OutsideTest : public ::testing::Test {
 protected:
  ~OutsideTest() override {
    while (!queue.empty()) {
      Waiter& w = *queue.waiters().root();
      if (w.place != Place::kNowhere) outside.take_out(w);
      Owner& owner = *w.owner;
      queue.leave(w, out);
      w.place = Place::kDone;
      file.granted.drop_if_idle(owner);
    }
  }

  Waiter& enter(const OwnerId& id, const Range& range, Mode mode) {
    return waiters.enter(queue, id, range, mode);
  }
  /// Begins a wait for `waiter`.
  OutsideWait& begin(Waiter& waiter) {
    auto wait = std::make_unique<OutsideWait>();
    OutsideWait& begun = *wait;
    wait->id = ++last_id;
    wait->range = waiter.request.range;
    wait->mode = waiter.request.mode;
    wait->party = waiter.party();
    EXPECT_EQ(outside.begin(wait, backing, Coverage(file.granted, Space::kRecords), false,
                            [this](WaitEnd end) { ended = end; }),
              0);
    outside.attach(waiter, begun);
    return begun;
  }
  OutsideWait* collision(const OwnerId& id, const Range& range, Mode mode) {
    return outside.find_collision(file.granted.policy(), {id, 0}, range, mode);
  }
  const char* check() { return outside.check(file.granted); }

  GrantedAlone file;
  WaitersAlone waiters{file};
  FakeBacking backing;
  Outside outside;
  Queue queue;
  Outcomes out;
  Backing::WaitId last_id = 0;
  std::optional<WaitEnd> ended;
};

TEST_F(OutsideTest, CollidesWithWhatItsEndWouldMeet) {
  ASSERT_EQ(backing.outsider_set(1, {0, 9}, kX), 0);
  OutsideWait& wait = begin(enter(ofd(1), {0, 19}, kX));
  EXPECT_EQ(collision(ofd(2), {15, 15}, kS), &wait);
  EXPECT_EQ(collision(ofd(2), {20, 29}, kX), nullptr);
  EXPECT_EQ(collision(ofd(1), {15, 15}, kX), nullptr) << "of one owner";
  EXPECT_STREQ(check(), nullptr);
}

// The success of a shared wait would weaken an exclusive lock of the same owner.
TEST_F(OutsideTest, ASharedWaitCollidesWithAnExclusiveGrantOfItsOwner) {
  ASSERT_EQ(backing.outsider_set(1, {0, 9}, kX), 0);
  OutsideWait& wait = begin(enter(ofd(1), {0, 19}, kS));
  EXPECT_EQ(collision(ofd(1), {0, 19}, kX), &wait);
  EXPECT_EQ(collision(ofd(1), {0, 19}, kS), nullptr);
  EXPECT_EQ(collision(ofd(2), {0, 19}, kS), nullptr);
}

TEST_F(OutsideTest, IdenticalWaitsAreFoundUntilRecalled) {
  ASSERT_EQ(backing.outsider_set(1, {0, 9}, kX), 0);
  OutsideWait& wait = begin(enter(ofd(1), {0, 19}, kS));
  EXPECT_EQ(outside.find_same(Space::kRecords, {0, 19}, kS), &wait);
  EXPECT_EQ(outside.find_same(Space::kRecords, {0, 18}, kS), nullptr);
  EXPECT_EQ(outside.find_same(Space::kFlocks, {0, 19}, kS), nullptr);
  Outside::recall(wait, backing);
  Outside::recall(wait, backing);
  EXPECT_EQ(backing.recalls(), 1U) << "it is asked to end once";
  EXPECT_EQ(outside.find_same(Space::kRecords, {0, 19}, kS), nullptr);
  EXPECT_TRUE(backing.deliver());
  EXPECT_EQ(ended, WaitEnd::not_held());
}

TEST_F(OutsideTest, AWaitThatIsRefusedIsNotUnderWay) {
  backing.fail_wait = [](const Range&, Mode) { return ENOLCK; };
  auto wait = std::make_unique<OutsideWait>();
  wait->mode = kX;
  EXPECT_EQ(outside.begin(wait, backing, Coverage(file.granted, Space::kRecords), false, nullptr),
            ENOLCK);
  EXPECT_NE(wait, nullptr);
  EXPECT_TRUE(outside.empty());
}

TEST_F(OutsideTest, EndsWithItsWaiters) {
  ASSERT_EQ(backing.outsider_set(1, {0, 9}, kX), 0);
  Waiter& first = enter(ofd(1), {0, 19}, kX);
  OutsideWait& wait = begin(first);
  Waiter& aside = enter(ofd(2), {15, 19}, kX);
  outside.put_aside(aside, wait);
  EXPECT_EQ(outside.unsettled(), 1U);
  const std::unique_ptr<OutsideWait> gone = outside.end(wait.id);
  EXPECT_TRUE(outside.empty());
  EXPECT_EQ(&gone->attached.front(), &first);
  outside.take_out(first);
  outside.take_out(aside);
  EXPECT_EQ(outside.unsettled(), 0U);
  EXPECT_EQ(first.place, Place::kNowhere);
}

TEST_F(OutsideTest, AChangeWithinDisturbs) {
  ASSERT_EQ(backing.outsider_set(1, {0, 9}, kX), 0);
  OutsideWait& wait = begin(enter(ofd(1), {0, 19}, kX));
  const auto changes = outside.changes();
  outside.disturb(Space::kRecords, {20, 29});
  outside.disturb(Space::kFlocks, {0, 9});
  EXPECT_FALSE(wait.disturbed);
  outside.disturb(Space::kRecords, {19, 29});
  EXPECT_TRUE(wait.disturbed);
  EXPECT_NE(outside.changes(), changes);
}

// -- planted breaks ------------------------------------------------------------------------------

TEST_F(OutsideTest, CheckFindsAGrantThatCollides) {
  ASSERT_EQ(backing.outsider_set(1, {0, 9}, kX), 0);
  OutsideWait& wait = begin(enter(ofd(1), {0, 19}, kX));
  file.set(ofd(2), {15, 19}, kS);
  EXPECT_STREQ(check(), "a granted lock collides with a wait outside");
  wait.stray = true;
  EXPECT_STREQ(check(), nullptr) << "it was begun under another policy";
}

TEST_F(OutsideTest, CheckFindsAWaitForNobody) {
  ASSERT_EQ(backing.outsider_set(1, {0, 9}, kX), 0);
  Waiter& waiter = enter(ofd(1), {0, 19}, kX);
  OutsideWait& wait = begin(waiter);
  outside.take_out(waiter);
  EXPECT_STREQ(check(), "a wait outside serves nobody and was not recalled");
  Outside::recall(wait, backing);
  EXPECT_STREQ(check(), nullptr);
}

TEST_F(OutsideTest, CheckFindsAWaiterThatPointsElsewhere) {
  ASSERT_EQ(backing.outsider_set(1, kWholeFile, kX), 0);
  Waiter& waiter = enter(ofd(1), {0, 9}, kX);
  OutsideWait& first = begin(waiter);
  OutsideWait& second = begin(enter(ofd(2), {20, 29}, kX));
  waiter.outside = &second;
  EXPECT_STREQ(check(), "a waiter outside points to another wait than the one it is with");
  waiter.outside = &first;
}

}  // namespace
}  // namespace lockmgr
