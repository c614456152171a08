/// Counts durations in buckets whose bounds are powers of two, for latency reports: never more than
/// a factor of two off.
///
/// Thread safety: lock-free; any thread may record and read. A reader sees each count as of some
/// moment during its call.
#pragma once

#include <array>
#include <atomic>
#include <bit>
#include <chrono>
#include <cstddef>
#include <cstdint>

namespace lockmgr {

class Histogram {
 public:
  /// Bucket i counts durations below 2^i ns that bucket i-1 does not; the last takes all longer
  /// ones.
  static constexpr std::size_t kBuckets = 48;

  void record(std::chrono::nanoseconds duration) noexcept {
    const auto ns = static_cast<std::uint64_t>(duration.count() < 0 ? 0 : duration.count());
    const auto bucket = static_cast<std::size_t>(std::bit_width(ns));
    counts_[bucket < kBuckets ? bucket : kBuckets - 1].fetch_add(1, std::memory_order_relaxed);
    sum_.fetch_add(ns, std::memory_order_relaxed);
  }

  std::uint64_t count(std::size_t bucket) const noexcept {
    return counts_[bucket].load(std::memory_order_relaxed);
  }
  /// Of all durations recorded, in nanoseconds.
  std::uint64_t sum() const noexcept { return sum_.load(std::memory_order_relaxed); }

 private:
  std::array<std::atomic<std::uint64_t>, kBuckets> counts_{};
  std::atomic<std::uint64_t> sum_{0};
};

/// What the manager measures.
enum class Timing : std::uint8_t {
  kWaits,         ///< from parking to the grant
  kBackingCalls,  ///< one in kTimedCalls of the calls that changed the backing's lock state
  kCount,
};
inline constexpr std::uint64_t kTimedCalls = 16;

/// One Histogram a Timing.
class Timings {
 public:
  void record(Timing what, std::chrono::nanoseconds time) noexcept {
    histograms_[static_cast<std::size_t>(what)].record(time);
  }
  const Histogram& get(Timing what) const noexcept {
    return histograms_[static_cast<std::size_t>(what)];
  }

 private:
  std::array<Histogram, static_cast<std::size_t>(Timing::kCount)> histograms_;
};

}  // namespace lockmgr
