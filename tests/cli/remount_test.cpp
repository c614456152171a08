/// lockfs -o remount: what changes, what is refused, and that a refusal changes nothing.

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <string>
#include <vector>

#include "fs/control/client.h"
#include "fs/control/socket.h"
#include "tests/cli/command.h"
#include "tests/mounted/support/mounted.h"

namespace lockfs::test {
namespace {

constexpr int kFailed = 1;
constexpr int kUsage = 2;

class Remount : public CommandTest {
 protected:
  Outcome remount(const std::string& options) {
    return lockfs({"-o", "remount" + (options.empty() ? "" : "," + options), source(), mount()});
  }

  void accepted(const std::string& options) {
    const Outcome outcome = remount(options);
    EXPECT_EQ(outcome.status, 0) << options;
    EXPECT_EQ(outcome.output + outcome.errors, "") << options;
  }

  /// The daemon's current value of an option that may change.
  control::Json value(const std::string& option) {
    control::Client client;
    EXPECT_EQ(client.connect(control::control_socket_path(control::control_folder(), mount(), 0)),
              0);
    control::Json reply;
    EXPECT_EQ(client.ask({{"cmd", "set"}}, reply), "");
    return reply["result"][option];
  }

  std::string flags() { return mounts_on(mount()).at(0).options; }
};

TEST_F(Remount, ChangesSettingsOfTheDaemon) {
  start({source(), mount()}, mount());
  accepted("log_level=debug,cache=7,negative_timeout=0.5,max_locks=12");
  EXPECT_EQ(value("log_level"), "debug");
  EXPECT_EQ(value("attr_timeout"), 7);
  EXPECT_EQ(value("entry_timeout"), 7);
  EXPECT_EQ(value("negative_timeout"), 0.5);
  EXPECT_EQ(value("max_locks"), 12);
  accepted("attr_timeout=3");
  EXPECT_EQ(value("attr_timeout"), 3);
  EXPECT_EQ(value("entry_timeout"), 7) << "what is not mentioned stays";
  stop(mount());
}

TEST_F(Remount, NewLimitsHoldAtOnce) {
  ASSERT_TRUE(write_file(source() + "/a", ""));
  ASSERT_TRUE(write_file(source() + "/b", ""));
  start({source(), mount()}, mount());
  const UniqueFd first(open((mount() + "/a").c_str(), O_RDWR | O_CLOEXEC));
  const UniqueFd second(open((mount() + "/b").c_str(), O_RDWR | O_CLOEXEC));
  ASSERT_EQ(flock(first.get(), LOCK_EX | LOCK_NB), 0);
  accepted("max_locks=1");
  EXPECT_EQ(flock(second.get(), LOCK_EX | LOCK_NB), -1);
  EXPECT_EQ(errno, ENOLCK);
  accepted("max_locks=2");
  EXPECT_EQ(flock(second.get(), LOCK_EX | LOCK_NB), 0);
}

// As `lockfsctl policy set` does, and either knows what the other has done.
TEST_F(Remount, SwitchesThePolicy) {
  ASSERT_TRUE(write_file(source() + "/a", ""));
  start({source(), mount()}, mount());
  const UniqueFd first(open((mount() + "/a").c_str(), O_RDONLY | O_CLOEXEC));
  EXPECT_EQ(flock(first.get(), LOCK_EX | LOCK_NB), -1);
  EXPECT_EQ(errno, EBADF);
  accepted("policy=bsd,fairness=readers");
  EXPECT_EQ(value("policy"), "bsd,fairness=readers");
  EXPECT_EQ(flock(first.get(), LOCK_EX | LOCK_NB), 0);
  control::Client client;
  ASSERT_EQ(client.connect(control::control_socket_path(control::control_folder(), mount(), 0)), 0);
  control::Json reply;
  ASSERT_EQ(client.ask({{"cmd", "set_policy"}, {"policy", "open_mode=strict"}}, reply), "");
  EXPECT_EQ(value("open_mode"), "strict");
  accepted("lease=7");
  EXPECT_EQ(value("open_mode"), "strict") << "what is not mentioned stays";
  EXPECT_EQ(value("lease"), 7);
}

TEST_F(Remount, ChangesFlagsOfTheMount) {
  start({source(), mount()}, mount());
  accepted("ro,nosuid,noatime");
  EXPECT_TRUE(has_option(flags(), "ro") && has_option(flags(), "nosuid")) << flags();
  EXPECT_TRUE(has_option(flags(), "noatime")) << flags();
  EXPECT_EQ(open_error(mount() + "/new", O_WRONLY | O_CREAT), EROFS);
  accepted("rw");
  EXPECT_TRUE(has_option(flags(), "rw") && has_option(flags(), "nosuid")) << flags();
  EXPECT_EQ(open_error(mount() + "/new", O_WRONLY | O_CREAT), 0);
  accepted("suid,atime,nodev,noexec");
  EXPECT_FALSE(has_option(flags(), "nosuid") || has_option(flags(), "noatime")) << flags();
  EXPECT_TRUE(has_option(flags(), "nodev") && has_option(flags(), "noexec")) << flags();
  stop(mount());
}

TEST_F(Remount, NoatimeActsOnWhatIsOpenedThen) {
  ASSERT_TRUE(write_file(source() + "/file", "x"));
  start({source(), mount()}, mount());
  const auto moves = [&] {
    const std::array<timespec, 2> long_ago{timespec{1'000'000'000, 0}, timespec{1'000'000'000, 0}};
    EXPECT_EQ(utimensat(AT_FDCWD, (source() + "/file").c_str(), long_ago.data(), 0), 0);
    EXPECT_EQ(read_file(mount() + "/file"), "x");
    struct stat st {};
    EXPECT_EQ(stat((source() + "/file").c_str(), &st), 0);
    return st.st_atim.tv_sec != 1'000'000'000;
  };
  EXPECT_TRUE(moves());
  stop(mount());  // the kernel keeps what it reads by itself as it was first opened
  start({source(), mount()}, mount());
  accepted("noatime");
  EXPECT_EQ(value("noatime"), "on");
  EXPECT_FALSE(moves());
  accepted("atime");
  EXPECT_EQ(value("noatime"), "off");
  stop(mount());
}

TEST_F(Remount, TakesWhatFstabAndMountRepeat) {
  start({"-o", "workers=9,control_group=0", source(), mount()}, mount());
  accepted("");
  accepted("defaults,nofail,_netdev,x-systemd.automount,comment=a,helper=lockfs,workers=9");
  accepted("user_id=0,group_id=0,default_permissions,allow_other,relatime,control_group=0");
  accepted("policy=nfs,passthrough=auto,fsname=" + source());
  stop(mount());
}

TEST_F(Remount, RefusesTheRestAndChangesNothing) {
  start({"-o", "workers=9", source(), mount()}, mount());
  for (const std::string option :
       {"workers=8", "nomirror", "passthrough=off", "log_target=stderr", "control=off",
        "fsname=other", "no_allow_other", "user_id=7", "bogus"}) {
    expect_failure(remount("ro,max_locks=12," + option), kFailed,
                   {"cannot remount '" + mount() + "'", option.substr(0, option.find('='))});
  }
  expect_failure(remount("ro,max_locks=none"), kUsage, {"'max_locks'", "'none'"});
  EXPECT_TRUE(has_option(flags(), "rw")) << flags();
  EXPECT_NE(value("max_locks"), 12);
  stop(mount());
}

TEST_F(Remount, ReadOnlyWaitsForNobody) {
  start({source(), mount()}, mount());
  const UniqueFd writer(open((mount() + "/file").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  expect_failure(remount("ro,max_locks=12"), kFailed, {"open for writing"});
  EXPECT_NE(value("max_locks"), 12);
}

TEST_F(Remount, CheckOnly) {
  start({source(), mount()}, mount());
  EXPECT_EQ(lockfs({"--check", "-o", "remount,ro,max_locks=12", source(), mount()}).status, 0);
  expect_failure(lockfs({"--check", "-o", "remount,workers=3", source(), mount()}), kFailed,
                 {"'workers' cannot change"});
  EXPECT_TRUE(has_option(flags(), "rw")) << flags();
  EXPECT_NE(value("max_locks"), 12);
  stop(mount());
}

TEST_F(Remount, NothingThere) {
  expect_failure(remount("ro"), kFailed, {"no lockfs is mounted there"});
  expect_failure(lockfs({"-o", "remount", source(), in_base("none")}), kFailed, {"cannot remount"});
}

TEST_F(Remount, WithoutControlSocketOnlyFlags) {
  start({"-o", "control=off", source(), mount()}, mount());
  accepted("ro,defaults");
  EXPECT_TRUE(has_option(flags(), "ro"));
  expect_failure(remount("max_locks=12"), kFailed, {"no control socket"});
  stop(mount());
}

TEST_F(Remount, FindsTheDaemonOfThisMount) {
  // A daemon whose mount was detached lives on with its last file and keeps the socket's name.
  start({source(), mount()}, mount());
  const UniqueFd file(open((mount() + "/file").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  ASSERT_EQ(run_command({"umount", "-l", mount()}).status, 0);
  ASSERT_EQ(lockfs({source(), mount()}).status, 0);
  const auto before = value("max_locks");
  accepted("max_locks=12");
  EXPECT_EQ(value("max_locks"), before) << "the daemon of the detached mount was changed";
}

TEST_F(Remount, OnlyByRoot) {
  start({source(), mount()}, mount());
  for (const std::string option : {"ro", "max_locks=12"}) {
    const Outcome outcome =
        run_command(as_nobody(lockfs_command({"-o", "remount," + option, source(), mount()})));
    expect_failure(outcome, kFailed, {"cannot remount"});
  }
  EXPECT_TRUE(has_option(flags(), "rw"));
  EXPECT_NE(value("max_locks"), 12);
  stop(mount());
}

}  // namespace
}  // namespace lockfs::test
