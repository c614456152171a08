#include "fs/control/feed.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>
#include <utility>

#include "lockmgr/file_locks.h"

namespace lockfs::control {

EventFeed::EventFeed() : wake_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  if (!wake_) throw std::system_error(errno, std::generic_category(), "eventfd");
}

void EventFeed::open() {
  const std::lock_guard guard(mutex_);
  items_.reserve(kRoom);
  open_ = true;
}

void EventFeed::close() noexcept {
  std::vector<FeedItem> dropped;  // destroyed after the mutex is released: files may go with it
  const std::lock_guard guard(mutex_);
  open_ = false;
  dropped.swap(items_);
}

void EventFeed::push(const lockmgr::FileLocks& file, const lockmgr::Event& event) noexcept {
  // Its last reference may be on its way out; then nobody can name the file any more.
  std::shared_ptr<const lockmgr::FileLocks> reference = file.weak_from_this().lock();
  bool first = false;
  {
    const std::lock_guard guard(mutex_);
    if (!open_) return;
    if (items_.size() == kRoom || reference == nullptr) {
      ++lost_;
      return;
    }
    first = items_.empty();
    items_.push_back({event, std::move(reference), std::chrono::system_clock::now()});
  }
  const std::uint64_t one = 1;
  // It can only fail when the counter is full, and then the thread is awake.
  if (first) static_cast<void>(!write(wake_.get(), &one, sizeof one));
}

std::uint64_t EventFeed::take(std::vector<FeedItem>& items) {
  items.clear();
  items.reserve(kRoom);
  std::uint64_t count = 0;
  static_cast<void>(!read(wake_.get(), &count, sizeof count));
  const std::lock_guard guard(mutex_);
  std::swap(items, items_);
  return std::exchange(lost_, 0);
}

}  // namespace lockfs::control
