/// Finds records that an earlier process left, by what is in them: a flat table of their indices,
/// which takes milliseconds to build where maps of objects take a second.
///
/// Thread safety: none of its own.
///
/// Invariants:
///  1. Nothing is ever taken out: find() believes an entry only as far as its record says so.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace lockfs {

class RecordIndex {
 public:
  /// Provides for that many records; what was in it is gone. Throws std::bad_alloc.
  void provide(std::size_t count) { slots_.assign(count == 0 ? 0 : std::bit_ceil(2 * count), 0); }
  /// Gives the memory back.
  void clear() noexcept { std::vector<std::uint32_t>().swap(slots_); }

  /// REQUIRES: provide() was for as many. `hash` is spread over all its bits.
  void insert(std::uint64_t hash, std::uint32_t record) noexcept {
    std::size_t at = hash & (slots_.size() - 1);
    while (slots_[at] != 0) at = (at + 1) & (slots_.size() - 1);
    slots_[at] = record;
  }

  /// The first record with that hash of which matches(record) is true; 0: there is none.
  template <typename Matches>
  [[nodiscard]] std::uint32_t find(std::uint64_t hash, const Matches& matches) const {
    if (slots_.empty()) return 0;
    for (std::size_t at = hash & (slots_.size() - 1); slots_[at] != 0;
         at = (at + 1) & (slots_.size() - 1)) {
      if (matches(slots_[at])) return slots_[at];
    }
    return 0;
  }

  template <typename Visit>
  void for_each(const Visit& visit) const {
    for (const std::uint32_t record : slots_) {
      if (record != 0) visit(record);
    }
  }

 private:
  std::vector<std::uint32_t> slots_;  ///< a power of two of them, at most half used; 0: empty
};

}  // namespace lockfs
