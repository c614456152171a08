// Who waits behind whom and whose turn it is, without a backing and without anybody who grants.
#include "lockmgr/queue.h"

#include <gtest/gtest.h>

#include <vector>

#include "tests/unit/parts.h"

namespace lockmgr {
namespace {

using namespace testing;  // NOLINT(google-build-using-namespace): the vocabulary of these tests
using Place = Waiter::Place;

class QueueTest : public ::testing::Test {
 protected:
  ~QueueTest() override {
    while (!queue.empty()) {
      Waiter& w = *queue.waiters().root();
      if (w.place != Place::kNowhere) queue.take_out(w);
      Owner& owner = *w.owner;
      queue.leave(w, out);
      w.place = Place::kDone;
      file.granted.drop_if_idle(owner);
    }
    out.again.clear();
  }

  Waiter& enter(const OwnerId& id, const Range& range, Mode mode, pid_t tid = 0) {
    return waiters.enter(queue, id, range, mode, tid);
  }
  Waiter& blocked(const OwnerId& id, const Range& range, Mode mode) {
    Waiter& w = enter(id, range, mode);
    queue.put_blocked(w);
    return w;
  }
  Waiter* ahead_of(const OwnerId& id, const Range& range, Mode mode, pid_t tid = 0) {
    const Request request{id, {1, tid, 0}, range, mode, true};
    return queue.latest_ahead(file.granted, {id, 0}, request,
                              queue.turn_of(file.granted.policy(), request));
  }
  std::vector<Waiter*> woken() {
    std::vector<Waiter*> found;
    for (Waiter& w : out.again) found.push_back(&w);
    return found;
  }
  const char* check() { return queue.check(file.granted); }

  GrantedAlone file;
  WaitersAlone waiters{file};
  Queue queue;
  Outcomes out;
};

TEST_F(QueueTest, TheLatestInTheWayIsAhead) {
  file.set(ofd(1), {0, 9}, kX);
  Waiter& first = blocked(ofd(2), {0, 9}, kX);
  Waiter& second = enter(ofd(3), {5, 14}, kS);
  queue.put_behind(second, first);
  EXPECT_EQ(ahead_of(ofd(4), {8, 20}, kX), &second);
  EXPECT_EQ(ahead_of(ofd(4), {8, 20}, kS), &first);
  EXPECT_EQ(ahead_of(ofd(4), {12, 20}, kS), nullptr);
  EXPECT_EQ(ahead_of(ofd(4), {30, 39}, kX), nullptr);
  EXPECT_EQ(&Queue::front_of(second), &first);
  EXPECT_EQ(queue.behind(), 1U);
  EXPECT_STREQ(check(), nullptr);
}

// Queueing behind one that waits for a lock of the asker, or of its thread, would wait for itself.
TEST_F(QueueTest, NobodyStandsBehindOneThatWaitsForHim) {
  file.set(ofd(1), {0, 9}, kS);
  Waiter& writer = blocked(ofd(2), {0, 19}, kX);
  EXPECT_EQ(ahead_of(ofd(1), {0, 9}, kX), nullptr);
  EXPECT_EQ(ahead_of(ofd(3), {0, 9}, kX), &writer);
  // The thread 1 used open file 1 last; see GrantedAlone::owner().
  EXPECT_EQ(ahead_of(ofd(3), {0, 9}, kX, 1), nullptr);
  EXPECT_EQ(ahead_of(ofd(3), {0, 9}, kX, 2), &writer);
}

TEST_F(QueueTest, AReleaseWakesThoseItOverlaps) {
  Owner& holder = file.owner(ofd(1));
  file.set(holder, {0, 29}, kX);
  Waiter& head = blocked(ofd(2), {0, 4}, kS);
  Waiter& tail = blocked(ofd(3), {25, 34}, kX);
  queue.wake(file.granted.policy(), holder, {10, 19}, kU, out);
  EXPECT_TRUE(woken().empty());
  queue.wake(file.granted.policy(), holder, {20, 29}, kU, out);
  EXPECT_EQ(woken(), std::vector{&tail});
  // What it does not give up wakes nobody.
  queue.wake(file.granted.policy(), holder, {0, 9}, kX, out);
  EXPECT_EQ(woken(), std::vector{&tail});
  queue.wake(file.granted.policy(), holder, {0, 9}, kS, out);
  EXPECT_EQ(woken(), (std::vector{&head, &tail}));
}

TEST_F(QueueTest, LeavingLetsThoseBehindBeLookedAt) {
  file.set(ofd(1), {0, 9}, kX);
  Waiter& first = blocked(ofd(2), {0, 9}, kX);
  Waiter& second = enter(ofd(3), {0, 9}, kX);
  Waiter& third = enter(ofd(4), {0, 9}, kX);
  queue.put_behind(second, first);
  queue.put_behind(third, second);
  queue.take_out(first);
  Owner& owner = *first.owner;
  queue.leave(first, out);
  file.granted.drop_if_idle(owner);
  EXPECT_EQ(woken(), std::vector{&second});
  EXPECT_EQ(second.place, Place::kNowhere);
  EXPECT_EQ(third.ahead, &second);
  EXPECT_EQ(queue.behind(), 1U);
}

TEST_F(QueueTest, WhereReadersComeFirstAWriterIsPassedABoundedNumberOfTimes) {
  Policy readers;
  readers.order = Order::kReaders;
  ASSERT_TRUE(file.granted.follow(readers));
  file.set(ofd(1), {0, 9}, kS);
  Waiter& writer = blocked(ofd(2), {0, 9}, kX);
  const Request read{ofd(3), {}, {0, 9}, kS, true};
  EXPECT_EQ(ahead_of(ofd(3), {0, 9}, kS), nullptr);
  int passes = 0;
  while (writer.turn != writer.arrival && passes < 1000) {
    queue.count_pass(readers, {ofd(3), 0}, read, queue.turn_of(readers, read), out);
    ++passes;
  }
  EXPECT_LE(passes, 2 * static_cast<int>(PassBound::kMost));
  EXPECT_EQ(ahead_of(ofd(3), {0, 9}, kS), &writer);
  EXPECT_STREQ(check(), nullptr);
}

TEST_F(QueueTest, ReorderGivesTheTurnsOfAnotherPolicy) {
  Waiter& writer = enter(ofd(1), {0, 9}, kX);
  Waiter& reader = enter(ofd(2), {0, 9}, kS);
  Policy readers;
  readers.order = Order::kReaders;
  EXPECT_EQ(queue.reorder(readers, out), 2U);
  EXPECT_EQ(woken(), (std::vector{&reader, &writer}));
  EXPECT_STREQ(queue.waiters().check(), nullptr);
}

// -- planted breaks ------------------------------------------------------------------------------

TEST_F(QueueTest, CheckFindsABlockedOneWithNothingInItsWay) {
  file.set(ofd(1), {0, 9}, kX);
  blocked(ofd(2), {0, 9}, kX);
  EXPECT_STREQ(check(), nullptr);
  file.set(ofd(1), {0, 9}, kU);
  EXPECT_STREQ(check(), "a blocked waiter has nothing in its way");
}

TEST_F(QueueTest, CheckFindsOneBehindAStranger) {
  file.set(ofd(1), {0, 9}, kX);
  Waiter& first = blocked(ofd(2), {0, 9}, kX);
  Waiter& second = enter(ofd(3), {20, 29}, kX);
  queue.put_behind(second, first);
  EXPECT_STREQ(check(), "a waiter stands behind one that it does not conflict with");
}

TEST_F(QueueTest, CheckFindsOneBehindALaterOne) {
  file.set(ofd(1), {0, 9}, kX);
  Waiter& first = enter(ofd(2), {0, 9}, kX);
  Waiter& second = blocked(ofd(3), {0, 9}, kX);
  queue.put_behind(first, second);
  EXPECT_STREQ(check(), "a waiter stands behind one whose turn comes later");
}

TEST_F(QueueTest, CheckFindsOneThatIsNowhere) {
  enter(ofd(2), {0, 9}, kX);
  EXPECT_STREQ(check(), "a parked waiter is nowhere");
}

}  // namespace
}  // namespace lockmgr
