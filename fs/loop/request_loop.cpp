#include "fs/loop/request_loop.h"

#include <fcntl.h>
#include <linux/fuse.h>
#include <poll.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <iterator>
#include <new>
#include <system_error>
#include <utility>

#include "fs/base/clock.h"
#include "fs/base/credentials.h"
#include "fs/base/death_point.h"
#include "fs/base/kick.h"
#include "fs/loop/device_calls.h"

namespace lockfs {

namespace {

using namespace std::chrono_literals;

/// How long a request takes before its thread no longer counts as one of the workers, and how many
/// threads may be in that state.
constexpr auto kStuck = 100ms;
constexpr unsigned kMostStuck = 1000;
/// Before another thread tries to read.
constexpr auto kNoMemoryPause = 10ms;
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
                         RequestSlots& slots, KeptRequests& kept, AnswerLock answer_lock,
                         std::function<void()> on_disconnect)
    : session_(session),
      operations_(operations),
      most_workers_(std::max(workers, 2U)),
      slots_(slots),
      kept_(kept),
      answer_lock_(std::move(answer_lock)),
      on_disconnect_(std::move(on_disconnect)) {}

RequestLoop::~RequestLoop() {
  end();
  if (stuck_watcher_.joinable()) stuck_watcher_.join();
  if (watchdog_.joinable()) watchdog_.join();
}

int RequestLoop::start() {
  try {
    watchdog_ = std::thread([this] { watch(); });
  } catch (const std::system_error& failed) {
    return failed.code().value();
  }
  follower_.start();
  try {
    if (!under_way_.empty()) stuck_watcher_ = std::thread([this] { watch_under_way(); });
  } catch (const std::system_error& failed) {
    return failed.code().value();
  }
  // The first to come takes the lead, the other is there to overtake it.
  if (!add_worker() || !add_worker()) return EAGAIN;
  if (on_settled_ != nullptr) {
    death_point("recovery.before_settled");
    settled_one();
    wake_watchdog();
  }
  return 0;
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
      lead();
      give_slot();
      lock.lock();
    } else if (!put_by_.empty()) {
      const Request request = put_by_.front();
      put_by_.pop_front();
      has_put_by_ = !put_by_.empty();
      self->busy_since = std::chrono::steady_clock::now();
      lock.unlock();
      role_.leads = false;
      carry_out(request);
      lock.lock();
    }
    self->busy_since = {};
    count_again(*self);
  }
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

/// Reads a request into the thread's slot. False: the connection has ended.
bool RequestLoop::read_request(fuse_buf& buffer) {
  RequestSlot& slot = *role_.slot;
  while (true) {
    slot.begin_reading();  // each time: the kernel may have begun to write what it took back
    const ssize_t got = read_device(fuse_session_fd(session_), slot.bytes, RequestSlot::kRoom);
    if (got > 0) {
      death_point("request.read");
      buffer.mem = slot.bytes;
      buffer.size = static_cast<std::size_t>(got);
      return true;
    }
    // ENOENT: the request was interrupted while it was read.
    const bool again = got < 0 && (errno == EINTR || errno == EAGAIN || errno == ENOENT);
    if (!again || ended_) return false;
  }
}

/// Reads and carries out requests until another thread has taken the lead, or the end.
void RequestLoop::lead() {
  std::uint64_t count = LeadState::count_of(state_.load());
  follower_.thread_changed();
  while (true) {
    if (left_to_begin_ != 0) {
      carry_out_left(++count);
      if (!keep_lead()) break;
      continue;
    }
    if (role_.slot == nullptr) role_.slot = slots_.take();
    if (role_.slot == nullptr) {  // no memory, or a slot for each of thousands of threads
      std::this_thread::sleep_for(kNoMemoryPause);
      vacate(LeadState::pack(count, Phase::kReading));
      break;
    }
    fuse_buf buffer{};
    if (!read_request(buffer)) {
      fuse_session_exit(session_);
      if (!ended_.exchange(true)) on_disconnect_();
      end();
      break;
    }
    begin_as_leader(++count);
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
      role_.slot->begin();
      carry_out_slot(buffer);
    }
    if (!keep_lead()) break;
    if (follower_.wants_end()) follower_.answered(CpuFollower::Clock::now());
  }
  follower_.set_free();
}

void RequestLoop::begin_as_leader(std::uint64_t count) noexcept {
  state_.store(LeadState::pack(count, Phase::kOrdered));
  role_.leads = true;
  role_.count = count;
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

/// What the thread's slot holds.
void RequestLoop::carry_out_slot(const fuse_buf& buffer) {
  death_point("request.begun");
  carry_out(buffer);
  death_point("request.carried_out");
  role_.slot->end();
  death_point("request.ended");
  role_.repeated = false;
  role_.given_up_at = 0;
}

/// One that goes on being kept, by whoever keeps it (CurrentRequest::keep()).
void RequestLoop::carry_out_kept(std::uint32_t record) {
  fuse_buf stored{};
  stored.mem = kept_[record].bytes;
  stored.size = kept_[record].size;
  RequestSlot* const slot = std::exchange(role_.slot, nullptr);
  role_.kept = record;
  carry_out(stored);
  if (std::exchange(role_.kept, 0) != 0) kept_.give(record);  // nobody did
  role_.slot = slot;
}

void RequestLoop::carry_out(const Request& request) {
  role_.slot = request.slot;
  if (role_.slot == nullptr) {
    const KeptRecord& record = kept_[request.kept];
    role_.slot = slots_.take();
    if (role_.slot == nullptr) {
      carry_out_kept(request.kept);
      if (request.left) settled_one();
      return;
    }
    // Not to be begun twice without a word. The slot counts from begin() on: what is copied half is
    // in the record still.
    std::memcpy(role_.slot->bytes, record.bytes, record.size);
    death_point("request.copied_from_record");
    role_.slot->begin();
    death_point("request.taken_from_record");
    kept_.give(request.kept);
  }
  role_.slot->take_up();
  role_.repeated = role_.slot->repeats != 0;
  role_.given_up_at = request.given_up_at;
  fuse_buf stored{};
  stored.mem = role_.slot->bytes;
  stored.size = role_.slot->header().len;
  carry_out_slot(stored);
  give_slot();
  if (request.left) settled_one();
}

/// Leaves the request to another thread, with the slot if it is large.
void RequestLoop::put_by(const fuse_buf& buffer) {
  RequestSlot& slot = *role_.slot;
  Request request;
  RequestSlot* fresh = nullptr;
  request.kept = kept_.keep(slot.bytes, buffer.size);
  if (request.kept == 0) {
    fresh = slots_.take();
    request.slot = &slot;
  }
  death_point("request.put_by");
  slot.begin();
  const auto queue = [&] {
    try {
      const std::lock_guard lock(mutex_);
      put_by_.push_back(request);
      has_put_by_ = true;
      return true;
    } catch (const std::bad_alloc&) {
      return false;
    }
  };
  if ((request.kept == 0 && fresh == nullptr) || !queue()) {
    if (fresh != nullptr) slots_.give(*fresh);
    kept_.give(request.kept);
    carry_out_slot(buffer);  // better late than never
    return;
  }
  if (fresh != nullptr) {
    role_.slot = fresh;
  } else {
    slot.end();
  }
  follow_.notify_one();
  wake_watchdog();
}

void RequestLoop::give_slot() noexcept {
  if (RequestSlot* const slot = std::exchange(role_.slot, nullptr)) slots_.give(*slot);
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

std::uint64_t CurrentRequest::unique() noexcept {
  const RequestSlot* const slot = RequestLoop::role_.slot;
  return slot != nullptr ? slot->unique : 0;
}
bool CurrentRequest::repeated() noexcept { return RequestLoop::role_.repeated; }
std::int64_t CurrentRequest::begun_at() noexcept {
  const RequestSlot* const slot = RequestLoop::role_.slot;
  return slot != nullptr ? slot->begun_at : 0;
}
std::int64_t CurrentRequest::given_up_at() noexcept {
  const RequestLoop::Role& role = RequestLoop::role_;
  if (role.given_up_at != 0) return role.given_up_at;
  return role.loop != nullptr ? role.loop->undo_.died_at : 0;
}

bool CurrentRequest::outlives() noexcept {
  const RequestLoop::Role& role = RequestLoop::role_;
  return role.slot != nullptr && role.loop->slots_.outlive();
}

void CurrentRequest::note(const Note& note) noexcept {
  RequestSlot* const slot = RequestLoop::role_.slot;
  if (slot == nullptr) return;
  slot->noted.store(0, std::memory_order_release);
  slot->note = note;
  slot->noted.store(1, std::memory_order_release);
}

std::optional<CurrentRequest::Note> CurrentRequest::noted() noexcept {
  const RequestSlot* const slot = RequestLoop::role_.slot;
  if (slot == nullptr || !RequestLoop::role_.repeated || slot->noted.load() == 0) return {};
  return slot->note;
}

std::uint32_t CurrentRequest::counts_made() noexcept {
  const RequestSlot* const slot = RequestLoop::role_.slot;
  return slot != nullptr ? slot->counts_made.load(std::memory_order_relaxed) : 0;
}

CurrentRequest::CountChange::CountChange(std::uint64_t nodeid, std::uint64_t after) noexcept {
  RequestSlot* const slot = RequestLoop::role_.slot;
  if (slot == nullptr) return;
  slot->count_node = nodeid;
  slot->count_after = after;
  slot->count_pending.store(slot->counts_made.load(std::memory_order_relaxed) + 1,
                            std::memory_order_release);
  death_point("count.announced");
}

CurrentRequest::CountChange::~CountChange() {
  RequestSlot* const slot = RequestLoop::role_.slot;
  if (slot == nullptr) return;
  death_point("count.changed");
  const std::uint32_t made = slot->counts_made.load(std::memory_order_relaxed);
  if (made < RequestSlot::kMostCounts) slot->counted[made] = slot->count_node;
  slot->counts_made.store(made + 1, std::memory_order_release);
  death_point("count.noted");
  slot->count_pending.store(0, std::memory_order_release);
}

std::uint32_t CurrentRequest::keep() noexcept {
  RequestLoop::Role& role = RequestLoop::role_;
  if (role.loop == nullptr || !role.loop->slots_.outlive()) return 0;
  if (role.kept != 0) return std::exchange(role.kept, 0);
  if (role.slot == nullptr) return 0;
  const std::uint32_t record = role.loop->kept_.keep(role.slot->bytes, role.slot->header().len);
  death_point("request.kept");
  if (record != 0) role.slot->end();
  return record;
}

void CurrentRequest::note_answer(const iovec* parts, int count) noexcept {
  if (RequestSlot* const slot = RequestLoop::role_.slot) slot->note_answer(parts, count);
}

// -- what an earlier daemon left -----------------------------------------------------------------

void RequestLoop::resume(Undo undo, std::function<void()> on_settled) {
  undo_ = std::move(undo);
  on_settled_ = std::move(on_settled);
  for (RequestSlot* const slot : slots_.take_over()) left_.push_back({slot, 0, true});
  for (const std::uint32_t record : kept_.take_over()) left_.push_back({nullptr, record, true});
  const auto number = [this](const Request& request) {
    return request.slot != nullptr ? request.slot->header().unique : kept_[request.kept].unique;
  };
  std::stable_sort(left_.begin(), left_.end(),
                   [&](const Request& a, const Request& b) { return number(a) < number(b); });
  for (std::size_t i = 0; i + 1 < left_.size(); ++i) {
    if (number(left_[i]) != number(left_[i + 1])) continue;
    if (left_[i].slot == nullptr) std::swap(left_[i], left_[i + 1]);
    death_point("recovery.found_twice");
    slots_.give(*left_[i].slot);
    left_[i] = {};
  }
  // Of one that was about to be moved, the record counts.
  std::erase_if(left_, [](const Request& each) { return each.slot == nullptr && each.kept == 0; });
  for (const Request& request : left_) {
    const bool doing = request.slot != nullptr && request.slot->state.load() == RequestSlot::kDoing;
    if (doing) settle_count(*request.slot);
  }
  std::erase_if(left_, [this](const Request& request) { return !begin_again(request); });
  const auto under_way =
      std::stable_partition(left_.begin(), left_.end(), [](const Request& request) {
        return request.slot == nullptr || !request.slot->is_under_way();
      });
  std::transform(under_way, left_.end(), std::back_inserter(under_way_),
                 [](const Request& request) { return Request{.slot = request.slot}; });
  left_.erase(under_way, left_.end());
  // What keeps no order is for any thread at once: a lock that is granted waits for pages that are
  // being read (drop_cached_data()), here by a request that was left, too.
  const auto unordered =
      std::stable_partition(left_.begin(), left_.end(), [this](const Request& request) {
        const std::uint32_t opcode = request.slot != nullptr ? request.slot->header().opcode
                                                             : kept_[request.kept].header().opcode;
        return operations_.pace_of(opcode) == Pace::kOrdered || opcode == FUSE_FORGET ||
               opcode == FUSE_BATCH_FORGET;
      });
  put_by_.assign(unordered, left_.end());
  has_put_by_ = !put_by_.empty();
  unsettled_ = left_.size() + 1;
  left_.erase(unordered, left_.end());
  left_to_begin_ = left_.size();
}

/// Hands on what threads of the dead daemon were still about, once they have come to their end.
void RequestLoop::watch_under_way() {
  accept_only_kicks();
  std::unique_lock lock(mutex_);
  while (!ended_ && !under_way_.empty()) {
    changed_.wait_for(lock, 100ms);
    const auto ended =
        std::partition(under_way_.begin(), under_way_.end(),
                       [](const Request& request) { return request.slot->is_under_way(); });
    std::for_each(ended, under_way_.end(),
                  [](Request& request) { request.given_up_at = nanoseconds_on(CLOCK_REALTIME); });
    try {
      put_by_.insert(put_by_.end(), ended, under_way_.end());
    } catch (const std::bad_alloc&) {
      continue;  // they are looked at again
    }
    under_way_.erase(ended, under_way_.end());
    has_put_by_ = !put_by_.empty();
    if (has_put_by_) follow_.notify_all();
    lock.unlock();
    if (has_put_by_) wake_watchdog();
    lock.lock();
  }
}

/// Of a request that was left: answers it if that was about to be done. Returns whether it is to be
/// carried out.
bool RequestLoop::begin_again(const Request& request) {
  death_point("recovery.request");
  if (request.slot == nullptr) {
    const KeptRecord& record = kept_[request.kept];
    if (record.state.load() != KeptRecord::kDone) return true;
    const fuse_out_header answer{sizeof answer, -record.error, record.unique};
    write_device(fuse_session_fd(session_), &answer, sizeof answer);
    kept_.give(request.kept);
    return false;
  }
  RequestSlot& slot = *request.slot;
  switch (slot.state.load()) {
    case RequestSlot::kDone:
      answer_again(slot);
      death_point("recovery.answered_again");
      slots_.give(slot);
      return false;
    case RequestSlot::kReading:
      slot.begin();
      return true;
    default:
      ++slot.repeats;
      undo(slot);
      return true;
  }
}

/// As leader: the next of those that keep an order, which go before anything that is read.
void RequestLoop::carry_out_left(std::uint64_t count) {
  const Request request = left_[left_.size() - left_to_begin_];
  begin_as_leader(count);
  --left_to_begin_;
  if (request.slot == nullptr) {
    carry_out_kept(request.kept);
    settled_one();
  } else {
    carry_out(request);
  }
}

void RequestLoop::settled_one() {
  if (unsettled_.fetch_sub(1) == 1) on_settled_();
}

void RequestLoop::answer_again(RequestSlot& slot) const {
  write_device(fuse_session_fd(session_), slot.answer(), slot.answer_size);
}

/// Whether the change of a count that was under way was made. For all slots before anything else
/// changes counts.
void RequestLoop::settle_count(RequestSlot& slot) const {
  const std::uint32_t pending = slot.count_pending.load();
  const std::uint32_t made = slot.counts_made.load();
  const bool done = pending != 0 && undo_.count_of(slot.count_node) == slot.count_after;
  if (done && pending == made + 1) {
    if (made < RequestSlot::kMostCounts) slot.counted[made] = slot.count_node;
    slot.counts_made.store(made + 1);
  } else if (done && pending == (made | RequestSlot::kTakesBack)) {
    slot.counts_made.store(made - 1);
  }
  slot.count_pending.store(0);
}

/// What a request that is begun once more has changed already, but for what is done on the source.
void RequestLoop::undo(RequestSlot& slot) const {
  const std::uint32_t opcode = slot.header().opcode;
  if (opcode == FUSE_FORGET || opcode == FUSE_BATCH_FORGET) return;  // it goes on where it was
  undo_.discard_opened(slot.unique);
  while (slot.counts_made.load() > 0) {
    const std::uint32_t made = slot.counts_made.load();
    if (made <= RequestSlot::kMostCounts) {
      const std::uint64_t node = slot.counted[made - 1];
      const std::uint64_t count = undo_.count_of(node);
      slot.count_node = node;
      slot.count_after = count == 0 ? 0 : count - 1;
      slot.count_pending.store(made | RequestSlot::kTakesBack);
      death_point("recovery.takes_back");
      undo_.take_back(node);
      death_point("recovery.took_back");
    }
    slot.counts_made.store(made - 1);
    slot.count_pending.store(0);
  }
}

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

/// Whether there is a request that nobody has read, or begun.
bool RequestLoop::request_waits() const {
  if (left_to_begin_ != 0) return true;
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
