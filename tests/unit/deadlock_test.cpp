// The search for cycles: exact, and each lock looked at once.
#include "lockmgr/deadlock.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cerrno>
#include <set>
#include <utility>
#include <vector>

#include "lockmgr/wait_nodes.h"
#include "tests/unit/random.h"
#include "tests/unit/world.h"

namespace lockmgr {
namespace {

using namespace testing;  // NOLINT(google-build-using-namespace): the vocabulary of these tests

// Thousands hold one file and wait for another that thousands hold: each further request took the
// product of the two, and everybody's requests waited for that.
TEST(DeadlockSearch, LooksAtEachLockOnce) {
  constexpr std::uint64_t kHolders = 300;
  constexpr std::uint64_t kMore = 12;
  for (const bool equal : {true, false}) {
    World w({}, 2);
    for (std::uint64_t n = 0; n < kHolders; ++n) {
      w.use_file(0);
      ASSERT_EQ(w.lock(process(n), kWholeFile, kS), 0);
      w.use_file(1);
      ASSERT_EQ(w.lock(process(kHolders + n), {0, 999}, kS), 0);
    }
    for (std::uint64_t n = 0; n < kHolders; ++n) {
      const Range range = equal ? kWholeFile : Range{static_cast<Offset>(n), kEof};
      ASSERT_TRUE(w.wait(process(n), range, kX)->waiting());
    }
    const std::uint64_t before = w.count(Counter::kDeadlockLooks);
    w.use_file(0);
    for (std::uint64_t n = 0; n < kMore; ++n) {
      ASSERT_TRUE(w.wait(process(3 * kHolders + n), kWholeFile, kX)->waiting());
    }
    // Ranges that overlap without being equal add a stretch of their own each.
    const std::uint64_t each = equal ? 2 * kHolders : kHolders * (kHolders + 1);
    EXPECT_LE(w.count(Counter::kDeadlockLooks) - before, kMore * each);
    // The last one closes a circle all the same.
    w.use_file(0);
    EXPECT_EQ(w.wait(process(kHolders), kWholeFile, kX)->error, EDEADLK);
  }
}

// What one that waits passes by, since it is its own, is in the way of another.
TEST(DeadlockSearch, WhatOnePassesByIsInTheWayOfAnother) {
  World w;
  for (const std::uint64_t n : {1, 2, 3}) ASSERT_EQ(w.lock(process(n), kWholeFile, kS), 0);
  EXPECT_TRUE(w.wait(process(1), kWholeFile, kX)->waiting());
  EXPECT_EQ(w.wait(process(2), kWholeFile, kX)->error, EDEADLK);
  EXPECT_EQ(w.wait(process(3), {5, 5}, kX)->error, EDEADLK);
}

// A search that would take long is made later, by another thread, and the last to ask is told.
TEST(DeadlockSearch, PutOffItTellsTheLastToAsk) {
  for (const bool of_last_first : {true, false}) {
    World w({}, 3);
    w.searches = false;
    w.manager().set_short_search(0);
    for (int n = 0; n < 3; ++n) {
      w.use_file(n);
      ASSERT_EQ(w.lock(process(static_cast<std::uint64_t>(n)), {0, 9}, kX), 0);
    }
    const auto waits = [&](std::uint64_t who, int file, uid_t uid) {
      w.use_file(file);
      return w.wait(process(who), {5, 5}, kS, {.uid = uid});
    };
    // Users take turns from the smallest number on.
    const AnswerPtr first = waits(0, 1, of_last_first ? 30 : 10);
    const AnswerPtr second = waits(1, 2, 20);
    const AnswerPtr last = waits(2, 0, of_last_first ? 10 : 30);
    EXPECT_TRUE(first->waiting() && second->waiting() && last->waiting());
    EXPECT_TRUE(w.manager().has_searches());
    w.search();
    EXPECT_TRUE(first->waiting() && second->waiting());
    EXPECT_EQ(last->error, EDEADLK);
    EXPECT_EQ(w.count(Counter::kDeadlocks), 1U);
    ASSERT_EQ(w.notes().cycles.size(), 1U);
    EXPECT_EQ(w.notes().cycles[0].size(), 3U);
    w.use_file(2);
    w.unlock(process(2), kWholeFile);
    EXPECT_TRUE(second->granted());
  }
}

TEST(DeadlockSearch, PutOffItSkipsThoseWhoAreGone) {
  World w;
  w.searches = false;
  w.manager().set_short_search(0);
  ASSERT_EQ(w.lock(process(1), {0, 9}, kX), 0);
  const AnswerPtr answer = w.wait(process(2), {0, 9}, kX);
  w.cancel(answer);
  w.search();
  EXPECT_EQ(answer->completions, 1);
  EXPECT_FALSE(w.manager().has_searches());
}

/// The graph as the lists of locks and waiters have it, edge by edge.
class Graph {
 public:
  using Node = WaitGraph::Node;

  /// With `request` asked for on file `asked`: what its owner holds there is its thread's from then
  /// on.
  Graph(World& world, int files, const Request& request, int asked)
      : policy_(world.manager().policy()) {
    for (int file = 0; file < files; ++file) {
      world.use_file(file);
      auto locks = world.file().locks();
      for (LockView& lock : locks) {
        if (file == asked && lock.owner == request.owner) lock.caller = request.caller;
      }
      for (const WaitView& wait : world.file().waiters()) add(wait.request, locks);
      if (file == asked) starts_ = blockers(request, locks);
    }
  }

  /// Whether the request would close a cycle.
  [[nodiscard]] bool closes_cycle(const Request& request) {
    std::set<Node> reached;
    std::vector<Node> next;
    const auto reach = [&](Node node) {
      if (reached.insert(node).second) next.push_back(node);
    };
    for (const Node node : starts_) reach(node);
    while (!next.empty()) {
      const Node node = next.back();
      next.pop_back();
      for (const auto& [from, to] : edges_) {
        if (from == node) reach(to);
      }
    }
    const auto goals =
        waiting_nodes(policy_, party_of(request.owner, request.caller), request.caller);
    return std::any_of(goals.begin(), goals.end(),
                       [&](const auto& goal) { return goal && reached.contains(*goal); });
  }

 private:
  static Party party_of(const OwnerId& owner, const Caller& caller) { return {owner, caller.pid}; }

  [[nodiscard]] std::vector<Node> blockers(const Request& request,
                                           const std::vector<LockView>& locks) const {
    std::vector<Node> found;
    const Party party = party_of(request.owner, request.caller);
    for (const LockView& lock : locks) {
      const Party holder = party_of(lock.owner, lock.caller);
      if (!lock.range.overlaps(request.range) || !modes_conflict(lock.mode, request.mode)) continue;
      if (!policy_.excludes(holder, party)) continue;
      if (const auto node = holder_node(policy_, holder, lock.caller)) found.push_back(*node);
    }
    return found;
  }
  void add(const Request& request, const std::vector<LockView>& locks) {
    const Party party = party_of(request.owner, request.caller);
    for (const auto& from : waiting_nodes(policy_, party, request.caller)) {
      if (!from) continue;
      for (const Node to : blockers(request, locks)) edges_.insert({*from, to});
    }
  }

  const Policy policy_;
  std::vector<Node> starts_;
  std::set<std::pair<Node, Node>> edges_;
};

struct Counts {
  int closed = 0;
  int open = 0;
};

/// Random locks, then random waits by any thread of any process.
void play(const char* policy_text, std::uint64_t most, std::uint64_t seed, Counts& counts) {
  Policy policy;
  ASSERT_EQ(Policy::parse(policy_text, {}, policy), "");
  Random random(seed);
  const int files = random.between(1, 3);
  const int owners = random.between(2, 7);
  World w({}, files, policy);
  w.manager().set_short_search(most);
  const bool all = policy.deadlock == Deadlock::kAll;
  const auto some_owner = [&] {
    const auto n = random.below(static_cast<std::uint64_t>(owners));
    if (!all || random.one_in(3)) return process(n);
    return random.one_in(2) ? ofd(n) : flock_of(n);
  };
  const auto some_range = [&](const OwnerId& owner) {
    if (owner.type == OwnerType::kFlock) return kWholeFile;
    const Offset first = random.between(0, 5);
    return random.one_in(6) ? Range{first, kEof} : Range{first, first + random.between(0, 3)};
  };
  const auto by = [&](const OwnerId& owner) {
    // A process for each owner, with two threads.
    const auto pid = static_cast<pid_t>(100 + World::number_of(owner) % 1000);
    return How{.tid = 10 * pid + random.between(0, 1), .pid = pid};
  };
  const auto mode = [&] { return random.one_in(2) ? kS : kX; };
  const int locks = random.between(2, 14);
  for (int i = 0; i < locks; ++i) {
    w.use_file(random.between(0, files - 1));
    const OwnerId owner = some_owner();
    std::ignore = w.lock(owner, some_range(owner), mode(), by(owner));
  }
  const int waits = random.between(2, 14);
  for (int i = 0; i < waits; ++i) {
    const OwnerId owner = some_owner();
    const How how = by(owner);
    const Request request{owner, {how.pid, how.tid, how.uid}, some_range(owner), mode(), true};
    const int file = random.between(0, files - 1);
    const bool closes = Graph(w, files, request, file).closes_cycle(request);
    w.use_file(file);
    const AnswerPtr answer = w.wait(owner, request.range, request.mode, how);
    if (answer->granted()) continue;
    ASSERT_EQ(answer->error == EDEADLK, closes) << policy_text << " seed " << seed;
    ++(closes ? counts.closed : counts.open);
  }
}

void play_many(const char* policy_text, std::uint64_t most) {
  const std::uint64_t seed = test_seed();
  Counts counts;
  for (int i = 0; i < scaled(3000); ++i) {
    play(policy_text, most, seed + static_cast<std::uint64_t>(i), counts);
    if (::testing::Test::HasFailure()) return;
  }
  EXPECT_GT(counts.closed, 0);
  EXPECT_GT(counts.open, 0);
}

TEST(DeadlockSearch, AgreesWithTheGraphEdgeByEdge) { play_many("nfs", 1000); }
TEST(DeadlockSearch, AgreesWithTheGraphOfAllOwners) { play_many("nfs,deadlock=all", 1000); }
TEST(DeadlockSearch, AgreesWithTheGraphWherePutOff) {
  for (const std::uint64_t most : {0, 2, 5}) {
    play_many("nfs", most);
    play_many("nfs,deadlock=all", most);
  }
}

}  // namespace
}  // namespace lockmgr
