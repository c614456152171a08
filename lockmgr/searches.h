/// Requests that were parked before it was known whether they close a cycle, since the graph is too
/// large to look for that at once. Users take turns, so that a crowd of one does not keep the
/// others from being told.
///
/// Thread safety: all methods may be called from any thread; each takes a mutex of its own, and no
/// other while it holds that.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>

#include "lockmgr/waiter.h"

namespace lockmgr {

class Searches {
 public:
  /// May throw std::bad_alloc.
  void add(const std::shared_ptr<Waiter>& waiter) {
    const std::lock_guard guard(mutex_);
    by_user_[waiter->request.caller.uid].push_back(waiter);
    ++count_;
  }

  /// Takes one out; null: there is none.
  std::shared_ptr<Waiter> take() noexcept {
    const std::lock_guard guard(mutex_);
    while (!by_user_.empty()) {
      auto user = by_user_.upper_bound(last_);
      if (user == by_user_.end()) user = by_user_.begin();
      last_ = user->first;
      std::shared_ptr<Waiter> waiter = user->second.front().lock();
      user->second.pop_front();
      --count_;
      if (user->second.empty()) by_user_.erase(user);
      if (waiter != nullptr) return waiter;
    }
    return nullptr;
  }

  /// How many there are, those that have been answered meanwhile included.
  std::uint64_t count() const noexcept { return count_.load(std::memory_order_relaxed); }

 private:
  std::mutex mutex_;
  std::map<uid_t, std::deque<std::weak_ptr<Waiter>>> by_user_;  ///< guarded by mutex_
  uid_t last_ = 0;                                              ///< guarded by mutex_
  std::atomic<std::uint64_t> count_{0};                         ///< changed with mutex_ held
};

}  // namespace lockmgr
