#include "fs/loop/watchdog.h"

#include <algorithm>

namespace lockfs {

void Watchdog::wake() noexcept {
  last_ = 0;
  calm_ = 0;
  still_ = 0;
  waited_ = false;
  slow_tick_ = kSlowTick;
}

void Watchdog::tick(std::uint64_t state, bool active, Clock::time_point now) {
  using Phase = LeadState::Phase;
  const bool overtakes = calm_ < kIdleTicks;
  const Phase phase = LeadState::phase_of(state);
  const bool same = state == last_;
  last_ = state;
  if (same && phase == Phase::kOvertakable) loop_.overtake(state);
  calm_ = active || phase == Phase::kOvertakable ? 0 : std::min(calm_ + 1, kIdleTicks);
  still_ = same ? std::min(still_ + 1, kIdleTicks) : 0;
  const bool waits = same && (phase != Phase::kReading || loop_.request_waits());
  if (waits && !waited_) {
    held_up_ = now;
    had_ = loop_.cpu_time();
  }
  waited_ = waits;
  slow_tick_ = overtakes || waits
                   ? Clock::duration(kSlowTick)
                   : std::min<Clock::duration>(2 * slow_tick_, Clock::duration(kSlowestTick));
  if (waits && now - held_up_ >= kHeldUp) {
    if (loop_.cpu_time() - had_ < (now - held_up_) / 2) loop_.rescue(now);
    waited_ = false;
  } else if (still_ == kIdleTicks) {
    loop_.set_free();
  }
}

}  // namespace lockfs
