// What administrators see and do: paged reports, taking locks away, events, comparison with the
// backing.
#include <gtest/gtest.h>

#include <cerrno>
#include <set>
#include <string>
#include <vector>

#include "tests/unit/random.h"
#include "tests/unit/world.h"

namespace lockmgr {
namespace {

using namespace testing;  // NOLINT(google-build-using-namespace): the vocabulary of these tests

// -- pages
// -----------------------------------------------------------------------------------------

using Row = std::pair<Mode, Offset>;

/// Collects all locks page by page, calling `between` after each page.
template <typename Between>
std::multiset<Row> page_through(const FileLocks& file, std::size_t limit, const Between& between) {
  std::multiset<Row> rows;
  PageMark mark;
  for (bool more = true; more;) {
    std::vector<LockView> page;
    more = file.locks_page(mark, limit, page);
    EXPECT_LE(page.size(), limit);
    for (const LockView& view : page) rows.emplace(view.mode, view.range.first);
    between();
  }
  return rows;
}

TEST(Pages, EveryLockOnceWhateverThePageSize) {
  World w;
  std::multiset<Row> expected;
  for (int i = 0; i < 7; ++i) {
    ASSERT_EQ(w.lock(process(1), {i * 20, i * 20 + 3}, kX), 0);
    expected.emplace(kX, i * 20);
    // Several that begin at one byte.
    for (int owner = 2; owner < 5; ++owner) {
      ASSERT_EQ(w.lock(ofd(static_cast<std::uint64_t>(owner)), {1000, 1000 + i * 10}, kS), 0);
    }
  }
  for (int owner = 2; owner < 5; ++owner) expected.emplace(kS, 1000);
  for (const std::size_t limit : {1U, 2U, 3U, 10U, 100U}) {
    EXPECT_EQ(page_through(w.file(), limit, [] {}), expected) << "pages of " << limit;
  }
}

TEST(Pages, WaitersToo) {
  World w;
  ASSERT_EQ(w.lock(process(1), kWholeFile, kX), 0);
  std::multiset<Ticket> expected;
  for (std::uint64_t i = 2; i < 9; ++i) {
    expected.insert(w.wait(process(i), {static_cast<Offset>(i / 3), 50}, kX)->ticket);
  }
  for (const std::size_t limit : {1U, 2U, 7U, 8U}) {
    std::multiset<Ticket> found;
    PageMark mark;
    for (bool more = true; more;) {
      std::vector<WaitView> page;
      more = w.file().waiters_page(mark, limit, page);
      for (const WaitView& view : page) found.insert(view.ticket);
    }
    EXPECT_EQ(found, expected) << "pages of " << limit;
  }
}

TEST(Pages, LocksThatStayAreListedOnceWhileOthersComeAndGo) {
  World w;
  for (int i = 0; i < 200; ++i) ASSERT_EQ(w.lock(process(1), {i * 10, i * 10 + 4}, kX), 0);
  Random random(1);
  const auto rows = page_through(w.file(), 8, [&] {
    // Only ranges in the gaps, so that the locks above stay as they are.
    const auto at = static_cast<Offset>(random.below(200)) * 10 + 6;
    w.lock(process(2), {at, at + 1}, random.below(2) == 0 ? kX : kU);
  });
  for (int i = 0; i < 200; ++i) EXPECT_EQ(rows.count({kX, i * 10}), 1U) << i;
}

// -- taking away
// -----------------------------------------------------------------------------------

TEST(Revoke, TakesAPartAndGrantsTheNext) {
  World w;
  ASSERT_EQ(w.lock(process(1), {0, 99}, kX), 0);
  const AnswerPtr in_part = w.wait(process(2), {20, 29}, kX);
  const AnswerPtr outside_of_it = w.wait(process(3), {50, 59}, kX);
  Range taken;
  ASSERT_EQ(w.file().revoke(process(1), {10, 40}, taken), 0);
  EXPECT_EQ(taken, (Range{10, 40}));
  EXPECT_TRUE(in_part->granted());
  EXPECT_TRUE(outside_of_it->waiting());
  EXPECT_EQ(w.held(process(1)), "X[0,9] X[41,99] ");
  EXPECT_EQ(w.count(Counter::kRevocations), 1U);
  w.inspect();
  w.close_by_process(process(1));
  EXPECT_TRUE(outside_of_it->granted());
}

TEST(Revoke, SaysWhatItsOwnerHeldThere) {
  World w;
  ASSERT_EQ(w.lock(flock_of(1), {10, 19}, kX), 0);
  ASSERT_EQ(w.lock(flock_of(1), {30, 39}, kS), 0);
  Range taken;
  ASSERT_EQ(w.file().revoke(flock_of(1), kWholeFile, taken), 0);
  EXPECT_EQ(taken, (Range{10, 39}));
  EXPECT_EQ(w.held(flock_of(1)), "nothing");
  EXPECT_TRUE(w.backing().held().empty()) << "the backing is let go";
}

TEST(Revoke, NothingToTake) {
  World w;
  ASSERT_EQ(w.lock(process(1), {10, 19}, kX), 0);
  Range taken;
  EXPECT_EQ(w.file().revoke(process(2), kWholeFile, taken), ENOENT);
  EXPECT_EQ(w.file().revoke(process(1), {0, 9}, taken), ENOENT);
  EXPECT_EQ(w.file().revoke(process(1), {20, kEof}, taken), ENOENT);
  EXPECT_EQ(w.held(process(1)), "X[10,19] ");
  EXPECT_EQ(w.count(Counter::kRevocations), 0U);
}

TEST(Revoke, ItsOwnerMayLockAgain) {
  World w;
  ASSERT_EQ(w.lock(process(1), kWholeFile, kX), 0);
  Range taken;
  ASSERT_EQ(w.file().revoke(process(1), kWholeFile, taken), 0);
  EXPECT_EQ(w.unlock(process(1), kWholeFile), 0) << "unlocking what is gone succeeds";
  EXPECT_EQ(w.lock(process(1), kWholeFile, kX), 0);
}

TEST(Revoke, AnOwnerThatWaitsKeepsItsWait) {
  World w;
  ASSERT_EQ(w.lock(ofd(1), {0, 9}, kX), 0);
  ASSERT_EQ(w.lock(ofd(2), {10, 19}, kX), 0);
  const AnswerPtr wait = w.wait(ofd(1), {10, 19}, kX);
  Range taken;
  ASSERT_EQ(w.file().revoke(ofd(1), {0, 9}, taken), 0);
  EXPECT_TRUE(wait->waiting());
  ASSERT_EQ(w.file().revoke(ofd(2), {10, 19}, taken), 0);
  EXPECT_TRUE(wait->granted());
}

// -- events
// ----------------------------------------------------------------------------------------

/// "grant wait release " and so on; forgets them.
std::string told(World& w) {
  std::string text;
  for (const Event& event : w.notes().events) text.append(to_string(event.kind)).append(" ");
  w.notes().events.clear();
  return text;
}

TEST(Events, NoneUnlessWatched) {
  World w;
  ASSERT_EQ(w.lock(process(1), kWholeFile, kX), 0);
  w.unlock(process(1), kWholeFile);
  EXPECT_EQ(told(w), "");
  w.manager().watch(true);
  ASSERT_EQ(w.lock(process(1), kWholeFile, kX), 0);
  EXPECT_EQ(told(w), "grant ");
  w.manager().watch(false);
  w.unlock(process(1), kWholeFile);
  EXPECT_EQ(told(w), "");
}

TEST(Events, TellWhatHappens) {
  World w;
  w.manager().watch(true);
  ASSERT_EQ(w.lock(process(1), {0, 9}, kX), 0);
  EXPECT_EQ(told(w), "grant ");
  EXPECT_EQ(w.lock(process(2), {5, 5}, kS), EAGAIN);
  EXPECT_EQ(told(w), "refusal ");
  const AnswerPtr first = w.wait(process(2), {0, 9}, kX);
  const AnswerPtr second = w.wait(process(3), {0, 9}, kX);
  EXPECT_EQ(told(w), "wait wait ");
  w.cancel(second);
  EXPECT_EQ(told(w), "given_up ");
  w.unlock(process(1), kWholeFile);
  EXPECT_EQ(told(w), "release grant ");
  Range taken;
  ASSERT_EQ(w.file().revoke(process(2), kWholeFile, taken), 0);
  EXPECT_EQ(told(w), "revoke ");
  w.unlock(process(2), kWholeFile);
  EXPECT_EQ(told(w), "") << "nothing was held";
  ASSERT_EQ(w.lock(process(1), {0, 9}, kX), 0);
  ASSERT_EQ(w.lock(process(2), {20, 29}, kX), 0);
  const AnswerPtr waits = w.wait(process(1), {20, 29}, kX);
  told(w);
  const AnswerPtr cycle = w.wait(process(2), {0, 9}, kX);
  EXPECT_EQ(cycle->error, EDEADLK);
  EXPECT_EQ(told(w), "deadlock ");
}

TEST(Events, AReleaseNamesWhatWasHeld) {
  World w;
  w.manager().watch(true);
  ASSERT_EQ(w.lock(process(1), {10, 19}, kX), 0);
  ASSERT_EQ(w.lock(process(1), {30, 49}, kX), 0);
  told(w);
  w.unlock(process(1), {0, 39});
  ASSERT_EQ(w.notes().events.size(), 1U);
  EXPECT_EQ(w.notes().events[0].range, (Range{10, 39}));
  told(w);
  w.close_by_process(process(1));
  ASSERT_EQ(w.notes().events.size(), 1U);
  EXPECT_EQ(w.notes().events[0].range, (Range{40, 49}));
}

TEST(Timings, WaitsAreMeasured) {
  World w;
  ASSERT_EQ(w.lock(process(1), kWholeFile, kX), 0);
  const AnswerPtr wait = w.wait(process(2), kWholeFile, kX);
  const auto count = [&] {
    std::uint64_t all = 0;
    for (std::size_t i = 0; i < Histogram::kBuckets; ++i) {
      all += w.manager().timing(Timing::kWaits).count(i);
    }
    return all;
  };
  EXPECT_EQ(count(), 0U);
  w.unlock(process(1), kWholeFile);
  ASSERT_TRUE(wait->granted());
  EXPECT_EQ(count(), 1U);
  EXPECT_GT(w.manager().timing(Timing::kWaits).sum(), 0U);
}

TEST(Timings, ADurationFallsInItsBucket) {
  Histogram histogram;
  const auto bucket_of = [&](std::int64_t ns) {
    std::vector<std::uint64_t> before;
    for (std::size_t i = 0; i < Histogram::kBuckets; ++i) before.push_back(histogram.count(i));
    histogram.record(std::chrono::nanoseconds(ns));
    for (std::size_t i = 0; i < Histogram::kBuckets; ++i) {
      if (histogram.count(i) != before[i]) return i;
    }
    return Histogram::kBuckets;
  };
  EXPECT_EQ(bucket_of(0), 0U);
  EXPECT_EQ(bucket_of(-5), 0U);
  EXPECT_EQ(bucket_of(1), 1U);
  EXPECT_EQ(bucket_of(1023), 10U);
  EXPECT_EQ(bucket_of(1024), 11U);
  EXPECT_EQ(bucket_of(INT64_MAX), Histogram::kBuckets - 1);
}

// -- comparison
// ------------------------------------------------------------------------------------

TEST(Audit, AgreesWhileAllIsWell) {
  World w;
  ASSERT_EQ(w.lock(process(1), {0, 9}, kX), 0);
  ASSERT_EQ(w.lock(ofd(2), {10, 19}, kS), 0);
  ASSERT_EQ(w.lock(flock_of(3), {15, kEof}, kS), 0);
  std::vector<Difference> found;
  EXPECT_EQ(w.file().audit(10, found), Audit::kCompared);
  EXPECT_TRUE(found.empty());
}

TEST(Audit, FindsWhatTheBackingLostAndWhatItHasTooMuch) {
  World w;
  ASSERT_EQ(w.lock(process(1), {0, 9}, kX), 0);
  ASSERT_EQ(w.lock(ofd(2), {20, 29}, kS), 0);
  struct Nothing final : Backing::Carried {
    void for_each(const std::function<bool(const Range&, Mode)>&) const override {}
  } nothing;
  ASSERT_EQ(w.backing().set({0, 4}, kU, nothing), Reply::done());
  ASSERT_EQ(w.backing().set({25, 34}, kX, nothing), Reply::done());
  std::vector<Difference> found;
  ASSERT_EQ(w.file().audit(10, found), Audit::kCompared);
  ASSERT_EQ(found.size(), 3U);
  EXPECT_EQ(found[0].range, (Range{0, 4}));
  EXPECT_EQ(found[0].granted, kX);
  EXPECT_EQ(found[0].carried, kU);
  EXPECT_EQ(found[1].range, (Range{25, 29}));
  EXPECT_EQ(found[1].granted, kS);
  EXPECT_EQ(found[1].carried, kX);
  EXPECT_EQ(found[2].range, (Range{30, 34}));
  EXPECT_EQ(found[2].granted, kU);
  std::vector<Difference> first;
  ASSERT_EQ(w.file().audit(1, first), Audit::kCompared);
  EXPECT_EQ(first.size(), 1U);
  ASSERT_EQ(w.backing().set({0, 4}, kX, nothing), Reply::done());
  ASSERT_EQ(w.backing().set({25, 29}, kS, nothing), Reply::done());
  ASSERT_EQ(w.backing().set({30, 34}, kU, nothing), Reply::done());
}

TEST(Audit, ABackingThatCannotTell) {
  World w;
  ASSERT_EQ(w.lock(process(1), {0, 9}, kX), 0);
  w.backing().before_inspection = [] { return false; };
  std::vector<Difference> found;
  EXPECT_EQ(w.file().audit(10, found), Audit::kUnknown);
}

TEST(Audit, ComparesOneMomentWithTheSameMoment) {
  World w;
  ASSERT_EQ(w.lock(process(1), {0, 9}, kX), 0);
  // Somebody locks while the backing is being read: the first comparison is thrown away.
  int looks = 0;
  w.backing().before_inspection = [&] {
    if (++looks == 1) {
      EXPECT_EQ(w.lock(process(2), {20, 29}, kX), 0);
    }
    return true;
  };
  std::vector<Difference> found;
  EXPECT_EQ(w.file().audit(10, found), Audit::kCompared);
  EXPECT_EQ(looks, 2);
  EXPECT_TRUE(found.empty());
}

}  // namespace
}  // namespace lockmgr
