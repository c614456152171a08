// Programs that people run on a filesystem, run on the mount: flock(1), sqlite3, git, tar, cp, a
// compiler, stress-ng, and small lockers in C++ and Python. A program that is not installed fails
// its test.
// ctest: timeout=900
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "tests/mounted/fs/fs_support.h"

namespace lockfs::fstest {
namespace {

using Command = std::vector<std::string>;

class ProgramsTest : public FsTest, public ::testing::WithParamInterface<std::string> {
 protected:
  std::vector<std::string> options() const override { return {GetParam()}; }

  /// Runs the commands at once in the given directories and expects each to end with 0.
  static void run_together(const std::vector<std::pair<std::string, Command>>& commands) {
    std::vector<std::unique_ptr<test::Process>> processes;
    processes.reserve(commands.size());
    for (const auto& [directory, command] : commands) {
      processes.push_back(
          std::make_unique<test::Process>([&directory = directory, &command = command] {
            const ProgramResult result = run_in(directory, command);
            if (result.status != 0) {
              std::printf("%s ended with %d: %s\n", command[0].c_str(), result.status,
                          result.output.c_str());
              std::fflush(stdout);
            }
            return result.status;
          }));
    }
    for (std::size_t number = 0; number < processes.size(); ++number) {
      EXPECT_EQ(processes[number]->wait(), 0) << commands[number].second[0];
    }
  }

  static std::string locker() {
    const char* directory = std::getenv("LOCKFS_BIN_DIR");  // NOLINT(concurrency-mt-unsafe)
    return (directory != nullptr
                ? std::string(directory)
                : test::lockfs_program().substr(0, test::lockfs_program().rfind('/'))) +
           "/append_locked";
  }
  static std::string python_locker() {
    return std::string(LOCKFS_SOURCE_DIR) + "/tests/mounted/fs/append_locked.py";
  }
};

INSTANTIATE_TEST_SUITE_P(Passthrough, ProgramsTest,
                         ::testing::Values("passthrough=auto", "passthrough=off"),
                         [](const auto& test) {
                           return test.param.substr(test.param.find('=') + 1);
                         });

TEST_P(ProgramsTest, FlockKeepsACounterWhole) {
  constexpr int kWriters = 4;
  const int rounds = scaled(40, 5);
  write_file(mounted_ / "counter", "0\n");
  const std::string script =
      "i=0; while [ $i -lt " + std::to_string(rounds) +
      " ]; do flock lockfile sh -c 'read n < counter; echo $((n + 1)) > counter' || exit 1; "
      "i=$((i + 1)); done";
  run_together(std::vector<std::pair<std::string, Command>>(kWriters,
                                                            {mounted_.path, {"sh", "-c", script}}));
  EXPECT_EQ(read_file(mounted_ / "counter"), std::to_string(kWriters * rounds) + "\n");
}

TEST_P(ProgramsTest, FlockTellsWhoIsLockedOut) {
  write_file(mounted_ / "lockfile", "");
  // The inner command runs while the outer holds the lock.
  const auto inner = [&](const std::string& outer, const std::string& options) {
    return run_in(mounted_.path,
                  {"sh", "-c",
                   "flock " + outer + " lockfile flock " + options + " -E 42 lockfile true"})
        .status;
  };
  EXPECT_EQ(inner("-x", "-n -x"), 42);
  EXPECT_EQ(inner("-x", "-n -s"), 42);
  EXPECT_EQ(inner("-s", "-n -x"), 42);
  EXPECT_EQ(inner("-s", "-n -s"), 0);
  EXPECT_EQ(run_in(mounted_.path, {"flock", "-n", "-x", "lockfile", "true"}).status, 0);
  EXPECT_EQ(run_in(mounted_.path, {"flock", "-n", "-x", ".", "true"}).status,
            run_in(plain_.path, {"flock", "-n", "-x", ".", "true"}).status)
      << "a lock on a directory";
}

TEST_P(ProgramsTest, LockersInSeveralLanguagesShareOneFile) {
  // Each locks by a call of its own; the calls exclude one another on this filesystem.
  const long rounds = scaled(400, 20);
  const std::string count = std::to_string(rounds);
  // The same call in several processes, for each of the calls.
  for (const std::string kind : {"flock", "posix", "ofd"}) {
    write_file(mounted_ / kind, "");
    const Command command{locker(), kind, kind, count};
    run_together({{mounted_.path, command}, {mounted_.path, command}, {mounted_.path, command}});
    EXPECT_EQ(std::stol(read_file(mounted_ / kind)), 3 * rounds) << kind;
  }
  for (const std::string kind : {"flock", "lockf"}) {
    const std::string name = "python-" + kind;
    write_file(mounted_ / name, "");
    const Command command{"python3", python_locker(), kind, name, count};
    run_together({{mounted_.path, command}, {mounted_.path, command}});
    EXPECT_EQ(std::stol(read_file(mounted_ / name)), 2 * rounds) << name;
  }
  if (plain_mode()) return;
  // All of them together, and one on the source beside them as a file server would lock there.
  write_file(mounted_ / "all", "");
  run_together({{mounted_.path, {locker(), "flock", "all", count}},
                {mounted_.path, {locker(), "posix", "all", count}},
                {mounted_.path, {locker(), "ofd", "all", count}},
                {mounted_.path, {"python3", python_locker(), "flock", "all", count}},
                {mounted_.path, {"python3", python_locker(), "lockf", "all", count}},
                {behind_.path, {locker(), "posix", "all", count}}});
  EXPECT_EQ(std::stol(read_file(mounted_ / "all")), 6 * rounds);
}

TEST_P(ProgramsTest, SqliteWithSeveralWriters) {
  constexpr int kWriters = 4;
  const int rounds = scaled(25, 3);
  for (const std::string journal : {"delete", "truncate", "persist", "wal"}) {
    const std::string base = journal + ".db";
    must_run(mounted_.path, {"sqlite3", base,
                             "PRAGMA journal_mode=" + journal +
                                 "; CREATE TABLE t(writer INTEGER, round INTEGER, filler BLOB, "
                                 "PRIMARY KEY(writer, round));"});
    std::vector<std::pair<std::string, Command>> commands;
    for (int writer = 0; writer < kWriters; ++writer) {
      // Each insert a transaction of its own, of which some touch many pages.
      std::string script = ".timeout 600000\nPRAGMA synchronous=OFF;\n";
      for (int round = 0; round < rounds; ++round) {
        script += "BEGIN IMMEDIATE; INSERT INTO t VALUES(" + std::to_string(writer) + "," +
                  std::to_string(round) + ",randomblob(" + std::to_string(round % 5 * 3000) +
                  ")); COMMIT; SELECT count(*) FROM t;\n";
      }
      const std::string name = "script" + std::to_string(writer);
      write_file(plain_ / name, script);
      commands.push_back(
          {mounted_.path, {"sh", "-c", "exec sqlite3 -bail " + base + " < " + (plain_ / name)}});
    }
    run_together(commands);
    EXPECT_EQ(must_run(mounted_.path,
                       {"sqlite3", base, "PRAGMA integrity_check; SELECT count(*) FROM t;"}),
              "ok\n" + std::to_string(kWriters * rounds) + "\n")
        << journal;
    // The same file read on the source.
    EXPECT_EQ(must_run(behind_.path, {"sqlite3", base, "SELECT count(*) FROM t;"}),
              std::to_string(kWriters * rounds) + "\n")
        << journal;
  }
}

TEST_P(ProgramsTest, Git) {
  const std::vector<std::pair<std::string, std::string>> identity{
      {"GIT_AUTHOR_NAME", "A"},     {"GIT_AUTHOR_EMAIL", "a@example.org"},
      {"GIT_COMMITTER_NAME", "A"},  {"GIT_COMMITTER_EMAIL", "a@example.org"},
      {"GIT_CONFIG_NOSYSTEM", "1"}, {"GIT_CONFIG_GLOBAL", "/dev/null"},
      {"HOME", "/nonexistent"}};
  const auto git = [&](const std::string& directory, Command arguments) {
    arguments.insert(arguments.begin(), "git");
    return must_run(mounted_ / directory, arguments, identity);
  };
  git(".", {"init", "-q", "-b", "main", "repo"});
  auto random = make_random(30);
  const int commits = scaled(8, 2);
  for (int commit = 0; commit < commits; ++commit) {
    for (int file = 0; file < 30; ++file) {
      const std::string directory = "repo/d" + std::to_string(below(random, 5));
      ::mkdirat(mounted_.fd, directory.c_str(), 0755);
      write_file(mounted_ / (directory + "/f" + std::to_string(below(random, 40))),
                 pattern(below(random, 1000), below(random, 20000)));
    }
    git("repo", {"add", "-A"});
    git("repo", {"commit", "-q", "-m", "commit " + std::to_string(commit)});
  }
  git(".", {"clone", "-q", "--no-hardlinks", "repo", "copy"});
  git(".", {"clone", "-q", "repo", "linked"});
  git("repo", {"checkout", "-q", "-b", "side", "HEAD~1"});
  git("repo", {"checkout", "-q", "main"});
  git("repo", {"gc", "-q"});
  for (const char* directory : {"repo", "copy", "linked"}) {
    git(directory, {"fsck", "--full", "--strict"});
    EXPECT_EQ(git(directory, {"status", "--porcelain"}), "") << directory;
    EXPECT_EQ(git(directory, {"rev-list", "--count", "main"}), std::to_string(commits) + "\n");
  }
  git("copy", {"pull", "-q", "--ff-only"});
}

/// A tree with every kind of file, hard links, long names and odd times.
void plant(const Dir& dir, std::mt19937_64& random) {
  ASSERT_EQ(::mkdirat(dir.fd, "tree", 0755), 0);
  for (int number = 0; number < 300; ++number) {
    const std::string directory = "tree/d" + std::to_string(number % 17);
    ::mkdirat(dir.fd, directory.c_str(), 0750);
    const std::string name = directory + "/f" + std::to_string(number);
    write_file(dir / name, pattern(static_cast<std::uint64_t>(number), below(random, 20000)));
    const std::array<timespec, 2> times{timespec{1000000000 + number, 5},
                                        timespec{1100000000 + number, 123456789}};
    ASSERT_EQ(::utimensat(dir.fd, name.c_str(), times.data(), 0), 0);
    ASSERT_EQ(::fchmodat(dir.fd, name.c_str(), 0400 + static_cast<mode_t>(number % 256), 0), 0);
    if (number % 10 == 0) {
      ASSERT_EQ(::linkat(dir.fd, name.c_str(), dir.fd, (name + "-hard").c_str(), 0), 0);
    }
    if (number % 11 == 0) {
      ASSERT_EQ(
          ::symlinkat(("../f" + std::to_string(number)).c_str(), dir.fd, (name + "-link").c_str()),
          0);
    }
    if (number % 13 == 0) {
      ASSERT_EQ(::fchownat(dir.fd, name.c_str(), 1000 + static_cast<uid_t>(number), 2000, 0), 0);
    }
  }
  ASSERT_EQ(::mkfifoat(dir.fd, "tree/fifo", 0600), 0);
  const Fd sparse(::openat(dir.fd, "tree/sparse", O_RDWR | O_CREAT | O_CLOEXEC, 0644));
  ASSERT_EQ(::pwrite(sparse, "data", 4, 5000000), 4);
  write_file(dir / ("tree/" + std::string(255, 'n')), "long name");
}

/// What a faithful copy keeps: everything of the portrait, and modification times.
std::string faithful(const std::string& root) {
  return portrait(root, Detail::kPortable) +
         must_run(root, {"sh", "-c", "find . -type f -printf '%P %T@\\n' | sort"});
}

TEST_P(ProgramsTest, TarAndCpCopyFaithfully) {
  auto random = make_random(31);
  plant(plain_, random);
  must_run("/", {"sh", "-c",
                 "tar --numeric-owner --xattrs -C " + plain_.path +
                     " -cf - tree | tar --numeric-owner --xattrs -C " + mounted_.path + " -xpf -"});
  expect_alike(faithful(mounted_ / "tree"), faithful(plain_ / "tree"), "copy");
  must_run(mounted_.path, {"cp", "-a", "tree", "copy"});
  expect_alike(faithful(mounted_ / "copy"), faithful(plain_ / "tree"), "copy");
  must_run(mounted_.path, {"mv", "copy", "moved"});
  must_run("/", {"sh", "-c",
                 "tar --numeric-owner --xattrs -C " + mounted_.path +
                     " -cf - moved | tar --numeric-owner --xattrs -C " + plain_.path + " -xpf -"});
  expect_alike(faithful(plain_ / "moved"), faithful(plain_ / "tree"), "copy");
  must_run("/", {"diff", "-r", "--no-dereference", mounted_ / "tree/d1", plain_ / "tree/d1"});
  // tar and du count a hard-linked file once.
  EXPECT_EQ(must_run(mounted_.path, {"sh", "-c", "find tree -type f -links +1 | wc -l"}),
            must_run(plain_.path, {"sh", "-c", "find tree -type f -links +1 | wc -l"}));
  must_run(mounted_.path, {"rm", "-rf", "tree", "moved"});
  EXPECT_EQ(must_run(behind_.path, {"ls", "-A"}), "");
}

TEST_P(ProgramsTest, RsyncKeepsTreesAlike) {
  auto random = make_random(32);
  plant(plain_, random);
  const Command sync{"rsync",    "-aHX",           "--numeric-ids",
                     "--delete", plain_ / "tree/", mounted_ / "tree/"};
  must_run("/", sync);
  expect_alike(faithful(mounted_ / "tree"), faithful(plain_ / "tree"), "copy");
  Command again = sync;
  again.insert(again.begin() + 1, "--itemize-changes");
  EXPECT_EQ(must_run("/", again), "") << "a second run must find nothing to do";
  write_file(plain_ / "tree/d1/new", "new");
  ASSERT_EQ(::unlinkat(plain_.fd, "tree/d2/f2", 0), 0);
  must_run("/", sync);
  expect_alike(faithful(mounted_ / "tree"), faithful(plain_ / "tree"), "copy");
}

TEST_P(ProgramsTest, CompileAndRun) {
  write_file(mounted_ / "say.h", "#pragma once\nconst char* say();\n");
  write_file(mounted_ / "say.cpp",
             "#include \"say.h\"\nconst char* say() { return \"built on the mount\"; }\n");
  write_file(mounted_ / "main.cpp",
             "#include <cstdio>\n#include \"say.h\"\nint main() { std::puts(say()); }\n");
  must_run(mounted_.path, {"g++", "-c", "-o", "say.o", "say.cpp"});
  must_run(mounted_.path, {"ar", "rcs", "libsay.a", "say.o"});
  must_run(mounted_.path, {"g++", "-shared", "-fPIC", "-o", "libsay.so", "say.cpp"});
  must_run(mounted_.path, {"g++", "-o", "static", "main.cpp", "libsay.a"});
  must_run(mounted_.path,
           {"g++", "-o", "shared", "main.cpp", "-L.", "-lsay", "-Wl,-rpath,$ORIGIN"});
  for (const char* program : {"./static", "./shared"}) {
    EXPECT_EQ(must_run(mounted_.path, {program}), "built on the mount\n");
  }
}

TEST_P(ProgramsTest, StressNgLocks) {
  // A number of operations, not a time: how long it takes decides nothing.
  for (const auto& [stressor, operations] : std::vector<std::pair<std::string, int>>{
           {"flock", 4000}, {"lockf", 4000}, {"lockofd", 4000}, {"locka", 4000}, {"fcntl", 2000}}) {
    const std::string output =
        must_run(mounted_.path, {"stress-ng", "--temp-path", mounted_.path, "--" + stressor, "2",
                                 "--" + stressor + "-ops", std::to_string(scaled(operations, 50)),
                                 "--verify", "--timeout", "0"});
    EXPECT_EQ(output.find("fail:"), std::string::npos) << output;
    EXPECT_NE(output.find("successful run completed"), std::string::npos) << output;
  }
}

TEST_P(ProgramsTest, StressNgFiles) {
  // The instances of chmod and chown share a file that the first one makes and removes; a second
  // one that starts after that waits for it in vain, on any filesystem.
  for (const auto& [stressor, instances] :
       std::vector<std::pair<std::string, std::string>>{{"dentry", "2"},
                                                        {"rename", "2"},
                                                        {"chmod", "1"},
                                                        {"chown", "1"},
                                                        {"xattr", "2"},
                                                        {"utime", "2"},
                                                        {"access", "2"}}) {
    const std::string output =
        must_run(mounted_.path, {"stress-ng", "--temp-path", mounted_.path, "--" + stressor,
                                 instances, "--" + stressor + "-ops",
                                 std::to_string(scaled(100, 10)), "--verify", "--timeout", "0"});
    EXPECT_EQ(output.find("fail:"), std::string::npos) << stressor << ": " << output;
  }
  EXPECT_EQ(must_run(behind_.path, {"ls", "-A"}), "");
}

}  // namespace
}  // namespace lockfs::fstest
