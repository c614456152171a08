/// Classic and open-file-description locks look alike to the daemon, which looks at the thread that
/// asks. What a process has locked is the process's however the thread is disturbed meanwhile: its
/// other descriptors are not refused, and any close of the file lets go.

#include <fcntl.h>
#include <sched.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <thread>

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
  void TearDown() override {
    EXPECT_TRUE(eventually([this] { return is_quiet(); })) << "it looks for nobody";
    EXPECT_EQ(fs_.stop(), "");
  }

  /// Whether no thread of the daemon wakes up every few milliseconds.
  bool is_quiet() {
    const auto wakeups = [this] {
      std::uint64_t sum = 0;
      for (const auto& task :
           std::filesystem::directory_iterator("/proc/" + std::to_string(fs_.pid()) + "/task")) {
        const std::string status = read_file(task.path().string() + "/status");
        const std::string label = "\nvoluntary_ctxt_switches:";
        const auto at = status.find(label);
        if (at != std::string::npos) sum += std::stoull(status.substr(at + label.size()));
      }
      return sum;
    };
    constexpr std::uint64_t kFew = 50;
    const std::uint64_t before = wakeups();
    std::this_thread::sleep_for(std::chrono::milliseconds(500));
    return wakeups() - before < kFew;
  }

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

  /// A thread asks that hardly gets to run.
  void starve(bool with_signals);
  /// The next waiters each get `disturb`, run in a process with the waiter's id, meanwhile.
  void disturb_waiters(int rounds, const std::function<int(pid_t)>& disturb);

  Mount fs_;
};

/// A thread that has sent its request and gets no processor time to go to sleep.
void OwnerClassTest::starve(bool with_signals) {
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
    struct sigaction action {};
    action.sa_handler = [](int) {};
    ::sigaction(SIGUSR1, &action, nullptr);
    if (!pin() || ::sched_setscheduler(0, SCHED_IDLE, &none) != 0) return kCannotAsk;
    ::raise(SIGSTOP);
    for (int round = 0; round < scaled(10, 2); ++round) {
      if (const int wrong = check_ownership(path, F_SETLK); wrong != 0) return wrong;
    }
    return 0;
  });
  int status = 0;
  ASSERT_EQ(::waitpid(asks.pid(), &status, WUNTRACED), asks.pid());
  ASSERT_EQ(::kill(asks.pid(), SIGCONT), 0);
  Process pesters([whom = asks.pid(), with_signals] {
    while (with_signals && ::kill(whom, SIGUSR1) == 0) ::usleep(200);
    return 0;
  });
  EXPECT_EQ(asks.wait(), 0);
  pesters.kill(SIGKILL);
  EXPECT_NE(pesters.wait(), -1);
  hog.kill(SIGKILL);
  EXPECT_EQ(hog.wait(), 128 + SIGKILL);
}

TEST_F(OwnerClassTest, OfAThreadThatStarves) { starve(false); }

TEST_F(OwnerClassTest, OfAThreadThatStarvesAndGetsSignals) { starve(true); }

/// A thread whose wait is disturbed again and again, until it ends.
void OwnerClassTest::disturb_waiters(int rounds, const std::function<int(pid_t)>& disturb) {
  Locker holder(fs_.in_mount("a"));
  for (int round = 0; round < rounds; ++round) {
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
    Process pesters([whom = waits.pid(), &disturb] { return disturb(whom); });
    for (int i = 0; i < 200; ++i) ::sched_yield();
    ASSERT_EQ(holder.unlock(kFlock), 0);
    ASSERT_EQ(waits.wait(), 0) << "round " << round;
    pesters.kill(SIGKILL);
    ASSERT_NE(pesters.wait(), -1);
  }
}

TEST_F(OwnerClassTest, OfAWaiterThatGetsSignals) {
  disturb_waiters(scaled(30, 4), [](pid_t whom) {
    while (::kill(whom, SIGUSR1) == 0) {
    }
    return 0;
  });
}

TEST_F(OwnerClassTest, OfAWaiterThatIsStoppedAndContinued) {
  disturb_waiters(scaled(20, 4), [](pid_t whom) {
    while (::kill(whom, SIGSTOP) == 0 && ::kill(whom, SIGCONT) == 0) {
    }
    return 0;
  });
}

TEST_F(OwnerClassTest, OfAWaiterThatIsTraced) {
  disturb_waiters(scaled(20, 4), [](pid_t whom) {
    int status = 0;
    if (::ptrace(PTRACE_SEIZE, whom, nullptr, nullptr) != 0) return 1;
    while (::ptrace(PTRACE_INTERRUPT, whom, nullptr, nullptr) == 0 &&
           ::waitpid(whom, &status, __WALL) == whom && WIFSTOPPED(status)) {
      ::ptrace(PTRACE_CONT, whom, nullptr, nullptr);
    }
    return 0;
  });
}

/// Each step of a traced thread's system calls is held up.
TEST_F(OwnerClassTest, OfAThreadWhoseSystemCallsAreTraced) {
  Process asks([path = fs_.in_mount("a")] {
    ::raise(SIGSTOP);
    return check_ownership(path, F_SETLK);
  });
  int status = 0;
  ASSERT_EQ(::waitpid(asks.pid(), &status, WUNTRACED), asks.pid());
  ASSERT_EQ(::ptrace(PTRACE_SEIZE, asks.pid(), nullptr, nullptr), 0);
  ASSERT_EQ(::kill(asks.pid(), SIGCONT), 0);
  siginfo_t next{};
  // Its end is left to Process::wait().
  while (::waitid(P_PID, static_cast<id_t>(asks.pid()), &next, WEXITED | WSTOPPED | WNOWAIT) == 0 &&
         next.si_code != CLD_EXITED && next.si_code != CLD_KILLED) {
    ASSERT_EQ(::waitpid(asks.pid(), &status, __WALL), asks.pid());
    ::ptrace(PTRACE_SYSCALL, asks.pid(), nullptr, nullptr);
  }
  EXPECT_EQ(asks.wait(), 0);
}

/// Of a process that has the memory of another, which stands still.
TEST_F(OwnerClassTest, OfAChildOfVfork) {
  Process parent([path = fs_.in_mount("a")] {
    int result = kCannotAsk;
    std::array<char, 65536> stack;
    struct Task {
      const std::string& path;
      int& result;
    } task{path, result};
    const pid_t child = ::clone(
        [](void* argument) {
          auto& todo = *static_cast<Task*>(argument);
          todo.result = check_ownership(todo.path, F_SETLK);
          ::_exit(0);
          return 0;
        },
        stack.data() + stack.size(), CLONE_VM | CLONE_VFORK | SIGCHLD, &task);
    int status = 0;
    if (child < 0 || ::waitpid(child, &status, 0) != child) return kCannotAsk;
    return result;
  });
  EXPECT_EQ(parent.wait(), 0);
}

/// Of threads of one process, each on descriptors of its own, at once with one that does OFD locks.
TEST_F(OwnerClassTest, OfThreadsOfOneProcess) {
  Process process([path = fs_.in_mount("a")] {
    std::atomic<int> wrong{0};
    std::atomic<bool> end{false};
    std::thread open_files([&] {
      const int fd = ::open(path.c_str(), O_RDWR);
      while (!end) {
        struct flock far {};
        far.l_type = F_WRLCK;
        far.l_start = 1000;
        far.l_len = 1;
        if (::fcntl(fd, F_OFD_SETLK, &far) != 0) wrong = kCannotAsk;
      }
      ::close(fd);
    });
    for (int round = 0; round < scaled(200, 20); ++round) {
      std::thread asks([&] {
        if (const int result = check_ownership(path, F_SETLK); result != 0) wrong = result;
      });
      asks.join();
    }
    end = true;
    open_files.join();
    return wrong.load();
  });
  EXPECT_EQ(process.wait(), 0);
}

}  // namespace
}  // namespace lockfs::test
