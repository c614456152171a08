/// The daemon dies while calls of it are stuck in the source and cannot be killed: another serves
/// meanwhile, and what such a call does late counts once.

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "tests/mounted/support/mounted.h"

namespace lockfs::test {
namespace {

/// The folder `disk` of the source is a filesystem of its own, which can be frozen: whoever writes
/// there then waits uninterruptibly (sb_start_write()).
class StuckCallsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    LOCKFS_NOT_PLAIN();
#ifdef __SANITIZE_THREAD__
    GTEST_SKIP() << "no mount survives under it";
#endif
    if (::access("/dev/loop-control", F_OK) != 0)
      GTEST_SKIP() << "this machine has no loop devices";
    const std::string image = fs_.scratch() + "/image";
    ASSERT_TRUE(write_file(image, ""));
    ASSERT_EQ(::truncate(image.c_str(), 64 << 20), 0);
    ASSERT_EQ(run_program({"mkfs.ext4", "-q", image}).status, 0);
    disk_ = fs_.in_source("disk");
    ASSERT_EQ(::mkdir(disk_.c_str(), 0755), 0);
    const ProgramResult mounted = run_program({"mount", "-o", "loop", image, disk_});
    ASSERT_EQ(mounted.status, 0) << mounted.output;
    disk_fd_.reset(::open(disk_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    ASSERT_TRUE(disk_fd_.valid());
    // A folder each, since the kernel makes one change of a folder after the other.
    for (const char* folder : {"a", "b", "c"}) {
      ASSERT_EQ(::mkdir((disk_ + "/" + folder).c_str(), 0755), 0);
    }
    for (const char* name : {"file", "log", "b/gone", "c/from"}) {
      ASSERT_TRUE(write_file(disk_ + "/" + name, "text"));
    }
    fs_.allow_log("the daemon was killed by signal 9 .* goes on|has not answered|has answered");
    ASSERT_EQ(fs_.start({"survive=on", "passthrough=off"}), "");
  }
  void TearDown() override {
    if (disk_.empty()) return;
    thaw();
    calls_.clear();
    EXPECT_EQ(fs_.stop(), "");
    disk_fd_.reset();
    ::umount2(disk_.c_str(), MNT_DETACH);
  }

  void freeze() { ASSERT_EQ(::ioctl(disk_fd_.get(), FIFREEZE, 0), 0); }
  void thaw() { ::ioctl(disk_fd_.get(), FITHAW, 0); }

  [[nodiscard]] std::string on_mount(const std::string& name) const {
    return fs_.in_mount("disk/" + name);
  }
  template <typename Call>
  Process& start(const Call& call) {
    calls_.push_back(std::make_unique<Process>([call] { return call() == 0 ? 0 : errno; }));
    return *calls_.back();
  }
  /// How many threads of the daemon cannot be interrupted.
  [[nodiscard]] int stuck(pid_t daemon) const {
    int found = 0;
    std::error_code gone;
    const std::string tasks = "/proc/" + std::to_string(daemon) + "/task";
    for (const auto& task : std::filesystem::directory_iterator(tasks, gone)) {
      const std::string stat = read_file(task.path() / "stat");
      if (stat.find(") D ") != std::string::npos) ++found;
    }
    return found;
  }
  [[nodiscard]] pid_t kill_daemon() const {
    const pid_t daemon = fs_.daemon_pid();
    EXPECT_GT(daemon, 0);
    if (daemon > 0) ::kill(daemon, SIGKILL);
    return daemon;
  }

  Mount fs_;
  std::string disk_;
  UniqueFd disk_fd_;
  std::vector<std::unique_ptr<Process>> calls_;
};

TEST_F(StuckCallsTest, WhatTheyDoLateCountsOnce) {
  const UniqueFd log(::open(on_mount("log").c_str(), O_WRONLY | O_APPEND | O_CLOEXEC));
  ASSERT_TRUE(log.valid());
  freeze();
  Process& mkdir = start([&] { return ::mkdir(on_mount("a/made").c_str(), 0755); });
  Process& unlink = start([&] { return ::unlink(on_mount("b/gone").c_str()); });
  Process& append = start([&] { return ::write(log.get(), " more", 5) == 5 ? 0 : -1; });
  Process& rename =
      start([&] { return ::rename(on_mount("c/from").c_str(), on_mount("c/to").c_str()); });
  const pid_t daemon = fs_.daemon_pid();
  ASSERT_TRUE(eventually([&] { return stuck(daemon) == 4; }));
  for (int round = 0; round < 3; ++round) {
    const pid_t dead = kill_daemon();
    ASSERT_TRUE(eventually([&] {
      const ProgramResult ping = run_program({lockfs_program() + "ctl", "ping", fs_.mount()});
      return ping.status == 0 && ping.output.find(std::to_string(dead)) == std::string::npos;
    }));
    // Others are served.
    EXPECT_TRUE(write_file(fs_.in_mount("near"), "text"));
    EXPECT_EQ(read_file(on_mount("file")), "text");
  }
  EXPECT_EQ(stuck(daemon), 4);
  thaw();
  EXPECT_EQ(mkdir.wait(), 0);
  EXPECT_EQ(unlink.wait(), 0);
  EXPECT_EQ(append.wait(), 0);
  EXPECT_EQ(rename.wait(), 0);
  EXPECT_EQ(read_file(disk_ + "/log"), "text more");
  EXPECT_EQ(::access((disk_ + "/a/made").c_str(), F_OK), 0);
  EXPECT_EQ(::access((disk_ + "/b/gone").c_str(), F_OK), -1);
  EXPECT_EQ(::access((disk_ + "/c/from").c_str(), F_OK), -1);
  EXPECT_EQ(read_file(disk_ + "/c/to"), "text");
}

}  // namespace
}  // namespace lockfs::test
