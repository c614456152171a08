#include "tests/mounted/support/proc_locks.h"

#include <dirent.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <sstream>

#include "tests/mounted/support/mounted.h"

namespace lockfs::test {

namespace {

/// Parses "1: OFDLCK  ADVISORY  WRITE -1 fd:01:1234 0 EOF". False for other kinds of locks.
bool parse(const std::string& line, unsigned& major, unsigned& minor, unsigned long& inode,
           LockedRange& range) {
  std::istringstream fields(line);
  std::string number, kind, advisory, mode, pid, file, first, last;
  if (!(fields >> number >> kind >> advisory >> mode >> pid >> file >> first >> last)) return false;
  if (kind != "OFDLCK" && kind != "POSIX") return false;
  if (std::sscanf(file.c_str(), "%x:%x:%lu", &major, &minor, &inode) != 3) return false;
  range.first = std::strtoll(first.c_str(), nullptr, 10);
  range.last = last == "EOF" ? kEof : std::strtoll(last.c_str(), nullptr, 10);
  range.mode = mode == "WRITE" ? Mode::kExclusive : Mode::kShared;
  return true;
}

std::vector<LockedRange> locks_in_fdinfo(pid_t pid, const std::function<bool(int)>& wanted) {
  std::vector<LockedRange> found;
  const std::string directory = "/proc/" + std::to_string(pid) + "/fdinfo";
  DIR* entries = ::opendir(directory.c_str());
  if (entries == nullptr) return found;
  while (const dirent* entry = ::readdir(entries)) {
    if (entry->d_name[0] == '.' || !wanted(std::atoi(entry->d_name))) continue;
    std::istringstream lines(read_file(directory + "/" + entry->d_name));
    std::string line;
    while (std::getline(lines, line)) {
      if (line.rfind("lock:\t", 0) != 0) continue;
      unsigned major = 0;
      unsigned minor = 0;
      unsigned long inode = 0;
      LockedRange range;
      if (parse(line.substr(6), major, minor, inode, range)) found.push_back(range);
    }
  }
  ::closedir(entries);
  std::sort(found.begin(), found.end());
  return found;
}

std::string text_of(const std::vector<LockedRange>& ranges) {
  std::ostringstream out;
  for (const LockedRange& range : ranges) out << " " << range;
  return ranges.empty() ? " nothing" : out.str();
}

/// Sorted, and in one piece what is locked in one piece: the daemon has several open files, and
/// their locks lie side by side.
std::vector<LockedRange> merged(std::vector<LockedRange> ranges) {
  std::sort(ranges.begin(), ranges.end());
  std::vector<LockedRange> found;
  for (const LockedRange& range : ranges) {
    if (!found.empty() && found.back().mode == range.mode && found.back().last != kEof &&
        found.back().last + 1 == range.first) {
      found.back().last = range.last;
    } else {
      found.push_back(range);
    }
  }
  return found;
}

/// What /proc/locks shows on the file: requests that wait, or locks.
std::vector<LockedRange> lines_of(dev_t device, ino_t inode, bool waiting) {
  std::vector<LockedRange> found;
  std::istringstream lines(read_file("/proc/locks"));
  std::string line;
  while (std::getline(lines, line)) {
    // "1: -> OFDLCK ..." waits.
    const std::size_t arrow = line.find("->");
    if ((arrow != std::string::npos) != waiting) continue;
    if (waiting) line.erase(arrow, 2);
    unsigned line_major = 0;
    unsigned line_minor = 0;
    unsigned long line_inode = 0;
    LockedRange range;
    if (!parse(line, line_major, line_minor, line_inode, range)) continue;
    if (line_inode == inode && line_major == major(device) && line_minor == minor(device)) {
      found.push_back(range);
    }
  }
  std::sort(found.begin(), found.end());
  return found;
}

}  // namespace

std::ostream& operator<<(std::ostream& out, const LockedRange& range) {
  out << "[" << range.first << ",";
  if (range.last == kEof) {
    out << "EOF";
  } else {
    out << range.last;
  }
  return out << "]" << (range.mode == Mode::kExclusive ? "W" : "R");
}

std::vector<LockedRange> proc_locks_of(dev_t device, ino_t inode) {
  return lines_of(device, inode, false);
}

std::vector<LockedRange> proc_locks_of(const std::string& path) {
  struct stat info {};
  if (::stat(path.c_str(), &info) != 0) {
    ADD_FAILURE() << path << ": " << std::strerror(errno);
    return {};
  }
  return proc_locks_of(info.st_dev, info.st_ino);
}

bool waits_at_backing(const std::string& path) {
  struct stat info {};
  return ::stat(path.c_str(), &info) == 0 && !lines_of(info.st_dev, info.st_ino, true).empty();
}

std::vector<LockedRange> locks_held_by(pid_t pid, dev_t device, ino_t inode) {
  const std::string directory = "/proc/" + std::to_string(pid) + "/fd/";
  return merged(locks_in_fdinfo(pid, [&](int fd) {
    struct stat info {};
    return ::stat((directory + std::to_string(fd)).c_str(), &info) == 0 && info.st_dev == device &&
           info.st_ino == inode;
  }));
}

std::vector<LockedRange> locks_held_by(pid_t pid, const std::string& path) {
  struct stat info {};
  if (::stat(path.c_str(), &info) != 0) {
    ADD_FAILURE() << path << ": " << std::strerror(errno);
    return {};
  }
  return locks_held_by(pid, info.st_dev, info.st_ino);
}

std::vector<LockedRange> all_locks_held_by(pid_t pid) {
  return locks_in_fdinfo(pid, [](int) { return true; });
}

::testing::AssertionResult mirror_is(pid_t pid, const std::string& path,
                                     const std::vector<LockedRange>& expected) {
  const std::vector<LockedRange> wanted = merged(expected);
  if (pid > 0) {
    const std::vector<LockedRange> held = locks_held_by(pid, path);
    if (held != wanted) {
      return ::testing::AssertionFailure() << "the daemon holds" << text_of(held) << " on " << path
                                           << ", expected" << text_of(wanted);
    }
  }
  // Other programs' locks come and go meanwhile and can shift lines out of sight, or show them
  // twice, of a table of thousands in nearly every look; so one good look is enough here. The table
  // above is exact.
  constexpr int kLooks = 200;
  std::vector<LockedRange> shown;
  for (int look = 0; look < kLooks; ++look) {
    shown = merged(proc_locks_of(path));
    if (shown == wanted) return ::testing::AssertionSuccess();
  }
  return ::testing::AssertionFailure() << "/proc/locks shows" << text_of(shown) << " on " << path
                                       << ", expected" << text_of(wanted);
}

}  // namespace lockfs::test
