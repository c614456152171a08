// The rules of granting, queueing, releasing and refusing, with nobody outside.
#include "lockmgr/file_locks.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include "tests/unit/world.h"

namespace lockmgr {
namespace {

using namespace std::chrono_literals;
using namespace testing;  // NOLINT(google-build-using-namespace): the vocabulary of these tests
using Place = Waiter::Place;

// -- one owner
// ---------------------------------------------------------------------------------------

/// Takes `held` in `held_mode`, then `wanted` in `mode`, and tells what is held then.
std::string after(Range held, Mode held_mode, Range wanted, Mode mode) {
  std::string result;
  for (const OwnerId& owner : {process(1), ofd(1), flock_of(1)}) {
    World w;
    EXPECT_EQ(w.lock(owner, held, held_mode), 0);
    EXPECT_EQ(w.lock(owner, wanted, mode), 0);
    const std::string now = w.held(owner);
    EXPECT_TRUE(result.empty() || result == now) << "owner types differ";
    result = now;
  }
  return result;
}

TEST(OneOwner, UnlockInEachOverlapCase) {
  EXPECT_EQ(after({0, 5}, kX, {10, 19}, kU), "X[0,5] ");
  EXPECT_EQ(after({10, 19}, kX, {10, 19}, kU), "nothing");
  EXPECT_EQ(after({5, 25}, kX, {10, 19}, kU), "X[5,9] X[20,25] ");
  EXPECT_EQ(after({12, 15}, kX, {10, 19}, kU), "nothing");
  EXPECT_EQ(after({5, 15}, kX, {10, 19}, kU), "X[5,9] ");
  EXPECT_EQ(after({15, 25}, kX, {10, 19}, kU), "X[20,25] ");
  EXPECT_EQ(after(kWholeFile, kX, {0, 9}, kU), "X[10,EOF] ");
  EXPECT_EQ(after(kWholeFile, kX, {10, kEof}, kU), "X[0,9] ");
  EXPECT_EQ(after({kEof, kEof}, kX, kWholeFile, kU), "nothing");
  EXPECT_EQ(after(kWholeFile, kX, {kEof, kEof}, kU), "X[0," + std::to_string(kEof - 1) + "] ");
}

TEST(OneOwner, DowngradeInEachOverlapCase) {
  EXPECT_EQ(after({0, 5}, kX, {10, 19}, kS), "X[0,5] S[10,19] ");
  EXPECT_EQ(after({10, 19}, kX, {10, 19}, kS), "S[10,19] ");
  EXPECT_EQ(after({5, 25}, kX, {10, 19}, kS), "X[5,9] S[10,19] X[20,25] ");
  EXPECT_EQ(after({12, 15}, kX, {10, 19}, kS), "S[10,19] ");
  EXPECT_EQ(after({5, 15}, kX, {10, 19}, kS), "X[5,9] S[10,19] ");
  EXPECT_EQ(after({15, 25}, kX, {10, 19}, kS), "S[10,19] X[20,25] ");
}

TEST(OneOwner, UpgradeInEachOverlapCase) {
  EXPECT_EQ(after({0, 5}, kS, {10, 19}, kX), "S[0,5] X[10,19] ");
  EXPECT_EQ(after({10, 19}, kS, {10, 19}, kX), "X[10,19] ");
  EXPECT_EQ(after({5, 25}, kS, {10, 19}, kX), "S[5,9] X[10,19] S[20,25] ");
  EXPECT_EQ(after({12, 15}, kS, {10, 19}, kX), "X[10,19] ");
  EXPECT_EQ(after({5, 15}, kS, {10, 19}, kX), "S[5,9] X[10,19] ");
  EXPECT_EQ(after({15, 25}, kS, {10, 19}, kX), "X[10,19] S[20,25] ");
}

TEST(OneOwner, SameModeMergesInEachOverlapCase) {
  for (const Mode mode : {kS, kX}) {
    const auto locked = [mode](std::initializer_list<Range> ranges) {
      std::vector<Segment> segments;
      for (const Range& range : ranges) segments.push_back({range, mode});
      return to_text(segments);
    };
    EXPECT_EQ(after({0, 5}, mode, {10, 19}, mode), locked({{0, 5}, {10, 19}}));
    EXPECT_EQ(after({10, 19}, mode, {10, 19}, mode), locked({{10, 19}}));
    EXPECT_EQ(after({5, 25}, mode, {10, 19}, mode), locked({{5, 25}}));
    EXPECT_EQ(after({12, 15}, mode, {10, 19}, mode), locked({{10, 19}}));
    EXPECT_EQ(after({5, 15}, mode, {10, 19}, mode), locked({{5, 19}}));
    EXPECT_EQ(after({15, 25}, mode, {10, 19}, mode), locked({{10, 25}}));
    EXPECT_EQ(after({0, 9}, mode, {10, 19}, mode), locked({{0, 19}}));
    EXPECT_EQ(after({20, kEof}, mode, {10, 19}, mode), locked({{10, kEof}}));
  }
}

TEST(OneOwner, OneRequestTakesInMany) {
  World w;
  const OwnerId a = ofd(1);
  for (Offset at = 0; at < 100; at += 10) ASSERT_EQ(w.lock(a, {at, at + 4}, kS), 0);
  EXPECT_EQ(w.lock(a, {12, 77}, kX), 0);
  EXPECT_EQ(w.held(a), "S[0,4] S[10,11] X[12,77] S[80,84] S[90,94] ");
  EXPECT_EQ(w.lock(a, {11, 90}, kS), 0);
  EXPECT_EQ(w.held(a), "S[0,4] S[10,94] ");
  EXPECT_EQ(w.unlock(a, {20, 29}), 0);
  EXPECT_EQ(w.unlock(a, {3, 11}), 0);
  EXPECT_EQ(w.held(a), "S[0,2] S[12,19] S[30,94] ");
}

TEST(OneOwner, FillingTheGapMergesBothSides) {
  World w;
  const OwnerId a = process(1);
  ASSERT_EQ(w.lock(a, {0, 9}, kX), 0);
  ASSERT_EQ(w.lock(a, {20, 29}, kX), 0);
  ASSERT_EQ(w.lock(a, {10, 19}, kX), 0);
  EXPECT_EQ(w.held(a), "X[0,29] ");
}

TEST(OneOwner, UnlockOfNothing) {
  World w;
  for (const OwnerId& owner : {process(1), ofd(1), flock_of(1)}) {
    EXPECT_EQ(w.unlock(owner, kWholeFile), 0);
    EXPECT_EQ(w.lock(owner, {0, 4}, kS), 0);
    EXPECT_EQ(w.unlock(owner, {5, kEof}), 0);
    EXPECT_EQ(w.held(owner), "S[0,4] ");
  }
  EXPECT_EQ(w.manager().ledger().locks(), 3U);
  EXPECT_EQ(w.count(Counter::kUnlocks), 6U);
  // Of nothing, the backing is not told either.
  EXPECT_EQ(w.backing().sets(), 1U);
}

// -- several owners
// -----------------------------------------------------------------------------------

TEST(Conflict, EveryPairOfOwnerTypesAndModes) {
  const std::vector<OwnerId> holders = {process(1), ofd(1), flock_of(1)};
  const std::vector<OwnerId> askers = {process(2), ofd(2), flock_of(2)};
  for (const OwnerId& holder : holders) {
    for (const OwnerId& asker : askers) {
      for (const Mode held : {kS, kX}) {
        for (const Mode wanted : {kS, kX}) {
          World w;
          ASSERT_EQ(w.lock(holder, kWholeFile, held), 0);
          const bool conflict = held == kX || wanted == kX;
          const auto blocker = w.blocker(asker, kWholeFile, wanted);
          EXPECT_EQ(blocker.has_value(), conflict);
          EXPECT_EQ(w.lock(asker, kWholeFile, wanted), conflict ? EAGAIN : 0);
          const AnswerPtr answer = w.wait(asker, kWholeFile, wanted);
          EXPECT_EQ(answer->waiting(), conflict);
          w.unlock(holder, kWholeFile);
          EXPECT_TRUE(answer->granted());
        }
      }
    }
  }
}

TEST(Conflict, OnlyWhereRangesOverlap) {
  World w;
  ASSERT_EQ(w.lock(ofd(1), {10, 19}, kX), 0);
  EXPECT_EQ(w.lock(ofd(2), {0, 9}, kX), 0);
  EXPECT_EQ(w.lock(ofd(2), {20, kEof}, kX), 0);
  EXPECT_EQ(w.lock(ofd(2), {19, 19}, kS), EAGAIN);
  EXPECT_EQ(w.lock(ofd(2), {10, 10}, kS), EAGAIN);
  EXPECT_EQ(w.lock(ofd(2), kWholeFile, kS), EAGAIN);
  EXPECT_EQ(w.held(ofd(2)), "X[0,9] X[20,EOF] ");
}

TEST(Conflict, FlockAndOfdOfOneOpenFileGoTogether) {
  World w;
  ASSERT_EQ(w.lock(flock_of(1), kWholeFile, kX), 0);
  EXPECT_EQ(w.lock(ofd(1), {0, 9}, kX), 0);
  EXPECT_EQ(w.lock(ofd(1), {20, 29}, kS), 0);
  EXPECT_EQ(w.lock(ofd(2), {40, 49}, kS), EAGAIN);
  EXPECT_EQ(w.lock(process(1), {40, 49}, kS), EAGAIN);
  EXPECT_EQ(to_text(w.backing().held()), "X[0,EOF] ");
  w.unlock(flock_of(1), kWholeFile);
  EXPECT_EQ(to_text(w.backing().held()), "X[0,9] S[20,29] ");
  EXPECT_EQ(w.lock(flock_of(1), kWholeFile, kS), 0);
  EXPECT_EQ(to_text(w.backing().held()), "X[0,9] S[10,EOF] ");
  EXPECT_EQ(w.lock(ofd(2), {40, 49}, kX), EAGAIN);
  EXPECT_EQ(w.lock(ofd(2), {40, 49}, kS), 0);
  // Behind the exempt flock there is somebody else's lock.
  EXPECT_EQ(w.lock(ofd(1), {40, 49}, kX), EAGAIN);
}

TEST(Conflict, ProcessAndOpenFilesOfOneProgram) {
  World w;
  ASSERT_EQ(w.lock(process(1), kWholeFile, kX), 0);
  EXPECT_EQ(w.lock(ofd(1), kWholeFile, kS), EAGAIN);
  EXPECT_EQ(w.lock(flock_of(1), kWholeFile, kS), EAGAIN);
}

TEST(Conflict, CookiesOfDifferentKindsAreDifferentOwners) {
  World w;
  const OwnerId a{OwnerType::kProcess, 7};
  const OwnerId b{OwnerType::kOpenFile, 7};
  ASSERT_EQ(w.lock(a, kWholeFile, kX), 0);
  EXPECT_EQ(w.lock(b, kWholeFile, kX), EAGAIN);
  w.close_by_process(a);
  EXPECT_EQ(w.lock(b, kWholeFile, kX), 0);
}

TEST(Conflict, RefusedUpgradeKeepsTheOldLock) {
  World w;
  ASSERT_EQ(w.lock(ofd(1), {0, 9}, kS), 0);
  ASSERT_EQ(w.lock(ofd(2), {0, 4}, kS), 0);
  EXPECT_EQ(w.lock(ofd(1), {0, 9}, kX), EAGAIN);
  EXPECT_EQ(w.held(ofd(1)), "S[0,9] ");
  EXPECT_EQ(w.lock(ofd(1), {5, 9}, kX), 0);
  EXPECT_EQ(w.held(ofd(1)), "S[0,4] X[5,9] ");
}

TEST(Conflict, FlockNeedsTheOpenMode) {
  LockManager manager({}, Policy{}, nullptr);
  auto file = manager.open_file({1, 1}, std::make_unique<NoBacking>());
  Opened reader(true, false);
  Opened writer(false, true);
  const auto ask = [&](Opened& opened, const OwnerId& owner, Mode mode) {
    const auto now = file->try_now(opened, {owner, {}, kWholeFile, mode, true});
    if (now == 0) {
      EXPECT_EQ(file->try_now(opened, {owner, {}, kWholeFile, kU, false}), 0);
    }
    return now;
  };
  EXPECT_EQ(ask(reader, flock_of(1), kX), EBADF);
  EXPECT_EQ(ask(reader, flock_of(1), kS), 0);
  EXPECT_EQ(ask(writer, flock_of(2), kS), EBADF);
  EXPECT_EQ(ask(writer, flock_of(2), kX), 0);
  EXPECT_EQ(ask(reader, ofd(1), kX), 0);
  EXPECT_EQ(file->park(reader, {flock_of(1), {}, kWholeFile, kX, true}, manager.new_ticket(),
                       [](int) { FAIL(); }),
            EBADF);
  file->close(reader);
  file->close(writer);
}

TEST(Test, NamesTheFirstBlocker) {
  World w;
  ASSERT_EQ(w.lock(process(3), {30, 39}, kS), 0);
  ASSERT_EQ(w.lock(ofd(2), {10, 19}, kX), 0);
  const auto blocker = w.blocker(ofd(1), kWholeFile, kX);
  ASSERT_TRUE(blocker.has_value());
  EXPECT_EQ(blocker->owner, ofd(2));
  EXPECT_EQ(blocker->range, (Range{10, 19}));
  EXPECT_EQ(blocker->mode, kX);
  EXPECT_EQ(blocker->pid, 2);
  EXPECT_FALSE(w.blocker(ofd(1), {30, kEof}, kS));
  EXPECT_EQ(w.blocker(ofd(1), {30, kEof}, kX)->owner, process(3));
  EXPECT_FALSE(w.blocker(ofd(2), {0, 29}, kX));
  EXPECT_EQ(w.backing().held().size(), 2U);
}

// The first byte that blocks decides, not the mode or who holds the lock.
TEST(Test, NamesWhatBlocksTheFirstByte) {
  World w;
  ASSERT_EQ(w.lock(process(3), {5, 9}, kS), 0);
  ASSERT_EQ(w.lock(ofd(2), {20, 29}, kX), 0);
  EXPECT_EQ(w.blocker(ofd(1), kWholeFile, kX)->owner, process(3));
  EXPECT_EQ(w.blocker(ofd(1), kWholeFile, kS)->owner, ofd(2));
  EXPECT_EQ(w.blocker(ofd(1), {10, 40}, kX)->owner, ofd(2));

  ASSERT_EQ(w.backing().outsider_set(5, {0, 2}, kS), 0);
  ASSERT_EQ(w.backing().outsider_set(6, {12, 14}, kX), 0);
  const auto outsider = w.blocker(ofd(1), kWholeFile, kX);
  ASSERT_TRUE(outsider.has_value());
  EXPECT_FALSE(outsider->owner.has_value());
  EXPECT_EQ(outsider->range, (Range{0, 2}));
  EXPECT_EQ(w.blocker(ofd(1), {3, kEof}, kX)->owner, process(3));
  EXPECT_EQ(w.blocker(ofd(1), {3, kEof}, kS)->range, (Range{12, 14}));

  // A backing that cannot tell takes nothing away from what is known.
  w.backing().fail_test = [](const Range&, Mode) { return EIO; };
  EXPECT_EQ(w.blocker(ofd(1), {3, kEof}, kX)->owner, process(3));
}

// F_OFD_GETLK with F_UNLCK.
TEST(Test, WithoutAModeNamesTheAskersOwn) {
  World w;
  EXPECT_FALSE(w.blocker(ofd(1), kWholeFile, kU));
  ASSERT_EQ(w.lock(ofd(2), {0, 4}, kX), 0);
  ASSERT_EQ(w.lock(ofd(1), {10, 14}, kS), 0);
  ASSERT_EQ(w.lock(ofd(1), {20, 24}, kX), 0);
  ASSERT_EQ(w.backing().outsider_set(5, {6, 8}, kS), 0);
  EXPECT_FALSE(w.blocker(ofd(1), {0, 9}, kU));
  const auto own = w.blocker(ofd(1), kWholeFile, kU);
  ASSERT_TRUE(own.has_value());
  EXPECT_EQ(own->owner, ofd(1));
  EXPECT_EQ(own->range, (Range{10, 14}));
  EXPECT_EQ(own->mode, kS);
  EXPECT_EQ(w.blocker(ofd(1), {15, 22}, kU)->range, (Range{20, 24}));
  EXPECT_FALSE(w.blocker(ofd(1), {15, 19}, kU));
  EXPECT_FALSE(w.blocker(ofd(3), kWholeFile, kU));
}

TEST(Test, AnOutsiderIsNamedLast) {
  World w;
  ASSERT_EQ(w.backing().outsider_set(5, {0, 9}, kS), 0);
  EXPECT_FALSE(w.blocker(ofd(1), {0, 9}, kS));
  const auto blocker = w.blocker(ofd(1), {5, 20}, kX);
  ASSERT_TRUE(blocker.has_value());
  EXPECT_FALSE(blocker->owner.has_value());
  EXPECT_EQ(blocker->pid, 5);
  EXPECT_EQ(blocker->range, (Range{0, 9}));
  w.backing().fail_test = [](const Range&, Mode) { return EIO; };
  std::optional<Blocker> found;
  EXPECT_EQ(w.file().test({ofd(1), {}, {5, 20}, kX, false}, found), EIO);
}

// -- waiting
// ------------------------------------------------------------------------------------------

TEST(Queue, FirstComeFirstServed) {
  World w;
  ASSERT_EQ(w.lock(ofd(1), kWholeFile, kX), 0);
  std::vector<AnswerPtr> answers;
  for (std::uint64_t n = 2; n < 10; ++n) answers.push_back(w.wait(ofd(n), kWholeFile, kX));
  EXPECT_TRUE(w.manager().has_queued());
  for (std::size_t i = 0; i < answers.size(); ++i) {
    w.unlock(ofd(i + 1), kWholeFile);
    for (std::size_t k = 0; k < answers.size(); ++k) EXPECT_EQ(answers[k]->granted(), k <= i);
  }
  EXPECT_FALSE(w.manager().has_queued());
}

TEST(Queue, SharedWaitsBehindAnEarlierExclusive) {
  World w;
  ASSERT_EQ(w.lock(ofd(1), kWholeFile, kS), 0);
  const AnswerPtr writer = w.wait(ofd(2), kWholeFile, kX);
  const AnswerPtr reader = w.wait(ofd(3), kWholeFile, kS);
  EXPECT_TRUE(writer->waiting());
  EXPECT_TRUE(reader->waiting());
  EXPECT_EQ(w.place(writer), Place::kBlocked);
  EXPECT_EQ(w.place(reader), Place::kBehind);
  // One that does not wait is not kept out by those who do.
  EXPECT_EQ(w.lock(ofd(4), kWholeFile, kS), 0);
  w.unlock(ofd(4), kWholeFile);
  EXPECT_TRUE(writer->waiting());
  w.unlock(ofd(1), kWholeFile);
  EXPECT_TRUE(writer->granted());
  EXPECT_TRUE(reader->waiting());
  w.unlock(ofd(2), kWholeFile);
  EXPECT_TRUE(reader->granted());
}

TEST(Queue, AllSharedWaitersGoTogether) {
  World w;
  ASSERT_EQ(w.lock(ofd(1), kWholeFile, kX), 0);
  std::vector<AnswerPtr> readers;
  for (std::uint64_t n = 2; n < 8; ++n) readers.push_back(w.wait(ofd(n), kWholeFile, kS));
  const AnswerPtr writer = w.wait(ofd(9), kWholeFile, kX);
  const AnswerPtr late = w.wait(ofd(10), kWholeFile, kS);
  w.unlock(ofd(1), kWholeFile);
  for (std::size_t i = 0; i < readers.size(); ++i) {
    EXPECT_TRUE(readers[i]->granted());
    EXPECT_EQ(readers[i]->order, static_cast<int>(i) + 1);
  }
  EXPECT_TRUE(writer->waiting());
  EXPECT_TRUE(late->waiting());
  for (std::uint64_t n = 2; n < 8; ++n) w.unlock(ofd(n), kWholeFile);
  EXPECT_TRUE(writer->granted());
  EXPECT_TRUE(late->waiting());
  w.unlock(ofd(9), kWholeFile);
  EXPECT_TRUE(late->granted());
}

TEST(Queue, OtherRangesAreNotHeldUp) {
  World w;
  ASSERT_EQ(w.lock(ofd(1), {0, 9}, kX), 0);
  const AnswerPtr blocked = w.wait(ofd(2), {5, 14}, kX);
  EXPECT_TRUE(w.wait(ofd(3), {15, 19}, kX)->granted());
  const AnswerPtr behind = w.wait(ofd(4), {10, 14}, kX);
  EXPECT_EQ(w.place(behind), Place::kBehind);
  const AnswerPtr chained = w.wait(ofd(5), {14, 30}, kS);
  EXPECT_EQ(w.place(chained), Place::kBehind);
  w.unlock(ofd(1), {5, 9});
  EXPECT_TRUE(blocked->granted());
  EXPECT_TRUE(behind->waiting());
  w.unlock(ofd(2), kWholeFile);
  EXPECT_TRUE(behind->granted());
  w.unlock(ofd(3), kWholeFile);
  EXPECT_TRUE(chained->waiting());
  w.unlock(ofd(4), kWholeFile);
  EXPECT_TRUE(chained->granted());
}

TEST(Queue, AWaiterIsWokenByTheLastOfItsBlockers) {
  World w;
  for (std::uint64_t n = 1; n <= 4; ++n) {
    ASSERT_EQ(w.lock(process(n), {static_cast<Offset>(n) * 10, static_cast<Offset>(n) * 10 + 4},
                     n % 2 == 0 ? kX : kS),
              0);
  }
  const AnswerPtr answer = w.wait(flock_of(9), kWholeFile, kX);
  for (std::uint64_t n = 1; n <= 4; ++n) {
    EXPECT_TRUE(answer->waiting());
    w.close_by_process(process(n));
  }
  EXPECT_TRUE(answer->granted());
}

TEST(Queue, DowngradeWakesSharedWaiters) {
  World w;
  ASSERT_EQ(w.lock(ofd(1), kWholeFile, kX), 0);
  const AnswerPtr reader = w.wait(ofd(2), {0, 9}, kS);
  const AnswerPtr writer = w.wait(ofd(3), {20, 29}, kX);
  EXPECT_EQ(w.lock(ofd(1), kWholeFile, kS), 0);
  EXPECT_TRUE(reader->granted());
  EXPECT_TRUE(writer->waiting());
  w.unlock(ofd(1), {20, 29});
  EXPECT_TRUE(writer->granted());
}

TEST(Queue, AGrantThatDowngradesWakesOthers) {
  World w;
  ASSERT_EQ(w.lock(ofd(1), {10, 19}, kX), 0);
  ASSERT_EQ(w.lock(ofd(2), {20, 29}, kX), 0);
  // Once granted, this turns 10..19 to shared, which the other waits for.
  const AnswerPtr wide = w.wait(ofd(1), {10, 29}, kS);
  const AnswerPtr other = w.wait(ofd(3), {10, 14}, kS);
  EXPECT_TRUE(wide->waiting());
  EXPECT_TRUE(other->waiting());
  w.unlock(ofd(2), kWholeFile);
  EXPECT_TRUE(wide->granted());
  EXPECT_TRUE(other->granted());
}

TEST(Queue, UpgradePassesThoseWhoWaitForIt) {
  World w;
  ASSERT_EQ(w.lock(ofd(1), kWholeFile, kS), 0);
  const AnswerPtr writer = w.wait(ofd(2), kWholeFile, kX);
  const AnswerPtr upgrade = w.wait(ofd(1), kWholeFile, kX);
  EXPECT_TRUE(upgrade->granted());
  EXPECT_TRUE(writer->waiting());
  EXPECT_EQ(w.held(ofd(1)), "X[0,EOF] ");
}

TEST(Queue, UpgradeThatMustWaitIsBlockedNotBehind) {
  World w;
  ASSERT_EQ(w.lock(ofd(1), kWholeFile, kS), 0);
  ASSERT_EQ(w.lock(ofd(3), kWholeFile, kS), 0);
  const AnswerPtr writer = w.wait(ofd(2), kWholeFile, kX);
  const AnswerPtr upgrade = w.wait(ofd(1), kWholeFile, kX);
  EXPECT_EQ(w.place(upgrade), Place::kBlocked);
  w.unlock(ofd(3), kWholeFile);
  EXPECT_TRUE(upgrade->granted());
  EXPECT_TRUE(writer->waiting());
}

TEST(Queue, SecondSharedLockOfTheSameOwnerPasses) {
  World w;
  ASSERT_EQ(w.lock(ofd(1), {0, 9}, kS), 0);
  const AnswerPtr writer = w.wait(ofd(2), kWholeFile, kX);
  EXPECT_TRUE(w.wait(ofd(1), {5, 14}, kS)->granted());
  EXPECT_TRUE(w.wait(ofd(3), {5, 14}, kS)->waiting());
  EXPECT_TRUE(writer->waiting());
}

TEST(Queue, AnotherLockOfTheSameThreadPasses) {
  World w;
  ASSERT_EQ(w.lock(ofd(1), {0, 9}, kS, {.tid = 77}), 0);
  const AnswerPtr writer = w.wait(ofd(2), kWholeFile, kX, {.tid = 78});
  // The thread that holds what the writer waits for asks through another open file.
  EXPECT_TRUE(w.wait(ofd(3), {0, 9}, kS, {.tid = 77})->granted());
  EXPECT_TRUE(w.wait(ofd(4), {0, 9}, kS, {.tid = 79})->waiting());
  EXPECT_TRUE(writer->waiting());
}

TEST(Queue, PassesAlongAChain) {
  World w;
  ASSERT_EQ(w.lock(ofd(1), {0, 9}, kX), 0);
  const AnswerPtr first = w.wait(ofd(2), {5, 14}, kX);    // for ofd(1)
  const AnswerPtr second = w.wait(ofd(3), {14, 24}, kX);  // behind the first
  // It would be behind the second, which is behind one that waits for this very owner.
  EXPECT_TRUE(w.wait(ofd(1), {20, 29}, kX)->granted());
  EXPECT_TRUE(first->waiting());
  EXPECT_TRUE(second->waiting());
  EXPECT_TRUE(w.wait(ofd(4), {20, 29}, kX)->waiting());
}

TEST(Queue, TwoOwnersOfAChainReleaseInAnyOrder) {
  for (const bool first_first : {false, true}) {
    World w;
    ASSERT_EQ(w.lock(ofd(1), {0, 9}, kX), 0);
    ASSERT_EQ(w.lock(ofd(2), {20, 29}, kX), 0);
    const AnswerPtr wide = w.wait(ofd(3), {0, 29}, kX);
    const AnswerPtr middle = w.wait(ofd(4), {10, 19}, kX);
    EXPECT_EQ(w.place(middle), Place::kBehind);
    w.unlock(ofd(first_first ? 1 : 2), kWholeFile);
    EXPECT_TRUE(wide->waiting());
    EXPECT_TRUE(middle->waiting());
    w.unlock(ofd(first_first ? 2 : 1), kWholeFile);
    EXPECT_TRUE(wide->granted());
    EXPECT_TRUE(middle->waiting());
    w.unlock(ofd(3), kWholeFile);
    EXPECT_TRUE(middle->granted());
  }
}

TEST(Queue, UnlockOfAStrangerWakesNobody) {
  World w;
  ASSERT_EQ(w.lock(ofd(1), {0, 9}, kX), 0);
  ASSERT_EQ(w.lock(ofd(2), {50, 59}, kX), 0);
  const AnswerPtr answer = w.wait(ofd(3), {0, 9}, kX);
  EXPECT_EQ(w.unlock(ofd(2), {0, 49}), 0);
  EXPECT_TRUE(answer->waiting());
}

TEST(Relent, WhoStandsBehindAStuckWaiterPassesInTime) {
  World w;
  ASSERT_EQ(w.lock(ofd(1), {0, 9}, kX), 0);
  const AnswerPtr ahead = w.wait(ofd(2), kWholeFile, kX);
  const AnswerPtr behind = w.wait(ofd(3), {20, 29}, kX);
  const AnswerPtr blocked = w.wait(ofd(4), {5, 25}, kX);
  w.relent(0s);
  EXPECT_TRUE(behind->waiting());
  w.relent(1h);
  EXPECT_TRUE(behind->granted());
  EXPECT_TRUE(ahead->waiting());
  EXPECT_TRUE(blocked->waiting());
  EXPECT_EQ(w.place(blocked), Place::kBehind);
  EXPECT_EQ(w.count(Counter::kBypasses), 1U);
  w.unlock(ofd(1), kWholeFile);
  EXPECT_TRUE(ahead->waiting());
  w.unlock(ofd(3), kWholeFile);
  EXPECT_TRUE(ahead->granted());
}

TEST(Relent, NothingToDo) {
  World w;
  w.relent(1h);
  ASSERT_EQ(w.lock(ofd(1), kWholeFile, kX), 0);
  const AnswerPtr blocked = w.wait(ofd(2), kWholeFile, kX);
  w.relent(1h);
  EXPECT_EQ(w.place(blocked), Place::kBlocked);
  EXPECT_EQ(w.count(Counter::kBypasses), 0U);
}

// -- cancelling
// ----------------------------------------------------------------------------------------

TEST(Cancel, Blocked) {
  World w;
  ASSERT_EQ(w.lock(ofd(1), kWholeFile, kX), 0);
  const AnswerPtr answer = w.wait(ofd(2), kWholeFile, kX);
  w.cancel(answer);
  EXPECT_EQ(answer->error, EINTR);
  EXPECT_EQ(w.manager().ledger().waiters(), 0U);
  w.unlock(ofd(1), kWholeFile);
  EXPECT_EQ(w.held(ofd(2)), "nothing");
  w.cancel(answer);
  EXPECT_EQ(answer->completions, 1);
  EXPECT_EQ(w.count(Counter::kInterrupts), 1U);
}

TEST(Cancel, BlockedMakesWayForThoseBehind) {
  World w;
  ASSERT_EQ(w.lock(ofd(1), kWholeFile, kS), 0);
  const AnswerPtr writer = w.wait(ofd(2), kWholeFile, kX);
  const AnswerPtr reader = w.wait(ofd(3), {0, 9}, kS);
  const AnswerPtr other = w.wait(ofd(4), {0, 9}, kX);
  w.cancel(writer);
  EXPECT_EQ(writer->error, EINTR);
  EXPECT_TRUE(reader->granted());
  EXPECT_TRUE(other->waiting());
}

TEST(Cancel, BehindKeepsTheChain) {
  World w;
  ASSERT_EQ(w.lock(ofd(1), kWholeFile, kX), 0);
  const AnswerPtr a = w.wait(ofd(2), kWholeFile, kX);
  const AnswerPtr b = w.wait(ofd(3), kWholeFile, kX);
  const AnswerPtr c = w.wait(ofd(4), kWholeFile, kX);
  w.cancel(b, ETIMEDOUT);
  EXPECT_EQ(b->error, ETIMEDOUT);
  w.unlock(ofd(1), kWholeFile);
  EXPECT_TRUE(a->granted());
  EXPECT_TRUE(c->waiting());
  w.unlock(ofd(2), kWholeFile);
  EXPECT_TRUE(c->granted());
}

TEST(Cancel, BeforeItIsParked) {
  World w;
  ASSERT_EQ(w.lock(ofd(1), kWholeFile, kX), 0);
  const Request request{ofd(2), {}, kWholeFile, kX, true};
  Opened& opened = w.opened(2);
  const auto not_called = [](int) { FAIL(); };
  const Ticket early = w.manager().new_ticket();
  w.manager().cancel(early, EINTR);
  EXPECT_EQ(w.file().park(opened, request, early, not_called), EINTR);
  w.inspect();
  // What can be granted at once is granted all the same.
  w.unlock(ofd(1), kWholeFile);
  const Ticket granted = w.manager().new_ticket();
  w.manager().cancel(granted, EINTR);
  EXPECT_EQ(w.file().park(opened, request, granted, not_called), 0);
  w.manager().cancel(granted, EINTR);
  w.manager().cancel(12345, EINTR);
  w.inspect();
}

TEST(Cancel, KeepsWhatTheOwnerHas) {
  World w;
  ASSERT_EQ(w.lock(ofd(1), {0, 9}, kS), 0);
  ASSERT_EQ(w.lock(ofd(2), {0, 9}, kS), 0);
  const AnswerPtr upgrade = w.wait(ofd(1), {0, 9}, kX);
  w.cancel(upgrade);
  EXPECT_EQ(w.held(ofd(1)), "S[0,9] ");
}

TEST(ShutDown, EndsEveryWaitAndRefusesMore) {
  World w({}, 2);
  ASSERT_EQ(w.lock(ofd(1), kWholeFile, kX), 0);
  std::vector<AnswerPtr> answers;
  for (std::uint64_t n = 2; n < 6; ++n) answers.push_back(w.wait(ofd(n), kWholeFile, kX));
  w.use_file(1);
  ASSERT_EQ(w.lock(process(1), kWholeFile, kS), 0);
  answers.push_back(w.wait(process(2), kWholeFile, kX));
  w.manager().shut_down(ENOTCONN);
  w.inspect();
  for (const AnswerPtr& answer : answers) EXPECT_EQ(answer->error, ENOTCONN);
  EXPECT_EQ(w.wait(ofd(7), kWholeFile, kX)->error, ENOTCONN);
  // What need not wait still works, so that what is held can be let go.
  EXPECT_EQ(w.lock(process(1), kWholeFile, kX), 0);
  EXPECT_EQ(w.lock(ofd(7), kWholeFile, kX), EAGAIN);
}

// A request that is being parked while shut_down() runs is refused or ended, never left.
TEST(ShutDown, RacesWithParking) {
  for (int round = 0; round < 300; ++round) {
    LockManager manager({}, Policy{}, nullptr);
    auto file = manager.open_file({1, 1}, std::make_unique<NoBacking>());
    Opened holder(true, true);
    ASSERT_EQ(file->try_now(holder, {ofd(1), {}, kWholeFile, kX, false}), 0);
    std::atomic<bool> go{false};
    std::atomic<int> open_ends{0};
    std::vector<std::thread> threads;
    std::vector<std::unique_ptr<Opened>> opened;
    for (int t = 0; t < 2; ++t) opened.push_back(std::make_unique<Opened>(true, true));
    for (std::size_t t = 0; t < 2; ++t) {
      threads.emplace_back([&, t] {
        while (!go.load()) {
        }
        for (int i = 0; i < 3; ++i) {
          ++open_ends;
          const auto now = file->park(*opened[t], {ofd(10 + t), {}, kWholeFile, kX, true},
                                      manager.new_ticket(), [&](int error) {
                                        EXPECT_EQ(error, ENOTCONN);
                                        --open_ends;
                                      });
          if (!now) continue;
          EXPECT_EQ(*now, ENOTCONN);
          --open_ends;
        }
      });
    }
    std::thread closer([&] {
      while (!go.load()) {
      }
      for (int i = 0; i < round; ++i) std::atomic_signal_fence(std::memory_order_seq_cst);
      manager.shut_down(ENOTCONN);
    });
    go = true;
    for (std::thread& thread : threads) thread.join();
    closer.join();
    EXPECT_EQ(open_ends.load(), 0) << "round " << round;
    if (open_ends.load() != 0) manager.shut_down(ENOTCONN);
    for (const auto& o : opened) file->close(*o);
    file->close(holder);
  }
}

// -- closing
// -------------------------------------------------------------------------------------------

TEST(Close, DropsFlockAndOfdLocksOfTheOpenFile) {
  World w;
  ASSERT_EQ(w.lock(flock_of(1), kWholeFile, kS), 0);
  ASSERT_EQ(w.lock(ofd(1), {0, 9}, kX), 0);
  ASSERT_EQ(w.lock(ofd(2), {20, 29}, kS), 0);
  const AnswerPtr answer = w.wait(process(3), {0, 9}, kX);
  w.close(ofd(1));
  EXPECT_TRUE(answer->granted());
  EXPECT_EQ(w.held(ofd(1)), "nothing");
  EXPECT_EQ(w.held(flock_of(1)), "nothing");
  EXPECT_EQ(w.held(ofd(2)), "S[20,29] ");
}

TEST(Close, AnyCloseDropsTheLocksOfTheProcess) {
  World w;
  const OwnerId p = process(1);
  ASSERT_EQ(w.lock(p, {0, 9}, kX, {.via = 1}), 0);
  ASSERT_EQ(w.lock(p, {20, 29}, kX, {.via = 2}), 0);
  ASSERT_EQ(w.lock(ofd(1), {40, 49}, kX, {.via = 1}), 0);
  w.close_by_process(p);
  EXPECT_EQ(w.held(p), "nothing");
  EXPECT_EQ(w.held(ofd(1)), "X[40,49] ");
  w.close_by_process(p);
  w.close_by_process(process(9));
}

TEST(Close, LocksTakenAfterACloseBelongToTheOtherOpenFile) {
  World w;
  const OwnerId p = process(1);
  ASSERT_EQ(w.lock(p, {0, 9}, kX, {.via = 1}), 0);
  // close() of the first descriptor: FLUSH now, RELEASE some time later.
  w.close_by_process(p);
  ASSERT_EQ(w.lock(p, {0, 9}, kX, {.via = 2}), 0);
  w.close(1);
  EXPECT_EQ(w.held(p), "X[0,9] ");
  w.close_by_process(p);
  w.close(2);
  EXPECT_EQ(w.held(p), "nothing");
}

TEST(Close, ReusedCookieInheritsNothing) {
  World w;
  for (const OwnerId& owner : {ofd(1), flock_of(1)}) {
    ASSERT_EQ(w.lock(owner, {0, 9}, kX), 0);
    w.close(1);
    EXPECT_EQ(w.held(owner), "nothing");
    ASSERT_EQ(w.lock(owner, {20, 29}, kS), 0);
    EXPECT_EQ(w.held(owner), "S[20,29] ");
    w.close(1);
  }
  const OwnerId p = process(1);
  ASSERT_EQ(w.lock(p, {0, 9}, kX, {.via = 1, .uid = 5}), 0);
  w.close_by_process(p);
  ASSERT_EQ(w.lock(p, {0, 9}, kX, {.via = 2, .uid = 6}), 0);
  w.close(1);
  EXPECT_EQ(w.held(p), "X[0,9] ");
}

TEST(Close, OwnerWhoStillWaitsIsKept) {
  World w;
  const OwnerId p = process(1);
  ASSERT_EQ(w.lock(ofd(5), {0, 9}, kX), 0);
  ASSERT_EQ(w.lock(p, {20, 29}, kX, {.via = 1}), 0);
  const AnswerPtr answer = w.wait(p, {0, 9}, kX, {.via = 2});
  w.close_by_process(p);
  EXPECT_EQ(w.held(p), "nothing");
  w.close(1);
  EXPECT_TRUE(answer->waiting());
  w.unlock(ofd(5), kWholeFile);
  EXPECT_TRUE(answer->granted());
  w.close(2);
  EXPECT_EQ(w.held(p), "nothing");
}

TEST(Close, WaiterOfTheProcessIsCancelledAfterAClose) {
  World w;
  const OwnerId p = process(1);
  ASSERT_EQ(w.lock(ofd(5), {0, 9}, kX), 0);
  const AnswerPtr answer = w.wait(p, {0, 9}, kX, {.via = 2});
  w.close_by_process(p);
  w.cancel(answer);
  EXPECT_EQ(answer->error, EINTR);
}

TEST(Close, EndsItsOwnWaits) {
  World w;
  ASSERT_EQ(w.lock(ofd(1), kWholeFile, kX), 0);
  const AnswerPtr a = w.wait(ofd(2), kWholeFile, kX);
  const AnswerPtr b = w.wait(flock_of(2), {0, 9}, kS);
  const AnswerPtr c = w.wait(ofd(3), kWholeFile, kX);
  w.close(2);
  EXPECT_EQ(a->error, EBADF);
  EXPECT_EQ(b->error, EBADF);
  EXPECT_TRUE(c->waiting());
  w.unlock(ofd(1), kWholeFile);
  EXPECT_TRUE(c->granted());
}

TEST(Close, EndsAWaitForAnOutsider) {
  World w;
  ASSERT_EQ(w.backing().outsider_set(1, {0, 9}, kX), 0);
  const AnswerPtr a = w.wait(ofd(2), kWholeFile, kX);
  const AnswerPtr b = w.wait(ofd(3), {20, 29}, kX);
  EXPECT_EQ(w.place(a), Place::kOutside);
  w.close(2);
  EXPECT_EQ(a->error, EBADF);
  w.deliver();
  EXPECT_TRUE(b->granted());
  EXPECT_TRUE(w.backing().under_way().empty());
}

TEST(Close, ManyOwnersThroughOneOpenFile) {
  World w;
  for (std::uint64_t n = 0; n < 50; ++n) {
    const auto at = static_cast<Offset>(n);
    ASSERT_EQ(w.lock(process(n), {at, at}, kX, {.via = 1}), 0);
  }
  for (std::uint64_t n = 0; n < 50; n += 2) w.close_by_process(process(n));
  EXPECT_EQ(w.file().locks().size(), 25U);
  w.close(1);
  EXPECT_TRUE(w.file().quiet());
}

TEST(Close, QuietTellsWhatIsLeft) {
  World w;
  EXPECT_TRUE(w.file().quiet());
  ASSERT_EQ(w.lock(ofd(1), kWholeFile, kX), 0);
  EXPECT_FALSE(w.file().quiet());
  const AnswerPtr answer = w.wait(ofd(2), kWholeFile, kX);
  w.close(1);
  EXPECT_FALSE(w.file().quiet());
  w.close(2);
  EXPECT_TRUE(w.file().quiet());
}

TEST(Close, LockUnlockLoopsLeaveNothing) {
  World w;
  for (std::uint64_t n = 0; n < 200; ++n) {
    ASSERT_EQ(w.lock(process(n), {0, 9}, kX, {.via = 1, .uid = static_cast<uid_t>(n % 3)}), 0);
    ASSERT_EQ(w.unlock(process(n), kWholeFile), 0);
  }
  EXPECT_EQ(w.manager().ledger().locks(), 0U);
  w.close(1);
}

// -- deadlocks
// -----------------------------------------------------------------------------------------

TEST(Deadlock, OfAnyLengthOverAsManyFiles) {
  for (int length = 2; length <= 6; ++length) {
    World w({}, length);
    for (int i = 0; i < length; ++i) {
      w.use_file(i);
      ASSERT_EQ(w.lock(process(static_cast<std::uint64_t>(i)), {0, 9}, kX), 0);
    }
    std::vector<AnswerPtr> answers;
    for (int i = 0; i < length - 1; ++i) {
      w.use_file(i + 1);
      answers.push_back(w.wait(process(static_cast<std::uint64_t>(i)), {5, 5}, kS));
      EXPECT_TRUE(answers.back()->waiting());
    }
    w.use_file(0);
    const OwnerId last = process(static_cast<std::uint64_t>(length - 1));
    EXPECT_EQ(w.wait(last, kWholeFile, kX)->error, EDEADLK);
    EXPECT_EQ(w.count(Counter::kDeadlocks), 1U);
    ASSERT_EQ(w.notes().cycles.size(), 1U);
    EXPECT_EQ(w.notes().cycles[0].size(), static_cast<std::size_t>(length));
    EXPECT_EQ(w.notes().cycles[0].back(), last.cookie);
    // Without waiting it is a plain conflict.
    EXPECT_EQ(w.lock(last, kWholeFile, kX), EAGAIN);
    // Once somebody gives up there is no cycle any more.
    w.cancel(answers[0]);
    const AnswerPtr again = w.wait(last, kWholeFile, kX);
    EXPECT_TRUE(again->waiting());
  }
}

TEST(Deadlock, OnOneFile) {
  World w;
  ASSERT_EQ(w.lock(process(1), {0, 0}, kX), 0);
  ASSERT_EQ(w.lock(process(2), {1, 1}, kX), 0);
  ASSERT_EQ(w.lock(process(3), {2, 2}, kX), 0);
  EXPECT_TRUE(w.wait(process(1), {1, 1}, kX)->waiting());
  EXPECT_TRUE(w.wait(process(2), {2, 2}, kX)->waiting());
  EXPECT_EQ(w.wait(process(3), {0, 0}, kX)->error, EDEADLK);
  EXPECT_TRUE(w.wait(process(4), {0, 2}, kX)->waiting());
}

TEST(Deadlock, TwoUpgrades) {
  World w;
  ASSERT_EQ(w.lock(process(1), kWholeFile, kS), 0);
  ASSERT_EQ(w.lock(process(2), kWholeFile, kS), 0);
  const AnswerPtr first = w.wait(process(1), kWholeFile, kX);
  EXPECT_TRUE(first->waiting());
  EXPECT_EQ(w.wait(process(2), kWholeFile, kX)->error, EDEADLK);
  EXPECT_EQ(w.held(process(2)), "S[0,EOF] ");
  w.unlock(process(2), kWholeFile);
  EXPECT_TRUE(first->granted());
}

TEST(Deadlock, ThroughAnyThreadOfAProcess) {
  World w({}, 3);
  ASSERT_EQ(w.lock(process(1), kWholeFile, kX), 0);
  w.use_file(1);
  ASSERT_EQ(w.lock(process(2), kWholeFile, kX), 0);
  w.use_file(2);
  ASSERT_EQ(w.lock(process(3), kWholeFile, kX), 0);
  // Two threads of process 1 wait, for processes 3 and 2.
  EXPECT_TRUE(w.wait(process(1), kWholeFile, kX, {.tid = 11})->waiting());
  w.use_file(1);
  EXPECT_TRUE(w.wait(process(1), kWholeFile, kX, {.tid = 12})->waiting());
  w.use_file(0);
  EXPECT_EQ(w.wait(process(2), kWholeFile, kX)->error, EDEADLK);
  EXPECT_EQ(w.wait(process(3), kWholeFile, kX)->error, EDEADLK);
}

TEST(Deadlock, OpenFilesTakeNoPart) {
  for (const auto& [a, b] : {std::pair{ofd(1), ofd(2)}, std::pair{flock_of(1), flock_of(2)},
                             std::pair{process(1), ofd(2)}, std::pair{flock_of(1), process(2)}}) {
    World w({}, 2);
    ASSERT_EQ(w.lock(a, kWholeFile, kX), 0);
    w.use_file(1);
    ASSERT_EQ(w.lock(b, kWholeFile, kX), 0);
    EXPECT_TRUE(w.wait(a, kWholeFile, kX)->waiting());
    w.use_file(0);
    EXPECT_TRUE(w.wait(b, kWholeFile, kX)->waiting());
    EXPECT_EQ(w.count(Counter::kDeadlocks), 0U);
  }
}

TEST(Deadlock, NotWhereTheChainCrossesAnOpenFile) {
  World w({}, 3);
  ASSERT_EQ(w.lock(process(1), kWholeFile, kX), 0);
  w.use_file(1);
  ASSERT_EQ(w.lock(ofd(2), kWholeFile, kX), 0);
  EXPECT_TRUE(w.wait(process(1), kWholeFile, kX)->waiting());
  w.use_file(0);
  EXPECT_TRUE(w.wait(ofd(2), kWholeFile, kX)->waiting());
  EXPECT_TRUE(w.wait(process(3), kWholeFile, kX)->waiting());
}

// Waiting behind another waiter is no deadlock: relent() dissolves it.
TEST(Deadlock, CycleThroughTheQueueDissolves) {
  World w({}, 2);
  ASSERT_EQ(w.lock(process(1), {0, 9}, kX), 0);
  w.use_file(1);
  ASSERT_EQ(w.lock(process(2), kWholeFile, kX), 0);
  w.use_file(0);
  const AnswerPtr ahead = w.wait(process(3), {0, 19}, kX);    // for process 1
  const AnswerPtr behind = w.wait(process(2), {10, 19}, kX);  // behind process 3
  w.use_file(1);
  const AnswerPtr last = w.wait(process(1), kWholeFile, kX);  // for process 2
  EXPECT_TRUE(ahead->waiting());
  EXPECT_TRUE(behind->waiting());
  EXPECT_TRUE(last->waiting());
  w.relent(1h);
  EXPECT_TRUE(behind->granted());
}

// -- limits
// --------------------------------------------------------------------------------------------

TEST(Limits, PerOwnerIsExactAndNamed) {
  Limits limits;
  limits.locks_per_owner = 3;
  World w(limits);
  const OwnerId a = process(1);
  for (Offset at = 0; at < 30; at += 10) ASSERT_EQ(w.lock(a, {at, at + 3}, kX), 0);
  EXPECT_EQ(w.lock(a, {50, 59}, kX), ENOLCK);
  ASSERT_EQ(w.notes().limits.size(), 1U);
  EXPECT_EQ(w.notes().limits[0], (std::pair{Limit::kLocksPerOwner, std::uint64_t{3}}));
  EXPECT_EQ(w.notes().last_refused.owner, a);
  EXPECT_EQ(w.count(Counter::kLimits), 1U);
  EXPECT_EQ(w.held(a), "X[0,3] X[10,13] X[20,23] ");
  // What adds none is granted at the limit: a repeat, an extension, a change of mode, a merge.
  EXPECT_EQ(w.lock(a, {0, 3}, kX), 0);
  EXPECT_EQ(w.lock(a, {0, 4}, kX), 0);
  EXPECT_EQ(w.lock(a, {20, 23}, kS), 0);
  EXPECT_EQ(w.lock(a, {11, 12}, kS), ENOLCK);
  EXPECT_EQ(w.lock(a, {13, 13}, kS), ENOLCK);
  EXPECT_EQ(w.lock(a, {0, 13}, kX), 0);
  EXPECT_EQ(w.lock(a, {50, 59}, kX), 0);
  EXPECT_EQ(w.held(a), "X[0,13] S[20,23] X[50,59] ");
  EXPECT_EQ(w.lock(ofd(2), {60, 69}, kX), 0);
  // An unlock is never refused, even one that splits.
  EXPECT_EQ(w.unlock(a, {5, 6}), 0);
  EXPECT_EQ(w.held(a), "X[0,4] X[7,13] S[20,23] X[50,59] ");
  EXPECT_EQ(w.lock(a, {5, 6}, kX), 0);
}

TEST(Limits, PerUserAndInAll) {
  Limits limits;
  limits.locks_per_user = 3;
  limits.locks = 4;
  World w(limits, 2);
  ASSERT_EQ(w.lock(ofd(1), {0, 0}, kX, {.uid = 1}), 0);
  ASSERT_EQ(w.lock(ofd(2), {1, 1}, kX, {.uid = 1}), 0);
  w.use_file(1);
  ASSERT_EQ(w.lock(ofd(1), {0, 0}, kX, {.uid = 1}), 0);
  EXPECT_EQ(w.lock(ofd(2), {1, 1}, kX, {.uid = 1}), ENOLCK);
  ASSERT_EQ(w.lock(ofd(3), {2, 2}, kX, {.uid = 2}), 0);
  EXPECT_EQ(w.lock(ofd(3), {9, 9}, kX, {.uid = 2}), ENOLCK);
  ASSERT_EQ(w.notes().limits.size(), 2U);
  EXPECT_EQ(w.notes().limits[0], (std::pair{Limit::kLocksPerUser, std::uint64_t{3}}));
  EXPECT_EQ(w.notes().limits[1], (std::pair{Limit::kLocks, std::uint64_t{4}}));
  w.close(1);
  EXPECT_EQ(w.lock(ofd(3), {9, 9}, kX, {.uid = 2}), 0);
}

TEST(Limits, AConflictIsNamedBeforeALimit) {
  Limits limits;
  limits.locks = 1;
  World w(limits);
  ASSERT_EQ(w.lock(ofd(1), kWholeFile, kX), 0);
  EXPECT_EQ(w.lock(ofd(2), kWholeFile, kX), EAGAIN);
}

TEST(Limits, Waiters) {
  Limits limits;
  limits.waiters = 3;
  limits.waiters_per_user = 2;
  World w(limits);
  ASSERT_EQ(w.lock(ofd(1), kWholeFile, kX), 0);
  const AnswerPtr a = w.wait(ofd(2), kWholeFile, kX, {.uid = 1});
  const AnswerPtr b = w.wait(ofd(3), kWholeFile, kX, {.uid = 1});
  EXPECT_EQ(w.wait(ofd(4), kWholeFile, kX, {.uid = 1})->error, ENOLCK);
  const AnswerPtr c = w.wait(ofd(4), kWholeFile, kX, {.uid = 2});
  EXPECT_EQ(w.wait(ofd(5), kWholeFile, kX, {.uid = 3})->error, ENOLCK);
  ASSERT_EQ(w.notes().limits.size(), 2U);
  EXPECT_EQ(w.notes().limits[0], (std::pair{Limit::kWaitersPerUser, std::uint64_t{2}}));
  EXPECT_EQ(w.notes().limits[1], (std::pair{Limit::kWaiters, std::uint64_t{3}}));
  w.cancel(a);
  EXPECT_TRUE(w.wait(ofd(5), kWholeFile, kX, {.uid = 3})->waiting());
}

TEST(Limits, ReachedWhileWaiting) {
  Limits limits;
  limits.locks = 2;
  World w(limits);
  ASSERT_EQ(w.lock(ofd(1), {0, 9}, kX), 0);
  const AnswerPtr a = w.wait(ofd(2), {0, 4}, kX);
  const AnswerPtr b = w.wait(ofd(3), {5, 9}, kX);
  ASSERT_EQ(w.lock(ofd(4), {20, 20}, kX), 0);
  w.unlock(ofd(1), kWholeFile);
  EXPECT_TRUE(a->granted());
  EXPECT_EQ(b->error, ENOLCK);
}

TEST(Limits, TheUserWhoTakesOverAnIdleOpenFileIsCharged) {
  Limits limits;
  limits.locks_per_user = 1;
  World w(limits);
  ASSERT_EQ(w.lock(ofd(1), {0, 0}, kX, {.uid = 1}), 0);
  w.unlock(ofd(1), kWholeFile);
  ASSERT_EQ(w.lock(ofd(1), {0, 0}, kX, {.uid = 2}), 0);
  EXPECT_EQ(w.lock(ofd(2), {1, 1}, kX, {.uid = 1}), 0);
  EXPECT_EQ(w.lock(ofd(3), {2, 2}, kX, {.uid = 2}), ENOLCK);
}

// -- reports
// -------------------------------------------------------------------------------------------

TEST(Reports, LocksAndWaiters) {
  World w;
  ASSERT_EQ(w.lock(ofd(1), {20, 29}, kX, {.tid = 5, .uid = 6}), 0);
  ASSERT_EQ(w.lock(process(2), {0, 9}, kS), 0);
  const AnswerPtr a = w.wait(ofd(3), kWholeFile, kX);
  const AnswerPtr b = w.wait(flock_of(4), {0, 9}, kS);
  const auto locks = w.file().locks();
  ASSERT_EQ(locks.size(), 2U);
  EXPECT_EQ(locks[0].owner, process(2));
  EXPECT_EQ(locks[0].mode, kS);
  EXPECT_EQ(locks[1].owner, ofd(1));
  EXPECT_EQ(locks[1].range, (Range{20, 29}));
  EXPECT_EQ(locks[1].caller.tid, 5);
  EXPECT_EQ(locks[1].caller.uid, 6U);
  const auto waiters = w.file().waiters();
  ASSERT_EQ(waiters.size(), 2U);
  EXPECT_EQ(waiters[0].ticket, a->ticket);
  EXPECT_EQ(waiters[0].place, Place::kBlocked);
  EXPECT_EQ(waiters[1].ticket, b->ticket);
  EXPECT_EQ(waiters[1].place, Place::kBehind);
  ASSERT_EQ(w.manager().files().size(), 1U);
}

TEST(Reports, FilesAreForgotten) {
  LockManager manager({}, Policy{}, nullptr);
  {
    auto a = manager.open_file({1, 1}, std::make_unique<NoBacking>());
    auto b = manager.open_file({1, 2}, std::make_unique<NoBacking>());
    EXPECT_EQ(manager.files().size(), 2U);
    b.reset();
    EXPECT_EQ(manager.files().size(), 1U);
  }
  EXPECT_TRUE(manager.files().empty());
}

// A completion may use the manager: it is called with nothing locked.
TEST(Completion, MayAskForMore) {
  LockManager manager({}, Policy{}, nullptr);
  auto file = manager.open_file({1, 1}, std::make_unique<NoBacking>());
  Opened a(true, true);
  Opened b(true, true);
  ASSERT_EQ(file->try_now(a, {ofd(1), {}, kWholeFile, kX, false}), 0);
  int calls = 0;
  const Request wanted{ofd(2), {}, kWholeFile, kX, true};
  ASSERT_FALSE(file->park(b, wanted, manager.new_ticket(), [&](int error) {
    EXPECT_EQ(error, 0);
    ++calls;
    EXPECT_EQ(file->try_now(b, {ofd(2), {}, kWholeFile, kU, false}), 0);
  }));
  ASSERT_EQ(file->try_now(a, {ofd(1), {}, kWholeFile, kU, false}), 0);
  EXPECT_EQ(calls, 1);
  file->close(a);
  file->close(b);
  EXPECT_TRUE(file->quiet());
}

}  // namespace
}  // namespace lockmgr
