// lockfs-replay and lockfs-workload as a user meets them.
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "lockmgr/trace/encoder.h"
#include "tests/mounted/support/mounted.h"
#include "tests/mounted/support/process.h"
#include "tests/replay/traces.h"

namespace replay::testing {
namespace {

using lockfs::test::ProgramResult;
using lockfs::test::run_program;

std::string program(const std::string& name) {
  return std::string(std::getenv("LOCKFS_BIN_DIR")) + "/" + name;
}

ProgramResult replay_program(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), program("lockfs-replay"));
  return run_program(arguments);
}

void put(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

std::string get(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}

/// One line that begins with the program's name and has each of `parts`.
void expect_error(const ProgramResult& result, int status, const std::vector<std::string>& parts) {
  EXPECT_EQ(result.status, status) << result.output;
  EXPECT_EQ(result.output.find('\n'), result.output.size() - 1) << result.output;
  EXPECT_EQ(result.output.rfind("lockfs-", 0), 0U) << result.output;
  for (const std::string& part : parts) {
    EXPECT_NE(result.output.find(part), std::string::npos) << part << " in " << result.output;
  }
}

TEST(Replay, TableJsonAndPage) {
  put("good.trace", encode(sample()));
  const ProgramResult table = replay_program({"good.trace", "--policy", "nfs", "--html", "a.html"});
  EXPECT_EQ(table.status, 0) << table.output;
  EXPECT_NE(table.output.find("wait, 99 %"), std::string::npos);
  EXPECT_NE(get("a.html").find("<svg"), std::string::npos);
  const ProgramResult json = replay_program({"good.trace", "--json"});
  EXPECT_EQ(json.status, 0);
  EXPECT_NE(json.output.find("\"policy\": \"nfs\""), std::string::npos) << json.output;
  EXPECT_EQ(json.output, replay_program({"good.trace", "--json"}).output);
}

TEST(Replay, VerifyTellsWhetherAnswersAreAsRecorded) {
  put("good.trace", encode(sample()));
  EXPECT_EQ(replay_program({"good.trace", "--verify"}).status, 0);
  lockmgr::trace::Trace wrong = sample();
  for (auto& event : wrong.events) {
    if (event.type == lockmgr::trace::EventType::kAnswer && event.error == EAGAIN) event.error = 0;
  }
  put("wrong.trace", encode(wrong));
  const ProgramResult result = replay_program({"wrong.trace", "--verify"});
  EXPECT_EQ(result.status, 1);
  for (const char* part : {"1 of 5 answers differ", "recorded: granted", "now: Resource"}) {
    EXPECT_NE(result.output.find(part), std::string::npos) << part << " in " << result.output;
  }
}

TEST(Replay, BadTracesGiveOneClearLine) {
  const std::string good = encode(sample());
  put("cut.trace", good.substr(0, good.size() - 20));
  expect_error(replay_program({"cut.trace"}), 1, {"cut.trace", "ends after", "--partial"});
  const ProgramResult partial = replay_program({"cut.trace", "--partial"});
  EXPECT_EQ(partial.status, 0) << partial.output;

  std::string damaged = good;
  damaged[good.size() / 2] ^= 1;
  put("damaged.trace", damaged);
  expect_error(replay_program({"damaged.trace"}), 1, {"damaged.trace", "checksum"});

  std::string newer = good;
  newer[13] = 9;
  put("newer.trace", newer);
  expect_error(replay_program({"newer.trace"}), 1, {"newer.trace", "version 9", "up to 1"});
  expect_error(replay_program({"newer.trace", "--partial"}), 1, {"version 9"});

  put("text", "hello\n");
  expect_error(replay_program({"text"}), 1, {"text", "no lockfs trace"});
  put("empty", "");
  expect_error(replay_program({"empty"}), 1, {"empty", "no lockfs trace"});
  expect_error(replay_program({"missing"}), 1, {"missing", "No such file"});
  expect_error(replay_program({"."}), 1, {"directory"});
}

TEST(Replay, BadCommandLines) {
  put("good.trace", encode(sample()));
  expect_error(replay_program({}), 2, {"TRACE", "--help"});
  expect_error(replay_program({"good.trace", "--policy", "nonsense"}), 2, {"nonsense", "nfs"});
  expect_error(replay_program({"good.trace", "--frobnicate"}), 2, {"--frobnicate"});
  expect_error(replay_program({"good.trace", "--json", "--html", "/nowhere/x.html"}).status == 1
                   ? run_program({"sh", "-c",
                                  program("lockfs-replay") +
                                      " good.trace --html /nowhere/x 2>&1 >/dev/null"})
                   : ProgramResult{},
               1, {"/nowhere/x"});
}

TEST(Replay, FullDiskIsAnError) {
  put("good.trace", encode(sample()));
  const ProgramResult result =
      run_program({"sh", "-c", program("lockfs-replay") + " good.trace 2>&1 >/dev/full"});
  expect_error(result, 1, {"No space left"});
}

TEST(Workload, BadCommandLines) {
  const std::string workload = program("lockfs-workload");
  expect_error(run_program({workload}), 2, {"NAME"});
  expect_error(run_program({workload, "nonsense", "."}), 2, {"nonsense", "--help"});
  expect_error(run_program({workload, "database"}), 2, {"--trace"});
  expect_error(run_program({workload, "database", ".", "--trace", "x"}), 2, {"either"});
  expect_error(run_program({workload, "database", "--trace", "x", "--length", "0"}), 2,
               {"--length"});
  expect_error(run_program({workload, "nfs-and-local", "."}), 1, {"--source"});
  expect_error(run_program({workload, "database", "/nowhere"}), 1, {"/nowhere"});
}

TEST(Workload, WritesATraceThatReplays) {
  const ProgramResult made =
      run_program({program("lockfs-workload"), "database", "--trace", "w.trace", "--length", "1"});
  EXPECT_EQ(made.status, 0) << made.output;
  EXPECT_EQ(replay_program({"w.trace", "--policy", "nfs"}).status, 0);
  expect_error(replay_program({"w.trace", "--verify"}), 1, {"generated"});
}

using WorkloadLive = lockfs::test::MountedTest;

TEST_F(WorkloadLive, RunsOnAMount) {
  const ProgramResult result =
      run_program({program("lockfs-workload"), "cron-singleton", mount(), "--length", "1"});
  EXPECT_EQ(result.status, 0) << result.output;
  EXPECT_NE(result.output.find("2 locks asked for"), std::string::npos) << result.output;
  const ProgramResult far = run_program({program("lockfs-workload"), "nfs-and-local", mount(),
                                         "--source", source(), "--length", "1"});
  EXPECT_EQ(far.status, 0) << far.output;
  EXPECT_NE(far.output.find(" 0 other errors"), std::string::npos) << far.output;
}

}  // namespace
}  // namespace replay::testing
