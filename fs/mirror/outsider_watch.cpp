#include "fs/mirror/outsider_watch.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <ctime>
#include <new>
#include <system_error>
#include <utility>

#include "fs/base/clock.h"
#include "fs/base/kick.h"
#include "fs/base/proc_locks.h"
#include "fs/loop/cpu_follower.h"
#include "fs/loop/current_request.h"

namespace lockfs {
namespace {

using namespace std::chrono_literals;

/// The shortest pause between two looks, and how old the last may be that serves a crowd.
constexpr auto kPause = 5ms;
constexpr auto kRecent = 50ms;
constexpr auto kMostWait = 50ms;
constexpr int kWatchCostFactor = 100;

OutsiderWatch::Clock::duration cpu_time() noexcept {
  return std::chrono::nanoseconds(nanoseconds_on(CLOCK_THREAD_CPUTIME_ID));
}

}  // namespace

OutsiderWatch::~OutsiderWatch() {
  {
    const std::lock_guard lock(mutex_);
    ended_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

/// Called with mutex_ held. False: no thread is to be had.
bool OutsiderWatch::ask() noexcept {
  if (!thread_.joinable()) {
    try {
      thread_ = std::thread([this] { run(); });
    } catch (const std::system_error& failed) {
      spdlog::error("cannot start a thread to look who waits outside the mount: {}",
                    failed.code().message());
      return false;
    }
  }
  if (!std::exchange(asked_, true)) changed_.notify_all();
  return true;
}

OutsiderWatch::Look OutsiderWatch::begin() noexcept {
  const std::lock_guard lock(mutex_);
  return ask() ? begun_ + 1 : 0;
}

OutsiderWatch::Result OutsiderWatch::answer(ino_t ino, Look wanted) noexcept {
  std::unique_lock lock(mutex_);
  if (finished_ < wanted) {
    if (const auto now = Clock::now(); now >= may_wait_from_) {
      lock.unlock();
      const CurrentRequest::Blocking blocking;
      lock.lock();
      changed_.wait_for(lock, kMostWait, [&] { return finished_ >= wanted; });
      const auto after = Clock::now();
      may_wait_from_ = after + (after - now) * kWatchCostFactor;
    }
  }
  if (begun_ == finished_ && Clock::now() - finished_at_ >= kRecent) ask();
  return {finished_, std::binary_search(waiting_.begin(), waiting_.end(), ino)};
}

void OutsiderWatch::run() noexcept {
  CpuFollower::start_free();
  accept_only_kicks();
  std::vector<ino_t> found;
  std::unique_lock lock(mutex_);
  while (!ended_) {
    changed_.wait(lock, [this] { return ended_ || asked_; });
    while (!ended_ && Clock::now() < next_look_) changed_.wait_until(lock, next_look_);
    if (ended_) break;
    asked_ = false;
    ++begun_;
    lock.unlock();
    const auto before = cpu_time();
    try {
      found = inodes_waited_for();
    } catch (const std::bad_alloc&) {
      found.clear();
    }
    const auto cost = cpu_time() - before;
    lock.lock();
    waiting_.swap(found);
    finished_ = begun_;
    finished_at_ = Clock::now();
    next_look_ = finished_at_ + std::max<Clock::duration>(kPause, cost * kWatchCostFactor);
    changed_.notify_all();
  }
}

bool OutsiderLook::anybody_waits() noexcept {
  const OutsiderWatch::Result result = watch_.answer(ino_, wanted_);
  return result.waits && std::exchange(used_, result.look) != result.look;
}

}  // namespace lockfs
