#include "mount-helpers/replay/simulated_file.h"

#include <algorithm>
#include <cerrno>

namespace replay {

using lockmgr::Mode;
using lockmgr::Range;
using lockmgr::Reply;
using lockmgr::WaitEnd;

using lockmgr::trace::OutsideSaid;

namespace {

// What the trace format spells as errors; see lockfs-trace(5).

Reply reply_of(int error) {
  switch (error) {
    case 0:
      return Reply::done();
    case EAGAIN:
      return Reply::refused();
    case EINPROGRESS:
      return Reply::no_answer();
    default:
      return Reply::failed(error);
  }
}

WaitEnd end_of(int error) {
  switch (error) {
    case 0:
      return WaitEnd::held();
    case EAGAIN:
      return WaitEnd::in_doubt();
    case EINTR:
      return WaitEnd::not_held();
    default:
      return WaitEnd::failed(error);
  }
}

}  // namespace

/// What the manager sees of the file: one kind of lock. Outsiders take record locks, as NFS clients
/// do, and meet no flock.
class SimulatedFile::Mirror : public lockmgr::Backing {
 public:
  Mirror(SimulatedFile& file, bool flock) : file_(file), flock_(flock) {}

  Reply set(const Range& range, Mode mode, const Carried&) noexcept override {
    const Told* told = file_.next_call();
    if (told != nullptr && told->said == OutsideSaid::kRefused) return reply_of(told->error);
    if (flock_) return Reply::done();
    if (!file_.follows_ && file_.refuses_mirror(range, mode)) return Reply::refused();
    file_.mirror_.set(range, mode);
    return Reply::done();
  }

  Reply test(const Range& range, Mode mode,
             std::optional<lockmgr::OutsideLock>& found) noexcept override {
    const Told* told = file_.next_call();
    const bool seen = file_.follows_ ? told != nullptr && told->said == OutsideSaid::kSeen
                                     : !flock_ && file_.refuses_mirror(range, mode);
    found.reset();
    if (seen) found = lockmgr::OutsideLock{range, Mode::kExclusive, 0};
    return Reply::done();
  }

  int wait(WaitId id, const Range& range, Mode mode, const Carried&, bool,
           WaitDone done) noexcept override {
    const Told* told = file_.next_call();
    // Recordings of older daemons: those asked up to three times before they waited.
    while (told != nullptr && told->said == OutsideSaid::kRefused) told = file_.next_call();
    // With yield_first it still joins behind those who wait, which is what is asked for.
    Waiting waiting{std::nullopt, id, range, mode, false, std::move(done), flock_, std::nullopt};
    if (told != nullptr && told->said == OutsideSaid::kWait) waiting.number = told->wait;
    file_.queue_.push_back(std::move(waiting));
    return 0;
  }

  void recall(WaitId id) noexcept override {
    for (Waiting& waiting : file_.queue_) {
      if (!waiting.outsider && waiting.id == id) waiting.recalled = true;
    }
  }

  bool outsiders_waiting() noexcept override {
    const Told* told = file_.next_call();
    if (file_.follows_) return told != nullptr && told->said == OutsideSaid::kWaiting;
    return !flock_ && std::any_of(file_.queue_.begin(), file_.queue_.end(),
                                  [](const Waiting& w) { return w.outsider.has_value(); });
  }

 private:
  SimulatedFile& file_;
  const bool flock_;
};

class SimulatedFile::Both final : public Mirror {
 public:
  explicit Both(SimulatedFile& file) : Mirror(file, false), flocks_(file, true) {}
  lockmgr::Backing& flocks() noexcept override { return flocks_; }

 private:
  Mirror flocks_;
};

/// What the recording says to the call that is made now; null: yes, or nobody, or there is none.
const SimulatedFile::Told* SimulatedFile::next_call() {
  if (std::exchange(turn_, now_.turn) != now_.turn) calls_ = 0;
  ++calls_;
  if (!follows_) return nullptr;
  const auto told = told_.find({now_.time, calls_});
  return told == told_.end() ? nullptr : &told->second;
}

void SimulatedFile::end_wait(std::uint64_t number, int error) {
  const auto it = std::find_if(queue_.begin(), queue_.end(),
                               [&](const Waiting& waiting) { return waiting.number == number; });
  if (it == queue_.end()) return;
  const Waiting waiting = std::move(*it);
  queue_.erase(it);
  if (error == 0 && !waiting.flock) mirror_.set(waiting.range, waiting.mode);
  waiting.done(end_of(error));
}

std::unique_ptr<lockmgr::Backing> SimulatedFile::backing() { return std::make_unique<Both>(*this); }

bool SimulatedFile::refuses_mirror(const Range& range, Mode mode) const {
  return std::any_of(outsiders_.begin(), outsiders_.end(),
                     [&](const auto& entry) { return entry.second.conflicts(range, mode); });
}

bool SimulatedFile::refuses_outsider(Outsider who, const Range& range, Mode mode) const {
  return mirror_.conflicts(range, mode) ||
         std::any_of(outsiders_.begin(), outsiders_.end(), [&](const auto& entry) {
           return entry.first != who && entry.second.conflicts(range, mode);
         });
}

std::optional<int> SimulatedFile::ask(Outsider who, const Range& range, Mode mode, bool wait,
                                      std::function<void()> done) {
  if (refuses_outsider(who, range, mode)) {
    if (!wait) return EAGAIN;
    queue_.push_back({who, 0, range, mode, false, [done = std::move(done)](WaitEnd) { done(); },
                      false, std::nullopt});
    return std::nullopt;
  }
  outsiders_[who].set(range, mode);
  return 0;
}

void SimulatedFile::forget(Outsider who) {
  queue_.remove_if([&](const Waiting& waiting) { return waiting.outsider == who; });
}

void SimulatedFile::release_all(Outsider who) { outsiders_.erase(who); }

bool SimulatedFile::settle() {
  bool served = false;
  for (auto it = queue_.begin(); it != queue_.end();) {
    const bool refused = it->outsider ? refuses_outsider(*it->outsider, it->range, it->mode)
                                      : !it->flock && refuses_mirror(it->range, it->mode);
    const bool told = follows_ && it->number.has_value();
    if (told || (refused && !it->recalled)) {
      ++it;
      continue;
    }
    const Waiting waiting = std::move(*it);
    queue_.erase(it);
    if (waiting.recalled) {
      waiting.done(WaitEnd::not_held());
    } else {
      if (!waiting.flock) {
        (waiting.outsider ? outsiders_[*waiting.outsider] : mirror_)
            .set(waiting.range, waiting.mode);
      }
      waiting.done(WaitEnd::held());
    }
    // Who was served may have changed the queue.
    it = queue_.begin();
    served = true;
  }
  return served;
}

}  // namespace replay
