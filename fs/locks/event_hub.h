/// Passes the lock manager's events on to everybody who wants them: the watchers of the control
/// socket, a recorder. While nobody does, the manager does not even make them.
///
/// Thread safety: all methods may be called from any thread. A sink must not call the hub.
#pragma once

#include <shared_mutex>
#include <vector>

#include "lockmgr/lock_manager.h"

namespace lockfs {

/// Somebody who is told every event.
class EventSink {
 public:
  virtual ~EventSink() = default;
  /// Called with the lock of `file` held, on any thread, for one file in the order of what
  /// happened. Must be quick, must not block, and must not call the manager or the file back. The
  /// file's last reference must not be dropped here.
  virtual void push(const lockmgr::FileLocks& file, const lockmgr::Event& event) noexcept = 0;
};

class EventHub {
 public:
  explicit EventHub(lockmgr::LockManager& manager) : manager_(manager) {}
  EventHub(const EventHub&) = delete;
  EventHub& operator=(const EventHub&) = delete;

  /// `sink` is told from now on; must be removed before it goes. Throws std::bad_alloc.
  void add(EventSink& sink) {
    const std::lock_guard lock(mutex_);
    sinks_.push_back(&sink);
    manager_.watch(true);
  }

  /// When it returns, `sink` is not told any more. Unknown ones are ignored.
  void remove(EventSink& sink) noexcept {
    const std::lock_guard lock(mutex_);
    std::erase(sinks_, &sink);
    if (sinks_.empty()) manager_.watch(false);
  }

  void push(const lockmgr::FileLocks& file, const lockmgr::Event& event) noexcept {
    const std::shared_lock lock(mutex_);
    for (EventSink* sink : sinks_) sink->push(file, event);
  }

 private:
  lockmgr::LockManager& manager_;
  std::shared_mutex mutex_;
  std::vector<EventSink*> sinks_;  ///< guarded by mutex_
};

}  // namespace lockfs
