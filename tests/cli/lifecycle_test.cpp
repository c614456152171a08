/// Start and end of the daemon: when the command returns, what the daemon keeps of its caller, and
/// what ends it.

#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "tests/cli/command.h"
#include "tests/mounted/support/mounted.h"

namespace lockfs::test {
namespace {

using Strings = std::vector<std::string>;

std::string link_target(const std::string& path) {
  std::error_code ignored;
  return std::filesystem::read_symlink(path, ignored).string();
}

class Lifecycle : public CommandTest {
 protected:
  /// A file of the source must be the same through the mount.
  void expect_usable(const std::string& mountpoint) {
    ASSERT_TRUE(write_file(mountpoint + "/through", "mounted"));
    EXPECT_EQ(read_file(mountpoint + "/through"), "mounted");
    EXPECT_EQ(unlink((mountpoint + "/through").c_str()), 0);
  }
};

TEST_F(Lifecycle, VersionAndHelp) {
  for (const char* option : {"-V", "--version"}) {
    const Outcome outcome = lockfs({option});
    EXPECT_EQ(outcome.status, 0);
    EXPECT_TRUE(outcome.output.starts_with("lockfs ")) << outcome.output;
    EXPECT_NE(outcome.output.find("libfuse 3."), std::string::npos) << outcome.output;
    EXPECT_EQ(outcome.errors, "");
  }
  for (const char* option : {"-h", "--help"}) {
    const Outcome outcome = lockfs({option});
    EXPECT_EQ(outcome.status, 0);
    EXPECT_TRUE(outcome.output.starts_with("Usage: lockfs [options] SOURCE MOUNTPOINT\n"));
    EXPECT_EQ(outcome.errors, "");
  }
}

TEST_F(Lifecycle, AnswersThatCannotBeWrittenAreAFailure) {
  for (const char* option : {"-V", "-h"}) {
    const Outcome outcome =
        run_command({"sh", "-c", "exec \"$0\" \"$1\" >/dev/full", lockfs_program(), option});
    expect_failure(outcome, 1, {"standard output"});
  }
}

TEST_F(Lifecycle, ReturnsWhenTheMountIsReady) {
  ASSERT_TRUE(write_file(source() + "/file", "content"));
  start({source(), mount()}, mount());
  EXPECT_EQ(read_file(mount() + "/file"), "content");
  expect_usable(mount());
  stop(mount());
  EXPECT_FALSE(std::filesystem::exists(mount() + "/file"));
}

TEST_F(Lifecycle, KeepsNothingOfItsCaller) {
  const pid_t daemon = start({source(), mount()}, mount());
  ASSERT_GT(daemon, 0);
  const std::string proc = "/proc/" + std::to_string(daemon);
  EXPECT_NE(getsid(daemon), getsid(0));
  EXPECT_EQ(link_target(proc + "/cwd"), "/");
  for (const char* fd : {"0", "1", "2"}) EXPECT_EQ(link_target(proc + "/fd/" + fd), "/dev/null");
  stop(mount());
}

TEST_F(Lifecycle, RelativePaths) {
  CommandOptions here;
  here.directory = base();
  const Outcome outcome = lockfs({"source", "./mount/"}, here);
  EXPECT_EQ(outcome.status, 0) << outcome.errors;
  const auto mounts = mounts_on(mount());
  ASSERT_EQ(mounts.size(), 1U);
  EXPECT_EQ(mounts[0].source, source());
  expect_usable(mount());
  stop(mount());
}

TEST_F(Lifecycle, PipelinesEnd) {
  const Outcome outcome = run_command(
      {"sh", "-c", "\"$0\" \"$1\" \"$2\" 2>&1 | cat", lockfs_program(), source(), mount()});
  EXPECT_EQ(outcome.status, 0);
  EXPECT_EQ(outcome.output, "");
  EXPECT_TRUE(outcome.eof);
  EXPECT_EQ(mounts_on(mount()).size(), 1U);
  stop(mount());
}

TEST_F(Lifecycle, StartsWithoutStandardDescriptors) {
  for (const std::vector<int>& closed : {std::vector<int>{0}, {1}, {2}, {0, 1, 2}}) {
    CommandOptions options;
    options.closed = closed;
    const Outcome outcome = lockfs({source(), mount()}, options);
    EXPECT_EQ(outcome.status, 0) << outcome.errors;
    expect_usable(mount());
    stop(mount());
  }
}

TEST_F(Lifecycle, StartsWithSignalsBlockedAndIgnored) {
  // A caller's leftovers: SIGCHLD ignored, SIGTERM blocked.
  const Outcome outcome = run_command(
      {"env", "--ignore-signal=CHLD", "--block-signal=TERM", lockfs_program(), source(), mount()});
  EXPECT_EQ(outcome.status, 0) << outcome.errors;
  const auto daemons = find_daemons(mount());
  ASSERT_EQ(daemons.size(), 1U);
  ASSERT_EQ(kill(daemons[0], SIGTERM), 0);
  EXPECT_TRUE(wait_gone(daemons));
  EXPECT_TRUE(mounts_on(mount()).empty());
}

TEST_F(Lifecycle, GoesOnAfterASignalThatMeansNothingToIt) {
  const pid_t daemon = start({source(), mount()}, mount());
  ASSERT_GT(daemon, 0);
  ASSERT_EQ(kill(daemon, SIGUSR1), 0);
  expect_usable(mount());
  ASSERT_EQ(kill(daemon, SIGTERM), 0);
  EXPECT_TRUE(wait_gone({daemon}));
}

/// With an /etc of its own.
class Reload : public Lifecycle {
 protected:
  void SetUp() override {
    Lifecycle::SetUp();
    std::filesystem::copy(
        "/etc", in_base("etc"),
        std::filesystem::copy_options::recursive | std::filesystem::copy_options::copy_symlinks);
    cover("/etc", in_base("etc"));
    std::filesystem::create_directory("/etc/lockfs");
  }

  [[nodiscard]] std::string options_file() const {
    const Outcome name = run_command({"systemd-escape", "--path", mount()});
    return "/etc/lockfs/" + name.output.substr(0, name.output.find('\n')) + ".conf";
  }
};

TEST_F(Reload, HangUpAppliesWhatTheFileSays) {
  for (const char* survive : {"survive=on", "survive=off"}) {
    RunningCommand daemon({"sh", "-c", R"(exec "$0" -f -o "$1" "$2" "$3" 2>&1)", lockfs_program(),
                           survive, source(), mount()});
    ASSERT_TRUE(daemon.wait_output("mounted on"));
    std::filesystem::remove(options_file());
    daemon.kill(SIGHUP);
    EXPECT_TRUE(daemon.wait_output("nothing to reload: there is no " + options_file()));
    ASSERT_TRUE(write_file(options_file(), "SOURCE=" + source() +
                                               "\n# OPTIONS=max_locks=1\n"
                                               "OPTIONS=\"max_locks=77,noexec\"\n"));
    daemon.kill(SIGHUP);
    EXPECT_TRUE(daemon.wait_output("reloaded " + options_file()));
    EXPECT_TRUE(has_option(mounts_on(mount()).at(0).options, "noexec"));
    ASSERT_TRUE(write_file(options_file(), "OPTIONS=max_locks=none\n"));
    daemon.kill(SIGHUP);
    EXPECT_TRUE(daemon.wait_output("cannot reload " + options_file() + ": lockfs: "));
    expect_usable(mount());
    stop(mount());
    EXPECT_EQ(daemon.wait().status, 0);
  }
}

class EndingSignal : public Lifecycle, public ::testing::WithParamInterface<int> {};

TEST_P(EndingSignal, EndsTheBackgroundDaemon) {
  const pid_t daemon = start({source(), mount()}, mount());
  ASSERT_GT(daemon, 0);
  ASSERT_EQ(kill(daemon, GetParam()), 0);
  EXPECT_TRUE(wait_gone({daemon}));
  EXPECT_TRUE(mounts_on(mount()).empty());
}

TEST_P(EndingSignal, EndsTheForegroundDaemon) {
  RunningCommand daemon(lockfs_command({"-f", source(), mount()}));
  ASSERT_TRUE(wait_mounted(mount()));
  expect_usable(mount());
  daemon.kill(GetParam());
  const Outcome outcome = daemon.wait();
  EXPECT_EQ(outcome.status, 0) << outcome.errors;
  EXPECT_EQ(outcome.output, "");
  EXPECT_TRUE(mounts_on(mount()).empty());
}

TEST_P(EndingSignal, EndsTheDaemonWhileFilesAreOpen) {
  const pid_t daemon = start({source(), mount()}, mount());
  ASSERT_GT(daemon, 0);
  const UniqueFd file(open((mount() + "/file").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  ASSERT_TRUE(file.valid()) << std::strerror(errno);
  ASSERT_EQ(flock(file.get(), LOCK_EX), 0);
  ASSERT_EQ(kill(daemon, GetParam()), 0);
  EXPECT_TRUE(wait_gone({daemon}));
  EXPECT_TRUE(mounts_on(mount()).empty());
  // Nothing of the lock is left on the source.
  const UniqueFd backing(open((source() + "/file").c_str(), O_RDWR | O_CLOEXEC));
  struct flock lock {};
  lock.l_type = F_WRLCK;
  EXPECT_EQ(fcntl(backing.get(), F_OFD_SETLK, &lock), 0) << std::strerror(errno);
}

/// Whether process `pid` sits in the system call `number`.
bool sits_in(pid_t pid, long number) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/syscall");
  long current = -1;
  return (file >> current) && current == number;
}

TEST_P(EndingSignal, AnswersWaitingRequests) {
  constexpr long kFlockCall = 73;
  const pid_t daemon = start({source(), mount()}, mount());
  ASSERT_GT(daemon, 0);
  const auto path = mount() + "/file";
  const UniqueFd holder(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  ASSERT_TRUE(holder.valid());
  ASSERT_EQ(flock(holder.get(), LOCK_EX), 0);
  Process waiter([&path] {
    const int fd = open(path.c_str(), O_RDWR | O_CLOEXEC);
    return fd >= 0 && flock(fd, LOCK_EX) != 0 ? 0 : 1;
  });
  const auto end = std::chrono::steady_clock::now() + deadline();
  while (!sits_in(waiter.pid(), kFlockCall) && std::chrono::steady_clock::now() < end) {
    std::this_thread::yield();
  }
  ASSERT_TRUE(sits_in(waiter.pid(), kFlockCall));
  ASSERT_EQ(kill(daemon, GetParam()), 0);
  EXPECT_EQ(waiter.wait(), 0) << "the waiter was granted the lock or never answered";
  EXPECT_TRUE(wait_gone({daemon}));
}

std::string signal_name(const ::testing::TestParamInfo<int>& signal) {
  return sigabbrev_np(signal.param);
}

INSTANTIATE_TEST_SUITE_P(Signals, EndingSignal, ::testing::Values(SIGTERM, SIGINT), signal_name);

#ifndef __SANITIZE_ADDRESS__  // which needs more by itself
TEST_F(Lifecycle, FitsIntoALimitedAddressSpace) {
  for (const char* survive : {"survive=on", "survive=off"}) {
    const Outcome outcome =
        run_command({"sh", "-c", R"(ulimit -v 1500000; exec "$0" -o "$1" "$2" "$3")",
                     lockfs_program(), survive, source(), mount()});
    EXPECT_EQ(outcome.status, 0) << outcome.errors;
    expect_usable(mount());
    stop(mount());
  }
}
#endif

TEST_F(Lifecycle, TheDaemonIsKilledForMemoryBeforeItsKeepers) {
  const pid_t daemon = start({source(), mount()}, mount());
  ASSERT_GT(daemon, 0);
  const auto points = [](const std::string& pid) {
    return std::stoi(read_file("/proc/" + pid + "/oom_score_adj"));
  };
  for (const pid_t pid : find_processes(mount())) {
    if (pid == daemon) continue;
    EXPECT_LT(points(std::to_string(pid)), points(std::to_string(daemon)));
  }
  stop(mount());
}

TEST_F(Lifecycle, UmountEndsTheForegroundDaemon) {
  RunningCommand daemon(lockfs_command({"-f", source(), mount()}));
  ASSERT_TRUE(wait_mounted(mount()));
  expect_usable(mount());
  EXPECT_EQ(run_command({"umount", mount()}).status, 0);
  const Outcome outcome = daemon.wait();
  EXPECT_EQ(outcome.status, 0) << outcome.errors;
}

TEST_F(Lifecycle, UnmountedBeforeItHasSetTheFlagsOfTheMount) {
  for (int i = 0; i < scaled(100); ++i) {
    RunningCommand daemon(lockfs_command({"-f", "-o", "nodiratime", source(), mount()}));
    ASSERT_TRUE(wait_mounted(mount()));
    struct stat status {};
    ASSERT_EQ(stat(mount().c_str(), &status), 0);  // it serves
    ASSERT_EQ(umount2(mount().c_str(), MNT_DETACH), 0);
    const Outcome outcome = daemon.wait();
    ASSERT_EQ(outcome.status, 0) << outcome.errors;
  }
}

TEST_F(Lifecycle, LazyUmountEndsTheDaemonWithTheLastFile) {
  const pid_t daemon = start({source(), mount()}, mount());
  ASSERT_GT(daemon, 0);
  UniqueFd file(open((mount() + "/file").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  ASSERT_TRUE(file.valid()) << std::strerror(errno);
  EXPECT_NE(umount2(mount().c_str(), 0), 0);
  EXPECT_EQ(errno, EBUSY);
  EXPECT_EQ(run_command({"umount", "-l", mount()}).status, 0);
  EXPECT_EQ(write(file.get(), "x", 1), 1) << "the file is still served";
  file.reset();
  EXPECT_TRUE(wait_gone({daemon}));
  EXPECT_EQ(read_file(source() + "/file"), "x");
}

TEST_F(Lifecycle, DebugTracesRequests) {
  RunningCommand daemon(lockfs_command({"-d", source(), mount()}));
  ASSERT_TRUE(wait_mounted(mount()));
  expect_usable(mount());
  daemon.kill(SIGTERM);
  const Outcome outcome = daemon.wait();
  EXPECT_EQ(outcome.status, 0) << outcome.errors;
  EXPECT_NE(outcome.errors.find(" debug: "), std::string::npos) << outcome.errors;
}

TEST_F(Lifecycle, OverItself) {
  ASSERT_TRUE(write_file(source() + "/before", "before"));
  start({source(), source()}, source());
  EXPECT_EQ(read_file(source() + "/before"), "before");
  ASSERT_TRUE(write_file(source() + "/during", "during"));
  UniqueFd file(open((source() + "/during").c_str(), O_RDWR | O_CLOEXEC));
  EXPECT_EQ(flock(file.get(), LOCK_EX | LOCK_NB), 0) << std::strerror(errno);
  file.reset();
  stop(source());
  EXPECT_EQ(read_file(source() + "/before"), "before");
  EXPECT_EQ(read_file(source() + "/during"), "during");
}

TEST_F(Lifecycle, TwoMountsOfOneSource) {
  const auto second = in_base("second");
  ASSERT_EQ(mkdir(second.c_str(), 0755), 0);
  start({source(), mount()}, mount());
  start({source(), second}, second);
  ASSERT_TRUE(write_file(mount() + "/file", "x"));
  EXPECT_EQ(read_file(second + "/file"), "x");
  stop(mount());
  stop(second);
}

TEST_F(Lifecycle, MountAgainAndAgain) {
  for (int round = 0; round < scaled(20, 3); ++round) {
    start({source(), mount()}, mount());
    stop(mount());
    ASSERT_FALSE(HasFailure());
  }
}

TEST_F(Lifecycle, MountCommandPassesItsOwnOptions) {
  // mount(8) looks for the program where it would be installed.
  const auto folder = in_base("bin");
  ASSERT_EQ(mkdir(folder.c_str(), 0755), 0);
  ASSERT_EQ(symlink(lockfs_program().c_str(), (folder + "/lockfs").c_str()), 0);
  cover("/usr/local/bin", folder);
  const Outcome outcome = run_command(
      {"mount", "-t", "fuse.lockfs", source(), mount(), "-o",
       "ro,nosuid,noauto,_netdev,nofail,x-systemd.device-timeout=3,comment=a,attr_timeout=2"});
  EXPECT_EQ(outcome.status, 0) << outcome.errors;
  EXPECT_EQ(outcome.errors, "");
  EXPECT_TRUE(outcome.eof);
  const auto mounts = mounts_on(mount());
  ASSERT_EQ(mounts.size(), 1U);
  EXPECT_EQ(mounts[0].type, "fuse.lockfs");
  EXPECT_TRUE(has_option(mounts[0].options, "ro"));
  EXPECT_TRUE(has_option(mounts[0].options, "nosuid"));
  EXPECT_FALSE(has_option(mounts[0].options, "nodev"));
  stop(mount());
}

// -- logs ----------------------------------------------------------------------------------------

/// A datagram socket in the place of the journal or of syslog.
class LogSocket {
 public:
  explicit LogSocket(const std::string& path) : fd_(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0)) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    EXPECT_LT(path.size(), sizeof address.sun_path);
    std::strncpy(address.sun_path, path.c_str(), sizeof address.sun_path - 1);
    EXPECT_EQ(bind(fd_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0)
        << path << ": " << std::strerror(errno);
    EXPECT_EQ(chmod(path.c_str(), 0666), 0);
  }

  /// Everything received so far, or once something has come.
  std::string text() {
    std::string all;
    if (!wait_readable(fd_.get(), deadline())) return all;
    std::vector<char> buffer(65'536);
    while (true) {
      const ssize_t got = recv(fd_.get(), buffer.data(), buffer.size(), MSG_DONTWAIT);
      if (got < 0) return all;
      all.append(buffer.data(), static_cast<std::size_t>(got));
      all += "\n--\n";
    }
  }

 private:
  UniqueFd fd_;
};

class Logs : public Lifecycle {
 protected:
  void SetUp() override {
    Lifecycle::SetUp();
    replace_devices({kNull, kFuse});
    ASSERT_EQ(mkdir(in_base("run").c_str(), 0755), 0);
    cover("/run", in_base("run"));
  }

  static std::string make_journal_folder() {
    std::filesystem::create_directories("/run/systemd/journal");
    return "/run/systemd/journal/socket";
  }

  void run_once(const Strings& options) {
    Strings arguments = options;
    arguments.insert(arguments.end(), {source(), mount()});
    start(arguments, mount());
    stop(mount());
  }
};

TEST_F(Logs, NothingListens) {
  run_once({});
  run_once({"-o", "log_target=syslog"});
}

TEST_F(Logs, JournalThatIsAskedForButMissing) {
  const Outcome outcome = lockfs({"-o", "log_target=journal", source(), mount()});
#ifdef LOCKFS_HAVE_SYSTEMD
  expect_failure(outcome, 1, {"'log_target'", "no journal", "log_target=syslog"});
#else
  expect_failure(outcome, 2, {"'log_target'", "built without", "log_target=syslog"});
#endif
}

TEST_F(Logs, Syslog) {
  LogSocket syslog("/dev/log");
  run_once({});
  const auto text = syslog.text();
  EXPECT_NE(text.find(" lockfs["), std::string::npos) << text;
}

#ifdef LOCKFS_HAVE_SYSTEMD
TEST_F(Logs, JournalComesFirstAndHasFields) {
  LogSocket syslog("/dev/log");
  LogSocket journal(make_journal_folder());
  run_once({});
  const auto text = journal.text();
  for (const auto& field : {std::string("MESSAGE="), std::string("SYSLOG_IDENTIFIER=lockfs\n"),
                            std::string("PRIORITY=6\n"), "LOCKFS_SOURCE=" + source() + "\n",
                            "LOCKFS_MOUNTPOINT=" + mount() + "\n"}) {
    EXPECT_NE(text.find(field), std::string::npos) << "missing: " << field << "\nin: " << text;
  }
}

TEST_F(Logs, JournalFieldsOfARefusal) {
  LogSocket journal(make_journal_folder());
  ASSERT_TRUE(write_file(source() + "/a", ""));
  ASSERT_TRUE(write_file(source() + "/b", ""));
  start({"-o", "max_locks=1", source(), mount()}, mount());
  UniqueFd first(open((mount() + "/a").c_str(), O_RDWR | O_CLOEXEC));
  UniqueFd second(open((mount() + "/b").c_str(), O_RDWR | O_CLOEXEC));
  EXPECT_EQ(flock(first.get(), LOCK_EX | LOCK_NB), 0);
  EXPECT_EQ(flock(second.get(), LOCK_EX | LOCK_NB), -1);
  first.reset();
  second.reset();
  stop(mount());
  const auto text = journal.text();
  for (const auto& field :
       {std::string("\nLOCKFS_OP=lock\n"), "\nLOCKFS_FILE=" + source() + "/b\n",
        std::string("\nLOCKFS_RANGE=0-EOF\n"), std::string("\nLOCKFS_OWNER=flock:"),
        "\nLOCKFS_OWNER_PID=" + std::to_string(getpid()) + "\n",
        "\nERRNO=" + std::to_string(ENOLCK) + "\n", std::string("\nPRIORITY=4\n")}) {
    EXPECT_NE(text.find(field), std::string::npos) << "missing: " << field << "\nin: " << text;
  }
}

TEST_F(Logs, ServiceManagerIsTold) {
  const auto path = in_base("notify");
  LogSocket manager(path);
  CommandOptions options;
  options.environment["NOTIFY_SOCKET"] = path;
  expect_failure(lockfs({"-f", in_base("none"), mount()}, options), 1, {"does not exist"});
  RunningCommand daemon(lockfs_command({"-f", source(), mount()}), options);
  EXPECT_EQ(manager.text(), "READY=1\n--\n");
  EXPECT_EQ(mounts_on(mount()).size(), 1U) << "told before the mount was there";
  daemon.kill(SIGTERM);
  EXPECT_EQ(daemon.wait().status, 0);
}

TEST_F(Logs, SyslogWhenAskedFor) {
  LogSocket syslog("/dev/log");
  LogSocket journal(make_journal_folder());
  run_once({"-o", "log_target=syslog"});
  EXPECT_NE(syslog.text().find(" lockfs["), std::string::npos);
}
#endif

TEST_F(Logs, StandardErrorInTheBackground) {
  const auto log = in_base("log");
  const Outcome outcome =
      run_command({"sh", "-c", "\"$0\" -o log_target=stderr \"$1\" \"$2\" 2>\"$3\"",
                   lockfs_program(), source(), mount(), log});
  EXPECT_EQ(outcome.status, 0);
  EXPECT_TRUE(outcome.eof);
  stop(mount());
  EXPECT_NE(read_file(log).find(" info: "), std::string::npos) << read_file(log);
}

TEST_F(Logs, LevelOffIsSilent) {
  RunningCommand daemon(lockfs_command({"-f", "-o", "log_level=off", source(), mount()}));
  ASSERT_TRUE(wait_mounted(mount()));
  expect_usable(mount());
  daemon.kill(SIGTERM);
  const Outcome outcome = daemon.wait();
  EXPECT_EQ(outcome.status, 0);
  EXPECT_EQ(outcome.errors, "");
}

}  // namespace
}  // namespace lockfs::test
