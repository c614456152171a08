/// Counts of what the manager has done, for reports.
///
/// Thread safety: lock-free; any thread may count and read.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

namespace lockmgr {

/// Events counted since the manager was made.
enum class Counter : std::uint8_t {
  kGrants,         ///< requests granted, at once or after waiting
  kRefusals,       ///< non-blocking requests refused for a conflict
  kWaits,          ///< requests parked
  kLooks,          ///< parked requests looked at again since something had changed
  kInterrupts,     ///< parked requests cancelled
  kDeadlocks,      ///< requests refused with EDEADLK
  kDeadlockLooks,  ///< locks looked at in search of such cycles
  kLimits,         ///< requests refused with ENOLCK for a limit
  kUnlocks,        ///< unlock requests, those of nothing included
  kBackingCalls,   ///< calls that changed the backing's lock state
  kBackingErrors,  ///< of these, failed other than by conflict
  kOutsideWaits,   ///< waits for outsiders begun
  kBypasses,       ///< waiters granted out of turn since those ahead stood still
  kRevocations,    ///< locks, or parts of some, taken away: by FileLocks::revoke(), or a lease
  kCount,
};

/// Relaxed counters, one a Counter.
class Counters {
 public:
  /// Returns what it was before.
  std::uint64_t add(Counter c, std::uint64_t count = 1) noexcept {
    return values_[static_cast<std::size_t>(c)].fetch_add(count, std::memory_order_relaxed);
  }
  std::uint64_t get(Counter c) const noexcept {
    return values_[static_cast<std::size_t>(c)].load(std::memory_order_relaxed);
  }

 private:
  std::array<std::atomic<std::uint64_t>, static_cast<std::size_t>(Counter::kCount)> values_{};
};

}  // namespace lockmgr
