#include "fs/base/proc_locks.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <string_view>

#include "fs/base/process_look.h"

namespace lockfs {

namespace {

/// Reads a line of one of the lists word by word.
class Words {
 public:
  explicit Words(const char* text) noexcept : at_(text) {}

  std::string_view word() noexcept {
    at_ += std::strspn(at_, " \t");
    const std::string_view found(at_, std::strcspn(at_, " \t\n"));
    at_ += found.size();
    return found;
  }
  /// A number, and the character `end` behind it unless that is 0. False: there is none.
  bool number(int base, char end, unsigned long long& value) noexcept {
    char* stop = nullptr;
    value = std::strtoull(at_, &stop, base);
    if (stop == at_ || (end != 0 && *stop != end)) return false;
    at_ = stop + (end != 0 ? 1 : 0);
    return true;
  }
  /// Skips `prefix` if it comes next.
  bool skip(std::string_view prefix) noexcept {
    at_ += std::strspn(at_, " \t");
    if (std::strncmp(at_, prefix.data(), prefix.size()) != 0) return false;
    at_ += prefix.size();
    return true;
  }

 private:
  const char* at_;
};

/// Calls visit(line) for each lock in the list until it returns false. False: it cannot be read.
template <typename Visit>
bool for_each_line(const char* path, const Visit& visit) {
  const std::unique_ptr<FILE, int (*)(FILE*)> file(std::fopen(path, "re"), std::fclose);
  if (file == nullptr) return false;
  // A line has a blank for each request that the one in it waits behind (lock_get_status()).
  struct Line {
    ~Line() { std::free(text); }
    char* text = nullptr;
    std::size_t size = 0;
  } line;
  while (::getline(&line.text, &line.size, file.get()) >= 0) {
    if (!visit(static_cast<const char*>(line.text))) return true;
  }
  return std::feof(file.get()) != 0;
}

}  // namespace

std::optional<LockLine> parse_lock_line(const char* line) noexcept {
  Words words(line);
  LockLine lock;
  words.skip("lock:");
  unsigned long long number = 0;
  if (!words.number(10, ':', number)) return std::nullopt;
  lock.waiting = words.skip("->");
  const std::string_view type = words.word();
  if (type == "POSIX") {
    lock.type = LockLine::Type::kPosix;
  } else if (type == "OFDLCK") {
    lock.type = LockLine::Type::kOpenFile;
  } else if (type == "FLOCK") {
    lock.type = LockLine::Type::kFlock;
  } else {
    return std::nullopt;
  }
  words.word();  // ADVISORY
  const std::string_view mode = words.word();
  if (mode != "WRITE" && mode != "READ") return std::nullopt;
  lock.mode = mode == "WRITE" ? lockmgr::Mode::kExclusive : lockmgr::Mode::kShared;
  const auto next = [&](int base, char end, auto& value) {
    if (!words.number(base, end, number)) return false;
    value = static_cast<std::remove_reference_t<decltype(value)>>(number);
    return true;
  };
  if (!next(10, ' ', lock.pid) || !next(16, ':', lock.dev_major) ||
      !next(16, ':', lock.dev_minor) || !next(10, ' ', lock.ino) ||
      !next(10, ' ', lock.range.first)) {
    return std::nullopt;
  }
  lock.range.last = lockmgr::kEof;
  if (!words.skip("EOF") && !next(10, 0, lock.range.last)) return std::nullopt;
  return lock;
}

std::vector<ino_t> inodes_waited_for() {
  std::vector<ino_t> found;
  for_each_line("/proc/locks", [&](const char* line) {
    // Of a long list most lines are no waits.
    if (std::strstr(line, "->") == nullptr) return true;
    if (const auto lock = parse_lock_line(line)) found.push_back(lock->ino);
    return true;
  });
  std::sort(found.begin(), found.end());
  found.erase(std::unique(found.begin(), found.end()), found.end());
  return found;
}

std::vector<LockLine> posix_locks_of_waiting_programs(std::size_t most) {
  std::map<pid_t, std::optional<long>> waiting;
  const auto for_each_posix = [](const auto& visit) {
    for_each_line("/proc/locks", [&](const char* line) {
      const auto lock = parse_lock_line(line);
      if (lock && lock->type == LockLine::Type::kPosix && lock->pid > 0 && lock->pid != getpid()) {
        return visit(*lock);
      }
      return true;
    });
  };
  for_each_posix([&](const LockLine& lock) {
    if (lock.waiting) waiting.try_emplace(lock.pid);
    return waiting.size() <= most;
  });
  std::vector<LockLine> found;
  if (waiting.empty() || waiting.size() > most) return found;
  for (auto& [pid, turns] : waiting) turns = turns_of_lone_thread(pid);
  for_each_posix([&](const LockLine& lock) {
    if (waiting.contains(lock.pid)) found.push_back(lock);
    return found.size() <= most;
  });
  if (found.size() > most) return {};
  for (auto& [pid, turns] : waiting) {
    if (turns != turns_of_lone_thread(pid)) turns.reset();
  }
  std::erase_if(found, [&](const LockLine& lock) { return !waiting.at(lock.pid); });
  return found;
}

std::optional<lockmgr::OutsideLock> foreign_flock(ino_t ino, lockmgr::Mode mode) {
  std::optional<lockmgr::OutsideLock> found;
  for_each_line("/proc/locks", [&](const char* line) {
    const auto lock = parse_lock_line(line);
    const bool refuses = lock && lock->ino == ino && lock->type == LockLine::Type::kFlock &&
                         !lock->waiting && lock->pid != getpid() &&
                         lockmgr::modes_conflict(lock->mode, mode);
    if (refuses) found = lockmgr::OutsideLock{lockmgr::kWholeFile, lock->mode, lock->pid};
    return !refuses;
  });
  return found;
}

namespace {

/// Calls visit(lock) for those of `type` that descriptor `fd` of this process holds.
template <typename Visit>
bool for_each_lock_of(int fd, LockLine::Type type, const Visit& visit) {
  char path[40];
  std::snprintf(path, sizeof path, "/proc/self/fdinfo/%d", fd);
  return for_each_line(path, [&](const char* line) {
    const auto lock = parse_lock_line(line);
    if (lock && lock->type == type && !lock->waiting) visit(*lock);
    return true;
  });
}

}  // namespace

bool read_open_file_locks(int fd, std::vector<lockmgr::CarriedLock>& found) {
  return for_each_lock_of(fd, LockLine::Type::kOpenFile, [&](const LockLine& lock) {
    found.push_back({lock.range, lock.mode});
  });
}

bool read_flock(int fd, lockmgr::Mode& held) {
  held = lockmgr::Mode::kNone;
  return for_each_lock_of(fd, LockLine::Type::kFlock,
                          [&](const LockLine& lock) { held = lock.mode; });
}

}  // namespace lockfs
