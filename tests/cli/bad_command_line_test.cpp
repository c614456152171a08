/// Bad input on the command line: one clear line, the right exit status, and nothing is mounted.

#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "tests/cli/command.h"
#include "tests/mounted/support/mounted.h"

namespace lockfs::test {
namespace {

constexpr int kFailed = 1;
constexpr int kUsage = 2;

using Strings = std::vector<std::string>;

class BadCommandLine : public CommandTest {
 protected:
  /// Runs lockfs with these arguments and checks that it refuses and leaves no trace.
  void refused(const Strings& arguments, int status, const Strings& parts,
               const CommandOptions& options = {}) {
    refused_command(lockfs_command(arguments), status, parts, options);
  }

  void refused_command(const Strings& command, int status, const Strings& parts,
                       const CommandOptions& options = {}) {
    std::string trace;
    for (const auto& word : command) trace += word.substr(0, 200) + " ";
    SCOPED_TRACE(trace);
    const auto before = all_mounts();
    expect_failure(run_command(command, options), status, parts);
    EXPECT_EQ(all_mounts(), before);
  }

  static std::string all_mounts() { return read_file("/proc/self/mountinfo"); }
};

TEST_F(BadCommandLine, MissingAndSuperfluousPaths) {
  refused({}, kUsage, {"SOURCE and MOUNTPOINT are missing", "usage: lockfs [options]"});
  refused({"-f"}, kUsage, {"SOURCE and MOUNTPOINT are missing"});
  refused({source()}, kUsage, {"MOUNTPOINT is missing"});
  refused({"", mount()}, kUsage, {"SOURCE is empty"});
  refused({source(), ""}, kUsage, {"MOUNTPOINT is empty"});
  refused({source(), mount(), "third"}, kUsage, {"unexpected argument 'third'"});
}

TEST_F(BadCommandLine, UnknownOption) {
  refused({"-o", "nosuch", source(), mount()}, kUsage,
          {"unknown option 'nosuch'", "lockfs --help"});
  refused({"-o", "ro,atr_timeout=1", source(), mount()}, kUsage,
          {"unknown option 'atr_timeout'", "did you mean 'attr_timeout'?"});
  refused({"--forground", source(), mount()}, kUsage,
          {"unknown option '--forground'", "did you mean '--foreground'?"});
  refused({"-z", source(), mount()}, kUsage, {"unknown option '-z'"});
  refused({source(), mount(), "-o"}, kUsage, {"'-o'", "needs mount options"});
}

TEST_F(BadCommandLine, UnknownValue) {
  refused({"-o", "policy=afs", source(), mount()}, kUsage, {"unknown policy 'afs'", "known: nfs"});
  refused({"-o", "passthrough=maybe", source(), mount()}, kUsage,
          {"'passthrough'", "'maybe'", "auto, on, off"});
  refused({"-o", "log_level=loud", source(), mount()}, kUsage, {"'log_level'", "'loud'"});
  refused({"-o", "log_target=paper", source(), mount()}, kUsage, {"'log_target'", "'paper'"});
  refused({"-o", "attr_timeout=-1", source(), mount()}, kUsage,
          {"'attr_timeout'", "'-1'", "from 0 to 31536000"});
  refused({"-o", "workers=0", source(), mount()}, kUsage, {"'workers'", "'0'", "from 1 to 1024"});
  refused({"-o", "max_locks=99999999999999999999", source(), mount()}, kUsage,
          {"'max_locks'", "'99999999999999999999'", "from 1 to 1000000000"});
  refused({"-o", "ro=yes", source(), mount()}, kUsage, {"'ro'", "takes no value"});
  refused({"-o", "entry_timeout", source(), mount()}, kUsage, {"'entry_timeout'", "needs a value"});
}

TEST_F(BadCommandLine, UsageCountsBeforeTheMachine) {
  refused({"-o", "nosuch", in_base("gone"), in_base("away")}, kUsage, {"'nosuch'"});
}

TEST_F(BadCommandLine, NewlinesInArgumentsStayOnOneLine) {
  refused({"-o", "a\nb", source(), mount()}, kUsage, {"a\\012b"});
  refused({in_base("a\nlockfs: b\t\033"), mount()}, kFailed, {"a\\012lockfs: b\\011\\033"});
}

TEST_F(BadCommandLine, SourceMissing) {
  refused({in_base("gone"), mount()}, kFailed, {"source '" + in_base("gone") + "' does not exist"});
  ASSERT_EQ(symlink("nowhere", in_base("dangling").c_str()), 0);
  refused({in_base("dangling"), mount()}, kFailed, {"source", "does not exist"});
}

TEST_F(BadCommandLine, SourceNotADirectory) {
  ASSERT_TRUE(write_file(in_base("file"), "x"));
  refused({in_base("file"), mount()}, kFailed,
          {"source '" + in_base("file") + "' is not a directory"});
  refused({in_base("file/below"), mount()}, kFailed, {"source", "name a directory"});
  refused({"/dev/null", mount()}, kFailed, {"source '/dev/null' is not a directory"});
}

TEST_F(BadCommandLine, MountPointMissing) {
  refused({source(), in_base("gone")}, kFailed,
          {"mount point '" + in_base("gone") + "' does not exist", "mkdir -p " + in_base("gone")});
  refused({source(), in_base("it's gone")}, kFailed,
          {"mkdir -p '" + in_base("it'\\''s gone") + "'"});
}

TEST_F(BadCommandLine, MountPointNotADirectory) {
  ASSERT_TRUE(write_file(in_base("file"), "x"));
  refused({source(), in_base("file")}, kFailed,
          {"mount point '" + in_base("file") + "' is not a directory"});
}

TEST_F(BadCommandLine, SymbolicLinkLoop) {
  ASSERT_EQ(symlink("loop", in_base("loop").c_str()), 0);
  refused({in_base("loop"), mount()}, kFailed, {"source", std::strerror(ELOOP)});
  refused({source(), in_base("loop")}, kFailed, {"mount point", std::strerror(ELOOP)});
}

TEST_F(BadCommandLine, NamesThatAreTooLong) {
  refused({in_base(std::string(300, 'n')), mount()}, kFailed, {std::strerror(ENAMETOOLONG)});
  refused({source(), in_base(std::string(5'000, 'n'))}, kFailed, {std::strerror(ENAMETOOLONG)});
}

TEST_F(BadCommandLine, MountPointInsideSource) {
  const auto inside = source() + "/a/b";
  ASSERT_TRUE(std::filesystem::create_directories(inside));
  const Strings parts = {"mount point", "lies inside the source"};
  refused({source(), inside}, kFailed, parts);
  refused({"/", mount()}, kFailed, parts);
  // Neither detours nor links hide it.
  refused({source() + "/../source/.", source() + "/a/../a//b/"}, kFailed, parts);
  ASSERT_EQ(symlink(inside.c_str(), in_base("link").c_str()), 0);
  refused({source(), in_base("link")}, kFailed, parts);
  CommandOptions below;
  below.directory = source();
  refused({".", "a"}, kFailed, parts, below);
}

TEST_F(BadCommandLine, MountPointInsideSourceThroughBindMount) {
  ASSERT_TRUE(std::filesystem::create_directories(source() + "/a/b"));
  const auto other = in_base("other");
  ASSERT_EQ(mkdir(other.c_str(), 0755), 0);
  ASSERT_EQ(::mount(source().c_str(), other.c_str(), nullptr, MS_BIND, nullptr), 0);
  refused({source(), other + "/a/b"}, kFailed, {"mount point", "lies inside the source"});
  refused({other + "/a/b", source()}, kFailed, {"source", "lies inside the mount point"});
}

TEST_F(BadCommandLine, SourceInsideMountPoint) {
  ASSERT_EQ(mkdir((mount() + "/in").c_str(), 0755), 0);
  refused({mount() + "/in", mount()}, kFailed, {"source", "lies inside the mount point"});
  refused({source(), "/"}, kFailed, {"mount point '/' is the root directory"});
}

TEST_F(BadCommandLine, MountPointThatTheSystemNeeds) {
  for (const char* vital : {"/proc", "/sys", "/dev", "/usr", "/etc", "/proc/sys", "/dev/shm"}) {
    SCOPED_TRACE(vital);
    // In a namespace of its own, in case it is not refused.
    Strings command = {"unshare", "--mount", "--propagation", "private"};
    for (const std::string& word : lockfs_command({source(), vital})) command.push_back(word);
    refused_command(command, kFailed, {"mount point", vital, "cannot do without"});
  }
}

TEST_F(BadCommandLine, NamesWithACommonBeginningAreNotInside) {
  const auto longer = source() + "-longer";
  ASSERT_EQ(mkdir(longer.c_str(), 0755), 0);
  start({source(), longer}, longer);
  stop(longer);
}

TEST_F(BadCommandLine, AlreadyMounted) {
  const Strings parts = {"is already mounted by lockfs", "umount " + mount()};
  start({source(), mount()}, mount());
  refused({source(), mount()}, kFailed, parts);
  refused({"-f", source(), mount() + "/."}, kFailed, parts);
  ASSERT_EQ(mkdir(in_base("third").c_str(), 0755), 0);
  refused({in_base("third"), mount()}, kFailed, parts);
  stop(mount());
}

TEST_F(BadCommandLine, AlreadyMountedWhereTheNameNeedsEscapes) {
  const auto odd = in_base("a b\tc\\d'e");
  ASSERT_EQ(mkdir(odd.c_str(), 0755), 0);
  start({source(), odd}, odd);
  refused({source(), odd}, kFailed, {"is already mounted by lockfs"});
  stop(odd);
}

TEST_F(BadCommandLine, AlreadyMountedOverItself) {
  start({source(), source()}, source());
  refused({source(), source()}, kFailed, {"is already mounted by lockfs"});
  stop(source());
}

/// A mount whose daemon was killed.
class DeadMount : public BadCommandLine {
 protected:
  void make_dead_mount(const Strings& options = {}) {
    Strings arguments = options;
    arguments.insert(arguments.end(), {source(), mount()});
    const pid_t daemon = start(arguments, mount());
    ASSERT_GT(daemon, 0);
    struct stat status {};
    ASSERT_EQ(stat(mount().c_str(), &status), 0);  // fills the kernel's attribute cache
    ASSERT_TRUE(kill_mount(mount()));
  }

  /// Runs what the message says and expects that it cures.
  static void cure(const std::string& command) {
    const Outcome outcome = run_command({"sh", "-c", command});
    EXPECT_EQ(outcome.status, 0) << outcome.errors;
  }
};

TEST_F(DeadMount, OnTheMountPoint) {
  make_dead_mount();
  refused({source(), mount()}, kFailed, {"mount point", "dead mount", "umount " + mount() + "\n"});
  refused({source(), mount() + "/sub/dir"}, kFailed, {"dead mount", "umount " + mount() + "\n"});
  cure("umount " + mount());
  start({source(), mount()}, mount());
  stop(mount());
}

TEST_F(DeadMount, EvenWhileTheKernelStillBelievesTheAttributes) {
  make_dead_mount({"-o", "cache=3600"});
  struct stat status {};
  ASSERT_EQ(stat(mount().c_str(), &status), 0) << "answered without the daemon";
  refused({source(), mount()}, kFailed, {"dead mount", "umount " + mount() + "\n"});
}

TEST_F(DeadMount, OnTheSource) {
  ASSERT_EQ(mkdir(in_base("other").c_str(), 0755), 0);
  make_dead_mount();
  refused({mount(), in_base("other")}, kFailed,
          {"source", "dead mount", "umount " + mount() + "\n"});
  refused({mount() + "/sub", in_base("other")}, kFailed, {"source", "umount " + mount() + "\n"});
}

TEST_F(DeadMount, BehindSymbolicLinksAndDetours) {
  ASSERT_EQ(symlink("mount", in_base("link").c_str()), 0);
  ASSERT_EQ(symlink((in_base("link") + "/sub").c_str(), in_base("second").c_str()), 0);
  make_dead_mount();
  refused({source(), in_base("link")}, kFailed, {"umount " + mount() + "\n"});
  refused({source(), in_base("second")}, kFailed, {"umount " + mount() + "\n"});
  refused({source(), source() + "/../mount/."}, kFailed, {"umount " + mount() + "\n"});
  CommandOptions here;
  here.directory = base();
  refused({"source", "mount"}, kFailed, {"umount " + mount() + "\n"}, here);
}

TEST_F(DeadMount, OverItself) {
  const pid_t daemon = start({source(), source()}, source());
  ASSERT_GT(daemon, 0);
  ASSERT_TRUE(kill_mount(source()));
  refused({source(), source()}, kFailed, {"dead mount", "umount " + source() + "\n"});
  cure("umount " + source());
  start({source(), source()}, source());
  stop(source());
}

// -- the machine ---------------------------------------------------------------------------------

TEST_F(BadCommandLine, NoFuseDevice) {
  replace_devices({kNull});
  refused({source(), mount()}, kFailed, {"/dev/fuse is missing", "modprobe fuse"});
  refused({"-f", source(), mount()}, kFailed, {"/dev/fuse is missing", "modprobe fuse"});
}

TEST_F(BadCommandLine, FuseDeviceWithoutDriver) {
  replace_devices({kNull, {"fuse", 10, 254}});
  refused({source(), mount()}, kFailed, {"/dev/fuse is missing", "modprobe fuse"});
}

TEST_F(BadCommandLine, FuseDeviceNotAllowed) {
  const auto node = in_base("closed");
  ASSERT_TRUE(write_file(node, ""));
  ASSERT_EQ(chmod(node.c_str(), 0600), 0);
  cover("/dev/fuse", node);
  ASSERT_EQ(chown(mount().c_str(), 65534, 65534), 0);
  refused_command(as_nobody(lockfs_command({source(), mount()})), kFailed,
                  {"no permission to open /dev/fuse", "run as root"});
}

TEST_F(BadCommandLine, RootWithoutThePowerToMount) {
  auto command = lockfs_command({source(), mount()});
  command.insert(command.begin(),
                 {"setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin"});
  refused_command(command, kFailed, {"no permission to mount", "CAP_SYS_ADMIN"});
}

/// What happens to users other than root. The scratch mount point belongs to nobody.
class PlainUser : public BadCommandLine {
 protected:
  void SetUp() override {
    BadCommandLine::SetUp();
    replace_devices({kNull, kFuse});
    ASSERT_EQ(chown(mount().c_str(), 65534, 65534), 0);
  }

  Strings as_user(const Strings& arguments) { return as_nobody(lockfs_command(arguments)); }

  /// Puts a file with this content in place of /etc/fuse.conf.
  void set_fuse_conf(const std::string& text) {
    ASSERT_TRUE(std::filesystem::exists("/etc/fuse.conf")) << "the package fuse3 is missing";
    ASSERT_TRUE(write_file(in_base("fuse.conf"), text));
    ASSERT_EQ(chmod(in_base("fuse.conf").c_str(), 0644), 0);
    cover("/etc/fuse.conf", in_base("fuse.conf"));
  }

  static std::string fusermount() {
    return std::filesystem::canonical("/usr/bin/fusermount3").string();
  }
};

TEST_F(PlainUser, MountsOnOwnDirectory) {
  const Outcome outcome = run_command(as_user({source(), mount()}));
  EXPECT_EQ(outcome.status, 0) << outcome.errors;
  EXPECT_TRUE(outcome.eof);
  EXPECT_EQ(outcome.errors, "");
  const auto mounts = mounts_on(mount());
  ASSERT_EQ(mounts.size(), 1U);
  EXPECT_EQ(mounts[0].type, "fuse.lockfs");
  EXPECT_TRUE(has_option(mounts[0].options, "nosuid"));
  EXPECT_TRUE(has_option(mounts[0].options, "nodev"));
  EXPECT_FALSE(has_option(mounts[0].super_options, "allow_other"));
  const auto daemons = find_daemons(mount());
  const Outcome umount = run_command(as_nobody({"fusermount3", "-u", mount()}));
  EXPECT_EQ(umount.status, 0) << umount.errors;
  EXPECT_TRUE(wait_gone(daemons));
}

TEST_F(PlainUser, MountPointOfSomebodyElse) {
  ASSERT_EQ(chown(mount().c_str(), 0, 0), 0);
  refused_command(as_user({source(), mount()}), kFailed,
                  {"no permission to mount on '" + mount() + "'", "run as root"});
  ASSERT_EQ(chmod(mount().c_str(), 01777), 0);
  refused_command(as_user({source(), mount()}), kFailed,
                  {"no permission to mount on '" + mount() + "'", "sticky"});
}

TEST_F(PlainUser, PathsThatAreClosed) {
  const auto closed = in_base("closed");
  ASSERT_TRUE(std::filesystem::create_directories(closed + "/in"));
  ASSERT_EQ(chmod(closed.c_str(), 0700), 0);
  refused_command(as_user({closed + "/in", mount()}), kFailed,
                  {"source '" + closed + "/in' is not accessible"});
  refused_command(as_user({source(), closed + "/in"}), kFailed,
                  {"mount point '" + closed + "/in' is not accessible"});
  refused_command(as_user({closed, mount()}), kFailed,
                  {"source '" + closed + "' is not accessible"});
}

TEST_F(PlainUser, AllowOtherNeedsTheAdministrator) {
  set_fuse_conf("# user_allow_other\nmount_max = 10\n");
  refused_command(as_user({"-o", "allow_other", source(), mount()}), kFailed,
                  {"'allow_other'", "/etc/fuse.conf", "user_allow_other"});
}

TEST_F(PlainUser, AllowOtherWithTheAdministrator) {
  set_fuse_conf("user_allow_other\n");
  const Outcome outcome = run_command(as_user({"-o", "allow_other", source(), mount()}));
  EXPECT_EQ(outcome.status, 0) << outcome.errors;
  const auto mounts = mounts_on(mount());
  ASSERT_EQ(mounts.size(), 1U);
  EXPECT_TRUE(has_option(mounts[0].super_options, "allow_other"));
  EXPECT_TRUE(has_option(mounts[0].super_options, "default_permissions"));
  stop(mount());
}

TEST_F(PlainUser, SuidAndDevAreForRoot) {
  refused_command(as_user({"-o", "suid", source(), mount()}), kUsage, {"'suid'", "only root"});
  refused_command(as_user({"-o", "dev", source(), mount()}), kUsage, {"'dev'", "only root"});
}

TEST_F(PlainUser, NoFusermount) {
  ASSERT_TRUE(write_file(in_base("empty"), ""));
  cover(fusermount(), in_base("empty"));
  refused_command(as_user({source(), mount()}), kFailed,
                  {"no permission to mount", "no fusermount3", "fuse3"});
}

TEST_F(PlainUser, FusermountWithoutPrivilege) {
  std::filesystem::copy_file(fusermount(), in_base("fusermount3"));
  ASSERT_EQ(chmod(in_base("fusermount3").c_str(), 0755), 0);
  cover(fusermount(), in_base("fusermount3"));
  refused_command(as_user({source(), mount()}), kFailed,
                  {"no permission to mount", "not set-user-id root", "chmod u+s"});
}

TEST_F(PlainUser, DeadMountInTheWay) {
  ASSERT_EQ(run_command(as_user({source(), mount()})).status, 0);
  ASSERT_TRUE(kill_mount(mount()));
  refused_command(as_user({source(), mount()}), kFailed,
                  {"dead mount", "umount " + mount() + "\n"});
}

/// Whatever fusermount3 still refuses becomes part of the one line.
TEST_F(PlainUser, FusermountSaysNo) {
  set_fuse_conf("mount_max = 0\n");
  refused_command(as_user({source(), mount()}), kFailed, {"fusermount3", "too many FUSE"});
}

}  // namespace
}  // namespace lockfs::test
