/// The manager's clock: the steady clock, or on a thread that simulates, the time it says it is.
///
/// Thread safety: a SimulatedTime holds for the thread that made it and for no other.
#pragma once

#include <chrono>

namespace lockmgr {

class Clock {
 public:
  using duration = std::chrono::steady_clock::duration;
  using rep = duration::rep;
  using period = duration::period;
  using time_point = std::chrono::steady_clock::time_point;
  static constexpr bool is_steady = true;

  static time_point now() noexcept {
    return simulated_ == nullptr ? std::chrono::steady_clock::now() : *simulated_;
  }

 private:
  friend class SimulatedTime;
  static inline thread_local const time_point* simulated_ = nullptr;
};

/// While it lives, Clock::now() on this thread is what it was last set to. One at a time.
class SimulatedTime {
 public:
  explicit SimulatedTime(Clock::time_point begin) noexcept : now_(begin) {
    Clock::simulated_ = &now_;
  }
  ~SimulatedTime() { Clock::simulated_ = nullptr; }
  SimulatedTime(const SimulatedTime&) = delete;
  SimulatedTime& operator=(const SimulatedTime&) = delete;

  void set(Clock::time_point now) noexcept { now_ = now; }

 private:
  Clock::time_point now_;
};

}  // namespace lockmgr
