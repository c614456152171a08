#include "lockmgr/accounting.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "tests/unit/random.h"

namespace lockmgr {
namespace {

using Kind = Tally::Kind;

TEST(Tally, ChargesTheDifferenceAndGivesItBack) {
  Ledger ledger({});
  {
    Tally a(ledger, 1, Kind::kLocks);
    Tally b(ledger, 1, Kind::kLocks);
    Tally w(ledger, 1, Kind::kWaiters);
    a.set(5);
    b.set(7);
    w.set(1);
    EXPECT_EQ(ledger.locks(), 12U);
    EXPECT_EQ(ledger.waiters(), 1U);
    a.set(2);
    EXPECT_EQ(a.charged(), 2U);
    EXPECT_EQ(ledger.locks(), 9U);
    b.set(0);
    EXPECT_EQ(ledger.locks(), 2U);
  }
  EXPECT_EQ(ledger.locks(), 0U);
  EXPECT_EQ(ledger.waiters(), 0U);
}

TEST(Tally, LimitPerOwnerIsExact) {
  Limits limits;
  limits.locks_per_owner = 3;
  Ledger ledger(limits);
  Tally a(ledger, 1, Kind::kLocks);
  EXPECT_FALSE(a.would_break(3));
  EXPECT_EQ(a.would_break(4), Limit::kLocksPerOwner);
  a.set(2);
  EXPECT_FALSE(a.would_break(1));
  EXPECT_EQ(a.would_break(2), Limit::kLocksPerOwner);
  a.set(3);
  EXPECT_EQ(a.would_break(1), Limit::kLocksPerOwner);
  // An unlock that splits a lock is not refused, so a count may exceed its limit.
  a.set(4);
  EXPECT_EQ(a.would_break(1), Limit::kLocksPerOwner);
  // Another owner of the same user has a limit of its own.
  Tally b(ledger, 1, Kind::kLocks);
  EXPECT_FALSE(b.would_break(3));
}

TEST(Tally, LimitPerUserIsExact) {
  Limits limits;
  limits.locks_per_user = 10;
  Ledger ledger(limits);
  Tally a(ledger, 1, Kind::kLocks);
  Tally b(ledger, 1, Kind::kLocks);
  Tally other(ledger, 2, Kind::kLocks);
  a.set(6);
  b.set(3);
  EXPECT_FALSE(b.would_break(1));
  EXPECT_EQ(b.would_break(2), Limit::kLocksPerUser);
  EXPECT_FALSE(other.would_break(10));
  b.set(4);
  EXPECT_EQ(a.would_break(1), Limit::kLocksPerUser);
  a.set(5);
  EXPECT_FALSE(b.would_break(1));
}

TEST(Tally, LimitInAllIsExact) {
  Limits limits;
  limits.locks = 10;
  Ledger ledger(limits);
  Tally a(ledger, 1, Kind::kLocks);
  Tally b(ledger, 2, Kind::kLocks);
  a.set(9);
  EXPECT_FALSE(b.would_break(1));
  EXPECT_EQ(b.would_break(2), Limit::kLocks);
  b.set(1);
  EXPECT_EQ(b.would_break(1), Limit::kLocks);
  EXPECT_EQ(a.would_break(1), Limit::kLocks);
}

TEST(Tally, LimitsOfWaiters) {
  Limits limits;
  limits.waiters = 3;
  limits.waiters_per_user = 2;
  limits.locks = 0;
  Ledger ledger(limits);
  std::vector<std::unique_ptr<Tally>> of_one;
  for (int i = 0; i < 2; ++i) {
    of_one.push_back(std::make_unique<Tally>(ledger, 1, Kind::kWaiters));
    EXPECT_FALSE(of_one.back()->would_break(1));
    of_one.back()->set(1);
  }
  Tally third(ledger, 1, Kind::kWaiters);
  EXPECT_EQ(third.would_break(1), Limit::kWaitersPerUser);
  Tally of_two(ledger, 2, Kind::kWaiters);
  EXPECT_FALSE(of_two.would_break(1));
  of_two.set(1);
  Tally of_three(ledger, 3, Kind::kWaiters);
  EXPECT_EQ(of_three.would_break(1), Limit::kWaiters);
  of_one.pop_back();
  EXPECT_FALSE(of_three.would_break(1));
}

TEST(Tally, HugeNumbersDoNotWrap) {
  Limits limits;
  limits.locks = limits.locks_per_user = limits.locks_per_owner = UINT64_MAX;
  Ledger ledger(limits);
  Tally a(ledger, 1, Kind::kLocks);
  a.set(10);
  EXPECT_FALSE(a.would_break(2));
  EXPECT_EQ(a.would_break(UINT64_MAX), Limit::kLocksPerOwner);
}

TEST(Ledger, UserThatComesBackStartsAtNothing) {
  Limits limits;
  limits.locks_per_user = 1;
  Ledger ledger(limits);
  for (int i = 0; i < 3; ++i) {
    Tally a(ledger, 7, Kind::kLocks);
    EXPECT_FALSE(a.would_break(1));
    a.set(1);
    EXPECT_TRUE(a.would_break(1));
  }
}

TEST(Ledger, AccountsOfLiveUsersSurviveManyOthers) {
  Limits limits;
  limits.locks_per_user = 1;
  Ledger ledger(limits);
  Tally kept(ledger, 50'000, Kind::kLocks);
  kept.set(1);
  for (uid_t uid = 0; uid < 5'000; ++uid) {
    Tally passing(ledger, uid, Kind::kLocks);
    passing.set(1);
    EXPECT_TRUE(passing.would_break(1));
  }
  Tally same_user(ledger, 50'000, Kind::kLocks);
  EXPECT_EQ(same_user.would_break(1), Limit::kLocksPerUser);
  EXPECT_EQ(ledger.locks(), 1U);
}

TEST(Ledger, ThousandsOfUsersAtOnce) {
  Ledger ledger({});
  std::vector<std::unique_ptr<Tally>> tallies;
  for (uid_t uid = 0; uid < 3'000; ++uid) {
    tallies.push_back(std::make_unique<Tally>(ledger, uid, Kind::kLocks));
    tallies.back()->set(1);
  }
  EXPECT_EQ(ledger.locks(), 3'000U);
  tallies.clear();
  EXPECT_EQ(ledger.locks(), 0U);
}

TEST(Ledger, RandomChangesNeverDrift) {
  testing::Random random(testing::test_seed());
  Ledger ledger({});
  std::vector<std::unique_ptr<Tally>> tallies;
  for (int step = 0; step < testing::scaled(20'000); ++step) {
    if (tallies.empty() || random.one_in(4)) {
      tallies.push_back(std::make_unique<Tally>(ledger, static_cast<uid_t>(random.below(5)),
                                                random.one_in(2) ? Kind::kLocks : Kind::kWaiters));
    }
    std::unique_ptr<Tally>& tally = tallies[random.below(tallies.size())];
    if (random.one_in(5)) {
      tally = std::move(tallies.back());
      tallies.pop_back();
      continue;
    }
    tally->set(random.below(1000));
  }
  tallies.clear();
  EXPECT_EQ(ledger.locks(), 0U);
  EXPECT_EQ(ledger.waiters(), 0U);
}

TEST(Ledger, ThreadsNeverDrift) {
  Ledger ledger({});
  std::vector<std::thread> threads;
  const int rounds = testing::scaled(20'000);
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&ledger, rounds, t] {
      testing::Random random(static_cast<std::uint64_t>(t));
      for (int i = 0; i < rounds; ++i) {
        Tally tally(ledger, static_cast<uid_t>(random.below(3)),
                    random.one_in(2) ? Kind::kLocks : Kind::kWaiters);
        tally.set(random.below(100));
        tally.would_break(1);
        tally.set(random.below(100));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(ledger.locks(), 0U);
  EXPECT_EQ(ledger.waiters(), 0U);
}

TEST(Limit, NamesAreThoseOfTheCommandLine) {
  EXPECT_EQ(std::string(to_string(Limit::kLocks)), "max_locks");
  EXPECT_EQ(std::string(to_string(Limit::kLocksPerUser)), "max_locks_per_user");
  EXPECT_EQ(std::string(to_string(Limit::kLocksPerOwner)), "max_locks_per_owner");
  EXPECT_EQ(std::string(to_string(Limit::kWaiters)), "max_waiters");
  EXPECT_EQ(std::string(to_string(Limit::kWaitersPerUser)), "max_waiters_per_user");
  EXPECT_EQ(std::string(to_string(Limit::kOutsideWaits)), "max_outside_waits");
  EXPECT_EQ(std::string(to_string(Limit::kOutsideWaitsPerUser)), "max_outside_waits_per_user");
}

}  // namespace
}  // namespace lockmgr
