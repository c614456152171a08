// What the mount's options and the mount table decide: ro, nosuid, nodev, noexec, programs run from
// the mount, other filesystems mounted below the source.
#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <fstream>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "tests/mounted/fs/fs_support.h"

namespace lockfs::fstest {
namespace {

constexpr uid_t kUser = 54321;

/// Copies a program; the mode is the copy's.
void copy_program(const std::string& from, const std::string& to, mode_t mode) {
  write_file(to, read_file(from), 0755);
  ASSERT_EQ(::chmod(to.c_str(), mode), 0);
}

/// Runs a program as an ordinary user without leaving this process's scratch rights behind.
ProgramResult run_as_user(const std::vector<std::string>& command) {
  test::ProgramOptions options;
  options.uid = kUser;
  options.gid = kUser;
  return test::run_program(command, options);
}

class ReadOnlyTest : public FsTest {
 protected:
  std::vector<std::string> options() const override { return {"ro"}; }
};

TEST_F(ReadOnlyTest, NothingCanBeChanged) {
  LOCKFS_NOT_PLAIN();
  write_file(behind_ / "file", "contents");
  ASSERT_EQ(::setxattr((behind_ / "file").c_str(), "user.a", "1", 1, 0), 0);
  ASSERT_EQ(::mkdirat(behind_.fd, "dir", 0755), 0);
  ASSERT_EQ(::symlinkat("file", behind_.fd, "link"), 0);
  const std::string before = portrait(behind_.path, Detail::kExact);

  const int at = mounted_.fd;
  const std::string file = mounted_ / "file";
  const std::vector<std::pair<const char*, Outcome>> attempts{
      {"open for writing", call_fd(::openat(at, "file", O_WRONLY | O_CLOEXEC))},
      {"open for both", call_fd(::openat(at, "file", O_RDWR | O_CLOEXEC))},
      {"open with O_TRUNC", call_fd(::openat(at, "file", O_RDONLY | O_TRUNC | O_CLOEXEC))},
      {"create", call_fd(::openat(at, "new", O_WRONLY | O_CREAT | O_CLOEXEC, 0644))},
      {"mkdir", call(::mkdirat(at, "new", 0755))},
      {"rmdir", call(::unlinkat(at, "dir", AT_REMOVEDIR))},
      {"unlink", call(::unlinkat(at, "file", 0))},
      {"rename", call(::renameat(at, "file", at, "new"))},
      {"link", call(::linkat(at, "file", at, "new", 0))},
      {"symlink", call(::symlinkat("x", at, "new"))},
      {"mknod", call(::mknodat(at, "new", S_IFIFO | 0644, 0))},
      {"chmod", call(::fchmodat(at, "file", 0600, 0))},
      {"chown", call(::fchownat(at, "file", 1, 1, 0))},
      {"truncate", call(::truncate(file.c_str(), 0))},
      {"utimes", call(::utimensat(at, "file", nullptr, 0))},
      {"setxattr", call(::setxattr(file.c_str(), "user.b", "1", 1, 0))},
      {"removexattr", call(::removexattr(file.c_str(), "user.a"))},
      {"access", call(::faccessat(at, "file", W_OK, 0))},
  };
  for (const auto& [what, outcome] : attempts) EXPECT_EQ(outcome.error, EROFS) << what;
  const Fd fd(::openat(at, "file", O_RDONLY | O_CLOEXEC));
  EXPECT_EQ(call(::fchmod(fd, 0600)).error, EROFS);
  EXPECT_EQ(call(::fsetxattr(fd, "user.b", "1", 1, 0)).error, EROFS);

  EXPECT_EQ(read_file(file), "contents");
  EXPECT_EQ(call_fd(::openat(at, "file", O_RDONLY | O_CREAT | O_CLOEXEC, 0644)).error, 0);
  EXPECT_EQ(portrait(behind_.path, Detail::kExact), before);
  // Changes on the source still come through.
  write_file(behind_ / "later", "later");
  EXPECT_EQ(read_file(mounted_ / "later"), "later");
}

class ExecTest : public FsTest {};

TEST_F(ExecTest, ProgramsAndScriptsRunFromTheMount) {
  copy_program("/bin/echo", mounted_ / "program", 0755);
  write_file(mounted_ / "script", "#!/bin/sh\necho \"script $1 in $(pwd)\"\n", 0755);
  write_file(mounted_ / "by-mount", "#!" + (mounted_ / "program") + " through\n", 0755);
  EXPECT_EQ(must_run(mounted_.path, {"./program", "hello"}), "hello\n");
  EXPECT_EQ(must_run(mounted_.path, {"./script", "x"}), "script x in " + mounted_.path + "\n");
  EXPECT_EQ(must_run(mounted_.path, {"./by-mount", "y"}), "through ./by-mount y\n");
  // The interpreter opens a script by its name again, and #! of a directory or text is refused.
  write_file(mounted_ / "text", "no program", 0755);
  for (const char* name : {"text", "program", "script"}) {
    same(std::string("execute ") + name, [&](const Dir& dir) {
      if (::faccessat(dir.fd, name, F_OK, 0) != 0) {
        copy_program(behind_ / name, dir / name, 0755);
      }
      EXPECT_EQ(::fchmodat(dir.fd, name, 0644, 0), 0);
      return in_child([&] {
        ::execl((dir / name).c_str(), name, nullptr);
        return call(-1);
      });
    });
  }
  same("execute only", [&](const Dir& dir) {
    copy_program("/bin/true", dir / "secret", 0711);
    const ScopedUser user(kUser, kUser);
    Outcome outcome = call_fd(::openat(dir.fd, "secret", O_RDONLY | O_CLOEXEC));
    outcome.data = std::to_string(run_in("/", {dir / "secret"}).status);
    return outcome;
  });
}

TEST_F(ExecTest, ARunningProgramCannotBeWritten) {
  same("ETXTBSY", [](const Dir& dir) {
    copy_program("/bin/sleep", dir / "sleep", 0755);
    const pid_t child = ::fork();
    if (child == 0) {
      ::execl((dir / "sleep").c_str(), "sleep", "600", nullptr);
      ::_exit(127);
    }
    // Running once the kernel says so: until then the child is this very program.
    const std::string link = "/proc/" + std::to_string(child) + "/exe";
    std::string target;
    while (target.find("/sleep") == std::string::npos) {
      target.assign(4096, '\0');
      const ssize_t length = ::readlink(link.c_str(), target.data(), target.size());
      if (length < 0) break;
      target.resize(static_cast<std::size_t>(length));
      ::sched_yield();
    }
    Outcome outcome = call_fd(::openat(dir.fd, "sleep", O_WRONLY | O_CLOEXEC));
    outcome.data = std::to_string(call(::truncate((dir / "sleep").c_str(), 0)).error);
    ::kill(child, SIGKILL);
    int status = 0;
    ::waitpid(child, &status, 0);
    outcome.data += WIFSIGNALED(status) ? " killed" : " not killed";
    outcome.data += std::to_string(call_fd(::openat(dir.fd, "sleep", O_WRONLY | O_CLOEXEC)).error);
    return outcome;
  });
  // And one that is open for writing cannot be run.
  same("ETXTBSY the other way", [](const Dir& dir) {
    const Fd fd(::openat(dir.fd, "sleep", O_WRONLY | O_CLOEXEC));
    return in_child([&] {
      ::execl((dir / "sleep").c_str(), "sleep", "0", nullptr);
      return call(-1);
    });
  });
}

TEST_F(ExecTest, SetuidProgramsGetTheirOwner) {
  copy_program("/usr/bin/id", mounted_ / "id", 04755);
  EXPECT_EQ(run_as_user({mounted_ / "id", "-u"}).output, "0\n");
  ASSERT_EQ(::fchownat(mounted_.fd, "id", 0, kUser + 7, 0), 0);
  ASSERT_EQ(::fchmodat(mounted_.fd, "id", 02755, 0), 0);
  EXPECT_EQ(run_as_user({mounted_ / "id", "-g"}).output, std::to_string(kUser + 7) + "\n");
}

TEST_F(ExecTest, DeviceNodesWork) {
  ASSERT_EQ(::mknodat(mounted_.fd, "zero", S_IFCHR | 0666, makedev(1, 5)), 0);
  const Fd fd(::openat(mounted_.fd, "zero", O_RDWR | O_CLOEXEC));
  ASSERT_TRUE(fd.ok());
  std::string text(4, 'x');
  EXPECT_EQ(::read(fd, text.data(), 4), 4);
  EXPECT_EQ(text, std::string(4, '\0'));
}

class RestrictedTest : public FsTest {
 protected:
  std::vector<std::string> options() const override { return {"nosuid", "nodev", "noexec"}; }
};

TEST_F(RestrictedTest, NosuidNodevNoexec) {
  LOCKFS_NOT_PLAIN();
  ASSERT_EQ(::mknodat(behind_.fd, "zero", S_IFCHR | 0666, makedev(1, 5)), 0);
  EXPECT_EQ(call_fd(::openat(mounted_.fd, "zero", O_RDWR | O_CLOEXEC)).error, EACCES);
  copy_program("/bin/true", mounted_ / "true", 0755);
  EXPECT_EQ(in_child([&] {
              ::execl((mounted_ / "true").c_str(), "true", nullptr);
              return call(-1);
            }).error,
            EACCES);
  std::ifstream mounts("/proc/self/mounts");
  std::string line;
  bool found = false;
  while (std::getline(mounts, line)) {
    if (line.find(" " + mount() + " ") == std::string::npos) continue;
    found = true;
    for (const char* option : {"nosuid", "nodev", "noexec"}) {
      EXPECT_NE(line.find(option), std::string::npos) << line;
    }
  }
  EXPECT_TRUE(found);
}

class NosuidTest : public FsTest {
 protected:
  std::vector<std::string> options() const override { return {"nosuid"}; }
};

TEST_F(NosuidTest, SetuidProgramsRunAsTheirCaller) {
  LOCKFS_NOT_PLAIN();
  copy_program("/usr/bin/id", mounted_ / "id", 04755);
  EXPECT_EQ(run_as_user({mounted_ / "id", "-u"}).output, std::to_string(kUser) + "\n");
}

// -- filesystems mounted below the source
// ------------------------------------------------------------

/// A tmpfs that is unmounted when it goes.
class Tmpfs {
 public:
  explicit Tmpfs(std::string path) : path_(std::move(path)) {
    EXPECT_EQ(::mkdir(path_.c_str(), 0755), 0) << path_;
    EXPECT_EQ(::mount("none", path_.c_str(), "tmpfs", 0, "size=16m"), 0) << path_;
  }
  Tmpfs(const Tmpfs&) = delete;
  Tmpfs& operator=(const Tmpfs&) = delete;
  ~Tmpfs() {
    // The daemon may hold files of it; it lets go of them with the kernel's next forgetting.
    EXPECT_EQ(::umount2(path_.c_str(), MNT_DETACH), 0) << path_;
  }

 private:
  std::string path_;
};

class NestedTest : public FsTest {};

TEST_F(NestedTest, FilesOfTwoFilesystemsAreNeverMixedUp) {
  // Fresh tmpfs number their files alike, and low like others: identity must be device and number.
  constexpr int kFilesystems = 4;
  constexpr int kFiles = 50;
  std::vector<std::unique_ptr<Tmpfs>> mounts;
  std::set<std::uint64_t> numbers_behind;
  int repeated_behind = 0;
  const auto dir_of = [](int number) { return "fs" + std::to_string(number); };
  for (int number = 0; number < kFilesystems; ++number) {
    mounts.push_back(std::make_unique<Tmpfs>(behind_ / dir_of(number)));
    for (int file = 0; file < kFiles; ++file) {
      const std::string name = dir_of(number) + "/file" + std::to_string(file);
      write_file(behind_ / name, "contents of " + name);
      repeated_behind += numbers_behind.insert(attributes(behind_ / name).stx_ino).second ? 0 : 1;
    }
  }
  EXPECT_GT(repeated_behind, 0) << "the test needs numbers that repeat";
  std::set<std::pair<std::uint64_t, std::uint64_t>> seen;
  for (int file = 0; file < kFiles; ++file) {
    for (int number = 0; number < kFilesystems; ++number) {
      const std::string name = dir_of(number) + "/file" + std::to_string(file);
      EXPECT_EQ(read_file(mounted_ / name), "contents of " + name);
      struct stat stat {};
      ASSERT_EQ(::stat((mounted_ / name).c_str(), &stat), 0);
      EXPECT_TRUE(seen.insert({stat.st_dev, stat.st_ino}).second)
          << name << ": device and inode number of another file";
      write_file(mounted_ / name, "new contents of " + name);
    }
  }
  for (int number = 0; number < kFilesystems; ++number) {
    struct stat stat {};
    ASSERT_EQ(::stat((mounted_ / dir_of(number)).c_str(), &stat), 0);
    EXPECT_TRUE(seen.insert({stat.st_dev, stat.st_ino}).second) << dir_of(number);
    for (int file = 0; file < kFiles; ++file) {
      const std::string name = dir_of(number) + "/file" + std::to_string(file);
      EXPECT_EQ(read_file(behind_ / name), "new contents of " + name);
    }
    // The numbers readdir tells are those that stat tells.
    const std::string listing = must_run(mounted_ / dir_of(number), {"ls", "-i", "--color=never"});
    struct stat first {};
    ASSERT_EQ(::stat((mounted_ / (dir_of(number) + "/file0")).c_str(), &first), 0);
    EXPECT_NE(listing.find(std::to_string(first.st_ino) + " file0"), std::string::npos) << listing;
  }
}

TEST_F(NestedTest, LinksAndRenamesStopAtTheBorder) {
  const Tmpfs inner(behind_ / "inner");
  write_file(mounted_ / "inner/a", "a");
  write_file(mounted_ / "outside", "outside");
  const int at = mounted_.fd;
  EXPECT_EQ(call(::linkat(at, "inner/a", at, "b", 0)).error, EXDEV);
  EXPECT_EQ(call(::linkat(at, "outside", at, "inner/b", 0)).error, EXDEV);
  EXPECT_EQ(call(::renameat(at, "inner/a", at, "b")).error, EXDEV);
  EXPECT_EQ(call(::renameat(at, "outside", at, "inner/b")).error, EXDEV);
  EXPECT_EQ(call(::renameat2(at, "outside", at, "inner/a", RENAME_EXCHANGE)).error, EXDEV);
  EXPECT_EQ(call(::unlinkat(at, "inner", AT_REMOVEDIR)).error, EBUSY);
  EXPECT_EQ(call(::renameat(at, "inner", at, "moved")).error, EBUSY);
  EXPECT_EQ(call(::linkat(at, "inner/a", at, "inner/b", 0)).error, 0);
  EXPECT_EQ(attributes(mounted_ / "inner/a").stx_ino, attributes(mounted_ / "inner/b").stx_ino);
  EXPECT_EQ(attributes(mounted_ / "inner/a").stx_nlink, 2U);
  must_run(mounted_.path, {"mv", "outside", "inner/c"});  // mv copies then
  EXPECT_EQ(read_file(behind_ / "inner/c"), "outside");
  // The statistics are those of the inner filesystem, and so is what it can't do.
  const std::string here = must_run(mounted_.path, {"stat", "-f", "-c", "%b %S", "inner/a"});
  EXPECT_EQ(here, must_run(behind_.path, {"stat", "-f", "-c", "%b %S", "inner/a"}));
}

TEST_F(NestedTest, MountedAndUnmountedWhileInUse) {
  ASSERT_EQ(::mkdirat(behind_.fd, "place", 0755), 0);
  write_file(behind_ / "place/below", "below");
  EXPECT_EQ(read_file(mounted_ / "place/below"), "below");
  const auto shows = [&](const std::string& name) {
    const auto end = std::chrono::steady_clock::now() + test::deadline();
    while (::faccessat(mounted_.fd, name.c_str(), F_OK, 0) != 0) {
      if (std::chrono::steady_clock::now() > end) return false;
      ::usleep(20000);  // until the kernel's entry is too old; no deadline but the test's
    }
    return true;
  };
  ASSERT_EQ(::mount("none", (behind_ / "place").c_str(), "tmpfs", 0, "size=1m"), 0);
  write_file(behind_ / "place/above", "above");
  EXPECT_TRUE(shows("place/above"));
  EXPECT_EQ(read_file(mounted_ / "place/above"), "above");
  const Fd open_file(::openat(mounted_.fd, "place/above", O_RDONLY | O_CLOEXEC));
  ASSERT_EQ(::umount2((behind_ / "place").c_str(), MNT_DETACH), 0);
  EXPECT_TRUE(shows("place/below"));
  EXPECT_EQ(read_file(mounted_ / "place/below"), "below");
  std::string text(5, '\0');
  EXPECT_EQ(::pread(open_file, text.data(), 5, 0), 5);
  EXPECT_EQ(text, "above");
}

}  // namespace
}  // namespace lockfs::fstest
