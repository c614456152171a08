/// -o clear_dead: what a killed daemon left behind goes before the mount, and nothing else does.

#include <sys/mount.h>
#include <sys/stat.h>

#include <cerrno>
#include <csignal>
#include <string>
#include <vector>

#include "tests/cli/command.h"
#include "tests/mounted/support/mounted.h"

namespace lockfs::test {
namespace {

class ClearDead : public CommandTest {
 protected:
  void leave_dead(const std::string& from, const std::string& on) {
    const Outcome outcome = lockfs({"-o", "clear_dead", from, on});
    ASSERT_EQ(outcome.status, 0) << outcome.errors;
    ASSERT_TRUE(kill_mount(on));
    struct stat status {};
    ASSERT_EQ(stat((on + "/x").c_str(), &status), -1);
    ASSERT_EQ(errno, ENOTCONN);
  }
};

TEST_F(ClearDead, MountsInItsPlace) {
  ASSERT_TRUE(write_file(source() + "/file", "x"));
  for (int round = 0; round < 3; ++round) leave_dead(source(), mount());
  expect_failure(lockfs({source(), mount()}), 1, {"dead mount"});
  start({"-o", "clear_dead", source(), mount()}, mount());
  EXPECT_EQ(read_file(mount() + "/file"), "x");
  stop(mount());
}

TEST_F(ClearDead, OverItself) {
  ASSERT_TRUE(write_file(source() + "/file", "x"));
  leave_dead(source(), source());
  start({"-o", "clear_dead", source(), source()}, source());
  EXPECT_EQ(read_file(source() + "/file"), "x");
  stop(source());
}

TEST_F(ClearDead, LeavesTheLivingAlone) {
  start({source(), mount()}, mount());
  expect_failure(lockfs({"-o", "clear_dead", source(), mount()}), 1, {"already mounted"});
  EXPECT_EQ(mounts_on(mount()).size(), 1U);
  stop(mount());
  // Somebody else's mount is no reason to unmount, and none not to mount.
  ASSERT_EQ(::mount("tmpfs", mount().c_str(), "tmpfs", 0, nullptr), 0);
  ASSERT_EQ(lockfs({"-o", "clear_dead", source(), mount()}).status, 0);
  EXPECT_EQ(mounts_on(mount()).size(), 2U);
}

TEST_F(ClearDead, OnlyOnTheMountPoint) {
  leave_dead(source(), mount());
  const auto other = in_base("other");
  ASSERT_EQ(mkdir(other.c_str(), 0755), 0);
  expect_failure(lockfs({"-o", "clear_dead", mount(), other}), 1, {"source", "dead mount"});
  EXPECT_EQ(mounts_on(mount()).size(), 1U);
}

TEST_F(ClearDead, NotByACheck) {
  leave_dead(source(), mount());
  expect_failure(lockfs({"--check", "-o", "clear_dead", source(), mount()}), 1, {"dead mount"});
  EXPECT_EQ(mounts_on(mount()).size(), 1U);
}

}  // namespace
}  // namespace lockfs::test
