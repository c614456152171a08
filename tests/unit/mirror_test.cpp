// What the backing carries, and how waits for outsiders begin and end.
#include <gtest/gtest.h>

#include <cerrno>
#include <chrono>
#include <string>
#include <vector>

#include "tests/unit/world.h"

namespace lockmgr {
namespace {

using namespace std::chrono_literals;
using namespace testing;  // NOLINT(google-build-using-namespace): the vocabulary of these tests
using Place = Waiter::Place;

constexpr FakeBacking::Who kOne = 1;
constexpr FakeBacking::Who kTwo = 2;

std::string carried(World& w) { return to_text(w.backing().held()); }

// -- the union
// -----------------------------------------------------------------------------------------

TEST(Union, RisesAndFallsWithWhatIsGranted) {
  World w;
  ASSERT_EQ(w.lock(ofd(1), {0, 9}, kS), 0);
  ASSERT_EQ(w.lock(process(2), {5, 14}, kS), 0);
  EXPECT_EQ(carried(w), "S[0,14] ");
  ASSERT_EQ(w.lock(flock_of(3), kWholeFile, kS), 0);
  EXPECT_EQ(carried(w), "S[0,EOF] ");
  w.unlock(ofd(1), kWholeFile);
  EXPECT_EQ(carried(w), "S[0,EOF] ");
  w.close(flock_of(3));
  EXPECT_EQ(carried(w), "S[5,14] ");
  ASSERT_EQ(w.lock(process(2), {10, 12}, kX), 0);
  EXPECT_EQ(carried(w), "S[5,9] X[10,12] S[13,14] ");
  ASSERT_EQ(w.lock(process(2), {8, 11}, kS), 0);
  EXPECT_EQ(carried(w), "S[5,11] X[12,12] S[13,14] ");
  w.close_by_process(process(2));
  EXPECT_EQ(carried(w), "nothing");
}

TEST(Union, NoCallForWhatIsCarriedAlready) {
  World w;
  ASSERT_EQ(w.lock(flock_of(1), kWholeFile, kS), 0);
  const auto calls = w.backing().sets();
  for (std::uint64_t n = 2; n < 20; ++n) ASSERT_EQ(w.lock(flock_of(n), kWholeFile, kS), 0);
  for (std::uint64_t n = 2; n < 20; ++n) w.unlock(flock_of(n), kWholeFile);
  ASSERT_EQ(w.lock(ofd(3), {10, 19}, kS), 0);
  w.unlock(ofd(3), kWholeFile);
  EXPECT_EQ(w.backing().sets(), calls);
}

TEST(Union, ManyPiecesAreDroppedInOneCall) {
  World w;
  for (Offset at = 0; at < 100; at += 2) ASSERT_EQ(w.lock(ofd(1), {at, at}, kX), 0);
  const auto calls = w.backing().sets();
  w.close(1);
  EXPECT_EQ(w.backing().sets(), calls + 1);
  EXPECT_EQ(carried(w), "nothing");
}

TEST(Union, ReleaseBesideOthersLeavesTheirs) {
  World w;
  ASSERT_EQ(w.lock(ofd(1), {0, 99}, kS), 0);
  ASSERT_EQ(w.lock(ofd(2), {10, 19}, kS), 0);
  ASSERT_EQ(w.lock(ofd(3), {30, 39}, kS), 0);
  ASSERT_EQ(w.lock(ofd(1), {50, 59}, kX), 0);
  w.close(1);
  EXPECT_EQ(carried(w), "S[10,19] S[30,39] ");
}

TEST(Union, ExemptOwnersAddUp) {
  World w;
  ASSERT_EQ(w.lock(flock_of(1), kWholeFile, kX), 0);
  ASSERT_EQ(w.lock(ofd(1), {10, 19}, kX), 0);
  ASSERT_EQ(w.lock(flock_of(1), kWholeFile, kS), 0);
  EXPECT_EQ(carried(w), "S[0,9] X[10,19] S[20,EOF] ");
  ASSERT_EQ(w.lock(ofd(1), {0, 14}, kS), 0);
  EXPECT_EQ(carried(w), "S[0,14] X[15,19] S[20,EOF] ");
  w.unlock(flock_of(1), kWholeFile);
  EXPECT_EQ(carried(w), "S[0,14] X[15,19] ");
}

TEST(Union, RestartedBackingIsToldEverything) {
  World w;
  ASSERT_EQ(w.lock(ofd(1), {0, 9}, kS), 0);
  ASSERT_EQ(w.lock(ofd(2), {5, 14}, kS), 0);
  ASSERT_EQ(w.lock(process(3), {20, kEof}, kX), 0);
  w.backing().restart_next = true;
  ASSERT_EQ(w.lock(ofd(4), {16, 17}, kX), 0);
  EXPECT_FALSE(w.backing().restart_next);
  EXPECT_EQ(carried(w), "S[0,14] X[16,17] X[20,EOF] ");
}

// -- outsiders and requests that do not wait
// --------------------------------------------------------------

TEST(Outsider, RefusesAtOnce) {
  World w;
  ASSERT_EQ(w.backing().outsider_set(kOne, {10, 19}, kS), 0);
  EXPECT_EQ(w.lock(ofd(1), {0, 29}, kX), EAGAIN);
  EXPECT_EQ(w.lock(ofd(1), {0, 29}, kS), 0);
  EXPECT_EQ(w.lock(ofd(1), {15, 40}, kX), EAGAIN);
  EXPECT_EQ(w.held(ofd(1)), "S[0,29] ");
  EXPECT_EQ(w.lock(ofd(1), {20, 40}, kX), 0);
  EXPECT_EQ(w.backing().outsider_set(kTwo, {30, 30}, kS), EAGAIN);
  EXPECT_EQ(w.backing().outsider_set(kTwo, {0, 5}, kS), 0);
}

TEST(Outsider, SeesTheUnionOnly) {
  World w;
  ASSERT_EQ(w.lock(ofd(1), {0, 9}, kS), 0);
  ASSERT_EQ(w.lock(ofd(2), {5, 14}, kS), 0);
  EXPECT_EQ(w.backing().outsider_set(kOne, {0, 14}, kX), EAGAIN);
  w.unlock(ofd(1), kWholeFile);
  EXPECT_EQ(w.backing().outsider_set(kOne, {0, 4}, kX), 0);
  EXPECT_EQ(w.backing().outsider_set(kOne, {5, 5}, kX), EAGAIN);
}

// A shared lock beside an exclusive one of the same open file's flock takes several calls. When one
// is refused, what the owner had must still be carried, though it gives up an exclusive lock.
TEST(Outsider, RefusalInTheMiddleLeavesEverythingAsItWas) {
  World w;
  ASSERT_EQ(w.lock(ofd(1), {0, 9}, kX), 0);
  ASSERT_EQ(w.lock(flock_of(1), {20, 29}, kX), 0);
  ASSERT_EQ(w.backing().outsider_set(kOne, {40, 49}, kX), 0);
  // An outsider's reader slips in as soon as the first part is shared.
  ASSERT_FALSE(w.backing().outsider_wait(kTwo, {0, 9}, kS));
  EXPECT_EQ(w.lock(ofd(1), {0, 49}, kS), EAGAIN);
  EXPECT_EQ(w.held(ofd(1)), "X[0,9] ");
  EXPECT_EQ(carried(w), "X[0,9] X[20,29] ");
}

// -- waiting for outsiders
// ---------------------------------------------------------------------------------

TEST(OutsideWait, GrantedWhenTheOutsiderLeaves) {
  for (const OwnerId& owner : {process(1), ofd(1), flock_of(1)}) {
    World w;
    ASSERT_EQ(w.backing().outsider_set(kOne, {10, 19}, kX), 0);
    const AnswerPtr answer = w.wait(owner, {0, 29}, kX);
    EXPECT_EQ(w.place(answer), Place::kOutside);
    EXPECT_EQ(w.manager().outside_waits(), 1U);
    w.backing().outsider_leaves(kOne);
    EXPECT_TRUE(answer->waiting());
    const auto calls = w.backing().sets();
    w.deliver();
    EXPECT_TRUE(answer->granted());
    EXPECT_EQ(w.backing().sets(), calls) << "the wait took the lock, no call is needed";
    EXPECT_EQ(carried(w), "X[0,29] ");
    EXPECT_EQ(w.manager().outside_waits(), 0U);
  }
}

// Asking the backing costs a system call, or a round trip: what was refused is not asked again.
TEST(OutsideWait, ARequestThatHasToWaitAsksTheBackingTwice) {
  for (const OwnerId& owner : {process(1), ofd(1), flock_of(1)}) {
    for (const Mode mode : {kS, kX}) {
      World w;
      ASSERT_EQ(w.backing().outsider_set(kOne, {10, 19}, kX), 0);
      const AnswerPtr answer = w.wait(owner, {0, 29}, mode);
      EXPECT_EQ(w.place(answer), Place::kOutside);
      EXPECT_EQ(w.backing().sets(), 1U) << "one that is refused";
      EXPECT_EQ(w.backing().waits(), 1U);
      EXPECT_EQ(w.count(Counter::kBackingCalls), 1U);
    }
  }
}

TEST(OutsideWait, ARequestThatAsksWithoutWaitingBeforehandDoesTheSame) {
  World w;
  ASSERT_EQ(w.backing().outsider_set(kOne, {10, 19}, kX), 0);
  const Ticket ticket = w.manager().new_ticket();
  std::optional<int> ended;
  EXPECT_EQ(w.file().park(w.opened(1), {ofd(1), {}, {0, 29}, kX, true}, ticket,
                          [&ended](int error) { ended = error; }),
            std::nullopt);
  EXPECT_EQ(w.backing().sets(), 1U);
  EXPECT_EQ(w.backing().waits(), 1U);
  w.manager().cancel(ticket, EINTR);
  w.deliver();
  EXPECT_EQ(ended, EINTR);
}

// What was refused is no longer so by the time the request is parked: the wait finds out.
TEST(OutsideWait, AnOutsiderThatLeavesBeforeTheRequestIsParked) {
  World w;
  ASSERT_EQ(w.backing().outsider_set(kOne, {10, 19}, kX), 0);
  const Request request{ofd(1), {}, {0, 29}, kX, true};
  Refusal refusal = Refusal::kNone;
  ASSERT_EQ(w.file().try_now(w.opened(1), request, &refusal), std::nullopt);
  EXPECT_EQ(refusal, Refusal::kLock);
  w.backing().outsider_leaves(kOne);
  std::optional<int> ended;
  ASSERT_EQ(w.file().park(
                w.opened(1), request, w.manager().new_ticket(),
                [&ended](int error) { ended = error; }, refusal),
            std::nullopt);
  w.deliver();
  EXPECT_EQ(ended, 0);
  EXPECT_EQ(carried(w), "X[0,29] ");
}

// Nor does the refusal keep a request waiting that something of the mount stands in the way of now.
TEST(OutsideWait, ALockOfTheMountThatComesBeforeTheRequestIsParked) {
  World w;
  ASSERT_EQ(w.backing().outsider_set(kOne, {10, 19}, kX), 0);
  const Request request{ofd(1), {}, {0, 29}, kX, true};
  Refusal refusal = Refusal::kNone;
  ASSERT_EQ(w.file().try_now(w.opened(1), request, &refusal), std::nullopt);
  ASSERT_EQ(w.lock(ofd(2), {0, 5}, kS), 0);
  const Ticket ticket = w.manager().new_ticket();
  ASSERT_EQ(w.file().park(
                w.opened(1), request, ticket, [](int) {}, refusal),
            std::nullopt);
  EXPECT_EQ(w.file().waiters().front().place, Place::kBlocked);
  EXPECT_EQ(w.backing().waits(), 0U);
  w.manager().cancel(ticket, EINTR);
}

TEST(OutsideWait, NobodyPolls) {
  World w;
  ASSERT_EQ(w.backing().outsider_set(kOne, kWholeFile, kX), 0);
  std::vector<AnswerPtr> answers;
  for (std::uint64_t n = 1; n < 10; ++n) answers.push_back(w.wait(ofd(n), kWholeFile, kX));
  EXPECT_EQ(w.backing().waits(), 1U);
  const auto calls = w.backing().sets();
  w.backing().outsider_leaves(kOne);
  w.deliver();
  EXPECT_EQ(w.backing().sets(), calls);
  EXPECT_TRUE(answers[0]->granted());
  EXPECT_TRUE(answers[1]->waiting());
}

TEST(OutsideWait, IdenticalSharedWaitersShareOne) {
  World w;
  ASSERT_EQ(w.backing().outsider_set(kOne, {0, 9}, kX), 0);
  std::vector<AnswerPtr> answers;
  for (std::uint64_t n = 1; n <= 20; ++n) answers.push_back(w.wait(flock_of(n), kWholeFile, kS));
  const AnswerPtr other = w.wait(ofd(30), {0, 19}, kS);
  EXPECT_EQ(w.backing().waits(), 2U);
  EXPECT_EQ(w.manager().outside_waits(), 2U);
  w.cancel(answers[0]);
  EXPECT_EQ(w.backing().recalls(), 0U);
  w.backing().outsider_leaves(kOne);
  w.deliver();
  EXPECT_EQ(answers[0]->error, EINTR);
  for (std::size_t i = 1; i < answers.size(); ++i) EXPECT_TRUE(answers[i]->granted());
  EXPECT_TRUE(other->granted());
}

TEST(OutsideWait, DifferentRangesEndInAnyOrder) {
  for (const bool reverse : {false, true}) {
    World w;
    ASSERT_EQ(w.backing().outsider_set(kOne, kWholeFile, kX), 0);
    const AnswerPtr a = w.wait(ofd(1), {0, 9}, kX);
    const AnswerPtr b = w.wait(ofd(2), {20, 29}, kX);
    const AnswerPtr c = w.wait(ofd(3), {40, 49}, kS);
    w.backing().outsider_leaves(kOne);
    EXPECT_EQ(w.backing().due(), 3U);
    w.backing().deliver(reverse ? 2 : 0);
    w.inspect();
    w.backing().deliver(reverse ? 1 : 0);
    w.inspect();
    w.backing().deliver();
    w.inspect();
    EXPECT_TRUE(a->granted() && b->granted() && c->granted());
  }
}

TEST(OutsideWait, OverlappingSharedWaits) {
  for (const std::size_t first : {0U, 1U}) {
    World w;
    ASSERT_EQ(w.backing().outsider_set(kOne, kWholeFile, kX), 0);
    const AnswerPtr a = w.wait(ofd(1), {0, 19}, kS);
    const AnswerPtr b = w.wait(ofd(2), {10, 29}, kS);
    w.backing().outsider_leaves(kOne);
    ASSERT_EQ(w.backing().due(), 2U);
    // One is cancelled after its lock was taken; setting that right disturbs the other.
    w.cancel(first == 0 ? a : b);
    w.backing().deliver(first);
    w.inspect();
    w.deliver();
    EXPECT_TRUE((first == 0 ? b : a)->granted());
    EXPECT_EQ(carried(w), first == 0 ? "S[10,29] " : "S[0,19] ");
  }
}

TEST(OutsideWait, CancelRecallsIt) {
  World w;
  ASSERT_EQ(w.backing().outsider_set(kOne, {0, 9}, kX), 0);
  const AnswerPtr answer = w.wait(ofd(1), kWholeFile, kX);
  w.cancel(answer);
  EXPECT_EQ(w.backing().recalls(), 1U);
  EXPECT_FALSE(w.file().quiet());
  w.deliver();
  EXPECT_EQ(answer->error, EINTR);
  EXPECT_TRUE(w.file().quiet());
  EXPECT_EQ(carried(w), "nothing");
}

// Whoever is told that it waits no more can rely on it that an outsider finds nothing of the wait.
TEST(OutsideWait, WhoGivesUpIsAnsweredOnceNothingIsLeftBehind) {
  World w;
  w.backing().lazy_recalls = true;
  ASSERT_EQ(w.backing().outsider_set(kOne, {0, 9}, kX), 0);
  const AnswerPtr one = w.wait(ofd(1), kWholeFile, kS);
  const AnswerPtr two = w.wait(ofd(2), kWholeFile, kS);
  w.cancel(one);
  EXPECT_EQ(one->error, EINTR) << "the wait goes on for another";
  w.cancel(two);
  EXPECT_TRUE(two->waiting());
  EXPECT_EQ(w.manager().ledger().waiters(), 0U);
  EXPECT_TRUE(w.manager().has_queued()) << "nobody would come back to it";
  w.backing().outsider_leaves(kOne);
  EXPECT_EQ(carried(w), "S[0,EOF] ");
  w.deliver();
  EXPECT_EQ(two->error, EINTR);
  EXPECT_EQ(carried(w), "nothing");
  EXPECT_FALSE(w.manager().has_queued());
}

TEST(OutsideWait, WhoGivesUpDoesNotWaitForASilentBacking) {
  World w;
  w.backing().lazy_recalls = true;
  ASSERT_EQ(w.backing().outsider_set(kOne, {0, 9}, kX), 0);
  const AnswerPtr answer = w.wait(ofd(1), kWholeFile, kX);
  w.cancel(answer);
  w.relent(100ms);
  EXPECT_TRUE(answer->waiting());
  w.relent(300ms);
  EXPECT_EQ(answer->error, EINTR);
  w.backing().land_recalls();
  w.deliver();
  EXPECT_TRUE(w.file().quiet());
}

TEST(OutsideWait, NobodyWaitsForTheBackingAtTheEnd) {
  World w;
  w.backing().lazy_recalls = true;
  ASSERT_EQ(w.backing().outsider_set(kOne, {0, 9}, kX), 0);
  const AnswerPtr gave_up = w.wait(ofd(1), kWholeFile, kX);
  w.cancel(gave_up);
  const AnswerPtr waits = w.wait(ofd(2), kWholeFile, kX);
  w.manager().shut_down(ECONNABORTED);
  EXPECT_EQ(gave_up->error, EINTR);
  EXPECT_EQ(waits->error, ECONNABORTED);
  w.backing().land_recalls();
  w.deliver();
}

TEST(OutsideWait, SuccessAfterRecallIsUndone) {
  World w;
  w.backing().lazy_recalls = true;
  ASSERT_EQ(w.backing().outsider_set(kOne, {0, 9}, kX), 0);
  ASSERT_EQ(w.lock(ofd(1), {20, 29}, kS), 0);
  const AnswerPtr answer = w.wait(ofd(1), {0, 39}, kX);
  w.cancel(answer);
  w.backing().outsider_leaves(kOne);
  EXPECT_EQ(carried(w), "X[0,39] ");
  w.deliver();
  EXPECT_EQ(carried(w), "S[20,29] ");
}

TEST(OutsideWait, NextInTheQueueTakesOverACancelledWait) {
  for (const bool lazy : {false, true}) {
    World w;
    w.backing().lazy_recalls = lazy;
    ASSERT_EQ(w.backing().outsider_set(kOne, {0, 9}, kX), 0);
    const AnswerPtr a = w.wait(ofd(1), kWholeFile, kX);
    const AnswerPtr b = w.wait(ofd(2), kWholeFile, kX);
    EXPECT_EQ(w.place(b), Place::kBehind);
    w.cancel(a);
    EXPECT_EQ(w.place(b), Place::kAside);
    w.backing().outsider_leaves(kOne);
    w.deliver();
    EXPECT_TRUE(b->granted());
    EXPECT_EQ(carried(w), "X[0,EOF] ");
  }
}

// The mirror was set back by the cancelled wait; the one that stood aside must take the lock
// itself, even where it wants the very range that the wait had.
TEST(OutsideWait, OneAsideDoesNotInheritALockThatWasSetBack) {
  for (const bool waits : {false, true}) {
    World w;
    ASSERT_EQ(w.backing().outsider_set(kOne, {0, 9}, kX), 0);
    const AnswerPtr reader = w.wait(ofd(1), {0, 9}, kS);
    w.backing().outsider_leaves(kOne);
    ASSERT_EQ(w.backing().due(), 1U);
    const AnswerPtr writer = waits ? w.wait(ofd(2), {0, 9}, kX) : w.ask(ofd(2), {0, 9}, kX);
    w.cancel(reader);
    EXPECT_EQ(w.place(writer), Place::kAside);
    w.deliver();
    EXPECT_TRUE(writer->granted());
    EXPECT_EQ(carried(w), "X[0,9] ");
    EXPECT_EQ(w.backing().outsider_set(kOne, {0, 9}, kS), EAGAIN);
  }
}

TEST(OutsideWait, CancelOneAside) {
  World w;
  w.backing().lazy_recalls = true;
  ASSERT_EQ(w.backing().outsider_set(kOne, {0, 9}, kX), 0);
  const AnswerPtr a = w.wait(ofd(1), kWholeFile, kX);
  const AnswerPtr b = w.wait(ofd(2), kWholeFile, kX);
  w.cancel(a);
  ASSERT_EQ(w.place(b), Place::kAside);
  w.cancel(b);
  EXPECT_EQ(b->error, EINTR);
  w.backing().land_recalls();
  w.deliver();
  EXPECT_TRUE(w.file().quiet());
}

TEST(OutsideWait, ErrorReachesTheCaller) {
  World w;
  ASSERT_EQ(w.backing().outsider_set(kOne, {0, 9}, kX), 0);
  const AnswerPtr a = w.wait(ofd(1), kWholeFile, kX);
  const AnswerPtr b = w.wait(ofd(2), kWholeFile, kX);
  ASSERT_TRUE(w.backing().fail_pending(ESTALE));
  w.deliver();
  EXPECT_EQ(a->error, ESTALE);
  EXPECT_EQ(w.place(b), Place::kOutside);
  ASSERT_EQ(w.notes().failures.size(), 1U);
  EXPECT_EQ(w.notes().failures[0].error, ESTALE);
  EXPECT_FALSE(w.notes().failures[0].unlocking);
  w.backing().outsider_leaves(kOne);
  w.deliver();
  EXPECT_TRUE(b->granted());
}

TEST(OutsideWait, RefusedByTheBacking) {
  World w;
  ASSERT_EQ(w.backing().outsider_set(kOne, {0, 9}, kX), 0);
  w.backing().fail_wait = [](const Range&, Mode) { return ENOLCK; };
  const AnswerPtr a = w.wait(ofd(1), kWholeFile, kX);
  EXPECT_EQ(a->error, ENOLCK);
  ASSERT_EQ(w.notes().failures.size(), 1U);
  EXPECT_EQ(w.notes().failures[0].error, ENOLCK);
}

TEST(OutsideWait, OneUserDoesNotUseUpTheOthersShare) {
  Limits limits;
  limits.outside_waits = 3;
  limits.outside_waits_per_user = 2;
  World w(limits, 1);
  ASSERT_EQ(w.backing().outsider_set(kOne, kWholeFile, kX), 0);
  const auto wait_as = [&w](std::uint64_t owner, uid_t uid, const Range& range) {
    return w.wait(ofd(owner), range, kX, {.uid = uid});
  };
  const AnswerPtr a = wait_as(1, 7, {0, 9});
  EXPECT_TRUE(a->waiting());
  EXPECT_TRUE(wait_as(2, 7, {10, 19})->waiting());
  EXPECT_EQ(wait_as(3, 7, {20, 29})->error, ENOLCK);
  ASSERT_EQ(w.notes().limits.size(), 1U);
  EXPECT_EQ(w.notes().limits[0], (std::pair{Limit::kOutsideWaitsPerUser, std::uint64_t{2}}));
  EXPECT_TRUE(wait_as(4, 8, {30, 39})->waiting());
  EXPECT_EQ(wait_as(5, 9, {40, 49})->error, ENOLCK);
  EXPECT_EQ(w.notes().limits[1], (std::pair{Limit::kOutsideWaits, std::uint64_t{3}}));
  w.cancel(a);
  w.deliver();
  EXPECT_TRUE(wait_as(3, 7, {20, 29})->waiting());
}

TEST(OutsideWait, LimitIsExactAndNamed) {
  Limits limits;
  limits.outside_waits = 2;
  World w(limits, 2);
  for (int i = 0; i < 2; ++i) {
    w.use_file(i);
    ASSERT_EQ(w.backing().outsider_set(kOne, kWholeFile, kX), 0);
  }
  const AnswerPtr a = w.wait(ofd(1), {0, 9}, kX);
  w.use_file(0);
  const AnswerPtr b = w.wait(ofd(2), {0, 9}, kX);
  EXPECT_EQ(w.wait(ofd(3), {20, 29}, kX)->error, ENOLCK);
  ASSERT_EQ(w.notes().limits.size(), 1U);
  EXPECT_EQ(w.notes().limits[0], (std::pair{Limit::kOutsideWaits, std::uint64_t{2}}));
  // Joining what is under way costs nothing.
  EXPECT_TRUE(w.wait(ofd(4), {0, 9}, kX)->waiting());
  w.cancel(a);
  w.deliver();
  EXPECT_TRUE(w.wait(ofd(3), {20, 29}, kX)->waiting());
  EXPECT_TRUE(b->waiting());
}

TEST(OutsideWait, DisturbedByAReleaseWithinIt) {
  World w;
  ASSERT_EQ(w.lock(process(1), {0, 4}, kX), 0);
  ASSERT_EQ(w.backing().outsider_set(kOne, {8, 9}, kX), 0);
  const AnswerPtr answer = w.wait(process(1), {0, 9}, kX, {.tid = 2});
  w.backing().outsider_leaves(kOne);
  ASSERT_EQ(w.backing().due(), 1U);
  // Another thread lets go of a part after the backing has given the whole.
  w.unlock(process(1), {0, 2});
  EXPECT_EQ(carried(w), "X[3,9] ");
  w.deliver();
  EXPECT_TRUE(answer->granted());
  EXPECT_EQ(carried(w), "X[0,9] ");
}

TEST(OutsideWait, DisturbedAndMeanwhileTakenByAnOutsider) {
  World w;
  ASSERT_EQ(w.lock(process(1), {0, 4}, kX), 0);
  ASSERT_EQ(w.backing().outsider_set(kOne, {8, 9}, kX), 0);
  const AnswerPtr answer = w.wait(process(1), {0, 9}, kX, {.tid = 2});
  w.backing().outsider_leaves(kOne);
  w.unlock(process(1), {0, 2});
  ASSERT_EQ(w.backing().outsider_set(kTwo, {0, 0}, kX), 0);
  w.backing().deliver();
  w.inspect();
  EXPECT_EQ(w.place(answer), Place::kOutside);
  EXPECT_EQ(carried(w), "X[3,4] ");
  w.backing().outsider_leaves(kTwo);
  w.deliver();
  EXPECT_TRUE(answer->granted());
}

// The backing opens its file anew for an exclusive lock elsewhere; what a wait has taken or takes
// on the old one is worth nothing.
TEST(OutsideWait, LostWhenTheBackingStartsAfresh) {
  for (const bool succeeds_before : {false, true}) {
    World w;
    ASSERT_EQ(w.backing().outsider_set(kOne, {0, 9}, kX), 0);
    const AnswerPtr reader = w.wait(ofd(1), {0, 9}, kS);
    if (succeeds_before) w.backing().outsider_leaves(kOne);
    w.backing().restart_next = true;
    ASSERT_EQ(w.lock(ofd(2), {20, 29}, kX), 0);
    if (!succeeds_before) w.backing().outsider_leaves(kOne);
    ASSERT_EQ(w.backing().due(), 1U);
    EXPECT_EQ(carried(w), "X[20,29] ");
    w.deliver();
    EXPECT_TRUE(reader->granted());
    EXPECT_EQ(carried(w), "S[0,9] X[20,29] ");
  }
}

// Two threads of one process wait for outsiders, one for an exclusive and one for a shared lock on
// a common byte. The backing gives the exclusive one first, so the shared one weakens it.
TEST(OutsideWait, ASharedWaitWeakensAnExclusiveOneOfTheSameOwner) {
  for (const std::size_t first : {0U, 1U}) {
    World w;
    ASSERT_EQ(w.backing().outsider_set(kOne, {0, 4}, kX), 0);
    ASSERT_EQ(w.backing().outsider_set(kTwo, {9, 9}, kX), 0);
    const AnswerPtr writer = w.wait(process(1), {4, 8}, kX, {.tid = 1});
    const AnswerPtr reader = w.wait(process(1), {8, 9}, kS, {.tid = 2});
    w.backing().outsider_leaves(kOne);
    w.backing().outsider_leaves(kTwo);
    ASSERT_EQ(w.backing().due(), 2U);
    w.backing().deliver(first);
    w.inspect();
    w.deliver();
    EXPECT_TRUE(writer->granted());
    EXPECT_TRUE(reader->granted());
  }
}

// -- aside: requests that a mere wait must not hold up
// ---------------------------------------------------------

TEST(Aside, ATryIsAnsweredAlthoughAWaitIsUnderWay) {
  World w;
  ASSERT_EQ(w.backing().outsider_set(kOne, {0, 9}, kS), 0);
  const AnswerPtr writer = w.wait(ofd(1), {0, 19}, kX);
  const AnswerPtr reader = w.ask(ofd(2), {0, 9}, kS);
  w.deliver();
  EXPECT_TRUE(reader->granted());
  EXPECT_EQ(carried(w), "S[0,9] ");
  EXPECT_EQ(w.place(writer), Place::kBlocked);
  w.unlock(ofd(2), kWholeFile);
  EXPECT_EQ(w.place(writer), Place::kOutside);
  w.backing().outsider_leaves(kOne);
  w.deliver();
  EXPECT_TRUE(writer->granted());
}

TEST(Aside, ATryThatTheOutsiderRefuses) {
  World w;
  ASSERT_EQ(w.backing().outsider_set(kOne, {0, 9}, kX), 0);
  const AnswerPtr writer = w.wait(ofd(1), {0, 19}, kX);
  const AnswerPtr other = w.ask(ofd(2), {0, 9}, kS);
  w.deliver();
  EXPECT_EQ(other->error, EAGAIN);
  EXPECT_EQ(w.place(writer), Place::kOutside);
  w.backing().outsider_leaves(kOne);
  w.deliver();
  EXPECT_TRUE(writer->granted());
}

// Programs that poll with requests that do not wait must not cost the waiter its turn outside.
TEST(Aside, APollingTryDoesNotCostTheWaiterItsTurn) {
  World w;
  ASSERT_EQ(w.backing().outsider_set(kOne, {0, 9}, kX), 0);
  const AnswerPtr writer = w.wait(ofd(1), {0, 9}, kX);
  ASSERT_FALSE(w.backing().outsider_wait(kTwo, {0, 9}, kX));
  for (int i = 0; i < 3; ++i) {
    const AnswerPtr poll = w.ask(ofd(2), {0, 9}, kX);
    w.deliver();
    EXPECT_EQ(poll->error, EAGAIN);
  }
  w.backing().outsider_leaves(kOne);
  w.deliver();
  EXPECT_TRUE(writer->granted());
}

TEST(Aside, ATryWhenTheWaitHasSucceededAlready) {
  World w;
  ASSERT_EQ(w.backing().outsider_set(kOne, {0, 9}, kX), 0);
  const AnswerPtr writer = w.wait(ofd(1), {0, 19}, kX);
  w.backing().outsider_leaves(kOne);
  ASSERT_EQ(w.backing().due(), 1U);
  const AnswerPtr other = w.ask(ofd(2), {0, 9}, kS);
  w.deliver();
  EXPECT_TRUE(writer->granted());
  EXPECT_EQ(other->error, EAGAIN);
}

TEST(Aside, ATryWhenTheWaitSucceedsAfterItsRecall) {
  World w;
  w.backing().lazy_recalls = true;
  ASSERT_EQ(w.backing().outsider_set(kOne, {10, 19}, kX), 0);
  const AnswerPtr writer = w.wait(ofd(1), {0, 19}, kX);
  const AnswerPtr other = w.ask(ofd(2), {0, 9}, kS);
  EXPECT_TRUE(other->waiting());
  EXPECT_EQ(w.place(other), Place::kAside);
  w.backing().outsider_leaves(kOne);
  w.deliver();
  EXPECT_TRUE(writer->granted());
  EXPECT_EQ(other->error, EAGAIN);
}

TEST(Aside, CancelATry) {
  World w;
  w.backing().lazy_recalls = true;
  ASSERT_EQ(w.backing().outsider_set(kOne, {10, 19}, kX), 0);
  const AnswerPtr writer = w.wait(ofd(1), {0, 19}, kX);
  const AnswerPtr other = w.ask(ofd(2), {0, 9}, kS);
  w.cancel(other);
  EXPECT_EQ(other->error, EINTR);
  w.backing().land_recalls();
  w.deliver();
  EXPECT_EQ(w.place(writer), Place::kOutside);
}

// A thread that gives up a part of its lock must not wait until an outsider lets another thread of
// the process have more.
TEST(Aside, ADowngradeDoesNotWaitForAnOutsider) {
  World w;
  ASSERT_EQ(w.lock(process(1), {0, 9}, kX), 0);
  ASSERT_EQ(w.backing().outsider_set(kOne, {10, 19}, kX), 0);
  const AnswerPtr more = w.wait(process(1), {0, 19}, kX, {.tid = 1});
  const AnswerPtr less = w.wait(process(1), {0, 9}, kS, {.tid = 2});
  w.deliver();
  EXPECT_TRUE(less->granted());
  EXPECT_EQ(w.held(process(1)), "S[0,9] ");
  EXPECT_EQ(w.place(more), Place::kOutside);
}

// Two threads of one process wait for outsiders, each in the way of the other.
TEST(Aside, TwoWaitsOfOneProcessDoNotCallEachOtherBackForEver) {
  World w;
  ASSERT_EQ(w.backing().outsider_set(kOne, {0, 19}, kX), 0);
  const AnswerPtr a = w.wait(process(1), {0, 19}, kX, {.tid = 1});
  const AnswerPtr b = w.wait(process(1), {5, 6}, kS, {.tid = 2});
  for (int i = 0; i < 100 && w.backing().deliver(); ++i) w.inspect();
  EXPECT_EQ(w.backing().due(), 0U);
  EXPECT_LE(w.backing().recalls(), 2U);
  w.backing().outsider_leaves(kOne);
  w.deliver();
  EXPECT_TRUE(a->granted());
  EXPECT_TRUE(b->granted());
}

/// An upgrade that waits for one outsider has passed a reader who came earlier; the upgrade is of
/// open file 1, the reader of open file 2, whom another outsider refuses as well.
struct PassedReader {
  PassedReader() {
    EXPECT_EQ(w.lock(ofd(1), {0, 10}, kS), 0);
    EXPECT_EQ(w.lock(ofd(3), {15, 15}, kX), 0);
    reader = w.wait(ofd(2), {8, 20}, kS);
    // It queues behind the reader, and waits for open file 1, which therefore passes both.
    writer = w.wait(ofd(4), {0, 10}, kX);
    EXPECT_EQ(w.backing().outsider_set(kOne, {5, 5}, kS), 0);
    upgrade = w.wait(ofd(1), {0, 10}, kX);
    EXPECT_EQ(w.place(reader), Place::kBlocked);
    EXPECT_EQ(w.place(upgrade), Place::kOutside);
    EXPECT_EQ(w.backing().outsider_set(kTwo, {18, 18}, kX), 0);
    w.unlock(ofd(3), kWholeFile);
    w.deliver();
  }
  World w;
  AnswerPtr reader;
  AnswerPtr writer;
  AnswerPtr upgrade;
};

TEST(Aside, TheEarlierOneCallsTheWaitOfALaterOneBack) {
  PassedReader t;
  EXPECT_EQ(t.w.place(t.reader), Place::kOutside);
  EXPECT_EQ(t.w.place(t.upgrade), Place::kAside);
  t.w.backing().outsider_leaves(kTwo);
  t.w.deliver();
  EXPECT_TRUE(t.reader->granted());
  EXPECT_EQ(t.w.place(t.upgrade), Place::kBlocked);
  t.w.unlock(ofd(2), kWholeFile);
  t.w.backing().outsider_leaves(kOne);
  t.w.deliver();
  EXPECT_TRUE(t.upgrade->granted());
}

// The outsider in its own way leaves, and the other keeps that of the earlier one waiting.
TEST(Aside, NobodyStaysThereForAnOutsiderOfSomebodyElse) {
  PassedReader t;
  ASSERT_EQ(t.w.place(t.upgrade), Place::kAside);
  t.w.backing().outsider_leaves(kOne);
  t.w.relent({});
  t.w.deliver();
  EXPECT_TRUE(t.upgrade->granted());
  EXPECT_EQ(t.w.place(t.reader), Place::kBlocked);
  t.w.unlock(ofd(1), kWholeFile);
  t.w.backing().outsider_leaves(kTwo);
  t.w.deliver();
  EXPECT_TRUE(t.reader->granted());
}

TEST(Aside, RelentingWaitersDoNotCallEachOtherBackForEver) {
  World w;
  ASSERT_EQ(w.backing().outsider_set(kOne, kWholeFile, kX), 0);
  std::vector<AnswerPtr> answers;
  for (std::uint64_t n = 1; n <= 4; ++n) answers.push_back(w.wait(ofd(n), {0, 9}, kX));
  for (int i = 1; i <= 8; ++i) {
    w.relent(std::chrono::hours(i));
    for (int k = 0; k < 100 && w.backing().deliver(); ++k) w.inspect();
    ASSERT_EQ(w.backing().due(), 0U) << "waits are recalled again and again";
  }
  w.backing().outsider_leaves(kOne);
  for (std::uint64_t n = 1; n <= 4; ++n) {
    w.deliver();
    std::uint64_t holder = 0;
    for (std::uint64_t k = 1; k <= 4; ++k) {
      if (w.held(ofd(k)) != "nothing") holder = k;
    }
    ASSERT_NE(holder, 0U);
    w.unlock(ofd(holder), kWholeFile);
  }
  for (const AnswerPtr& answer : answers) EXPECT_TRUE(answer->granted());
}

// -- a shared request over parts that the owner holds exclusively
// ---------------------------------------------

TEST(SplitWait, OnlyWhatIsNotHeldIsWaitedFor) {
  World w;
  w.backing().lazy_recalls = true;
  ASSERT_EQ(w.lock(ofd(1), {0, 4}, kX), 0);
  ASSERT_EQ(w.backing().outsider_set(kOne, {8, 9}, kX), 0);
  const AnswerPtr answer = w.wait(ofd(1), {0, 9}, kS);
  ASSERT_EQ(w.backing().under_way().size(), 1U);
  EXPECT_EQ(w.backing().under_way()[0], (Segment{{5, 9}, kS}));
  EXPECT_EQ(carried(w), "X[0,4] ");
  w.cancel(answer);
  w.backing().outsider_leaves(kOne);
  w.deliver();
  EXPECT_EQ(w.held(ofd(1)), "X[0,4] ");
  EXPECT_EQ(carried(w), "X[0,4] ");
}

TEST(SplitWait, GrantedAsAWhole) {
  World w;
  ASSERT_EQ(w.lock(ofd(1), {5, 9}, kX), 0);
  ASSERT_EQ(w.backing().outsider_set(kOne, {0, 0}, kX), 0);
  const AnswerPtr answer = w.wait(ofd(1), {0, 19}, kS);
  w.backing().outsider_leaves(kOne);
  w.deliver();
  EXPECT_TRUE(answer->granted());
  EXPECT_EQ(w.held(ofd(1)), "S[0,19] ");
  EXPECT_EQ(carried(w), "S[0,19] ");
}

// Whichever gap the outsider sits in, the wait must be for that one, and end.
TEST(SplitWait, WaitsForTheGapThatIsTaken) {
  for (const Offset taken : {0, 5, 9}) {
    World w;
    ASSERT_EQ(w.lock(ofd(1), {3, 4}, kX), 0);
    ASSERT_EQ(w.lock(ofd(1), {6, 7}, kX), 0);
    ASSERT_EQ(w.backing().outsider_set(kOne, {taken, taken}, kX), 0);
    const AnswerPtr answer = w.wait(ofd(1), {0, 9}, kS);
    for (int i = 0; i < 100 && w.backing().deliver(); ++i) w.inspect();
    ASSERT_EQ(w.backing().due(), 0U) << "waits end and begin again without end";
    EXPECT_TRUE(answer->waiting());
    w.backing().outsider_leaves(kOne);
    w.deliver();
    EXPECT_TRUE(answer->granted());
  }
}

// -- errors
// ---------------------------------------------------------------------------------------------------

TEST(Errors, ReachTheCallerAndChangeNothing) {
  for (const int error : {ENOLCK, EIO, ESTALE, EBADF}) {
    World w;
    ASSERT_EQ(w.lock(ofd(1), {0, 9}, kS), 0);
    w.backing().fail_set = [error](const Range&, Mode) { return error; };
    EXPECT_EQ(w.lock(ofd(1), {0, 19}, kX), error);
    EXPECT_EQ(w.wait(ofd(1), {0, 19}, kX)->error, error);
    EXPECT_EQ(w.held(ofd(1)), "S[0,9] ");
    EXPECT_EQ(w.lock(ofd(2), {5, 6}, kS), 0);
    ASSERT_FALSE(w.notes().failures.empty());
    EXPECT_EQ(w.notes().failures[0].error, error);
    EXPECT_EQ(w.notes().failures[0].range, (Range{0, 19}));
    EXPECT_FALSE(w.notes().failures[0].unlocking);
    EXPECT_EQ(w.count(Counter::kBackingErrors), w.notes().failures.size());
  }
}

TEST(Errors, UnlockSucceedsAndIsRepairedLater) {
  World w;
  ASSERT_EQ(w.lock(ofd(1), {0, 9}, kX), 0);
  ASSERT_EQ(w.lock(ofd(2), {20, 29}, kS), 0);
  w.mirror_checked = false;
  w.backing().fail_set = [](const Range&, Mode) { return EIO; };
  EXPECT_EQ(w.unlock(ofd(1), {0, 4}), 0);
  EXPECT_EQ(w.held(ofd(1)), "X[5,9] ");
  EXPECT_EQ(carried(w), "X[0,9] S[20,29] ");
  ASSERT_EQ(w.notes().failures.size(), 1U);
  EXPECT_TRUE(w.notes().failures[0].unlocking);
  EXPECT_EQ(w.unlock(ofd(2), {25, 29}), 0);
  w.backing().fail_set = nullptr;
  w.mirror_checked = true;
  // The next call of any kind sets it right.
  EXPECT_EQ(w.unlock(ofd(9), kWholeFile), 0);
  EXPECT_EQ(carried(w), "X[5,9] S[20,24] ");
}

TEST(Errors, FailedReleaseStillHandsOver) {
  World w;
  ASSERT_EQ(w.lock(ofd(1), {0, 9}, kX), 0);
  const AnswerPtr next = w.wait(ofd(2), {0, 9}, kX);
  w.mirror_checked = false;
  int failures = 1;
  w.backing().fail_set = [&](const Range&, Mode) { return failures-- > 0 ? EIO : 0; };
  w.unlock(ofd(1), kWholeFile);
  EXPECT_TRUE(next->granted());
  w.backing().fail_set = nullptr;
  w.mirror_checked = true;
  EXPECT_EQ(w.unlock(ofd(9), kWholeFile), 0);
  EXPECT_EQ(carried(w), "X[0,9] ");
}

TEST(Errors, FailureToSetBackACancelledWait) {
  World w;
  w.backing().lazy_recalls = true;
  ASSERT_EQ(w.backing().outsider_set(kOne, {0, 9}, kX), 0);
  const AnswerPtr answer = w.wait(ofd(1), {0, 9}, kX);
  w.cancel(answer);
  w.backing().outsider_leaves(kOne);
  w.backing().fail_set = [](const Range&, Mode) { return EIO; };
  w.mirror_checked = false;
  w.deliver();
  EXPECT_EQ(carried(w), "X[0,9] ");
  w.backing().fail_set = nullptr;
  w.mirror_checked = true;
  EXPECT_EQ(w.unlock(ofd(9), kWholeFile), 0);
  EXPECT_EQ(carried(w), "nothing");
}

TEST(Errors, FailedDowngradeKeepsTheExclusiveLock) {
  World w;
  ASSERT_EQ(w.lock(ofd(1), {0, 9}, kX), 0);
  w.backing().fail_set = [](const Range&, Mode) { return EIO; };
  EXPECT_EQ(w.lock(ofd(1), {0, 9}, kS), EIO);
  EXPECT_EQ(w.held(ofd(1)), "X[0,9] ");
  w.backing().fail_set = nullptr;
  EXPECT_EQ(w.lock(ofd(1), {0, 9}, kS), 0);
}

// A backing without an answer: some server does not respond.

TEST(NoAnswer, WhoIsReadyToWaitWaits) {
  World w;
  w.backing().fail_set = [](const Range&, Mode) { return EINPROGRESS; };
  EXPECT_EQ(w.lock(ofd(1), {0, 9}, kX), EINPROGRESS);
  const AnswerPtr stays = w.wait(ofd(1), {0, 9}, kX);
  const AnswerPtr leaves = w.wait(ofd(2), {20, 29}, kX);
  EXPECT_EQ(w.place(stays), Place::kOutside);
  w.cancel(leaves);
  w.relent(300ms);
  EXPECT_EQ(leaves->error, EINTR);
  w.backing().fail_set = nullptr;
  w.deliver();
  EXPECT_TRUE(stays->granted());
  EXPECT_EQ(carried(w), "X[0,9] ");
  EXPECT_TRUE(w.notes().failures.empty());
}

TEST(NoAnswer, WhatIsCarriedIsSetRightOnceItIsThere) {
  World w;
  ASSERT_EQ(w.lock(ofd(1), {0, 9}, kX), 0);
  ASSERT_EQ(w.lock(ofd(2), {20, 29}, kS), 0);
  w.mirror_checked = false;
  // What was asked comes true after all, or not.
  w.backing().fail_set = [&](const Range& range, Mode) {
    return range.first >= 30 ? 0 : EINPROGRESS;
  };
  EXPECT_EQ(w.unlock(ofd(1), kWholeFile), 0);
  EXPECT_EQ(w.lock(ofd(2), {20, 29}, kX), EINPROGRESS);
  ASSERT_EQ(w.lock(ofd(3), {30, 39}, kX), 0);
  EXPECT_EQ(carried(w), "X[0,9] S[20,29] X[30,39] ");
  w.backing().fail_set = nullptr;
  w.file().carry_anew();
  EXPECT_EQ(carried(w), "S[20,29] X[30,39] ");
  w.mirror_checked = true;
}

// -- fair hand-over
// ------------------------------------------------------------------------------------------

TEST(HandOver, TheMirrorIsDroppedBetweenOwners) {
  World w;
  ASSERT_EQ(w.lock(ofd(1), {0, 9}, kX), 0);
  const AnswerPtr next = w.wait(ofd(2), {0, 9}, kX);
  std::string seen;
  w.backing().fail_set = [&](const Range&, Mode mode) {
    seen += mode == kU ? "drop " : "take ";
    return 0;
  };
  w.unlock(ofd(1), kWholeFile);
  EXPECT_TRUE(next->granted());
  EXPECT_EQ(seen, "drop take ");
}

TEST(HandOver, AWaitingOutsiderComesFirst) {
  for (const bool lazy : {false, true}) {
    World w;
    w.backing().lazy_outsiders = lazy;
    ASSERT_EQ(w.lock(ofd(1), {0, 9}, kX), 0);
    ASSERT_FALSE(w.backing().outsider_wait(kOne, {0, 9}, kX));
    const AnswerPtr next = w.wait(ofd(2), {0, 9}, kX);
    w.unlock(ofd(1), kWholeFile);
    w.deliver();
    EXPECT_EQ(to_text(w.backing().held(kOne)), "X[0,9] ");
    EXPECT_TRUE(next->waiting());
    w.backing().outsider_leaves(kOne);
    w.deliver();
    EXPECT_TRUE(next->granted());
  }
}

TEST(HandOver, OutsidersAndLocalsTakeTurns) {
  World w;
  w.backing().lazy_outsiders = true;
  ASSERT_EQ(w.lock(ofd(1), {0, 9}, kX), 0);
  std::vector<AnswerPtr> locals;
  for (std::uint64_t n = 2; n <= 4; ++n) locals.push_back(w.wait(ofd(n), {0, 9}, kX));
  for (int who = 1; who <= 3; ++who) {
    ASSERT_FALSE(w.backing().outsider_wait(who, {0, 9}, kX));
  }
  // Outsiders who wait when a local lets go are served before the next local, but none is starved.
  std::string order;
  for (int i = 0; i < 20; ++i) {
    for (std::uint64_t n = 1; n <= 4; ++n) {
      if (w.held(ofd(n)) == "nothing") continue;
      order += "L";
      w.unlock(ofd(n), kWholeFile);
      w.deliver();
      w.backing().let_outsiders_in();
      break;
    }
    for (int who = 1; who <= 3; ++who) {
      if (w.backing().held(who).empty()) continue;
      order += "o";
      w.backing().outsider_leaves(who);
      w.deliver();
      w.backing().let_outsiders_in();
      w.deliver();
    }
  }
  EXPECT_EQ(order.size(), 7U) << order;
  EXPECT_EQ(order.substr(0, 2), "Lo") << order;
  for (const AnswerPtr& answer : locals) EXPECT_TRUE(answer->granted());
}

TEST(HandOver, SharedWaitersFollowTheOutsiderTogether) {
  World w;
  w.backing().lazy_outsiders = true;
  ASSERT_EQ(w.lock(ofd(1), {0, 9}, kX), 0);
  ASSERT_FALSE(w.backing().outsider_wait(kOne, {0, 9}, kX));
  std::vector<AnswerPtr> readers;
  for (std::uint64_t n = 2; n <= 6; ++n) readers.push_back(w.wait(ofd(n), {0, 9}, kS));
  w.unlock(ofd(1), kWholeFile);
  w.deliver();
  for (const AnswerPtr& reader : readers) EXPECT_TRUE(reader->waiting());
  EXPECT_EQ(w.backing().waits(), 1U);
  w.backing().outsider_leaves(kOne);
  w.deliver();
  for (const AnswerPtr& reader : readers) EXPECT_TRUE(reader->granted());
}

// Outsiders cannot want what is held exclusively all along, so nobody waits for them there.
TEST(HandOver, NoTurnIsGivenOnWhatIsHeld) {
  World w;
  w.backing().lazy_outsiders = true;
  ASSERT_EQ(w.lock(ofd(1), {0, 9}, kX), 0);
  ASSERT_EQ(w.lock(ofd(3), {40, 49}, kX), 0);
  const AnswerPtr ahead = w.wait(ofd(3), {5, 30}, kX);
  const AnswerPtr beside = w.wait(flock_of(1), {0, 9}, kS);
  EXPECT_EQ(w.place(beside), Place::kBehind);
  const AnswerPtr next = w.wait(ofd(4), {40, 41}, kX);
  ASSERT_FALSE(w.backing().outsider_wait(kOne, {40, 49}, kX));
  w.close(3);
  EXPECT_EQ(ahead->error, EBADF);
  EXPECT_TRUE(beside->granted());
  EXPECT_TRUE(next->waiting());
  EXPECT_EQ(carried(w), "X[0,9] ");
}

TEST(HandOver, NobodyOutsideCostsNoWait) {
  World w;
  ASSERT_EQ(w.lock(ofd(1), {0, 9}, kX), 0);
  const AnswerPtr next = w.wait(ofd(2), {0, 9}, kX);
  w.close(1);
  EXPECT_TRUE(next->granted());
  EXPECT_EQ(w.backing().waits(), 0U);
}

// One that passed the queue while an outsider held everybody up did not cost the others theirs.
TEST(HandOver, ALongOutsideLockKeepsTheOrder) {
  World w;
  ASSERT_EQ(w.backing().outsider_set(kOne, kWholeFile, kX), 0);
  std::vector<AnswerPtr> answers;
  for (std::uint64_t n = 0; n < 20; ++n) answers.push_back(w.wait(ofd(n + 1), {0, 9}, kX));
  for (int i = 1; i <= 8; ++i) {
    w.relent(std::chrono::hours(i));
    w.deliver();
  }
  w.backing().outsider_leaves(kOne);
  w.deliver();
  for (std::size_t i = 0; i < answers.size(); ++i) {
    ASSERT_TRUE(answers[i]->granted());
    for (std::size_t k = i + 1; k < answers.size(); ++k) ASSERT_TRUE(answers[k]->waiting());
    w.unlock(ofd(i + 1), kWholeFile);
    w.deliver();
  }
}

}  // namespace
}  // namespace lockmgr
