// lockfsctl on a mount whose daemon dies: who serves now, of what the last one died, and a watch
// that goes on.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <csignal>
#include <sstream>

#include "tests/ctl/commands.h"

namespace lockfs::test {
namespace {

constexpr const char* kReason = "killed by signal 9 (Killed)";

class Survive : public CommandTest {
 protected:
  [[nodiscard]] std::vector<std::string> options() const override { return {"survive=on"}; }

  void SetUp() override {
    CommandTest::SetUp();
    fs().allow_log("the daemon was killed by signal 9 .*generation [0-9]+ goes on");
  }

  /// Returns when the next daemon answers at the socket.
  void kill_daemon() {
    const pid_t old = fs().daemon_pid();
    ASSERT_GT(old, 0);
    ASSERT_EQ(::kill(old, SIGKILL), 0);
    // Until the next daemon closes it the old socket takes connections that nobody serves.
    ASSERT_TRUE(eventually([&] {
      ControlPeer peer(socket());
      if (!peer.valid()) return false;
      const Json reply = peer.call("ping");
      return reply.is_object() && reply["mount"]["pid"] != old;
    })) << fs().log();
  }

  /// lockfsctl watch, with its output in the file `out`.
  Process watch(const std::string& out, bool json) {
    return Process([this, out, json] {
      const int fd = ::open(out.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644);
      ::dup2(fd, 1);
      ::dup2(fd, 2);
      ::execl(lockfsctl_program().c_str(), "lockfsctl", "--socket", socket().c_str(), "watch",
              json ? "--json" : static_cast<char*>(nullptr), static_cast<char*>(nullptr));
      return 127;
    });
  }

  /// Locks and unlocks until a watch has said so: the first ones may come before it listens.
  ::testing::AssertionResult is_seen(Locker& locker, int first, const std::string& out,
                                     const std::string& text) {
    const Range range{first, 3};
    const bool seen = eventually([&] {
      EXPECT_EQ(locker.try_lock(kPosix, kExclusive, range), 0);
      EXPECT_EQ(locker.unlock(kPosix, range), 0);
      return read_file(out).find(text) != std::string::npos;
    });
    if (seen) return ::testing::AssertionSuccess();
    return ::testing::AssertionFailure() << text << " is not in\n" << read_file(out);
  }
};

TEST_F(Survive, TheFirstDaemonTellsOfNoDeath) {
  const ProgramResult ping = run({"ping"});
  EXPECT_EQ(ping.status, 0);
  EXPECT_TRUE(has_line(ping.output, {"pid " + std::to_string(fs().daemon_pid()), "answers"}));
  EXPECT_EQ(ping.output.find("the one before"), std::string::npos) << ping.output;
  ControlPeer peer(socket());
  const Json survival = peer.call("ping")["mount"]["survival"];
  EXPECT_EQ(survival, Json({{"survives", true},
                            {"generation", 1},
                            {"program_since", 1},
                            {"gap_ms", 0.0},
                            {"keepers", {fs().standby_pid(), fs().keeper_pid()}}}));
  EXPECT_EQ(run_json({"stats", "-J"})[0]["gauges"]["last_gap_ms"], 0);
}

TEST_F(Survive, TheInstalledProgramTakesOver) {
  make_file("f");
  Locker& holder = hold("f", kFlock, kExclusive);
  const pid_t before = fs().daemon_pid();
  const Json reply = ControlPeer(socket()).call("upgrade");
  EXPECT_EQ(reply["ok"], true) << reply;
  EXPECT_EQ(reply["result"]["generation"], 1);
  ASSERT_TRUE(eventually([&] {
    const pid_t now = fs().daemon_pid();
    return now > 0 && now != before && run({"ping"}).status == 0;
  }));
  const ProgramResult upgrade = run({"upgrade"});
  EXPECT_EQ(upgrade.status, 0);
  EXPECT_TRUE(has_line(upgrade.output, {"has taken over from", "ms"})) << upgrade.output;
  // It was no death.
  EXPECT_EQ(run({"ping"}).output.find("the one before"), std::string::npos);
  EXPECT_EQ(holder.unlock(kFlock), 0);
}

TEST_F(Survive, PingMountsAndStatsTellOfTheLastDeath) {
  make_file("f");
  Locker& holder = hold("f", kFlock, kExclusive);
  const pid_t first = fs().daemon_pid();
  kill_daemon();
  ASSERT_FALSE(HasFatalFailure());
  const std::string now = std::to_string(fs().daemon_pid());

  ControlPeer peer(socket());
  const Json mount = peer.call("ping")["mount"];
  EXPECT_EQ(mount["pid"], fs().daemon_pid());
  EXPECT_NE(mount["pid"], first);
  const Json& survival = mount["survival"];
  EXPECT_EQ(survival["survives"], true);
  EXPECT_EQ(survival["generation"], 2);
  EXPECT_EQ(survival["last_death"]["reason"], kReason);
  EXPECT_GT(survival["last_death"]["time"], 0);
  EXPECT_GT(survival["gap_ms"], 0);

  const ProgramResult ping = run({"ping"});
  EXPECT_EQ(ping.status, 0);
  EXPECT_TRUE(has_line(ping.output, {fs().mount(), "pid " + now, "answers"}));
  EXPECT_TRUE(has_line(ping.output, {fs().mount(), "daemon 2 since ", "the one before was ",
                                     kReason, " ms without"}));

  EXPECT_TRUE(has_line(run({"mounts"}).output, {"DAEMON", "SOCKET"}));
  EXPECT_TRUE(has_line(run({"mounts"}).output, {fs().mount(), now, " 2 ", socket()}));
  const Json listed = run_json({"mounts", "--json"})[0];
  EXPECT_EQ(listed["survives"], true);
  EXPECT_EQ(listed["generation"], 2);

  const Json stats = run_json({"stats", "-J"})[0];
  EXPECT_EQ(stats["survival"], survival);
  EXPECT_EQ(stats["gauges"]["generation"], 2);
  EXPECT_EQ(stats["gauges"]["last_gap_ms"], survival["gap_ms"]);
  EXPECT_EQ(stats["gauges"]["locks"], 1) << "held through the death";
  EXPECT_TRUE(has_line(run({"stats"}).output, {"daemon 2: the one before was ", kReason}));
  EXPECT_TRUE(has_line(run({"stats", "--prometheus"}).output,
                       {"lockfs_generation{mount=\"" + fs().mount() + "\"} 2"}));
  const Json locks = run_json({"list", "-J"})["locks"];
  ASSERT_EQ(locks.size(), 1U) << "the mirror's, which the keeper has as well, is no outsider's";
  EXPECT_EQ(locks[0]["pid"], holder.pid());

  kill_daemon();
  EXPECT_EQ(run_json({"mounts", "-J"})[0]["generation"], 3);
  EXPECT_EQ(run({"verify"}).status, 0);
}

TEST_F(Survive, OptionsChangedWhileMountedStay) {
  ASSERT_EQ(run({"policy", "set", "linux", fs().mount()}).status, 0);
  kill_daemon();
  EXPECT_EQ(run_json({"mounts", "-J"})[0]["policy"], "linux");
  ASSERT_EQ(run({"policy", "set", "fairness=readers", fs().mount()}).status, 0);
  kill_daemon();
  EXPECT_EQ(run_json({"mounts", "-J"})[0]["policy"], "linux,fairness=readers");
}

TEST_F(Survive, WatchGoesOn) {
  make_file("f");
  const std::string out = fs().scratch() + "/watch.out";
  Process watcher = watch(out, false);
  Locker locker(in_mount("f"));
  ASSERT_TRUE(is_seen(locker, 7, out, "release  posix           7-9"));
  kill_daemon();
  EXPECT_TRUE(eventually([&] { return read_file(out).find("restarted") != std::string::npos; }));
  EXPECT_TRUE(has_line(read_file(out), {"restarted", fs().mount(), "the daemon was ", kReason,
                                        " ms without", "events may be missing"}));
  EXPECT_TRUE(is_seen(locker, 20, out, "release  posix           20-22"));
  locker.close();
  EXPECT_EQ(fs().stop(), "");
  EXPECT_EQ(watcher.wait(), 0) << "it ends with the mount";
  EXPECT_TRUE(has_line(read_file(out), {fs().mount() + " has ended"}));
}

TEST_F(Survive, WatchGoesOnInJson) {
  make_file("f");
  const std::string out = fs().scratch() + "/watch.out";
  const Process watcher = watch(out, true);
  Locker locker(in_mount("f"));
  ASSERT_TRUE(is_seen(locker, 7, out, "\"start\":7"));
  for (int death = 1; death <= 3; ++death) {
    kill_daemon();
    ASSERT_TRUE(is_seen(locker, 100 * death, out, "\"start\":" + std::to_string(100 * death)));
  }
  std::istringstream lines(read_file(out));
  int generation = 1;
  for (std::string line; std::getline(lines, line);) {
    const Json event = Json::parse(line, nullptr, false);
    ASSERT_FALSE(event.is_discarded()) << line;
    if (event["event"] != "restarted") continue;
    EXPECT_EQ(event["generation"], ++generation);
    EXPECT_EQ(event["mountpoint"], fs().mount());
    EXPECT_EQ(event["reason"], kReason);
    EXPECT_GT(event["gap_ms"], 0);
    EXPECT_GT(event["time"], 0);
  }
  EXPECT_EQ(generation, 4);
}

TEST_F(Survive, ARecordingEndsWithALine) {
  const std::string trace = fs().scratch() + "/trace";
  const std::string out = fs().scratch() + "/out";
  Process recording([&] {
    const int fd = ::open(out.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644);
    ::dup2(fd, 1);
    ::dup2(fd, 2);
    ::execl(lockfsctl_program().c_str(), "lockfsctl", "--socket", socket().c_str(), "record", "-o",
            trace.c_str(), static_cast<char*>(nullptr));
    return 127;
  });
  ASSERT_TRUE(eventually([&] { return !read_file(trace).empty(); }));
  kill_daemon();
  EXPECT_EQ(recording.wait(), 1);
  EXPECT_TRUE(has_line(read_file(out), {"the daemon of", "was killed by signal 9", "--partial"}))
      << read_file(out);
}

// Each daemon that follows has too few descriptors to begin with.
TEST_F(Survive, DaemonsThatDieAtOnceAreNotTriedForEver) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "a sanitizer that cannot write its report may hang";
#endif
  fs().allow_log("critical: ");
  make_file("f");
  Locker holder(in_mount("f"));
  Locker waiter(in_mount("f"));
  ASSERT_EQ(holder.try_lock(kPosix, kExclusive), 0);
  waiter.start_lock(kPosix, kExclusive);
  ASSERT_TRUE(waiter.waits());
  const rlimit few{5, 5};
  ASSERT_EQ(::prlimit(fs().keeper_pid(), RLIMIT_NOFILE, &few, nullptr), 0);
  const pid_t daemon = fs().daemon_pid();
  ASSERT_GT(daemon, 0);
  ASSERT_EQ(::kill(daemon, SIGKILL), 0);
  EXPECT_EQ(waiter.result(), ECONNABORTED);
  EXPECT_EQ(fs().wait_exit(), "lockfs ended with status 1\n") << "and unmounts";
  EXPECT_TRUE(has_line(fs().log(), {"critical: ", "a new daemon cannot go on: "}));
  EXPECT_TRUE(has_line(fs().log(), {"10 daemons in a row died", "; unmounting"}));
  Locker outsider(fs().in_source("f"));
  EXPECT_EQ(outsider.try_lock(kPosix, kExclusive), 0);
}

}  // namespace
}  // namespace lockfs::test
