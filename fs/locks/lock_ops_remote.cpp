/// LockOps where the backing filesystem may stall: requests that are put off until it answers, and
/// what might wait for it outside of a file's strand.
#include <unistd.h>

#include <cerrno>
#include <new>
#include <utility>
#include <vector>

#include "fs/base/process_look.h"
#include "fs/locks/lock_ops.h"
#include "fs/tree/filesystem.h"

namespace lockfs {

namespace {

/// How long a process that ends waits for what it has written to reach the backing filesystem.
constexpr auto kExitPatience = std::chrono::seconds(2);

}  // namespace

/// Whether ask_again() will be called for requests that have been put off.
bool LockOps::unanswered(const LockedFile& file) noexcept {
  return file.remote != nullptr ? file.remote->overdue() : !grace_.settled();
}

/// Keeps a request that found the backing without an answer, until ask_again() or an interrupt.
/// Returns false when the answer has come by now.
bool LockOps::put_off(const Asked& asked) noexcept try {
  std::uint64_t id = 0;
  {
    const std::lock_guard lock(put_off_mutex_);
    id = next_put_off_++;
  }
  // An interrupt that comes before the request is kept finds nothing to end, and is seen below.
  fuse_req_interrupt_func(
      asked.req,
      [](fuse_req_t req, void* data) {
        LockOps& ops = LockOps::of(req);
        ops.put_off_interrupted(reinterpret_cast<std::uint64_t>(data));
      },
      reinterpret_cast<void*>(id));
  int error = 0;
  {
    const std::lock_guard lock(put_off_mutex_);
    if (closed_ != 0) {
      error = closed_;
    } else if (fuse_req_interrupted(asked.req) != 0) {
      error = EINTR;
    } else if (!unanswered(*HandleLocks::of(*asked.handle)->file)) {
      return false;
    } else {
      put_off_.emplace(id, asked);
    }
  }
  if (error != 0) answer(asked, error);
  return true;
} catch (const std::bad_alloc&) {
  answer(asked, ENOLCK);
  return true;
}

/// Keeps a request until the thread that made it can be looked at: any order is right among
/// requests that have no answer. An interrupt is heeded after that, which is soon.
void LockOps::put_off_unclassified(Asked asked) noexcept {
  asked.taped = 0;
  asked.tried = false;
  asked.unclassified = true;
  int error = 0;
  try {
    const std::lock_guard lock(put_off_mutex_);
    error = closed_;
    if (error == 0) {
      put_off_.emplace(next_put_off_++, asked);
      ++unclassified_;
    }
  } catch (const std::bad_alloc&) {
    error = ENOLCK;
  }
  if (error != 0) {
    answer(asked, error);
    return;
  }
  { const std::lock_guard lock(queue_mutex_); }  // the watcher either waits or looks again
  queue_changed_.notify_one();
}

/// On the watcher's thread.
void LockOps::classify_again() noexcept try {
  std::vector<std::pair<std::uint64_t, pid_t>> waiting;
  {
    const std::lock_guard lock(put_off_mutex_);
    for (const auto& [id, asked] : put_off_) {
      if (asked.unclassified) waiting.emplace_back(id, asked.caller.tid);
    }
  }
  for (const auto& [id, thread] : waiting) {
    if (look_at_caller(thread, 1) == CallerLook::kRuns) continue;
    Asked asked;
    {
      const std::lock_guard lock(put_off_mutex_);
      const auto it = put_off_.find(id);
      if (it == put_off_.end()) continue;
      asked = it->second;
      put_off_.erase(it);
      --unclassified_;
    }
    asked.unclassified = false;
    start(asked);
  }
} catch (const std::bad_alloc&) {
  return;  // the next look is soon
}

void LockOps::put_off_interrupted(std::uint64_t id) noexcept {
  Asked asked;
  {
    const std::lock_guard lock(put_off_mutex_);
    const auto it = put_off_.find(id);
    if (it == put_off_.end()) return;
    asked = it->second;
    put_off_.erase(it);
    if (asked.unclassified) --unclassified_;
  }
  answer(asked, EINTR);
}

/// Answers all that is put off and puts off no more.
void LockOps::end_put_off(int error) noexcept {
  std::map<std::uint64_t, Asked> ended;
  {
    const std::lock_guard lock(put_off_mutex_);
    closed_ = error;
    ended.swap(put_off_);
    unclassified_ = 0;
  }
  for (const auto& [id, asked] : ended) answer(asked, error);
}

/// Requests on files that match ask again, in the order in which they came.
template <typename Match>
void LockOps::ask_again(const Match& match) noexcept {
  std::uint64_t newer = 0;
  {
    const std::lock_guard lock(put_off_mutex_);
    newer = next_put_off_;  // of those that are put off again
  }
  while (true) {
    Asked asked;
    {
      const std::lock_guard lock(put_off_mutex_);
      auto it = put_off_.begin();
      const auto waits_for_it = [&match](const Asked& put_off) {
        return !put_off.unclassified && match(*HandleLocks::of(*put_off.handle)->file);
      };
      while (it != put_off_.end() && !waits_for_it(it->second)) ++it;
      if (it == put_off_.end() || it->first >= newer) return;
      asked = it->second;
      put_off_.erase(it);
    }
    start(asked);
  }
}

/// A call that was given up has ended: what it left at the backing is set right before anything
/// else is decided there, then those who were put off ask again.
void LockOps::answered_late(const std::shared_ptr<LockedFile>& file) noexcept {
  file->locks->carry_anew();
  ask_again([&file](const LockedFile& other) { return &other == file.get(); });
}

/// The NFS server's clients have had their time.
void LockOps::grace_ended() noexcept {
  ask_again([](const LockedFile& file) { return file.remote == nullptr; });
}

/// Carries out on a thread of its own, outside of any strand, what may wait for the backing.
void LockOps::apart(const std::function<void()>& task) noexcept {
  {
    const std::lock_guard lock(put_off_mutex_);
    ++apart_;
  }
  const auto done = [this](int) {
    const std::lock_guard lock(put_off_mutex_);
    --apart_;
    apart_done_.notify_all();
  };
  try {
    WaitThreads::Wait job;
    job.id = WaitThreads::own_id();
    job.sit = [task](const std::atomic<bool>&) {
      task();
      return 0;
    };
    job.done = done;
    if (wait_threads_.start(std::move(job)) == 0) return;
  } catch (const std::bad_alloc&) {
    // Then in place.
  }
  task();
  done(0);
}

/// Writes back what was written, on a thread of its own, then answers. The handle may be gone
/// before that: see release_exiting().
void LockOps::flush_apart(fuse_req_t req, std::uint32_t kept, Handle& handle) noexcept {
  const int duplicate = Filesystem::open_to_flush(handle);
  if (duplicate < 0) {
    reply(req, kept, -duplicate);
    return;
  }
  const auto flush = [duplicate] { return ::close(duplicate) == 0 ? 0 : errno; };
  std::uint64_t id = 0;
  try {
    const std::lock_guard lock(queue_mutex_);
    id = next_flush_++;
    flushes_.emplace(id,
                     Flush{req, kept, fuse_req_ctx(req)->pid, std::chrono::steady_clock::now()});
  } catch (const std::bad_alloc&) {
    reply(req, kept, flush());
    return;
  }
  queue_changed_.notify_one();
  apart([this, id, flush] {
    const int error = flush();
    std::unique_lock lock(queue_mutex_);
    const auto answer = flushes_.extract(id);
    lock.unlock();
    if (!answer.empty()) reply(answer.mapped().req, answer.mapped().kept, error);
  });
}

/// A process that is about to be gone does not learn what its close() said, and cannot be
/// interrupted: it need not wait for a backing that does not answer. Called with queue_mutex_ held.
void LockOps::release_exiting() noexcept {
  const auto long_ago = std::chrono::steady_clock::now() - kExitPatience;
  for (auto it = flushes_.begin(); it != flushes_.end();) {
    if (it->second.since < long_ago && has_no_memory(it->second.caller)) {
      reply(it->second.req, it->second.kept, 0);
      it = flushes_.erase(it);
    } else {
      ++it;
    }
  }
}

void LockOps::drain() noexcept {
  end_threads();
  std::unique_lock lock(put_off_mutex_);
  apart_done_.wait(lock, [this] { return apart_ == 0; });
  lock.unlock();
  wait_threads_.settle();  // a wait that has just ended may hold the last reference to a file
}

}  // namespace lockfs
