// Cycles of waits that lead through outsiders, as looks at the backing show them.
#include <gtest/gtest.h>

#include <cerrno>
#include <vector>

#include "lockmgr/outsiders.h"
#include "tests/unit/world.h"

namespace lockmgr {
namespace {

using namespace testing;  // NOLINT(google-build-using-namespace): the vocabulary of these tests

constexpr pid_t kProgram = 500;
constexpr pid_t kOther = 501;

struct OutsideWorld : World {
  explicit OutsideWorld(int files = 1) : World({}, files) {}

  /// The program outside has the lock, at the backing too.
  void outsider_holds(pid_t process, const Range& range, Mode mode) {
    ASSERT_EQ(backing().outsider_set(process, range, mode), 0);
    seen.push_back({file().key(), process, range, mode, false});
  }
  void outsider_awaits(pid_t process, const Range& range, Mode mode) {
    seen.push_back({file().key(), process, range, mode, true});
  }
  void look() {
    manager().search_outside(Outsiders(seen));
    deliver();
  }

  std::vector<OutsiderLock> seen;
};

TEST(OutsideCycles, TheOneThatWaitsHereIsTold) {
  OutsideWorld w;
  ASSERT_EQ(w.lock(process(1), {1, 1}, kX), 0);
  w.outsider_holds(kProgram, {2, 2}, kX);
  const auto waits = w.wait(process(1), {2, 2}, kX);
  w.look();
  EXPECT_TRUE(waits->waiting()) << "the outsider waits for nobody";
  w.outsider_awaits(kProgram, {0, 1}, kS);
  w.look();
  EXPECT_EQ(waits->error, EDEADLK);
  ASSERT_EQ(w.notes().cycles.size(), 1U);
  EXPECT_EQ(w.held(process(1)), "X[1,1] ");
}

// Somebody here stands before it, too: as the one ahead in the queue, or with a lock of his own.
TEST(OutsideCycles, WhoeverElseStandsBeforeIt) {
  OutsideWorld w;
  ASSERT_EQ(w.lock(process(1), {1, 1}, kX), 0);
  ASSERT_EQ(w.lock(process(3), {7, 7}, kX), 0);
  w.outsider_holds(kProgram, {2, 2}, kX);
  w.outsider_awaits(kProgram, {1, 1}, kX);
  const auto ahead = w.wait(ofd(9), {2, 2}, kX);
  const auto behind = w.wait(process(1), {2, 2}, kX);
  w.look();
  EXPECT_EQ(behind->error, EDEADLK);
  w.cancel(ahead);
  w.deliver();
  const auto blocked = w.wait(process(1), {2, 9}, kX);
  ASSERT_EQ(w.place(blocked), Waiter::Place::kBlocked);
  w.look();
  EXPECT_EQ(blocked->error, EDEADLK);
}

TEST(OutsideCycles, OtherBytesModesAndOwnersAreNone) {
  OutsideWorld w;
  ASSERT_EQ(w.lock(process(1), {1, 1}, kS), 0);
  w.outsider_holds(kProgram, {2, 2}, kX);
  const auto waits = w.wait(process(1), {2, 2}, kX);
  w.outsider_awaits(kProgram, {3, 3}, kX);
  w.outsider_awaits(kProgram, {1, 1}, kS);
  w.outsider_awaits(kOther, {1, 1}, kX);
  w.look();
  EXPECT_TRUE(waits->waiting());
  w.cancel(waits);
  w.deliver();

  OutsideWorld files;
  ASSERT_EQ(files.lock(ofd(1), {1, 1}, kX), 0);
  files.outsider_holds(kProgram, {2, 2}, kX);
  files.outsider_awaits(kProgram, {1, 1}, kX);
  const auto open_file = files.wait(ofd(1), {2, 2}, kX);
  files.look();
  EXPECT_TRUE(open_file->waiting()) << "open files are in no cycle";
  files.cancel(open_file);
  files.deliver();
}

// 1 waits for 2 on one file, 2 for a program outside on the other; that waits for one more outside,
// who waits for 1. Of the two that wait here the later is told.
TEST(OutsideCycles, OverFilesAndSeveralOutside) {
  OutsideWorld w(2);
  ASSERT_EQ(w.lock(process(1), {1, 1}, kX), 0);
  ASSERT_EQ(w.lock(process(2), {2, 2}, kX), 0);
  w.outsider_holds(kOther, {7, 7}, kX);
  w.use_file(1);
  w.outsider_holds(kProgram, {3, 3}, kX);
  const auto later = [&] { return w.wait(process(2), {3, 3}, kX); };
  w.use_file(0);
  const auto first = w.wait(process(1), {2, 2}, kX);
  w.use_file(1);
  const auto second = later();
  w.use_file(0);
  w.outsider_awaits(kProgram, {7, 7}, kX);
  w.outsider_awaits(kOther, {0, 9}, kX);
  w.look();
  EXPECT_EQ(second->error, EDEADLK);
  EXPECT_TRUE(first->waiting());
  w.look();
  ASSERT_EQ(w.unlock(process(2), {2, 2}), 0);
  w.deliver();
  EXPECT_TRUE(first->granted());
}

// The one that waits outside is not the last: that waits for him.
TEST(OutsideCycles, TheLastNeedNotBeTheOneThatWaitsOutside) {
  OutsideWorld w(2);
  ASSERT_EQ(w.lock(process(2), {2, 2}, kX), 0);
  w.outsider_holds(kProgram, {9, 9}, kX);
  w.outsider_awaits(kProgram, {2, 2}, kX);
  w.use_file(1);
  ASSERT_EQ(w.lock(process(1), {1, 1}, kX), 0);
  w.use_file(0);
  const auto first = w.wait(process(1), {9, 9}, kX);
  w.look();
  w.use_file(1);
  const auto second = w.wait(process(2), {1, 1}, kX);
  w.look();
  EXPECT_EQ(second->error, EDEADLK);
  EXPECT_TRUE(first->waiting());
  w.use_file(0);
  w.cancel(first);
  w.deliver();
}

}  // namespace
}  // namespace lockmgr
