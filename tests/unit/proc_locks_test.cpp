// The lines in which the kernel lists locks, in /proc/locks and in fdinfo.
// ctest: links=lockfs_base
#include "fs/base/proc_locks.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <string>
#include <vector>

#include "fs/base/unique_fd.h"

namespace lockfs {
namespace {

TEST(ProcLocks, ReadsALock) {
  const auto lock = parse_lock_line("12: POSIX  ADVISORY  WRITE 42 fe:1a:131 5 EOF\n");
  ASSERT_TRUE(lock);
  EXPECT_EQ(lock->type, LockLine::Type::kPosix);
  EXPECT_FALSE(lock->waiting);
  EXPECT_EQ(lock->mode, lockmgr::Mode::kExclusive);
  EXPECT_EQ(lock->pid, 42);
  EXPECT_EQ(lock->dev_major, 0xfeU);
  EXPECT_EQ(lock->dev_minor, 0x1aU);
  EXPECT_EQ(lock->ino, 131U);
  EXPECT_EQ(lock->range, (lockmgr::Range{5, lockmgr::kEof}));
}

TEST(ProcLocks, ReadsALockOfAnOpenFileInFdinfo) {
  const auto lock = parse_lock_line("lock:\t1: OFDLCK ADVISORY  READ -1 00:2d:7 0 9");
  ASSERT_TRUE(lock);
  EXPECT_EQ(lock->type, LockLine::Type::kOpenFile);
  EXPECT_EQ(lock->mode, lockmgr::Mode::kShared);
  EXPECT_EQ(lock->pid, -1);
  EXPECT_EQ(lock->range, (lockmgr::Range{0, 9}));
}

// Who waits behind a waiter stands one blank deeper.
TEST(ProcLocks, ReadsWaitersAtEachDepth) {
  for (const char* arrow : {"-> ", " -> ", "      -> "}) {
    const auto lock = parse_lock_line(
        ("1: " + std::string(arrow) + "FLOCK  ADVISORY  WRITE 7 00:01:3 0 EOF").c_str());
    ASSERT_TRUE(lock) << arrow;
    EXPECT_TRUE(lock->waiting);
    EXPECT_EQ(lock->type, LockLine::Type::kFlock);
    EXPECT_EQ(lock->ino, 3U);
  }
}

TEST(ProcLocks, LeavesOutWhatIsNoLock) {
  for (const char* line :
       {"", "\n", "pos:\t0", "lock:", "1:", "1: POSIX", "1: POSIX ADVISORY WRITE",
        "1: LEASE  ACTIVE    READ  42 fe:00:131 0 EOF", "1: DELEG  ACTIVE    READ 42 00:01:2 0 EOF",
        "1: POSIX  ADVISORY  WRITE 42 fe:00:131 0", "1: POSIX  ADVISORY  WRITE 42 <none>:0 0 EOF",
        "1: POSIX  ADVISORY  UNLCK 42 fe:00:131 0 EOF", "x: POSIX  ADVISORY  WRITE 42 0:0:1 0 1"}) {
    EXPECT_FALSE(parse_lock_line(line)) << line;
  }
}

TEST(ProcLocks, FindsWhatADescriptorHolds) {
  char name[] = "proc_locks.XXXXXX";
  const UniqueFd file(::mkstemp(name));
  ASSERT_TRUE(file);
  ::unlink(name);
  struct flock lock {};
  lock.l_type = F_WRLCK;
  lock.l_start = 10;
  lock.l_len = 5;
  ASSERT_EQ(::fcntl(file.get(), F_OFD_SETLK, &lock), 0);
  std::vector<lockmgr::CarriedLock> found;
  ASSERT_TRUE(read_open_file_locks(file.get(), found));
  ASSERT_EQ(found.size(), 1U);
  EXPECT_EQ(found[0].range, (lockmgr::Range{10, 14}));
  EXPECT_EQ(found[0].mode, lockmgr::Mode::kExclusive);
}

// Under the thread sanitizer each process has a thread of the sanitizer's.
#ifndef __SANITIZE_THREAD__

/// A line gets a blank longer with each request that the one in it waits behind.
TEST(ProcLocks, FindsEachOfManyThatWait) {
  constexpr std::size_t kWaiting = 240;
  char name[] = "proc_locks.XXXXXX";
  const UniqueFd file(::mkstemp(name));
  ASSERT_TRUE(file);
  struct stat st {};
  ASSERT_EQ(::fstat(file.get(), &st), 0);
  struct flock lock {};
  lock.l_type = F_WRLCK;
  ASSERT_EQ(::fcntl(file.get(), F_OFD_SETLK, &lock), 0);
  std::vector<pid_t> children;
  for (std::size_t i = 0; i < kWaiting; ++i) {
    const pid_t child = ::fork();
    if (child == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      ::fcntl(::open(name, O_RDWR), F_SETLKW, &lock);
      ::_exit(0);
    }
    ASSERT_GT(child, 0);
    children.push_back(child);
  }
  std::size_t waiting = 0;
  for (int look = 0; look < 1000 && waiting != kWaiting; ++look) {
    const auto found = posix_locks_of_waiting_programs(kWaiting * 2);
    waiting = static_cast<std::size_t>(std::count_if(
        found.begin(), found.end(),
        [&st](const LockLine& line) { return line.waiting && line.ino == st.st_ino; }));
  }
  EXPECT_EQ(waiting, kWaiting);
  for (const pid_t child : children) ::kill(child, SIGKILL);
  for (const pid_t child : children) ::waitpid(child, nullptr, 0);
  ::unlink(name);
}

#endif

}  // namespace
}  // namespace lockfs
