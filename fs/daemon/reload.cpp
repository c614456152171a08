#include "fs/daemon/reload.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <spawn.h>
#include <spdlog/spdlog.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <fstream>
#include <sstream>
#include <string_view>
#include <vector>

#include "fs/base/unique_fd.h"
#include "fs/control/socket.h"

namespace lockfs {
namespace {

constexpr auto kPatience = std::chrono::seconds(10);

/// What the command says until it ends, joined in one line. False: it takes too long.
bool read_end(int fd, std::string& said) {
  const auto end = std::chrono::steady_clock::now() + kPatience;
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

std::string options_file(const std::string& mountpoint) {
  return fmt::format("/etc/lockfs/{}.conf", control::control_socket_name(mountpoint));
}

std::string options_in(const std::string& text) {
  constexpr std::string_view kKey = "OPTIONS=";
  std::string found;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    const auto begin = line.find_first_not_of(" \t");
    if (begin == std::string::npos || line.compare(begin, kKey.size(), kKey) != 0) continue;
    std::string value = line.substr(begin + kKey.size());
    const auto last = value.find_last_not_of(" \t\r");
    value.erase(last == std::string::npos ? 0 : last + 1);
    const bool quoted = value.size() >= 2 && (value.front() == '"' || value.front() == '\'') &&
                        value.back() == value.front();
    found = quoted ? value.substr(1, value.size() - 2) : value;
  }
  return found;
}

void reload(const Options& options, const std::string& program) {
  const std::string& mountpoint = options.mountpoint_path;
  const std::string file = options_file(mountpoint);
  std::ifstream in(file);
  if (!in) {
    spdlog::info("{}: nothing to reload: there is no {}", mountpoint, file);
    return;
  }
  std::stringstream text;
  text << in.rdbuf();
  const std::string wanted = options_in(text.str());
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) {
    spdlog::error("{}: cannot reload {}: {}", mountpoint, file, std::strerror(errno));
    return;
  }
  const UniqueFd from(ends[0]);
  UniqueFd to(ends[1]);
  std::vector<std::string> words{program, "-o", "remount"};
  if (!wanted.empty()) words.insert(words.end(), {"-o", wanted});
  words.insert(words.end(), {"--", options.source_path, mountpoint});
  std::vector<char*> arguments;
  arguments.reserve(words.size() + 1);
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_adddup2(&actions, to.get(), STDERR_FILENO);
  pid_t child = 0;
  const int error =
      ::posix_spawn(&child, program.c_str(), &actions, nullptr, arguments.data(), environ);
  ::posix_spawn_file_actions_destroy(&actions);
  if (error != 0) {
    spdlog::error("{}: cannot reload {}: {}: {}", mountpoint, file, program, std::strerror(error));
    return;
  }
  to.reset();
  std::string said;
  const bool ended = read_end(from.get(), said);
  if (!ended) ::kill(child, SIGKILL);
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  while (!said.empty() && said.back() == '\n') said.pop_back();
  if (ended && status == 0) {
    spdlog::info("{}: reloaded {}{}{}", mountpoint, file, said.empty() ? "" : ": ", said);
  } else {
    spdlog::error("{}: cannot reload {}: {}", mountpoint, file, ended ? said : "it takes too long");
  }
}

}  // namespace lockfs
