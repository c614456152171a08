/// What the lock tests have in common: short names, and checks of who holds what.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "tests/mounted/support/actor.h"
#include "tests/mounted/support/mounted.h"
#include "tests/mounted/support/proc_locks.h"

namespace lockfs::test {

inline constexpr Kind kFlock = Kind::kFlock;
inline constexpr Kind kPosix = Kind::kPosix;
inline constexpr Kind kOfd = Kind::kOfd;
inline constexpr Mode kShared = Mode::kShared;
inline constexpr Mode kExclusive = Mode::kExclusive;

/// A process with the file open, for reading and writing unless told otherwise.
class Locker : public Actor {
 public:
  explicit Locker(const std::string& path, int flags = O_RDWR | O_CLOEXEC)
      : fd_(open(path, flags)) {
    if (fd_ < 0) ADD_FAILURE() << path << ": " << std::strerror(-fd_);
  }
  [[nodiscard]] int fd() const { return fd_; }

  int try_lock(Kind kind, Mode mode, Range range = kWholeFile) {
    return Lane::try_lock(fd_, kind, mode, range);
  }
  int unlock(Kind kind, Range range = kWholeFile) { return Lane::unlock(fd_, kind, range); }
  int lock(Kind kind, Mode mode, Range range = kWholeFile) {
    return Lane::lock(fd_, kind, mode, range);
  }
  void start_lock(Kind kind, Mode mode, Range range = kWholeFile) {
    Lane::start_lock(fd_, kind, mode, range);
  }
  QueryResult query(Kind kind, Mode mode, Range range = kWholeFile) {
    return Lane::query(fd_, kind, mode, range);
  }
  int close() { return Lane::close(fd_); }
  using Actor::close;
  using Actor::lock;
  using Actor::query;
  using Actor::start_lock;
  using Actor::try_lock;
  using Actor::unlock;

 private:
  int fd_;
};

/// Looks at one file from inside the mount and from the source; made while the file has its name.
class Watcher {
 public:
  Watcher(Mount& mount, const std::string& name)
      : inside_(mount.in_mount(name)), outside_(mount.in_source(name)) {}

  /// Success when nobody in the mount and no outsider could take any lock on the range.
  ::testing::AssertionResult exclusively_locked(Range range = kWholeFile) {
    return all_are(EAGAIN, EAGAIN, range);
  }
  /// Success when both could share, but not exclude.
  ::testing::AssertionResult share_locked(Range range = kWholeFile) {
    return all_are(0, EAGAIN, range);
  }
  ::testing::AssertionResult is_free(Range range = kWholeFile) { return all_are(0, 0, range); }

 private:
  ::testing::AssertionResult all_are(int shared, int exclusive, Range range) {
    // The request from inside comes first: it is handled after every close that came before it.
    for (Locker* locker : {&inside_, &outside_}) {
      const char* where = locker == &inside_ ? "in the mount" : "on the source";
      const int got_shared = probe(*locker, kShared, range);
      const int got_exclusive = probe(*locker, kExclusive, range);
      if (got_shared != shared || got_exclusive != exclusive) {
        return ::testing::AssertionFailure()
               << where << ", asking for " << range << ": shared gives " << got_shared
               << " (expected " << shared << "), exclusive " << got_exclusive << " (expected "
               << exclusive << ")";
      }
      settle_file_of(inside_.pid(), inside_.fd());
    }
    return ::testing::AssertionSuccess();
  }

  static int probe(Locker& locker, Mode mode, Range range) {
    const int result = locker.try_lock(kOfd, mode, range);
    if (result == 0) locker.unlock(kOfd, range);
    return result;
  }

  Locker inside_;
  Locker outside_;
};

/// For instantiations over the kinds of lock.
inline std::string kind_name(const ::testing::TestParamInfo<Kind>& test) {
  return name_of(test.param);
}

/// Bytes first..last as the mirror shows them.
inline LockedRange shared_bytes(std::int64_t first, std::int64_t last = kEof) {
  return {first, last, Mode::kShared};
}
inline LockedRange exclusive_bytes(std::int64_t first, std::int64_t last = kEof) {
  return {first, last, Mode::kExclusive};
}

}  // namespace lockfs::test
