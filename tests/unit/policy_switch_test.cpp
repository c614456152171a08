// Switching the policy while locks are held and awaited.
#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <string_view>
#include <thread>
#include <vector>

#include "lockmgr/policy.h"
#include "tests/unit/random.h"
#include "tests/unit/world.h"

namespace lockmgr {
namespace {

using namespace testing;  // NOLINT(google-build-using-namespace): the vocabulary of these tests

Policy policy_of(std::string_view text) {
  Policy policy;
  EXPECT_EQ(Policy::parse(text, {}, policy), "");
  return policy;
}

PolicySwitch switch_to(World& w, std::string_view policy) {
  const PolicySwitch report = w.manager().switch_policy(policy_of(policy));
  EXPECT_EQ(report.to, policy_of(policy));
  EXPECT_EQ(w.manager().policy(), policy_of(policy));
  w.inspect();
  return report;
}

TEST(Switch, MovesFlocksToFlocksAndBack) {
  World w;
  ASSERT_EQ(w.lock(flock_of(1), kWholeFile, kX), 0);
  EXPECT_EQ(switch_to(w, "linux").locks, 1U);
  EXPECT_EQ(to_text(w.backing().held()), "nothing");
  EXPECT_EQ(to_text(w.backing().flocks().held()), "X[0,EOF] ");
  EXPECT_EQ(w.lock(process(2), {0, 9}, kX), 0);
  const PolicySwitch back = switch_to(w, "nfs");
  EXPECT_EQ(back.conflicting, 2U) << "each is one that nfs would not grant beside the other";
  EXPECT_EQ(back.not_carried, 0U);
  EXPECT_EQ(to_text(w.backing().held()), "X[0,EOF] ");
  EXPECT_EQ(to_text(w.backing().flocks().held()), "nothing");
  // Both are held; a third is refused, and so is what would be a new lock of one of them.
  EXPECT_EQ(w.lock(ofd(3), {50, 59}, kS), EAGAIN);
  EXPECT_EQ(w.lock(process(2), {20, 29}, kX), EAGAIN);
  w.unlock(flock_of(1), kWholeFile);
  EXPECT_EQ(to_text(w.backing().held()), "X[0,9] ");
  EXPECT_EQ(w.lock(process(2), {20, 29}, kX), 0);
}

// As when a few hundred processes share a file: all must find room in the tree of the other space.
TEST(Switch, MovesManyFlocks) {
  for (const std::uint64_t count : {24, 25, 60, 300}) {
    World w;
    for (std::uint64_t n = 1; n <= count; ++n) {
      ASSERT_EQ(w.lock(flock_of(n), kWholeFile, kS), 0);
    }
    EXPECT_EQ(switch_to(w, "linux").locks, count);
    EXPECT_EQ(to_text(w.backing().held()), "nothing");
    EXPECT_EQ(to_text(w.backing().flocks().held()), "S[0,EOF] ");
    for (std::uint64_t n = 1; n <= count; n += 2) w.unlock(flock_of(n), kWholeFile);
    const PolicySwitch back = switch_to(w, "nfs");
    EXPECT_EQ(back.locks, count / 2);
    EXPECT_EQ(back.left_behind, 0U);
    EXPECT_EQ(w.held(flock_of(2)), "S[0,EOF] ");
  }
}

TEST(Switch, SaysWhatAnOutsiderKeepsFromBeingCarried) {
  World w({}, 1, policy_of("linux"));
  ASSERT_EQ(w.lock(flock_of(1), kWholeFile, kX), 0);
  ASSERT_EQ(w.backing().outsider_set(1, {0, 9}, kX), 0);
  w.mirror_checked = false;
  const PolicySwitch report = switch_to(w, "nfs");
  EXPECT_EQ(report.not_carried, 1U);
  EXPECT_EQ(w.held(flock_of(1)), "X[0,EOF] ");
  // It is carried with the first request after the outsider has gone.
  w.backing().outsider_leaves(1);
  EXPECT_EQ(w.lock(ofd(2), {0, 9}, kS), EAGAIN);
  EXPECT_EQ(to_text(w.backing().held()), "X[0,EOF] ");
  w.mirror_checked = true;
  w.inspect();
}

TEST(Switch, GrantsWaitersThatTheNewPolicyLetsIn) {
  World w;
  ASSERT_EQ(w.lock(flock_of(1), kWholeFile, kX, {.pid = 7}), 0);
  const AnswerPtr own = w.wait(process(1), {0, 9}, kX, {.pid = 7});
  const AnswerPtr other = w.wait(process(2), {20, 29}, kX, {.pid = 8});
  const PolicySwitch report = switch_to(w, "dual");
  EXPECT_TRUE(own->granted());
  EXPECT_TRUE(other->waiting());
  EXPECT_EQ(report.waiters, 2U);
  EXPECT_EQ(report.granted, 1U);
}

TEST(Switch, PutsWaitersInTheNewOrder) {
  World w;
  ASSERT_EQ(w.lock(ofd(1), kWholeFile, kX), 0);
  const AnswerPtr reader = w.wait(ofd(2), kWholeFile, kS);
  const AnswerPtr writer = w.wait(ofd(3), kWholeFile, kX);
  switch_to(w, "nfs,fairness=writers");
  w.unlock(ofd(1), kWholeFile);
  EXPECT_TRUE(writer->granted());
  EXPECT_TRUE(reader->waiting());
  switch_to(w, "nfs");
  w.unlock(ofd(3), kWholeFile);
  EXPECT_TRUE(reader->granted());
}

TEST(Switch, NewcomersPolicyLetsThoseGoWhoOnlyQueued) {
  World w;
  ASSERT_EQ(w.lock(ofd(1), kWholeFile, kS), 0);
  const AnswerPtr writer = w.wait(ofd(2), kWholeFile, kX);
  const AnswerPtr reader = w.wait(ofd(3), kWholeFile, kS);
  switch_to(w, "nfs,fairness=newcomers");
  EXPECT_TRUE(reader->granted());
  EXPECT_TRUE(writer->waiting());
}

TEST(Switch, RefusesTheLatestOfACycleThatIsNowLookedFor) {
  World w({}, 2, policy_of("deadlock=off"));
  w.use_file(0);
  ASSERT_EQ(w.lock(process(1), kWholeFile, kX), 0);
  w.use_file(1);
  ASSERT_EQ(w.lock(process(2), kWholeFile, kX), 0);
  const AnswerPtr one = w.wait(process(1), kWholeFile, kX);
  w.use_file(0);
  const AnswerPtr two = w.wait(process(2), kWholeFile, kX);
  ASSERT_TRUE(one->waiting() && two->waiting());
  EXPECT_EQ(switch_to(w, "nfs").deadlocks, 1U);
  EXPECT_NE(one->waiting(), two->waiting());
  EXPECT_EQ((one->waiting() ? two : one)->error, EDEADLK);
}

// A completion may ask for the next lock, also where it is a switch that decides.
TEST(Switch, ACompletionMayPark) {
  World w({}, 2);
  ASSERT_EQ(w.lock(flock_of(1), kWholeFile, kX), 0);
  AnswerPtr next;
  const AnswerPtr answer = w.wait(process(2), {0, 9}, kX);
  w.use_file(1);
  ASSERT_EQ(w.lock(process(3), {0, 9}, kX), 0);
  answer->then = [&] { next = w.wait(process(2), {0, 9}, kX); };
  EXPECT_TRUE(answer->waiting());
  switch_to(w, "linux");
  EXPECT_TRUE(answer->granted());
  ASSERT_NE(next, nullptr);
  EXPECT_EQ(w.place(next), Waiter::Place::kBlocked);
  w.unlock(process(3), kWholeFile);
  EXPECT_TRUE(next->granted());
}

TEST(Switch, WaitsOutsideGoOnWhereTheNewPolicyHasThem) {
  World w;
  ASSERT_EQ(w.backing().outsider_set(1, kWholeFile, kX), 0);
  const AnswerPtr flock = w.wait(flock_of(1), kWholeFile, kX);
  const AnswerPtr record = w.wait(process(2), {0, 9}, kX);
  ASSERT_TRUE(flock->waiting());
  switch_to(w, "linux");
  w.deliver();
  EXPECT_TRUE(flock->granted()) << "an NFS client's lock does not keep a Linux flock out";
  EXPECT_TRUE(record->waiting());
  w.backing().outsider_leaves(1);
  w.deliver();
  EXPECT_TRUE(record->granted());
}

TEST(Switch, NewFilesHaveTheNewPolicy) {
  LockManager manager({}, {}, nullptr);
  manager.switch_policy(policy_of("linux"));
  {
    const auto file = manager.open_file({1, 1}, std::make_unique<NoBacking>());
    Opened one(true, false);
    const Request request{flock_of(1), {}, kWholeFile, kX, false};
    EXPECT_EQ(file->try_now(one, request), 0) << "open mode is relaxed";
    file->close(one);
  }
}

/// Threads lock, wait and leave while the policy changes all the time.
TEST(Switch, UnderLoad) {
  constexpr int kThreads = 4;
  LockManager manager({}, {}, nullptr);
  std::vector<std::shared_ptr<FileLocks>> files;
  for (std::uint64_t i = 1; i < 3; ++i) {
    files.push_back(manager.open_file({1, i}, std::make_unique<NoBacking>()));
  }
  std::atomic<bool> ended{false};
  std::atomic<int> answered{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      Random random(static_cast<std::uint64_t>(t) + 1);
      const auto id = static_cast<std::uint64_t>(t) + 1;
      std::array<std::unique_ptr<Opened>, 2> opened;
      for (auto& o : opened) o = std::make_unique<Opened>(true, true);
      while (!ended) {
        const std::size_t n = random.below(2);
        const OwnerId owner = random.one_in(3)   ? process(id)
                              : random.one_in(2) ? ofd(id * 2 + n)
                                                 : flock_of(id * 2 + n);
        const Offset first = random.between(0, 50);
        const Range range = owner.type == OwnerType::kFlock ? kWholeFile : Range{first, first + 10};
        const Request request{owner,
                              {t + 1, t + 1, 0},
                              range,
                              random.one_in(3)   ? kU
                              : random.one_in(2) ? kS
                                                 : kX,
                              random.one_in(2)};
        std::atomic<int> result{-1};
        std::optional<int> now = files[n]->try_now(*opened[n], request);
        if (!now) {
          const Ticket ticket = manager.new_ticket();
          now = files[n]->park(*opened[n], request, ticket, [&](int error) { result = error; });
          if (!now) manager.cancel(ticket, EINTR);
          while (!now && result < 0) std::this_thread::yield();
        }
        ++answered;
      }
      for (std::size_t n = 0; n < 2; ++n) {
        files[n]->close_by_process(process(id).cookie);
        files[n]->close(*opened[n]);
      }
    });
  }
  const char* const policies[] = {"linux",          "nfs",  "bsd,fairness=readers",
                                  "samba-friendly", "dual", "nfs,fairness=writers,handover=local",
                                  "gluster"};
  for (int round = 0; round < 700; ++round) {
    manager.switch_policy(policy_of(policies[round % 7]));
    for (const auto& file : files) EXPECT_STREQ(file->check(), nullptr);
    while (answered < round * 10) std::this_thread::yield();
  }
  ended = true;
  for (auto& thread : threads) thread.join();
  for (const auto& file : files) EXPECT_TRUE(file->quiet());
  EXPECT_STREQ(manager.check(), nullptr);
}

}  // namespace
}  // namespace lockmgr
