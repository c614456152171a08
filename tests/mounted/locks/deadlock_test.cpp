/// Deadlocks of processes are refused with EDEADLK, over any number of files; open files take no
/// part.

#include <signal.h>

#include <deque>
#include <vector>

#include "tests/mounted/locks/lock_test.h"

namespace lockfs::test {
namespace {

class DeadlockTest : public SharedMountTest {
 protected:
  /// Processes that have the same files open.
  struct Party {
    Actor process;
    std::vector<int> fds;
  };
  static std::deque<Party> parties(std::size_t count, const std::vector<std::string>& names) {
    std::deque<Party> all;
    for (std::size_t i = 0; i < count; ++i) {
      all.emplace_back();
      for (const std::string& name : names) {
        all.back().fds.push_back(all.back().process.open(in_mount(name), O_RDWR));
      }
    }
    return all;
  }
  static std::vector<std::string> new_files(std::size_t count) {
    std::vector<std::string> names;
    for (std::size_t i = 0; i < count; ++i) names.push_back(new_file());
    return names;
  }
};

TEST_F(DeadlockTest, TwoProcessesOneFile) {
  auto p = parties(2, new_files(1));
  const int a = p[0].fds[0];
  const int b = p[1].fds[0];
  ASSERT_EQ(p[0].process.try_lock(a, kPosix, kExclusive, {0, 1}), 0);
  ASSERT_EQ(p[1].process.try_lock(b, kPosix, kExclusive, {1, 1}), 0);
  p[0].process.start_lock(a, kPosix, kExclusive, {1, 1});
  ASSERT_TRUE(p[0].process.waits());
  EXPECT_EQ(p[1].process.lock(b, kPosix, kExclusive, {0, 1}), EDEADLK);
  // The refused one keeps what it had, and can give way.
  EXPECT_TRUE(p[0].process.waits());
  EXPECT_EQ(p[1].process.unlock(b, kPosix), 0);
  EXPECT_EQ(p[0].process.result(), 0);
}

TEST_F(DeadlockTest, TwoUpgrades) {
  auto p = parties(2, new_files(1));
  ASSERT_EQ(p[0].process.try_lock(p[0].fds[0], kPosix, kShared), 0);
  ASSERT_EQ(p[1].process.try_lock(p[1].fds[0], kPosix, kShared), 0);
  p[0].process.start_lock(p[0].fds[0], kPosix, kExclusive);
  ASSERT_TRUE(p[0].process.waits());
  EXPECT_EQ(p[1].process.lock(p[1].fds[0], kPosix, kExclusive), EDEADLK);
  EXPECT_EQ(p[1].process.unlock(p[1].fds[0], kPosix), 0);
  EXPECT_EQ(p[0].process.result(), 0);
}

TEST_F(DeadlockTest, ThreeFiles) {
  auto p = parties(3, new_files(3));
  for (std::size_t i = 0; i < 3; ++i) {
    ASSERT_EQ(p[i].process.try_lock(p[i].fds[i], kPosix, kExclusive), 0);
  }
  for (std::size_t i = 0; i < 2; ++i) {
    p[i].process.start_lock(p[i].fds[i + 1], kPosix, kExclusive);
    ASSERT_TRUE(p[i].process.waits());
  }
  EXPECT_EQ(p[2].process.lock(p[2].fds[0], kPosix, kExclusive), EDEADLK);
  EXPECT_EQ(p[2].process.try_lock(p[2].fds[0], kPosix, kExclusive), EAGAIN);
  EXPECT_TRUE(p[0].process.waits());
  EXPECT_TRUE(p[1].process.waits());
  EXPECT_EQ(p[2].process.unlock(p[2].fds[2], kPosix), 0);
  EXPECT_EQ(p[1].process.result(), 0);
  EXPECT_EQ(p[1].process.unlock(p[1].fds[1], kPosix), 0);
  EXPECT_EQ(p[0].process.result(), 0);
}

TEST_F(DeadlockTest, TwelveFiles) {
  // Beyond the ten steps after which the kernel gives up looking.
  LOCKFS_NOT_PLAIN();
  constexpr std::size_t kCount = 12;
  auto p = parties(kCount, new_files(kCount));
  for (std::size_t i = 0; i < kCount; ++i) {
    ASSERT_EQ(p[i].process.try_lock(p[i].fds[i], kPosix, kExclusive), 0);
  }
  for (std::size_t i = 0; i + 1 < kCount; ++i) {
    p[i].process.start_lock(p[i].fds[i + 1], kPosix, kShared);
    ASSERT_TRUE(p[i].process.waits());
  }
  EXPECT_EQ(p[kCount - 1].process.lock(p[kCount - 1].fds[0], kPosix, kShared), EDEADLK);
  EXPECT_EQ(p[kCount - 1].process.exit(), 0);
  for (std::size_t i = kCount - 1; i-- > 0;) {
    EXPECT_EQ(p[i].process.result(), 0);
    EXPECT_EQ(p[i].process.exit(), 0);
  }
}

TEST_F(DeadlockTest, ThroughOneOfSeveralSharers) {
  auto p = parties(3, new_files(2));
  // 0 and 1 share the first file, 2 has the second.
  ASSERT_EQ(p[0].process.try_lock(p[0].fds[0], kPosix, kShared), 0);
  ASSERT_EQ(p[1].process.try_lock(p[1].fds[0], kPosix, kShared), 0);
  ASSERT_EQ(p[2].process.try_lock(p[2].fds[1], kPosix, kExclusive), 0);
  p[1].process.start_lock(p[1].fds[1], kPosix, kExclusive);
  ASSERT_TRUE(p[1].process.waits());
  if (!plain_mode()) {
    // The kernel looks at one blocker of several only, and would not see this one.
    EXPECT_EQ(p[2].process.lock(p[2].fds[0], kPosix, kExclusive), EDEADLK);
  }
  EXPECT_EQ(p[0].process.unlock(p[0].fds[0], kPosix), 0);
  EXPECT_EQ(p[2].process.lock(p[2].fds[0], kPosix, kExclusive), EDEADLK);
  EXPECT_EQ(p[2].process.unlock(p[2].fds[1], kPosix), 0);
  EXPECT_EQ(p[1].process.result(), 0);
}

TEST_F(DeadlockTest, BrokenBySignal) {
  auto p = parties(2, new_files(2));
  ASSERT_EQ(p[0].process.handle_signal(SIGUSR1), 0);
  ASSERT_EQ(p[0].process.try_lock(p[0].fds[0], kPosix, kExclusive), 0);
  ASSERT_EQ(p[1].process.try_lock(p[1].fds[1], kPosix, kExclusive), 0);
  p[0].process.start_lock(p[0].fds[1], kPosix, kExclusive);
  ASSERT_TRUE(p[0].process.waits());
  ASSERT_EQ(p[0].process.interrupt(SIGUSR1), 0);
  EXPECT_EQ(p[0].process.result(), EINTR);
  // With the first one's wait gone there is no cycle any more.
  p[1].process.start_lock(p[1].fds[0], kPosix, kExclusive);
  EXPECT_TRUE(p[1].process.waits());
  EXPECT_EQ(p[0].process.unlock(p[0].fds[0], kPosix), 0);
  EXPECT_EQ(p[1].process.result(), 0);
}

TEST_F(DeadlockTest, WaitingWithoutACycleIsNone) {
  auto p = parties(3, new_files(1));
  // Everybody waits for one who waits for nobody.
  ASSERT_EQ(p[0].process.try_lock(p[0].fds[0], kPosix, kExclusive, {0, 10}), 0);
  ASSERT_EQ(p[1].process.try_lock(p[1].fds[0], kPosix, kExclusive, {10, 10}), 0);
  p[1].process.start_lock(p[1].fds[0], kPosix, kExclusive, {0, 5});
  ASSERT_TRUE(p[1].process.waits());
  p[2].process.start_lock(p[2].fds[0], kPosix, kExclusive, {5, 10});
  ASSERT_TRUE(p[2].process.waits());
  EXPECT_EQ(p[0].process.lock(p[0].fds[0], kPosix, kExclusive, {30, 10}), 0);
  EXPECT_EQ(p[0].process.unlock(p[0].fds[0], kPosix), 0);
  EXPECT_EQ(p[1].process.result(), 0);
  EXPECT_EQ(p[1].process.unlock(p[1].fds[0], kPosix), 0);
  EXPECT_EQ(p[2].process.result(), 0);
}

/// A waiter that only stands behind another one in the queue could be served now; that is no cycle.
TEST_F(DeadlockTest, StandingInTheQueueIsNone) {
  auto p = parties(3, new_files(2));
  ASSERT_EQ(p[0].process.try_lock(p[0].fds[0], kPosix, kShared), 0);
  ASSERT_EQ(p[2].process.try_lock(p[2].fds[1], kPosix, kExclusive), 0);
  p[1].process.start_lock(p[1].fds[0], kPosix, kExclusive);
  ASSERT_TRUE(p[1].process.waits());
  p[2].process.start_lock(p[2].fds[0], kPosix, kShared);  // behind process 1
  p[0].process.start_lock(p[0].fds[1], kPosix, kExclusive);
  EXPECT_TRUE(p[0].process.waits());
  EXPECT_EQ(p[2].process.result(), 0);
  EXPECT_EQ(p[2].process.unlock(p[2].fds[1], kPosix), 0);
  EXPECT_EQ(p[0].process.result(), 0);
  EXPECT_EQ(p[0].process.unlock(p[0].fds[0], kPosix), 0);
  EXPECT_EQ(p[2].process.unlock(p[2].fds[0], kPosix), 0);
  EXPECT_EQ(p[1].process.result(), 0);
}

// -- open files take no part
// ------------------------------------------------------------------------

class OpenFileDeadlockTest : public DeadlockTest, public ::testing::WithParamInterface<Kind> {
 protected:
  static Kind kind() { return GetParam(); }
};

TEST_P(OpenFileDeadlockTest, CycleWaitsUntilSomebodyGivesUp) {
  auto p = parties(2, new_files(2));
  ASSERT_EQ(p[0].process.handle_signal(SIGUSR1), 0);
  ASSERT_EQ(p[0].process.try_lock(p[0].fds[0], kind(), kExclusive), 0);
  ASSERT_EQ(p[1].process.try_lock(p[1].fds[1], kind(), kExclusive), 0);
  p[0].process.start_lock(p[0].fds[1], kind(), kExclusive);
  ASSERT_TRUE(p[0].process.waits());
  p[1].process.start_lock(p[1].fds[0], kind(), kExclusive);
  ASSERT_TRUE(p[1].process.waits());
  EXPECT_TRUE(p[0].process.waits());
  ASSERT_EQ(p[0].process.interrupt(SIGUSR1), 0);
  EXPECT_EQ(p[0].process.result(), EINTR);
  EXPECT_TRUE(p[1].process.waits());
  EXPECT_EQ(p[0].process.unlock(p[0].fds[0], kind()), 0);
  EXPECT_EQ(p[1].process.result(), 0);
}

TEST_P(OpenFileDeadlockTest, CycleThroughAnOpenFileAndAProcess) {
  LOCKFS_NOT_PLAIN();
  auto p = parties(2, new_files(2));
  ASSERT_EQ(p[1].process.handle_signal(SIGUSR1), 0);
  ASSERT_EQ(p[0].process.try_lock(p[0].fds[0], kind(), kExclusive), 0);
  ASSERT_EQ(p[1].process.try_lock(p[1].fds[1], kPosix, kExclusive), 0);
  p[0].process.start_lock(p[0].fds[1], kPosix, kExclusive);
  ASSERT_TRUE(p[0].process.waits());
  p[1].process.start_lock(p[1].fds[0], kPosix, kExclusive);
  ASSERT_TRUE(p[1].process.waits());  // another process might yet close that open file
  ASSERT_EQ(p[1].process.interrupt(SIGUSR1), 0);
  EXPECT_EQ(p[1].process.result(), EINTR);
  EXPECT_EQ(p[1].process.unlock(p[1].fds[1], kPosix), 0);
  EXPECT_EQ(p[0].process.result(), 0);
}

/// As on an NFS client, where both go to the server as locks of different owners.
TEST_P(OpenFileDeadlockTest, ProcessBlocksItself) {
  LOCKFS_NOT_PLAIN();
  auto p = parties(1, new_files(1));
  ASSERT_EQ(p[0].process.handle_signal(SIGUSR1), 0);
  ASSERT_EQ(p[0].process.try_lock(p[0].fds[0], kind(), kExclusive), 0);
  p[0].process.start_lock(p[0].fds[0], kPosix, kExclusive);
  EXPECT_TRUE(p[0].process.waits());
  ASSERT_EQ(p[0].process.interrupt(SIGUSR1), 0);
  EXPECT_EQ(p[0].process.result(), EINTR);
}

INSTANTIATE_TEST_SUITE_P(Every, OpenFileDeadlockTest, ::testing::Values(kFlock, kOfd), kind_name);

}  // namespace
}  // namespace lockfs::test
