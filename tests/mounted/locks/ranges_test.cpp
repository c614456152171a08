/// One owner's locks on one file: upgrade, downgrade, split, merge, whence and odd ranges; and the
/// mirror, which must show on the backing file exactly the union of what is held.

#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <filesystem>
#include <utility>

#include "tests/mounted/locks/lock_test.h"

namespace lockfs::test {
namespace {

class RangesTest : public SharedMountTest {
 protected:
  /// Compares the backing file's locks; with LOCKFS_TEST_PLAIN they are the callers' own.
  static ::testing::AssertionResult mirror(const std::string& name,
                                           const std::vector<LockedRange>& expected) {
    return mirror_is(fs().pid(), in_source(name), expected);
  }
};

/// POSIX and OFD locks follow the same rules within one owner.
class OwnRangesTest : public RangesTest, public ::testing::WithParamInterface<Kind> {
 protected:
  static Kind kind() { return GetParam(); }
};

TEST_P(OwnRangesTest, NeighboursMerge) {
  const std::string name = new_file();
  Locker a(in_mount(name));
  ASSERT_EQ(a.try_lock(kind(), kExclusive, {0, 10}), 0);
  ASSERT_EQ(a.try_lock(kind(), kExclusive, {20, 10}), 0);
  EXPECT_TRUE(mirror(name, {exclusive_bytes(0, 9), exclusive_bytes(20, 29)}));
  ASSERT_EQ(a.try_lock(kind(), kExclusive, {10, 10}), 0);
  EXPECT_TRUE(mirror(name, {exclusive_bytes(0, 29)}));
  Locker b(in_mount(name));
  const QueryResult found = b.query(kPosix, kShared, {15, 1});
  EXPECT_FALSE(found.free);
  EXPECT_EQ(found.range.start, 0);
  EXPECT_EQ(found.range.length, 30);
}

TEST_P(OwnRangesTest, OverlappingMerge) {
  const std::string name = new_file();
  Locker a(in_mount(name));
  ASSERT_EQ(a.try_lock(kind(), kShared, {0, 60}), 0);
  ASSERT_EQ(a.try_lock(kind(), kShared, {40, 60}), 0);
  ASSERT_EQ(a.try_lock(kind(), kShared, {10, 10}), 0);
  EXPECT_TRUE(mirror(name, {shared_bytes(0, 99)}));
}

TEST_P(OwnRangesTest, UnlockSplits) {
  const std::string name = new_file();
  Locker a(in_mount(name));
  Locker b(in_mount(name));
  ASSERT_EQ(a.try_lock(kind(), kExclusive, {0, 100}), 0);
  EXPECT_EQ(a.unlock(kind(), {40, 20}), 0);
  EXPECT_TRUE(mirror(name, {exclusive_bytes(0, 39), exclusive_bytes(60, 99)}));
  EXPECT_EQ(b.try_lock(kind(), kExclusive, {40, 20}), 0);
  EXPECT_EQ(b.try_lock(kind(), kExclusive, {39, 1}), EAGAIN);
  EXPECT_EQ(b.try_lock(kind(), kExclusive, {60, 1}), EAGAIN);
  EXPECT_EQ(a.unlock(kind(), {0, 10}), 0);
  EXPECT_EQ(a.unlock(kind(), {90, 0}), 0);
  EXPECT_EQ(b.unlock(kind()), 0);
  EXPECT_TRUE(mirror(name, {exclusive_bytes(10, 39), exclusive_bytes(60, 89)}));
}

TEST_P(OwnRangesTest, ModeChangesInTheMiddle) {
  const std::string name = new_file();
  Locker a(in_mount(name));
  ASSERT_EQ(a.try_lock(kind(), kExclusive, {0, 100}), 0);
  EXPECT_EQ(a.try_lock(kind(), kShared, {40, 20}), 0);
  EXPECT_TRUE(
      mirror(name, {exclusive_bytes(0, 39), shared_bytes(40, 59), exclusive_bytes(60, 99)}));
  EXPECT_EQ(a.try_lock(kind(), kExclusive, {45, 5}), 0);
  EXPECT_TRUE(mirror(name, {exclusive_bytes(0, 39), shared_bytes(40, 44), exclusive_bytes(45, 49),
                            shared_bytes(50, 59), exclusive_bytes(60, 99)}));
  EXPECT_EQ(a.try_lock(kind(), kShared), 0);
  EXPECT_TRUE(mirror(name, {shared_bytes(0)}));
  EXPECT_EQ(a.unlock(kind()), 0);
  EXPECT_TRUE(mirror(name, {}));
}

/// The six ways two ranges can lie, each with a lock of the other mode put over held bytes
/// 100..199.
TEST_P(OwnRangesTest, SixWaysToOverlap) {
  struct Case {
    Range over;
    std::vector<LockedRange> expected;
  };
  const Case cases[] = {
      {{100, 100}, {shared_bytes(100, 199)}},
      {{50, 250}, {shared_bytes(50, 299)}},
      {{120, 20}, {exclusive_bytes(100, 119), shared_bytes(120, 139), exclusive_bytes(140, 199)}},
      {{50, 100}, {shared_bytes(50, 149), exclusive_bytes(150, 199)}},
      {{150, 100}, {exclusive_bytes(100, 149), shared_bytes(150, 249)}},
      {{300, 10}, {exclusive_bytes(100, 199), shared_bytes(300, 309)}},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(::testing::PrintToString(c.over));
    const std::string name = new_file();
    Locker a(in_mount(name));
    ASSERT_EQ(a.try_lock(kind(), kExclusive, {100, 100}), 0);
    ASSERT_EQ(a.try_lock(kind(), kShared, c.over), 0);
    EXPECT_TRUE(mirror(name, c.expected));
  }
}

TEST_P(OwnRangesTest, RefusedUpgradeKeepsTheOldLock) {
  const std::string name = new_file();
  Locker a(in_mount(name));
  Locker b(in_mount(name));
  ASSERT_EQ(a.try_lock(kind(), kShared, {0, 100}), 0);
  ASSERT_EQ(b.try_lock(kind(), kShared, {90, 100}), 0);
  EXPECT_EQ(a.try_lock(kind(), kExclusive, {0, 100}), EAGAIN);
  EXPECT_TRUE(mirror(name, plain_mode() ? std::vector{shared_bytes(0, 99), shared_bytes(90, 189)}
                                        : std::vector{shared_bytes(0, 189)}));
  EXPECT_EQ(b.try_lock(kind(), kExclusive, {0, 10}), EAGAIN);
  EXPECT_EQ(a.try_lock(kind(), kExclusive, {0, 90}), 0);
  EXPECT_EQ(b.unlock(kind()), 0);
  EXPECT_EQ(a.try_lock(kind(), kExclusive, {0, 100}), 0);
  EXPECT_TRUE(mirror(name, {exclusive_bytes(0, 99)}));
}

TEST_P(OwnRangesTest, RefusedUpgradeForAnOutsiderKeepsTheOldLock) {
  const std::string name = new_file();
  Locker inside(in_mount(name));
  Locker outside(in_source(name));
  ASSERT_EQ(inside.try_lock(kind(), kShared, {0, 100}), 0);
  ASSERT_EQ(outside.try_lock(kPosix, kShared, {50, 10}), 0);
  EXPECT_EQ(inside.try_lock(kind(), kExclusive, {0, 100}), EAGAIN);
  EXPECT_EQ(outside.try_lock(kPosix, kExclusive, {0, 10}), EAGAIN);
  EXPECT_EQ(outside.unlock(kPosix), 0);
  EXPECT_TRUE(mirror(name, {shared_bytes(0, 99)}));
  EXPECT_EQ(inside.try_lock(kind(), kExclusive, {0, 100}), 0);
  EXPECT_TRUE(mirror(name, {exclusive_bytes(0, 99)}));
}

TEST_P(OwnRangesTest, WaitingUpgrade) {
  const std::string name = new_file();
  Locker a(in_mount(name));
  Locker b(in_mount(name));
  ASSERT_EQ(a.try_lock(kind(), kShared, {0, 100}), 0);
  ASSERT_EQ(b.try_lock(kind(), kShared, {0, 100}), 0);
  a.start_lock(kind(), kExclusive, {0, 100});
  ASSERT_TRUE(a.waits());
  // It keeps what it had while it waits.
  Locker outside(in_source(name));
  EXPECT_EQ(outside.try_lock(kPosix, kExclusive, {0, 1}), EAGAIN);
  EXPECT_EQ(outside.try_lock(kPosix, kShared, {0, 1}), 0);
  EXPECT_EQ(outside.unlock(kPosix), 0);
  EXPECT_EQ(b.unlock(kind()), 0);
  EXPECT_EQ(a.result(), 0);
  EXPECT_TRUE(mirror(name, {exclusive_bytes(0, 99)}));
}

TEST_P(OwnRangesTest, DowngradeLetsWaitersIn) {
  const std::string name = new_file();
  Locker a(in_mount(name));
  Locker b(in_mount(name));
  ASSERT_EQ(a.try_lock(kind(), kExclusive, {0, 100}), 0);
  b.start_lock(kind(), kShared, {0, 50});
  ASSERT_TRUE(b.waits());
  EXPECT_EQ(a.try_lock(kind(), kShared, {0, 100}), 0);
  EXPECT_EQ(b.result(), 0);
}

TEST_P(OwnRangesTest, UnlockOfNothingSucceeds) {
  const std::string name = new_file();
  Locker a(in_mount(name));
  for (int i = 0; i < 100; ++i) {
    EXPECT_EQ(a.unlock(kind()), 0);
    EXPECT_EQ(a.unlock(kind(), {i, 1}), 0);
  }
  EXPECT_TRUE(mirror(name, {}));
  ASSERT_EQ(a.try_lock(kind(), kExclusive, {10, 10}), 0);
  EXPECT_EQ(a.unlock(kind(), {20, 0}), 0);
  EXPECT_EQ(a.unlock(kind(), {0, 10}), 0);
  EXPECT_TRUE(mirror(name, {exclusive_bytes(10, 19)}));
}

TEST_P(OwnRangesTest, RelativeAndNegativeRanges) {
  const std::string name = new_file(std::string(1000, 'x'));
  Locker a(in_mount(name));
  const int command = kind() == kPosix ? F_SETLK : F_OFD_SETLK;
  const auto request = [](short whence, off_t start, off_t length) {
    struct flock lock {};
    lock.l_type = F_WRLCK;
    lock.l_whence = whence;
    lock.l_start = start;
    lock.l_len = length;
    return lock;
  };
  EXPECT_EQ(a.fcntl_lock(a.fd(), command, request(SEEK_END, -10, 10)), 0);
  ASSERT_EQ(a.seek(a.fd(), 500), 0);
  EXPECT_EQ(a.fcntl_lock(a.fd(), command, request(SEEK_CUR, 10, 10)), 0);
  EXPECT_EQ(a.fcntl_lock(a.fd(), command, request(SEEK_SET, 100, -10)), 0);
  EXPECT_TRUE(mirror(
      name, {exclusive_bytes(90, 99), exclusive_bytes(510, 519), exclusive_bytes(990, 999)}));
  EXPECT_EQ(a.fcntl_lock(a.fd(), command, request(SEEK_SET, -1, 10)), EINVAL);
  EXPECT_EQ(a.fcntl_lock(a.fd(), command, request(SEEK_SET, 5, -10)), EINVAL);
  EXPECT_EQ(a.fcntl_lock(a.fd(), command, request(SEEK_SET, kEof, 2)), EOVERFLOW);
}

TEST_P(OwnRangesTest, TheLastByte) {
  const std::string name = new_file();
  Locker a(in_mount(name));
  Locker b(in_mount(name));
  ASSERT_EQ(a.try_lock(kind(), kExclusive, {kEof, 1}), 0);
  EXPECT_EQ(b.try_lock(kind(), kExclusive, {0, kEof}), 0);
  EXPECT_EQ(b.try_lock(kind(), kShared, {0, 0}), EAGAIN);
  EXPECT_TRUE(mirror(name, plain_mode()
                               ? std::vector{exclusive_bytes(0, kEof - 1), exclusive_bytes(kEof)}
                               : std::vector{exclusive_bytes(0)}));
  EXPECT_EQ(a.unlock(kind(), {kEof, 0}), 0);
  EXPECT_TRUE(mirror(name, {exclusive_bytes(0, kEof - 1)}));
}

TEST_P(OwnRangesTest, ThousandsOfRanges) {
  const std::string name = new_file();
  const int count = scaled(2000, 200);
  Locker a(in_mount(name));
  std::vector<LockedRange> expected;
  for (int i = 0; i < count; ++i) {
    ASSERT_EQ(a.try_lock(kind(), i % 2 == 0 ? kExclusive : kShared, {i * 3, 2}), 0);
    expected.push_back({i * 3, i * 3 + 1, i % 2 == 0 ? kExclusive : kShared});
  }
  EXPECT_TRUE(mirror(name, expected));
  EXPECT_EQ(a.try_lock(kind(), kShared, {0, 0}), 0);
  EXPECT_TRUE(mirror(name, {shared_bytes(0)}));
  EXPECT_EQ(a.unlock(kind()), 0);
  EXPECT_TRUE(mirror(name, {}));
}

INSTANTIATE_TEST_SUITE_P(Every, OwnRangesTest, ::testing::Values(kPosix, kOfd), kind_name);

// -- flock
// ------------------------------------------------------------------------------------------

TEST_F(RangesTest, FlockUpgradeAndDowngrade) {
  LOCKFS_NOT_PLAIN();
  const std::string name = new_file();
  Locker a(in_mount(name));
  Locker b(in_mount(name));
  ASSERT_EQ(a.try_lock(kFlock, kShared), 0);
  ASSERT_EQ(b.try_lock(kFlock, kShared), 0);
  EXPECT_EQ(a.try_lock(kFlock, kExclusive), EAGAIN);
  // Unlike a local flock(), which drops the old lock before it tries for the new one.
  EXPECT_EQ(b.try_lock(kFlock, kExclusive), EAGAIN);
  EXPECT_TRUE(mirror(name, {shared_bytes(0)}));
  EXPECT_EQ(b.unlock(kFlock), 0);
  EXPECT_EQ(a.try_lock(kFlock, kExclusive), 0);
  EXPECT_TRUE(mirror(name, {exclusive_bytes(0)}));
  EXPECT_EQ(a.try_lock(kFlock, kShared), 0);
  EXPECT_TRUE(mirror(name, {shared_bytes(0)}));
  EXPECT_EQ(b.lock(kFlock, kShared), 0);
  EXPECT_EQ(a.unlock(kFlock), 0);
  EXPECT_EQ(a.unlock(kFlock), 0);
  EXPECT_TRUE(mirror(name, {shared_bytes(0)}));
}

// -- several owners
// ---------------------------------------------------------------------------------

TEST_F(RangesTest, MirrorIsTheUnionOfAllOwners) {
  LOCKFS_NOT_PLAIN();
  const std::string name = new_file();
  Locker a(in_mount(name));
  Locker b(in_mount(name));
  Locker c(in_mount(name));
  ASSERT_EQ(a.try_lock(kPosix, kShared, {0, 50}), 0);
  ASSERT_EQ(b.try_lock(kOfd, kShared, {30, 50}), 0);
  EXPECT_TRUE(mirror(name, {shared_bytes(0, 79)}));
  ASSERT_EQ(c.try_lock(kPosix, kExclusive, {100, 10}), 0);
  ASSERT_EQ(b.try_lock(kOfd, kExclusive, {60, 10}), 0);
  EXPECT_TRUE(mirror(name, {shared_bytes(0, 59), exclusive_bytes(60, 69), shared_bytes(70, 79),
                            exclusive_bytes(100, 109)}));
  EXPECT_EQ(b.close(), 0);
  EXPECT_EQ(a.try_lock(kPosix, kShared, {109, 1}), EAGAIN);
  EXPECT_TRUE(mirror(name, {shared_bytes(0, 49), exclusive_bytes(100, 109)}));
  EXPECT_EQ(a.exit(), 0);
  EXPECT_EQ(c.unlock(kPosix, {105, 1}), 0);
  EXPECT_TRUE(mirror(name, {exclusive_bytes(100, 104), exclusive_bytes(106, 109)}));
}

TEST_F(RangesTest, SharedFlockAboveSharedRanges) {
  LOCKFS_NOT_PLAIN();
  const std::string name = new_file();
  Locker a(in_mount(name));
  Locker b(in_mount(name));
  ASSERT_EQ(a.try_lock(kFlock, kShared), 0);
  ASSERT_EQ(b.try_lock(kPosix, kShared, {10, 10}), 0);
  EXPECT_TRUE(mirror(name, {shared_bytes(0)}));
  EXPECT_EQ(a.unlock(kFlock), 0);
  EXPECT_TRUE(mirror(name, {shared_bytes(10, 19)}));
  EXPECT_EQ(b.try_lock(kFlock, kExclusive), EAGAIN);  // its own POSIX lock is in the way
  EXPECT_EQ(b.unlock(kPosix), 0);
  EXPECT_EQ(b.try_lock(kFlock, kExclusive), 0);
  EXPECT_TRUE(mirror(name, {exclusive_bytes(0)}));
}

TEST_F(RangesTest, MirrorLeavesOutsidersLocksAlone) {
  LOCKFS_NOT_PLAIN();
  const std::string name = new_file();
  Locker inside(in_mount(name));
  Locker outside(in_source(name));
  ASSERT_EQ(outside.try_lock(kPosix, kExclusive, {50, 10}), 0);
  ASSERT_EQ(inside.try_lock(kFlock, kShared), EAGAIN);
  ASSERT_EQ(inside.try_lock(kPosix, kExclusive, {0, 50}), 0);
  ASSERT_EQ(inside.try_lock(kOfd, kShared, {60, 10}), 0);
  EXPECT_EQ(locks_held_by(fs().pid(), in_source(name)),
            (std::vector<LockedRange>{exclusive_bytes(0, 49), shared_bytes(60, 69)}));
  EXPECT_EQ(inside.unlock(kPosix), 0);
  EXPECT_EQ(inside.unlock(kOfd), 0);
  Locker other(in_source(name));
  EXPECT_EQ(other.try_lock(kPosix, kShared, {55, 1}), EAGAIN);
  EXPECT_EQ(other.try_lock(kPosix, kExclusive, {0, 50}), 0);
}

/// The lock descriptor falls back to read-only, where the kernel knows only shared locks.
TEST_F(RangesTest, FileNobodyMayWriteTo) {
  LOCKFS_NOT_PLAIN();
  const std::string name = new_file();
  std::filesystem::copy_file("/bin/sleep", in_source(name),
                             std::filesystem::copy_options::overwrite_existing);
  ASSERT_EQ(::chmod(in_source(name).c_str(), 0755), 0);
  // A running program cannot be opened for writing.
  Process running([path = in_source(name)] {
    ::execl(path.c_str(), "sleep", "1000", nullptr);
    return 1;
  });
  const std::string link = "/proc/" + std::to_string(running.pid()) + "/exe";
  ASSERT_TRUE(eventually([&] {
    std::error_code ignored;
    return std::filesystem::read_symlink(link, ignored) == in_source(name);
  }));
  ASSERT_EQ(::open(in_source(name).c_str(), O_WRONLY | O_CLOEXEC), -1);
  ASSERT_EQ(errno, ETXTBSY);
  Locker a(in_mount(name), O_RDONLY);
  EXPECT_EQ(a.try_lock(kFlock, kShared), 0);
  EXPECT_EQ(a.try_lock(kPosix, kShared, {0, 10}), 0);
  EXPECT_TRUE(mirror(name, {shared_bytes(0)}));
  EXPECT_EQ(a.unlock(kFlock), 0);
  EXPECT_EQ(a.unlock(kPosix), 0);
  EXPECT_TRUE(mirror(name, {}));
}

// -- queries
// ----------------------------------------------------------------------------------------

TEST_F(RangesTest, QueryIgnoresOnesOwnLocks) {
  const std::string name = new_file();
  Locker a(in_mount(name));
  ASSERT_EQ(a.try_lock(kPosix, kExclusive, {0, 10}), 0);
  EXPECT_TRUE(a.query(kPosix, kExclusive, {0, 10}).free);
  const QueryResult through_ofd = a.query(kOfd, kExclusive, {0, 10});
  EXPECT_FALSE(through_ofd.free);
  EXPECT_EQ(through_ofd.pid, plain_mode() ? a.pid() : -1);
  ASSERT_EQ(a.try_lock(kOfd, kExclusive, {20, 10}), 0);
  EXPECT_TRUE(a.query(kOfd, kExclusive, {20, 10}).free);
  const QueryResult found = a.query(kPosix, kExclusive, {20, 10});
  EXPECT_FALSE(found.free);
  EXPECT_EQ(found.pid, plain_mode() ? -1 : 0);
}

TEST_F(RangesTest, QueryNamesWhatBlocksTheFirstByte) {
  const std::string name = new_file();
  Locker a(in_mount(name));
  Locker b(in_mount(name));
  ASSERT_EQ(a.try_lock(kPosix, kShared, {10, 5}), 0);
  ASSERT_EQ(a.try_lock(kPosix, kExclusive, {20, 5}), 0);
  const QueryResult found = b.query(kPosix, kExclusive);
  EXPECT_FALSE(found.free);
  EXPECT_EQ(found.mode, kShared);
  EXPECT_EQ(found.range.start, 10);
  EXPECT_EQ(found.range.length, 5);
  LOCKFS_NOT_PLAIN();
  Locker outsider(in_source(name));
  ASSERT_EQ(outsider.try_lock(kPosix, kShared, {2, 3}), 0);
  EXPECT_EQ(b.query(kPosix, kExclusive).range.start, 2);
  EXPECT_EQ(b.query(kPosix, kShared).range.start, 20);
  EXPECT_EQ(b.query(kPosix, kExclusive, {5, 0}).range.start, 10);
}

/// F_OFD_GETLK with F_UNLCK: the first lock of the open file itself.
TEST_F(RangesTest, QueryOfAnUnlockNamesOnesOwnLock) {
  struct utsname system {};
  ASSERT_EQ(::uname(&system), 0);
  int major = 0;
  int minor = 0;
  ASSERT_EQ(std::sscanf(system.release, "%d.%d", &major, &minor), 2);
  if (std::pair(major, minor) < std::pair(6, 6)) GTEST_SKIP() << "EINVAL before Linux 6.6";
  const std::string name = new_file();
  Locker other(in_mount(name));
  ASSERT_EQ(other.try_lock(kOfd, kExclusive, {0, 5}), 0);
  const int fd = ::open(in_mount(name).c_str(), O_RDWR | O_CLOEXEC);
  ASSERT_GE(fd, 0);
  const auto ask = [fd](short type, int command, off_t start, off_t length) {
    struct flock request {};
    request.l_type = type;
    request.l_start = start;
    request.l_len = length;
    EXPECT_EQ(::fcntl(fd, command, &request), 0) << "errno " << errno;
    return request;
  };
  ask(F_RDLCK, F_OFD_SETLK, 10, 5);
  const struct flock own = ask(F_UNLCK, F_OFD_GETLK, 0, 0);
  EXPECT_EQ(own.l_type, F_RDLCK);
  EXPECT_EQ(own.l_start, 10);
  EXPECT_EQ(own.l_len, 5);
  EXPECT_EQ(ask(F_UNLCK, F_OFD_GETLK, 0, 10).l_type, F_UNLCK);
  ASSERT_EQ(::close(fd), 0);
}

TEST_F(RangesTest, QueryNamesTheProcessThatTookTheFlock) {
  LOCKFS_NOT_PLAIN();
  const std::string name = new_file();
  Locker parent(in_mount(name), O_RDWR);
  Actor child = parent.fork();
  ASSERT_EQ(child.try_lock(parent.fd(), kFlock, kExclusive), 0);
  Locker other(in_mount(name));
  EXPECT_EQ(other.query(kPosix, kShared).pid, child.pid());
}

TEST_F(RangesTest, QueryPlacesNothing) {
  const std::string name = new_file();
  Locker a(in_mount(name));
  Locker b(in_mount(name));
  EXPECT_TRUE(a.query(kPosix, kExclusive).free);
  EXPECT_TRUE(a.query(kOfd, kExclusive).free);
  EXPECT_EQ(b.try_lock(kPosix, kExclusive), 0);
  EXPECT_TRUE(mirror(name, {exclusive_bytes(0)}));
}

TEST_F(RangesTest, QueryOfAQueuedRequestShowsOnlyWhatIsGranted) {
  const std::string name = new_file();
  Locker a(in_mount(name));
  Locker b(in_mount(name));
  Locker c(in_mount(name));
  ASSERT_EQ(a.try_lock(kPosix, kShared, {0, 10}), 0);
  b.start_lock(kPosix, kExclusive, {0, 10});
  ASSERT_TRUE(b.waits());
  EXPECT_TRUE(c.query(kPosix, kShared, {0, 10}).free);
  EXPECT_EQ(c.try_lock(kPosix, kShared, {0, 10}), 0);  // not blocking: granted locks decide
}

}  // namespace
}  // namespace lockfs::test
