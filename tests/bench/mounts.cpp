#include "tests/bench/mounts.h"

#include <fcntl.h>
#include <sys/mount.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <stdexcept>
#include <vector>

#include "tests/bench/programs.h"

namespace lockfs::bench {
namespace {}  // namespace

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

std::optional<Mount> Mount::peer(const Settings& settings, const std::string& program,
                                 const std::string& name, const std::string& options) {
  if (!has_program(program)) {
    std::fprintf(stderr, "%s is not installed: left out\n", program.c_str());
    return std::nullopt;
  }
  std::string source = make_folder(settings, name + ".source");
  std::string dir = make_folder(settings, name);
  // It returns once it is mounted, leaving a daemon in the background.
  if (wait_for(spawn({program, "-o", options, source, dir})) != 0) {
    throw std::runtime_error(program + " could not mount " + dir);
  }
  return Mount(std::move(dir), std::move(source), -1);
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
