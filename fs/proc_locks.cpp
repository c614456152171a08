#include "fs/proc_locks.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "fs/request_loop.h"

namespace lockfs {

namespace {

/// Calls visit(line, ino) for each lock of the machine until it returns false. A line reads
/// "1: POSIX  ADVISORY  WRITE 42 fe:00:131 0 EOF"; of a waiter "1: -> POSIX ...".
///
/// Reading waits for an RCU grace period of the kernel, up to 20 ms (locks_start() takes file_rwsem
/// for writing), which must not hold up the requests of others.
template <typename Visit>
void for_each_lock(const Visit& visit) {
  const RequestLoop::Blocking blocking;
  const std::unique_ptr<FILE, int (*)(FILE*)> file(std::fopen("/proc/locks", "re"), std::fclose);
  if (file == nullptr) return;
  char line[256];
  while (std::fgets(line, sizeof line, file.get()) != nullptr) {
    const char* colon = std::strrchr(line, ':');
    if (colon == nullptr) continue;
    if (!visit(static_cast<const char*>(line), std::strtoull(colon + 1, nullptr, 10))) return;
  }
}

bool is_waiter(const char* line) { return std::strstr(line, ": -> ") != nullptr; }

}  // namespace

std::vector<ino_t> inodes_waited_for() {
  std::vector<ino_t> found;
  for_each_lock([&](const char* line, ino_t on) {
    if (is_waiter(line)) found.push_back(on);
    return true;
  });
  std::sort(found.begin(), found.end());
  found.erase(std::unique(found.begin(), found.end()), found.end());
  return found;
}

std::optional<lockmgr::OutsideLock> foreign_flock(ino_t ino, lockmgr::Mode mode) {
  std::optional<lockmgr::OutsideLock> found;
  for_each_lock([&](const char* line, ino_t on) {
    char text[8];
    int pid = 0;
    if (on != ino || is_waiter(line) || std::sscanf(line, "%*d: FLOCK %*s %7s %d", text, &pid) != 2)
      return true;
    const auto held = text[0] == 'W' ? lockmgr::Mode::kExclusive : lockmgr::Mode::kShared;
    if (pid == getpid() || !lockmgr::modes_conflict(held, mode)) return true;
    found = lockmgr::OutsideLock{lockmgr::kWholeFile, held, pid};
    return false;
  });
  return found;
}

}  // namespace lockfs
