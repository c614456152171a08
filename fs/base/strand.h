/// Runs tasks one at a time, in the order in which they came, without a thread of its own: whoever
/// finds the strand idle runs its task at once, then those that others left meanwhile.
///
/// Thread safety: both may be called from any thread, also from within a task (the new task then
/// runs after it).
///
/// Invariants:
///  1. Tasks begin in the order in which run() was entered, each after the one before has returned.
///  2. A task is run exactly once.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <utility>

namespace lockfs {

class Strand {
 public:
  /// `task` must not throw. Blocks only while it runs tasks. May throw std::bad_alloc when the task
  /// would have to be left for another thread; then it is not run.
  template <typename Task>
  void run(Task&& task) {
    if (!begin() && !begin_or_leave(std::forward<Task>(task))) return;
    task();
    end();
  }

  /// The same if nothing else is under way; else returns false, and the task is not run.
  template <typename Task>
  bool run_if_idle(Task&& task) {
    if (!begin()) return false;
    std::forward<Task>(task)();
    end();
    return true;
  }

 private:
  enum class State : std::uint8_t {
    kIdle,
    kBusy,  ///< and nothing is left
    kLeft,  ///< busy, and whoever it is has to look into `left_`
  };

  bool begin() noexcept {
    State idle = State::kIdle;
    return state_.compare_exchange_strong(idle, State::kBusy);
  }

  /// Returns whether the caller is to run the task; else it was left.
  template <typename Task>
  bool begin_or_leave(Task&& task) {
    const std::lock_guard lock(mutex_);
    while (!begin()) {
      State busy = State::kBusy;
      if (state_.compare_exchange_strong(busy, State::kLeft) || busy == State::kLeft) {
        left_.emplace_back(std::forward<Task>(task));
        return false;
      }
    }
    return true;
  }

  void end() {
    State busy = State::kBusy;
    if (state_.compare_exchange_strong(busy, State::kIdle)) return;
    while (true) {
      std::function<void()> next;
      {
        const std::lock_guard lock(mutex_);
        if (left_.empty()) {
          state_.store(State::kIdle);
          return;
        }
        next = std::move(left_.front());
        left_.pop_front();
      }
      next();
    }
  }

  std::atomic<State> state_{State::kIdle};  ///< from or to kLeft only under mutex_
  std::mutex mutex_;
  std::deque<std::function<void()>> left_;  ///< guarded by mutex_; empty unless kLeft
};

}  // namespace lockfs
