#include "mount-helpers/lockfsctl/proc_locks.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "fs/base/proc_locks.h"
#include "fs/base/unique_fd.h"

namespace lockfs::ctl {

std::optional<ProcLock> parse_proc_lock(const std::string& line) {
  const auto parsed = parse_lock_line(line.c_str());
  if (!parsed) return std::nullopt;
  ProcLock lock;
  switch (parsed->type) {
    case LockLine::Type::kPosix:
      lock.type = "POSIX";
      break;
    case LockLine::Type::kOpenFile:
      lock.type = "OFDLCK";
      break;
    case LockLine::Type::kFlock:
      lock.type = "FLOCK";
      break;
  }
  lock.exclusive = parsed->mode == lockmgr::Mode::kExclusive;
  lock.device = fmt::format("{}:{}", parsed->dev_major, parsed->dev_minor);
  lock.inode = parsed->ino;
  lock.first = parsed->range.first;
  lock.last = parsed->range.last;
  lock.waiting = parsed->waiting;
  lock.pid = parsed->pid;
  return lock;
}

namespace {

/// The file's text; `reads` is how many reads it took.
std::string text_of(const std::string& path, int& reads) {
  std::string text;
  reads = 0;
  const UniqueFd file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file) return text;
  std::array<char, 65536> chunk;
  for (ssize_t size = 0; (size = read(file.get(), chunk.data(), chunk.size())) > 0; ++reads) {
    text.append(chunk.data(), static_cast<std::size_t>(size));
  }
  return text;
}

}  // namespace

std::vector<ProcLock> read_proc_locks(const std::string& path) {
  constexpr int kTries = 5;
  constexpr std::size_t kLong = 8192;
  // One read gives what is there at one time, up to a page. Between two, the kernel finds its place
  // by counting (seq_hlist_start_percpu()): a lock shows twice when another has been taken.
  int reads = 0;
  std::string text = text_of(path, reads);
  for (int i = 1; i < kTries && reads > 1 && text.size() < kLong; ++i) text = text_of(path, reads);
  std::vector<ProcLock> found;
  std::istringstream lines(text);
  std::string line;
  while (std::getline(lines, line)) {
    if (auto lock = parse_proc_lock(line)) found.push_back(std::move(*lock));
  }
  return found;
}

std::vector<HeldLock> locks_of_process(pid_t pid, const std::string& prefix, bool* readable) {
  namespace fs = std::filesystem;
  std::vector<HeldLock> found;
  std::error_code error;
  fs::directory_iterator fds(fmt::format("/proc/{}/fd", pid), error);
  if (readable != nullptr) *readable = !error;
  for (; !error && fds != fs::directory_iterator(); fds.increment(error)) {
    std::error_code gone;
    const std::string path = fs::read_symlink(fds->path(), gone);
    if (gone || !path.starts_with(prefix)) continue;
    std::ifstream info(fmt::format("/proc/{}/fdinfo/{}", pid, fds->path().filename().string()));
    std::string line;
    while (std::getline(info, line)) {
      if (!line.starts_with("lock:")) continue;
      if (auto lock = parse_proc_lock(line)) found.push_back({std::move(*lock), pid, path});
    }
  }
  return found;
}

std::vector<pid_t> all_processes() {
  std::vector<pid_t> found;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator("/proc", error)) {
    const std::string name = entry.path().filename();
    pid_t pid = 0;
    const auto [end, bad] = std::from_chars(name.data(), name.data() + name.size(), pid);
    if (bad == std::errc{} && end == name.data() + name.size()) found.push_back(pid);
  }
  return found;
}

std::string superblock_device(const std::string& folder) {
  std::ifstream table("/proc/self/mountinfo");
  std::string line;
  std::string best;
  std::string device;
  while (std::getline(table, line)) {
    std::istringstream fields(line);
    std::string id;
    std::string parent;
    std::string numbers;
    std::string root;
    std::string point;
    fields >> id >> parent >> numbers >> root >> point;
    const bool holds =
        point == "/" || (folder.starts_with(point) &&
                         (folder.size() == point.size() || folder[point.size()] == '/'));
    // lockfs over its own source: what is beneath counts.
    if (!holds || point.size() < best.size() || line.find(" - fuse.lockfs ") != std::string::npos) {
      continue;
    }
    best = point;
    device = numbers;
  }
  return device;
}

}  // namespace lockfs::ctl
