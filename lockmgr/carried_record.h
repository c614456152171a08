/// What a backing has been told to carry, for those who check it: the debug builds' memory of a
/// Mirror.
///
/// Thread safety: none of its own; guarded by the mutex of the file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <iterator>
#include <map>
#include <new>
#include <utility>

#include "lockmgr/backing.h"
#include "lockmgr/range.h"

namespace lockmgr {

/// Memory that is no part of what the manager needs: tests that let each allocation of it fail do
/// not see it.
template <typename T>
struct UncountedMemory {
  using value_type = T;
  UncountedMemory() = default;
  template <typename U>
  explicit UncountedMemory(const UncountedMemory<U>&) {}
  T* allocate(std::size_t count) {
    void* memory = std::malloc(count * sizeof(T));
    if (memory == nullptr) throw std::bad_alloc();
    return static_cast<T*>(memory);
  }
  void deallocate(T* memory, std::size_t) noexcept { std::free(memory); }
  friend bool operator==(const UncountedMemory&, const UncountedMemory&) { return true; }
};

class CarriedRecord {
 public:
  /// The backing has been told to carry exactly `mode` on `range`.
  void set(const Range& range, Mode mode) noexcept try {
    if (doubtful_.within(range)) doubtful_.take();
    split(range.first);
    if (range.last != kEof) split(range.last + 1);
    locks_.erase(locks_.lower_bound(range.first), locks_.upper_bound(range.last));
    if (mode != Mode::kNone) locks_.emplace(range.first, CarriedLock{range, mode});
  } catch (const std::bad_alloc&) {
    lost_ = true;
  }

  /// What it carries within `range` is not known until it is told anew.
  void doubt(const Range& range) noexcept { doubtful_.add(range); }

  /// Whether there is anything within which it is not known.
  bool is_doubtful() const { return lost_ || !doubtful_.empty(); }

  /// False when it is known to carry something else than `mode` somewhere within `range`.
  bool agrees(const Range& range, Mode mode) const {
    if (lost_ || doubtful_.overlaps(range)) return true;
    std::uint64_t left = length_of(range);
    auto at = locks_.upper_bound(range.first);
    if (at != locks_.begin() && std::prev(at)->second.range.last >= range.first) --at;
    for (; at != locks_.end() && at->first <= range.last; ++at) {
      if (at->second.mode != mode) return false;
      left -= length_of(common(at->second.range, range));
    }
    return mode == Mode::kNone || left == 0;
  }

 private:
  /// No lock lies on both sides of `at` any longer.
  void split(Offset at) {
    const auto after = locks_.lower_bound(at);
    if (after == locks_.begin()) return;
    CarriedLock& before = std::prev(after)->second;
    if (before.range.last < at) return;
    locks_.emplace_hint(after, at, CarriedLock{{at, before.range.last}, before.mode});
    before.range.last = at - 1;
  }

  static std::uint64_t length_of(const Range& range) {
    return static_cast<std::uint64_t>(range.last - range.first) + 1;
  }

  /// By first byte; they do not overlap. Ordered, so that a change of a file with a million locks
  /// costs what it costs the manager.
  std::map<Offset, CarriedLock, std::less<>, UncountedMemory<std::pair<const Offset, CarriedLock>>>
      locks_;
  Bounds doubtful_;
  bool lost_ = false;  ///< for want of memory
};

}  // namespace lockmgr
