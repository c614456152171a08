/// A B+-tree of byte ranges with a summary of each subtree: finds the ranges that overlap a given
/// one in O(log n). Entries lie side by side in nodes of 1 KiB, so that among a million of them a
/// search touches a few cache lines where a tree of single nodes touches twenty.
///
/// One entry lives in the tree object itself and a few in one small node: the tree of a file or an
/// owner with one lock allocates nothing.
///
/// Memory is taken beforehand, by prepare(); no other operation allocates, throws or fails.
/// Pointers to entries and iterators are good until the next change.
///
/// A tree of several levels remembers the leaf it was last led to (the finger): what follows in the
/// same place, as an insertion follows the search for a conflict, need not go down again. Hence
/// searches, too, write to the tree.
///
/// Thread safety: none of its own; the owner of the tree serialises access.
///
/// Invariants (check() verifies them, for debug builds and tests):
///  1. Entries are in strictly increasing order of their keys, hence no key occurs twice.
///  2. All leaves are at the same depth and chained in order; none but an only one is empty.
///  3. A child's keys are not below its separator, and below the next one's; the first child's
///     separator means nothing.
///  4. The summary kept for a child is that of its entries.
///  5. The finger, if set, is the path to the leaf that keys from `low` to below `high` belong to.
#pragma once

#include <algorithm>
#include <array>
#include <cassert>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <new>
#include <type_traits>
#include <utility>

#include "lockmgr/range.h"

namespace lockmgr {

/// `Traits` says what the tree is made of; all three types are trivially copyable:
///   using Entry;    // has a member `Range range`
///   using Key;      // with operator<; orders by range.first before all else; Key{first} comes
///                   // before all others that begin there
///   using Summary;  // made of nothing by default; void add(const Entry&), void add(const
///   Summary&),
///                   // bool depends_on(const Entry&) const: whether it may change when that goes,
///                   // void retract(const Entry& gone, const T* left, std::size_t count): makes it
///                   // that of what is left, entries or summaries, now that `gone` has gone,
///                   // bool same(const Summary&) const: whether the two answer alike
///   static Key key(const Entry&);
///   static Offset first(const Key&);
template <typename Traits>
class RangeTree {
 public:
  using Entry = typename Traits::Entry;
  using Key = typename Traits::Key;
  using Summary = typename Traits::Summary;
  static_assert(std::is_trivially_copyable_v<Entry> && std::is_trivially_copyable_v<Key> &&
                std::is_trivially_copyable_v<Summary>);

 private:
  /// Sizes of nodes: what malloc() makes chunks of 128, 512 and 1,024 bytes of. Only a leaf that
  /// is the root comes in the smaller ones.
  static constexpr std::array<std::size_t, 3> kNodeBytes{120, 504, 1016};
  static constexpr std::size_t kFullBytes = kNodeBytes.back();

  struct Node {
    std::uint16_t count = 0;
    std::uint16_t capacity = 0;
  };
  struct Leaf : Node {
    Leaf* prev = nullptr;
    Leaf* next = nullptr;

    Entry* entries() { return reinterpret_cast<Entry*>(this + 1); }
    const Entry* entries() const { return reinterpret_cast<const Entry*>(this + 1); }
  };
  static constexpr std::size_t kPointer = sizeof(std::uintptr_t);
  static constexpr std::size_t kFan =
      (kFullBytes - 2 * kPointer) / (kPointer + sizeof(Key) + sizeof(Summary));
  struct Inner : Node {
    std::array<Key, kFan> separator;
    std::array<Summary, kFan> summary;
    std::array<Node*, kFan> child;
  };
  static_assert(sizeof(Inner) <= kFullBytes && alignof(Entry) <= alignof(Leaf));

  static constexpr std::size_t leaf_capacity(std::size_t bytes) {
    return (bytes - sizeof(Leaf)) / sizeof(Entry);
  }
  static constexpr std::size_t kLeafFull = leaf_capacity(kFullBytes);
  /// 2^32 entries in half-full nodes stay below that.
  static constexpr unsigned kMostLevels = 16;

 public:
  static constexpr unsigned kMostAtOnce = 4;
  static_assert(kMostAtOnce < kLeafFull && kMostAtOnce * (kMostLevels + 1) <= UINT8_MAX);

  /// Walks the entries in order.
  class Iterator {
   public:
    using iterator_category = std::forward_iterator_tag;
    using difference_type = std::ptrdiff_t;
    using value_type = Entry;
    using pointer = const Entry*;
    using reference = const Entry&;

    Iterator() = default;
    const Entry& operator*() const { return *at_; }
    const Entry* operator->() const { return at_; }
    Iterator& operator++() {
      if (++at_ == end_) *this = leaf_ != nullptr ? Iterator(leaf_->next, 0) : Iterator();
      return *this;
    }
    Iterator operator++(int) {
      const Iterator before = *this;
      ++*this;
      return before;
    }
    friend bool operator==(const Iterator& a, const Iterator& b) { return a.at_ == b.at_; }

   private:
    friend class RangeTree;
    /// The entry at `index` of `leaf`, or the first one behind it.
    Iterator(const Leaf* leaf, std::size_t index) {
      if (leaf != nullptr && index == leaf->count) {
        leaf = leaf->next;
        index = 0;
      }
      if (leaf == nullptr) return;
      leaf_ = leaf;
      at_ = leaf->entries() + index;
      end_ = leaf->entries() + leaf->count;
    }
    explicit Iterator(const Entry* only) : at_(only), end_(only + 1) {}

    const Leaf* leaf_ = nullptr;
    const Entry* at_ = nullptr;
    const Entry* end_ = nullptr;
  };

  RangeTree() = default;
  ~RangeTree() { clear(); }
  RangeTree(const RangeTree&) = delete;
  RangeTree& operator=(const RangeTree&) = delete;

  bool empty() const { return size_ == 0; }
  std::size_t size() const { return size_; }

  Iterator begin() const {
    if (levels_ == 0) return size_ == 0 ? Iterator() : Iterator(&only_);
    const Node* n = nodes_.root;
    for (unsigned level = levels_; level > 1; --level) n = inner(n)->child[0];
    return Iterator(leaf(n), 0);
  }
  Iterator end() const { return {}; }

  /// The first entry whose key is not below `key`. O(log n).
  Iterator lower_bound(const Key& key) const {
    if (levels_ == 0) {
      return size_ != 0 && !(Traits::key(only_) < key) ? Iterator(&only_) : Iterator();
    }
    Path local;
    const Leaf* l = way_to(key, local).leaf;
    return Iterator(l, position(*l, key));
  }

  /// The first entry that overlaps or follows the byte `at`. REQUIRES: the entries are disjoint.
  /// O(log n).
  Iterator from(Offset at) const {
    if (levels_ == 0) {
      return size_ != 0 && only_.range.last >= at ? Iterator(&only_) : Iterator();
    }
    const auto [before, follower] = around(Key{at});
    return before != end() && before->range.last >= at ? before : follower;
  }

  /// The last entry that begins at or before the byte `at`, or null. REQUIRES: the entries are
  /// disjoint. O(log n).
  const Entry* last_from(Offset at) const {
    const auto [before, follower] = around(Key{at});
    return follower != end() && follower->range.first == at ? follower.at_ : before.at_;
  }

  /// Takes the memory that `more` calls of insert() can need, at most kMostAtOnce, with calls of
  /// erase() and replace() before and between them; where these empty the tree, there is room for
  /// one entry after that. False when there is none; then nothing has changed.
  bool prepare(unsigned more) noexcept {
    assert(more <= kMostAtOnce);
    if (more == 0) return true;
    if (levels_ <= 1) {
      const std::size_t needed = size_ + more;
      if (needed <= (levels_ == 0 ? 1 : nodes_.root->capacity)) return true;
      if (needed <= kLeafFull) return grow_root_leaf(needed);
    }
    // Without one all works as well.
    if (nodes_.finger == nullptr) nodes_.finger = new (std::nothrow) Path;
    // An insertion can split a node on each level and add a root.
    while (spares_ < more * (levels_ + 1)) {
      void* memory = ::operator new(kFullBytes, std::nothrow);
      if (memory == nullptr) return false;
      put_spare(memory);
    }
    return true;
  }

  /// REQUIRES: prepare() has provided for it; no entry has the same key.
  void insert(const Entry& entry) noexcept {
    ++size_;
    if (levels_ == 0) {
      assert(size_ == 1);
      only_ = entry;
      return;
    }
    Path local;
    const Key key = Traits::key(entry);
    Path& path = way_to(key, local);
    Leaf& l = *path.leaf;
    for (unsigned i = 0; i + 1 < levels_; ++i) path.node[i]->summary[path.index[i]].add(entry);
    const std::size_t index = position(l, key);
    if (l.count < l.capacity) {
      put(l.entries(), l.count, index, entry);
      ++l.count;
      return;
    }
    split(l, index, entry, path);
  }

  /// Takes out the entry with this key. REQUIRES: there is one.
  void erase(const Key& key) noexcept {
    if (--size_ == 0) {
      clear();
      return;
    }
    Path local;
    Path& path = way_to(key, local);
    Leaf& l = *path.leaf;
    const std::size_t index = position(l, key);
    assert(index < l.count && !(key < Traits::key(l.entries()[index])));
    const Entry gone = l.entries()[index];
    take(l.entries(), l.count, index);
    --l.count;
    for (unsigned i = levels_ - 1; i-- > 0;) {
      Inner& parent = *path.node[i];
      const std::size_t at = path.index[i];
      const bool of_leaves = i + 2 == levels_;
      const std::size_t few = (of_leaves ? kLeafFull : kFan) / 4;
      if (parent.child[at]->count == 0) {
        drop_child(parent, at, of_leaves);
      } else if (parent.child[at]->count < few && merge_child(parent, at, of_leaves)) {
        // Its summary is made anew there.
      } else if (Summary& summary = parent.summary[at]; summary.depends_on(gone)) {
        const Node* child = parent.child[at];
        if (of_leaves) {
          summary.retract(gone, leaf(child)->entries(), child->count);
        } else {
          summary.retract(gone, inner(child)->summary.data(), child->count);
        }
      }
    }
    while (levels_ > 1 && nodes_.root->count == 1) {
      Node* old = nodes_.root;
      nodes_.root = inner(old)->child[0];
      --levels_;
      release(old);
    }
  }

  /// Puts `entry` in the place of the one with the same key. REQUIRES: there is one.
  void replace(const Entry& entry) noexcept {
    if (levels_ == 0) {
      only_ = entry;
      return;
    }
    Path local;
    const Key key = Traits::key(entry);
    Path& path = way_to(key, local);
    Leaf& l = *path.leaf;
    l.entries()[position(l, key)] = entry;
    for (unsigned i = levels_ - 1; i-- > 0;) {
      Inner& parent = *path.node[i];
      const std::size_t at = path.index[i];
      parent.summary[at] = summary_of(parent.child[at], i + 2 == levels_);
    }
  }

  /// Empties the tree and gives its memory back. O(n).
  void clear() noexcept {
    size_ = 0;
    if (levels_ == 0) return;
    free_subtree(nodes_.root, levels_);
    while (spares_ > 0) ::operator delete(take_spare());
    delete nodes_.finger;
    levels_ = 0;
  }

  /// The entry with the smallest key among those that overlap `range` and count. `reach(summary)`
  /// is the largest `last` among the entries that count beneath it; `counts(entry)` says whether
  /// an entry does. O(log n): where the reach of a child gets to range.first but the child holds no
  /// overlap, it holds a range that starts behind `range`, and so does all that follows it.
  template <typename Reach, typename Counts>
  const Entry* first_overlap(const Range& range, const Reach& reach, const Counts& counts) const {
    Node* n = root();
    Path local;
    Path* path = nullptr;
    for (unsigned i = 0; i + 1 < levels_; ++i) {
      Inner& node = *inner(n);
      std::size_t at = 0;
      while (at < node.count && reach(node.summary[at]) < range.first) ++at;
      if (at == node.count) return nullptr;
      if (path == nullptr) path = &begin_path(local);
      n = path->step(i, node, at);
    }
    if (path != nullptr) path->leaf = leaf(n);
    const Entry* entry = levels_ == 0 ? &only_ : leaf(n)->entries();
    const Entry* const end = entry + (levels_ == 0 ? size_ : n->count);
    for (; entry != end && entry->range.first <= range.last; ++entry) {
      if (entry->range.last >= range.first && counts(*entry)) return entry;
    }
    return nullptr;
  }

  /// The largest `last` among the entries that count and start at or before `at`, or -1. `reach`
  /// and `counts` as above. O(log n).
  template <typename Reach, typename Counts>
  Offset cover_end(Offset at, const Reach& reach, const Counts& counts) const {
    Offset best = -1;
    const Node* n = root();
    for (unsigned level = levels_; level > 1; --level) {
      const Inner& node = *inner(n);
      std::size_t i = 0;
      for (; i + 1 < node.count && Traits::first(node.separator[i + 1]) <= at; ++i) {
        best = std::max(best, reach(node.summary[i]));
      }
      n = node.child[i];
    }
    const Entry* entry = levels_ == 0 ? &only_ : leaf(n)->entries();
    const Entry* const end = entry + (levels_ == 0 ? size_ : n->count);
    for (; entry != end && entry->range.first <= at; ++entry) {
      if (counts(*entry)) best = std::max(best, entry->range.last);
    }
    return best;
  }

  /// Calls visit(entry) in order for every entry that overlaps `range`, unless none beneath the
  /// same summary counts, until it returns false. Returns false when `visit` stopped it. `visit`
  /// must not change the tree.
  template <typename Reach, typename Visit>
  bool for_each_overlap(const Range& range, const Reach& reach, const Visit& visit) const {
    if (levels_ == 0) return visit_overlaps(&only_, size_, range, visit);
    return walk(nodes_.root, levels_, range, reach, visit);
  }

  /// Every entry in order, until visit(entry) returns false.
  template <typename Visit>
  void for_each(const Visit& visit) const {
    for (Iterator it = begin(); it != end(); ++it) {
      if (!visit(*it)) return;
    }
  }

  /// Verifies the invariants. Returns nullptr, or the text of the one that is broken.
  const char* check() const {
    if (levels_ == 0) return size_ <= 1 ? nullptr : "a tree without nodes has several entries";
    if (size_ == 0)
      return levels_ == 1 && nodes_.root->count == 0 ? nullptr : "an empty tree has nodes";
    Checked seen;
    if (const char* broken = check_subtree(nodes_.root, levels_, nullptr, nullptr, seen))
      return broken;
    if (seen.last_leaf->next != nullptr) return "the last leaf of a tree has a next one";
    if (!finger_ok()) return "the finger of a tree points elsewhere";
    return seen.entries == size_ ? nullptr : "the size of a tree has drifted";
  }

 private:
  /// From the root to a leaf: nodes, which child was taken, and what keys belong there.
  struct Path {
    Leaf* leaf = nullptr;      ///< null: leads nowhere
    const Key* low = nullptr;  ///< null: no bound
    const Key* high = nullptr;
    std::array<Inner*, kMostLevels> node;
    std::array<std::uint16_t, kMostLevels> index;

    bool leads_to(const Key& key) const {
      return leaf != nullptr && (low == nullptr || !(key < *low)) &&
             (high == nullptr || key < *high);
    }
    /// Takes child `at` of the `i`-th node, which it returns.
    Node* step(unsigned i, Inner& parent, std::size_t at) {
      node[i] = &parent;
      index[i] = static_cast<std::uint16_t>(at);
      if (at > 0) low = &parent.separator[at];
      if (at + 1 < parent.count) high = &parent.separator[at + 1];
      prefetch(parent.child[at]);
      return parent.child[at];
    }
  };
  /// What check_subtree() has come by.
  struct Checked {
    const Leaf* last_leaf = nullptr;
    std::size_t entries = 0;
  };

  /// Null when there are no nodes.
  Node* root() const { return levels_ == 0 ? nullptr : nodes_.root; }
  static Leaf* leaf(Node* n) { return static_cast<Leaf*>(n); }
  static const Leaf* leaf(const Node* n) { return static_cast<const Leaf*>(n); }
  static Inner* inner(Node* n) { return static_cast<Inner*>(n); }
  static const Inner* inner(const Node* n) { return static_cast<const Inner*>(n); }

  template <typename T>
  static void put(T* array, std::size_t count, std::size_t index, const T& value) noexcept {
    std::move_backward(array + index, array + count, array + count + 1);
    array[index] = value;
  }
  template <typename T>
  static void take(T* array, std::size_t count, std::size_t index) noexcept {
    std::move(array + index + 1, array + count, array + index);
  }

  /// How many of the `count` elements in order, which `before` divides, come before. Without
  /// branches that depend on the elements: their outcome is as good as random.
  template <typename T, typename Before>
  static std::size_t count_before(const T* first, std::size_t count, const Before& before) {
    const T* at = first;
    while (count > 1) {
      const std::size_t half = count / 2;
      at = before(at[half - 1]) ? at + half : at;
      count -= half;
    }
    return static_cast<std::size_t>(at - first) + (count == 1 && before(*at) ? 1 : 0);
  }
  /// The child that `key` belongs to.
  static std::size_t child_for(const Inner& node, const Key& key) {
    return count_before(node.separator.data() + 1, node.count - std::size_t{1},
                        [&key](const Key& separator) { return !(key < separator); });
  }
  /// Where `key` is in a leaf, or would be.
  static std::size_t position(const Leaf& l, const Key& key) {
    return count_before(l.entries(), l.count,
                        [&key](const Entry& entry) { return Traits::key(entry) < key; });
  }
  /// Has all of a node brought from memory at once, instead of line after line as it is read.
  static void prefetch(const Node* n) {
    for (std::size_t at = 0; at < kFullBytes; at += 64) {
      __builtin_prefetch(reinterpret_cast<const char*>(n) + at);
    }
  }
  /// Where to write down a path: the finger if there is one.
  Path& begin_path(Path& local) const {
    Path& path = nodes_.finger != nullptr ? *nodes_.finger : local;
    path.leaf = nullptr;
    path.low = path.high = nullptr;
    return path;
  }
  /// The path to the leaf that `key` belongs to: the finger or, without one, `local`. REQUIRES:
  /// there is a leaf.
  Path& way_to(const Key& key, Path& local) const {
    if (nodes_.finger != nullptr && nodes_.finger->leads_to(key)) return *nodes_.finger;
    Path& path = begin_path(local);
    Node* n = nodes_.root;
    for (unsigned i = 0; i + 1 < levels_; ++i) {
      n = path.step(i, *inner(n), child_for(*inner(n), key));
    }
    path.leaf = leaf(n);
    return path;
  }
  /// To be called when nodes come, go or move.
  void lift_finger() noexcept {
    if (nodes_.finger != nullptr) nodes_.finger->leaf = nullptr;
  }

  /// The entries to either side of `key`; the second may have it.
  std::pair<Iterator, Iterator> around(const Key& key) const {
    if (levels_ == 0) {
      if (size_ == 0) return {};
      const Iterator only(&only_);
      return Traits::key(only_) < key ? std::pair(only, Iterator()) : std::pair(Iterator(), only);
    }
    Path local;
    const Leaf* l = way_to(key, local).leaf;
    const std::size_t index = position(*l, key);
    Iterator before;
    if (index > 0) {
      before = Iterator(l, index - 1);
    } else if (l->prev != nullptr) {
      before = Iterator(l->prev, l->prev->count - std::size_t{1});
    }
    return {before, Iterator(l, index)};
  }

  static Summary summary_of(const Node* n, bool is_leaf) {
    Summary summary;
    for (std::size_t i = 0; i < n->count; ++i) {
      if (is_leaf) {
        summary.add(leaf(n)->entries()[i]);
      } else {
        summary.add(inner(n)->summary[i]);
      }
    }
    return summary;
  }

  // -- memory ----------------------------------------------------------------------------------

  void put_spare(void* memory) noexcept {
    nodes_.spare = new (memory) Spare{nodes_.spare};
    ++spares_;
  }
  void* take_spare() noexcept {
    assert(spares_ > 0);
    Spare* spare = nodes_.spare;
    nodes_.spare = spare->next;
    --spares_;
    return spare;
  }
  void release(Node* n) noexcept {
    // Kept as long as an erase() may stand between a prepare() and its insert().
    if (n->capacity >= kFullCapacity && spares_ < 2 * (levels_ + 1)) {
      put_spare(n);
    } else {
      ::operator delete(n);
    }
  }
  Leaf* new_leaf() noexcept {
    Leaf* l = new (take_spare()) Leaf;
    l->capacity = kLeafFull;
    return l;
  }
  Inner* new_inner() noexcept {
    Inner* node = new (take_spare()) Inner;
    node->capacity = kFan;
    return node;
  }

  /// Gives a tree of at most one leaf a leaf with room for `needed` entries.
  bool grow_root_leaf(std::size_t needed) noexcept {
    const auto* bytes = kNodeBytes.begin();
    while (leaf_capacity(*bytes) < needed) ++bytes;
    void* memory = ::operator new(*bytes, std::nothrow);
    if (memory == nullptr) return false;
    Leaf* l = new (memory) Leaf;
    l->capacity = static_cast<std::uint16_t>(leaf_capacity(*bytes));
    l->count = static_cast<std::uint16_t>(size_);
    const Entry* old = levels_ == 0 ? &only_ : leaf(nodes_.root)->entries();
    std::copy(old, old + size_, l->entries());
    if (levels_ == 0) {
      nodes_ = {};
      levels_ = 1;
    } else {
      ::operator delete(nodes_.root);
      lift_finger();
    }
    nodes_.root = l;
    return true;
  }

  void free_subtree(Node* n, unsigned level) noexcept {
    if (level > 1) {
      for (std::size_t i = 0; i < n->count; ++i) free_subtree(inner(n)->child[i], level - 1);
    }
    ::operator delete(n);
  }

  // -- changing shape --------------------------------------------------------------------------

  /// Splits a full leaf and inserts `entry` at `index` of what it was.
  void split(Leaf& left, std::size_t index, const Entry& entry, const Path& path) noexcept {
    lift_finger();
    Leaf& right = *new_leaf();
    const bool last = left.next == nullptr;
    // Locks taken in ascending order fill their leaves.
    const std::size_t kept = last && index == left.count ? index : left.count / std::size_t{2};
    std::copy(left.entries() + kept, left.entries() + left.count, right.entries());
    right.count = static_cast<std::uint16_t>(left.count - kept);
    left.count = static_cast<std::uint16_t>(kept);
    right.prev = &left;
    right.next = left.next;
    if (right.next != nullptr) right.next->prev = &right;
    left.next = &right;
    if (index > kept || (index == kept && right.count == 0)) {
      put(right.entries(), right.count++, index - kept, entry);
    } else {
      put(left.entries(), left.count++, index, entry);
    }
    add_sibling(left, right, Traits::key(right.entries()[0]), true, last, path);
  }

  /// Hangs `right` into the tree behind its new neighbour `left`, to which `path` leads, splitting
  /// parents as it must. `last`: nothing is behind them.
  void add_sibling(Node& left, Node& right, Key separator, bool leaves, bool last,
                   const Path& path) noexcept {
    Node* l = &left;
    Node* r = &right;
    for (unsigned i = levels_ - 1; i-- > 0; leaves = false) {
      Inner& parent = *path.node[i];
      const std::size_t at = path.index[i] + 1;
      parent.summary[at - 1] = summary_of(l, leaves);
      const Summary summary = summary_of(r, leaves);
      if (parent.count < kFan) {
        put_child(parent, at, separator, summary, r);
        return;
      }
      Inner& next = *new_inner();
      const std::size_t kept = last && at == parent.count ? at : parent.count / std::size_t{2};
      std::copy(parent.separator.begin() + kept, parent.separator.end(), next.separator.begin());
      std::copy(parent.summary.begin() + kept, parent.summary.end(), next.summary.begin());
      std::copy(parent.child.begin() + kept, parent.child.end(), next.child.begin());
      next.count = static_cast<std::uint16_t>(kFan - kept);
      parent.count = static_cast<std::uint16_t>(kept);
      if (at > kept || next.count == 0) {
        put_child(next, at - kept, separator, summary, r);
      } else {
        put_child(parent, at, separator, summary, r);
      }
      separator = next.separator[0];
      l = &parent;
      r = &next;
    }
    Inner& root = *new_inner();
    put_child(root, 0, Key{}, summary_of(l, leaves), l);
    put_child(root, 1, separator, summary_of(r, leaves), r);
    nodes_.root = &root;
    ++levels_;
  }

  static void put_child(Inner& parent, std::size_t at, const Key& separator, const Summary& summary,
                        Node* child) noexcept {
    put(parent.separator.data(), parent.count, at, separator);
    put(parent.summary.data(), parent.count, at, summary);
    put(parent.child.data(), parent.count, at, child);
    ++parent.count;
  }

  /// Takes the child out of its parent and lets it go.
  void drop_child(Inner& parent, std::size_t at, bool is_leaf) noexcept {
    lift_finger();
    Node* child = parent.child[at];
    if (is_leaf) {
      Leaf& l = *leaf(child);
      if (l.prev != nullptr) l.prev->next = l.next;
      if (l.next != nullptr) l.next->prev = l.prev;
    }
    take(parent.separator.data(), parent.count, at);
    take(parent.summary.data(), parent.count, at);
    take(parent.child.data(), parent.count, at);
    --parent.count;
    release(child);
  }

  /// Joins a child that has become small with a neighbour of the same parent, if the two leave
  /// room in one node. Returns whether it has.
  bool merge_child(Inner& parent, std::size_t at, bool is_leaf) noexcept {
    const std::size_t most = (is_leaf ? kLeafFull : kFan) * 3 / 4;
    const auto fits = [&](std::size_t i) {
      return std::size_t{parent.child[i]->count} + parent.child[i + 1]->count <= most;
    };
    if (at + 1 < parent.count && fits(at)) {
      // With the one behind it.
    } else if (at > 0 && fits(at - 1)) {
      --at;
    } else {
      return false;
    }
    Node* left = parent.child[at];
    const Node* right = parent.child[at + 1];
    if (is_leaf) {
      const Entry* from = leaf(right)->entries();
      std::copy(from, from + right->count, leaf(left)->entries() + left->count);
    } else {
      const Inner& from = *inner(right);
      Inner& to = *inner(left);
      std::copy_n(from.separator.begin(), from.count, to.separator.begin() + to.count);
      std::copy_n(from.summary.begin(), from.count, to.summary.begin() + to.count);
      std::copy_n(from.child.begin(), from.count, to.child.begin() + to.count);
      // What the first child's own meant nothing of.
      to.separator[to.count] = parent.separator[at + 1];
    }
    left->count = static_cast<std::uint16_t>(left->count + right->count);
    drop_child(parent, at + 1, is_leaf);
    parent.summary[at] = summary_of(left, is_leaf);
    return true;
  }

  // -- walking ---------------------------------------------------------------------------------

  template <typename Visit>
  static bool visit_overlaps(const Entry* entry, std::size_t count, const Range& range,
                             const Visit& visit) {
    for (const Entry* const end = entry + count; entry != end; ++entry) {
      if (entry->range.first > range.last) return true;
      if (entry->range.last >= range.first && !visit(*entry)) return false;
    }
    return true;
  }

  template <typename Reach, typename Visit>
  static bool walk(const Node* n, unsigned level, const Range& range, const Reach& reach,
                   const Visit& visit) {
    if (level == 1) return visit_overlaps(leaf(n)->entries(), n->count, range, visit);
    const Inner& node = *inner(n);
    for (std::size_t i = 0; i < node.count; ++i) {
      if (i > 0 && Traits::first(node.separator[i]) > range.last) return true;
      if (reach(node.summary[i]) < range.first) continue;
      if (!walk(node.child[i], level - 1, range, reach, visit)) return false;
    }
    return true;
  }

  bool finger_ok() const {
    if (nodes_.finger == nullptr || nodes_.finger->leaf == nullptr) return true;
    const Key* low = nullptr;
    const Key* high = nullptr;
    const Node* n = nodes_.root;
    for (unsigned i = 0; i + 1 < levels_; ++i) {
      const std::size_t at = nodes_.finger->index[i];
      if (nodes_.finger->node[i] != n || at >= n->count) return false;
      if (at > 0) low = &inner(n)->separator[at];
      if (at + 1 < n->count) high = &inner(n)->separator[at + 1];
      n = inner(n)->child[at];
    }
    return nodes_.finger->leaf == n && nodes_.finger->low == low && nodes_.finger->high == high;
  }

  const char* check_subtree(const Node* n, unsigned level, const Key* low, const Key* high,
                            Checked& seen) const {
    if (n->count == 0 || n->count > n->capacity) return "a node of a tree is empty or overfull";
    if (level == 1) {
      const Leaf& l = *leaf(n);
      if (l.prev != seen.last_leaf) return "the leaves of a tree are not chained in order";
      if (seen.last_leaf != nullptr && seen.last_leaf->next != &l) {
        return "a leaf's neighbour does not know it";
      }
      seen.last_leaf = &l;
      seen.entries += l.count;
      for (std::size_t i = 0; i < l.count; ++i) {
        const Key key = Traits::key(l.entries()[i]);
        if (i > 0 && !(Traits::key(l.entries()[i - 1]) < key)) return "tree order is broken";
        if (low != nullptr && key < *low) return "a key is below its separator";
        if (high != nullptr && !(key < *high)) return "a key is not below the next separator";
      }
      return nullptr;
    }
    const Inner& node = *inner(n);
    for (std::size_t i = 0; i < node.count; ++i) {
      const Key* from = i == 0 ? low : &node.separator[i];
      const Key* to = i + 1 == node.count ? high : &node.separator[i + 1];
      if (const char* broken = check_subtree(node.child[i], level - 1, from, to, seen)) {
        return broken;
      }
      if (!node.summary[i].same(summary_of(node.child[i], level == 2))) {
        return "tree summary is wrong";
      }
    }
    return nullptr;
  }

  /// A node that is not in use.
  struct Spare {
    Spare* next;
  };
  static constexpr std::size_t kFullCapacity = std::min(kLeafFull, kFan);
  static_assert(kFullCapacity > leaf_capacity(kNodeBytes[1]));

  struct Nodes {
    Node* root;
    Spare* spare;
    Path* finger;
  };

  union {
    Entry only_{};  ///< levels_ 0: the only entry, if any
    Nodes nodes_;   ///< else
  };
  std::uint32_t size_ = 0;
  std::uint8_t levels_ = 0;  ///< of nodes
  std::uint8_t spares_ = 0;
};

}  // namespace lockmgr
