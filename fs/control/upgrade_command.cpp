// "upgrade": the program that is installed now takes over the running mount.
#include <fmt/format.h>

#include <chrono>
#include <csignal>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "fs/base/book_header.h"
#include "fs/base/run_program.h"
#include "fs/control/commands.h"

namespace lockfs::control {

namespace {

/// How long a program may take to look at the book.
constexpr auto kPatience = std::chrono::seconds(5);

/// Why `program` cannot go on with this mount; empty: it can.
std::string refusal(const std::string& program, const Context& context) {
  const int book = context.header.book_fd;
  std::vector<std::string> words{program, fmt::format("--can-adopt={}", book)};
  const std::vector<std::string>& arguments = context.options.arguments;
  words.insert(words.end(), arguments.begin(), arguments.end());
  const ProgramRun run = run_program(std::move(words), kPatience, book);
  if (run.error != 0) return std::strerror(run.error);
  if (run.status == 0) return {};
  const std::string said = run.said.substr(0, run.said.find('\n'));
  return said.empty() ? describe_death(run.status) : said;
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
  if (const std::string why = refusal(program, context); !why.empty()) {
    throw Failure{"failed",
                  fmt::format("{} cannot take over: {}; nothing was changed", program, why)};
  }
  // The end of this process is near: the peer asks the next one how it went.
  context.hands_over = true;
  return done(call, "result", {{"program", program}, {"generation", header.generation.load()}});
}

}  // namespace lockfs::control
