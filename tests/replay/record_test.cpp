// Recording a live mount, and replaying what was recorded.
// ctest: timeout=300 links=lockfs_record
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "fs/base/proc_locks.h"
#include "fs/record/keyed_hash.h"
#include "lockmgr/trace/decoder.h"
#include "mount-helpers/replay/script.h"
#include "tests/mounted/support/mounted.h"
#include "tests/mounted/support/played_server.h"
#include "tests/mounted/support/process.h"
#include "tests/replay/traces.h"

namespace replay::testing {
namespace {

using lockfs::test::deadline;
using lockfs::test::Mount;
using lockfs::test::Process;
using lockfs::test::ProgramResult;
using lockfs::test::run_program;
using lockfs::test::UniqueFd;
using lockmgr::trace::EventType;
using lockmgr::trace::Trace;

std::string program(const std::string& name) {
  return std::string(std::getenv("LOCKFS_BIN_DIR")) + "/" + name;
}

/// lockfsctl record, in the background.
class Recording {
 public:
  Recording(const Mount& mount, const std::string& output, std::vector<std::string> more = {})
      : process_([command = command_of(mount, output, std::move(more))] {
          std::vector<char*> arguments;
          for (const std::string& one : command) {
            arguments.push_back(const_cast<char*>(one.c_str()));
          }
          arguments.push_back(nullptr);
          execv(arguments.front(), arguments.data());
          return 127;
        }) {}

  /// Waits until the mount has begun to send.
  static bool begun(const std::string& output) {
    const auto end = std::chrono::steady_clock::now() + deadline();
    while (std::chrono::steady_clock::now() < end) {
      struct stat st {};
      if (stat(output.c_str(), &st) == 0 && st.st_size > 0) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    return false;
  }

  /// Returns lockfsctl's exit status.
  int end() {
    process_.kill(SIGINT);
    return process_.wait();
  }
  int wait() { return process_.wait(); }
  void pause() const { process_.kill(SIGSTOP); }
  void resume() const { process_.kill(SIGCONT); }

 private:
  static std::vector<std::string> command_of(const Mount& mount, const std::string& output,
                                             std::vector<std::string> more) {
    std::vector<std::string> command = {
        program("lockfsctl"), "--socket", mount.scratch() + "/control", "record", "-o", output};
    command.insert(command.end(), more.begin(), more.end());
    return command;
  }

  Process process_;
};

class RecordTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const std::string error = fs_.start({"control=" + fs_.scratch() + "/control"});
    ASSERT_EQ(error, "");
    output_ = fs_.scratch() + "/out.trace";
  }
  void TearDown() override { EXPECT_EQ(fs_.stop(), ""); }

  std::unique_ptr<Recording> record(std::vector<std::string> more = {}) {
    auto recording = std::make_unique<Recording>(fs_, output_, std::move(more));
    EXPECT_TRUE(Recording::begun(output_));
    return recording;
  }
  Trace read() const {
    std::ostringstream text;
    text << std::ifstream(output_, std::ios::binary).rdbuf();
    lockmgr::trace::Decoded decoded = lockmgr::trace::decode(text.str());
    EXPECT_FALSE(decoded.damage) << decoded.damage->text;
    return std::move(decoded.trace);
  }
  UniqueFd open_file(const std::string& name) const {
    return UniqueFd(open(fs_.in_mount(name).c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666));
  }
  ino_t inode_of(const std::string& name) const {
    struct stat st {};
    EXPECT_EQ(stat(fs_.in_source(name).c_str(), &st), 0);
    return st.st_ino;
  }
  /// Waits until somebody waits for a lock on the file in the source.
  bool waited_for(const std::string& name) const {
    const ino_t inode = inode_of(name);
    const auto end = std::chrono::steady_clock::now() + deadline();
    const auto waited = [inode] {
      const std::vector<ino_t> all = lockfs::inodes_waited_for();
      return std::binary_search(all.begin(), all.end(), inode);
    };
    while (!waited()) {
      if (std::chrono::steady_clock::now() > end) return false;
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    return true;
  }
  void verify() const {
    const ProgramResult result = run_program({program("lockfs-replay"), output_, "--verify"});
    EXPECT_EQ(result.status, 0) << result.output;
  }
  void live(const std::string& workload) const {
    const ProgramResult result =
        run_program({program("lockfs-workload"), workload, fs_.mount(), "--length", "2"});
    EXPECT_EQ(result.status, 0) << result.output;
  }

  Mount fs_;
  std::string output_;
};

std::size_t count(const Trace& trace, EventType type) {
  return static_cast<std::size_t>(
      std::count_if(trace.events.begin(), trace.events.end(),
                    [&](const auto& event) { return event.type == type; }));
}

/// Requests that are put off ask again, for the recording too.
class RecordInGraceTest : public RecordTest {
 protected:
  void SetUp() override {
    if (geteuid() != 0) GTEST_SKIP() << "needs root, to play an NFS server";
    ASSERT_EQ(server_.prepare(), "");
    server_.start(true);
    RecordTest::SetUp();
  }
  lockfs::test::PlayedServer server_;
};

/// Of requests that do not wait. Whether others stand aside then may depend on what the backing
/// cannot tell, which is not recorded.
TEST_F(RecordInGraceTest, WhatHappensThenIsReplayedAsItWas) {
  ASSERT_TRUE(open_file("f").valid());
  const auto recording = record();
  std::vector<Process> programs;
  programs.reserve(6);
  for (int i = 0; i < 6; ++i) {
    programs.emplace_back([this] {
      const UniqueFd fd = open_file("f");
      return flock(fd.get(), LOCK_EX | LOCK_NB) == 0 ? 0 : errno;
    });
  }
  for (const Process& program : programs) {
    const std::string call = "/proc/" + std::to_string(program.pid()) + "/syscall";
    const auto end = std::chrono::steady_clock::now() + deadline();
    while (!lockfs::test::read_file(call).starts_with(std::to_string(SYS_flock) + " ") &&
           std::chrono::steady_clock::now() < end) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }
  server_.end_grace();
  for (Process& program : programs) {
    const int result = program.wait();
    EXPECT_TRUE(result == 0 || result == EAGAIN) << result;
  }
  EXPECT_EQ(recording->end(), 0);
  verify();
}

TEST_F(RecordTest, EveryStepIsThere) {
  auto recording = record();
  {
    const UniqueFd one = open_file("mail");
    const UniqueFd two = open_file("mail");
    ASSERT_EQ(flock(one.get(), LOCK_EX), 0);
    ASSERT_EQ(flock(two.get(), LOCK_SH | LOCK_NB), -1);
    ASSERT_EQ(flock(one.get(), LOCK_UN), 0);
  }
  fs_.settle("mail");
  EXPECT_EQ(recording->end(), 0);
  const Trace trace = read();
  EXPECT_FALSE(trace.head.generated);
  EXPECT_EQ(trace.head.policy, "nfs");
  EXPECT_EQ(trace.lost, 0U);
  ASSERT_EQ(trace.files.size(), 1U);
  EXPECT_NE(trace.files[0].name.find("mail"), std::string::npos) << trace.files[0].name;
  ASSERT_GE(count(trace, EventType::kAsk), 3U);
  EXPECT_GE(count(trace, EventType::kClose), 2U);
  const Scripts scripts = scripts_of(trace);
  std::vector<int> errors;
  for (const auto& script : scripts.actors) {
    for (const Step& step : script) {
      if (step.recorded && trace.actors[trace.events[step.event].actor].pid == getpid()) {
        errors.push_back(step.recorded->error);
      }
    }
  }
  ASSERT_GE(errors.size(), 3U);
  EXPECT_EQ(errors[0], 0);
  EXPECT_EQ(errors[1], EAGAIN);
  EXPECT_EQ(errors[2], 0);
  verify();
}

TEST_F(RecordTest, WorkloadsReplayExactly) {
  auto recording = record();
  for (const char* workload : {"database", "build-farm", "readers-and-writer", "cron-singleton"}) {
    live(workload);
  }
  EXPECT_EQ(recording->end(), 0);
  const Trace trace = read();
  EXPECT_EQ(trace.lost, 0U);
  EXPECT_GT(replay(trace).waits.size(), 100U) << "nobody met anybody";
  verify();
}

// What was held before the recording began belongs to it: others meet it.
TEST_F(RecordTest, LocksHeldBefore) {
  UniqueFd before = open_file("f");
  ASSERT_EQ(flock(before.get(), LOCK_EX), 0);
  auto recording = record();
  const UniqueFd other = open_file("f");
  EXPECT_EQ(flock(other.get(), LOCK_EX | LOCK_NB), -1);
  before.reset();
  fs_.settle("f");
  EXPECT_EQ(flock(other.get(), LOCK_EX | LOCK_NB), 0);
  EXPECT_EQ(recording->end(), 0);
  EXPECT_GE(count(read(), EventType::kAsk), 3U);
  verify();
}

// Waits that end by a signal, and the end of the mount while somebody waits.
TEST_F(RecordTest, WaitsThatEndFromWithout) {
  const UniqueFd holder = open_file("f");
  auto recording = record();
  ASSERT_EQ(flock(holder.get(), LOCK_EX), 0);
  // Before the process is there, which may be signalled at once.
  struct sigaction action {};
  action.sa_handler = [](int) {};
  ASSERT_EQ(sigaction(SIGUSR1, &action, nullptr), 0);
  Process interrupted([this] {
    const UniqueFd fd = open_file("f");
    return flock(fd.get(), LOCK_EX) == -1 && errno == EINTR ? 0 : 1;
  });
  // Again and again: the first may come before the call.
  int status = -1;
  std::thread signals([&] {
    for (int i = 0; i < 2000 && kill(interrupted.pid(), SIGUSR1) == 0; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
  });
  status = interrupted.wait();
  signals.join();
  EXPECT_EQ(status, 0);
  EXPECT_EQ(recording->end(), 0);
  verify();
}

// Somebody on the source, as an NFS client's locks are there: waited for, and in the way of one
// that does not wait.
TEST_F(RecordTest, OutsidersAreRecorded) {
  { const UniqueFd make = open_file("f"); }
  UniqueFd outside(open(fs_.in_source("f").c_str(), O_RDWR | O_CLOEXEC));
  struct flock lock {};
  lock.l_type = F_WRLCK;
  ASSERT_EQ(fcntl(outside.get(), F_OFD_SETLK, &lock), 0);
  auto recording = record();
  const UniqueFd refused = open_file("f");
  EXPECT_EQ(flock(refused.get(), LOCK_EX | LOCK_NB), -1);
  EXPECT_EQ(flock(refused.get(), LOCK_SH | LOCK_NB), -1);
  Process waits([this] {
    const UniqueFd fd = open_file("f");
    return flock(fd.get(), LOCK_EX);
  });
  // Let go of when the mount waits for it.
  ASSERT_TRUE(waited_for("f"));
  EXPECT_EQ(flock(refused.get(), LOCK_SH | LOCK_NB), -1);
  // Not by closing: the process that waits has inherited the open file.
  lock.l_type = F_UNLCK;
  ASSERT_EQ(fcntl(outside.get(), F_OFD_SETLK, &lock), 0);
  EXPECT_EQ(waits.wait(), 0);
  EXPECT_EQ(recording->end(), 0);
  const Trace trace = read();
  EXPECT_TRUE(std::any_of(trace.owners.begin(), trace.owners.end(),
                          [](const auto& owner) { return owner.remote; }));
  const Outcome o = replay(trace);
  EXPECT_EQ(o.refusals, 3U);
  EXPECT_EQ(o.waits.size(), 1U);
  verify();
}

TEST_F(RecordTest, NfsClientsAndLocalJobsReplay) {
  auto recording = record();
  const ProgramResult result =
      run_program({program("lockfs-workload"), "nfs-and-local", fs_.mount(), "--source",
                   fs_.source(), "--length", "2"});
  EXPECT_EQ(result.status, 0) << result.output;
  EXPECT_EQ(recording->end(), 0);
  const Outcome o = replay(read());
  EXPECT_EQ(o.hazard_count, 0U);
  EXPECT_EQ(o.stuck, 0U);
  verify();
}

TEST_F(RecordTest, HashedPathsTellNothing) {
  auto recording = record({"--hash-paths"});
  {
    const UniqueFd fd = open_file("very-secret-name");
    ASSERT_EQ(flock(fd.get(), LOCK_EX), 0);
  }
  EXPECT_EQ(recording->end(), 0);
  std::ostringstream bytes;
  bytes << std::ifstream(output_, std::ios::binary).rdbuf();
  EXPECT_EQ(bytes.str().find("very-secret-name"), std::string::npos);
  EXPECT_EQ(bytes.str().find(fs_.source()), std::string::npos);
  const Trace trace = read();
  ASSERT_EQ(trace.files.size(), 1U);
  EXPECT_EQ(trace.files[0].name.rfind("file-", 0), 0U);
  verify();
}

TEST_F(RecordTest, SizeIsBounded) {
  auto recording = record({"--max-size", "4096"});
  Process busy([this] {
    const UniqueFd fd = open_file("f");
    for (int i = 0; i < 20'000; ++i) {
      if (flock(fd.get(), LOCK_EX) != 0 || flock(fd.get(), LOCK_UN) != 0) return 1;
    }
    return 0;
  });
  EXPECT_EQ(recording->wait(), 0);
  EXPECT_EQ(busy.wait(), 0);
  // It ends where the size is reached, within a burst too.
  struct stat st {};
  ASSERT_EQ(stat(output_.c_str(), &st), 0);
  EXPECT_GE(st.st_size, 4096);
  EXPECT_LT(st.st_size, 2 * 4096);
  read();
}

TEST_F(RecordTest, FullDiskHarmsNobody) {
  const UniqueFd fd = open_file("f");
  ASSERT_EQ(flock(fd.get(), LOCK_EX), 0);
  const ProgramResult result = run_program(
      {program("lockfsctl"), "--socket", fs_.scratch() + "/control", "record", "-o", "/dev/full"});
  EXPECT_EQ(result.status, 1) << result.output;
  EXPECT_NE(result.output.find("No space left"), std::string::npos) << result.output;
  EXPECT_EQ(flock(fd.get(), LOCK_UN), 0);
  // And the next recording works.
  auto recording = record();
  EXPECT_EQ(flock(fd.get(), LOCK_EX), 0);
  EXPECT_EQ(recording->end(), 0);
  EXPECT_EQ(count(read(), EventType::kAsk), 1U);
}

// A recorder that stands still holds nobody up; what it misses is counted.
TEST_F(RecordTest, SlowRecorderLosesEventsNotLocks) {
  Recording recording(fs_, output_);
  ASSERT_TRUE(Recording::begun(output_));
  recording.pause();
  const UniqueFd fd = open_file("f");
  for (int i = 0; i < 60'000; ++i) {
    ASSERT_EQ(flock(fd.get(), LOCK_EX), 0);
    ASSERT_EQ(flock(fd.get(), LOCK_UN), 0);
  }
  recording.resume();
  EXPECT_EQ(recording.end(), 0);
  EXPECT_GT(read().lost, 0U);
}

TEST_F(RecordTest, OneAtATime) {
  auto recording = record();
  const ProgramResult second =
      run_program({program("lockfsctl"), "--socket", fs_.scratch() + "/control", "record", "-o",
                   fs_.scratch() + "/second.trace"});
  EXPECT_EQ(second.status, 1);
  EXPECT_NE(second.output.find("under way"), std::string::npos) << second.output;
  EXPECT_EQ(recording->end(), 0);
}

TEST_F(RecordTest, MountThatEndsEndsTheTrace) {
  auto recording = record();
  {
    const UniqueFd fd = open_file("f");
    ASSERT_EQ(flock(fd.get(), LOCK_EX), 0);
  }
  EXPECT_EQ(fs_.stop(), "");
  EXPECT_EQ(recording->wait(), 0);
  EXPECT_GE(count(read(), EventType::kAsk), 1U);
}

// The test vector of the algorithm's authors: bytes 0 to 14 under the key 0 to 15.
TEST(KeyedHash, IsSipHash) {
  std::string bytes;
  for (char c = 0; c < 15; ++c) bytes.push_back(c);
  EXPECT_EQ(lockfs::keyed_hash(0x0706050403020100, 0x0f0e0d0c0b0a0908, bytes), 0xa129ca6149be45e5U);
}

}  // namespace
}  // namespace replay::testing
