#include "fs/mirror/wait_threads.h"

#include <pthread.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <new>

#include "fs/base/kick.h"
#include "fs/loop/cpu_follower.h"

namespace lockfs {

namespace {

/// Idle threads that are kept.
constexpr unsigned kIdleKept = 4;
/// Enough for the completions that run here (a reply, a log line); only touched pages count.
constexpr std::size_t kStackSize = std::size_t{512} * 1024;

}  // namespace

WaitThreads::~WaitThreads() {
  std::unique_lock lock(mutex_);
  ended_ = true;
  work_.notify_all();
  rested_.wait(lock, [this] { return threads_ == 0; });
}

void WaitThreads::settle() noexcept {
  std::unique_lock lock(mutex_);
  rested_.wait(lock, [this] { return queue_.empty() && idle_ == threads_; });
}

int WaitThreads::start(Wait wait) noexcept {
  try {
    auto job = std::make_shared<Job>();
    const WaitId id = wait.id;
    job->wait = std::move(wait);
    const std::lock_guard lock(mutex_);
    under_way_.emplace(id, job);
    try {
      queue_.push_back(job);
    } catch (const std::bad_alloc&) {
      under_way_.erase(id);
      throw;
    }
    if (idle_ >= queue_.size()) {
      work_.notify_one();
      return 0;
    }
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, kStackSize);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_t thread{};
    const int error = pthread_create(
        &thread, &attributes,
        [](void* self) -> void* {
          static_cast<WaitThreads*>(self)->work();
          return nullptr;
        },
        this);
    pthread_attr_destroy(&attributes);
    if (error != 0) {
      spdlog::error("cannot start a thread to wait for an outside lock: {}", std::strerror(error));
      under_way_.erase(id);
      queue_.pop_back();
      return ENOLCK;
    }
    ++threads_;
    return 0;
  } catch (const std::bad_alloc&) {
    return ENOLCK;
  }
}

WaitThreads::WaitId WaitThreads::own_id() noexcept {
  static std::atomic<WaitId> next{WaitId{1} << 63};
  return next.fetch_add(1, std::memory_order_relaxed);
}

void WaitThreads::recall(WaitId id) noexcept {
  const std::lock_guard lock(mutex_);
  const auto it = under_way_.find(id);
  if (it == under_way_.end()) return;
  // In this order: a thread that misses the flag is still to be kicked.
  it->second->recalled = true;
  if (it->second->thread != 0) kick(it->second->thread);
}

void WaitThreads::work() {
  CpuFollower::start_free();
  accept_only_kicks();
  std::unique_lock lock(mutex_);
  while (true) {
    ++idle_;
    rested_.notify_all();
    work_.wait(lock, [this] { return ended_ || !queue_.empty(); });
    --idle_;
    if (queue_.empty()) break;
    const std::shared_ptr<Job> job = std::move(queue_.front());
    queue_.pop_front();
    job->thread = gettid();
    lock.unlock();
    const int error = job->wait.sit(job->recalled);
    lock.lock();
    under_way_.erase(job->wait.id);  // from here on a recall comes too late
    lock.unlock();
    job->wait.done(error);
    job->wait = {};  // maybe the last reference to a file and to a descriptor
    lock.lock();
    if (idle_ >= kIdleKept) break;
  }
  --threads_;
  rested_.notify_all();
}

}  // namespace lockfs
