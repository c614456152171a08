/// Which bytes of one file the daemon has locked, and through which of its open file descriptions.
///
/// Thread safety: none of its own.
///
/// Invariants:
///  1. No two entries overlap: each byte is held through one description.
///  2. Neighbours without a gap differ in mode or description.
///  3. count(by) is the number of entries through `by`.
///  4. While `only_` is there the tree is empty.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "lockmgr/range.h"
#include "lockmgr/range_tree.h"

namespace lockfs {

struct HeldRange {
  [[nodiscard]] bool continues(const HeldRange& other) const {
    return mode == other.mode && by == other.by;
  }

  lockmgr::Range range;
  std::uint32_t by = 0;  ///< the description, as LockDescriptions numbers them
  lockmgr::Mode mode = lockmgr::Mode::kNone;
};

class HeldRanges {
 public:
  /// There are descriptions with numbers below `count`. May throw std::bad_alloc.
  void provide_for(std::size_t count) {
    if (counts_.size() < count) counts_.resize(count);
  }

  /// Takes the memory that set() with the same arguments can need; false when there is none.
  [[nodiscard]] bool prepare(const lockmgr::Range& range, lockmgr::Mode mode,
                             std::uint32_t by) noexcept {
    if (!tree_.empty()) return tree_.prepare(2);
    return stays_few({range, by, mode}) || tree_.prepare(3);
  }

  /// `range` is held in exactly `mode` (kNone: not at all), through `by`. REQUIRES: prepare() has
  /// succeeded for it since the last one.
  void set(const lockmgr::Range& range, lockmgr::Mode mode, std::uint32_t by) noexcept {
    HeldRange held{range, by, mode};
    if (tree_.empty()) {
      if (stays_few(held)) {
        set_only(held);
        return;
      }
      tree_.insert(*only_);
      only_.reset();
    }
    if (set_simply(held)) return;
    cut(range);
    if (mode == lockmgr::Mode::kNone) {
      erase_all(range);
      return;
    }
    if (const auto next = like_at(range.last == lockmgr::kEof ? -1 : range.last + 1, held)) {
      held.range.last = next->range.last;
    }
    if (const auto before = like_at(range.first - 1, held)) held.range.first = before->range.first;
    // No entry may be missing when the next is put in: there is memory for what is more only.
    const auto there = tree_.from(held.range.first);
    if (there != tree_.end() && there->range.first == held.range.first) {
      --counts_[there->by];
      ++counts_[by];
      tree_.replace(held);
    } else {
      insert(held);
    }
    if (held.range.first != lockmgr::kEof) {
      erase_all({held.range.first + 1, held.range.last});
    }
  }

  /// Nothing is held.
  void clear() noexcept {
    if (only_) --counts_[only_->by];
    only_.reset();
    erase_all(lockmgr::kWholeFile);
  }

  /// The first entry that overlaps `range`, cut to it.
  [[nodiscard]] std::optional<HeldRange> first_in(const lockmgr::Range& range) const {
    std::optional<HeldRange> found;
    for_each_in(range, [&found](const HeldRange& held) {
      found = held;
      return false;
    });
    return found;
  }

  /// Calls visit(entry, cut to `range`) in order until it returns false. `visit` must not change
  /// anything.
  template <typename Visit>
  void for_each_in(const lockmgr::Range& range, const Visit& visit) const {
    if (only_) {
      if (only_->range.overlaps(range)) visit(part_of(*only_, range));
      return;
    }
    for (auto at = tree_.from(range.first); at != tree_.end() && at->range.overlaps(range); ++at) {
      if (!visit(part_of(*at, range))) return;
    }
  }

  [[nodiscard]] bool empty() const { return !only_ && tree_.empty(); }
  /// How many entries are held through `by`.
  [[nodiscard]] std::size_t count(std::uint32_t by) const { return counts_[by]; }

 private:
  struct Traits {
    using Entry = HeldRange;
    using Key = lockmgr::Offset;
    struct Summary {
      void add(const HeldRange&) {}
      void add(const Summary&) {}
      [[nodiscard]] bool depends_on(const HeldRange&) const { return false; }
      template <typename T>
      void retract(const HeldRange&, const T*, std::size_t) {}
      [[nodiscard]] bool same(const Summary&) const { return true; }
    };
    static Key key(const HeldRange& held) { return held.range.first; }
    static lockmgr::Offset first(Key key) { return key; }
  };

  static HeldRange part_of(const HeldRange& held, const lockmgr::Range& range) {
    return {lockmgr::common(held.range, range), held.by, held.mode};
  }

  /// Whether, with no more than one entry now, there will be no more than one. REQUIRES: the tree
  /// is empty.
  [[nodiscard]] bool stays_few(const HeldRange& held) const {
    if (!only_ || held.range.contains(only_->range)) return true;
    return held.mode == lockmgr::Mode::kNone
               ? !held.range.overlaps(only_->range)
               : held.range.touches(only_->range) && held.continues(*only_);
  }
  /// REQUIRES: stays_few().
  void set_only(HeldRange held) noexcept {
    const bool comes = held.mode != lockmgr::Mode::kNone;
    if (only_) {
      if (!held.range.contains(only_->range)) {
        if (comes) only_->range = lockmgr::hull(only_->range, held.range);
        return;
      }
      --counts_[only_->by];
      only_.reset();
    }
    if (!comes) return;
    ++counts_[held.by];
    only_ = held;
  }

  /// Where one entry as it is comes or goes, which is most often so.
  bool set_simply(const HeldRange& held) noexcept {
    const auto& [first, last] = held.range;
    const bool goes = held.mode == lockmgr::Mode::kNone;
    const auto at = tree_.from(goes || first == 0 ? first : first - 1);
    const bool touches =
        at != tree_.end() && (at->range.first <= last || at->range.first - 1 == last);
    if (goes) {
      if (touches && at->range == held.range) {
        --counts_[at->by];
        tree_.erase(lockmgr::Offset{first});
        return true;
      }
    } else if (!touches) {
      insert(held);
      return true;
    }
    return false;
  }

  /// No entry reaches over an end of `range` any longer.
  void cut(const lockmgr::Range& range) noexcept {
    if (range.last != lockmgr::kEof) cut_before(range.last + 1);
    cut_before(range.first);
  }
  void cut_before(lockmgr::Offset at) noexcept {
    const auto found = tree_.from(at);
    if (found == tree_.end() || found->range.first >= at) return;
    HeldRange left = *found;
    HeldRange right = left;
    left.range.last = at - 1;
    right.range.first = at;
    tree_.replace(left);
    insert(right);
  }
  void insert(const HeldRange& held) noexcept {
    ++counts_[held.by];
    tree_.insert(held);
  }

  /// Takes out the entries that begin within `range`.
  void erase_all(const lockmgr::Range& range) noexcept {
    while (true) {
      const auto at = tree_.lower_bound(range.first);
      if (at == tree_.end() || at->range.first > range.last) return;
      --counts_[at->by];
      tree_.erase(lockmgr::Offset{at->range.first});
    }
  }

  /// The entry at the byte `at`, if it could be one with `like`.
  [[nodiscard]] std::optional<HeldRange> like_at(lockmgr::Offset at, const HeldRange& like) const {
    if (at < 0) return std::nullopt;
    const auto found = tree_.from(at);
    const bool is_it = found != tree_.end() && found->range.first <= at && found->continues(like);
    return is_it ? std::optional(*found) : std::nullopt;
  }

  std::optional<HeldRange> only_;  ///< most files have one
  lockmgr::RangeTree<Traits> tree_;
  std::vector<std::uint32_t> counts_;
};

}  // namespace lockfs
