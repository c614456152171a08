#include "fs/loop/request_loop.h"

#include <fcntl.h>
#include <linux/fuse.h>
#include <poll.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <new>
#include <system_error>
#include <utility>

#include "fs/base/credentials.h"
#include "fs/base/kick.h"

namespace lockfs {

namespace {

using namespace std::chrono_literals;

/// How long a request takes before its thread no longer counts as one of the workers, and how many
/// threads may be in that state.
constexpr auto kStuck = 100ms;
constexpr unsigned kMostStuck = 1000;
/// Reads and writes of this size are left to another thread at once: copying takes long enough.
constexpr std::uint32_t kLargeTransfer = 256 * 1024;

const fuse_in_header& header_of(const fuse_buf& buffer) {
  return *static_cast<const fuse_in_header*>(buffer.mem);
}

/// The operation's own argument behind the header, or null when the request is too short for it.
template <typename Argument>
const Argument* argument_of(const fuse_buf& buffer) {
  if (buffer.size < sizeof(fuse_in_header) + sizeof(Argument)) return nullptr;
  return reinterpret_cast<const Argument*>(&header_of(buffer) + 1);
}

/// Whether the kernel reads ahead: the client goes on meanwhile, and best on a CPU of its own.
bool reads_ahead(const fuse_buf& buffer) {
  constexpr std::uint32_t kReadahead = 64 * 1024;
  const auto* read =
      header_of(buffer).opcode == FUSE_READ ? argument_of<fuse_read_in>(buffer) : nullptr;
  return read != nullptr && read->size >= kReadahead && (read->flags & O_DIRECT) == 0;
}

}  // namespace

thread_local RequestLoop::Role RequestLoop::role_;

RequestLoop::RequestLoop(fuse_session* session, const Operations& operations, unsigned workers,
                         AnswerLock answer_lock, std::function<void()> on_disconnect)
    : session_(session),
      operations_(operations),
      most_workers_(std::max(workers, 2U)),
      answer_lock_(std::move(answer_lock)),
      on_disconnect_(std::move(on_disconnect)) {}

RequestLoop::~RequestLoop() {
  end();
  if (watchdog_.joinable()) watchdog_.join();
}

int RequestLoop::start() {
  try {
    watchdog_ = std::thread([this] { watch(); });
  } catch (const std::system_error& failed) {
    return failed.code().value();
  }
  follower_.start();
  // The first to come takes the lead, the other is there to overtake it.
  return add_worker() && add_worker() ? 0 : EAGAIN;
}

bool RequestLoop::stop(std::chrono::milliseconds patience) {
  fuse_session_exit(session_);
  end();
  const auto deadline = std::chrono::steady_clock::now() + patience;
  std::unique_lock lock(mutex_);
  while (workers_ != 0 && std::chrono::steady_clock::now() < deadline) {
    // The leader may be about to enter read(2): kick until it is out.
    kick(leader_.load());
    changed_.wait_for(lock, 5ms, [this] { return workers_ == 0; });
  }
  return workers_ == 0;
}

void RequestLoop::end() {
  ended_.store(true);
  // Whoever is between its look at ended_ and its wait holds one of these.
  { const std::lock_guard lock(mutex_); }
  { const std::lock_guard lock(watch_mutex_); }
  follow_.notify_all();
  changed_.notify_all();
  watch_wake_.notify_all();
}

// -- workers -------------------------------------------------------------------------------------

bool RequestLoop::add_worker() {
  {
    const std::lock_guard lock(mutex_);
    ++workers_;
  }
  try {
    std::thread([this] { work(); }).detach();
    return true;
  } catch (const std::system_error& failed) {
    const std::lock_guard lock(mutex_);
    --workers_;
    spdlog::error("cannot start a worker thread: {}", failed.code().message());
    return false;
  }
}

void RequestLoop::work() {
  CpuFollower::start_free();
  accept_only_kicks();
  if (const int error = prepare_worker_thread(); error != 0) {
    spdlog::error("cannot prepare a worker thread: {}", std::strerror(error));
  }
  role_.loop = this;
  fuse_buf buffer{};
  std::unique_lock lock(mutex_);
  const auto self = at_work_.emplace(at_work_.end());
  role_.worker = &*self;
  while (!ended_) {
    if (workers_ - blocking_ - stuck_ > most_workers_ && followers_ > 0) break;  // one too many
    bool leader = false;
    ++followers_;
    follow_.wait(lock, [&] { return ended_ || (leader = take_lead()) || !put_by_.empty(); });
    --followers_;
    if (leader) {
      lock.unlock();
      lead(buffer);
      lock.lock();
    } else if (!put_by_.empty()) {
      const Request request = std::move(put_by_.front());
      put_by_.pop_front();
      has_put_by_ = !put_by_.empty();
      self->busy_since = std::chrono::steady_clock::now();
      lock.unlock();
      fuse_buf stored{};
      stored.mem = request.bytes.get();
      stored.size = request.size;
      role_.leads = false;
      carry_out(stored);
      lock.lock();
    }
    self->busy_since = {};
    count_again(*self);
  }
  lock.unlock();
  std::free(buffer.mem);  // libfuse allocated it with malloc
  lock.lock();
  at_work_.erase(self);
  --workers_;
  changed_.notify_all();
}

/// Called with mutex_ held.
bool RequestLoop::take_lead() {
  std::uint64_t state = state_.load();
  while (LeadState::phase_of(state) == Phase::kVacant) {
    if (state_.compare_exchange_weak(
            state, LeadState::pack(LeadState::count_of(state), Phase::kReading))) {
      leader_.store(gettid());
      lead_worker_ = role_.worker;
      return true;
    }
  }
  return false;
}

/// Reads and carries out requests until another thread has taken the lead, or the end.
void RequestLoop::lead(fuse_buf& buffer) {
  std::uint64_t count = LeadState::count_of(state_.load());
  follower_.thread_changed();
  while (true) {
    const int got = fuse_session_receive_buf(session_, &buffer);
    if (got == -EINTR || got == -EAGAIN) {
      if (ended_) break;
      continue;
    }
    if (got <= 0) {
      fuse_session_exit(session_);
      if (!ended_.exchange(true)) on_disconnect_();
      end();
      break;
    }
    ++count;
    state_.store(LeadState::pack(count, Phase::kOrdered));
    role_.leads = true;
    role_.count = count;
    const Pace pace = classify(buffer);
    if (pace != Pace::kSlow && !reads_ahead(buffer) &&
        follower_.note(static_cast<pid_t>(header_of(buffer).pid), CpuFollower::Clock::now())) {
      wake_watchdog();
    }
    if (pace != Pace::kOrdered && !follower_ready()) {
      put_by(buffer);
    } else {
      if (pace == Pace::kSlow) give_up_lead();
      if (pace == Pace::kQuick) CurrentRequest::allow_overtaking();
      carry_out(buffer);
    }
    if (!keep_lead()) break;
    if (follower_.wants_end()) follower_.answered(CpuFollower::Clock::now());
  }
  follower_.set_free();
}

/// After a request: back to reading, unless the lead is gone.
bool RequestLoop::keep_lead() {
  if (!role_.leads) return false;
  std::uint64_t state = LeadState::pack(role_.count, Phase::kOrdered);
  const std::uint64_t reading = LeadState::pack(role_.count, Phase::kReading);
  if (state_.compare_exchange_strong(state, reading)) return true;
  state = LeadState::pack(role_.count, Phase::kOvertakable);
  return state_.compare_exchange_strong(state, reading);
}

void RequestLoop::give_up_lead() {
  if (!std::exchange(role_.leads, false)) return;
  follower_.set_free();
  if (!vacate(LeadState::pack(role_.count, Phase::kOrdered))) {
    vacate(LeadState::pack(role_.count, Phase::kOvertakable));
  }
}

/// Makes the lead vacant, and sure that a thread is there to take it.
bool RequestLoop::vacate(std::uint64_t expected) {
  bool alone = false;
  {
    const std::lock_guard lock(mutex_);
    if (!state_.compare_exchange_strong(
            expected, LeadState::pack(LeadState::count_of(expected), Phase::kVacant))) {
      return false;
    }
    lead_worker_->busy_since = std::chrono::steady_clock::now();
    // Of several things to do, a follower takes the lead first.
    alone = followers_ == 0;
  }
  if (alone) add_worker();
  follow_.notify_all();
  return true;
}

/// Whether a thread is there to take the lead, if need be a new one.
bool RequestLoop::follower_ready() {
  if (followers_.load() > 0) return true;
  {
    const std::lock_guard lock(mutex_);
    if (!has_room()) return false;
  }
  return add_worker();
}

/// Whether another worker may be added. Called with mutex_ held.
bool RequestLoop::has_room() {
  if (workers_ - blocking_ - stuck_ < most_workers_) return true;
  const auto long_ago = std::chrono::steady_clock::now() - kStuck;
  for (Worker& worker : at_work_) {
    if (stuck_ == kMostStuck) break;
    if (worker.stuck || worker.blocking || worker.busy_since > long_ago) continue;
    if (worker.busy_since == std::chrono::steady_clock::time_point{}) continue;
    worker.stuck = true;
    ++stuck_;
  }
  return workers_ - blocking_ - stuck_ < most_workers_;
}

/// Called with mutex_ held.
void RequestLoop::count_again(Worker& worker) {
  if (std::exchange(worker.stuck, false)) --stuck_;
}

void RequestLoop::carry_out(const fuse_buf& buffer) {
  role_.lock_request = {};
  role_.clears_set_id_bits = false;
  switch (header_of(buffer).opcode) {
    case FUSE_SETLK:
    case FUSE_SETLKW:
      role_.lock_request = {&header_of(buffer), argument_of<fuse_lk_in>(buffer)};
      if (answer_lock_ && role_.lock_request.what != nullptr && answer_lock_(role_.lock_request)) {
        return;
      }
      break;
    case FUSE_GETLK:
      role_.lock_request = {&header_of(buffer), argument_of<fuse_lk_in>(buffer)};
      break;
    case FUSE_WRITE:
      if (const auto* write = argument_of<fuse_write_in>(buffer)) {
        role_.clears_set_id_bits = (write->write_flags & FUSE_WRITE_KILL_SUIDGID) != 0;
      }
      break;
    case FUSE_SETATTR:
      if (const auto* change = argument_of<fuse_setattr_in>(buffer)) {
        role_.clears_set_id_bits = (change->valid & FATTR_KILL_SUIDGID) != 0;
      }
      break;
    default:
      break;
  }
  fuse_session_process_buf(session_, &buffer);
}

void RequestLoop::put_by(const fuse_buf& buffer) {
  Request request;
  request.bytes.reset(new (std::nothrow) char[buffer.size]);
  if (request.bytes == nullptr) {
    carry_out(buffer);  // better late than never
    return;
  }
  std::memcpy(request.bytes.get(), buffer.mem, buffer.size);
  request.size = buffer.size;
  {
    const std::lock_guard lock(mutex_);
    put_by_.push_back(std::move(request));
    has_put_by_ = true;
  }
  follow_.notify_one();
  wake_watchdog();
}

/// Requests that were put by must not wait for ever for workers that are stuck.
void RequestLoop::serve_put_by() {
  {
    const std::lock_guard lock(mutex_);
    if (put_by_.empty() || followers_ > 0 || !has_room()) return;
  }
  add_worker();
}

Pace RequestLoop::classify(const fuse_buf& buffer) const {
  const std::uint32_t opcode = header_of(buffer).opcode;
  const Pace pace = operations_.pace_of(opcode);
  if (pace != Pace::kByLength) return pace;
  const auto* read = opcode == FUSE_READ ? argument_of<fuse_read_in>(buffer) : nullptr;
  const std::size_t length = read != nullptr ? read->size : buffer.size;
  return length >= kLargeTransfer ? Pace::kSlow : Pace::kQuick;
}

// -- for handlers --------------------------------------------------------------------------------

void CurrentRequest::allow_overtaking() {
  if (RequestLoop::role_.loop == nullptr || !RequestLoop::role_.leads) return;
  RequestLoop& loop = *RequestLoop::role_.loop;
  std::uint64_t ordered = LeadState::pack(RequestLoop::role_.count, RequestLoop::Phase::kOrdered);
  if (loop.state_.compare_exchange_strong(
          ordered, LeadState::pack(RequestLoop::role_.count, RequestLoop::Phase::kOvertakable))) {
    loop.overtakable_.store(true, std::memory_order_relaxed);
    loop.wake_watchdog();
  }
}

void CurrentRequest::give_way() {
  if (RequestLoop::role_.loop == nullptr || !RequestLoop::role_.leads) return;
  RequestLoop& loop = *RequestLoop::role_.loop;
  // A lone client's thread stays beside him.
  if (loop.request_waits()) {
    loop.give_up_lead();
  } else {
    allow_overtaking();
  }
}

CurrentRequest::Blocking::Blocking() : loop_(RequestLoop::role_.loop) {
  if (loop_ == nullptr) return;
  {
    const std::lock_guard lock(loop_->mutex_);
    loop_->count_again(*RequestLoop::role_.worker);
    RequestLoop::role_.worker->blocking = true;
    ++loop_->blocking_;
  }
  loop_->give_up_lead();
}

CurrentRequest::Blocking::~Blocking() {
  if (loop_ == nullptr) return;
  const std::lock_guard lock(loop_->mutex_);
  RequestLoop::role_.worker->blocking = false;
  --loop_->blocking_;
}

LockRequest CurrentRequest::lock_request() { return RequestLoop::role_.lock_request; }
bool CurrentRequest::clears_set_id_bits() { return RequestLoop::role_.clears_set_id_bits; }

// -- watchdog ------------------------------------------------------------------------------------

void RequestLoop::wake_watchdog() {
  if (watching_.load() || watching_.exchange(true)) return;
  { const std::lock_guard lock(watch_mutex_); }
  watch_wake_.notify_one();
}

void RequestLoop::watch() {
  accept_only_kicks();
  follower_.look_after();
  Watchdog dog(*this);
  std::unique_lock lock(watch_mutex_);
  while (!ended_) {
    watch_wake_.wait(lock, [this] { return ended_ || watching_; });
    dog.wake();
    while (!ended_ && dog.awake()) {
      watch_wake_.wait_for(lock, dog.pause(), [this] { return ended_.load(); });
      dog.tick(state_.load(), overtakable_.exchange(false) || has_put_by_, Watchdog::Clock::now());
      if (has_put_by_) serve_put_by();
    }
    follower_.rest();
    watching_ = false;
    // The leader stores its phase before it looks at watching_; one of the two sees the other.
    if (LeadState::phase_of(state_.load()) == Phase::kOvertakable || has_put_by_ ||
        follower_.binds()) {
      watching_ = true;
    }
  }
}

/// Whether the kernel has a request that nobody has read.
bool RequestLoop::request_waits() const {
  pollfd device{fuse_session_fd(session_), POLLIN, 0};
  return poll(&device, 1, 0) > 0;
}

void RequestLoop::overtake(std::uint64_t state) {
  {
    const std::lock_guard lock(mutex_);
    if (followers_ == 0 && workers_ - blocking_ >= most_workers_ + kMostStuck) return;
  }
  follower_.set_free();
  vacate(state);
}

}  // namespace lockfs
