// lockfsctl list, who and graph against real holders and waiters.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <string>
#include <thread>

#include "tests/ctl/commands.h"

namespace lockfs::test {
namespace {

class List : public CommandTest {};

/// The record of a process; null when there is none, or a failure when there are several.
Json of_pid(const Json& records, pid_t pid) {
  Json found;
  for (const Json& record : records) {
    if (record.at("pid") != pid) continue;
    EXPECT_TRUE(found.is_null()) << records;
    found = record;
  }
  return found;
}

TEST_F(List, NothingIsAHeadingOnly) {
  const ProgramResult result = run({"list"});
  EXPECT_EQ(result.status, 0);
  EXPECT_TRUE(result.output.starts_with("COMMAND PID USER")) << result.output;
  EXPECT_EQ(std::count(result.output.begin(), result.output.end(), '\n'), 1) << result.output;
  EXPECT_EQ(run({"list", "-n"}).output, "");
  EXPECT_EQ(run({"graph"}).output, "nobody waits\n");
}

TEST_F(List, HoldersOfEachKindAndThoseBehind) {
  const std::uint64_t inode = make_file("f");
  Locker& posix = hold("f", kPosix, kExclusive, {0, 10});
  Locker& ofd = hold("f", kOfd, kShared, {100, 50});
  Locker& first = await("f", kFlock, kShared);
  Locker& second = await("f", kPosix, kExclusive, {120, 1});

  const Json json = run_json({"list", "--json"});
  ASSERT_EQ(json["locks"].size(), 2U) << json.dump(1);
  ASSERT_EQ(json["waiters"].size(), 2U) << json.dump(1);
  const Json lock = of_pid(json["locks"], posix.pid());
  EXPECT_EQ(lock["type"], "posix");
  EXPECT_EQ(lock["mode"], "exclusive");
  EXPECT_EQ(lock["start"], 0);
  EXPECT_EQ(lock["end"], 9);
  EXPECT_EQ(lock["path"], in_mount("f"));
  EXPECT_EQ(lock["inode"], inode);
  EXPECT_EQ(lock["outside"], false);
  EXPECT_EQ(lock["uid"], 0);
  EXPECT_EQ(lock["user"], "root");
  EXPECT_EQ(lock["waiters"], 1) << "the flock waits for it";
  EXPECT_EQ(of_pid(json["locks"], ofd.pid())["type"], "ofd");
  EXPECT_EQ(of_pid(json["locks"], ofd.pid())["waiters"], 1) << "the exclusive byte within";
  EXPECT_EQ(of_pid(json["waiters"], first.pid())["end"], nullptr);
  EXPECT_EQ(of_pid(json["waiters"], first.pid())["place"], "blocked");
  EXPECT_FALSE(of_pid(json["waiters"], second.pid()).is_null());

  const std::string table = run({"list", fs().mount()}).output;
  EXPECT_TRUE(has_line(
      table, {std::to_string(posix.pid()), "root", "POSIX WRITE", " 9 ", "mount", in_mount("f")}));
  EXPECT_TRUE(has_line(table, {std::to_string(first.pid()), "FLOCK READ*", "EOF"}));
  const std::string proc = run({"list", "--proc"}).output;
  struct stat status {};
  ASSERT_EQ(::stat(fs().in_source("f").c_str(), &status), 0);
  EXPECT_TRUE(has_line(proc, {": POSIX  ADVISORY  WRITE " + std::to_string(posix.pid()),
                              ":" + std::to_string(status.st_ino) + " 0 9"}));
  EXPECT_TRUE(has_line(proc, {": -> FLOCK  ADVISORY  READ  " + std::to_string(first.pid())}));
}

TEST_F(List, Filters) {
  make_file("f");
  make_file("g");
  Locker& one = hold("f", kFlock, kExclusive);
  Locker& two = hold("g", kFlock, kExclusive);
  Locker& waiter = await("f", kFlock, kExclusive);
  const auto pids = [&](std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {"list", "-n", "-r", "-o", "PID"});
    return run(std::move(arguments)).output;
  };
  const auto line = [](const Locker& l) { return std::to_string(l.pid()) + "\n"; };
  EXPECT_EQ(pids({in_mount("f")}), line(one) + line(waiter));
  EXPECT_EQ(pids({fs().in_source("f")}), line(one) + line(waiter)) << "by its name in the source";
  EXPECT_EQ(pids({"--waiting"}), line(waiter));
  EXPECT_EQ(pids({"--pid", std::to_string(two.pid())}), line(two));
  EXPECT_EQ(pids({"--older-than", "1h"}), "");
  EXPECT_EQ(pids({"--older-than", "0s", in_mount("g")}), line(two));
}

TEST_F(List, ThreadsForkedChildrenAndDeletedFiles) {
  make_file("f");
  Locker parent(in_mount("f"));
  ASSERT_EQ(parent.try_lock(kFlock, kExclusive), 0);
  Actor child = parent.fork();
  Lane thread = parent.thread();
  // The child asks for the lock of the open file that it shares: it is the same owner's.
  ASSERT_EQ(child.try_lock(parent.fd(), kFlock, kExclusive), 0);
  const Json shared = run_json({"list", "-J"})["locks"];
  ASSERT_EQ(shared.size(), 1U) << shared;
  EXPECT_EQ(shared[0]["pid"], child.pid()) << "whoever asked last";
  const int other = thread.open(in_mount("f"), O_RDWR);
  ASSERT_GE(other, 0);
  thread.start_lock(other, kOfd, kExclusive);
  ASSERT_TRUE(thread.waits());
  const Json wait = run_json({"list", "-J"})["waiters"];
  ASSERT_EQ(wait.size(), 1U);
  EXPECT_EQ(wait[0]["pid"], parent.pid());
  EXPECT_EQ(wait[0]["tid"], thread.tid());
  ASSERT_EQ(::unlink(in_mount("f").c_str()), 0);
  const Json deleted = run_json({"list", "-J"})["locks"];
  ASSERT_EQ(deleted.size(), 1U);
  EXPECT_EQ(deleted[0]["deleted"], true);
  EXPECT_EQ(deleted[0]["path"], in_mount("f"));
}

TEST_F(List, OutsidersStandInTheSameList) {
  make_file("f");
  make_file("unknown to the mount");
  Locker& inside = hold("f", kPosix, kShared, {0, 10});
  Locker& ofd = hold_outside("f", kOfd, kShared, {0, 10});
  Locker& posix = hold_outside("f", kPosix, kExclusive, {50, 10});
  Locker& flock = hold_outside("unknown to the mount", kFlock, kExclusive);
  Locker& waiter = await("f", kFlock, kShared);
  const Json json = run_json({"list", "-J", fs().mount()});
  ASSERT_EQ(json["locks"].size(), 4U) << json.dump(1);
  EXPECT_EQ(of_pid(json["locks"], inside.pid())["outside"], false);
  const Json their_ofd = of_pid(json["locks"], ofd.pid());
  EXPECT_EQ(their_ofd["outside"], true) << "told from the mirror, which looks the same";
  EXPECT_EQ(their_ofd["type"], "ofd");
  const Json their_posix = of_pid(json["locks"], posix.pid());
  EXPECT_EQ(their_posix["outside"], true);
  EXPECT_EQ(their_posix["waiters"], 1);
  EXPECT_EQ(their_posix["path"], in_mount("f"));
  EXPECT_EQ(of_pid(json["locks"], flock.pid())["path"], in_mount("unknown to the mount"));
  EXPECT_EQ(of_pid(json["waiters"], waiter.pid())["place"], "outside");
  EXPECT_TRUE(has_line(run({"list"}).output, {std::to_string(posix.pid()), "outside"}));
  EXPECT_EQ(run_json({"list", "-J", "--no-outside"})["locks"].size(), 1U);
  EXPECT_EQ(run_json({"list", "-J", in_mount("f")})["locks"].size(), 3U);
}

// Beside programs that take and drop locks, /proc/locks shows others twice.
TEST_F(List, EachLockOnceBesideLocksThatComeAndGo) {
  make_file("f");
  hold("f", kPosix, kShared, {0, 10});
  hold_outside("f", kOfd, kShared, {0, 10});
  hold_outside("f", kPosix, kExclusive, {50, 10});
  std::atomic<bool> done = false;
  std::array<std::thread, 2> others;
  for (std::size_t i = 0; i < others.size(); ++i) {
    others.at(i) = std::thread([&, name = fs().scratch() + "/other" + std::to_string(i)] {
      const int fd = ::open(name.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
      struct flock lock {};
      lock.l_len = 1;
      while (!done) {
        lock.l_type = F_WRLCK;
        for (lock.l_start = 0; lock.l_start < 40; lock.l_start += 2)
          ::fcntl(fd, F_OFD_SETLK, &lock);
        lock.l_type = F_UNLCK;
        for (lock.l_start = 0; lock.l_start < 40; lock.l_start += 2)
          ::fcntl(fd, F_OFD_SETLK, &lock);
      }
      ::close(fd);
    });
  }
  Json locks = {0, 0, 0};
  for (int i = 0; i < 50 && locks.size() == 3; ++i) locks = run_json({"list", "-J"})["locks"];
  done = true;
  for (std::thread& other : others) other.join();
  EXPECT_EQ(locks.size(), 3U) << locks.dump(1);
}

TEST_F(List, JsonFollowsItsSchema) {
  make_file("f");
  hold("f", kPosix, kExclusive, {5, 10});
  hold_outside("f", kPosix, kShared, {100, 1});
  await("f", kFlock, kExclusive);
  await("f", kOfd, kShared, {7, 1});
  const std::string report = fs().scratch() + "/list.json";
  ASSERT_TRUE(write_file(report, run({"list", "--json"}).output));
  const ProgramResult valid =
      run_program({"/usr/bin/python3", "-c",
                   "import json, sys, jsonschema\n"
                   "schema, report = (json.load(open(name)) for name in sys.argv[1:])\n"
                   "jsonschema.Draft7Validator.check_schema(schema)\n"
                   "jsonschema.validate(report, schema)\n"
                   "assert len(report['locks']) == 2 and len(report['waiters']) == 2",
                   LOCKFS_SOURCE_DIR "/tests/ctl/list.schema.json", report});
  EXPECT_EQ(valid.status, 0) << valid.output;
}

TEST_F(List, WhoSaysItInWords) {
  make_file("f");
  EXPECT_EQ(run({"who", in_mount("f")}).output,
            in_mount("f") + ": nobody holds or awaits a lock\n");
  Locker& holder = hold("f", kPosix, kShared, {0, 100});
  Locker& outsider = hold_outside("f", kPosix, kShared, {200, 1});
  Locker& waiter = await("f", kFlock, kExclusive);
  Locker& next = await("f", kOfd, kExclusive, {1000, 1});
  const std::string text = run({"who", in_mount("f")}).output;
  EXPECT_TRUE(has_line(text, {": 2 locks held, 2 requests waiting"}));
  EXPECT_TRUE(
      has_line(text, {"pid " + std::to_string(holder.pid()), "user root",
                      "holds a shared POSIX lock on bytes 0-99, for ", "since", "1 waits"}));
  EXPECT_TRUE(has_line(text, {"pid " + std::to_string(outsider.pid()), "byte 200", "outside"}));
  EXPECT_TRUE(has_line(text, {"pid " + std::to_string(waiter.pid()),
                              "waits for an exclusive flock on the whole file", "held up by pid ",
                              std::to_string(holder.pid())}));
  EXPECT_TRUE(has_line(text, {"pid " + std::to_string(next.pid()), "byte 1000",
                              "in the queue behind pid " + std::to_string(waiter.pid())}));
}

TEST_F(List, GraphDrawsWhoWaitsForWhom) {
  make_file("f");
  make_file("g");
  Locker& root = hold("f", kFlock, kExclusive);
  // Waits for f and holds g, so that another one waits for it.
  Locker middle(in_mount("g"));
  ASSERT_EQ(middle.try_lock(kFlock, kExclusive), 0);
  const int f = middle.open(in_mount("f"), O_RDWR);
  static_cast<Lane&>(middle).start_lock(f, kFlock, kExclusive);
  ASSERT_TRUE(middle.waits());
  Locker& leaf = await("g", kPosix, kShared, {0, 5});
  const auto pid = [](const Locker& l) { return "(pid " + std::to_string(l.pid()) + ")"; };

  const std::string text = run({"graph"}).output;
  const auto at = [&](const std::string& word) { return text.find(word); };
  EXPECT_TRUE(has_line(text, {"`-- ", pid(middle), "exclusive flock 0-EOF", in_mount("f")}));
  EXPECT_TRUE(has_line(text, {"    `-- ", pid(leaf), "shared posix 0-4", in_mount("g")}));
  EXPECT_LT(at(pid(root)), at(pid(middle)));
  EXPECT_LT(at(pid(middle)), at(pid(leaf)));

  const std::string dot = run({"graph", "--dot"}).output;
  EXPECT_TRUE(dot.starts_with("digraph")) << dot;
  std::size_t edges = 0;
  for (std::size_t i = dot.find("->"); i != std::string::npos; i = dot.find("->", i + 1)) ++edges;
  EXPECT_EQ(edges, 2U) << dot;

  const std::string svg = fs().scratch() + "/graph.svg";
  ASSERT_TRUE(write_file(svg, run({"graph", "--svg"}).output));
  const ProgramResult parsed =
      run_program({"/usr/bin/python3", "-c",
                   "import sys, xml.etree.ElementTree as x\n"
                   "root = x.parse(sys.argv[1]).getroot()\n"
                   "n = '{http://www.w3.org/2000/svg}'\n"
                   "print(len(root.findall(n + 'path')), len(root.findall(n + 'rect')) - 1)",
                   svg});
  EXPECT_EQ(parsed.output, "2 3\n") << "two arrows between three boxes";
}

TEST_F(List, MistakesAreOneLine) {
  for (const auto& [arguments, status, part] :
       std::vector<std::tuple<std::vector<std::string>, int, std::string>>{
           {{"list", "/nowhere"}, 1, "/nowhere: No such file"},
           {{"list", "/"}, 1, "lies in no lockfs mount"},
           {{"list", "--older-than", "soon"}, 2, "'soon' is no time"},
           {{"list", "-o", "COLOUR"}, 2, "no column 'COLOUR'"},
           {{"list", "--json", "--proc"}, 2, "--json"},
           {{"who"}, 2, "FILE is required"},
           {{"who", fs().mount()}, 2, "is a whole mount"},
           {{"nonsense"}, 2, "nonsense"},
           {{}, 2, "subcommand is required"}}) {
    const ProgramResult result = run(arguments);
    EXPECT_EQ(result.status, status) << result.output;
    EXPECT_NE(result.output.find(part), std::string::npos) << result.output;
    EXPECT_TRUE(result.output.starts_with("lockfsctl: ")) << result.output;
    EXPECT_EQ(std::count(result.output.begin(), result.output.end(), '\n'), 1) << result.output;
  }
}

}  // namespace
}  // namespace lockfs::test
