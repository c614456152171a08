#include "fs/mirror/descriptor_log.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <tuple>

namespace lockfs {

DescriptorLog::DescriptorLog(Book& book) : pool_(book) {
  pool_.records().for_each([&](std::uint32_t index, const DescriptorRecord& record) {
    const std::uint64_t nodeid = record.nodeid.load(std::memory_order_acquire);
    if (nodeid == 0) {
      pool_.give(index);
    } else {
      left_.push_back({nodeid, index});
    }
  });
  std::sort(left_.begin(), left_.end(), [](const Left& a, const Left& b) {
    return std::tie(a.nodeid, a.index) < std::tie(b.nodeid, b.index);
  });
}

std::uint32_t DescriptorLog::add(std::uint64_t nodeid, int fd, DescriptorUse use) noexcept {
  const std::lock_guard lock(mutex_);
  const std::uint32_t index = pool_.take();
  if (index == 0) return 0;
  DescriptorRecord& record = pool_.records()[index];
  record.fd = fd;
  record.use = use;
  record.nodeid.store(nodeid, std::memory_order_release);
  return index;
}

void DescriptorLog::remove(std::uint32_t index) noexcept {
  const std::lock_guard lock(mutex_);
  pool_.records()[index].nodeid.store(0, std::memory_order_release);
  pool_.give(index);
}

/// REQUIRES: it was not handed out. With mutex_ held.
LoggedFd DescriptorLog::hand_out(Left& left) noexcept {
  const DescriptorRecord& record = pool_.records()[left.index];
  LoggedFd fd;
  fd.log_ = this;
  fd.index_ = std::exchange(left.index, 0);
  fd.use_ = record.use;
  fd.fd_ = UniqueFd(record.fd);
  return fd;
}

std::vector<LoggedFd> DescriptorLog::take_over(std::uint64_t nodeid) {
  std::vector<LoggedFd> found;
  const std::lock_guard lock(mutex_);
  const auto first =
      std::lower_bound(left_.begin(), left_.end(), nodeid,
                       [](const Left& left, std::uint64_t wanted) { return left.nodeid < wanted; });
  const auto last =
      std::find_if(first, left_.end(), [&](const Left& left) { return left.nodeid != nodeid; });
  found.reserve(static_cast<std::size_t>(last - first));
  std::for_each(first, last, [&](Left& left) {
    if (left.index != 0) found.push_back(hand_out(left));
  });
  return found;
}

std::vector<LoggedFd> DescriptorLog::abandoned() {
  std::vector<LoggedFd> found;
  const std::lock_guard lock(mutex_);
  found.reserve(left_.size());
  for (Left& left : left_) {
    if (left.index != 0) found.push_back(hand_out(left));
  }
  left_ = {};
  return found;
}

void DescriptorLog::known_descriptors(const Book& book, std::vector<int>& found) {
  const auto* const records =
      reinterpret_cast<const DescriptorRecord*>(book.records(Kind::kDescriptors));
  const std::uint32_t high = book.high(Kind::kDescriptors);
  for (std::uint32_t index = 1; index < high; ++index) {
    const DescriptorRecord& record = records[index];
    if (record.nodeid.load(std::memory_order_acquire) != 0) found.push_back(record.fd);
  }
}

std::string_view DescriptorLog::damage_in(Book& book) {
  const Records<DescriptorRecord, Kind::kDescriptors> records(book);
  const bool right = records.all_of([](const DescriptorRecord& record) {
    if (record.nodeid == 0) return true;
    const bool known_use =
        record.use >= DescriptorUse::kShared && record.use <= DescriptorUse::kFlock;
    return known_use && record.fd > STDERR_FILENO;
  });
  return right ? "" : "a descriptor that carries locks";
}

// -- LoggedFd ------------------------------------------------------------------------------------

int LoggedFd::make(UniqueFd fd, DescriptorUse use, DescriptorLog* log, std::uint64_t nodeid,
                   LoggedFd& made) noexcept {
  LoggedFd logged;
  logged.use_ = use;
  if (log != nullptr) {
    logged.index_ = log->add(nodeid, fd.get(), use);
    if (logged.index_ == 0) return ENOLCK;
    logged.log_ = log;
  }
  logged.fd_ = std::move(fd);
  made = std::move(logged);
  return 0;
}

LoggedFd& LoggedFd::operator=(LoggedFd&& other) noexcept {
  reset();
  log_ = std::exchange(other.log_, nullptr);
  index_ = std::exchange(other.index_, 0);
  use_ = other.use_;
  fd_ = std::move(other.fd_);
  return *this;
}

void LoggedFd::reset() noexcept {
  if (log_ != nullptr) log_->remove(index_);
  log_ = nullptr;
  fd_.reset();
}

void LoggedFd::leave() noexcept {
  log_ = nullptr;
  std::ignore = fd_.release();
}

}  // namespace lockfs
