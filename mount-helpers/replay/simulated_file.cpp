#include "mount-helpers/replay/simulated_file.h"

#include <algorithm>
#include <cerrno>

namespace replay {

using lockmgr::Mode;
using lockmgr::Range;

/// What the manager sees of the file.
class SimulatedFile::Mirror final : public lockmgr::Backing {
 public:
  explicit Mirror(SimulatedFile& file) : file_(file) {}

  int set(const Range& range, Mode mode, const Carried&) noexcept override {
    if (file_.refuses_mirror(range, mode)) return EAGAIN;
    file_.mirror_.set(range, mode);
    return 0;
  }

  int test(const Range& range, Mode mode,
           std::optional<lockmgr::OutsideLock>& found) noexcept override {
    found.reset();
    if (file_.refuses_mirror(range, mode)) found = lockmgr::OutsideLock{range, Mode::kExclusive, 0};
    return 0;
  }

  int wait(WaitId id, const Range& range, Mode mode, bool, WaitDone done) noexcept override {
    // With yield_first it still joins behind those who wait, which is what is asked for.
    file_.queue_.push_back({std::nullopt, id, range, mode, false, std::move(done)});
    return 0;
  }

  void recall(WaitId id) noexcept override {
    for (Waiting& waiting : file_.queue_) {
      if (!waiting.outsider && waiting.id == id) waiting.recalled = true;
    }
  }

  bool outsiders_waiting() noexcept override {
    return std::any_of(file_.queue_.begin(), file_.queue_.end(),
                       [](const Waiting& waiting) { return waiting.outsider.has_value(); });
  }

  /// What a policy carries as flocks instead of record locks: outsiders here take record locks, as
  /// NFS clients do, and meet none of them.
  lockmgr::Backing& flocks() noexcept { return flocks_; }

 private:
  SimulatedFile& file_;
  lockmgr::NoBacking flocks_;
};

std::unique_ptr<lockmgr::Backing> SimulatedFile::backing() {
  return std::make_unique<Mirror>(*this);
}

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
    queue_.push_back({who, 0, range, mode, false, [done = std::move(done)](int) { done(); }});
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
                                      : refuses_mirror(it->range, it->mode);
    if (refused && !it->recalled) {
      ++it;
      continue;
    }
    const Waiting waiting = std::move(*it);
    queue_.erase(it);
    if (waiting.recalled) {
      waiting.done(EINTR);
    } else {
      (waiting.outsider ? outsiders_[*waiting.outsider] : mirror_).set(waiting.range, waiting.mode);
      waiting.done(0);
    }
    // Who was served may have changed the queue.
    it = queue_.begin();
    served = true;
  }
  return served;
}

}  // namespace replay
