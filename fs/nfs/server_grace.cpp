#include "fs/nfs/server_grace.h"

#include <fcntl.h>
#include <poll.h>
#include <spdlog/spdlog.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <new>
#include <system_error>
#include <utility>

#include "fs/base/process_look.h"

namespace lockfs {

namespace {

using namespace std::chrono_literals;

/// Pauses between two looks: while requests wait for what they will show; where the end of the
/// server cannot be seen otherwise; else.
constexpr auto kShutPause = 50ms;
constexpr auto kUnwatchedPause = 100ms;
constexpr auto kPause = 1s;

/// What `path` says first; 0 if it cannot be read.
char first_letter(const std::string& path) noexcept {
  ProcText text;
  const std::string_view found = read_proc(path.c_str(), text);
  return found.empty() ? '\0' : found.front();
}

}  // namespace

ServerGrace::ServerGrace(Settings settings, std::function<void()> on_settled)
    : settings_(std::move(settings)), on_settled_(std::move(on_settled)) {
  if (settings_.absence == Clock::duration::zero()) return;
  thread_.reset(::eventfd(0, EFD_CLOEXEC));
  if (!thread_) throw std::system_error(errno, std::generic_category(), "eventfd");
  state_ = State::kShut;  // until the first look
  shut_since_ = Clock::now();
  absent_until_ = shut_since_ + (settings_.awaited ? settings_.absence : Clock::duration::zero());
  watcher_ = std::thread([this] { watch(); });
}

ServerGrace::~ServerGrace() {
  {
    const std::lock_guard lock(mutex_);
    ended_ = true;
  }
  changed_.notify_all();
  if (watcher_.joinable()) watcher_.join();
}

bool ServerGrace::settled() noexcept {
  const State seen = state_;
  if (seen == State::kFree || (seen == State::kServed && server_lives())) return true;
  asked_ = true;  // before the state is looked at again: see watch()
  State state = state_;
  if (state == State::kFree || (state == State::kServed && server_lives())) return true;
  // One thread of the server has ended: all of them, or it has fewer now.
  if (state == State::kServed && state_.compare_exchange_strong(state, State::kShut)) nudge();
  return false;
}

bool ServerGrace::server_lives() const noexcept {
  if (!watched_) return true;
  pollfd thread{thread_.get(), POLLIN, 0};
  return ::poll(&thread, 1, 0) == 0;
}

int ServerGrace::wait(WaitId id, WaitDone done) noexcept try {
  const std::lock_guard lock(mutex_);
  waits_.emplace(id, Wait{std::move(done)});
  if (state_ != State::kShut) {
    nudged_ = true;
    changed_.notify_one();
  }
  return 0;
} catch (const std::bad_alloc&) {
  return ENOLCK;
}

void ServerGrace::recall(WaitId id) noexcept {
  const std::lock_guard lock(mutex_);
  const auto it = waits_.find(id);
  if (it == waits_.end()) return;
  it->second.recalled = true;
  nudged_ = true;
  changed_.notify_one();
}

void ServerGrace::nudge() noexcept {
  const std::lock_guard lock(mutex_);
  nudged_ = true;
  changed_.notify_one();
}

// -- the thread ----------------------------------------------------------------------------------

void ServerGrace::watch() {
  while (true) {
    Sight sight = look();
    if (sight.serving && !sight.grace && (state_ != State::kServed || !server_lives())) {
      attach();
      sight = look();  // it may have stopped before
    }
    take_in(sight, Clock::now());
    for (auto& [id, wait] : take_ended()) wait.done(lockmgr::WaitEnd::not_held());
    // After the state has been set: whoever was told no finds it changed, or is counted here.
    if (state_ != State::kShut && asked_.exchange(false)) on_settled_();

    std::unique_lock lock(mutex_);
    if (ended_ && waits_.empty()) return;
    changed_.wait_for(lock, pause(), [this] { return ended_ || nudged_; });
    nudged_ = false;
  }
}

ServerGrace::Sight ServerGrace::look() const {
  const char threads = first_letter(settings_.proc + "/nfsd/threads");
  Sight sight;
  sight.serving = threads >= '1' && threads <= '9';
  sight.grace = sight.serving && (first_letter(settings_.proc + "/nfsd/v4_end_grace") == 'N' ||
                                  first_letter(settings_.proc + "/lockd/nlm_end_grace") == 'N');
  return sight;
}

/// Looks for a thread of the server to be watched.
void ServerGrace::attach() noexcept try {
  const pid_t thread = find_process("nfsd");
  // glibc 2.36 declares pidfd_open() for C only.
  const UniqueFd fd(thread != 0 ? static_cast<int>(::syscall(SYS_pidfd_open, thread, 0)) : -1);
  watched_ = fd && ::dup3(fd.get(), thread_.get(), O_CLOEXEC) >= 0;
} catch (const std::bad_alloc&) {
  watched_ = false;
}

void ServerGrace::take_in(const Sight& sight, Clock::time_point now) noexcept {
  if (was_serving_ && !sight.serving) absent_until_ = now + settings_.absence;
  was_serving_ = sight.serving;
  served_ = served_ || sight.serving;

  Reason reason = Reason::kNone;
  if (sight.grace) {
    reason = Reason::kGrace;
  } else if (!sight.serving && now < absent_until_) {
    reason = served_ ? Reason::kGone : Reason::kAwaited;
  }
  if (reason != Reason::kNone) {
    if (reason_ == Reason::kNone) shut_since_ = now;
    state_ = State::kShut;
  } else {
    state_ = sight.serving ? State::kServed : State::kFree;
  }
  reason_ = reason;
  tell(now);
}

/// Says in the log that requests wait, once they do, and that they no longer do.
void ServerGrace::tell(Clock::time_point now) noexcept {
  if (reason_ == told_ || (reason_ != Reason::kNone && !asked_)) return;
  const auto seconds = [](Clock::duration time) {
    return std::chrono::duration_cast<std::chrono::seconds>(time).count();
  };
  switch (told_ = reason_) {
    case Reason::kNone:
      spdlog::warn("lock: requests no longer wait for the NFS server, after {} s",
                   seconds(now - shut_since_));
      break;
    case Reason::kAwaited:
    case Reason::kGone:
      spdlog::warn(
          "lock: the NFS server {}: requests for locks wait until it runs and its clients have "
          "reclaimed theirs, at most {} s (option server_wait)",
          reason_ == Reason::kGone ? "has stopped" : "is not there yet",
          seconds(settings_.absence));
      break;
    case Reason::kGrace:
      spdlog::warn(
          "lock: the NFS server is in its grace period: requests for locks wait for its end, as "
          "those of NFS clients do (echo Y > {}/nfsd/v4_end_grace ends it)",
          settings_.proc);
      break;
  }
}

/// Takes out those whose wait is over.
ServerGrace::Waits ServerGrace::take_ended() noexcept {
  Waits ended;
  const std::lock_guard lock(mutex_);
  if (ended_ || state_ != State::kShut) {
    ended.swap(waits_);
    return ended;
  }
  for (auto it = waits_.begin(); it != waits_.end();) {
    const auto wait = it++;
    if (wait->second.recalled) ended.insert(waits_.extract(wait));
  }
  return ended;
}

ServerGrace::Clock::duration ServerGrace::pause() const noexcept {
  switch (state_) {
    case State::kShut:
      return kShutPause;
    case State::kServed:
      return watched_ ? Clock::duration(kPause) : kUnwatchedPause;
    case State::kFree:
      break;
  }
  return kPause;
}

}  // namespace lockfs
