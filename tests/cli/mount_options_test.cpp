/// Mount options act as on any other filesystem.

#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
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

class MountOptions : public CommandTest {
 protected:
  /// Mounts with `-o options`; empty: without -o.
  void mount_with(const std::string& options) {
    std::vector<std::string> arguments;
    if (!options.empty()) arguments = {"-o", options};
    arguments.insert(arguments.end(), {source(), mount()});
    start(arguments, mount());
  }

  std::string mount_flags() {
    const auto mounts = mounts_on(mount());
    return mounts.empty() ? "" : mounts.back().options;
  }

  std::string super_options() {
    const auto mounts = mounts_on(mount());
    return mounts.empty() ? "" : mounts.back().super_options;
  }

  /// Puts a copy of a program into the source.
  void copy_program(const std::string& program, const std::string& name, mode_t mode) {
    const auto copy = source() + "/" + name;
    std::filesystem::copy_file(std::filesystem::canonical(program), copy);
    ASSERT_EQ(chmod(copy.c_str(), mode), 0);
  }
};

TEST_F(MountOptions, ReadOnly) {
  ASSERT_TRUE(write_file(source() + "/file", "x"));
  mount_with("ro");
  EXPECT_TRUE(has_option(mount_flags(), "ro"));
  EXPECT_EQ(read_file(mount() + "/file"), "x");
  EXPECT_EQ(open_error(mount() + "/file", O_RDWR), EROFS);
  EXPECT_EQ(open_error(mount() + "/new", O_WRONLY | O_CREAT), EROFS);
  EXPECT_EQ(mkdir((mount() + "/folder").c_str(), 0700), -1);
  EXPECT_EQ(errno, EROFS);
  EXPECT_EQ(unlink((mount() + "/file").c_str()), -1);
  EXPECT_EQ(errno, EROFS);
  stop(mount());
}

TEST_F(MountOptions, ReadWrite) {
  mount_with("ro,rw");
  EXPECT_TRUE(has_option(mount_flags(), "rw"));
  EXPECT_EQ(open_error(mount() + "/new", O_WRONLY | O_CREAT), 0);
  stop(mount());
}

TEST_F(MountOptions, NoExec) {
  copy_program("/bin/true", "program", 0755);
  mount_with("noexec");
  EXPECT_TRUE(has_option(mount_flags(), "noexec"));
  EXPECT_EQ(run_command({"sh", "-c", "exec \"$0\"", mount() + "/program"}).status, 126);
  EXPECT_EQ(access((mount() + "/program").c_str(), X_OK), -1);
  stop(mount());
}

TEST_F(MountOptions, Exec) {
  copy_program("/bin/true", "program", 0755);
  mount_with("");
  EXPECT_FALSE(has_option(mount_flags(), "noexec"));
  EXPECT_EQ(run_command({mount() + "/program"}).status, 0);
  stop(mount());
}

TEST_F(MountOptions, NoSuid) {
  copy_program("/usr/bin/id", "id", 04755);
  mount_with("nosuid");
  EXPECT_TRUE(has_option(mount_flags(), "nosuid"));
  EXPECT_EQ(run_command(as_nobody({mount() + "/id", "-u"})).output, "65534\n");
  stop(mount());
}

TEST_F(MountOptions, Suid) {
  copy_program("/usr/bin/id", "id", 04755);
  for (const char* options : {"", "nosuid,suid"}) {
    mount_with(options);
    EXPECT_FALSE(has_option(mount_flags(), "nosuid"));
    EXPECT_EQ(run_command(as_nobody({mount() + "/id", "-u"})).output, "0\n") << options;
    stop(mount());
  }
}

TEST_F(MountOptions, NoDev) {
  ASSERT_EQ(mknod((source() + "/null").c_str(), S_IFCHR | 0666, makedev(1, 3)), 0);
  mount_with("nodev");
  EXPECT_TRUE(has_option(mount_flags(), "nodev"));
  EXPECT_EQ(open_error(mount() + "/null", O_RDWR), EACCES);
  stop(mount());
}

TEST_F(MountOptions, Dev) {
  ASSERT_EQ(mknod((source() + "/null").c_str(), S_IFCHR | 0666, makedev(1, 3)), 0);
  for (const char* options : {"", "nodev,dev"}) {
    mount_with(options);
    EXPECT_FALSE(has_option(mount_flags(), "nodev"));
    EXPECT_EQ(open_error(mount() + "/null", O_RDWR), 0) << options;
    stop(mount());
  }
}

// As a bind mount does.
TEST_F(MountOptions, FlagsOfTheSourceAreKept) {
  ASSERT_EQ(
      ::mount("tmpfs", source().c_str(), "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=755"), 0);
  copy_program("/usr/bin/id", "id", 04755);
  ASSERT_EQ(mknod((source() + "/null").c_str(), S_IFCHR | 0666, makedev(1, 3)), 0);
  const Outcome outcome = lockfs({source(), mount()});
  EXPECT_EQ(outcome.status, 0);
  for (const std::string& part : std::vector<std::string>{
           "note: '" + source() + "'", "nosuid,nodev,noexec", "-o suid,dev,exec"}) {
    EXPECT_NE(outcome.errors.find(part), std::string::npos) << outcome.errors;
  }
  EXPECT_EQ(access((mount() + "/id").c_str(), X_OK), -1);
  EXPECT_EQ(open_error(mount() + "/null", O_RDWR), EACCES);
  for (const char* flag : {"nosuid", "nodev", "noexec"}) {
    EXPECT_TRUE(has_option(mount_flags(), flag)) << flag;
  }
  stop(mount());
  mount_with("suid,dev,exec");
  EXPECT_EQ(run_command(as_nobody({mount() + "/id", "-u"})).output, "0\n");
  EXPECT_EQ(open_error(mount() + "/null", O_RDWR), 0);
  stop(mount());
  EXPECT_EQ(umount2(source().c_str(), MNT_DETACH), 0);
}

TEST_F(MountOptions, FlagsOfWhatIsMountedInTheSource) {
  const std::string folder = source() + "/folder";
  ASSERT_EQ(mkdir(folder.c_str(), 0755), 0);
  mount_with("dev");
  EXPECT_FALSE(has_option(mount_flags(), "nosuid"));
  ASSERT_EQ(::mount("tmpfs", folder.c_str(), "tmpfs", MS_NOSUID | MS_NODEV, "mode=755"), 0);
  EXPECT_TRUE(eventually([&] { return has_option(mount_flags(), "nosuid"); })) << mount_flags();
  EXPECT_FALSE(has_option(mount_flags(), "nodev")) << "dev was asked for";
  stop(mount());
  const Outcome outcome = lockfs({"-o", "dev", source(), mount()});
  EXPECT_NE(outcome.errors.find("note: '" + folder + "'"), std::string::npos) << outcome.errors;
  EXPECT_TRUE(has_option(mount_flags(), "nosuid"));
  // What an administrator takes away stays away until something else is mounted.
  EXPECT_EQ(lockfs({"-o", "remount,suid", source(), mount()}).status, 0);
  ASSERT_EQ(mkdir((source() + "/other").c_str(), 0755), 0);
  ASSERT_EQ(::mount("tmpfs", (source() + "/other").c_str(), "tmpfs", MS_NOEXEC, ""), 0);
  EXPECT_TRUE(eventually([&] { return has_option(mount_flags(), "noexec"); })) << mount_flags();
  EXPECT_FALSE(has_option(mount_flags(), "nosuid")) << mount_flags();
  stop(mount());
}

TEST_F(MountOptions, NoSymlinkFollowing) {
  ASSERT_TRUE(write_file(source() + "/file", "x"));
  ASSERT_EQ(symlink("file", (source() + "/link").c_str()), 0);
  mount_with("nosymfollow");
  EXPECT_TRUE(has_option(mount_flags(), "nosymfollow")) << mount_flags();
  EXPECT_EQ(open_error(mount() + "/link", O_RDONLY), ELOOP);
  EXPECT_EQ(open_error(mount() + "/file", O_RDONLY), 0);
  stop(mount());
}

TEST_F(MountOptions, NoAtimeAndSync) {
  mount_with("noatime,sync,dirsync");
  EXPECT_TRUE(has_option(mount_flags(), "noatime")) << mount_flags();
  EXPECT_TRUE(has_option(super_options(), "sync") || has_option(mount_flags(), "sync"))
      << mount_flags() << " " << super_options();
  EXPECT_TRUE(has_option(super_options(), "dirsync") || has_option(mount_flags(), "dirsync"));
  stop(mount());
}

TEST_F(MountOptions, RootMountsForEverybody) {
  ASSERT_TRUE(write_file(source() + "/public", "p"));
  ASSERT_EQ(chmod((source() + "/public").c_str(), 0644), 0);
  ASSERT_TRUE(write_file(source() + "/private", "p"));
  ASSERT_EQ(chmod((source() + "/private").c_str(), 0600), 0);
  mount_with("");
  EXPECT_TRUE(has_option(super_options(), "allow_other"));
  EXPECT_TRUE(has_option(super_options(), "default_permissions"));
  EXPECT_EQ(run_command(as_nobody({"cat", mount() + "/public"})).output, "p");
  EXPECT_NE(run_command(as_nobody({"cat", mount() + "/private"})).status, 0);
  EXPECT_NE(run_command(as_nobody({"touch", mount() + "/new"})).status, 0);
  EXPECT_FALSE(std::filesystem::exists(source() + "/new"));
  stop(mount());
}

TEST_F(MountOptions, NoAllowOther) {
  ASSERT_TRUE(write_file(source() + "/public", "p"));
  ASSERT_EQ(chmod((source() + "/public").c_str(), 0644), 0);
  mount_with("no_allow_other");
  EXPECT_FALSE(has_option(super_options(), "allow_other"));
  EXPECT_EQ(read_file(mount() + "/public"), "p");
  EXPECT_NE(run_command(as_nobody({"cat", mount() + "/public"})).status, 0);
  stop(mount());
}

TEST_F(MountOptions, Fsname) {
  mount_with("");
  EXPECT_EQ(mounts_on(mount()).at(0).source, source());
  stop(mount());
  mount_with(R"(fsname=server:/a b\,c)");
  EXPECT_EQ(mounts_on(mount()).at(0).source, "server:/a b,c");
  stop(mount());
}

TEST_F(MountOptions, SourceWhoseNameNeedsEscapes) {
  const auto odd = in_base(R"(a,b c\d "e")");
  ASSERT_EQ(mkdir(odd.c_str(), 0755), 0);
  ASSERT_TRUE(write_file(odd + "/file", "x"));
  start({odd, mount()}, mount());
  EXPECT_EQ(mounts_on(mount()).at(0).source, odd);
  EXPECT_EQ(read_file(mount() + "/file"), "x");
  stop(mount());
}

}  // namespace
}  // namespace lockfs::test
