#include "fs/mirror/nfs_pollers.h"

#include <dirent.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <string>

#include "fs/mirror/record_lock.h"

namespace lockfs {

namespace {

/// Below this a row of hand-overs is too short to keep anybody out.
constexpr auto kShortRow = std::chrono::milliseconds(100);

/// The server lists all that its clients have open; it is read at most this often a file, and so
/// that reading takes no more than a hundredth of the time.
constexpr auto kLookEvery = std::chrono::seconds(1);
constexpr int kReadCostFactor = 100;

/// Calls `matches` for the lines of a file until it returns true.
template <typename Matches>
bool any_line(const std::string& path, const Matches& matches) {
  const std::unique_ptr<FILE, int (*)(FILE*)> file(std::fopen(path.c_str(), "re"), std::fclose);
  if (file == nullptr) return false;
  char line[1024];
  while (std::fgets(line, sizeof line, file.get()) != nullptr) {
    if (matches(line)) return true;
  }
  return false;
}

/// Whether a line of a client's states is of that inode, such as
/// "- 0x..: { type: open, access: rw, deny: --, superblock: "fe:00:12", filename: ...". The device
/// is left out, as in a line of /proc/locks.
bool is_open_of(const char* line, ino_t ino) {
  constexpr const char* kMark = "superblock: \"";
  const char* device = std::strstr(line, kMark);
  if (std::strstr(line, "type: open") == nullptr || device == nullptr) return false;
  device += std::strlen(kMark);
  const char* colon = std::strchr(device, ':');
  if (colon != nullptr) colon = std::strchr(colon + 1, ':');
  return colon != nullptr && std::strtoull(colon + 1, nullptr, 10) == ino;
}

bool is_minor_version_0(const char* line) {
  unsigned minor = 1;
  return std::sscanf(line, "minor version: %u", &minor) == 1 && minor == 0;
}

bool old_client_has_open(const char* clients, ino_t ino) {
  const std::unique_ptr<DIR, int (*)(DIR*)> folder(::opendir(clients), ::closedir);
  if (folder == nullptr) return false;
  while (const dirent* entry = ::readdir(folder.get())) {  // NOLINT(concurrency-mt-unsafe)
    if (entry->d_name[0] == '.') continue;
    const std::string client = std::string(clients) + "/" + entry->d_name;
    if (any_line(client + "/info", is_minor_version_0) &&
        any_line(client + "/states", [ino](const char* line) { return is_open_of(line, ino); })) {
      return true;
    }
  }
  return false;
}

}  // namespace

bool NfsPollers::due(Clock::time_point now) noexcept {
  if (now - last_call_ > kShortRow) next_turn_ = now + kShortRow;
  last_call_ = now;
  if (now < next_turn_) return false;
  next_turn_ = now + 2 * kOutsidersTurn;
  if (now >= next_look_) {
    const auto begin = Clock::now();
    try {
      may_poll_ = old_client_has_open(clients_, ino_);
    } catch (const std::bad_alloc&) {
      may_poll_ = false;
    }
    const auto cost = Clock::now() - begin;
    next_look_ = now + std::max<Clock::duration>(kLookEvery, cost * kReadCostFactor);
  }
  return may_poll_;
}

}  // namespace lockfs
