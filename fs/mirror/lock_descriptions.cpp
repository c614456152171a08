#include "fs/mirror/lock_descriptions.h"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <new>
#include <tuple>
#include <utility>

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
  descriptions_[opened].fd = std::make_shared<const UniqueFd>(std::move(owned));
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
}

void LockDescriptions::close_unused() noexcept {
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

// -- steps ---------------------------------------------------------------------------------------

int LockDescriptions::take(Index by, const Range& range, Mode mode) noexcept {
  ++changes_;
  struct flock request = record_lock(range, mode);
  while (fcntl(descriptions_[by].fd->get(), F_OFD_SETLK, &request) != 0) {
    if (errno == EINTR) continue;
    return errno == EACCES ? EAGAIN : errno;  // POSIX lets a conflict be either
  }
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
  // Of short calls some are timed: the clock costs a tenth of what they do.
  const bool timed = slow_ || ++sets_ % kTimedSets == 0;
  const auto began = timed ? Clock::now() : Clock::time_point{};
  const auto attempt = [&] {
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
  const auto ask = [&](int fd, const Range& part) {
    struct flock request = record_lock(part, mode);
    if (fcntl(fd, F_OFD_GETLK, &request) != 0) return errno;
    if (request.l_type != F_UNLCK) {
      found = lockmgr::OutsideLock{range_of(request), mode_of(request.l_type), request.l_pid};
    }
    return 0;
  };
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
      error = ask(descriptions_[by].fd->get(), part);
    } else {
      // One that holds nothing may come and go.
      int fd = open_for_locks(path_fd, O_RDONLY);
      if (fd == -EACCES) fd = open_for_locks(path_fd, O_RDWR);
      const UniqueFd owned(fd);
      error = fd < 0 ? -fd : ask(fd, part);
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
  std::shared_ptr<const UniqueFd> fd;
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
    std::vector<std::shared_ptr<const UniqueFd>> open_now;
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
