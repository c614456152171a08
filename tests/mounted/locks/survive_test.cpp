/// The daemon dies and nobody loses anything: locks, waiters, open files, directory streams,
/// working directories, mappings.
///
/// Thread safety: none.
// ctest: timeout=600 cost=300

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>
#include <set>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "tests/mounted/support/actor.h"
#include "tests/mounted/support/mounted.h"

namespace lockfs::test {
namespace {

using std::chrono::milliseconds;

std::string lockfsctl_program() {
  return std::filesystem::path(lockfs_program()).parent_path().string() + "/lockfsctl";
}

class SurviveTest : public MountedTest {
 protected:
  std::vector<std::string> options() const override { return {"survive=on"}; }

  void SetUp() override {
    LOCKFS_NOT_PLAIN();
#ifdef __SANITIZE_THREAD__
    GTEST_SKIP()
        << "the thread sanitizer does not know processes that are cloned past the C library";
#endif
    MountedTest::SetUp();
    fs().allow_log("the daemon was .*generation [0-9]+ goes on");
  }

  /// Kills the daemon. Whether another came.
  bool kill_daemon(int signal = SIGKILL) {
    const pid_t old = fs().daemon_pid();
    if (old <= 0 || ::kill(old, signal) != 0) return false;
    return eventually([&] {
      const pid_t now = fs().daemon_pid();
      return now > 0 && now != old;
    });
  }
};

TEST_F(SurviveTest, HoldersOfEachKindKeepTheirLocks) {
  ASSERT_TRUE(write_file(in_source("file"), "text"));
  Actor posix;
  Actor ofd;
  Actor flock;
  Actor other;
  Actor outsider;
  const auto open = [&](Actor& actor) { return actor.open(in_mount("file"), O_RDWR); };
  const int posix_fd = open(posix);
  const int ofd_fd = open(ofd);
  const int flock_fd = flock.open(in_mount("flocked"), O_RDWR | O_CREAT);
  const int other_fd = open(other);
  const int outside_fd = outsider.open(in_source("file"), O_RDWR);
  ASSERT_EQ(posix.try_lock(posix_fd, Kind::kPosix, Mode::kExclusive, {0, 10}), 0);
  ASSERT_EQ(ofd.try_lock(ofd_fd, Kind::kOfd, Mode::kShared, {10, 10}), 0);
  ASSERT_EQ(flock.try_lock(flock_fd, Kind::kFlock, Mode::kExclusive), 0);
  const int flocked_fd = other.open(in_mount("flocked"), O_RDWR);
  for (int round = 0; round < 5; ++round) {
    ASSERT_TRUE(kill_daemon());
    EXPECT_EQ(outsider.try_lock(outside_fd, Kind::kPosix, Mode::kShared, {9, 1}), EAGAIN);
    EXPECT_EQ(outsider.try_lock(outside_fd, Kind::kPosix, Mode::kExclusive, {19, 1}), EAGAIN);
    EXPECT_EQ(outsider.try_lock(outside_fd, Kind::kPosix, Mode::kShared, {19, 1}), 0);
    EXPECT_EQ(outsider.unlock(outside_fd, Kind::kPosix), 0);
    EXPECT_EQ(other.try_lock(other_fd, Kind::kPosix, Mode::kShared, {0, 1}), EAGAIN);
    const QueryResult seen = other.query(other_fd, Kind::kPosix, Mode::kExclusive, {0, 0});
    EXPECT_EQ(seen.error, 0);
    EXPECT_EQ(seen.pid, posix.pid());
    EXPECT_EQ(seen.range.length, 10);
    EXPECT_EQ(posix.write(posix_fd, "more", 0), 4);
    EXPECT_EQ(other.try_lock(flocked_fd, Kind::kFlock, Mode::kShared), EAGAIN);
  }
  EXPECT_EQ(flock.unlock(flock_fd, Kind::kFlock), 0);
  EXPECT_EQ(other.try_lock(flocked_fd, Kind::kFlock, Mode::kShared), 0);
  // Each still ends as its kind does.
  EXPECT_EQ(posix.close(posix.dup(posix_fd)), 0);
  EXPECT_EQ(other.try_lock(other_fd, Kind::kPosix, Mode::kExclusive, {0, 10}), 0);
  EXPECT_EQ(other.unlock(other_fd, Kind::kPosix), 0);
  EXPECT_EQ(other.try_lock(other_fd, Kind::kPosix, Mode::kExclusive, {10, 1}), EAGAIN);
  EXPECT_EQ(ofd.close(ofd_fd), 0);
  fs().settle("file");
  EXPECT_EQ(outsider.try_lock(outside_fd, Kind::kPosix, Mode::kExclusive, {0, 0}), 0);
}

TEST_F(SurviveTest, WaitersKeepTheirPlaces) {
  ASSERT_TRUE(write_file(in_source("file"), ""));
  Actor holder;
  const int fd = holder.open(in_mount("file"), O_RDWR);
  for (const Kind kind : {Kind::kPosix, Kind::kOfd, Kind::kFlock}) {
    ASSERT_EQ(holder.try_lock(fd, kind, Mode::kExclusive), 0);
    std::vector<Actor> waiters(5);
    std::vector<int> fds;
    for (Actor& waiter : waiters) {
      fds.push_back(waiter.open(in_mount("file"), O_RDWR));
      waiter.start_lock(fds.back(), kind, Mode::kExclusive);
      ASSERT_TRUE(waiter.waits());
      ASSERT_TRUE(kill_daemon());
    }
    ASSERT_EQ(holder.unlock(fd, kind), 0);
    for (std::size_t i = 0; i < waiters.size(); ++i) {
      EXPECT_EQ(waiters[i].result(), 0) << i;
      for (std::size_t j = i + 1; j < waiters.size(); ++j) {
        EXPECT_FALSE(waiters[j].has_result()) << j;
      }
      ASSERT_TRUE(kill_daemon());
      EXPECT_EQ(waiters[i].unlock(fds[i], kind), 0);
    }
  }
}

TEST_F(SurviveTest, AnOutsiderIsWaitedForAndWaits) {
  ASSERT_TRUE(write_file(in_source("file"), ""));
  Actor outsider;
  Actor inside;
  const int outside_fd = outsider.open(in_source("file"), O_RDWR);
  const int fd = inside.open(in_mount("file"), O_RDWR);
  ASSERT_EQ(outsider.try_lock(outside_fd, Kind::kPosix, Mode::kExclusive, {0, 10}), 0);
  inside.start_lock(fd, Kind::kOfd, Mode::kExclusive, {5, 10});
  ASSERT_TRUE(inside.waits());
  ASSERT_TRUE(kill_daemon());
  ASSERT_TRUE(inside.waits());
  ASSERT_EQ(outsider.unlock(outside_fd, Kind::kPosix), 0);
  EXPECT_EQ(inside.result(), 0);
  outsider.start_lock(outside_fd, Kind::kPosix, Mode::kShared, {0, 0});
  ASSERT_TRUE(kill_daemon());
  EXPECT_FALSE(outsider.has_result());
  EXPECT_EQ(inside.unlock(fd, Kind::kOfd), 0);
  EXPECT_EQ(outsider.result(), 0);
}

TEST_F(SurviveTest, AWaiterIsInterrupted) {
  ASSERT_TRUE(write_file(in_source("file"), ""));
  Actor holder;
  Actor waiter;
  const int held = holder.open(in_mount("file"), O_RDWR);
  const int fd = waiter.open(in_mount("file"), O_RDWR);
  ASSERT_EQ(waiter.handle_signal(SIGUSR1), 0);
  ASSERT_EQ(holder.try_lock(held, Kind::kPosix, Mode::kExclusive), 0);
  waiter.start_lock(fd, Kind::kPosix, Mode::kExclusive);
  ASSERT_TRUE(waiter.waits());
  ASSERT_TRUE(kill_daemon());
  ASSERT_EQ(waiter.interrupt(SIGUSR1), 0);
  EXPECT_EQ(waiter.result(), EINTR);
}

TEST_F(SurviveTest, FilesStayOpen) {
  ASSERT_EQ(::mkdir(in_mount("folder").c_str(), 0755), 0);
  const UniqueFd kept(::open(in_mount("folder/kept").c_str(), O_RDWR | O_CREAT, 0644));
  const UniqueFd deleted(::open(in_mount("deleted").c_str(), O_RDWR | O_CREAT, 0644));
  ASSERT_TRUE(kept.valid() && deleted.valid());
  ASSERT_EQ(::ftruncate(kept.get(), 8192), 0);
  ASSERT_EQ(::unlink(in_mount("deleted").c_str()), 0);
  auto* const mapped =
      static_cast<char*>(::mmap(nullptr, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, kept.get(), 0));
  ASSERT_NE(mapped, MAP_FAILED);
  const UniqueFd folder(::open(in_mount("folder").c_str(), O_PATH | O_DIRECTORY));
  for (int round = 0; round < 3; ++round) {
    ASSERT_TRUE(kill_daemon());
    const std::string text = "round " + std::to_string(round);
    EXPECT_EQ(::pwrite(deleted.get(), text.data(), text.size(), 0),
              static_cast<ssize_t>(text.size()));
    struct stat st {};
    EXPECT_EQ(::fstat(deleted.get(), &st), 0);
    EXPECT_EQ(st.st_nlink, 0U);
    EXPECT_EQ(st.st_size, static_cast<off_t>(text.size()));
    std::memcpy(mapped + 4096, text.data(), text.size());
    EXPECT_EQ(::msync(mapped, 8192, MS_SYNC), 0);
    EXPECT_EQ(read_file(in_source("folder/kept")).substr(4096, text.size()), text);
    const UniqueFd again(::openat(folder.get(), "kept", O_RDONLY));
    EXPECT_TRUE(again.valid()) << std::strerror(errno);
  }
  ::munmap(mapped, 8192);
}

TEST_F(SurviveTest, ADirectoryIsReadToItsEnd) {
  std::set<std::string> expected{".", ".."};
  ASSERT_EQ(::mkdir(in_source("many").c_str(), 0755), 0);
  for (int i = 0; i < 3000; ++i) {
    const std::string name = "file-with-a-long-name-" + std::to_string(i);
    expected.insert(name);
    ASSERT_TRUE(write_file(in_source("many/" + name), ""));
  }
  DIR* const directory = ::opendir(in_mount("many").c_str());
  ASSERT_NE(directory, nullptr);
  std::multiset<std::string> seen;
  for (int i = 0; dirent* const entry = ::readdir(directory); ++i) {
    seen.insert(entry->d_name);
    if (i % 700 == 100) {
      ASSERT_TRUE(kill_daemon());
    }
  }
  ::closedir(directory);
  EXPECT_EQ(seen.size(), expected.size());
  EXPECT_EQ(std::set<std::string>(seen.begin(), seen.end()), expected);
}

// The kernel has opened the pipe itself: to the daemon it is a name that somebody has looked up.
TEST_F(SurviveTest, ARemovedPipeStays) {
  ASSERT_EQ(::mkfifo(in_mount("pipe").c_str(), 0640), 0);
  const UniqueFd fd(::open(in_mount("pipe").c_str(), O_RDWR | O_CLOEXEC));
  ASSERT_TRUE(fd.valid());
  struct stat before {};
  ASSERT_EQ(::fstat(fd.get(), &before), 0);
  ASSERT_TRUE(kill_daemon());
  ASSERT_EQ(::unlink(in_mount("pipe").c_str()), 0);
  ASSERT_TRUE(kill_daemon());
  struct stat after {};
  ASSERT_EQ(::fstat(fd.get(), &after), 0);
  EXPECT_EQ(after.st_ino, before.st_ino);
  EXPECT_EQ(after.st_nlink, 0U);
  EXPECT_EQ(::fchmod(fd.get(), 0600), 0);
}

TEST_F(SurviveTest, AWorkingDirectoryStays) {
  ASSERT_EQ(::mkdir(in_mount("place").c_str(), 0755), 0);
  Process inside([this] {
    if (::chdir(in_mount("place").c_str()) != 0) return 1;
    for (int i = 0; i < 3; ++i) {
      if (!kill_daemon()) return 2;
      if (!write_file("here" + std::to_string(i), "x")) return 3;
    }
    return 0;
  });
  EXPECT_EQ(inside.wait(), 0);
  EXPECT_EQ(read_file(in_source("place/here2")), "x");
}

TEST_F(SurviveTest, EverySignalThatKills) {
  ASSERT_TRUE(write_file(in_source("file"), ""));
  Actor holder;
  const int fd = holder.open(in_mount("file"), O_RDWR);
  ASSERT_EQ(holder.try_lock(fd, Kind::kPosix, Mode::kExclusive), 0);
  for (const int signal : {SIGSEGV, SIGABRT, SIGBUS, SIGILL, SIGFPE, SIGKILL}) {
    // A sanitizer catches these and would report them.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    if (signal != SIGKILL) continue;
#endif
    EXPECT_TRUE(kill_daemon(signal)) << signal;
    struct stat st {};
    EXPECT_EQ(::stat(in_mount("file").c_str(), &st), 0);
  }
  Actor other;
  const int other_fd = other.open(in_mount("file"), O_RDWR);
  EXPECT_EQ(other.try_lock(other_fd, Kind::kPosix, Mode::kShared), EAGAIN);
}

TEST_F(SurviveTest, KeeperDies) {
  ASSERT_TRUE(write_file(in_source("file"), ""));
  Actor holder;
  Actor waiter;
  Actor outsider;
  const int held = holder.open(in_mount("file"), O_RDWR);
  const int fd = waiter.open(in_mount("file"), O_RDWR);
  const int outside_fd = outsider.open(in_source("file"), O_RDWR);
  ASSERT_EQ(holder.try_lock(held, Kind::kPosix, Mode::kExclusive), 0);
  waiter.start_lock(fd, Kind::kPosix, Mode::kExclusive);
  ASSERT_TRUE(waiter.waits());
  for (int round = 0; round < 3; ++round) {
    const pid_t keeper = fs().keeper_pid();
    const pid_t daemon = fs().daemon_pid();
    ASSERT_GT(keeper, 0);
    ASSERT_EQ(::kill(keeper, SIGKILL), 0);
    ASSERT_TRUE(eventually([&] {
      const pid_t now = fs().daemon_pid();
      return now > 0 && now != daemon && fs().keeper_pid() != keeper;
    }));
    EXPECT_EQ(outsider.try_lock(outside_fd, Kind::kPosix, Mode::kShared), EAGAIN);
    EXPECT_TRUE(waiter.waits());
  }
  ASSERT_EQ(holder.unlock(held, Kind::kPosix), 0);
  EXPECT_EQ(waiter.result(), 0);
}

/// The standby is the process that the test program started: with it the mount would end for a
/// service manager, not for its users.
TEST_F(SurviveTest, TheKeeperTakesTheStandbysPlace) {
  const std::string source = fs().scratch() + "/source2";
  const std::string mount = fs().scratch() + "/mount2";
  ASSERT_EQ(::mkdir(source.c_str(), 0755), 0);
  ASSERT_EQ(::mkdir(mount.c_str(), 0755), 0);
  ASSERT_EQ(run_program({lockfs_program(), "-o", "survive=on", source, mount}).status, 0);
  Actor holder;
  Actor other;
  const int held = holder.open(mount + "/file", O_RDWR | O_CREAT);
  ASSERT_EQ(holder.try_lock(held, Kind::kFlock, Mode::kExclusive), 0);
  const int fd = other.open(mount + "/file", O_RDWR);
  const auto processes = [&mount] {
    const ProgramResult found = run_program({"pgrep", "-f", "lockfs -o survive=on .*" + mount});
    std::istringstream lines(found.output);
    std::vector<pid_t> all;
    for (pid_t each = 0; lines >> each;) all.push_back(each);
    return all;
  };
  const std::vector<pid_t> before = processes();
  ASSERT_EQ(before.size(), 3U);
  // The first has the lowest number, unless numbers have wrapped around: then it is the one whose
  // parent is none of the others.
  const auto parent_of = [](pid_t process) {
    std::ifstream stat("/proc/" + std::to_string(process) + "/stat");
    std::string text;
    std::getline(stat, text);
    std::istringstream rest(text.substr(text.rfind(')') + 3));
    pid_t parent = 0;
    rest >> parent;
    return parent;
  };
  const auto standby = std::find_if(before.begin(), before.end(), [&](pid_t each) {
    return std::find(before.begin(), before.end(), parent_of(each)) == before.end();
  });
  ASSERT_NE(standby, before.end());
  ASSERT_EQ(::kill(*standby, SIGKILL), 0);
  EXPECT_TRUE(eventually([&] {
    const std::vector<pid_t> now = processes();
    return now.size() == 3 && std::find(now.begin(), now.end(), *standby) == now.end();
  }));
  EXPECT_EQ(other.try_lock(fd, Kind::kFlock, Mode::kShared), EAGAIN);
  EXPECT_EQ(holder.unlock(held, Kind::kFlock), 0);
  EXPECT_EQ(other.try_lock(fd, Kind::kFlock, Mode::kShared), 0);
  EXPECT_EQ(other.close(fd), 0);
  EXPECT_EQ(holder.close(held), 0);
  EXPECT_EQ(::umount2(mount.c_str(), 0), 0);
  // No process is left behind.
  EXPECT_TRUE(eventually([&] { return processes().empty(); }));
}

TEST_F(SurviveTest, AnotherProgramTakesOver) {
  // A copy, so that what is installed at its path can change.
  const std::string program = fs().scratch() + "/lockfs";
  const std::string source = fs().scratch() + "/source2";
  const std::string mount = fs().scratch() + "/mount2";
  ASSERT_EQ(run_program({"cp", lockfs_program(), program}).status, 0);
  ASSERT_EQ(::mkdir(source.c_str(), 0755), 0);
  ASSERT_EQ(::mkdir(mount.c_str(), 0755), 0);
  ASSERT_EQ(run_program({program, "-o", "survive=on", source, mount}).status, 0);
  Actor holder;
  Actor waiter;
  const int held = holder.open(mount + "/file", O_RDWR | O_CREAT);
  const int fd = waiter.open(mount + "/file", O_RDWR);
  ASSERT_EQ(holder.try_lock(held, Kind::kOfd, Mode::kExclusive), 0);
  waiter.start_lock(fd, Kind::kOfd, Mode::kExclusive);
  const auto upgrade = [&] { return run_program({lockfsctl_program(), "upgrade", mount}); };
  ASSERT_EQ(run_program({"mv", program, program + ".old"}).status, 0);
  const auto install = [&](const std::string& script) {
    ASSERT_TRUE(write_file(program, "#!/bin/sh\n" + script));
    ASSERT_EQ(::chmod(program.c_str(), 0755), 0);
  };
  const auto daemon = [&] { return run_program({lockfsctl_program(), "ping", mount}).output; };
  // One that cannot is refused before anything is touched.
  const std::string before = daemon().substr(0, daemon().find("answers"));
  for (const auto& [script, why] : std::vector<std::pair<std::string, std::string>>{
           {"echo lockfs: it is another book >&2\nexit 1\n", "lockfs: it is another book"},
           {"exit 3\n", "exit status 3"},
           {"kill -ABRT $$\n", "killed by signal 6"}}) {
    install(script);
    const ProgramResult refused = upgrade();
    EXPECT_EQ(refused.status, 1);
    EXPECT_NE(refused.output.find("cannot take over: " + why), std::string::npos) << refused.output;
    EXPECT_EQ(daemon().substr(0, before.size()), before);
  }
  // One that says that it can and then ends leaves the mount to the old program.
  for (const std::string end : {"exit 1", "exit 0", "kill -KILL $$"}) {
    install("case $1 in --can-adopt=*) exit 0;; esac\n" + end + "\n");
    const ProgramResult failed = upgrade();
    EXPECT_EQ(failed.status, 1) << end;
    EXPECT_NE(failed.output.find("the old one goes on"), std::string::npos) << failed.output;
    EXPECT_FALSE(waiter.has_result());
  }
  ASSERT_EQ(run_program({"cp", lockfs_program(), program}).status, 0);
  for (int round = 0; round < 3; ++round) {
    const ProgramResult done = upgrade();
    EXPECT_EQ(done.status, 0) << done.output;
    EXPECT_FALSE(waiter.has_result());
  }
  EXPECT_EQ(holder.unlock(held, Kind::kOfd), 0);
  EXPECT_EQ(waiter.result(), 0);
  EXPECT_EQ(waiter.close(fd), 0);
  EXPECT_EQ(holder.close(held), 0);
  EXPECT_EQ(::umount2(mount.c_str(), 0), 0);
  EXPECT_TRUE(eventually([&] { return run_program({"pgrep", "-f", program}).status == 1; }));
}

// -- under load -----------------------------------------------------------------------------------

using Clock = std::chrono::steady_clock;

/// What the programs of the load share.
struct Shared {
  std::atomic<int> stop;
  std::atomic<long> rounds;
  std::atomic<int> inside[2];  ///< critical sections: of record locks, of flocks
  std::atomic<long> counts[2];
  std::atomic<long> longest;  ///< microseconds that somebody has waited for a lock
  std::atomic<int> errors;
  char error[256];
};

void fail(Shared& shared, const std::string& what) {
  if (shared.errors.fetch_add(1) != 0) return;
  std::snprintf(shared.error, sizeof shared.error, "%s: %s", what.c_str(), std::strerror(errno));
}

int call_lock(int fd, Kind kind, bool take) {
  if (kind == Kind::kFlock) return ::flock(fd, take ? LOCK_EX : LOCK_UN);
  struct flock request {};
  request.l_type = static_cast<short>(take ? F_WRLCK : F_UNLCK);
  request.l_len = 1;
  return ::fcntl(fd, kind == Kind::kOfd ? F_OFD_SETLKW : F_SETLKW, &request);
}

void note_wait(Shared& shared, Clock::duration time) {
  const long now = std::chrono::duration_cast<std::chrono::microseconds>(time).count();
  for (long most = shared.longest; most < now;) {
    if (shared.longest.compare_exchange_weak(most, now)) return;
  }
}

/// What a program does besides.
enum class Habit { kNone, kOpensAnew, kGetsSignals };

/// Locks, counts, appends.
int count_under_lock(Shared& shared, const std::string& folder, Kind kind,
                     Habit habit = Habit::kNone) {
  const int which = kind == Kind::kFlock ? 1 : 0;
  const std::string name = folder + (which == 1 ? "/flocked" : "/counter");
  UniqueFd fd(::open(name.c_str(), O_RDWR | O_CLOEXEC));
  if (habit == Habit::kGetsSignals) {
    struct sigaction action {};
    action.sa_handler = [](int) {};  // without SA_RESTART
    ::sigaction(SIGALRM, &action, nullptr);
    const itimerval often{{0, 3000}, {0, 3000}};
    ::setitimer(ITIMER_REAL, &often, nullptr);
  }
  const UniqueFd log(::open((name + ".log").c_str(), O_WRONLY | O_APPEND | O_CLOEXEC));
  if (!fd.valid() || !log.valid()) fail(shared, "open");
  auto began = Clock::now();
  while (shared.stop == 0 && shared.errors == 0) {
    if (call_lock(fd.get(), kind, true) != 0) {
      if (errno == EINTR && habit == Habit::kGetsSignals) continue;
      fail(shared, std::string("lock ") + name_of(kind));
    }
    note_wait(shared, Clock::now() - began);
    if (shared.inside[which].fetch_add(1) != 0) fail(shared, "two owners of one lock");
    long count = 0;
    if (::pread(fd.get(), &count, sizeof count, 0) != sizeof count) fail(shared, "read");
    ++count;
    if (::pwrite(fd.get(), &count, sizeof count, 0) != sizeof count) fail(shared, "write");
    if (::write(log.get(), "x", 1) != 1) fail(shared, "append");
    shared.counts[which].fetch_add(1);
    shared.inside[which].fetch_sub(1);
    if (habit == Habit::kOpensAnew) {
      fd.reset();  // and so lets go
      fd.reset(::open(name.c_str(), O_RDWR | O_CLOEXEC));
      if (!fd.valid()) fail(shared, "open again");
    } else if (call_lock(fd.get(), kind, false) != 0) {
      fail(shared, "unlock");
    }
    shared.rounds.fetch_add(1);
    began = Clock::now();
  }
  return 0;
}

/// Makes and removes names, all of which must succeed.
int make_names(Shared& shared, const std::string& folder, int number) {
  const std::string own = folder + "/names" + std::to_string(number);
  const auto check = [&](const char* what, int result) {
    if (result != 0) fail(shared, what);
  };
  check("mkdir", ::mkdir(own.c_str(), 0755));
  while (shared.stop == 0 && shared.errors == 0) {
    check("mkdir in", ::mkdir((own + "/d").c_str(), 0755));
    check("symlink", ::symlink("target", (own + "/s").c_str()));
    check("mknod", ::mknod((own + "/p").c_str(), S_IFIFO | 0600, 0));
    const UniqueFd fd(::open((own + "/f").c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644));
    if (!fd.valid()) fail(shared, "create");
    if (::write(fd.get(), "text", 4) != 4) fail(shared, "write new");
    check("setxattr", ::setxattr((own + "/f").c_str(), "user.a", "v", 1, XATTR_CREATE));
    check("removexattr", ::removexattr((own + "/f").c_str(), "user.a"));
    check("truncate", ::truncate((own + "/f").c_str(), 2));
    check("link", ::link((own + "/f").c_str(), (own + "/l").c_str()));
    check("rename", ::rename((own + "/f").c_str(), (own + "/g").c_str()));
    check("exchange", ::renameat2(AT_FDCWD, (own + "/g").c_str(), AT_FDCWD, (own + "/s").c_str(),
                                  RENAME_EXCHANGE));
    struct stat st {};
    check("stat", ::lstat((own + "/s").c_str(), &st));
    if (!S_ISREG(st.st_mode) || st.st_size != 2 || st.st_nlink != 2) {
      errno = 0;
      fail(shared, "exchanged twice or never");
    }
    check("unlink l", ::unlink((own + "/l").c_str()));
    check("unlink s", ::unlink((own + "/s").c_str()));
    check("unlink g", ::unlink((own + "/g").c_str()));
    check("unlink p", ::unlink((own + "/p").c_str()));
    check("rmdir", ::rmdir((own + "/d").c_str()));
    shared.rounds.fetch_add(1);
  }
  return 0;
}

class LoadTest : public SurviveTest {
 protected:
  void TearDown() override {
    load_.clear();
    SurviveTest::TearDown();
  }

  /// Programs on the mount and on the source that lock, count, append, open, get signals and make
  /// names.
  void begin() {
    const long zero = 0;
    for (const char* name : {"counter", "flocked"}) {
      ASSERT_TRUE(write_file(in_source(name),
                             std::string(reinterpret_cast<const char*>(&zero), sizeof zero)));
      ASSERT_TRUE(write_file(in_source(std::string(name) + ".log"), ""));
    }
    for (const Kind kind : {Kind::kPosix, Kind::kOfd, Kind::kPosix, Kind::kFlock, Kind::kFlock}) {
      add([kind, this] { return count_under_lock(shared_, mount(), kind); });
    }
    for (int i = 0; i < 2; ++i) {
      add([this] { return count_under_lock(shared_, source(), Kind::kPosix); });
      add([i, this] { return make_names(shared_, mount(), i); });
    }
    for (const Kind kind : {Kind::kPosix, Kind::kOfd, Kind::kFlock}) {
      for (const Habit habit : {Habit::kOpensAnew, Habit::kGetsSignals}) {
        add([kind, habit, this] { return count_under_lock(shared_, mount(), kind, habit); });
      }
    }
  }
  /// Whether somebody does, within the deadline.
  bool gets_on() {
    const long before = shared_.rounds;
    return eventually([&] { return shared_.rounds > before + 2 || shared_.errors != 0; });
  }
  [[nodiscard]] bool has_error() const { return shared_.errors != 0; }
  /// Nothing was lost, nothing is left.
  void end() {
    shared_.stop = 1;
    for (Process& each : load_) EXPECT_EQ(each.wait(), 0);
    EXPECT_EQ(shared_.errors, 0) << shared_.error;
    EXPECT_LT(shared_.longest, kLongest.count());
    for (int which = 0; which < 2; ++which) {
      const std::string name = which == 1 ? "flocked" : "counter";
      long count = 0;
      std::memcpy(&count, read_file(in_source(name)).data(), sizeof count);
      EXPECT_EQ(count, shared_.counts[which]) << name;
      EXPECT_EQ(static_cast<long>(read_file(in_source(name + ".log")).size()), count) << name;
    }
    const ProgramResult verified = run_program({lockfsctl_program(), "verify", mount()});
    EXPECT_EQ(verified.status, 0) << verified.output;
    EXPECT_EQ(run_program({lockfsctl_program(), "list", "-n", mount()}).output, "");
    fs().settle();
    const std::string stats = run_program({lockfsctl_program(), "stats", "-J", mount()}).output;
    for (const char* gauge : {"locks", "waiters", "waiting_outside", "put_off", "files"}) {
      EXPECT_NE(stats.find("\"" + std::string(gauge) + "\": 0,"), std::string::npos)
          << gauge << "\n"
          << stats;
    }
    EXPECT_EQ(open_files(), "");
    std::printf("%ld rounds, %.1f ms the longest wait\n", shared_.rounds.load(),
                static_cast<double>(shared_.longest.load()) / 1000);
  }
  /// More than anybody has to wait, by far.
#ifdef __SANITIZE_ADDRESS__
  static constexpr std::chrono::microseconds kLongest = std::chrono::seconds(20);
#else
  static constexpr std::chrono::microseconds kLongest = std::chrono::seconds(5);
#endif

  template <typename Body>
  void add(const Body& body) {
    load_.emplace_back(body);
  }
  /// The files of the source that the daemon has open for more than their names.
  std::string open_files() const {
    std::string found;
    const std::string process = "/proc/" + std::to_string(fs().daemon_pid());
    for (const auto& entry : std::filesystem::directory_iterator(process + "/fd")) {
      std::error_code gone;
      const std::string target = std::filesystem::read_symlink(entry, gone).string();
      if (target.rfind(source() + "/", 0) != 0) continue;
      std::ifstream info(process + "/fdinfo/" + entry.path().filename().string());
      std::string word;
      int flags = 0;
      while (info >> word && word != "flags:") {
      }
      info >> std::oct >> flags;
      if ((flags & O_PATH) == 0) found += target + "\n";
    }
    return found;
  }

  Shared& shared_ = *static_cast<Shared*>(
      ::mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  std::vector<Process> load_;
};

TEST_F(LoadTest, Killed) {
  begin();
  const char* const seed = std::getenv("LOCKFS_TEST_SEED");
  std::mt19937 random(seed != nullptr ? static_cast<unsigned>(std::atoll(seed)) : 1U);
  std::uniform_int_distribution<int> pause(0, 60);
  const int kills = scaled(100, 10);
  const std::array<std::string, 4> policies{"dual", "samba-friendly", "bsd", "nfs"};
  int switches = 0;
  for (int i = 0; i < kills && !has_error() && !HasFailure(); ++i) {
    // Refused or cut short, if the mount cannot or its daemon dies meanwhile.
    const std::string& policy = policies[static_cast<std::size_t>(i) % policies.size()];
    Process switched([&policy, this] {
      return run_program({lockfsctl_program(), "policy", "set", policy, mount()}).status;
    });
    std::this_thread::sleep_for(milliseconds(pause(random)));
    ASSERT_TRUE(kill_daemon()) << "kill " << i << "\n" << fs().log();
    EXPECT_TRUE(gets_on()) << "stuck after kill " << i;
    switches += switched.wait() == 0 ? 1 : 0;
  }
  end();
  EXPECT_GT(switches, 0);
  std::printf("%d kills, %d switches of the policy\n", kills, switches);
}

TEST_F(LoadTest, Upgraded) {
  begin();
  const int upgrades = scaled(100, 5);
  for (int i = 0; i < upgrades && !has_error() && !HasFailure(); ++i) {
    const ProgramResult upgrade = run_program({lockfsctl_program(), "upgrade", mount()});
    ASSERT_EQ(upgrade.status, 0) << upgrade.output;
    EXPECT_TRUE(gets_on()) << "stuck after upgrade " << i;
  }
  end();
  EXPECT_EQ(fs().log().find("the daemon was"), std::string::npos) << "nobody died";
  std::printf("%d upgrades\n", upgrades);
}

}  // namespace
}  // namespace lockfs::test
