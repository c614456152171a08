/// Granted locks as the trees of a file hold them: by conflict space and mode, where searches for
/// conflicts go, and once more by owner.
///
/// Thread safety: none of its own; guarded by the mutex of the file.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>

#include "lockmgr/journal.h"
#include "lockmgr/range.h"
#include "lockmgr/range_tree.h"

namespace lockmgr {

struct Owner;

/// A granted lock, in a tree of those of its mode.
struct Lock {
  Offset reach_without(const Owner* left_out) const { return owner == left_out ? -1 : range.last; }

  Range range;
  Owner* owner = nullptr;
  std::uint32_t since = 0;  ///< seconds on the manager's clock when it was granted
  Mode mode = Mode::kNone;
  std::uint16_t epoch = 0;  ///< Granted::epoch() when it was granted
};

struct LockTreeTraits {
  using Entry = Lock;
  /// An owner's locks are disjoint: no two begin at one byte.
  struct Key {
    Offset first = 0;
    const Owner* owner = nullptr;
    friend bool operator<(const Key& a, const Key& b) {
      const bool by_owner = (a.first == b.first) & std::less<>()(a.owner, b.owner);
      return (a.first < b.first) | by_owner;
    }
  };
  /// The farthest byte reached, by whom, and the farthest reached by others.
  struct Summary {
    Offset reach = -1;
    const Owner* reacher = nullptr;
    Offset other_reach = -1;

    void add(const Lock& lock) { add({lock.range.last, lock.owner, -1}); }
    void add(const Summary& other) {
      if (other.reacher == reacher) {
        reach = std::max(reach, other.reach);
        other_reach = std::max(other_reach, other.other_reach);
      } else if (other.reach > reach) {
        // The new best owner's rivals: the old best, and the others' others (maybe the old best).
        other_reach = std::max(reach, other.other_reach);
        reach = other.reach;
        reacher = other.reacher;
      } else {
        // Rivals of `reacher`: the others' best is one; their others can only be lower.
        other_reach = std::max(other_reach, other.reach);
      }
    }
    bool depends_on(const Lock& lock) const {
      return lock.range.last == reach || lock.range.last == other_reach;
    }
    template <typename T>
    void retract(const Lock& gone, const T* left, std::size_t count) {
      if (gone.owner == reacher) {
        *this = {};
        std::for_each(left, left + count, [this](const T& each) { add(each); });
        return;
      }
      other_reach = -1;
      std::for_each(left, left + count, [this](const T& each) {
        other_reach = std::max(other_reach, each.reach_without(reacher));
      });
    }
    bool same(const Summary& other) const {
      // Of two who reach equally far either may be named.
      return reach == other.reach && other_reach == other.other_reach &&
             (reacher == other.reacher || reach == other_reach);
    }
    Offset reach_without(const Owner* left_out) const {
      return reacher == left_out ? other_reach : reach;
    }
  };
  static Key key(const Lock& lock) { return {lock.range.first, lock.owner}; }
  static Offset first(const Key& key) { return key.first; }
};
using LockTree = RangeTree<LockTreeTraits>;

// What searches take for the reach of a subtree and for locks that count: all, or those of others
// than one owner.
inline constexpr auto kAnyLock = [](const Lock&) { return true; };
inline constexpr auto kFullReach = [](const LockTreeTraits::Summary& s) { return s.reach; };
inline auto reach_without(const Owner* owner) {
  return [owner](const LockTreeTraits::Summary& s) { return s.reach_without(owner); };
}
inline auto not_of(const Owner* owner) {
  return [owner](const Lock& l) { return l.owner != owner; };
}

/// The same lock among those of its owner.
struct Held {
  Range range;
  std::uint32_t since = 0;
  Mode mode = Mode::kNone;
  std::uint16_t epoch = 0;
  Journal::Record record = 0;  ///< where it is written down; 0: there is no journal
};

struct HeldTreeTraits {
  using Entry = Held;
  using Key = Offset;
  struct Summary {
    void add(const Held&) {}
    void add(const Summary&) {}
    bool depends_on(const Held&) const { return false; }
    template <typename T>
    void retract(const Held&, const T*, std::size_t) {}
    bool same(const Summary&) const { return true; }
  };
  static Key key(const Held& held) { return held.range.first; }
  static Offset first(Key key) { return key; }
};
using HeldTree = RangeTree<HeldTreeTraits>;

}  // namespace lockmgr
