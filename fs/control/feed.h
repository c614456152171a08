/// Events on their way from the lock manager to the control thread: a ring of fixed size, so that
/// neither a slow nor a dead watcher can delay a lock or use up memory. What does not fit is
/// counted.
///
/// Thread safety: push() and close() from any thread, the other methods from the control thread.
/// push() takes one short mutex, and makes one system call when the ring was empty.
///
/// Invariants:
///  1. While the feed is closed it holds nothing, so it keeps no file alive.
///  2. While it is open, push() allocates nothing.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "fs/base/unique_fd.h"
#include "fs/locks/event_hub.h"
#include "lockmgr/lock_manager.h"

namespace lockfs::control {

struct FeedItem {
  lockmgr::Event event;
  std::shared_ptr<const lockmgr::FileLocks> file;
  std::chrono::system_clock::time_point time;
};

class EventFeed final : public EventSink {
 public:
  static constexpr std::size_t kRoom = 4096;

  /// Closed at first. Throws std::system_error.
  EventFeed();
  ~EventFeed() override = default;
  EventFeed(const EventFeed&) = delete;
  EventFeed& operator=(const EventFeed&) = delete;

  /// Lets events in, from the next push() on. Throws std::bad_alloc.
  void open();
  /// Lets go of what was not taken, and of all that comes until it is opened.
  void close() noexcept;

  void push(const lockmgr::FileLocks& file, const lockmgr::Event& event) noexcept override;

  /// Becomes readable when there is something to take; owned by the object.
  [[nodiscard]] int fd() const { return wake_.get(); }

  /// Moves everything into `items` (emptied first) and returns how many events were lost before
  /// the end of these. Does not allocate once `items` has grown.
  std::uint64_t take(std::vector<FeedItem>& items);

 private:
  UniqueFd wake_;  ///< eventfd
  std::mutex mutex_;
  bool open_ = false;            ///< guarded by mutex_
  std::vector<FeedItem> items_;  ///< guarded by mutex_; never more than kRoom
  std::uint64_t lost_ = 0;       ///< guarded by mutex_
};

}  // namespace lockfs::control
