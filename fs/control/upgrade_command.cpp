// "upgrade": the program that is installed now takes over the running mount.
#include <fmt/format.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstring>
#include <string>

#include "fs/base/run_program.h"
#include "fs/control/commands.h"

namespace lockfs::control {

namespace {

/// How long a program may take to say what it knows.
constexpr auto kPatience = std::chrono::seconds(2);

/// The line that `program --book-version` prints. Throws Failure.
std::string book_version_of(const std::string& program) {
  const ProgramRun run = run_program({program, "--book-version"}, STDOUT_FILENO, kPatience);
  if (run.error != 0) {
    throw Failure{"failed", fmt::format("cannot run {}: {}", program, std::strerror(run.error))};
  }
  return run.said.substr(0, run.said.find('\n'));
}

}  // namespace

void hand_over(BookHeader& header) noexcept {
  header.upgrading = 1;
  ::kill(header.standby, SIGUSR2);
}

Outcome upgrade(Context& context, const Call& call) {
  const BookHeader& header = context.header;
  if (header.standby == 0) {
    throw Failure{"failed", "this mount was made with survive=off: no other program can take over"};
  }
  const std::string program = header.program;
  const std::string version = book_version_of(program);
  if (version != std::to_string(BookHeader::kVersion)) {
    throw Failure{
        "failed",
        fmt::format("{} does not know the book of this mount (version {}{}); nothing was "
                    "changed",
                    program, BookHeader::kVersion, version.empty() ? "" : ", it knows " + version)};
  }
  // The end of this process is near: the peer asks the next one how it went.
  context.hands_over = true;
  return done(call, "result", {{"program", program}, {"generation", header.generation.load()}});
}

}  // namespace lockfs::control
