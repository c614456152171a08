#include "fs/record/tape.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>
#include <utility>

namespace lockfs {

Tape::Tape() : wake_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  if (!wake_) throw std::system_error(errno, std::generic_category(), "eventfd");
}

void Tape::open() {
  const std::lock_guard guard(mutex_);
  items_.reserve(kRoom);
  lost_ = 0;
  recording_.fetch_add(1);
  open_.store(true);
}

void Tape::close() noexcept {
  std::vector<TapeItem> dropped;  // destroyed after the mutex is released: files may go with it
  const std::lock_guard guard(mutex_);
  open_.store(false);
  dropped.swap(items_);
}

/// Now, or a little later where that has been given away already.
TapeItem::Clock::time_point Tape::next_time() noexcept {
  const TapeItem::Clock::rep now = TapeItem::Clock::now().time_since_epoch().count();
  TapeItem::Clock::rep last = last_time_.load(std::memory_order_relaxed);
  TapeItem::Clock::rep mine = 0;
  do {
    mine = std::max(now, last + 1);
  } while (!last_time_.compare_exchange_weak(last, mine, std::memory_order_relaxed));
  return TapeItem::Clock::time_point(TapeItem::Clock::duration(mine));
}

std::uint64_t Tape::put(TapeItem item) noexcept {
  const auto cause = Cause::time();
  item.time = cause ? *cause : next_time();
  bool first = false;
  std::uint64_t number = 0;
  {
    const std::lock_guard guard(mutex_);
    if (!is_open()) return 0;
    // A gap is a stretch of time: what follows it would only confuse, until the reader knows.
    if (items_.size() == kRoom || lost_ != 0) {
      ++lost_;
      return 0;
    }
    if (item.kind == TapeItem::Kind::kAsk) item.ask = next_ask_++;
    number = item.ask;
    first = items_.empty();
    items_.push_back(std::move(item));
  }
  const std::uint64_t one = 1;
  // It can only fail when the counter is full, and then the reader is awake.
  if (first) static_cast<void>(!write(wake_.get(), &one, sizeof one));
  return number;
}

std::uint64_t Tape::take(std::vector<TapeItem>& items) {
  items.clear();
  items.reserve(kRoom);
  std::uint64_t count = 0;
  static_cast<void>(!read(wake_.get(), &count, sizeof count));
  const std::lock_guard guard(mutex_);
  std::swap(items, items_);
  return std::exchange(lost_, 0);
}

}  // namespace lockfs
