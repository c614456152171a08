/// What a backing has been told to carry, for those who check it: the debug builds' memory of a
/// Mirror.
///
/// Thread safety: none of its own; guarded by the mutex of the file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <vector>

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
    Locks changed;
    for (const CarriedLock& lock : locks_) {
      if (!lock.range.overlaps(range)) {
        changed.push_back(lock);
        continue;
      }
      if (lock.range.first < range.first) {
        changed.push_back({{lock.range.first, range.first - 1}, lock.mode});
      }
      if (lock.range.last > range.last) {
        changed.push_back({{range.last + 1, lock.range.last}, lock.mode});
      }
    }
    if (mode != Mode::kNone) changed.push_back({range, mode});
    locks_.swap(changed);
  } catch (const std::bad_alloc&) {
    lost_ = true;
  }

  /// What it carries within `range` is not known until it is told anew.
  void doubt(const Range& range) noexcept { doubtful_.add(range); }

  /// False when it is known to carry something else than `mode` somewhere within `range`.
  bool agrees(const Range& range, Mode mode) const {
    if (lost_ || doubtful_.overlaps(range)) return true;
    std::uint64_t left = length_of(range);
    for (const CarriedLock& lock : locks_) {
      if (!lock.range.overlaps(range)) continue;
      if (lock.mode != mode) return false;
      left -= length_of(common(lock.range, range));
    }
    return mode == Mode::kNone || left == 0;
  }

 private:
  using Locks = std::vector<CarriedLock, UncountedMemory<CarriedLock>>;

  static std::uint64_t length_of(const Range& range) {
    return static_cast<std::uint64_t>(range.last - range.first) + 1;
  }

  Locks locks_;  ///< not overlapping, in no order
  Bounds doubtful_;
  bool lost_ = false;  ///< for want of memory
};

}  // namespace lockmgr
