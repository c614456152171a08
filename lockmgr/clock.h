/// The manager's clock: the steady one, unless a simulation sets the time or a thread stops it for
/// a moment.
///
/// Thread safety: all methods may be called from any thread. A Moment is of the thread that made
/// it.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <utility>

namespace lockmgr {

using Clock = std::chrono::steady_clock;

/// While it lives, TimeSource::now() stands still for the calling thread (unless `time` is the
/// clock's epoch): all that a call does happens at a time that can be written down, and be gone
/// through again.
class Moment {
 public:
  explicit Moment(Clock::time_point time) noexcept
      : outer_(std::exchange(moment_, time.time_since_epoch().count())) {}
  ~Moment() { moment_ = outer_; }
  Moment(const Moment&) = delete;
  Moment& operator=(const Moment&) = delete;

  /// Of the latest on the calling thread; the clock's epoch if there is none.
  static Clock::time_point current() noexcept {
    return Clock::time_point(Clock::duration(moment_));
  }

 private:
  static inline constinit thread_local Clock::rep moment_ = 0;  ///< 0: none

  const Clock::rep outer_;
};

class TimeSource {
 public:
  Clock::time_point now() const noexcept {
    const Clock::rep set = set_time_.load(std::memory_order_relaxed);
    if (set != 0) return Clock::time_point(Clock::duration(set));
    const Clock::time_point moment = Moment::current();
    return moment == Clock::time_point{} ? Clock::now() : moment;
  }
  /// The clock stands at `time` until it is set again. `time` must not go back, nor be the clock's
  /// epoch.
  void set(Clock::time_point time) noexcept {
    set_time_.store(time.time_since_epoch().count(), std::memory_order_relaxed);
  }

 private:
  std::atomic<Clock::rep> set_time_{0};  ///< 0: the clock runs
};

/// In whole seconds, as granted locks keep it.
inline std::uint32_t whole_seconds(Clock::duration time) noexcept {
  return static_cast<std::uint32_t>(std::chrono::duration_cast<std::chrono::seconds>(time).count());
}
inline std::uint32_t seconds_of(Clock::time_point time) noexcept {
  return whole_seconds(time.time_since_epoch());
}

}  // namespace lockmgr
