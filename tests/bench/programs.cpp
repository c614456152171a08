#include "tests/bench/programs.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <stdexcept>

#include "tests/bench/mounts.h"

namespace lockfs::bench {
namespace {

/// Starts `command`; `prepare` runs in the child before.
template <typename Prepare>
pid_t start(const std::vector<std::string>& command, const Prepare& prepare) {
  std::vector<char*> argv;
  argv.reserve(command.size() + 1);
  for (const std::string& word : command) argv.push_back(const_cast<char*>(word.c_str()));
  argv.push_back(nullptr);
  const pid_t pid = fork();
  check(pid >= 0, "fork");
  if (pid == 0) {
    prepare();
    execvp(argv[0], argv.data());
    std::fprintf(stderr, "%s: %s\n", argv[0], std::strerror(errno));
    _exit(127);
  }
  return pid;
}

}  // namespace

pid_t spawn(const std::vector<std::string>& command, int* output) {
  std::array<int, 2> ends = {-1, -1};
  if (output != nullptr) check(pipe2(ends.data(), O_CLOEXEC) == 0, "pipe");
  const pid_t pid = start(command, [&] {
    if (output != nullptr) dup2(ends[1], STDOUT_FILENO);
  });
  if (output != nullptr) {
    close(ends[1]);
    *output = ends[0];
  }
  return pid;
}

std::string read_all(int fd) {
  std::string text;
  std::array<char, 4096> buffer = {};
  for (ssize_t n = 0; (n = read(fd, buffer.data(), buffer.size())) != 0;) {
    if (n > 0) text.append(buffer.data(), static_cast<std::size_t>(n));
    if (n < 0 && errno != EINTR) break;
  }
  close(fd);
  return text;
}

int wait_for(pid_t pid) {
  int status = 0;
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  return status;
}

void run_program(const std::vector<std::string>& command, bool silent) {
  const int status = wait_for(start(command, [silent] {
    const int null = open("/dev/null", O_WRONLY);
    dup2(null, STDOUT_FILENO);
    if (silent) dup2(null, STDERR_FILENO);
  }));
  if (status == 0) return;
  std::string text;
  for (const std::string& word : command) text += (text.empty() ? "" : " ") + word;
  throw std::runtime_error("it failed: " + text);
}

pid_t find_daemon(const std::string& argument) {
  std::vector<pid_t> found;
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    const pid_t pid = std::atoi(entry.path().filename().c_str());
    if (pid <= 0 || pid == getpid()) continue;
    std::ifstream in(entry.path() / "cmdline");
    for (std::string word; std::getline(in, word, '\0');) {
      if (word == argument) found.push_back(pid);
    }
  }
  for (const pid_t pid : std::vector<pid_t>(found)) {
    std::ifstream in("/proc/" + std::to_string(pid) + "/status");
    for (std::string line; std::getline(in, line);) {
      pid_t parent = 0;
      if (std::sscanf(line.c_str(), "PPid: %d", &parent) == 1) std::erase(found, parent);
    }
  }
  if (found.empty()) throw std::runtime_error("no process serves " + argument);
  return found.front();
}

bool has_program(const std::string& name) {
  const char* path = std::getenv("PATH");
  std::istringstream folders(path != nullptr ? path : "/usr/sbin:/usr/bin:/sbin:/bin");
  for (std::string folder; std::getline(folders, folder, ':');) {
    if (access((folder + "/" + name).c_str(), X_OK) == 0) return true;
  }
  return false;
}

}  // namespace lockfs::bench
