#include "fs/daemon/source_mounts.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <spdlog/spdlog.h>
#include <sys/eventfd.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <new>
#include <set>
#include <system_error>

#include "fs/daemon/preflight.h"

namespace lockfs {

namespace {

constexpr std::string_view kTable = "/proc/self/mountinfo";
/// Machines that start many containers change their table often.
constexpr int kPauseMs = 200;

std::vector<MountEntry> read_mounts(const std::string& table) {
  std::ifstream file(table);
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  return parse_mountinfo(text);
}

/// Whether a list such as "rw,nosuid" has the word.
bool has_word(std::string_view list, std::string_view word) {
  while (!list.empty()) {
    const std::size_t comma = std::min(list.find(','), list.size());
    if (list.substr(0, comma) == word) return true;
    list.remove_prefix(std::min(comma + 1, list.size()));
  }
  return false;
}

}  // namespace

const std::array<Restriction, kRestrictions>& restrictions() {
  using O = Options;
  static constexpr std::array<Restriction, kRestrictions> kAll{{
      {"nosuid", "suid", MOUNT_ATTR_NOSUID, &O::nosuid, &O::asks_suid},
      {"nodev", "dev", MOUNT_ATTR_NODEV, &O::nodev, &O::asks_dev},
      {"noexec", "exec", MOUNT_ATTR_NOEXEC, &O::noexec, &O::asks_exec},
      {"nosymfollow", "symfollow", MOUNT_ATTR_NOSYMFOLLOW, &O::nosymfollow, &O::asks_symfollow},
  }};
  return kAll;
}

Restrictors restrictors_of(const std::vector<MountEntry>& mounts, std::uint64_t source_mount,
                           std::string_view source) {
  Restrictors found;
  std::set<std::uint64_t> members;
  const auto add = [&](const MountEntry& mount) {
    members.insert(mount.id);
    for (std::size_t i = 0; i < kRestrictions; ++i) {
      if (has_word(mount.options, restrictions()[i].name)) {
        found[i].emplace(mount.id, mount.mount_point);
      }
    }
  };
  for (const MountEntry& mount : mounts) {
    if (mount.id == source_mount) add(mount);
  }
  // A mount may stand before the one that it lies on.
  for (bool grown = true; grown;) {
    grown = false;
    for (const MountEntry& mount : mounts) {
      if (members.contains(mount.id) || !members.contains(mount.parent)) continue;
      // What covers the source itself is not seen from there: lockfs may be mounted over it.
      if (mount.mount_point == source || !is_below(mount.mount_point, source)) continue;
      add(mount);
      grown = true;
    }
  }
  return found;
}

void heed_source_mounts(Options& options, const std::string& mountinfo) {
  if (options.source_mount == 0) return;
  const Restrictors found =
      restrictors_of(read_mounts(mountinfo), options.source_mount, options.source_path);
  std::map<std::string, std::pair<std::string, std::string>> told;  // by mount point
  for (std::size_t i = 0; i < kRestrictions; ++i) {
    const Restriction& each = restrictions()[i];
    if (found[i].empty() || options.*each.wanted || options.*each.opposite_is_asked) continue;
    if (each.attribute == MOUNT_ATTR_NOSYMFOLLOW && !may_mount()) continue;
    options.*each.wanted = true;
    auto& [names, opposites] = told[found[i].begin()->second];
    const char* comma = names.empty() ? "" : ",";
    names.append(comma).append(each.name);
    opposites.append(comma).append(each.opposite);
  }
  for (const auto& [mount_point, words] : told) {
    options.start_notes.push_back(
        fmt::format("'{}' is mounted {}, and so is all of '{}'; -o {} takes that away", mount_point,
                    words.first, options.mountpoint, words.second));
  }
}

SourceMounts::SourceMounts(const Options& options) : options_(options) {
  if (!may_mount()) return;
  const auto mount = find_mount(options.mountpoint_path);
  if (!mount) return;
  device_ = mount->device;
  const std::uint64_t unknown_to_libfuse = (options.nosymfollow ? MOUNT_ATTR_NOSYMFOLLOW : 0) |
                                           (options.nodiratime ? MOUNT_ATTR_NODIRATIME : 0);
  if (unknown_to_libfuse != 0) {
    if (const int error = restrict_mount(unknown_to_libfuse); error != 0) {
      const auto mounts = read_mounts(std::string(kTable));
      const bool there = std::any_of(mounts.begin(), mounts.end(), [this](const MountEntry& each) {
        return each.device == device_;
      });
      if (!there) return;  // it was unmounted already, and the end is near
      throw std::system_error(error, std::generic_category(), "cannot set flags of the mount");
    }
  }
  if (options.source_mount == 0) return;
  // What has a flag already needs none; the others are looked at anew, since mounts may have come
  // since heed_source_mounts().
  const Restrictors now =
      restrictors_of(read_mounts(std::string(kTable)), options.source_mount, options.source_path);
  for (std::size_t i = 0; i < kRestrictions; ++i) {
    if (options.*restrictions()[i].wanted) seen_[i] = now[i];
  }
  table_.reset(::open(kTable.data(), O_RDONLY | O_CLOEXEC));
  stop_.reset(::eventfd(0, EFD_CLOEXEC));
  if (!table_ || !stop_) {
    throw std::system_error(errno, std::generic_category(), "cannot watch the mounts");
  }
  thread_ = std::thread([this] { watch(); });
}

SourceMounts::~SourceMounts() {
  if (!thread_.joinable()) return;
  ::eventfd_write(stop_.get(), 1);
  thread_.join();
}

void SourceMounts::watch() {
  std::array<pollfd, 2> wanted{{{stop_.get(), POLLIN, 0}, {table_.get(), POLLPRI, 0}}};
  const auto wait = [&](std::size_t count, int timeout) {
    while (::poll(wanted.data(), count, timeout) < 0 && errno == EINTR) {
    }
    return wanted[0].revents == 0;
  };
  // What changed since the constructor looked is among the first that poll() tells.
  do {
    try {
      follow();
    } catch (const std::bad_alloc&) {
      // The next change tells again.
    }
  } while (wait(1, kPauseMs) && wait(wanted.size(), -1));
}

/// Restricts the mount for what has come since the last look.
void SourceMounts::follow() {
  const std::vector<MountEntry> mounts = read_mounts(std::string(kTable));
  if (mounts.empty()) return;  // it could not be read
  Restrictors now = restrictors_of(mounts, options_.source_mount, options_.source_path);
  for (std::size_t i = 0; i < kRestrictions; ++i) {
    const Restriction& each = restrictions()[i];
    const auto is_new = [&](const auto& mount) { return !seen_[i].contains(mount.first); };
    const auto first = std::find_if(now[i].begin(), now[i].end(), is_new);
    if (first != now[i].end() && !(options_.*each.opposite_is_asked)) {
      const std::string& point = first->second;
      if (const int error = restrict_mount(each.attribute); error != 0) {
        spdlog::error("mount: '{}' is mounted {} now, and '{}' is not: {} (errno {})", point,
                      each.name, options_.mountpoint_path, std::strerror(error), error);
        continue;  // tried again with the next change
      }
      spdlog::warn(
          "mount: '{}' is mounted {} now, and so is all of '{}'; to take that away: "
          "mount -o remount,{} {}",
          point, each.name, options_.mountpoint_path, each.opposite,
          shell_quote(options_.mountpoint_path));
    }
    seen_[i] = std::move(now[i]);
  }
}

/// Returns 0 or an errno. Asks the daemon nothing.
int SourceMounts::restrict_mount(std::uint64_t attributes) const {
  const UniqueFd mount(::open_tree(AT_FDCWD, options_.mountpoint_path.c_str(),
                                   OPEN_TREE_CLOEXEC | AT_NO_AUTOMOUNT | AT_SYMLINK_NOFOLLOW));
  if (!mount) return errno;
  struct statx at {};
  constexpr int kNoRequest = AT_EMPTY_PATH | AT_STATX_DONT_SYNC;
  if (::statx(mount.get(), "", kNoRequest, STATX_TYPE, &at) != 0) return errno;
  // Somebody may have covered it.
  if (device_ != fmt::format("{}:{}", at.stx_dev_major, at.stx_dev_minor)) return ESTALE;
  mount_attr change{};
  change.attr_set = attributes;
  return ::mount_setattr(mount.get(), "", AT_EMPTY_PATH, &change, sizeof change) == 0 ? 0 : errno;
}

}  // namespace lockfs
