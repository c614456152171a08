// What each value of each axis of the policy makes of requests. The default values are what the
// other tests of the manager are about.
#include <gtest/gtest.h>

#include <cerrno>
#include <chrono>
#include <string>
#include <string_view>
#include <vector>

#include "lockmgr/explain.h"
#include "lockmgr/policy.h"
#include "lockmgr/waiter_order.h"
#include "tests/unit/world.h"

namespace lockmgr {
namespace {

using namespace testing;  // NOLINT(google-build-using-namespace): the vocabulary of these tests
using Place = Waiter::Place;

Policy policy_of(std::string_view text) {
  Policy policy;
  EXPECT_EQ(Policy::parse(text, {}, policy), "");
  return policy;
}

/// Who can meet: each type of owner of two processes and two open files.
std::vector<Party> parties() {
  std::vector<Party> all;
  for (const OwnerType type : {OwnerType::kProcess, OwnerType::kOpenFile, OwnerType::kFlock}) {
    for (const std::uint64_t cookie : {1U, 2U}) {
      for (const pid_t process : {100, 200}) all.push_back({{type, cookie}, process});
    }
  }
  return all;
}

struct PolicyWorld : World {
  explicit PolicyWorld(std::string_view text) : World({}, 1, policy_of(text)) {}
};

// -- whose locks exclude each other
// ----------------------------------------------------------------

// A value of an axis that lets two owners pass each other is named to whom asks why.
TEST(Explain, NamesTheAxisThatDecides) {
  const Policy usual;
  for (const Axis& axis : Policy::axes()) {
    for (const AxisValue& value : axis.values) {
      Policy policy;
      if (!axis.set(policy, value.name)) continue;  // stands for numbers
      for (const Party& held : parties()) {
        for (const Party& asker : parties()) {
          if (policy.excludes(held, asker) == usual.excludes(held, asker)) continue;
          Hypothesis h;
          h.request = {asker.owner, {asker.process, asker.process, 0}, {0, 9}, kX, false};
          h.readable = h.writable = true;
          LockView lock;
          lock.owner = held.owner;
          lock.caller.pid = held.process;
          lock.range = {0, 9};
          lock.mode = kX;
          h.locks.push_back(lock);
          const Explanation told = explain(policy, "", h);
          ASSERT_EQ(told.obstacles.size(), 1U);
          EXPECT_NE(
              told.obstacles[0].why.find(std::string(axis.name) + '=' + std::string(value.name)),
              std::string::npos)
              << told.obstacles[0].why;
        }
      }
    }
  }
}

// -- conflict space
// --------------------------------------------------------------------------------

TEST(Separate, FlocksAndRecordLocksDoNotMeet) {
  PolicyWorld w("conflict_space=separate");
  ASSERT_EQ(w.lock(flock_of(1), kWholeFile, kX), 0);
  EXPECT_EQ(w.lock(process(2), {0, 9}, kX), 0);
  EXPECT_EQ(w.lock(ofd(3), {20, 29}, kX), 0);
  EXPECT_EQ(w.lock(flock_of(4), kWholeFile, kS), EAGAIN);
  EXPECT_EQ(w.lock(ofd(4), {0, 9}, kS), EAGAIN);
  EXPECT_EQ(to_text(w.backing().held()), "X[0,9] X[20,29] ");
  EXPECT_EQ(to_text(w.backing().flocks().held()), "X[0,EOF] ");
  w.unlock(flock_of(1), kWholeFile);
  EXPECT_EQ(to_text(w.backing().held()), "X[0,9] X[20,29] ");
  EXPECT_EQ(to_text(w.backing().flocks().held()), "nothing");
}

TEST(Separate, EachIsRefusedByItsOwnOutsiders) {
  PolicyWorld w("conflict_space=separate");
  ASSERT_EQ(w.backing().outsider_set(1, kWholeFile, kX), 0);
  EXPECT_EQ(w.lock(flock_of(1), kWholeFile, kX), 0) << "an NFS client's lock is no flock";
  EXPECT_EQ(w.lock(ofd(2), {0, 9}, kS), EAGAIN);
  w.unlock(flock_of(1), kWholeFile);
  ASSERT_EQ(w.backing().flocks().outsider_set(1, kWholeFile, kS), 0);
  EXPECT_EQ(w.lock(flock_of(1), kWholeFile, kX), EAGAIN);
  EXPECT_EQ(w.lock(flock_of(1), kWholeFile, kS), 0);
}

TEST(Separate, WaitsForAnOutsidersFlock) {
  PolicyWorld w("conflict_space=separate");
  ASSERT_EQ(w.backing().flocks().outsider_set(1, kWholeFile, kX), 0);
  const AnswerPtr waiting = w.wait(flock_of(1), kWholeFile, kX);
  EXPECT_EQ(w.place(waiting), Place::kOutside);
  EXPECT_TRUE(w.wait(process(1), kWholeFile, kX)->granted());
  w.backing().flocks().outsider_leaves(1);
  w.deliver();
  EXPECT_TRUE(waiting->granted());
  const AnswerPtr next = w.wait(flock_of(2), kWholeFile, kX);
  w.unlock(process(1), kWholeFile);
  EXPECT_TRUE(next->waiting());
  w.unlock(flock_of(1), kWholeFile);
  EXPECT_TRUE(next->granted());
}

// -- same process
// ----------------------------------------------------------------------------------

TEST(SameProcess, ExemptLetsOneProgramTakeBoth) {
  PolicyWorld w("same_process=exempt");
  ASSERT_EQ(w.lock(flock_of(1), kWholeFile, kX, {.pid = 7}), 0);
  EXPECT_EQ(w.lock(process(1), {0, 9}, kX, {.pid = 7}), 0);
  EXPECT_EQ(w.lock(process(2), {20, 29}, kS, {.pid = 8}), EAGAIN);
  EXPECT_EQ(w.lock(flock_of(2), kWholeFile, kS, {.pid = 7}), EAGAIN) << "two flocks still conflict";
  // The record lock stays at the backing when the flock goes, and keeps others out.
  w.unlock(flock_of(1), kWholeFile);
  EXPECT_EQ(to_text(w.backing().held()), "X[0,9] ");
  EXPECT_EQ(w.lock(flock_of(3), kWholeFile, kS, {.pid = 8}), EAGAIN);
}

TEST(SameProcess, WhoAsksThroughAnInheritedFileDoesNotChangeWhoHolds) {
  PolicyWorld w("same_process=exempt");
  ASSERT_EQ(w.lock(flock_of(1), kWholeFile, kX, {.pid = 7}), 0);
  ASSERT_EQ(w.lock(process(1), {0, 9}, kX, {.pid = 7}), 0);
  // A child asks again for what the parent's open file holds: still the parent's process.
  ASSERT_EQ(w.lock(flock_of(1), kWholeFile, kX, {.pid = 8}), 0);
  EXPECT_EQ(w.lock(process(1), {10, 19}, kX, {.pid = 7}), 0);
  EXPECT_EQ(w.lock(process(2), {30, 39}, kX, {.pid = 8}), EAGAIN);
}

TEST(SameProcess, ExemptRequestsDoNotQueueBehindEachOther) {
  PolicyWorld w("same_process=exempt");
  ASSERT_EQ(w.lock(ofd(9), {0, 9}, kX), 0);
  const AnswerPtr waiting = w.wait(flock_of(1), kWholeFile, kX, {.pid = 7});
  ASSERT_TRUE(waiting->waiting());
  EXPECT_TRUE(w.wait(process(1), {20, 29}, kX, {.pid = 7})->granted());
  EXPECT_TRUE(w.wait(process(2), {40, 49}, kX, {.pid = 8})->waiting());
}

// -- order
// -----------------------------------------------------------------------------------------

TEST(Readers, PassWaitingWriters) {
  PolicyWorld w("fairness=readers");
  ASSERT_EQ(w.lock(ofd(1), kWholeFile, kS), 0);
  const AnswerPtr writer = w.wait(ofd(2), kWholeFile, kX);
  ASSERT_TRUE(writer->waiting());
  EXPECT_TRUE(w.wait(ofd(3), kWholeFile, kS)->granted());
  EXPECT_TRUE(writer->waiting());
  w.unlock(ofd(1), kWholeFile);
  EXPECT_TRUE(writer->waiting());
  w.unlock(ofd(3), kWholeFile);
  EXPECT_TRUE(writer->granted());
}

TEST(Readers, GoFirstWhenALockIsReleased) {
  PolicyWorld w("fairness=readers");
  ASSERT_EQ(w.lock(ofd(1), kWholeFile, kX), 0);
  const AnswerPtr writer = w.wait(ofd(2), kWholeFile, kX);
  const AnswerPtr reader = w.wait(ofd(3), kWholeFile, kS);
  w.unlock(ofd(1), kWholeFile);
  EXPECT_TRUE(reader->granted());
  EXPECT_TRUE(writer->waiting());
}

/// Readers overlap without end; says after how many of them a waiting writer was granted.
template <typename World>
int readers_until_writer(World& w) {
  EXPECT_EQ(w.lock(ofd(1), kWholeFile, kS), 0);
  const AnswerPtr writer = w.wait(ofd(1000), kWholeFile, kX);
  for (int n = 2; n < 1000; ++n) {
    const AnswerPtr reader = w.wait(ofd(static_cast<std::uint64_t>(n)), kWholeFile, kS);
    w.unlock(ofd(static_cast<std::uint64_t>(n) - 1), kWholeFile);
    if (!reader->granted()) {
      EXPECT_TRUE(writer->granted());
      return n - 2;
    }
  }
  return -1;
}

TEST(Readers, PassAWriterABoundedNumberOfTimes) {
  PolicyWorld w("fairness=readers");
  const int passes = readers_until_writer(w);
  EXPECT_GT(passes, 0);
  EXPECT_LE(passes, static_cast<int>(2 * PassBound::kMost));
}

TEST(Fifo, NobodyPasses) {
  PolicyWorld w("nfs");
  EXPECT_EQ(readers_until_writer(w), 0);
}

TEST(Newcomers, PassForEver) {
  PolicyWorld w("fairness=newcomers");
  EXPECT_EQ(readers_until_writer(w), -1);
}

TEST(Readers, ThoseBehindAWriterThatIsPassedNoMoreKeepTheirOrder) {
  PolicyWorld w("fairness=readers");
  ASSERT_EQ(w.lock(ofd(1), {0, 99}, kS), 0);
  const AnswerPtr first = w.wait(ofd(500), {0, 49}, kX);
  const AnswerPtr second = w.wait(ofd(501), {40, 99}, kX);
  EXPECT_EQ(w.place(second), Place::kBehind);
  // Only the second is passed until both are due.
  for (std::uint64_t n = 0; n <= 2 * PassBound::kMost; ++n) {
    const OwnerId reader = ofd(2 + n);
    if (!w.wait(reader, {90, 99}, kS)->granted()) break;
    w.unlock(reader, kWholeFile);
  }
  const AnswerPtr late = w.wait(ofd(502), {0, 99}, kS);
  EXPECT_TRUE(late->waiting());
  w.unlock(ofd(1), kWholeFile);
  EXPECT_TRUE(first->granted());
  EXPECT_TRUE(second->waiting());
  w.unlock(ofd(500), kWholeFile);
  EXPECT_TRUE(second->granted());
}

TEST(Writers, PassWaitingReaders) {
  PolicyWorld w("fairness=writers");
  ASSERT_EQ(w.lock(ofd(1), kWholeFile, kX), 0);
  const AnswerPtr reader = w.wait(ofd(2), kWholeFile, kS);
  const AnswerPtr writer = w.wait(ofd(3), kWholeFile, kX);
  w.unlock(ofd(1), kWholeFile);
  EXPECT_TRUE(writer->granted());
  EXPECT_TRUE(reader->waiting());
  const AnswerPtr next = w.wait(ofd(4), kWholeFile, kX);
  w.unlock(ofd(3), kWholeFile);
  EXPECT_TRUE(next->granted());
  w.unlock(ofd(4), kWholeFile);
  EXPECT_TRUE(reader->granted());
}

TEST(Writers, PassAReaderABoundedNumberOfTimes) {
  PolicyWorld w("fairness=writers");
  ASSERT_EQ(w.lock(ofd(1), kWholeFile, kX), 0);
  const AnswerPtr reader = w.wait(ofd(2000), kWholeFile, kS);
  std::uint64_t passes = 0;
  for (std::uint64_t n = 2; reader->waiting() && n < 1000; ++n, ++passes) {
    const AnswerPtr writer = w.wait(ofd(n), kWholeFile, kX);
    w.unlock(ofd(n - 1), kWholeFile);
    if (reader->granted()) w.unlock(ofd(2000), kWholeFile);
  }
  EXPECT_TRUE(reader->granted());
  EXPECT_GT(passes, 1U);
  EXPECT_LE(passes, 2 * PassBound::kMost + 1);
}

TEST(Newcomers, AreGrantedWhateverWaits) {
  PolicyWorld w("fairness=newcomers");
  ASSERT_EQ(w.lock(ofd(1), {0, 9}, kX), 0);
  const AnswerPtr waiting = w.wait(ofd(2), {0, 99}, kX);
  ASSERT_EQ(w.place(waiting), Place::kBlocked);
  EXPECT_TRUE(w.wait(ofd(3), {50, 59}, kX)->granted());
  EXPECT_FALSE(w.manager().has_queued());
  w.unlock(ofd(1), kWholeFile);
  EXPECT_TRUE(waiting->waiting());
  w.unlock(ofd(3), kWholeFile);
  EXPECT_TRUE(waiting->granted());
}

// -- hand-over
// -------------------------------------------------------------------------------------

TEST(HandOver, FairLetsOutsidersIn) {
  PolicyWorld w("handover=fair");
  ASSERT_EQ(w.lock(ofd(1), kWholeFile, kX), 0);
  ASSERT_FALSE(w.backing().outsider_wait(1, kWholeFile, kX));
  const AnswerPtr next = w.wait(ofd(2), kWholeFile, kX);
  w.unlock(ofd(1), kWholeFile);
  EXPECT_EQ(to_text(w.backing().held(1)), "X[0,EOF] ");
  EXPECT_TRUE(next->waiting());
  w.backing().outsider_leaves(1);
  w.deliver();
  EXPECT_TRUE(next->granted());
}

TEST(HandOver, LocalKeepsTheBacking) {
  PolicyWorld w("handover=local");
  ASSERT_EQ(w.lock(ofd(1), kWholeFile, kX), 0);
  ASSERT_FALSE(w.backing().outsider_wait(1, kWholeFile, kX));
  const AnswerPtr next = w.wait(ofd(2), {0, 9}, kS);
  w.unlock(ofd(1), kWholeFile);
  EXPECT_TRUE(next->granted());
  // What nobody took over was let go.
  EXPECT_EQ(to_text(w.backing().held()), "S[0,9] ");
  w.unlock(ofd(2), kWholeFile);
  EXPECT_EQ(to_text(w.backing().held(1)), "X[0,EOF] ");
}

// -- deadlock
// --------------------------------------------------------------------------------------

/// Two programs, each with two open files, take two files in opposite order by flock.
int second_flock_of_a_cycle(std::string_view policy) {
  World w({}, 2, policy_of(policy));
  w.use_file(0);
  EXPECT_EQ(w.lock(flock_of(1), kWholeFile, kX, {.tid = 7, .pid = 7}), 0);
  w.use_file(1);
  EXPECT_EQ(w.lock(flock_of(2), kWholeFile, kX, {.tid = 8, .pid = 8}), 0);
  w.use_file(0);
  EXPECT_TRUE(w.wait(flock_of(3), kWholeFile, kX, {.tid = 8, .pid = 8})->waiting());
  w.use_file(1);
  return w.wait(flock_of(4), kWholeFile, kX, {.tid = 7, .pid = 7})->error.value_or(0);
}

TEST(Deadlock, AllCountsFlocksIn) {
  EXPECT_EQ(second_flock_of_a_cycle("deadlock=all"), EDEADLK);
  EXPECT_EQ(second_flock_of_a_cycle("deadlock=process"), 0);
  EXPECT_EQ(second_flock_of_a_cycle("deadlock=off"), 0);
}

TEST(Deadlock, AllSeesOneThatBlocksItself) {
  PolicyWorld w("deadlock=all");
  ASSERT_EQ(w.lock(flock_of(1), kWholeFile, kX, {.tid = 7, .pid = 7}), 0);
  EXPECT_EQ(w.wait(process(1), {0, 9}, kX, {.tid = 7, .pid = 7})->error, EDEADLK);
  EXPECT_TRUE(w.wait(flock_of(2), kWholeFile, kX, {.tid = 9, .pid = 7})->waiting())
      << "another thread may let go";
}

TEST(Deadlock, OffDetectsNone) {
  World w({}, 2, policy_of("deadlock=off"));
  w.use_file(0);
  ASSERT_EQ(w.lock(process(1), kWholeFile, kX), 0);
  w.use_file(1);
  ASSERT_EQ(w.lock(process(2), kWholeFile, kX), 0);
  EXPECT_TRUE(w.wait(process(1), kWholeFile, kX)->waiting());
  w.use_file(0);
  EXPECT_TRUE(w.wait(process(2), kWholeFile, kX)->waiting());
}

// -- conversion
// ------------------------------------------------------------------------------------

TEST(Conversion, DropLosesTheOldFlock) {
  PolicyWorld w("conversion=drop");
  ASSERT_EQ(w.lock(flock_of(1), kWholeFile, kS), 0);
  ASSERT_EQ(w.lock(flock_of(2), kWholeFile, kS), 0);
  EXPECT_EQ(w.lock(flock_of(1), kWholeFile, kX), EAGAIN);
  EXPECT_EQ(w.held(flock_of(1)), "nothing");
  EXPECT_EQ(w.lock(flock_of(2), kWholeFile, kX), 0);
}

TEST(Conversion, KeepKeepsIt) {
  PolicyWorld w("conversion=keep");
  ASSERT_EQ(w.lock(flock_of(1), kWholeFile, kS), 0);
  ASSERT_EQ(w.lock(flock_of(2), kWholeFile, kS), 0);
  EXPECT_EQ(w.lock(flock_of(1), kWholeFile, kX), EAGAIN);
  EXPECT_EQ(w.held(flock_of(1)), "S[0,EOF] ");
  EXPECT_EQ(w.lock(flock_of(2), kWholeFile, kX), EAGAIN);
}

TEST(Conversion, DropLetsTwoUpgradesEndOneAfterTheOther) {
  PolicyWorld w("conversion=drop");
  ASSERT_EQ(w.lock(flock_of(1), kWholeFile, kS), 0);
  ASSERT_EQ(w.lock(flock_of(2), kWholeFile, kS), 0);
  const AnswerPtr one = w.wait(flock_of(1), kWholeFile, kX);
  EXPECT_TRUE(one->waiting());
  EXPECT_EQ(w.held(flock_of(1)), "nothing");
  EXPECT_TRUE(w.wait(flock_of(2), kWholeFile, kX)->granted());
  w.unlock(flock_of(2), kWholeFile);
  EXPECT_TRUE(one->granted());
}

TEST(Conversion, DropIsForFlockAlone) {
  PolicyWorld w("conversion=drop");
  ASSERT_EQ(w.lock(ofd(1), kWholeFile, kS), 0);
  ASSERT_EQ(w.lock(ofd(2), kWholeFile, kS), 0);
  EXPECT_EQ(w.lock(ofd(1), kWholeFile, kX), EAGAIN);
  EXPECT_EQ(w.held(ofd(1)), "S[0,EOF] ");
}

TEST(Conversion, DropAppliesAgainstOutsiders) {
  PolicyWorld w("conversion=drop");
  ASSERT_EQ(w.lock(flock_of(1), kWholeFile, kS), 0);
  ASSERT_EQ(w.backing().outsider_set(1, kWholeFile, kS), 0);
  EXPECT_EQ(w.lock(flock_of(1), kWholeFile, kX), EAGAIN);
  EXPECT_EQ(w.held(flock_of(1)), "nothing");
  EXPECT_EQ(to_text(w.backing().held()), "nothing");
}

// -- bypass guard
// ----------------------------------------------------------------------------------

TEST(Guard, CarriesTheStrongestModeAsAFlock) {
  PolicyWorld w("guard=flock");
  ASSERT_EQ(w.lock(ofd(1), {0, 9}, kS), 0);
  EXPECT_EQ(to_text(w.backing().flocks().held()), "S[0,EOF] ");
  ASSERT_EQ(w.lock(process(2), {20, 29}, kX), 0);
  EXPECT_EQ(to_text(w.backing().flocks().held()), "X[0,EOF] ");
  EXPECT_EQ(w.backing().flocks().outsider_set(1, kWholeFile, kS), EAGAIN);
  EXPECT_EQ(w.backing().outsider_set(1, {50, 59}, kX), 0) << "an NFS client does not mind";
  w.unlock(process(2), kWholeFile);
  EXPECT_EQ(to_text(w.backing().flocks().held()), "S[0,EOF] ");
  w.unlock(ofd(1), kWholeFile);
  EXPECT_EQ(to_text(w.backing().flocks().held()), "nothing");
}

TEST(Guard, AFlockOnTheSourceRefusesAndMakesWait) {
  PolicyWorld w("guard=flock");
  FakeBacking& flocks = w.backing().flocks();
  ASSERT_EQ(flocks.outsider_set(1, kWholeFile, kS), 0);
  EXPECT_EQ(w.lock(ofd(1), {0, 9}, kX), EAGAIN);
  EXPECT_EQ(to_text(w.backing().held()), "nothing");
  EXPECT_EQ(w.lock(ofd(1), {0, 9}, kS), 0);
  const AnswerPtr writer = w.wait(ofd(2), {50, 59}, kX);
  EXPECT_EQ(w.place(writer), Place::kOutside);
  EXPECT_EQ(to_text(flocks.held()), "S[0,EOF] ");
  flocks.outsider_leaves(1);
  w.deliver();
  EXPECT_TRUE(writer->granted());
  EXPECT_EQ(to_text(flocks.held()), "X[0,EOF] ");
  w.unlock(ofd(2), kWholeFile);
  EXPECT_EQ(to_text(flocks.held()), "S[0,EOF] ");
}

TEST(Guard, IsLetGoWhenTheRecordLockIsRefused) {
  PolicyWorld w("guard=flock");
  ASSERT_EQ(w.backing().outsider_set(1, {0, 9}, kX), 0);
  EXPECT_EQ(w.lock(ofd(1), {0, 9}, kX), EAGAIN);
  EXPECT_EQ(to_text(w.backing().flocks().held()), "nothing");
  const AnswerPtr waiting = w.wait(ofd(1), {0, 9}, kX);
  EXPECT_EQ(to_text(w.backing().flocks().held()), "nothing");
  ASSERT_EQ(w.backing().flocks().outsider_set(2, kWholeFile, kX), 0);
  w.backing().outsider_leaves(1);
  w.deliver();
  EXPECT_TRUE(waiting->waiting()) << "now the flock is in the way";
  w.backing().flocks().outsider_leaves(2);
  w.deliver();
  EXPECT_TRUE(waiting->granted());
}

TEST(Guard, AWaitForItStandsBackForASharedLockThatCanBeHad) {
  PolicyWorld w("guard=flock");
  FakeBacking& flocks = w.backing().flocks();
  ASSERT_EQ(flocks.outsider_set(1, kWholeFile, kS), 0);
  const AnswerPtr writer = w.wait(ofd(1), {0, 9}, kX);
  const AnswerPtr reader = w.wait(ofd(2), {50, 59}, kS);
  w.deliver();
  EXPECT_TRUE(reader->granted());
  EXPECT_TRUE(writer->waiting());
  EXPECT_EQ(to_text(flocks.held()), "S[0,EOF] ");
  flocks.outsider_leaves(1);
  w.deliver();
  EXPECT_TRUE(writer->granted());
}

// -- lease
// -----------------------------------------------------------------------------------------

using std::chrono::seconds;

struct LeaseWorld : PolicyWorld {
  using PolicyWorld::PolicyWorld;
  void pass(seconds time) {
    now_ += time;
    manager().set_time(now_);
    relent(seconds(0));
  }

 private:
  LockManager::Clock::time_point now_ = [this] {
    const LockManager::Clock::time_point start(seconds(1000));
    manager().set_time(start);
    return start;
  }();
};

TEST(Lease, BreaksALockThatOthersHaveWaitedForThatLong) {
  LeaseWorld w("lease=10");
  ASSERT_EQ(w.lock(process(1), {0, 99}, kX), 0);
  w.pass(seconds(100));
  EXPECT_EQ(w.held(process(1)), "X[0,99] ") << "nobody wants it";
  const AnswerPtr waiting = w.wait(ofd(2), {50, 59}, kX);
  w.pass(seconds(9));
  EXPECT_TRUE(waiting->waiting());
  w.pass(seconds(1));
  EXPECT_TRUE(waiting->granted());
  EXPECT_EQ(w.held(process(1)), "nothing");
  ASSERT_EQ(w.notes().leases.size(), 1U);
  EXPECT_EQ(w.notes().leases.front().owner, process(1));
  EXPECT_EQ(w.count(Counter::kRevocations), 1U);
}

TEST(Lease, CountsFromTheGrantForOneWhoWaitedBefore) {
  LeaseWorld w("lease=10");
  ASSERT_EQ(w.lock(ofd(1), kWholeFile, kX), 0);
  const AnswerPtr first = w.wait(ofd(2), kWholeFile, kX);
  const AnswerPtr second = w.wait(ofd(3), kWholeFile, kX);
  w.pass(seconds(11));
  EXPECT_TRUE(first->granted());
  w.pass(seconds(9));
  EXPECT_TRUE(second->waiting());
  w.pass(seconds(2));
  EXPECT_TRUE(second->granted());
}

TEST(Lease, BreaksOnlyWhatStandsInTheWay) {
  LeaseWorld w("lease=10");
  ASSERT_EQ(w.lock(ofd(1), {0, 9}, kX), 0);
  ASSERT_EQ(w.lock(ofd(1), {20, 29}, kX), 0);
  const AnswerPtr waiting = w.wait(ofd(2), {0, 9}, kS);
  w.pass(seconds(11));
  EXPECT_TRUE(waiting->granted());
  EXPECT_EQ(w.held(ofd(1)), "X[20,29] ");
}

TEST(LeaseWaiters, BreaksALockThatTooManyWaitFor) {
  LeaseWorld w("lease_waiters=3");
  ASSERT_EQ(w.lock(ofd(1), kWholeFile, kX), 0);
  std::vector<AnswerPtr> waiting;
  for (std::uint64_t n = 2; n < 5; ++n) waiting.push_back(w.wait(ofd(n), kWholeFile, kX));
  w.pass(seconds(3600));
  EXPECT_TRUE(waiting.front()->waiting());
  waiting.push_back(w.wait(ofd(5), kWholeFile, kX));
  w.pass(seconds(0));
  EXPECT_TRUE(waiting.front()->granted());
  EXPECT_TRUE(waiting[1]->waiting());
}

}  // namespace
}  // namespace lockmgr
