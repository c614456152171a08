/// An intrusive, balanced (AVL) tree of byte ranges with a summary of each subtree: finds the
/// ranges that overlap a given one in O(log n), and more of them at O(log n) each.
///
/// Nodes are owned by the caller; no operation allocates or throws. Ranges may overlap and repeat.
///
/// Thread safety: none of its own; the owner of the tree serialises access.
///
/// Invariants (check() verifies them, for debug builds and tests):
///  1. In-order traversal yields non-decreasing `first`.
///  2. The heights of a node's two subtrees differ by at most one, and `height` is right.
///  3. The summary of a node is what Traits::summarise() makes of the node and its children.
///  4. Parent links mirror child links.
#pragma once

#include <algorithm>
#include <cassert>
#include <cstddef>
#include <cstdint>

#include "lockmgr/range.h"

namespace lockmgr {

/// The links a node carries for one tree. A node that is in no tree has height 0.
template <typename Node>
struct TreeHook {
  Node* left = nullptr;
  Node* right = nullptr;
  Node* parent = nullptr;
  std::uint8_t height = 0;

  bool linked() const { return height != 0; }
};

/// `Traits` says what the tree is made of:
///   using Node;
///   static TreeHook<Node>& hook(Node&);
///   static Range range(const Node&);            // may change only while the node is unlinked
///   static void summarise(Node&, const Node* left, const Node* right);   // recompute the summary
///   static bool summary_ok(const Node&, const Node* left, const Node* right);  // for check()
template <typename Traits>
class IntervalTree {
 public:
  using Node = typename Traits::Node;

  IntervalTree() = default;
  IntervalTree(const IntervalTree&) = delete;
  IntervalTree& operator=(const IntervalTree&) = delete;

  bool empty() const { return root_ == nullptr; }
  Node* root() const { return root_; }

  static Node* left(const Node& n) { return hook(n).left; }
  static Node* right(const Node& n) { return hook(n).right; }

  /// Links `node` in. REQUIRES: it is not linked through this hook.
  void insert(Node& node) noexcept {
    assert(!hook(node).linked());
    Node* parent = nullptr;
    Node** link = &root_;
    const Offset first = Traits::range(node).first;
    while (*link != nullptr) {
      parent = *link;
      link = first < Traits::range(*parent).first ? &hook(*parent).left : &hook(*parent).right;
    }
    hook(node) = TreeHook<Node>{nullptr, nullptr, parent, 1};
    *link = &node;
    retrace(&node);
  }

  /// Takes `node` out. REQUIRES: it is linked in this tree.
  void erase(Node& node) noexcept {
    assert(hook(node).linked());
    TreeHook<Node>& h = hook(node);
    Node* fix_from = nullptr;
    if (h.left != nullptr && h.right != nullptr) {
      // The in-order successor takes the node's place; it has no left child.
      Node* heir = h.right;
      while (hook(*heir).left != nullptr) heir = hook(*heir).left;
      fix_from = hook(*heir).parent == &node ? heir : hook(*heir).parent;
      replace_child(*heir, hook(*heir).right);
      hook(*heir).left = h.left;
      hook(*heir).right = h.right;
      replace_child(node, heir);
      adopt(*heir);
    } else {
      fix_from = h.parent;
      replace_child(node, h.left != nullptr ? h.left : h.right);
    }
    h = TreeHook<Node>{};
    retrace(fix_from);
  }

  /// Recomputes the summaries from `node` to the root after what they are made of has changed
  /// (never its `first`). REQUIRES: `node` is linked.
  void refresh(Node& node) noexcept {
    for (Node* n = &node; n != nullptr; n = hook(*n).parent) update(*n);
  }

  Node* first() const {
    Node* n = root_;
    while (n != nullptr && hook(*n).left != nullptr) n = hook(*n).left;
    return n;
  }

  static Node* next(Node& node) {
    if (hook(node).right != nullptr) {
      Node* n = hook(node).right;
      while (hook(*n).left != nullptr) n = hook(*n).left;
      return n;
    }
    Node* child = &node;
    Node* n = hook(node).parent;
    while (n != nullptr && hook(*n).right == child) {
      child = n;
      n = hook(*n).parent;
    }
    return n;
  }

  /// Calls visit(Node&) for every node that counts and overlaps `range`, in order of `first`, until
  /// it returns false. Returns false when `visit` stopped it. `visit` must not change the tree.
  template <typename Reach, typename Visit>
  bool for_each_overlap(const Range& range, const Reach& reach, const Visit& visit) const {
    return walk(root_, range, reach, visit);
  }

  /// Every node in order of `first`, until visit(Node&) returns false.
  template <typename Visit>
  void for_each(const Visit& visit) const {
    for (Node* n = first(); n != nullptr; n = next(*n)) {
      if (!visit(*n)) return;
    }
  }

  /// Verifies the invariants. Returns nullptr, or the text of the one that is broken.
  const char* check() const {
    if (root_ != nullptr && hook(*root_).parent != nullptr) return "tree root has a parent";
    Offset previous = -1;
    return check_subtree(root_, &previous);
  }

 private:
  static TreeHook<Node>& hook(const Node& n) { return Traits::hook(const_cast<Node&>(n)); }
  static int height(const Node* n) { return n == nullptr ? 0 : hook(*n).height; }
  static int balance(const Node& n) { return height(hook(n).left) - height(hook(n).right); }

  static void update(Node& n) {
    hook(n).height =
        static_cast<std::uint8_t>(1 + std::max(height(hook(n).left), height(hook(n).right)));
    Traits::summarise(n, hook(n).left, hook(n).right);
  }

  /// Makes `with` (may be null) take the place of `node` below node's parent.
  void replace_child(Node& node, Node* with) {
    Node* parent = hook(node).parent;
    if (parent == nullptr) {
      root_ = with;
    } else if (hook(*parent).left == &node) {
      hook(*parent).left = with;
    } else {
      hook(*parent).right = with;
    }
    if (with != nullptr) hook(*with).parent = parent;
  }

  /// Makes the children of `node` point back at it.
  static void adopt(Node& node) {
    if (hook(node).left != nullptr) hook(*hook(node).left).parent = &node;
    if (hook(node).right != nullptr) hook(*hook(node).right).parent = &node;
  }

  Node* rotate_left(Node& n) {
    Node* up = hook(n).right;
    replace_child(n, up);
    hook(n).right = hook(*up).left;
    hook(*up).left = &n;
    adopt(n);
    adopt(*up);
    update(n);
    update(*up);
    return up;
  }

  Node* rotate_right(Node& n) {
    Node* up = hook(n).left;
    replace_child(n, up);
    hook(n).left = hook(*up).right;
    hook(*up).right = &n;
    adopt(n);
    adopt(*up);
    update(n);
    update(*up);
    return up;
  }

  /// Restores invariants 2 and 3 on the way from `n` to the root.
  void retrace(Node* n) {
    while (n != nullptr) {
      update(*n);
      if (balance(*n) > 1) {
        if (balance(*hook(*n).left) < 0) rotate_left(*hook(*n).left);
        n = rotate_right(*n);
      } else if (balance(*n) < -1) {
        if (balance(*hook(*n).right) > 0) rotate_right(*hook(*n).right);
        n = rotate_left(*n);
      }
      n = hook(*n).parent;
    }
  }

  template <typename Reach, typename Visit>
  static bool walk(Node* n, const Range& range, const Reach& reach, const Visit& visit) {
    while (n != nullptr && reach(*n) >= range.first) {
      if (!walk(hook(*n).left, range, reach, visit)) return false;
      const Range own = Traits::range(*n);
      if (own.first > range.last) return true;
      if (own.last >= range.first && !visit(*n)) return false;
      n = hook(*n).right;
    }
    return true;
  }

  static const char* check_subtree(const Node* n, Offset* previous) {
    if (n == nullptr) return nullptr;
    const Node* l = hook(*n).left;
    const Node* r = hook(*n).right;
    if ((l != nullptr && hook(*l).parent != n) || (r != nullptr && hook(*r).parent != n)) {
      return "tree parent link does not mirror the child link";
    }
    if (const char* broken = check_subtree(l, previous)) return broken;
    if (Traits::range(*n).first < *previous) return "tree order is broken";
    *previous = Traits::range(*n).first;
    if (const char* broken = check_subtree(r, previous)) return broken;
    if (std::abs(balance(*n)) > 1) return "tree is out of balance";
    if (height(n) != 1 + std::max(height(l), height(r))) return "tree height is wrong";
    if (!Traits::summary_ok(*n, l, r)) return "tree summary is wrong";
    return nullptr;
  }

  Node* root_ = nullptr;
};

}  // namespace lockmgr
