#include "fs/mirror/remote_calls.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <new>
#include <utility>

#include "fs/options/logging.h"

namespace lockfs {

namespace {

using namespace std::chrono_literals;

/// How long a call may take. Where one took longer the next ones get twice what it took, so that a
/// server that is merely slow is not asked in vain for ever.
constexpr auto kPatience = 2s;
constexpr auto kMostPatience = 30s;

double seconds_of(std::chrono::steady_clock::duration time) {
  return std::chrono::duration<double>(time).count();
}

}  // namespace

void OverdueFiles::add(const std::string& name) {
  const std::lock_guard lock(mutex_);
  names_.insert(name);
}

void OverdueFiles::remove(const std::string& name) {
  const std::lock_guard lock(mutex_);
  if (const auto it = names_.find(name); it != names_.end()) names_.erase(it);
}

std::vector<std::string> OverdueFiles::names() const {
  const std::lock_guard lock(mutex_);
  return {names_.begin(), names_.end()};
}

RemoteCalls::RemoteCalls(WaitThreads& threads, OverdueFiles& overdue, std::function<void()> on_late)
    : threads_(threads),
      overdue_files_(overdue),
      on_late_(std::move(on_late)),
      patience_(kPatience) {}

int RemoteCalls::run(std::function<int()> call, const std::function<std::string()>& name) {
  WaitThreads::Wait job;
  job.id = WaitThreads::own_id();
  job.sit = [call = std::move(call)](const std::atomic<bool>&) { return call(); };
  job.done = [self = shared_from_this()](int error) { self->ended(error); };

  std::unique_lock lock(mutex_);
  if (busy_) return EINPROGRESS;
  busy_ = true;
  begun_ = Clock::now();
  lock.unlock();
  const int error = threads_.start(std::move(job));
  lock.lock();
  if (error != 0) {
    busy_ = false;
    return error;
  }
  if (changed_.wait_for(lock, patience_, [this] { return !busy_; })) return result_;
  overdue_ = true;
  try {
    name_ = name();
    overdue_files_.add(name_);
    log_event(
        spdlog::level::err,
        fmt::format("lock: {}: the backing filesystem has not answered for {:.1f} s; requests "
                    "for locks of this file wait, and can be interrupted",
                    name_, seconds_of(Clock::now() - begun_)),
        {{"LOCKFS_EVENT", "unanswered"}, {"LOCKFS_FILE", name_}});
  } catch (const std::bad_alloc&) {
    name_.clear();  // then nobody is told
  }
  return EINPROGRESS;
}

void RemoteCalls::ended(int error) {
  bool late = false;
  {
    const std::lock_guard lock(mutex_);
    const Clock::duration took = Clock::now() - begun_;
    result_ = error;
    busy_ = false;
    late = std::exchange(overdue_, false);
    patience_ = std::clamp<Clock::duration>(2 * took, kPatience, kMostPatience);
    if (late) tell_end(took);
  }
  changed_.notify_all();
  if (late) on_late_();
}

/// Called with mutex_ held.
void RemoteCalls::tell_end(Clock::duration took) noexcept try {
  overdue_files_.remove(name_);
  log_event(spdlog::level::warn,
            fmt::format("lock: {}: the backing filesystem has answered after {:.1f} s", name_,
                        seconds_of(took)),
            {{"LOCKFS_EVENT", "answered"}, {"LOCKFS_FILE", name_}});
} catch (const std::bad_alloc&) {
  return;  // nobody is told
}

bool RemoteCalls::busy() const {
  const std::lock_guard lock(mutex_);
  return busy_;
}

bool RemoteCalls::overdue() const {
  const std::lock_guard lock(mutex_);
  return overdue_;
}

int RemoteCalls::wait_until_idle(const std::atomic<bool>& recalled) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return recalled || !busy_; });
  return EINTR;
}

void RemoteCalls::nudge() {
  { const std::lock_guard lock(mutex_); }
  changed_.notify_all();
}

}  // namespace lockfs
