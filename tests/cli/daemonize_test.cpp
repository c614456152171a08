/// What the caller learns when the daemon starts, fails, or dies without a word.

#include <gtest/gtest.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <string>
#include <vector>

#include "tests/cli/command.h"
#include "tests/mounted/support/mounted.h"

namespace lockfs::test {
namespace {

std::vector<std::string> probe(const std::string& how) {
  const std::filesystem::path program = lockfs_program();
  return {(program.parent_path() / "daemonize_probe").string(), how};
}

void expect_success(const std::string& how) {
  const Outcome outcome = run_command(probe(how));
  EXPECT_EQ(outcome.status, 0) << how;
  EXPECT_EQ(outcome.output, "");
  EXPECT_EQ(outcome.errors, "");
  EXPECT_TRUE(outcome.eof);
}

TEST(Daemonize, Ready) {
  expect_success("ready");
  expect_success("ready twice");
  expect_success("descriptors");
}

TEST(Daemonize, Error) {
  const Outcome outcome = run_command(probe("error"));
  expect_failure(outcome, 1, {});
  EXPECT_EQ(outcome.errors, "lockfs: it is broken\\012badly\n");
}

TEST(Daemonize, ErrorOfAProgramItStarted) {
  const Outcome outcome = run_command(probe("error with output"));
  expect_failure(outcome, 1, {});
  EXPECT_EQ(outcome.errors, "lockfs: it is broken (some program: not allowed)\n");
}

TEST(Daemonize, LongError) {
  const Outcome outcome = run_command(probe("long error"));
  expect_failure(outcome, 1, {});
  EXPECT_EQ(outcome.errors, "lockfs: " + std::string(200'000, 'x') + "\n");
}

TEST(Daemonize, DiesWithoutAWord) {
  expect_failure(run_command(probe("silent")), 1,
                 {"the daemon ended before the mount was ready", "exit status 0"});
  expect_failure(run_command(probe("killed")), 1,
                 {"the daemon ended before the mount was ready", "signal 9", "Killed"});
  expect_failure(run_command(probe("silent with output")), 1, {"exit status 3", "one; two"});
  expect_failure(run_command(probe("throws")), 1, {"exit status 1", "out of luck"});
}

TEST(Daemonize, CallerIgnoresItsChildren) {
  auto command = probe("silent");
  command.insert(command.begin(), {"env", "--ignore-signal=CHLD"});
  expect_failure(run_command(command), 1, {"exit status 0"});
}

TEST(Daemonize, InterruptingTheCommandEndsTheDaemon) {
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
    RunningCommand command(probe("hangs"));
    ASSERT_TRUE(command.wait_output("hanging\n"));
    command.kill(signal);
    const Outcome outcome = command.wait();
    EXPECT_EQ(outcome.status, 1);
    EXPECT_TRUE(outcome.eof) << "the daemon is still there";
    EXPECT_NE(outcome.errors.find("killed by signal " + std::to_string(signal)), std::string::npos)
        << outcome.errors;
  }
}

}  // namespace
}  // namespace lockfs::test
