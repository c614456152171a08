#include "lockmgr/wait_graph.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>

#include "tests/unit/random.h"

namespace lockmgr {
namespace {

using Node = WaitGraph::Node;

class Edges final : public WaitGraph::Source {
 public:
  std::map<Node, std::vector<Node>> to;
  std::map<Node, int> asked;

  void waits_for(Node node, std::vector<Node>& out) override {
    ++asked[node];
    const auto it = to.find(node);
    if (it != to.end()) out.insert(out.end(), it->second.begin(), it->second.end());
  }
};

TEST(WaitGraph, NothingToStartFrom) {
  Edges edges;
  EXPECT_TRUE(WaitGraph::find_path(edges, {}, 1).empty());
}

TEST(WaitGraph, StartIsGoal) {
  Edges edges;
  EXPECT_EQ(WaitGraph::find_path(edges, {1}, 1), std::vector<Node>{1});
}

TEST(WaitGraph, Chain) {
  Edges edges;
  edges.to = {{1, {2}}, {2, {3}}, {3, {4}}};
  EXPECT_EQ(WaitGraph::find_path(edges, {1}, 4), (std::vector<Node>{1, 2, 3, 4}));
  EXPECT_TRUE(WaitGraph::find_path(edges, {4}, 1).empty());
}

TEST(WaitGraph, CyclesAwayFromTheGoalEnd) {
  Edges edges;
  edges.to = {{1, {2, 2, 1}}, {2, {3}}, {3, {1}}};
  EXPECT_TRUE(WaitGraph::find_path(edges, {1}, 9).empty());
  for (const auto& [node, times] : edges.asked) EXPECT_EQ(times, 1) << node;
}

TEST(WaitGraph, LongChainNeedsNoStack) {
  Edges edges;
  constexpr Node kLength = 200'000;
  for (Node n = 1; n < kLength; ++n) edges.to[n] = {n + 1};
  EXPECT_EQ(WaitGraph::find_path(edges, {1}, kLength).size(), kLength);
}

TEST(WaitGraph, AgreesWithTransitiveClosure) {
  testing::Random random(testing::test_seed());
  const int rounds = testing::scaled(3000);
  int found = 0;
  for (int round = 0; round < rounds; ++round) {
    const auto nodes = static_cast<std::size_t>(random.between(1, 12));
    Edges edges;
    std::vector<std::vector<char>> reaches(nodes, std::vector<char>(nodes, 0));
    for (std::size_t i = 0; i < nodes; ++i) reaches[i][i] = 1;
    const int count = random.between(0, static_cast<int>(nodes) * 2);
    for (int e = 0; e < count; ++e) {
      const std::size_t from = random.below(nodes);
      const std::size_t to = random.below(nodes);
      edges.to[from].push_back(to);
      reaches[from][to] = 1;
    }
    for (std::size_t k = 0; k < nodes; ++k) {
      for (std::size_t i = 0; i < nodes; ++i) {
        for (std::size_t j = 0; j < nodes; ++j) {
          if (reaches[i][k] != 0 && reaches[k][j] != 0) reaches[i][j] = 1;
        }
      }
    }
    std::vector<Node> starts;
    for (int s = random.between(0, 3); s > 0; --s) starts.push_back(random.below(nodes));
    const Node goal = random.below(nodes);
    const bool expected =
        std::any_of(starts.begin(), starts.end(), [&](Node s) { return reaches[s][goal] != 0; });
    const std::vector<Node> path = WaitGraph::find_path(edges, starts, goal);
    ASSERT_EQ(!path.empty(), expected) << "round " << round;
    for (const auto& [node, times] : edges.asked) ASSERT_EQ(times, 1) << node;
    if (path.empty()) continue;
    ++found;
    ASSERT_NE(std::find(starts.begin(), starts.end(), path.front()), starts.end());
    ASSERT_EQ(path.back(), goal);
    ASSERT_EQ(std::set<Node>(path.begin(), path.end()).size(), path.size());
    for (std::size_t i = 0; i + 1 < path.size(); ++i) {
      const std::vector<Node>& next = edges.to[path[i]];
      ASSERT_NE(std::find(next.begin(), next.end(), path[i + 1]), next.end());
    }
  }
  EXPECT_GT(found, rounds / 20);
}

}  // namespace
}  // namespace lockmgr
