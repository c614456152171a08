/// Runs tasks one at a time, in the order in which they came, without a thread of its own: whoever
/// finds the strand idle runs its task at once, then those that others left meanwhile.
///
/// Thread safety: run() may be called from any thread, also from within a task (the new task then
/// runs after it).
///
/// Invariants:
///  1. Tasks begin in the order in which run() was entered, each after the one before has returned.
///  2. A task is run exactly once.
#pragma once

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
    {
      const std::lock_guard lock(mutex_);
      if (busy_) {
        left_.emplace_back(std::forward<Task>(task));
        return;
      }
      busy_ = true;
    }
    task();
    run_left();
  }

 private:
  void run_left() {
    while (true) {
      std::function<void()> next;
      {
        const std::lock_guard lock(mutex_);
        if (left_.empty()) {
          busy_ = false;
          return;
        }
        next = std::move(left_.front());
        left_.pop_front();
      }
      next();
    }
  }

  std::mutex mutex_;
  bool busy_ = false;                       ///< guarded by mutex_
  std::deque<std::function<void()>> left_;  ///< guarded by mutex_
};

}  // namespace lockfs
