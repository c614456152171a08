// lockfsctl break, stats, verify, ping, mounts, watch, top and doctor against a live mount.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <functional>
#include <thread>

#include "tests/ctl/commands.h"

namespace lockfs::test {
namespace {

using namespace std::chrono_literals;

class Manage : public CommandTest {};

/// Looks until `met` is true; false when the deadline passed first.
bool eventually(const std::function<bool()>& met) {
  const auto end = std::chrono::steady_clock::now() + deadline();
  while (!met()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::sleep_for(20ms);
  }
  return true;
}

// -- break
// -----------------------------------------------------------------------------------------

TEST_F(Manage, BreakAsksFirst) {
  make_file("f");
  Locker& holder = hold("f", kFlock, kExclusive);
  const ProgramResult result = run({"break", in_mount("f")});
  EXPECT_EQ(result.status, 2) << "standard input is no terminal";
  EXPECT_TRUE(has_line(result.output, {"exclusive flock lock", std::to_string(holder.pid())}));
  EXPECT_TRUE(has_line(result.output, {"say --yes"}));
  EXPECT_EQ(run_json({"list", "-J"})["locks"].size(), 1U);
}

TEST_F(Manage, BreakGrantsThoseBehindInTheirOrder) {
  make_file("f");
  Locker& holder = hold("f", kPosix, kExclusive);
  Locker& first = await("f", kFlock, kShared);
  Locker& second = await("f", kOfd, kShared, {0, 10});
  Locker& third = await("f", kFlock, kExclusive);
  const ProgramResult result = run({"break", in_mount("f"), "--yes"});
  EXPECT_EQ(result.status, 0) << result.output;
  EXPECT_TRUE(
      has_line(result.output, {"broken: ", "0-EOF of pid " + std::to_string(holder.pid())}));
  EXPECT_EQ(first.result(), 0);
  EXPECT_EQ(second.result(), 0);
  EXPECT_TRUE(third.waits());
  EXPECT_TRUE(mirror_is(fs().pid(), fs().in_source("f"), {{0, kEof, kShared}}));
  EXPECT_NE(fs().log().find("BROKEN"), std::string::npos);
}

TEST_F(Manage, BreakByRangeOwnerAndPid) {
  make_file("f");
  make_file("g");
  Locker& holder = hold("f", kPosix, kExclusive, {0, 100});
  Locker& other = hold("f", kPosix, kExclusive, {200, 100});
  ASSERT_EQ(run({"break", in_mount("f"), "--range", "10-19", "-y"}).status, 0);
  EXPECT_TRUE(mirror_is(fs().pid(), fs().in_source("f"),
                        {{0, 9, kExclusive}, {20, 99, kExclusive}, {200, 299, kExclusive}}));
  const std::string owner =
      run({"list", "-n", "-r", "-o", "OWNER", "--pid", std::to_string(holder.pid())}).output;
  ASSERT_EQ(run({"break", "--owner", owner.substr(0, owner.find('\n')), "-y"}).status, 0);
  EXPECT_TRUE(mirror_is(fs().pid(), fs().in_source("f"), {{200, 299, kExclusive}}));
  const int g = other.open(in_mount("g"), O_RDWR);
  ASSERT_EQ(static_cast<Lane&>(other).try_lock(g, kFlock, kExclusive), 0);
  ASSERT_EQ(run({"break", "--pid", std::to_string(other.pid()), "-y"}).status, 0);
  EXPECT_TRUE(run_json({"list", "-J"})["locks"].empty()) << "over all files";
  EXPECT_EQ(run({"break", "--pid", std::to_string(other.pid()), "-y"}).status, 1);
}

TEST_F(Manage, BreakNeedsToBeToldWhat) {
  make_file("f");
  hold("f", kPosix, kExclusive);
  for (const std::vector<std::string>& wrong :
       std::vector<std::vector<std::string>>{{"break", "-y"},
                                             {"break", "-y", fs().mount()},
                                             {"break", "-y", in_mount("f"), "--range", "9-1"},
                                             {"break", "-y", in_mount("f"), "--range", "x-1"},
                                             {"break", "-y", "--pid", "0"}}) {
    EXPECT_EQ(run(wrong).status, 2) << wrong.back();
  }
  EXPECT_EQ(run_json({"list", "-J"})["locks"].size(), 1U);
}

TEST_F(Manage, BreakSaysWhatToDoAboutALocalOutsider) {
  make_file("f");
  Locker& outsider = hold_outside("f", kPosix, kExclusive);
  const ProgramResult result = run({"break", in_mount("f"), "--yes"});
  EXPECT_EQ(result.status, 1);
  EXPECT_TRUE(has_line(result.output, {"held outside"}));
  EXPECT_TRUE(has_line(result.output, {"kill " + std::to_string(outsider.pid()), fs().mount()}));
}

/// A process called `name` that holds a POSIX lock on the file until it is killed.
Process impostor(const std::string& name, const std::string& path) {
  int ready[2];
  EXPECT_EQ(::pipe(ready), 0);
  Process process([&] {
    ::prctl(PR_SET_NAME, name.c_str());
    const int fd = ::open(path.c_str(), O_RDWR);
    struct flock lock {};
    lock.l_type = F_WRLCK;
    if (::fcntl(fd, F_SETLK, &lock) != 0 || ::write(ready[1], "x", 1) != 1) return 1;
    ::pause();
    return 0;
  });
  char byte = 0;
  ::close(ready[1]);
  EXPECT_EQ(::read(ready[0], &byte, 1), 1);
  ::close(ready[0]);
  return process;
}

TEST_F(Manage, BreakUsesTheNfsServersInterfacesWhenToldTo) {
  make_file("f");
  struct stat status {};
  ASSERT_EQ(::stat(fs().in_source("f").c_str(), &status), 0);
  const std::string nfsd = fs().scratch() + "/nfsd";
  std::filesystem::create_directories(nfsd + "/clients/7");
  std::filesystem::create_directories(nfsd + "/clients/8");
  const auto state = [&](std::uint64_t inode) {
    return "- 0x01: { type: lock, superblock: \"00:00:" + std::to_string(inode) +
           "\", filename: \"f\", owner: \"x\" }\n";
  };
  ASSERT_TRUE(write_file(nfsd + "/clients/7/states", state(status.st_ino)));
  ASSERT_TRUE(write_file(nfsd + "/clients/7/info", "clientid: 0x1\naddress: \"10.0.0.7:830\"\n"));
  ASSERT_TRUE(write_file(nfsd + "/clients/8/states", state(status.st_ino + 1)));
  for (const char* file : {"/clients/7/ctl", "/clients/8/ctl", "/unlock_filesystem"}) {
    ASSERT_TRUE(write_file(nfsd + file, ""));
  }
  {
    const Process server = impostor("nfsd", fs().in_source("f"));
    ProgramResult told = run({"break", in_mount("f"), "--yes", "--nfsd", nfsd});
    EXPECT_EQ(told.status, 1) << "only said, not done";
    EXPECT_TRUE(has_line(told.output, {"expel the client 10.0.0.7:830"}));
    EXPECT_TRUE(has_line(told.output, {"echo expire > " + nfsd + "/clients/7/ctl"}));
    EXPECT_EQ(read_file(nfsd + "/clients/7/ctl"), "");
    told = run({"break", in_mount("f"), "--yes", "--outside", "--nfsd", nfsd});
    EXPECT_EQ(told.status, 0) << told.output;
    EXPECT_EQ(read_file(nfsd + "/clients/7/ctl"), "expire\n");
    EXPECT_EQ(read_file(nfsd + "/clients/8/ctl"), "") << "another file's client";
  }
  const Process server = impostor("lockd", fs().in_source("f"));
  const ProgramResult told = run({"break", in_mount("f"), "--yes", "--outside", "--nfsd", nfsd});
  EXPECT_EQ(told.status, 0) << told.output;
  EXPECT_TRUE(has_line(told.output, {"unlock_ip"}));
  EXPECT_EQ(read_file(nfsd + "/unlock_filesystem"),
            std::filesystem::canonical(fs().source()).string() + "\n");
}

// -- looking
// ---------------------------------------------------------------------------------------

TEST_F(Manage, StatsCountWhatHappened) {
  make_file("f");
  Locker& holder = hold("f", kPosix, kExclusive);
  Locker& waiter = await("f", kPosix, kExclusive);
  Locker refused(in_mount("f"));
  EXPECT_EQ(refused.try_lock(kPosix, kShared), EAGAIN);
  ASSERT_EQ(holder.unlock(kPosix), 0);
  ASSERT_EQ(waiter.result(), 0);
  const Json stats = run_json({"stats", "--json"})[0];
  EXPECT_EQ(stats["mount"], fs().mount());
  EXPECT_EQ(stats["counters"]["grants"], 2);
  EXPECT_EQ(stats["counters"]["waits"].get<int>() >= 1, true);
  EXPECT_EQ(stats["counters"]["conflicts"].get<int>() >= 1, true);
  EXPECT_EQ(stats["gauges"]["locks"], 1);
  EXPECT_EQ(stats["gauges"]["waiters"], 0);
  EXPECT_EQ(stats["timings"]["wait"]["count"], 1);
  EXPECT_GT(stats["gauges"]["resident_bytes"], 100'000);

  const std::string text = run({"stats"}).output;
  EXPECT_TRUE(has_line(text, {"grants", " 2"}));
  const std::string metrics = run({"stats", "--prometheus"}).output;
  const std::string label = "{mount=\"" + fs().mount() + "\"}";
  EXPECT_TRUE(has_line(metrics, {"# TYPE lockfs_grants_total counter"}));
  EXPECT_TRUE(has_line(metrics, {"lockfs_grants_total" + label + " 2"}));
  EXPECT_TRUE(has_line(metrics, {"lockfs_locks" + label + " 1"}));
  EXPECT_TRUE(has_line(metrics, {"lockfs_wait_seconds_bucket{mount=\"", "le=\"+Inf\"} 1"}));
  EXPECT_TRUE(has_line(metrics, {"lockfs_wait_seconds_count" + label + " 1"}));
}

// A request that has to wait for an outsider asks the source once whether it can be had, and then
// waits there: the first one through an open file, which libfuse carries out, and a later one,
// which is tried before libfuse sees it.
TEST_F(Manage, ARequestThatHasToWaitAsksTheSourceOnce) {
  make_file("f");
  Locker& outsider = hold_outside("f", kPosix, kExclusive, {0, 9});
  const auto stats = [this] { return run_json({"stats", "--json"})[0]; };
  const auto counter = [&](const char* name) {
    return stats()["counters"][name].get<std::uint64_t>();
  };
  const auto expect_waits = [&](Locker& waiter) {
    const std::uint64_t calls = counter("mirror_calls");
    const std::uint64_t waits = counter("outside_waits");
    waiter.start_lock(kOfd, kExclusive, {5, 20});
    ASSERT_TRUE(eventually([&] { return stats()["gauges"]["waiters"] == 1; }));
    EXPECT_EQ(counter("mirror_calls") - calls, 1U);
    EXPECT_EQ(counter("outside_waits") - waits, 1U);
  };
  Locker first(in_mount("f"));
  expect_waits(first);
  ASSERT_EQ(outsider.unlock(kPosix), 0);
  ASSERT_EQ(first.result(), 0);
  ASSERT_EQ(first.unlock(kOfd), 0);
  ASSERT_EQ(outsider.try_lock(kPosix, kExclusive, {0, 9}), 0);
  expect_waits(first);
  ASSERT_EQ(outsider.unlock(kPosix), 0);
  ASSERT_EQ(first.result(), 0);
}

TEST_F(Manage, VerifyAgreesAndDisagrees) {
  make_file("f");
  hold("f", kPosix, kExclusive, {0, 10});
  hold("f", kOfd, kShared, {5000, 10});
  // A request that waits for an outsider may have the lock in the mirror already; that is well.
  hold_outside("f", kPosix, kShared, {100, 1});
  await("f", kPosix, kExclusive, {100, 1});
  const ProgramResult well = run({"verify"});
  EXPECT_EQ(well.status, 0) << well.output;
  EXPECT_TRUE(has_line(well.output, {"1 files compared, 0 differences"}));
}

TEST_F(Manage, PingAndMounts) {
  const ProgramResult ping = run({"ping", fs().mount()});
  EXPECT_EQ(ping.status, 0);
  EXPECT_TRUE(
      has_line(ping.output, {fs().mount(), "pid " + std::to_string(fs().pid()), "answers"}));
  const Json mounts = run_json({"mounts", "--json"});
  ASSERT_EQ(mounts.size(), 1U) << mounts;
  EXPECT_EQ(mounts[0]["mountpoint"], fs().mount());
  EXPECT_EQ(mounts[0]["socket"], socket());
  EXPECT_TRUE(has_line(run({"mounts"}).output, {fs().mount(), fs().source()}));
  const ProgramResult nobody = run_program({lockfsctl_program(), "--socket", "/nowhere", "ping"});
  EXPECT_EQ(nobody.status, 1);
  EXPECT_TRUE(has_line(nobody.output, {"lockfsctl: nobody listens at /nowhere"}));
}

TEST_F(Manage, AStrangerIsTurnedAway) {
  std::filesystem::permissions(fs().scratch(), std::filesystem::perms::others_exec,
                               std::filesystem::perm_options::add);
  ProgramOptions stranger;
  stranger.uid = 65534;
  stranger.gid = 65534;
  for (const char* command : {"ping", "list", "stats"}) {
    const ProgramResult result = run({command}, stranger);
    EXPECT_EQ(result.status, 1);
    EXPECT_TRUE(
        has_line(result.output, {"lockfsctl: cannot reach", "Permission denied", "be root"}));
  }
}

TEST_F(Manage, AStoppedDaemonIsNotAwaitedForEver) {
  ASSERT_EQ(::kill(fs().pid(), SIGSTOP), 0);
  const ProgramResult result = run({"stats"});
  ASSERT_EQ(::kill(fs().pid(), SIGCONT), 0);
  EXPECT_EQ(result.status, 1);
  EXPECT_TRUE(has_line(result.output, {"lockfsctl: ping: no answer within", "stopped?"}));
  EXPECT_EQ(run({"stats"}).status, 0);
}

TEST_F(Manage, WatchStreamsUntilTheMountEnds) {
  make_file("f");
  const std::string out = fs().scratch() + "/watch.out";
  Process watch([&] {
    const int fd = ::open(out.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644);
    ::dup2(fd, 1);
    ::execl(lockfsctl_program().c_str(), "lockfsctl", "--socket", socket().c_str(), "watch",
            static_cast<char*>(nullptr));
    return 127;
  });
  Locker locker(in_mount("f"));
  // The first ones may come before it listens.
  EXPECT_TRUE(eventually([&] {
    EXPECT_EQ(locker.try_lock(kPosix, kExclusive, {7, 3}), 0);
    EXPECT_EQ(locker.unlock(kPosix, {7, 3}), 0);
    return read_file(out).find("release") != std::string::npos;
  }));
  Locker other(in_mount("f"));
  ASSERT_EQ(locker.try_lock(kPosix, kExclusive), 0);
  EXPECT_EQ(other.try_lock(kFlock, kShared), EWOULDBLOCK);
  EXPECT_TRUE(eventually([&] { return read_file(out).find("refusal") != std::string::npos; }));
  const std::string text = read_file(out);
  EXPECT_TRUE(has_line(text, {"grant", "posix exclusive 7-9", in_mount("f"),
                              "pid " + std::to_string(locker.pid())}));
  EXPECT_TRUE(has_line(text, {"refusal", "flock shared", "pid " + std::to_string(other.pid())}));
  locker.close();
  other.close();
  EXPECT_EQ(fs().stop(), "");
  EXPECT_EQ(watch.wait(), 0) << "it ends with the mount";
}

// -- top
// -------------------------------------------------------------------------------------------

TEST_F(Manage, TopNeedsATerminal) {
  const ProgramResult result = run({"top"});
  EXPECT_EQ(result.status, 2);
  EXPECT_TRUE(has_line(result.output, {"lockfsctl: top needs a terminal"}));
}

TEST_F(Manage, TopInTmuxShowsWaitsAndQuitsWithQ) {
  make_file("busy");
  Locker& holder = hold("busy", kFlock, kExclusive);
  Locker& waiter = await("busy", kFlock, kExclusive);
  const std::string server = "lockfs-top-" + std::to_string(::getpid());
  const std::string done = fs().scratch() + "/top.done";
  const auto tmux = [&](std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {"tmux", "-L", server, "-f", "/dev/null"});
    return run_program(arguments);
  };
  const std::string command =
      lockfsctl_program() + " --socket " + socket() + " top -d 0.2; echo status $? > " + done;
  ASSERT_EQ(tmux({"new-session", "-d", "-x", "120", "-y", "30", command}).status, 0);
  std::string screen;
  EXPECT_TRUE(eventually([&] {
    screen = tmux({"capture-pane", "-p"}).output;
    return screen.find("q quits") != std::string::npos;
  })) << screen;
  EXPECT_TRUE(has_line(screen, {"lockfsctl top - " + fs().mount()}));
  EXPECT_TRUE(has_line(screen, {"1 locks, 1 waiting"}));
  EXPECT_TRUE(has_line(screen, {std::to_string(waiter.pid()), "WRITE", "0-EOF",
                                std::to_string(holder.pid()), in_mount("busy")}));
  // It lives: what happens while it runs comes up.
  Locker more(in_mount("busy"));
  EXPECT_TRUE(eventually([&] {
    EXPECT_EQ(more.try_lock(kPosix, kShared), EAGAIN);
    screen = tmux({"capture-pane", "-p"}).output;
    return screen.find(" 0 conflicts") == std::string::npos;
  })) << screen;
  ASSERT_EQ(holder.unlock(kFlock), 0);
  ASSERT_EQ(waiter.result(), 0);
  EXPECT_TRUE(eventually([&] {
    screen = tmux({"capture-pane", "-p"}).output;
    return screen.find("1 locks, 0 waiting") != std::string::npos;
  })) << screen;
  tmux({"send-keys", "q"});
  EXPECT_TRUE(eventually([&] { return read_file(done) == "status 0\n"; })) << read_file(done);
  tmux({"kill-server"});
}

// -- doctor
// ----------------------------------------------------------------------------------------

class Doctor : public CommandTest {
 protected:
  void SetUp() override {
    CommandTest::SetUp();
    for (const char* folder : {"/dev", "/etc/exports.d", "/proc/sys/kernel", "/proc/sys/fs/fuse",
                               "/proc/self", "/proc/fs/nfsd", "/run", "/var/lib/nfs"}) {
      std::filesystem::create_directories(root() + folder);
    }
    put("/dev/fuse", "");
    put("/proc/sys/kernel/osrelease", "6.12.0\n");
    put("/proc/mounts", "");
    put("/proc/" + std::to_string(fs().pid()) + "/limits",
        "Max open files            1048576              1048576              files\n");
  }
  [[nodiscard]] std::string root() const { return socket() + "-root"; }
  void put(const std::string& path, const std::string& text) {
    std::filesystem::create_directories(std::filesystem::path(root() + path).parent_path());
    ASSERT_TRUE(write_file(root() + path, text)) << path;
  }
  ProgramResult examine() { return run({"doctor", "--root", root()}); }
  /// Expects one trap with these words, and its cure.
  void expect_trap(const std::vector<std::string>& words, const std::string& cure) {
    const ProgramResult result = examine();
    EXPECT_EQ(result.status, 1) << result.output;
    std::vector<std::string> line = words;
    line.insert(line.begin(), "TRAP");
    EXPECT_TRUE(has_line(result.output, line));
    EXPECT_TRUE(has_line(result.output, {"cure: ", cure}));
    EXPECT_EQ(result.output.find("TRAP"), result.output.rfind("TRAP")) << result.output;
  }
};

TEST_F(Doctor, FindsNothingWhereAllIsWell) {
  const ProgramResult result = examine();
  EXPECT_EQ(result.status, 0) << result.output;
  EXPECT_TRUE(has_line(result.output, {fs().source(), " on ", fs().mount()}));
  EXPECT_EQ(result.output.find("TRAP"), std::string::npos) << result.output;
}

TEST_F(Doctor, NoFuseDevice) {
  std::filesystem::remove(root() + "/dev/fuse");
  expect_trap({"/dev/fuse is missing"}, "modprobe fuse");
}

TEST_F(Doctor, AnOldKernelIsANoteNotATrap) {
  put("/proc/sys/kernel/osrelease", "6.1.0-amd64\n");
  const ProgramResult result = examine();
  EXPECT_EQ(result.status, 0) << result.output;
  EXPECT_TRUE(has_line(result.output, {"note", "no data passthrough", "6.1.0"}));
}

TEST_F(Doctor, RequestTimeouts) {
  put("/proc/sys/fs/fuse/default_request_timeout", "0\n");
  put("/proc/sys/fs/fuse/max_request_timeout", "120\n");
  expect_trap({"fs.fuse.max_request_timeout is 120"}, "sysctl -w fs.fuse.max_request_timeout=0");
}

TEST_F(Doctor, FewDescriptors) {
  put("/proc/" + std::to_string(fs().pid()) + "/limits",
      "Max open files            1024              4096              files\n");
  expect_trap({"only 1024 files"}, "LimitNOFILE");
}

TEST_F(Doctor, AMountWhoseDaemonIsStopped) {
  put("/proc/self/mountinfo", read_file("/proc/self/mountinfo"));
  ASSERT_EQ(::kill(fs().pid(), SIGSTOP), 0);
  // Not by its socket, which does not answer either.
  const ProgramResult result = run_program({lockfsctl_program(), "doctor", "--root", root()});
  ::kill(fs().pid(), SIGCONT);
  EXPECT_EQ(result.status, 1) << result.output;
  EXPECT_TRUE(has_line(result.output, {"TRAP", fs().mount() + " does not answer"}));
  EXPECT_TRUE(has_line(result.output, {"cure: ", "pkill -CONT"}));
}

TEST_F(Doctor, AnExportOfTheMount) {
  put("/etc/exports", "# " + fs().mount() + " *(rw)\n/srv *(ro)\n");
  put("/run/rpc.statd.pid", "1\n");
  EXPECT_EQ(examine().status, 0) << examine().output;
  put("/etc/exports.d/x.exports", fs().mount() + "/sub 10.0.0.0/8(rw)\n");
  expect_trap({"/etc/exports.d/x.exports exports " + fs().mount() + "/sub", "ENOLCK"},
              "export " + fs().source() + "/sub instead");
  put("/proc/fs/nfsd/versions", "-2 -3 +4 +4.1 +4.2\n");
  EXPECT_EQ(examine().status, 0) << "NFSv4 alone is well: " << examine().output;
}

TEST_F(Doctor, NoStatd) {
  put("/etc/exports", "/srv *(rw)\n");
  expect_trap({"rpc.statd does not run"}, "rpc-statd");
}

TEST_F(Doctor, AGracePeriodIsANoteNotATrap) {
  put("/proc/fs/nfsd/v4_end_grace", "N\n");
  put("/proc/fs/lockd/nlm_end_grace", "Y\n");
  put("/proc/fs/nfsd/threads", "0\n");
  EXPECT_FALSE(has_line(examine().output, {"grace period"})) << "no server runs";
  put("/proc/fs/nfsd/threads", "8\n");
  const ProgramResult result = examine();
  EXPECT_EQ(result.status, 0) << result.output;
  EXPECT_TRUE(has_line(result.output, {"note", "the NFS server is in its grace period"}));
  EXPECT_TRUE(has_line(result.output, {"echo Y > /proc/fs/nfsd/v4_end_grace"}));
  put("/proc/fs/nfsd/v4_end_grace", "Y\n");
  EXPECT_FALSE(has_line(examine().output, {"grace period"}));
}

TEST_F(Doctor, ClientsThatLockLocally) {
  put("/proc/mounts",
      "srv:/a /a nfs4 rw,vers=4.2,local_lock=none 0 0\n"
      "srv:/b /b nfs rw,vers=3,local_lock=flock,addr=1.2.3.4 0 0\n");
  expect_trap({"/b (srv:/b) is mounted with local_lock=flock"}, "without local_lock=flock");
}

TEST_F(Doctor, FlocksStraightOnTheSource) {
  make_file("f");
  Locker& culprit = hold_outside("f", kFlock, kShared);
  expect_trap({"pid " + std::to_string(culprit.pid()), "flock straight on", fs().in_source("f")},
              "have it use " + fs().mount());
}

}  // namespace
}  // namespace lockfs::test
