/// Byte ranges, lock modes, and how two ranges can lie to each other.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>

namespace lockmgr {

/// A byte offset in a file, as off_t: 0 .. kEof.
using Offset = std::int64_t;

/// "To the end of the file, however far it grows": OFFSET_MAX of the kernel.
inline constexpr Offset kEof = INT64_MAX;

/// Strength of a lock; a larger value is stronger. kNone stands for "not locked" and for unlocking.
enum class Mode : std::uint8_t { kNone = 0, kShared = 1, kExclusive = 2 };

/// Two locks of different owners on a common byte exclude each other unless both are shared.
constexpr bool modes_conflict(Mode a, Mode b) {
  return a != Mode::kNone && b != Mode::kNone && (a == Mode::kExclusive || b == Mode::kExclusive);
}

/// The ways `held` can lie to `wanted`, drawn once and cited by name where they are handled:
///
///     wanted:                 [=======]
///     held:    [---]                            kApart         (either side)
///                             [-------]         kEqual
///                          [-------------]      kContains      held reaches beyond both ends
///                                [--]           kInside        held lies within wanted
///                          [-----]              kOverHead      held covers the head of wanted
///                                  [------]     kOverTail      held covers the tail of wanted
///
/// Ranges that share one end fall to the case that needs no split: [wanted] sharing its first byte
/// with a longer held lock is kOverTail (held keeps its tail), and so on.
enum class Overlap : std::uint8_t { kApart, kEqual, kContains, kInside, kOverHead, kOverTail };

/// The bytes first..last, both inclusive. Invariant: 0 <= first <= last <= kEof.
struct Range {
  Offset first = 0;
  Offset last = kEof;

  friend constexpr bool operator==(const Range& a, const Range& b) {
    return a.first == b.first && a.last == b.last;
  }
  constexpr bool overlaps(const Range& other) const {
    return first <= other.last && other.first <= last;
  }
  constexpr bool contains(const Range& other) const {
    return first <= other.first && other.last <= last;
  }
  /// True when the two overlap or stand side by side without a gap.
  constexpr bool touches(const Range& other) const {
    return (first <= other.last || first == other.last + 1) &&
           (other.first <= last || other.first == last + 1);
  }
};

inline constexpr Range kWholeFile{0, kEof};

/// The smallest range that contains both.
constexpr Range hull(const Range& a, const Range& b) {
  return {std::min(a.first, b.first), std::max(a.last, b.last)};
}

/// What two ranges that overlap have in common.
constexpr Range common(const Range& a, const Range& b) {
  return {std::max(a.first, b.first), std::min(a.last, b.last)};
}

/// The bounds of ranges that were added to it; empty at first.
class Bounds {
 public:
  constexpr bool empty() const { return range_.last < 0; }
  constexpr bool overlaps(const Range& other) const { return !empty() && range_.overlaps(other); }
  /// Whether nothing that was added lies outside of `other`.
  constexpr bool within(const Range& other) const { return empty() || other.contains(range_); }
  /// What is within `other`, or nothing.
  constexpr std::optional<Range> part_in(const Range& other) const {
    return overlaps(other) ? std::optional(common(range_, other)) : std::nullopt;
  }
  constexpr void add(const Range& range) { range_ = empty() ? range : hull(range_, range); }
  /// Empties it. Returns what it was, or nothing.
  constexpr std::optional<Range> take() {
    if (empty()) return std::nullopt;
    const Range taken = range_;
    range_ = {0, -1};
    return taken;
  }

 private:
  Range range_{0, -1};
};

/// How `held` lies to `wanted`; see Overlap.
constexpr Overlap relate(const Range& held, const Range& wanted) {
  if (!held.overlaps(wanted)) return Overlap::kApart;
  if (held == wanted) return Overlap::kEqual;
  if (held.first < wanted.first && held.last > wanted.last) return Overlap::kContains;
  if (wanted.contains(held)) return Overlap::kInside;
  return held.first < wanted.first ? Overlap::kOverHead : Overlap::kOverTail;
}

}  // namespace lockmgr
