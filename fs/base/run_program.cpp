#include "fs/base/run_program.h"

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>

#include "fs/base/unique_fd.h"

namespace lockfs {
namespace {

/// Reads to the end. False: it takes too long.
bool read_to_end(int fd, std::chrono::milliseconds patience, std::string& said) {
  const auto end = std::chrono::steady_clock::now() + patience;
  constexpr std::size_t kMost = 2'000;
  std::array<char, 512> buffer{};
  while (true) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
        end - std::chrono::steady_clock::now());
    pollfd readable{fd, POLLIN, 0};
    if (left.count() <= 0 || ::poll(&readable, 1, static_cast<int>(left.count())) == 0)
      return false;
    const ssize_t got = ::read(fd, buffer.data(), buffer.size());
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return true;
    if (said.size() < kMost) said.append(buffer.data(), static_cast<std::size_t>(got));
  }
}

}  // namespace

ProgramRun run_program(std::vector<std::string> words, std::chrono::milliseconds patience,
                       int inherited) {
  ProgramRun run;
  std::vector<char*> arguments;
  arguments.reserve(words.size() + 1);
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) {
    run.error = errno;
    return run;
  }
  const UniqueFd from(ends[0]);
  UniqueFd to(ends[1]);
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_adddup2(&actions, to.get(), STDERR_FILENO);
  // Onto itself: takes FD_CLOEXEC off in the child.
  if (inherited >= 0) ::posix_spawn_file_actions_adddup2(&actions, inherited, inherited);
  pid_t child = 0;
  run.error = ::posix_spawn(&child, arguments[0], &actions, nullptr, arguments.data(), environ);
  ::posix_spawn_file_actions_destroy(&actions);
  if (run.error != 0) return run;
  to.reset();
  if (!read_to_end(from.get(), patience, run.said)) {
    run.error = ETIMEDOUT;
    ::kill(child, SIGKILL);
  }
  while (::waitpid(child, &run.status, 0) < 0 && errno == EINTR) {
  }
  while (!run.said.empty() && run.said.back() == '\n') run.said.pop_back();
  return run;
}

}  // namespace lockfs
