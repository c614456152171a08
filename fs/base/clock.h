/// The kernel's clocks, in nanoseconds.
///
/// Thread safety: functions without state.
#pragma once

#include <cstdint>
#include <ctime>

namespace lockfs {

[[nodiscard]] constexpr std::int64_t nanoseconds(const timespec& time) noexcept {
  return time.tv_sec * std::int64_t{1'000'000'000} + time.tv_nsec;
}

/// 0 for a clock that there is not.
[[nodiscard]] inline std::int64_t nanoseconds_on(clockid_t clock) noexcept {
  timespec now{};
  ::clock_gettime(clock, &now);
  return nanoseconds(now);
}

}  // namespace lockfs
