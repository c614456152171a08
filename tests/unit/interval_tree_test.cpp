#include "lockmgr/interval_tree.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <memory>
#include <utility>
#include <vector>

#include "tests/unit/random.h"

namespace lockmgr {
namespace {

using testing::Random;

/// A range that knows how far its subtree reaches.
struct Node {
  Range range;
  Offset reach = -1;
  TreeHook<Node> hook;
};

struct NodeTraits {
  using Node = lockmgr::Node;
  static TreeHook<Node>& hook(Node& n) { return n.hook; }
  static Range range(const Node& n) { return n.range; }
  static Offset reach_of(const Node& n, const Node* left, const Node* right) {
    Offset reach = n.range.last;
    for (const Node* child : {left, right}) {
      if (child != nullptr) reach = std::max(reach, child->reach);
    }
    return reach;
  }
  static void summarise(Node& n, const Node* left, const Node* right) {
    n.reach = reach_of(n, left, right);
  }
  static bool summary_ok(const Node& n, const Node* left, const Node* right) {
    return n.reach == reach_of(n, left, right);
  }
};

constexpr auto kReach = [](const Node& n) { return n.reach; };

/// The tree beside a plain vector.
class Model {
 public:
  void add(const Range& range) {
    auto node = std::make_unique<Node>();
    node->range = range;
    tree.insert(*node);
    nodes.push_back(std::move(node));
  }
  void remove(std::size_t n) {
    tree.erase(*nodes[n]);
    EXPECT_FALSE(nodes[n]->hook.linked());
    std::swap(nodes[n], nodes.back());
    nodes.pop_back();
  }

  IntervalTree<NodeTraits> tree;
  std::vector<std::unique_ptr<Node>> nodes;
};

Range random_range(Random& random) {
  const auto first = static_cast<Offset>(random.below(100));
  if (random.one_in(10)) return {first, kEof};
  return {first, first + static_cast<Offset>(random.below(40))};
}

void compare(const Model& model, const Range& range) {
  const auto overlaps = static_cast<std::size_t>(
      std::count_if(model.nodes.begin(), model.nodes.end(),
                    [&](const auto& node) { return node->range.overlaps(range); }));
  std::size_t visited = 0;
  Offset previous = -1;
  ASSERT_TRUE(model.tree.for_each_overlap(range, kReach, [&](const Node& node) {
    EXPECT_TRUE(node.range.overlaps(range));
    EXPECT_GE(node.range.first, previous);
    previous = node.range.first;
    ++visited;
    return true;
  }));
  ASSERT_EQ(visited, overlaps);
  if (overlaps == 0) return;
  int calls = 0;
  ASSERT_FALSE(model.tree.for_each_overlap(range, kReach, [&](const Node&) {
    ++calls;
    return false;
  }));
  ASSERT_EQ(calls, 1);
}

TEST(IntervalTree, Empty) {
  Model model;
  EXPECT_TRUE(model.tree.empty());
  EXPECT_EQ(model.tree.first(), nullptr);
  EXPECT_EQ(model.tree.check(), nullptr);
  compare(model, kWholeFile);
}

TEST(IntervalTree, RandomOperationsAgreeWithAVector) {
  Random random(testing::test_seed());
  Model model;
  std::size_t limit = 40;
  for (int step = 0; step < testing::scaled(20'000); ++step) {
    if (step % 500 == 0) limit = static_cast<std::size_t>(random.between(1, 200));
    if (model.nodes.empty() || (model.nodes.size() < limit && !random.one_in(3))) {
      model.add(random_range(random));
    } else {
      model.remove(random.below(model.nodes.size()));
    }
    ASSERT_STREQ(model.tree.check(), nullptr) << "step " << step;
    compare(model, random_range(random));
    if (HasFatalFailure()) FAIL() << "step " << step;
    std::size_t seen = 0;
    model.tree.for_each([&](const Node&) { return ++seen != 0; });
    ASSERT_EQ(seen, model.nodes.size());
  }
}

// Ascending, descending and alternating insertions are what an unbalanced tree suffers from.
TEST(IntervalTree, StaysBalanced) {
  constexpr int kNodes = 4096;
  for (int order = 0; order < 3; ++order) {
    Model model;
    for (int i = 0; i < kNodes; ++i) {
      const int at = order == 0 ? i : order == 1 ? kNodes - i : (i % 2 == 0 ? i : 2 * kNodes - i);
      model.add({at * 2, at * 2});
    }
    ASSERT_STREQ(model.tree.check(), nullptr);
    // An AVL tree is never higher than 1.45 log2(n + 2).
    EXPECT_LE(model.tree.root()->hook.height, std::ceil(1.45 * std::log2(kNodes + 2)));
    while (!model.nodes.empty()) model.remove(model.nodes.size() / 2);
    EXPECT_TRUE(model.tree.empty());
  }
}

}  // namespace
}  // namespace lockmgr
