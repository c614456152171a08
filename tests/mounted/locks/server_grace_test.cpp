/// The kernel's NFS server is restarted: local programs take nothing that its clients may come to
/// claim back. The server is played here: the files in which the kernel tells of it, a process for
/// its thread, and locks on the source for those of its clients.

#include <sys/syscall.h>
#include <unistd.h>

#include <memory>
#include <string>

#include "tests/mounted/locks/lock_test.h"
#include "tests/mounted/support/played_server.h"

namespace lockfs::test {
namespace {

class ServerGraceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    LOCKFS_NOT_PLAIN();
    if (geteuid() != 0) GTEST_SKIP() << "needs root, to play an NFS server";
    ASSERT_EQ(server_.prepare(), "");
    ASSERT_TRUE(write_file(fs_.in_source("a"), "text"));
    ASSERT_TRUE(write_file(fs_.in_source("b"), "text"));
  }
  void TearDown() override { EXPECT_EQ(fs_.stop(), ""); }

  void mount(const std::string& option = "server_wait=100") { ASSERT_EQ(fs_.start({option}), ""); }
  /// Beside a server that serves. Nobody gets a lock before the daemon's first look, which may come
  /// late on a busy machine: it has seen the server once this returns.
  void mount_beside_server(const std::string& option = "server_wait=100") {
    server_.start(false);
    mount(option);
    Locker first(inside("b"));
    ASSERT_EQ(first.lock(kFlock, kExclusive), 0);
  }
  [[nodiscard]] std::string inside(const std::string& name) const { return fs_.in_mount(name); }
  [[nodiscard]] std::string outside(const std::string& name) const { return fs_.in_source(name); }

  /// Somebody who asks without waiting; leaves with the errno, 0 for success.
  [[nodiscard]] static Process ask(const std::string& path, int command = F_OFD_SETLK) {
    return Process([path, command] {
      struct sigaction action {};
      action.sa_handler = [](int) {};
      sigaction(SIGUSR1, &action, nullptr);
      const int fd = ::open(path.c_str(), O_RDWR);
      struct flock request {};
      request.l_type = F_WRLCK;
      if (fd < 0 || ::fcntl(fd, command, &request) != 0) return errno;
      return request.l_type == F_UNLCK ? 100 : 0;  // F_GETLK
    });
  }
  static bool is_over(const Process& process) {
    siginfo_t info{};
    return ::waitid(P_PID, static_cast<id_t>(process.pid()), &info, WEXITED | WNOHANG | WNOWAIT) ==
               0 &&
           info.si_pid != 0;
  }
  /// The process sleeps in its lock call and has no answer.
  static bool is_put_off(const Process& process) {
    const std::string folder = "/proc/" + std::to_string(process.pid());
    return eventually([&] {
      const std::string call = read_file(folder + "/syscall");
      return call.starts_with(std::to_string(SYS_fcntl) +
                              " ");  // "running" while it does not sleep
    });
  }
  [[nodiscard]] bool logged(const std::string& text) const {
    return eventually([&] { return fs_.log().find(text) != std::string::npos; });
  }

  PlayedServer server_;
  Mount fs_;
};

TEST_F(ServerGraceTest, NobodyGetsALockBeforeTheGracePeriodEnds) {
  server_.start(true);
  mount();
  Locker waits(inside("a"));
  Locker flocks(inside("b"));
  Locker client(outside("a"));
  waits.start_lock(kPosix, kExclusive);
  flocks.start_lock(kFlock, kShared);
  Process asks = ask(inside("a"));
  Process queries = ask(inside("a"), F_OFD_GETLK);
  EXPECT_TRUE(waits.waits());
  EXPECT_TRUE(flocks.waits());
  EXPECT_TRUE(is_put_off(asks));
  EXPECT_TRUE(is_put_off(queries));
  EXPECT_TRUE(logged("in its grace period"));
  // A client takes back what it held.
  EXPECT_EQ(client.try_lock(kOfd, kExclusive), 0);
  EXPECT_FALSE(is_over(asks));
  server_.end_grace();
  EXPECT_EQ(asks.wait(), EAGAIN);
  EXPECT_EQ(queries.wait(), 0) << "the client's lock is not seen";
  EXPECT_EQ(flocks.result(), 0);
  EXPECT_TRUE(waits.waits());
  EXPECT_EQ(client.unlock(kOfd), 0);
  EXPECT_EQ(waits.result(), 0);
  EXPECT_TRUE(logged("no longer wait"));
}

TEST_F(ServerGraceTest, TheGracePeriodOfNfsv3CountsAsWell) {
  server_.lockd(true);
  server_.start(false);
  mount();
  Process asks = ask(inside("a"));
  EXPECT_TRUE(is_put_off(asks));
  server_.lockd(false);
  EXPECT_EQ(asks.wait(), 0);
}

TEST_F(ServerGraceTest, WhatTheServerLetsGoOfIsNotTaken) {
  mount_beside_server();
  auto client = std::make_unique<Locker>(outside("a"));
  ASSERT_EQ(client->try_lock(kOfd, kExclusive), 0);
  Locker waits(inside("a"));
  waits.start_lock(kFlock, kExclusive);
  ASSERT_TRUE(waits.waits());
  Process refused = ask(inside("a"));
  EXPECT_EQ(refused.wait(), EAGAIN);

  server_.stop();
  client.reset();
  // This one may ask at any time from now on.
  Process asks = ask(inside("a"));
  EXPECT_TRUE(is_put_off(asks));
  EXPECT_TRUE(waits.waits());
  EXPECT_TRUE(logged("has stopped"));
  server_.start(true);
  Locker again(outside("a"));
  EXPECT_EQ(again.try_lock(kOfd, kExclusive), 0) << "the client cannot have its lock back";
  server_.end_grace();
  EXPECT_EQ(asks.wait(), EAGAIN);
  EXPECT_TRUE(waits.waits());
  EXPECT_EQ(again.unlock(kOfd), 0);
  EXPECT_EQ(waits.result(), 0);
  EXPECT_TRUE(Watcher(fs_, "a").exclusively_locked());
}

/// As above, with whoever asks as fast as possible when the lock goes.
TEST_F(ServerGraceTest, NoMomentIsLeftToThoseWhoPoll) {
  mount_beside_server();
  for (int round = 0; round < scaled(50, 5); ++round) {
    auto client = std::make_unique<Locker>(outside("a"));
    ASSERT_EQ(client->try_lock(kOfd, kExclusive), 0) << "round " << round;
    Process polls([path = inside("a")] {
      const int fd = ::open(path.c_str(), O_RDWR);
      struct flock request {};
      request.l_type = F_WRLCK;
      while (::fcntl(fd, F_OFD_SETLK, &request) != 0) {
        if (errno != EAGAIN) return errno;
      }
      return 0;
    });
    server_.stop();
    client.reset();
    Locker again(outside("a"));
    server_.start(true);
    EXPECT_TRUE(eventually([&] { return again.try_lock(kOfd, kExclusive) == 0; }));
    server_.end_grace();
    EXPECT_EQ(again.unlock(kOfd), 0);
    ASSERT_EQ(polls.wait(), 0) << "round " << round;
    EXPECT_TRUE(eventually([&] { return static_cast<bool>(Watcher(fs_, "a").is_free()); }));
  }
}

TEST_F(ServerGraceTest, WhoHoldsALockKeepsItAndMayLetGo) {
  mount_beside_server();
  Locker holder(inside("a"));
  Locker other(inside("a"));
  ASSERT_EQ(holder.try_lock(kPosix, kExclusive, {0, 100}), 0);
  ASSERT_EQ(holder.try_lock(kPosix, kShared, {100, 100}), 0);
  server_.stop();
  // The same again, less, and a part of it.
  EXPECT_EQ(holder.try_lock(kPosix, kExclusive, {0, 100}), 0);
  EXPECT_EQ(holder.try_lock(kPosix, kExclusive, {20, 10}), 0);
  EXPECT_EQ(holder.try_lock(kPosix, kShared, {0, 150}), 0);
  EXPECT_EQ(holder.unlock(kPosix, {50, 10}), 0);
  EXPECT_EQ(other.try_lock(kPosix, kExclusive, {0, 50}), EAGAIN);
  EXPECT_TRUE(mirror_is(fs_.pid(), outside("a"), {shared_bytes(0, 49), shared_bytes(60, 199)}));
  // More than that has to wait, and leaves all as it is meanwhile.
  holder.start_lock(kPosix, kExclusive, {0, 10});
  other.start_lock(kPosix, kShared, {40, 30});
  EXPECT_TRUE(holder.waits());
  EXPECT_TRUE(other.waits());
  EXPECT_TRUE(mirror_is(fs_.pid(), outside("a"), {shared_bytes(0, 49), shared_bytes(60, 199)}));
  server_.start(false);
  EXPECT_EQ(holder.result(), 0);
  EXPECT_EQ(other.result(), 0);
  EXPECT_TRUE(mirror_is(fs_.pid(), outside("a"), {exclusive_bytes(0, 9), shared_bytes(10, 199)}));
}

TEST_F(ServerGraceTest, WhoWaitsCanBeInterruptedAndKilled) {
  server_.start(true);
  mount();
  Locker interrupted(inside("a"));
  Locker killed(inside("a"));
  ASSERT_EQ(interrupted.handle_signal(SIGUSR1), 0);
  interrupted.start_lock(kFlock, kExclusive);
  killed.start_lock(kPosix, kExclusive);
  Process asks = ask(inside("a"));
  Process dies = ask(inside("a"));
  EXPECT_TRUE(interrupted.waits());
  EXPECT_TRUE(killed.waits());
  EXPECT_TRUE(is_put_off(asks));
  EXPECT_TRUE(is_put_off(dies));
  EXPECT_EQ(interrupted.interrupt(SIGUSR1), 0);
  EXPECT_EQ(interrupted.result(), EINTR);
  killed.kill(SIGKILL);
  EXPECT_EQ(killed.wait(), 128 + SIGKILL);
  asks.kill(SIGUSR1);
  EXPECT_EQ(asks.wait(), EINTR);
  dies.kill(SIGKILL);
  EXPECT_EQ(dies.wait(), 128 + SIGKILL);
  server_.end_grace();
  EXPECT_EQ(interrupted.lock(kFlock, kExclusive), 0);
}

TEST_F(ServerGraceTest, TheEndOfTheMountAnswersAll) {
  server_.start(true);
  mount();
  Locker waits(inside("a"));
  waits.start_lock(kFlock, kExclusive);
  Process asks = ask(inside("a"));
  EXPECT_TRUE(waits.waits());
  EXPECT_TRUE(is_put_off(asks));
  fs_.signal(SIGTERM);
  EXPECT_EQ(waits.result(), ECONNABORTED);
  EXPECT_EQ(asks.wait(), ECONNABORTED);
  EXPECT_EQ(fs_.wait_exit(), "");
}

TEST_F(ServerGraceTest, AServerThatStaysAwayIsWaitedForSoLong) {
  mount_beside_server("server_wait=10");  // time enough to be seen waiting on a busy machine
  server_.stop();
  Locker waits(inside("a"));
  waits.start_lock(kFlock, kExclusive);
  Process asks = ask(inside("b"));
  EXPECT_TRUE(waits.waits());
  EXPECT_TRUE(logged("at most 10 s"));
  EXPECT_EQ(asks.wait(), 0);
  EXPECT_EQ(waits.result(), 0);
}

TEST_F(ServerGraceTest, AServerThatIsToComeIsAwaited) {
  ASSERT_EQ(fs_.start({"server_wait=100", "await_server"}), "");
  Process asks = ask(inside("a"));
  EXPECT_TRUE(is_put_off(asks));
  EXPECT_TRUE(logged("is not there yet"));
  server_.start(true);
  EXPECT_TRUE(logged("in its grace period"));
  EXPECT_FALSE(is_over(asks));
  server_.end_grace();
  EXPECT_EQ(asks.wait(), 0);
}

TEST_F(ServerGraceTest, WithoutAServerOrWhereItIsOfNoInterestNobodyWaits) {
  mount();
  Process none = ask(inside("a"));
  EXPECT_EQ(none.wait(), 0);
  EXPECT_EQ(fs_.stop(), "");
  server_.start(true);
  mount("server_wait=0");
  Process none_heeded = ask(inside("a"));
  EXPECT_EQ(none_heeded.wait(), 0);
}

TEST_F(ServerGraceTest, AServerWithFewerThreadsGoesOn) {
  server_.start(false);
  mount();
  for (int round = 0; round < 5; ++round) {
    server_.restart_thread();
    Process asks = ask(inside("a"));
    EXPECT_EQ(asks.wait(), 0);
  }
  EXPECT_EQ(fs_.log().find("wait"), std::string::npos);
}

}  // namespace
}  // namespace lockfs::test
