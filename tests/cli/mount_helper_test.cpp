/// mount.lockfs through mount(8) and umount(8), by hand and from an fstab.

#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "tests/cli/command.h"
#include "tests/mounted/support/mounted.h"

namespace lockfs::test {
namespace {

using Strings = std::vector<std::string>;

// mount(8), "EXIT STATUS".
constexpr int kUsage = 1;
constexpr int kFailed = 32;

class MountHelper : public CommandTest {
 protected:
  void SetUp() override {
    CommandTest::SetUp();
    install();
    write_fstab("defaults");
  }

  static std::string built(const std::string& name) {
    return std::filesystem::path(lockfs_program()).replace_filename(name).string();
  }

  /// mount(8) looks for helpers in /sbin alone: puts links to them beside all that is there.
  void install() {
    const auto folder = in_base("sbin");
    const auto original = in_base("sbin-original");
    ASSERT_EQ(mkdir(folder.c_str(), 0755), 0);
    ASSERT_EQ(mkdir(original.c_str(), 0755), 0);
    const auto sbin = std::filesystem::canonical("/sbin").string();
    ASSERT_EQ(::mount(sbin.c_str(), original.c_str(), nullptr, MS_BIND, nullptr), 0);
    for (const auto& entry : std::filesystem::directory_iterator(sbin)) {
      const auto name = entry.path().filename().string();
      std::filesystem::create_symlink(original + "/" + name, folder + "/" + name);
    }
    for (const std::string name : {"mount.lockfs", "mount.fuse.lockfs"}) {
      std::filesystem::remove(folder + "/" + name);
      std::filesystem::create_symlink(built(name), folder + "/" + name);
    }
    cover(sbin, folder);
  }

  void write_fstab(const std::string& options, const std::string& type = "lockfs") {
    ASSERT_TRUE(write_file(fstab(), source() + " " + mount() + " " + type + " " + options +
                                        " 0 0\n" + in_base("missing") + " " + in_base("mount2") +
                                        " lockfs nofail," + options + " 0 0\n"));
  }

  [[nodiscard]] std::string fstab() const { return in_base("fstab"); }

  Outcome command(const Strings& words) {
    CommandOptions options;
    options.environment["LIBMOUNT_FSTAB"] = fstab();
    return run_command(words, options);
  }

  void works(const Strings& words) {
    const Outcome outcome = command(words);
    EXPECT_EQ(outcome.status, 0) << words[0] << ": " << outcome.errors;
    EXPECT_EQ(outcome.output + outcome.errors, "");
    EXPECT_TRUE(outcome.eof) << "the daemon still holds its caller's pipes";
  }

  void fails(const Strings& words, int status, const Strings& parts) {
    expect_failure(command(words), status, parts);
    EXPECT_TRUE(mounts_on(mount()).empty());
  }

  MountLine mounted() {
    const auto mounts = mounts_on(mount());
    EXPECT_EQ(mounts.size(), 1U);
    return mounts.empty() ? MountLine{} : mounts[0];
  }

  void unmount() {
    const auto daemons = find_daemons(mount());
    EXPECT_EQ(daemons.size(), 1U);
    works({"umount", mount()});
    EXPECT_TRUE(mounts_on(mount()).empty());
    EXPECT_TRUE(wait_gone(daemons));
  }
};

TEST_F(MountHelper, ByHand) {
  ASSERT_TRUE(write_file(source() + "/file", "content"));
  for (const std::string type : {"lockfs", "fuse.lockfs"}) {
    works({"mount", "-t", type, source(), mount(), "-o", "policy=nfs,nosuid"});
    EXPECT_EQ(mounted().type, "fuse.lockfs");
    EXPECT_EQ(mounted().source, source());
    EXPECT_TRUE(has_option(mounted().options, "nosuid"));
    EXPECT_EQ(read_file(mount() + "/file"), "content");
    unmount();
  }
}

TEST_F(MountHelper, FromFstab) {
  for (const std::string type : {"lockfs", "fuse.lockfs"}) {
    write_fstab("rw,noatime,attr_timeout=2", type);
    works({"mount", mount()});
    EXPECT_TRUE(has_option(mounted().options, "noatime"));
    unmount();
    works({"mount", source()});
    unmount();
    works({"mount", "-a"});
    EXPECT_EQ(mounts_on(mount()).size(), 1U);
    works({"mount", "-a"});
    EXPECT_EQ(mounts_on(mount()).size(), 1U) << "mount -a mounts what is mounted already";
    unmount();
  }
}

TEST_F(MountHelper, OptionsOfMountPassSilently) {
  write_fstab(
      "defaults,rw,auto,nofail,_netdev,noatime,nodiratime,comment=a,comment=systemd.mount,"
      "x-systemd.requires=nfs-server.service,x-systemd.device-timeout=3,x-foo,X-bar=1,"
      "X-mount.mkdir,helper=lockfs,group,owner,users,exec,suid,dev,async,loud,nolazytime");
  works({"mount", mount()});
  unmount();
  write_fstab("noauto,ro,user=root,nouser,relatime,silent,nostrictatime,x-systemd.automount");
  works({"mount", "-a"});
  EXPECT_TRUE(mounts_on(mount()).empty());
  works({"mount", mount()});
  EXPECT_TRUE(has_option(mounted().options, "ro"));
  unmount();
}

TEST_F(MountHelper, Nofail) {
  const Strings missing = {"mount", "-t", "lockfs", in_base("missing"), mount(), "-o"};
  Strings words = missing;
  words.emplace_back("ro");
  fails(words, kFailed, {"source", "does not exist"});
  words.back() = "ro,nofail";
  works(words);
  EXPECT_TRUE(mounts_on(mount()).empty());
  words.back() = "nofail,bogus";
  works(words);
  // Only a missing source is forgiven.
  fails({"mount", "-t", "lockfs", source(), mount(), "-o", "nofail,bogus"}, kUsage, {"'bogus'"});
}

TEST_F(MountHelper, ErrorsAreOneLineWithAStatusOfMount) {
  const auto options = [this](const std::string& list) {
    return Strings{"mount", "-t", "lockfs", source(), mount(), "-o", list};
  };
  fails(options("bogus"), kUsage, {"unknown option 'bogus'"});
  fails(options("attr_timeout=x"), kUsage, {"'attr_timeout'"});
  fails({"mount", "-t", "lockfs", "/dev/null", mount()}, kFailed, {"not a directory"});
  works(options("ro"));
  const Outcome again = command(options("ro"));
  expect_failure(again, kFailed, {"already mounted by lockfs"});
  unmount();
}

TEST_F(MountHelper, SloppySkipsUnknownOptions) {
  works({"mount", "-s", "-t", "lockfs", source(), mount(), "-o", "bogus,ro,more=1"});
  EXPECT_TRUE(has_option(mounted().options, "ro"));
  unmount();
  fails({"mount", "-s", "-t", "lockfs", source(), mount(), "-o", "bogus,attr_timeout=x"}, kUsage,
        {"'attr_timeout'"});
}

TEST_F(MountHelper, FakeChecksAndMountsNothing) {
  works({"mount", "-f", mount()});
  EXPECT_TRUE(mounts_on(mount()).empty());
  fails({"mount", "-f", "-t", "lockfs", source(), mount(), "-o", "bogus"}, kUsage, {"'bogus'"});
  fails({"mount", "-f", "-t", "lockfs", in_base("missing"), mount()}, kFailed, {"not exist"});
}

TEST_F(MountHelper, VerboseShowsTheCommand) {
  const Outcome outcome = command({"mount", "-v", mount()});
  EXPECT_EQ(outcome.status, 0) << outcome.errors;
  EXPECT_NE(outcome.output.find("running " + lockfs_program()), std::string::npos)
      << outcome.output;
  unmount();
}

TEST_F(MountHelper, Remount) {
  write_fstab("rw,workers=9,nofail,x-systemd.automount,attr_timeout=2");
  works({"mount", mount()});
  works({"mount", "-o", "remount,ro", mount()});
  EXPECT_TRUE(has_option(mounted().options, "ro"));
  works({"mount", "-o", "remount,rw,log_level=debug", mount()});
  EXPECT_TRUE(has_option(mounted().options, "rw"));
  works({"mount", "-o", "remount", mount()});
  expect_failure(command({"mount", "-o", "remount,workers=3", mount()}), kFailed,
                 {"'workers' cannot change"});
  // Without an fstab entry mount(8) repeats what /proc/self/mountinfo says.
  ASSERT_TRUE(write_file(fstab(), ""));
  works({"mount", "-o", "remount,ro", mount()});
  EXPECT_TRUE(has_option(mounted().options, "ro"));
  unmount();
}

TEST_F(MountHelper, BusyAndLazy) {
  works({"mount", mount()});
  const auto daemons = find_daemons(mount());
  UniqueFd file(open((mount() + "/file").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  const Outcome busy = command({"umount", mount()});
  EXPECT_EQ(busy.status, kFailed);
  EXPECT_NE(busy.errors.find("busy"), std::string::npos) << busy.errors;
  works({"umount", "-l", mount()});
  EXPECT_EQ(write(file.get(), "x", 1), 1) << "the file is still served";
  file.reset();
  EXPECT_TRUE(wait_gone(daemons));
}

TEST_F(MountHelper, Namespace) {
  RunningCommand other({"unshare", "--mount", "sh", "-c", "echo there; exec sleep 1000"});
  ASSERT_TRUE(other.wait_output("there"));
  const auto in_other = [&](Strings words) {
    words.insert(words.begin(), {"nsenter", "-t", std::to_string(other.pid()), "--mount"});
    return command(words);
  };
  works({"mount", "-N", std::to_string(other.pid()), "-t", "lockfs", source(), mount()});
  EXPECT_TRUE(mounts_on(mount()).empty());
  EXPECT_EQ(in_other({"mountpoint", "-q", mount()}).status, 0);
  EXPECT_EQ(in_other({"umount", mount()}).status, 0);
  other.kill(SIGKILL);
}

TEST_F(MountHelper, Usage) {
  const auto helper = built("mount.lockfs");
  const auto said = [](const Outcome& outcome) { return outcome.output + outcome.errors; };
  EXPECT_EQ(run_command({helper, "-h"}).status, 0);
  EXPECT_EQ(run_command({helper, "-V"}).output.substr(0, 7), "lockfs ");
  for (const Strings& arguments : {Strings{}, {"-o", "ro"}, {source()}, {source(), "a", "b"}}) {
    Strings words = arguments;
    words.insert(words.begin(), helper);
    const Outcome outcome = run_command(words);
    EXPECT_EQ(outcome.status, kUsage);
    EXPECT_TRUE(said(outcome).starts_with("mount.lockfs: SOURCE and MOUNTPOINT")) << said(outcome);
  }
  EXPECT_EQ(said(run_command({helper, source(), mount(), "-x"})),
            "mount.lockfs: unknown option '-x'; lockfs options go behind -o\n");
  EXPECT_EQ(said(run_command({helper, source(), mount(), "-o"})),
            "mount.lockfs: option '-o' needs a value\n");
  EXPECT_EQ(run_command({helper, source(), mount(), "-N", in_base("none")}).status, kFailed);
}

}  // namespace
}  // namespace lockfs::test
