/// Classic and open-file-description locks look alike to the daemon, which looks at the thread that
/// asks. What a process has locked is the process's however the thread is disturbed meanwhile: its
/// other descriptors are not refused, and any close of the file lets go.

#include <fcntl.h>
#include <sched.h>
#include <unistd.h>

#include <csignal>
#include <string>

#include "tests/mounted/locks/lock_test.h"

namespace lockfs::test {
namespace {

constexpr int kOwnLockRefused = 100;
constexpr int kNotDropped = 101;
constexpr int kCannotAsk = 102;

class OwnerClassTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(write_file(fs_.in_source("a"), "text"));
    ASSERT_EQ(fs_.start({}), "");
  }
  void TearDown() override { EXPECT_EQ(fs_.stop(), ""); }

  static int set(int fd, int command, short type) {
    struct flock request {};
    request.l_type = type;
    request.l_len = 10;
    while (::fcntl(fd, command, &request) != 0) {
      if (errno != EINTR) return errno;
    }
    return 0;
  }
  /// Locks through one descriptor, then through another, and closes that: 0, or what was wrong.
  static int check_ownership(const std::string& path, int command) {
    const int one = ::open(path.c_str(), O_RDWR);
    const int two = ::open(path.c_str(), O_RDWR);
    const int other = ::open(path.c_str(), O_RDWR);
    if (one < 0 || two < 0 || other < 0) return kCannotAsk;
    if (set(one, command, F_WRLCK) != 0) return kCannotAsk;
    if (set(two, F_SETLK, F_WRLCK) != 0) return kOwnLockRefused;
    ::close(two);
    // Dropped by any close of the file: an open file may have it now.
    const int result = set(other, F_OFD_SETLK, F_WRLCK) == 0 ? 0 : kNotDropped;
    ::close(other);
    ::close(one);
    return result;
  }

  Mount fs_;
};

/// A thread that has sent its request and gets no processor time to go to sleep.
TEST_F(OwnerClassTest, OfAThreadThatStarves) {
  const auto pin = [] {
    cpu_set_t cpus;
    CPU_ZERO(&cpus);
    CPU_SET(0, &cpus);
    return ::sched_setaffinity(0, sizeof cpus, &cpus) == 0;
  };
  Process hog([pin] {
    if (!pin()) return 1;
    while (true) {
    }
    return 0;
  });
  Process asks([pin, path = fs_.in_mount("a")] {
    const sched_param none{};
    if (!pin() || ::sched_setscheduler(0, SCHED_IDLE, &none) != 0) return kCannotAsk;
    for (int round = 0; round < scaled(10, 2); ++round) {
      if (const int wrong = check_ownership(path, F_SETLK); wrong != 0) return wrong;
    }
    return 0;
  });
  EXPECT_EQ(asks.wait(), 0);
  hog.kill(SIGKILL);
  EXPECT_EQ(hog.wait(), 128 + SIGKILL);
}

/// A thread whose wait is interrupted again and again.
TEST_F(OwnerClassTest, OfAWaiterThatGetsSignals) {
  Locker holder(fs_.in_mount("a"));
  for (int round = 0; round < scaled(30, 4); ++round) {
    ASSERT_EQ(holder.try_lock(kFlock, kExclusive), 0);
    Process waits([path = fs_.in_mount("a"), flags = round % 2 == 0 ? 0 : SA_RESTART] {
      struct sigaction action {};
      action.sa_handler = [](int) {};
      action.sa_flags = flags;
      ::sigaction(SIGUSR1, &action, nullptr);
      return check_ownership(path, F_SETLKW);
    });
    // It is in fcntl(), or between two of them.
    const std::string call = "/proc/" + std::to_string(waits.pid()) + "/syscall";
    ASSERT_TRUE(eventually([&] { return read_file(call).starts_with("72 "); }));
    Process pesters([whom = waits.pid()] {
      while (::kill(whom, SIGUSR1) == 0) {
      }
      return 0;
    });
    for (int i = 0; i < 200; ++i) ::sched_yield();
    ASSERT_EQ(holder.unlock(kFlock), 0);
    ASSERT_EQ(waits.wait(), 0) << "round " << round;
    pesters.kill(SIGKILL);
    ASSERT_NE(pesters.wait(), -1);
  }
}

}  // namespace
}  // namespace lockfs::test
