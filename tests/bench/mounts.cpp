#include "tests/bench/mounts.h"

#include <fcntl.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <stdexcept>
#include <vector>

namespace lockfs::bench {
namespace {

/// Starts a program. With `output`, its standard output is a pipe whose read end is stored there.
pid_t spawn(const std::vector<std::string>& command, int* output = nullptr) {
  std::vector<char*> argv;
  argv.reserve(command.size() + 1);
  for (const std::string& word : command) argv.push_back(const_cast<char*>(word.c_str()));
  argv.push_back(nullptr);

  std::array<int, 2> ends = {-1, -1};
  if (output != nullptr) check(pipe2(ends.data(), O_CLOEXEC) == 0, "pipe");
  const pid_t pid = fork();
  check(pid >= 0, "fork");
  if (pid == 0) {
    if (output != nullptr) dup2(ends[1], STDOUT_FILENO);
    execv(argv[0], argv.data());
    std::fprintf(stderr, "%s: %s\n", argv[0], std::strerror(errno));
    _exit(127);
  }
  if (output != nullptr) {
    close(ends[1]);
    *output = ends[0];
  }
  return pid;
}

int wait_for(pid_t pid) {
  int status = 0;
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  return status;
}

}  // namespace

void check(bool ok, const std::string& what) {
  if (!ok) throw std::runtime_error(what + ": " + std::strerror(errno));
}

std::string make_folder(const Settings& settings, const std::string& name) {
  const std::string path = settings.scratch + "/" + name;
  std::filesystem::create_directories(path);
  return path;
}

Mount Mount::lockfs(const Settings& settings, const std::string& name, const std::string& options) {
  std::string source = make_folder(settings, name + ".source");
  std::string dir = make_folder(settings, name);
  std::vector<std::string> command = {settings.lockfs};
  if (!options.empty()) command.insert(command.end(), {"-o", options});
  command.insert(command.end(), {source, dir});
  // It returns once the mount is ready, leaving the daemon in the background.
  if (wait_for(spawn(command)) != 0) {
    throw std::runtime_error(settings.lockfs + " could not mount " + dir);
  }
  return {std::move(dir), std::move(source), -1};
}

Mount Mount::null(const Settings& settings) {
  std::string dir = make_folder(settings, "null");
  int output = -1;
  const pid_t pid = spawn({settings.null_daemon, dir}, &output);
  // The daemon answers INIT by itself once it is mounted, and then says "ready".
  char byte = 0;
  ssize_t n = 0;
  while ((n = read(output, &byte, 1)) < 0 && errno == EINTR) {
  }
  close(output);
  if (n != 1) {
    wait_for(pid);
    throw std::runtime_error(settings.null_daemon + " could not mount " + dir);
  }
  return {std::move(dir), {}, pid};
}

Mount::Mount(Mount&& other) noexcept
    : dir_(std::move(other.dir_)), source_(std::move(other.source_)), daemon_(other.daemon_) {
  other.dir_.clear();
}

Mount::~Mount() {
  if (dir_.empty()) return;
  if (umount2(dir_.c_str(), 0) != 0) {
    std::fprintf(stderr, "umount %s: %s\n", dir_.c_str(), std::strerror(errno));
    umount2(dir_.c_str(), MNT_DETACH);
  }
  if (daemon_ > 0) wait_for(daemon_);
}

File::File(const std::string& path, int flags, mode_t mode)
    : fd_(open(path.c_str(), flags | O_CLOEXEC, mode)) {
  check(fd_ >= 0, "open " + path);
}

File::~File() {
  if (fd_ >= 0) close(fd_);
}

}  // namespace lockfs::bench
