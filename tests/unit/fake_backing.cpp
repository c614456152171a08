#include "tests/unit/fake_backing.h"

#include <algorithm>
#include <cerrno>
#include <set>
#include <utility>

namespace lockmgr::testing {

namespace {

void append(std::vector<Segment>& segments, const Range& range, Mode mode) {
  if (mode == Mode::kNone) return;
  if (!segments.empty() && segments.back().mode == mode && segments.back().range.touches(range)) {
    segments.back().range.last = range.last;
  } else {
    segments.push_back({range, mode});
  }
}

Mode mode_in(const std::vector<Segment>& segments, Offset at) {
  for (const Segment& s : segments) {
    if (s.range.first <= at && at <= s.range.last) return s.mode;
  }
  return Mode::kNone;
}

Reply reply_of(int error) {
  if (error == EAGAIN) return Reply::refused();
  return error == EINPROGRESS ? Reply::no_answer() : Reply::failed(error);
}

void add_edges(std::set<Offset>& edges, const Range& range) {
  edges.insert(range.first);
  if (range.last != kEof) edges.insert(range.last + 1);
}

}  // namespace

std::string to_text(const Range& range) {
  return "[" + std::to_string(range.first) + "," +
         (range.last == kEof ? std::string("EOF") : std::to_string(range.last)) + "]";
}

std::string to_text(const std::vector<Segment>& segments) {
  std::string text;
  for (const Segment& s : segments) {
    text += (s.mode == Mode::kExclusive ? "X" : "S") + to_text(s.range) + " ";
  }
  return text.empty() ? "nothing" : text;
}

std::vector<Segment> union_of(const std::vector<LockView>& locks) {
  std::set<Offset> edges;
  for (const LockView& lock : locks) add_edges(edges, lock.range);
  std::vector<Segment> segments;
  for (auto it = edges.begin(); it != edges.end(); ++it) {
    const auto after = std::next(it);
    const Range part{*it, after == edges.end() ? kEof : *after - 1};
    Mode strongest = Mode::kNone;
    for (const LockView& lock : locks) {
      if (lock.range.contains(part)) strongest = std::max(strongest, lock.mode);
    }
    append(segments, part, strongest);
  }
  return segments;
}

// -- the model
// -------------------------------------------------------------------------------------

void FakeBacking::replace(Who who, const Range& range, Mode mode) {
  Holding& mine = held_[who];
  Holding changed;
  for (const auto& [first, lock] : mine) {
    if (lock.last < range.first || first > range.last) {
      changed.emplace(first, lock);
      continue;
    }
    if (first < range.first) changed.emplace(first, Held{range.first - 1, lock.mode});
    if (lock.last > range.last) changed.emplace(range.last + 1, lock);
  }
  if (mode != Mode::kNone) changed.emplace(range.first, Held{range.last, mode});
  mine = std::move(changed);
}

bool FakeBacking::is_refused(Who who, const Range& range, Mode mode) const {
  for (const auto& [holder, locks] : held_) {
    if (holder == who || (who == kManager && is_ours(holder))) continue;
    for (const auto& [first, lock] : locks) {
      if (range.overlaps({first, lock.last}) && modes_conflict(lock.mode, mode)) return true;
    }
  }
  return false;
}

bool FakeBacking::may_take(std::size_t position, bool outsiders) const {
  const Pending& p = pending_[position];
  if (p.shut || (!is_ours(p.who) && !outsiders)) return false;
  if (is_refused(p.who, p.range, p.mode)) return false;
  if (!p.yields) return true;
  for (std::size_t i = 0; i < position; ++i) {
    const Pending& ahead = pending_[i];
    if (!is_ours(ahead.who) && ahead.range.overlaps(p.range) &&
        modes_conflict(ahead.mode, p.mode)) {
      return false;
    }
  }
  return true;
}

void FakeBacking::pump(bool outsiders) {
  for (std::size_t i = 0; i < pending_.size();) {
    if (!may_take(i, outsiders)) {
      ++i;
      continue;
    }
    Pending taken = std::move(pending_[i]);
    pending_.erase(pending_.begin() + static_cast<std::ptrdiff_t>(i));
    if (!taken.lost) replace(taken.who, taken.range, taken.mode);
    if (is_ours(taken.who)) {
      due_.push_back({{taken.range, taken.mode},
                      taken.who,
                      shut_ ? WaitEnd::in_doubt() : WaitEnd::held(),
                      std::move(taken.done)});
    }
    i = 0;  // taking can weaken what the taker held
  }
  changed();
}

void FakeBacking::end_pending(std::size_t n, WaitEnd end) {
  Pending ended = std::move(pending_[n]);
  pending_.erase(pending_.begin() + static_cast<std::ptrdiff_t>(n));
  due_.push_back({{ended.range, ended.mode}, ended.who, end, std::move(ended.done)});
  give_up_own(ended.who);
  changed();
}

bool FakeBacking::set_own(const Range& range, Mode mode) {
  if (mode != Mode::kNone && is_refused(kManager, range, mode)) return false;
  replace(kManager, range, mode);
  return true;
}

FakeBacking::Who FakeBacking::begin_own(const Range& /*range*/, Mode /*mode*/) { return kManager; }

// -- Backing
// ---------------------------------------------------------------------------------------

Reply FakeBacking::set(const Range& range, Mode mode, const Carried& carried) noexcept {
  const std::lock_guard guard(mutex_);
  ++sets_;
  if (mode == Mode::kExclusive && std::exchange(restart_next, false)) {
    held_.erase(kManager);
    for (Pending& pending : pending_) pending.lost = is_ours(pending.who);
    carried.for_each([this](const Range& part, Mode strongest) {
      replace(kManager, part, strongest);
      return true;
    });
  }
  if (fail_set) {
    if (const int error = fail_set(range, mode); error != 0) return reply_of(error);
  }
  if (shut_ && mode != Mode::kNone) {
    Offset at = range.first;
    carried.for_each([&](const Range& held, Mode strongest) {
      if (held.first <= at && at <= held.last && strongest >= mode && at <= range.last) {
        at = held.last == kEof ? kEof : held.last + 1;
        if (held.last == kEof) return false;
      }
      return true;
    });
    if (at <= range.last && !(at == kEof && range.last == kEof)) return Reply::put_off();
  }
  if (!set_own(range, mode)) return Reply::refused();
  pump(!lazy_outsiders);
  return Reply::done();
}

Reply FakeBacking::test(const Range& range, Mode mode, std::optional<OutsideLock>& found) noexcept {
  const std::lock_guard guard(mutex_);
  ++tests_;
  found.reset();
  if (fail_test) {
    if (const int error = fail_test(range, mode); error != 0) return reply_of(error);
  }
  if (shut_) return Reply::put_off();
  for (const auto& [holder, locks] : held_) {
    if (is_ours(holder)) continue;
    for (const auto& [first, lock] : locks) {
      const Range held{first, lock.last};
      if (!range.overlaps(held) || !modes_conflict(lock.mode, mode)) continue;
      if (!found || held.first < found->range.first) found = OutsideLock{held, lock.mode, holder};
    }
  }
  return Reply::done();
}

int FakeBacking::wait(WaitId id, const Range& range, Mode mode, const Carried& /*carried*/,
                      bool yield_first, WaitDone done) noexcept {
  const std::lock_guard guard(mutex_);
  ++waits_;
  if (fail_wait) {
    if (const int error = fail_wait(range, mode); error != 0) return error;
  }
  if (yield_first) pump(true);
  const Who who = shut_ ? kManager : begin_own(range, mode);
  pending_.push_back({who, range, mode, id, yield_first, false, std::move(done), false, shut_});
  pump(!lazy_outsiders);
  return 0;
}

void FakeBacking::recall(WaitId id) noexcept {
  const std::lock_guard guard(mutex_);
  ++recalls_;
  for (std::size_t i = 0; i < pending_.size(); ++i) {
    if (!is_ours(pending_[i].who) || pending_[i].id != id) continue;
    if (lazy_recalls) {
      pending_[i].recalled = true;
    } else {
      end_pending(i, WaitEnd::not_held());
    }
    return;
  }
}

FakeBacking& FakeBacking::flocks() noexcept {
  if (flocks_ == nullptr) flocks_ = std::make_unique<FakeBacking>();
  return *flocks_;
}

bool FakeBacking::outsiders_waiting() noexcept {
  const std::lock_guard guard(mutex_);
  return std::any_of(pending_.begin(), pending_.end(),
                     [](const Pending& p) { return !is_ours(p.who); });
}

// -- outsiders
// -------------------------------------------------------------------------------------

int FakeBacking::outsider_set(Who who, const Range& range, Mode mode) {
  const std::lock_guard guard(mutex_);
  if (mode != Mode::kNone && is_refused(who, range, mode)) return EAGAIN;
  replace(who, range, mode);
  pump(!lazy_outsiders);
  return 0;
}

bool FakeBacking::outsider_wait(Who who, const Range& range, Mode mode) {
  const std::lock_guard guard(mutex_);
  if (!is_refused(who, range, mode)) {
    replace(who, range, mode);
    pump(!lazy_outsiders);
    return true;
  }
  pending_.push_back({who, range, mode, 0, false, false, nullptr});
  return false;
}

void FakeBacking::outsider_leaves(Who who) {
  const std::lock_guard guard(mutex_);
  std::erase_if(pending_, [who](const Pending& p) { return p.who == who; });
  held_.erase(who);
  pump(!lazy_outsiders);
}

void FakeBacking::set_shut(bool shut) {
  const std::lock_guard guard(mutex_);
  shut_ = shut;
  if (shut) return;
  for (std::size_t i = 0; i < pending_.size();) {
    if (pending_[i].shut) {
      end_pending(i, WaitEnd::not_held());
    } else {
      ++i;
    }
  }
}

bool FakeBacking::is_shut() const {
  const std::lock_guard guard(mutex_);
  return shut_;
}

void FakeBacking::let_outsiders_in() {
  const std::lock_guard guard(mutex_);
  pump(true);
}

// -- waits
// -----------------------------------------------------------------------------------------

void FakeBacking::stop_yielding() {
  const std::lock_guard guard(mutex_);
  for (Pending& pending : pending_) pending.yields = false;
  pump(!lazy_outsiders);
}

std::size_t FakeBacking::due() const {
  const std::lock_guard guard(mutex_);
  return due_.size();
}

bool FakeBacking::deliver(std::size_t n) {
  Due ended;
  {
    const std::lock_guard guard(mutex_);
    if (n >= due_.size()) return false;
    ended = std::move(due_[n]);
    due_.erase(due_.begin() + static_cast<std::ptrdiff_t>(n));
  }
  ended.done(ended.end);
  const std::lock_guard guard(mutex_);
  changed();
  return true;
}

std::size_t FakeBacking::deliver_all() {
  std::size_t delivered = 0;
  while (deliver()) ++delivered;
  return delivered;
}

bool FakeBacking::fail_pending(int error) {
  const std::lock_guard guard(mutex_);
  const auto it = std::find_if(pending_.begin(), pending_.end(),
                               [](const Pending& p) { return is_ours(p.who); });
  if (it == pending_.end()) return false;
  end_pending(static_cast<std::size_t>(it - pending_.begin()), WaitEnd::failed(error));
  return true;
}

void FakeBacking::land_recalls() {
  const std::lock_guard guard(mutex_);
  for (std::size_t i = 0; i < pending_.size();) {
    if (pending_[i].recalled) {
      end_pending(i, WaitEnd::not_held());
    } else {
      ++i;
    }
  }
}

std::vector<Segment> FakeBacking::under_way() const {
  const std::lock_guard guard(mutex_);
  std::vector<Segment> found;
  for (const Pending& p : pending_) {
    if (is_ours(p.who)) found.push_back({p.range, p.mode});
  }
  for (const Due& d : due_) found.push_back(d.what);
  return found;
}

// -- state
// -----------------------------------------------------------------------------------------

std::vector<Segment> FakeBacking::held(Who who) const {
  const std::lock_guard guard(mutex_);
  std::vector<LockView> locks;
  for (const auto& [holder, holding] : held_) {
    if (holder != who && !(who == kManager && is_ours(holder))) continue;
    for (const auto& [first, lock] : holding) {
      LockView& view = locks.emplace_back();
      view.range = {first, lock.last};
      view.mode = lock.mode;
    }
  }
  return union_of(locks);
}

bool FakeBacking::refused(Who who, const Range& range, Mode mode) const {
  const std::lock_guard guard(mutex_);
  return is_refused(who, range, mode);
}

std::string FakeBacking::compare(const std::vector<LockView>& granted) const {
  const std::vector<Segment> want = union_of(granted);
  const std::vector<Segment> have = held();
  if (want == have) return "";
  const std::vector<Segment> waits = under_way();
  std::set<Offset> edges{0};
  for (const auto* list : {&want, &have, &waits}) {
    for (const Segment& s : *list) add_edges(edges, s.range);
  }
  for (const Offset at : edges) {
    const Mode wanted = mode_in(want, at);
    const Mode found = mode_in(have, at);
    if (wanted == found) continue;
    if (found > wanted && mode_in(waits, at) != Mode::kNone) continue;
    return "at " + std::to_string(at) + ": granted " + to_text(want) + "; backing carries " +
           to_text(have);
  }
  return "";
}

std::uint64_t FakeBacking::sets() const {
  const std::lock_guard guard(mutex_);
  return sets_;
}
std::uint64_t FakeBacking::waits() const {
  const std::lock_guard guard(mutex_);
  return waits_;
}
std::uint64_t FakeBacking::recalls() const {
  const std::lock_guard guard(mutex_);
  return recalls_;
}
std::uint64_t FakeBacking::tests() const {
  const std::lock_guard guard(mutex_);
  return tests_;
}

Backing::Inspector FakeBacking::inspector() {
  return [this](std::vector<CarriedLock>& found) {
    if (before_inspection && !before_inspection()) return false;
    for (const Segment& segment : held()) found.push_back({segment.range, segment.mode});
    return true;
  };
}

}  // namespace lockmgr::testing
