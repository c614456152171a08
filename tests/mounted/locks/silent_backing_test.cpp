/// A backing filesystem that stops answering, as an NFS server that is down does: here the mount of
/// another lockfs whose daemon is stopped. Its files wait; the others and all interrupts do not.

#include <signal.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "tests/mounted/locks/lock_test.h"

namespace lockfs::test {
namespace {

/// `far` in the source is the mount of the other lockfs; the rest of the source is local.
class SilentBackingTest : public ::testing::Test {
 protected:
  void SetUp() override {
    LOCKFS_NOT_PLAIN();
    if (geteuid() != 0) GTEST_SKIP() << "needs root, to mount in the source";
    ASSERT_EQ(server_.start({}), "");
    const std::string far = fs_.in_source("far");
    ASSERT_EQ(::mkdir(far.c_str(), 0755), 0);
    ASSERT_EQ(::mount(server_.mount().c_str(), far.c_str(), nullptr, MS_BIND, nullptr), 0);
    fs_.allow_log("has not answered|has answered|stuck in the backing filesystem");
    ASSERT_EQ(fs_.start({"attr_timeout=0", "workers=2", policy()}), "");
    for (const char* name : {"far/a", "far/b", "near"}) {
      ASSERT_TRUE(write_file(fs_.in_source(name), "text"));
    }
  }
  void TearDown() override {
    if (!server_.running()) return;
    answer();
    stuck_.clear();
    EXPECT_EQ(fs_.stop(), "");
    ::umount2(fs_.in_source("far").c_str(), MNT_DETACH);
    EXPECT_EQ(server_.stop(), "");
  }

  [[nodiscard]] virtual std::string policy() const { return "policy=nfs"; }

  /// Returns when no thread of the server runs any more.
  void silence() {
    server_.signal(SIGSTOP);
    const std::string tasks = "/proc/" + std::to_string(server_.pid()) + "/task";
    EXPECT_TRUE(eventually([&] {
      for (const auto& task : std::filesystem::directory_iterator(tasks)) {
        const std::string stat = read_file(task.path() / "stat");
        if (stat.compare(stat.rfind(')'), 3, ") T") != 0) return false;
      }
      return true;
    }));
  }
  void answer() { server_.signal(SIGCONT); }
  [[nodiscard]] bool overdue(int calls = 1) const {
    return eventually([&] {
      const std::string log = fs_.log();
      int found = 0;
      for (std::size_t at = 0; (at = log.find("has not answered", at)) != std::string::npos; ++at) {
        ++found;
      }
      return found >= calls;
    });
  }
  Mount server_;
  Mount fs_;
  std::vector<std::unique_ptr<Process>> stuck_;  ///< end when the server answers
};

TEST_F(SilentBackingTest, InterruptsAndKillsReachThoseWhoWait) {
  Locker first(fs_.in_mount("far/a"));
  Locker second(fs_.in_mount("far/a"));
  Locker stays(fs_.in_mount("far/a"));
  ASSERT_EQ(first.handle_signal(SIGUSR1), 0);
  silence();
  first.start_lock(kFlock, kExclusive);
  second.start_lock(kPosix, kExclusive);
  stays.start_lock(kOfd, kExclusive);
  ASSERT_TRUE(overdue());
  EXPECT_EQ(first.interrupt(SIGUSR1), 0);
  EXPECT_EQ(first.result(), EINTR);
  second.kill(SIGKILL);
  EXPECT_EQ(second.wait(), 128 + SIGKILL);
  EXPECT_FALSE(stays.has_result());
  answer();
  EXPECT_EQ(stays.result(), 0);
  EXPECT_TRUE(Watcher(server_, "a").exclusively_locked());
  EXPECT_EQ(stays.unlock(kOfd), 0);
  EXPECT_EQ(first.try_lock(kFlock, kExclusive), 0);
  EXPECT_EQ(first.unlock(kFlock), 0);
  EXPECT_TRUE(Watcher(server_, "a").is_free());
}

TEST_F(SilentBackingTest, RequestsThatDoNotWaitArePutOff) {
  Locker other(fs_.in_mount("far/a"));
  const int fd = ::open(fs_.in_mount("far/a").c_str(), O_RDWR);
  ASSERT_GE(fd, 0);
  silence();
  const auto ask = [fd] {
    struct sigaction action {};
    action.sa_handler = [](int) {};
    sigaction(SIGUSR1, &action, nullptr);
    struct flock request {};
    request.l_type = F_WRLCK;
    return ::fcntl(fd, F_OFD_SETLK, &request) == 0 ? 0 : errno;
  };
  Process interrupted(ask);
  ASSERT_TRUE(overdue());
  // Whether it has got as far as to be interruptible is not to be seen from here.
  Process killed(ask);
  killed.kill(SIGKILL);
  EXPECT_EQ(killed.wait(), 128 + SIGKILL);
  EXPECT_TRUE(eventually([&] {
    interrupted.kill(SIGUSR1);
    siginfo_t info{};
    return ::waitid(P_PID, static_cast<id_t>(interrupted.pid()), &info,
                    WEXITED | WNOHANG | WNOWAIT) == 0 &&
           info.si_pid != 0;
  }));
  EXPECT_EQ(interrupted.wait(), EINTR);
  Process granted(ask);
  answer();
  EXPECT_EQ(granted.wait(), 0);
  EXPECT_EQ(other.try_lock(kFlock, kShared), EAGAIN);
  ::close(fd);
  EXPECT_EQ(other.try_lock(kFlock, kShared), 0);
}

TEST_F(SilentBackingTest, LocksThatWereHeldEndWithTheirHolders) {
  Locker holder(fs_.in_mount("far/a"));
  Locker leaves(fs_.in_mount("far/b"));
  Locker next(fs_.in_mount("far/a"));
  ASSERT_EQ(holder.try_lock(kPosix, kExclusive), 0);
  ASSERT_EQ(leaves.try_lock(kOfd, kExclusive), 0);
  silence();
  // The unlock is taken down, and carried when the server answers.
  EXPECT_EQ(holder.unlock(kPosix), 0);
  leaves.kill(SIGKILL);
  EXPECT_EQ(leaves.wait(), 128 + SIGKILL);
  next.start_lock(kPosix, kExclusive);
  EXPECT_FALSE(next.has_result());
  answer();
  EXPECT_EQ(next.result(), 0);
  EXPECT_EQ(holder.try_lock(kPosix, kShared), EAGAIN);
  EXPECT_TRUE(Watcher(server_, "a").exclusively_locked());
  EXPECT_EQ(next.unlock(kPosix), 0);
  EXPECT_TRUE(eventually([&] { return static_cast<bool>(Watcher(server_, "b").is_free()); }));
  EXPECT_TRUE(Watcher(server_, "a").is_free());
}

/// Policies that carry flocks to the backing as flocks.
class SilentFlocksTest : public SilentBackingTest,
                         public ::testing::WithParamInterface<const char*> {
 protected:
  [[nodiscard]] std::string policy() const override { return GetParam(); }
};

TEST_P(SilentFlocksTest, HoldUpNobodyElse) {
  Locker held(fs_.in_mount("far/b"));
  ASSERT_EQ(held.try_lock(kFlock, kShared), 0);
  Locker interrupted(fs_.in_mount("far/a"));
  Locker stays(fs_.in_mount("far/a"));
  Locker near(fs_.in_mount("near"));
  ASSERT_EQ(interrupted.handle_signal(SIGUSR1), 0);
  silence();
  interrupted.start_lock(kFlock, kExclusive);
  stays.start_lock(kFlock, kShared);
  // It was granted: an unlock is taken down.
  EXPECT_EQ(held.unlock(kFlock), 0);
  ASSERT_TRUE(overdue(2));
  EXPECT_EQ(interrupted.interrupt(SIGUSR1), 0);
  EXPECT_EQ(interrupted.result(), EINTR);
  EXPECT_FALSE(stays.has_result());
  EXPECT_EQ(near.try_lock(kFlock, kExclusive), 0);
  answer();
  EXPECT_EQ(stays.result(), 0);
  Locker outsider(server_.in_mount("a"));
  EXPECT_EQ(outsider.try_lock(kFlock, kExclusive), EAGAIN);
  Locker other(server_.in_mount("b"));
  EXPECT_TRUE(eventually([&] { return other.try_lock(kFlock, kExclusive) == 0; }));
  EXPECT_EQ(stays.unlock(kFlock), 0);
  EXPECT_TRUE(eventually([&] { return outsider.try_lock(kFlock, kExclusive) == 0; }));
}

INSTANTIATE_TEST_SUITE_P(Policies, SilentFlocksTest,
                         ::testing::Values("policy=linux", "policy=guarded"),
                         [](const auto& test) { return std::string(test.param).substr(7); });

TEST_F(SilentBackingTest, OtherFilesAreServed) {
  Locker near(fs_.in_mount("near"));
  Locker far(fs_.in_mount("far/a"));
  silence();
  far.start_lock(kFlock, kExclusive);
  // More than there are workers are stuck.
  constexpr int kStuck = 20;
  for (int i = 0; i < kStuck; ++i) {
    stuck_.push_back(std::make_unique<Process>([this, i] {
      struct stat st {};
      return ::stat(fs_.in_mount("far/x" + std::to_string(i)).c_str(), &st) == 0 ? 0 : errno;
    }));
  }
  ASSERT_TRUE(overdue());
  for (int round = 0; round < 20; ++round) {
    EXPECT_EQ(near.try_lock(kFlock, kExclusive), 0);
    EXPECT_EQ(near.unlock(kFlock), 0);
    const std::string made = fs_.in_mount("made" + std::to_string(round));
    EXPECT_TRUE(write_file(made, "text"));
    EXPECT_EQ(read_file(made), "text");
  }
  answer();
  for (const auto& process : stuck_) EXPECT_EQ(process->wait(), ENOENT);
  EXPECT_EQ(far.result(), 0);
}

TEST_F(SilentBackingTest, TheEndDoesNotWaitForIt) {
  Locker far(fs_.in_mount("far/a"));
  silence();
  far.start_lock(kFlock, kExclusive);
  Process stuck([this] {
    struct stat st {};
    return ::stat(fs_.in_mount("far/x").c_str(), &st) == 0 ? 0 : errno;
  });
  ASSERT_TRUE(overdue());
  fs_.signal(SIGTERM);
  EXPECT_EQ(far.result(), ECONNABORTED);
  EXPECT_NE(stuck.wait(), -1);
  // libfuse closes the device before it unmounts.
  EXPECT_TRUE(eventually([this] {
    struct stat mount {};
    struct stat parent {};
    return ::stat(fs_.mount().c_str(), &mount) == 0 &&
           ::stat(fs_.scratch().c_str(), &parent) == 0 && mount.st_dev == parent.st_dev;
  }));
  EXPECT_NE(fs_.log().find("leaving it behind"), std::string::npos);
  answer();
  EXPECT_NE(fs_.wait_exit(), "") << "it says that not all was well";
}

}  // namespace
}  // namespace lockfs::test
