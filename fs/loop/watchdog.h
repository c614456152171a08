/// Looks after the thread that leads a request loop: decides, look by look, when it is overtaken,
/// when it is set free from the CPU it is bound to, and how long to pause until the next look.
///
/// Thread safety: none; one thread at a time.
///
/// Invariants:
///  1. A request is overtaken at its second look at the earliest: who has just begun is not stuck.
///  2. While the leader is bound there is another look within kSlowestTick.
#pragma once

#include <chrono>
#include <cstdint>

namespace lockfs {

/// What the leader is at, packed with a count of the requests read, so that the watchdog can tell
/// "still the same request" and the lead changes hands in one step.
struct LeadState {
  enum class Phase : std::uint64_t { kVacant, kReading, kOrdered, kOvertakable };

  static constexpr std::uint64_t pack(std::uint64_t count, Phase phase) {
    return count << 2 | static_cast<std::uint64_t>(phase);
  }
  static constexpr Phase phase_of(std::uint64_t state) { return static_cast<Phase>(state & 3); }
  static constexpr std::uint64_t count_of(std::uint64_t state) { return state >> 2; }
};

class Watchdog {
 public:
  using Clock = std::chrono::steady_clock;

  /// The period: a leader is overtaken when a request takes one to two of these.
  static constexpr std::chrono::microseconds kTick{300};
  /// The period while a thread is bound to a CPU. Each look at it may cost the client its place
  /// beside that thread (a scheduler may wake a task on the CPU that is running rather than on its
  /// own), so it doubles up to kSlowestTick when no request lets itself be overtaken.
  static constexpr std::chrono::milliseconds kSlowTick{3};
  static constexpr std::chrono::milliseconds kSlowestTick{12};
  /// Ticks without such requests after which the watchdog goes to sleep.
  static constexpr int kIdleTicks = 30;
  /// How long a request may wait, or be under way, before the bound leader is set free, should it
  /// have run for less than half of that time: in 5 ms it ran for 2, so something else has its CPU.
  /// A hiccup of the machine is shorter.
  static constexpr std::chrono::milliseconds kHeldUp{5};

  /// What the watchdog looks at and acts on.
  class Loop {
   public:
    /// Whether the kernel has a request that nobody has read.
    [[nodiscard]] virtual bool request_waits() const = 0;
    /// Whether the leader is bound to a CPU, and the CPU time it has had then.
    [[nodiscard]] virtual bool binds() const = 0;
    [[nodiscard]] virtual std::chrono::nanoseconds cpu_time() const = 0;

    /// Gives the lead to another thread, if the state is still that one.
    virtual void overtake(std::uint64_t state) = 0;
    /// Sets the bound leader free; `rescue`: because it does not get to run.
    virtual void set_free() = 0;
    virtual void rescue(Clock::time_point now) = 0;

   protected:
    Loop() = default;
    ~Loop() = default;
    Loop(const Loop&) = default;
    Loop& operator=(const Loop&) = default;
  };

  explicit Watchdog(Loop& loop) : loop_(loop) {}

  /// Begins anew after a sleep.
  void wake() noexcept;

  /// Whether there is anything to look after. False: it may sleep.
  [[nodiscard]] bool awake() const noexcept { return calm_ < kIdleTicks || loop_.binds(); }

  /// How long to pause before the next tick().
  [[nodiscard]] Clock::duration pause() const noexcept {
    return calm_ < kIdleTicks && !loop_.binds() ? Clock::duration(kTick) : slow_tick_;
  }

  /// One look. `state`: see LeadState; `active`: since the last look a request let itself be
  /// overtaken, or is put by.
  void tick(std::uint64_t state, bool active, Clock::time_point now);

 private:
  Loop& loop_;
  std::uint64_t last_ = 0;          ///< the state at the last look
  int calm_ = 0;                    ///< ticks without a request that may be overtaken
  int still_ = 0;                   ///< ticks in which nothing has moved
  bool waited_ = false;             ///< a request waits and nothing moves
  Clock::time_point held_up_;       ///< since when, if waited_
  std::chrono::nanoseconds had_{};  ///< the CPU time of the bound leader then
  Clock::duration slow_tick_ = kSlowTick;
};

}  // namespace lockfs
