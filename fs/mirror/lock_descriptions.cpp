#include "fs/mirror/lock_descriptions.h"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <new>
#include <tuple>
#include <utility>

#include "fs/base/death_point.h"
#include "fs/base/proc_locks.h"
#include "fs/mirror/record_lock.h"
#include "fs/tree/inode.h"

namespace lockfs {

using lockmgr::CarriedLock;
using lockmgr::Mode;
using lockmgr::Range;

// -- descriptions --------------------------------------------------------------------------------

namespace {

/// What a set() may take with the thread that reads requests. Some 2,500 locks on a file take that.
constexpr auto kSlow = std::chrono::microseconds(50);
constexpr std::uint32_t kTimedSets = 16;
using Clock = std::chrono::steady_clock;

/// A descriptor or -errno.
int open_for_locks(int path_fd, int flags) {
  // Whoever asked has the file open in that mode already, so a delegation or lease that would make
  // the open wait has been given back; O_NONBLOCK is for the odd one that has not.
  const int opened = reopen(path_fd, flags | O_NONBLOCK);
  return opened == -EWOULDBLOCK ? reopen(path_fd, flags) : opened;
}

/// What would refuse `mode` on `range` to the open file description of `fd`.
int find_conflict(int fd, const Range& range, Mode mode,
                  std::optional<lockmgr::OutsideLock>& found) noexcept {
  struct flock request = record_lock(range, mode);
  if (fcntl(fd, F_OFD_GETLK, &request) != 0) return errno;
  if (request.l_type != F_UNLCK) {
    found = lockmgr::OutsideLock{range_of(request), mode_of(request.l_type), request.l_pid};
  }
  return 0;
}

}  // namespace

int LockDescriptions::open(int path_fd, bool writable, Index& opened) {
  const auto free = std::find_if(descriptions_.begin(), descriptions_.end(),
                                 [](const Description& each) { return each.fd == nullptr; });
  opened = static_cast<Index>(free - descriptions_.begin());
  if (free == descriptions_.end()) {
    held_.provide_for(descriptions_.size() + 1);
    descriptions_.emplace_back();
  }
  int fd = open_for_locks(path_fd, writable ? O_RDWR : O_RDONLY);
  // An append-only file is opened for writing with O_APPEND alone (IS_APPEND() in may_open() of the
  // kernel).
  if (fd == -EPERM && writable) fd = open_for_locks(path_fd, O_RDWR | O_APPEND);
  // A file that may be written and not read, where the daemon is not above that (NFS).
  if (fd == -EACCES && !writable) fd = open_for_locks(path_fd, O_RDWR);
  if (fd < 0) return -fd;
  UniqueFd owned(fd);
  const auto logged = std::make_shared<LoggedFd>();
  const auto use = writable ? DescriptorUse::kExclusive : DescriptorUse::kShared;
  const int error = LoggedFd::make(std::move(owned), use, log_, nodeid_, *logged);
  if (error != 0) return error;
  descriptions_[opened].fd = logged;
  touched_ = true;
  return 0;
}

/// Makes sure that there is a description for locks of `mode`.
int LockDescriptions::provide(int path_fd, Mode mode) {
  if (home(mode) != kNobody) return 0;
  Index opened = kNobody;
  const int error = open(path_fd, mode == Mode::kExclusive, opened);
  if (error == 0) home(mode) = opened;
  return error;
}

void LockDescriptions::close(Index by) noexcept {
  descriptions_[by].fd.reset();
  if (shared_ == by) shared_ = kNobody;
  if (exclusive_ == by) exclusive_ = kNobody;
  std::erase_if(surplus_, [by](const Surplus& each) { return each.by == by; });
}

void LockDescriptions::close_unused() noexcept {
  if (!doubt_.empty()) return;
  const bool keeps_exclusive = writers_ == nullptr || *writers_ != 0;
  for (Index by = 0; by < descriptions_.size(); ++by) {
    const Description& each = descriptions_[by];
    if (each.fd == nullptr || each.waits || held_.count(by) > 0 || by == shared_) continue;
    if (by != exclusive_ || !keeps_exclusive) close(by);
  }
}

void LockDescriptions::close_idle() noexcept {
  const std::lock_guard lock(mutex_);
  close_unused();
}

// -- adoption ------------------------------------------------------------------------------------

int LockDescriptions::adopt(std::span<LoggedFd> left, bool read) noexcept {
  if (left.empty()) return 0;
  const std::lock_guard lock(mutex_);
  std::vector<std::shared_ptr<LoggedFd>> places;
  try {
    for (std::size_t i = 0; i < left.size(); ++i) places.push_back(std::make_shared<LoggedFd>());
    descriptions_.resize(left.size());
    held_.provide_for(left.size());
    doubt_.reserve(1);
  } catch (const std::bad_alloc&) {
    descriptions_.clear();
    for (LoggedFd& each : left) each.leave();
    return ENOLCK;
  }
  // Those for shared locks first, for what is held twice to stay with them.
  std::partition(left.begin(), left.end(),
                 [](const LoggedFd& each) { return each.use() == DescriptorUse::kShared; });
  for (Index by = 0; by < left.size(); ++by) {
    *places[by] = std::move(left[by]);
    descriptions_[by].fd = std::move(places[by]);
  }
  touched_ = true;
  try {
    for (Index by = 0; by < descriptions_.size() && read; ++by) {
      std::vector<CarriedLock> locks;
      read = read_open_file_locks(descriptions_[by].fd->get(), locks) && learn(by, locks);
    }
  } catch (const std::bad_alloc&) {
    read = false;
  }
  if (!read) {
    held_.clear();
    surplus_.clear();
    doubt_.push_back(lockmgr::kWholeFile);
  }
  for (Index by = 0; by < descriptions_.size(); ++by) {
    const bool writable = descriptions_[by].fd->use() == DescriptorUse::kExclusive;
    Index& usual = home(writable ? Mode::kExclusive : Mode::kShared);
    if (usual == kNobody || (held_.count(usual) == 0 && held_.count(by) > 0)) usual = by;
  }
  return 0;
}

/// Puts down what `by` was found to hold. False: that cannot be, or there is no memory.
bool LockDescriptions::learn(Index by, const std::vector<CarriedLock>& locks) {
  for (const CarriedLock& lock : locks) {
    for (Range rest = lock.range;;) {
      const auto held = held_.first_in(rest);
      const Range gap{rest.first, held ? held->range.first - 1 : rest.last};
      if (gap.first <= gap.last && note(gap, lock.mode, by) != 0) return false;
      if (!held) break;
      if (lockmgr::modes_conflict(held->mode, lock.mode)) return false;
      surplus_.push_back({by, held->range});
      if (held->range.last >= rest.last) break;
      rest.first = held->range.last + 1;
    }
  }
  return true;
}

void LockDescriptions::let_go_of_surplus() noexcept {
  while (!surplus_.empty()) {
    // Fails where there is no memory, and is tried again the next time.
    if (take(surplus_.back().by, surplus_.back().range, Mode::kNone) != 0) return;
    surplus_.pop_back();
  }
}

bool LockDescriptions::in_doubt(const Range& range) const noexcept {
  return std::any_of(doubt_.begin(), doubt_.end(),
                     [&](const Range& each) { return each.overlaps(range); });
}

/// What is in doubt within `range` comes to be held in exactly `mode`, if it can be.
int LockDescriptions::end_doubt(int path_fd, const Range& range, Mode mode) {
  if (mode != Mode::kNone) {
    if (const int error = provide(path_fd, mode); error != 0) return error;
  }
  const auto overlapping = [&] {
    return std::find_if(doubt_.begin(), doubt_.end(),
                        [&](const Range& each) { return each.overlaps(range); });
  };
  for (auto at = overlapping(); at != doubt_.end(); at = overlapping()) {
    const Range whole = *at;
    const Range part = lockmgr::common(whole, range);
    if (const int error = make_certain(part, mode); error != 0) return error;
    const auto place = at - doubt_.begin();
    doubt_.reserve(doubt_.size() + 1);
    doubt_.erase(doubt_.begin() + place);
    if (whole.first < part.first) doubt_.push_back({whole.first, part.first - 1});
    if (whole.last > part.last) doubt_.push_back({part.last + 1, whole.last});
  }
  return 0;
}

/// Makes exactly `mode` of whatever the descriptions hold on `range`. What was locked as strongly
/// is so all the time. Where an outsider refuses it, or memory is missing, part of it may be done;
/// the whole of it stays in doubt.
int LockDescriptions::make_certain(const Range& range, Mode mode) {
  if (mode == Mode::kNone) return keep_only(kNobody, range, mode);
  std::vector<Range> pieces{range};
  while (!pieces.empty()) {
    const Range piece = pieces.back();
    pieces.pop_back();
    // Through whichever allows it: one that holds more weakens it, which is never refused.
    int error = EAGAIN;
    Index keeper = kNobody;
    unsigned usable = 0;
    for (Index by = 0; by < descriptions_.size() && error == EAGAIN; ++by) {
      const Description& each = descriptions_[by];
      if (each.fd == nullptr || each.waits) continue;
      ++usable;
      if (mode == Mode::kExclusive && each.fd->use() != DescriptorUse::kExclusive) continue;
      keeper = by;
      error = take(by, piece, mode);
    }
    // Several may hold parts of it exclusively: each part is for its own.
    std::optional<lockmgr::OutsideLock> between;
    for (Index by = 0; by < descriptions_.size() && error == EAGAIN && !between; ++by) {
      const Description& each = descriptions_[by];
      if (each.fd == nullptr || each.waits) continue;
      const int failed = find_conflict(each.fd->get(), piece, Mode::kShared, between);
      if (failed != 0) return failed;
    }
    if (between) {
      // The one that held all of it would not have been refused.
      const bool outside = between->range.contains(piece) || !between->range.overlaps(piece);
      if (outside) return EAGAIN;
      const Range part = lockmgr::common(between->range, piece);
      if (piece.last > part.last) pieces.push_back({part.last + 1, piece.last});
      pieces.push_back(part);
      if (piece.first < part.first) pieces.push_back({piece.first, part.first - 1});
      continue;
    }
    if (error == EAGAIN && mode == Mode::kExclusive && usable > 1) {
      // Nobody holds any of it exclusively. What is shared goes to the one that takes it.
      error = take(exclusive_, piece, Mode::kShared);
      if (error == 0) error = keep_only(exclusive_, piece, Mode::kShared);
      if (error == 0) error = take(exclusive_, piece, Mode::kExclusive);
      keeper = exclusive_;
    }
    if (error == 0) error = keep_only(keeper, piece, mode);
    if (error != 0) return error;
  }
  return 0;
}

/// `keeper` holds `range` in `mode`, and nobody else any of it. REQUIRES: it does hold it.
int LockDescriptions::keep_only(Index keeper, const Range& range, Mode mode) noexcept {
  for (Index by = 0; by < descriptions_.size(); ++by) {
    const Description& each = descriptions_[by];
    if (by == keeper || each.fd == nullptr || each.waits) continue;
    if (const int error = take(by, range, Mode::kNone); error != 0) return error;
  }
  return note(range, mode, keeper == kNobody ? 0 : keeper);
}

// -- steps ---------------------------------------------------------------------------------------

int LockDescriptions::take(Index by, const Range& range, Mode mode) noexcept {
  ++changes_;
  struct flock request = record_lock(range, mode);
  death_point("mirror.before");
  while (fcntl(descriptions_[by].fd->get(), F_OFD_SETLK, &request) != 0) {
    if (errno == EINTR) continue;
    return errno == EACCES ? EAGAIN : errno;  // POSIX lets a conflict be either
  }
  death_point("mirror.after");
  return 0;
}

/// Puts down what is held now; ENOLCK, with nothing changed, where memory is missing.
int LockDescriptions::note(const Range& range, Mode mode, Index by) noexcept {
  if (!held_.prepare(range, mode, by)) return ENOLCK;
  held_.set(range, mode, by);
  return 0;
}

/// REQUIRES: `piece` is shared, through `from`.
int LockDescriptions::move_shared(const Range& piece, Index from, Index to) noexcept {
  if (from == to) return 0;
  if (!held_.prepare(piece, Mode::kShared, to)) return ENOLCK;
  if (const int error = take(to, piece, Mode::kShared); error != 0) return error;
  held_.set(piece, Mode::kShared, to);
  return take(from, piece, Mode::kNone);
}

/// Whether something within `range` is held in `mode` through `by`.
bool LockDescriptions::holds(Index by, const Range& range, Mode mode) const {
  bool found = false;
  held_.for_each_in(range, [&](const HeldRange& held) {
    found = held.by == by && held.mode == mode;
    return !found;
  });
  return found;
}

/// What is shared within `range` through `from` is held where shared locks are taken, if it can be.
void LockDescriptions::shared_go_home(const Range& range, Index from) noexcept {
  if (shared_ == kNobody || shared_ == from) return;
  for (Range rest = range; const auto held = held_.first_in(rest);) {
    if (held->by == from && held->mode == Mode::kShared) {
      std::ignore = move_shared(held->range, from, shared_);
    }
    if (held->range.last >= range.last) return;
    rest.first = held->range.last + 1;
  }
}

// -- set -----------------------------------------------------------------------------------------

int LockDescriptions::set(int path_fd, const Range& range, Mode mode) noexcept try {
  const std::lock_guard lock(mutex_);
  let_go_of_surplus();
  // Of short calls some are timed: the clock costs a tenth of what they do.
  const bool timed = slow_ || ++sets_ % kTimedSets == 0;
  const auto began = timed ? Clock::now() : Clock::time_point{};
  const auto attempt = [&] {
    if (in_doubt(range)) {
      if (const int error = end_doubt(path_fd, range, mode); error != 0) return error;
    }
    switch (mode) {
      case Mode::kNone:
        return let_go(range);
      case Mode::kShared:
        return share(path_fd, range);
      case Mode::kExclusive:
        return exclude(path_fd, range);
    }
    return EINVAL;
  };
  int error = attempt();
  if (error == EAGAIN && note_silent_winners(range)) error = attempt();
  close_unused();
  // What was refused may have moved shared locks from a wait to where they are in its way.
  end_stuck(range, error == 0 ? mode : Mode::kShared);
  if (timed) {
    const bool slow = Clock::now() - began > (slow_ ? kSlow / 2 : kSlow);
    if (slow != slow_) slow_ = slow;
  }
  return error;
} catch (const std::bad_alloc&) {
  return ENOLCK;
}

int LockDescriptions::let_go(const Range& range) noexcept {
  // One call for what is held through one description without anything of another between.
  for (Range rest = range; const auto first = held_.first_in(rest);) {
    Range run = first->range;
    held_.for_each_in(rest, [&](const HeldRange& held) {
      if (held.by != first->by) return false;
      run.last = held.range.last;
      return true;
    });
    if (!held_.prepare(run, Mode::kNone, first->by)) return ENOLCK;
    if (const int error = take(first->by, run, Mode::kNone); error != 0) return error;
    held_.set(run, Mode::kNone, first->by);
    if (run.last >= range.last) break;
    rest.first = run.last + 1;
  }
  return 0;
}

/// What can be refused comes first, and is undone by letting go.
int LockDescriptions::share(int path_fd, const Range& range) {
  if (const int error = provide(path_fd, Mode::kShared); error != 0) return error;
  if (const int error = raise(range, Mode::kShared); error != 0) return error;
  for (Range rest = range; const auto held = held_.first_in(rest);) {
    if (held->mode == Mode::kExclusive) {
      if (!held_.prepare(held->range, Mode::kShared, held->by)) return ENOLCK;
      if (const int error = take(held->by, held->range, Mode::kShared); error != 0) return error;
      held_.set(held->range, Mode::kShared, held->by);
      if (const int error = move_shared(held->range, held->by, shared_); error != 0) return error;
    }
    if (held->range.last >= range.last) break;
    rest.first = held->range.last + 1;
  }
  return 0;
}

int LockDescriptions::exclude(int path_fd, const Range& range) {
  if (const int error = provide(path_fd, Mode::kExclusive); error != 0) return error;
  // Nobody is in one's own way: what is shared there is held where it is to become exclusive.
  int error = 0;
  for (Range rest = range; const auto held = held_.first_in(rest);) {
    if (held->mode == Mode::kShared) error = move_shared(held->range, held->by, exclusive_);
    if (error != 0 || held->range.last >= range.last) break;
    rest.first = held->range.last + 1;
  }
  if (error == 0) error = raise(range, Mode::kExclusive);
  if (error != 0) shared_go_home(range, exclusive_);
  return error;
}

/// The stretches of `range` on which `mode` is to be taken through `by`: between what is held more
/// strongly, or as strongly through another.
LockDescriptions::Stretches LockDescriptions::missing(const Range& range, Mode mode,
                                                      Index by) const {
  Stretches found;
  bool due = false;  // something is missing between `from` and `at`
  bool over = false;
  lockmgr::Offset from = range.first;
  lockmgr::Offset at = range.first;
  held_.for_each_in(range, [&](const HeldRange& held) {
    due = due || held.range.first > at || held.mode < mode;
    const bool stays = held.by == by ? held.mode > mode : held.mode >= mode;
    if (stays && due) found.push_back({from, held.range.first - 1});
    over = held.range.last == range.last;
    if (over) {
      due = due && !stays;
    } else {
      at = held.range.last + 1;
      if (stays) {
        from = at;
        due = false;
      }
    }
    return true;
  });
  if (due || !over) found.push_back({from, range.last});
  return found;
}

/// Takes what is missing(), or nothing. (Where memory runs out between two stretches, what was
/// taken of the first is kept, and goes with the next set() there.)
int LockDescriptions::raise(const Range& range, Mode mode) noexcept try {
  const Index by = home(mode);
  const Stretches stretches = missing(range, mode, by);
  if (!stretches.empty() && !held_.prepare(stretches.front(), mode, by)) return ENOLCK;
  for (auto at = stretches.begin(); at != stretches.end(); ++at) {
    if (const int error = take(by, *at, mode); error != 0) {
      // Weakening is never refused.
      std::for_each(stretches.begin(), at, [&](const Range& taken) { weaken(taken, by); });
      return error;
    }
  }
  for (auto at = stretches.begin(); at != stretches.end(); ++at) {
    if (const int error = note(*at, mode, by); error != 0) {
      std::for_each(at, stretches.end(), [&](const Range& taken) { weaken(taken, by); });
      return error;
    }
  }
  return 0;
} catch (const std::bad_alloc&) {
  return ENOLCK;
}

/// Nothing more is held through `by` than held_ says.
void LockDescriptions::weaken(const Range& range, Index by) noexcept {
  Range rest = range;
  bool over = false;
  held_.for_each_in(range, [&](const HeldRange& held) {
    if (held.range.first > rest.first) {
      std::ignore = take(by, {rest.first, held.range.first - 1}, Mode::kNone);
    }
    if (held.by == by) std::ignore = take(by, held.range, held.mode);
    over = held.range.last == range.last;
    if (!over) rest.first = held.range.last + 1;
    return true;
  });
  if (!over) std::ignore = take(by, rest, Mode::kNone);
}

// -- test ----------------------------------------------------------------------------------------

/// Each description is asked where it holds something itself: it does not see its own.
int LockDescriptions::test(int path_fd, const Range& range, Mode mode,
                           std::optional<lockmgr::OutsideLock>& found) noexcept try {
  const std::lock_guard lock(mutex_);
  let_go_of_surplus();
  for (Range rest = range;;) {
    Index by = kNobody;
    std::optional<HeldRange> other;
    held_.for_each_in(rest, [&](const HeldRange& held) {
      if (!lockmgr::modes_conflict(held.mode, mode) || held.by == by) return true;
      if (by == kNobody) {
        by = held.by;
        return true;
      }
      other = held;
      return false;
    });
    if (by == kNobody) by = shared_ != kNobody ? shared_ : exclusive_;
    const Range part{rest.first, other ? other->range.first - 1 : rest.last};
    int error = 0;
    if (by != kNobody) {
      error = find_conflict(descriptions_[by].fd->get(), part, mode, found);
    } else {
      // One that holds nothing may come and go.
      int fd = open_for_locks(path_fd, O_RDONLY);
      if (fd == -EACCES) fd = open_for_locks(path_fd, O_RDWR);
      const UniqueFd owned(fd);
      error = fd < 0 ? -fd : find_conflict(fd, part, mode, found);
    }
    if (error != 0 || found || !other) return error;
    rest.first = other->range.first;
  }
} catch (const std::bad_alloc&) {
  return ENOLCK;
}

// -- wait ----------------------------------------------------------------------------------------

int LockDescriptions::wait(WaitId id, int path_fd, const Range& range, Mode mode, bool yield_first,
                           const std::atomic<bool>& recalled) noexcept try {
  Wait wait{id, range, mode};
  std::shared_ptr<const LoggedFd> fd;
  {
    const std::lock_guard lock(mutex_);
    if (recalled) return EINTR;
    if (const int error = begin(wait, path_fd); error != 0) return error;
    fd = descriptions_[wait.by].fd;
  }
  int error = wait_for_record_lock(fd->get(), range, mode, yield_first, recalled);
  fd.reset();
  const std::lock_guard lock(mutex_);
  const auto here =
      std::find_if(waits_.begin(), waits_.end(), [id](const Wait& each) { return each.id == id; });
  const bool won_already = here->won;
  waits_.erase(here);
  descriptions_[wait.by].waits = false;
  if (error == 0 && !won_already) error = won(wait);
  settle(wait);
  return error;
} catch (const std::bad_alloc&) {
  return ENOLCK;
}

/// Opens a description for it, which takes over what would be in its way.
int LockDescriptions::begin(Wait& wait, int path_fd) {
  let_go_of_surplus();
  if (in_doubt(wait.range)) return EINTR;  // it might wait for its own side; set() ends the doubt
  waits_.reserve(waits_.size() + 1);
  const bool exclusive = wait.mode == Mode::kExclusive;
  if (const int error = open(path_fd, exclusive, wait.by); error != 0) return error;
  int error = 0;
  for (Range rest = wait.range; exclusive;) {
    const auto held = held_.first_in(rest);
    if (!held) break;
    if (held->mode == Mode::kShared && !descriptions_[held->by].waits) {
      error = move_shared(held->range, held->by, wait.by);
    }
    if (error != 0 || held->range.last >= wait.range.last) break;
    rest.first = held->range.last + 1;
  }
  if (error == 0 && stuck(wait, wait.range)) error = EINTR;
  if (error != 0) {
    settle(wait);
    return error;
  }
  descriptions_[wait.by].waits = true;
  waits_.push_back(wait);
  close_unused();
  return 0;
}

/// Puts down what a wait has taken.
int LockDescriptions::won(const Wait& wait) noexcept {
  ++changes_;
  if (wait.mode == Mode::kExclusive) {
    const int error = note(wait.range, wait.mode, wait.by);
    if (error != 0) weaken(wait.range, wait.by);
    return error;
  }
  // What is held through others stays with them.
  for (Range rest = wait.range;;) {
    const auto held = held_.first_in(rest);
    const Range gap{rest.first, held ? held->range.first - 1 : rest.last};
    if (gap.first <= gap.last) {
      if (const int error = note(gap, wait.mode, wait.by); error != 0) {
        weaken(wait.range, wait.by);
        return error;
      }
    }
    if (held && held->by != wait.by) std::ignore = take(wait.by, held->range, Mode::kNone);
    if (!held || held->range.last >= wait.range.last) return 0;
    rest.first = held->range.last + 1;
  }
}

/// What the description of a wait that has ended holds finds its place.
void LockDescriptions::settle(const Wait& wait) noexcept {
  // It becomes the one for its kind where there is none, or none that holds anything.
  Index& usual = home(wait.mode);
  const bool of_its_kind = wait.mode == Mode::kShared || holds(wait.by, wait.range, wait.mode);
  if (of_its_kind && (usual == kNobody || held_.count(usual) == 0)) usual = wait.by;
  shared_go_home(wait.range, wait.by);
  end_stuck(wait.range, of_its_kind ? wait.mode : Mode::kShared);
  close_unused();
}

/// A wait may have its lock at the backing and not have said so: it is put down, so that it is not
/// taken for an outsider's. Returns whether there was one within `range`.
bool LockDescriptions::note_silent_winners(const Range& range) noexcept try {
  bool found = false;
  for (Wait& wait : waits_) {
    if (wait.won || !wait.range.overlaps(range)) continue;
    std::vector<CarriedLock> locks;
    if (!read_open_file_locks(descriptions_[wait.by].fd->get(), locks)) continue;
    const bool has = std::any_of(locks.begin(), locks.end(), [&](const CarriedLock& lock) {
      return lock.mode == wait.mode && lock.range.contains(wait.range);
    });
    wait.won = has && won(wait) == 0;
    found = found || wait.won;
  }
  return found;
} catch (const std::bad_alloc&) {
  return false;  // then it passes for an outsider's
}

/// Whether something that rests here is in the way of `wait` within `range`.
bool LockDescriptions::stuck(const Wait& wait, const Range& range) const {
  bool found = false;
  held_.for_each_in(range, [&](const HeldRange& held) {
    found = held.by != wait.by && lockmgr::modes_conflict(held.mode, wait.mode) &&
            !descriptions_[held.by].waits;
    return !found;
  });
  return found;
}

/// Ends waits that what has come to be held on `range` is in the way of: nobody outside would.
void LockDescriptions::end_stuck(const Range& range, Mode mode) noexcept {
  for (Wait& wait : waits_) {
    if (wait.recalled || wait.won || !wait.range.overlaps(range)) continue;
    if (!lockmgr::modes_conflict(wait.mode, mode)) continue;
    if (!stuck(wait, lockmgr::common(range, wait.range))) continue;
    wait.recalled = true;
    threads_.recall(wait.id);
  }
}

// -- inspection ----------------------------------------------------------------------------------

bool LockDescriptions::inspect(std::vector<CarriedLock>& found) {
  constexpr int kTries = 5;
  for (int i = 0; i < kTries; ++i) {
    std::vector<std::shared_ptr<const LoggedFd>> open_now;
    std::uint64_t changes = 0;
    {
      const std::lock_guard lock(mutex_);
      changes = changes_;
      for (const Description& each : descriptions_) {
        if (each.fd != nullptr) open_now.push_back(each.fd);
      }
    }
    // Long for a file with many locks, so not with the mutex held.
    std::vector<CarriedLock> seen;
    for (const auto& fd : open_now) {
      if (!read_open_file_locks(fd->get(), seen)) return false;
    }
    const std::lock_guard again(mutex_);
    if (changes != changes_) continue;
    // A shared lock may lie on two descriptions while it goes from one to the other.
    std::sort(seen.begin(), seen.end(), [](const CarriedLock& a, const CarriedLock& b) {
      return a.range.first < b.range.first;
    });
    for (const CarriedLock& lock : seen) {
      CarriedLock* last = found.empty() ? nullptr : &found.back();
      if (last != nullptr && last->mode == lock.mode && last->range.overlaps(lock.range)) {
        last->range = lockmgr::hull(last->range, lock.range);
      } else {
        found.push_back(lock);
      }
    }
    return true;
  }
  return false;
}

}  // namespace lockfs
