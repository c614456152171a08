/// Bounds how often waiters are passed where the policy lets later requests go first.
///
/// Passes are counted for the file, in epochs of kMost: when one ends, those who waited when it
/// began are passed no more. So a waiter is passed at most 2 * kMost times, a grant costs a count,
/// and nobody keeps one for each waiter.
///
/// Thread safety: none of its own; part of a Queue.
#pragma once

#include <cstdint>

namespace lockmgr {

class PassBound {
 public:
  static constexpr std::uint32_t kMost = 32;

  /// A request was granted past a waiter. `next_arrival`: what the next waiter will get. Returns
  /// the arrival below which waiters are passed no more from now on; 0: no change.
  std::uint64_t count(std::uint64_t next_arrival) noexcept {
    if (++passes_ < kMost) return 0;
    passes_ = 0;
    const std::uint64_t bound = epoch_began_;
    epoch_began_ = next_arrival;
    return bound;
  }

 private:
  std::uint64_t epoch_began_ = 0;  ///< the first arrival that came within this epoch
  std::uint32_t passes_ = 0;
};

}  // namespace lockmgr
