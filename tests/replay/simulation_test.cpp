// The simulation: traces written by hand, whose outcome can be told.
#include "mount-helpers/replay/simulation.h"

#include <gtest/gtest.h>

#include "tests/replay/traces.h"

namespace replay::testing {
namespace {

constexpr auto kFlock = OwnerType::kFlock;
constexpr auto kPosix = OwnerType::kProcess;

TEST(Simulation, WaitsUntilTheHolderLetsGo) {
  TraceBuilder b;
  const Index file = b.file("f");
  const auto one = b.hand(file);
  const auto two = b.hand(file);
  const auto held = b.ask_answered(10, one, kFlock, Mode::kExclusive);
  const auto waits = b.ask_answered(20, two, kFlock, Mode::kExclusive);
  const auto unlock = b.ask_answered(50, one, kFlock, Mode::kNone);
  const Outcome o = replay(b.trace);
  EXPECT_EQ(told(o, held), (Told{0, 0}));
  EXPECT_EQ(told(o, waits), (Told{0, 30}));
  EXPECT_EQ(told(o, unlock), (Told{0, 0}));
  EXPECT_EQ(o.grants, 2U);
  EXPECT_EQ(o.asked, 2U);
  EXPECT_EQ(o.queue.most, 1U);
  EXPECT_EQ(o.hazard_count, 0U);
  ASSERT_EQ(o.waits.size(), 1U);
  EXPECT_EQ(o.waits[0], milliseconds(30));
}

// Hold and think times are kept: who got the lock 30 ms later does everything else 30 ms later.
TEST(Simulation, LaterStepsMoveWithTheAnswer) {
  TraceBuilder b;
  const Index file = b.file("f");
  const auto one = b.hand(file);
  const auto two = b.hand(file);
  const auto three = b.hand(file);
  b.ask_answered(0, one, kFlock, Mode::kExclusive);
  b.ask_answered(10, two, kFlock, Mode::kExclusive);  // granted at 40
  b.ask_answered(15, two, kFlock, Mode::kNone);       // hence at 45
  const auto last = b.ask_answered(20, three, kFlock, Mode::kShared);
  b.close(40, one);
  const Outcome o = replay(b.trace);
  EXPECT_EQ(told(o, last), (Told{0, 25}));
  EXPECT_EQ(o.length, milliseconds(45));
}

TEST(Simulation, RefusesWhoDoesNotWait) {
  TraceBuilder b;
  const Index file = b.file("f");
  const auto one = b.hand(file);
  const auto two = b.hand(file);
  const auto three = b.hand(file);
  b.ask_answered(0, one, kFlock, Mode::kExclusive);
  // Was granted in the trace, and held for long; refused now, it lets go of nothing at once.
  const auto refused = b.ask_answered(1, two, kPosix, Mode::kExclusive, 0, false);
  b.ask_answered(5, one, kFlock, Mode::kNone);
  const auto free = b.ask_answered(6, three, kFlock, Mode::kExclusive, 0, false);
  b.close(100, two);
  const Outcome o = replay(b.trace);
  EXPECT_EQ(told(o, refused), (Told{EAGAIN, 0}));
  EXPECT_EQ(told(o, free), (Told{0, 0}));
  EXPECT_EQ(o.refusals, 1U);
  EXPECT_EQ(o.length, milliseconds(6));
}

TEST(Simulation, GivesUpAsInTheTrace) {
  TraceBuilder b;
  const Index file = b.file("f");
  const auto one = b.hand(file);
  const auto two = b.hand(file);
  b.ask_answered(0, one, kFlock, Mode::kExclusive);
  const auto waits = b.ask(10, two, kFlock, Mode::kExclusive);
  b.answer(70, waits, EINTR);
  b.close(100, one);
  const Outcome o = replay(b.trace);
  EXPECT_EQ(told(o, waits), (Told{EINTR, 60}));
  EXPECT_EQ(o.given_up, 1U);
  EXPECT_EQ(o.as_recorded, 2U);
}

TEST(Simulation, PatienceEnoughMeansAGrant) {
  TraceBuilder b;
  const Index file = b.file("f");
  const auto one = b.hand(file);
  const auto two = b.hand(file);
  b.ask_answered(0, one, kFlock, Mode::kExclusive);
  const auto waits = b.ask(10, two, kFlock, Mode::kExclusive);
  b.close(40, one);
  b.answer(70, waits, EINTR);
  const Outcome o = replay(b.trace);
  EXPECT_EQ(told(o, waits), (Told{0, 30}));
  EXPECT_EQ(o.as_recorded, 1U);
}

TEST(Simulation, DeadlockOfProcesses) {
  TraceBuilder b;
  const Index left = b.file("left");
  const Index right = b.file("right");
  const auto one = b.hand(left);
  const auto one_right = b.hand(right, true, true, &one);
  const auto two = b.hand(right);
  const auto two_left = b.hand(left, true, true, &two);
  b.ask_answered(0, one, kPosix, Mode::kExclusive);
  b.ask_answered(1, two, kPosix, Mode::kExclusive);
  const auto waits = b.ask_answered(2, one_right, kPosix, Mode::kExclusive);
  const auto cycle = b.ask_answered(3, two_left, kPosix, Mode::kExclusive);
  b.close(10, two);
  const Outcome o = replay(b.trace);
  EXPECT_EQ(told(o, cycle), (Told{EDEADLK, 0}));
  EXPECT_EQ(o.deadlocks, 1U);
  EXPECT_EQ(told(o, waits).error, 0);
}

TEST(Simulation, TwoLocksOfOneProgramBlockItForEver) {
  TraceBuilder b;
  const auto mail = b.hand(b.file("mail"));
  b.ask_answered(0, mail, kFlock, Mode::kExclusive);
  const auto second = b.ask_answered(1, mail, kPosix, Mode::kExclusive);
  b.close(20, mail);
  const Outcome o = replay(b.trace);
  EXPECT_EQ(told(o, second), (Told{-1, -1}));
  EXPECT_EQ(o.stuck, 1U);
}

TEST(Simulation, OpenModeIsJudged) {
  TraceBuilder b;
  const auto reader = b.hand(b.file("f"), true, false);
  const auto bad = b.ask_answered(0, reader, kFlock, Mode::kExclusive);
  const Outcome o = replay(b.trace);
  EXPECT_EQ(told(o, bad), (Told{EBADF, 0}));
  EXPECT_EQ(o.errors, 1U);
}

TEST(Simulation, OutsidersAreKeptApart) {
  TraceBuilder b;
  b.trace.head.generated = true;  // else it would say what the backing said
  const Index file = b.file("f");
  const auto local = b.hand(file);
  const auto client = b.remote(file);
  const auto other = b.remote(file);
  b.ask_answered(0, client, kPosix, Mode::kExclusive);
  const auto waits = b.ask_answered(10, local, kFlock, Mode::kExclusive);
  const auto refused = b.ask_answered(20, other, kPosix, Mode::kShared, 0, false);
  b.close(30, client);
  const auto queued = b.ask_answered(35, other, kPosix, Mode::kShared);
  b.close(60, local);
  const Outcome o = replay(b.trace);
  EXPECT_EQ(told(o, waits), (Told{0, 20}));
  EXPECT_EQ(told(o, refused), (Told{EAGAIN, 0}));
  // The local one was granted at 30 and holds for 50 ms, as in the trace.
  EXPECT_EQ(told(o, queued), (Told{0, 45}));
  EXPECT_EQ(o.hazard_count, 0U);
  EXPECT_EQ(o.stuck, 0U);
}

// Under the recorded policy the backing says what it said; under another one outsiders are
// simulated.
TEST(Simulation, TheOutsideIsTakenFromTheRecording) {
  using lockmgr::trace::OutsideSaid;
  TraceBuilder b;
  const Index file = b.file("f");
  const auto one = b.hand(file);
  const auto two = b.hand(file);
  const auto refused = b.ask_answered(10, one, kFlock, Mode::kExclusive, EAGAIN, false);
  b.outside(10, file, 1, OutsideSaid::kRefused, EAGAIN);
  const auto waits = b.ask(20, two, kFlock, Mode::kExclusive);
  // It is tried by try_now(), and twice more by park().
  for (std::uint32_t call = 1; call <= 3; ++call) {
    b.outside(20, file, call, OutsideSaid::kRefused, EAGAIN);
  }
  b.outside(20, file, 4, OutsideSaid::kWait);
  b.outside_end(90, 0);
  b.answer(90, waits);
  const Outcome same = replay(b.trace);
  EXPECT_EQ(told(same, refused), (Told{EAGAIN, 0}));
  EXPECT_EQ(told(same, waits), (Told{0, 70}));
  EXPECT_EQ(same.as_recorded, 2U);
  const Outcome other = replay(b.trace, "dual");
  EXPECT_EQ(told(other, refused), (Told{0, 0}));
}

// "recorded" follows the switches of the mount; a policy by its name stays.
TEST(Simulation, SwitchesAndBreaksHappenAgain) {
  TraceBuilder b;
  const Index file = b.file("f");
  const auto one = b.hand(file);
  const auto two = b.hand(file);
  b.ask_answered(10, one, kFlock, Mode::kExclusive);
  const auto before = b.ask_answered(20, one, kPosix, Mode::kExclusive, EAGAIN, false);
  b.switch_to(30, "dual");
  const auto after = b.ask_answered(40, one, kPosix, Mode::kExclusive, 0, false);
  const auto waits = b.ask(50, two, kPosix, Mode::kExclusive);
  b.revoke(60, file, one.posix);
  b.revoke(70, file, one.flock);
  b.answer(70, waits);
  const Outcome o = replay(b.trace, "recorded");
  EXPECT_EQ(told(o, before), (Told{EAGAIN, 0}));
  EXPECT_EQ(told(o, after), (Told{0, 0}));
  EXPECT_EQ(told(o, waits), (Told{0, 20}));
  EXPECT_EQ(o.as_recorded, 4U);
  EXPECT_EQ(told(replay(b.trace, "nfs"), after), (Told{EAGAIN, 0}));
}

TEST(Simulation, TheSameEveryTime) {
  const lockmgr::trace::Trace trace = sample();
  const Outcome first = replay(trace);
  const Outcome second = replay(trace);
  EXPECT_EQ(first.answers, second.answers);
  EXPECT_EQ(first.waits, second.waits);
  EXPECT_EQ(first.length, second.length);
}

// A close that comes while a thread still waits through the open file takes effect after that.
TEST(Simulation, CloseComesAfterTheLastCall) {
  TraceBuilder b;
  const Index file = b.file("f");
  const auto holder = b.hand(file);
  const auto waiter = b.hand(file);
  auto closer = b.hand(file);
  closer.open = waiter.open;
  b.ask_answered(0, holder, kFlock, Mode::kExclusive);
  const auto waits = b.ask_answered(1, waiter, kFlock, Mode::kExclusive);
  b.close(2, closer);
  b.close(9, holder);
  const Outcome o = replay(b.trace);
  EXPECT_EQ(told(o, waits), (Told{0, 8}));
}

}  // namespace
}  // namespace replay::testing
