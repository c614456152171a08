/// A model of who holds what on one file: a map of bytes for every owner, and random requests for
/// it.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>
#include <optional>
#include <random>
#include <vector>

#include "tests/mounted/locks/lock_test.h"

namespace lockfs::test {

/// LOCKFS_TEST_SEED, or a new one; printed, so that the run can be repeated.
inline unsigned seed_of_run() {
  const char* given = std::getenv("LOCKFS_TEST_SEED");
  const unsigned seed = given != nullptr ? static_cast<unsigned>(std::strtoul(given, nullptr, 10))
                                         : std::random_device{}();
  std::printf("LOCKFS_TEST_SEED=%u\n", seed);
  std::fflush(stdout);
  return seed;
}

// -- the model
// --------------------------------------------------------------------------------------

/// Bytes 0 .. kBytes - 2 one by one, and the last cell for everything from kBytes - 1 on.
inline constexpr std::int64_t kBytes = 48;
enum class Cell : char { kFree, kRead, kWrite };

inline Cell cell_of(Mode mode) { return mode == kShared ? Cell::kRead : Cell::kWrite; }

/// Process, open file (number within the process, kNoFile for POSIX) and kind.
struct OwnerKey {
  int process = 0;
  int file = 0;
  Kind kind = kPosix;
  auto operator<=>(const OwnerKey&) const = default;
};
inline constexpr int kNoFile = -1;

class Model {
 public:
  using Map = std::array<Cell, kBytes>;

  static std::int64_t last_of(Range range) {
    return range.length == 0 ? kBytes - 1 : range.start + range.length - 1;
  }

  /// `separate`: flocks exclude flocks only, as on a plain file.
  explicit Model(bool separate = false) : separate_(separate) {}

  /// One open file's flock and OFD locks do not exclude each other.
  [[nodiscard]] bool exclude_each_other(const OwnerKey& a, const OwnerKey& b) const {
    if (a == b) return false;
    if (separate_ && (a.kind == kFlock) != (b.kind == kFlock)) return false;
    return a.kind == kPosix || b.kind == kPosix || a.process != b.process || a.file != b.file;
  }

  /// Everybody who holds what stands in the way of the request.
  [[nodiscard]] std::vector<OwnerKey> blockers(const OwnerKey& owner, Mode mode,
                                               Range range) const {
    std::vector<OwnerKey> found;
    for (const auto& [other, cells] : owners_) {
      if (!exclude_each_other(owner, other)) continue;
      for (std::int64_t i = range.start; i <= last_of(range); ++i) {
        const Cell cell = cells[static_cast<std::size_t>(i)];
        if (cell == Cell::kWrite || (cell == Cell::kRead && mode == kExclusive)) {
          found.push_back(other);
          break;
        }
      }
    }
    return found;
  }

  [[nodiscard]] bool conflicts(const OwnerKey& owner, Mode mode, Range range) const {
    return !blockers(owner, mode, range).empty();
  }

  void set(const OwnerKey& owner, Range range, Cell cell) {
    Map& cells = owners_[owner];
    for (std::int64_t i = range.start; i <= last_of(range); ++i) {
      cells[static_cast<std::size_t>(i)] = cell;
    }
  }

  void drop_if(const std::function<bool(const OwnerKey&)>& condition) {
    std::erase_if(owners_, [&](const auto& entry) { return condition(entry.first); });
  }

  static std::vector<LockedRange> runs(const Map& cells) {
    std::vector<LockedRange> found;
    for (std::int64_t i = 0; i < kBytes; ++i) {
      const Cell cell = cells[static_cast<std::size_t>(i)];
      if (cell == Cell::kFree) continue;
      std::int64_t last = i;
      while (last + 1 < kBytes && cells[static_cast<std::size_t>(last + 1)] == cell) ++last;
      found.push_back(
          {i, last == kBytes - 1 ? kEof : last, cell == Cell::kWrite ? kExclusive : kShared});
      i = last;
    }
    return found;
  }

  /// The strongest mode at each byte among owners that `wanted` accepts.
  [[nodiscard]] std::vector<LockedRange> union_of(
      const std::function<bool(const OwnerKey&)>& wanted) const {
    Map all{};
    for (const auto& [owner, cells] : owners_) {
      if (!wanted(owner)) continue;
      for (std::size_t i = 0; i < cells.size(); ++i) all[i] = std::max(all[i], cells[i]);
    }
    return runs(all);
  }

  /// Every owner's locks one by one, as the kernel lists them.
  [[nodiscard]] std::vector<LockedRange> all() const {
    std::vector<LockedRange> found;
    for (const auto& [owner, cells] : owners_) {
      for (const LockedRange& run : runs(cells)) found.push_back(run);
    }
    std::sort(found.begin(), found.end());
    return found;
  }

  /// Whether `shown` is a lock somebody holds that stands in the way of the request.
  [[nodiscard]] std::optional<OwnerKey> find(const OwnerKey& owner, Mode mode, Range range,
                                             const LockedRange& shown) const {
    if (shown.last < range.start || (shown.first > last_of(range) && range.length != 0)) return {};
    if (mode == kShared && shown.mode == kShared) return {};
    for (const auto& [other, cells] : owners_) {
      if (!exclude_each_other(owner, other)) continue;
      const std::vector<LockedRange> theirs = runs(cells);
      if (std::find(theirs.begin(), theirs.end(), shown) != theirs.end()) return other;
    }
    return {};
  }

 private:
  bool separate_;
  std::map<OwnerKey, Map> owners_;
};

// -- random requests
// --------------------------------------------------------------------------------

class Dice {
 public:
  explicit Dice(unsigned seed) : engine_(seed) {}
  int below(int limit) { return std::uniform_int_distribution<int>(0, limit - 1)(engine_); }
  bool percent(int chance) { return below(100) < chance; }
  Range range() {
    const std::int64_t start = below(static_cast<int>(kBytes));
    if (start == kBytes - 1 || percent(10)) return {start, 0};
    const std::int64_t most = std::min<std::int64_t>(kBytes - 1 - start, 16);
    return {start, 1 + below(static_cast<int>(most))};
  }
  Mode mode() { return percent(50) ? kShared : kExclusive; }

 private:
  std::mt19937 engine_;
};

}  // namespace lockfs::test
