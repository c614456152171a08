// "upgrade": the program that is installed now takes over the running mount.
#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <string>

#include "fs/base/unique_fd.h"
#include "fs/control/commands.h"

namespace lockfs::control {

namespace {

/// How long a program may take to say what it knows.
constexpr int kPatienceMs = 2000;

/// What `program --book-version` prints, at most a line. Throws Failure.
std::string book_version_of(const std::string& program) {
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) throw Failure{"failed", std::strerror(errno)};
  const UniqueFd from(ends[0]);
  UniqueFd to(ends[1]);
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_adddup2(&actions, to.get(), STDOUT_FILENO);
  std::string name = program;
  std::string option = "--book-version";
  std::array<char*, 3> arguments = {name.data(), option.data(), nullptr};
  pid_t child = 0;
  const int error =
      ::posix_spawn(&child, program.c_str(), &actions, nullptr, arguments.data(), environ);
  ::posix_spawn_file_actions_destroy(&actions);
  if (error != 0) {
    throw Failure{"failed", fmt::format("cannot run {}: {}", program, std::strerror(error))};
  }
  to.reset();
  std::array<char, 64> line{};
  pollfd readable{from.get(), POLLIN, 0};
  ssize_t got = 0;
  if (::poll(&readable, 1, kPatienceMs) == 1) got = ::read(from.get(), line.data(), line.size());
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  std::string version(line.data(), got > 0 ? static_cast<std::size_t>(got) : 0);
  while (!version.empty() && version.back() == '\n') version.pop_back();
  return version;
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
