#include "fs/daemon/remount.h"

#include <fmt/format.h>
#include <sys/mount.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>
#include <sstream>
#include <string_view>
#include <vector>

#include "fs/control/client.h"
#include "fs/control/socket.h"
#include "fs/daemon/preflight.h"
#include "fs/options/option_table.h"

namespace lockfs {

namespace {

using control::Json;

/// A word of a mount's options and the mount(2) flags it sets and clears.
struct FlagWord {
  std::string_view name;
  unsigned long sets;
  unsigned long clears;
};

constexpr unsigned long kAccessTimes = MS_NOATIME | MS_RELATIME | MS_STRICTATIME;

constexpr auto kFlagWords = std::to_array<FlagWord>({
    {"ro", MS_RDONLY, 0},
    {"rw", 0, MS_RDONLY},
    {"nosuid", MS_NOSUID, 0},
    {"suid", 0, MS_NOSUID},
    {"nodev", MS_NODEV, 0},
    {"dev", 0, MS_NODEV},
    {"noexec", MS_NOEXEC, 0},
    {"exec", 0, MS_NOEXEC},
    {"sync", MS_SYNCHRONOUS, 0},
    {"async", 0, MS_SYNCHRONOUS},
    {"dirsync", MS_DIRSYNC, 0},
    {"noatime", MS_NOATIME, kAccessTimes},
    // Without any of these flags the kernel keeps what there is (do_mount()).
    {"atime", MS_RELATIME, kAccessTimes},
    {"relatime", MS_RELATIME, kAccessTimes},
    {"nodiratime", MS_NODIRATIME, 0},
    {"diratime", 0, MS_NODIRATIME},
    {"nosymfollow", MS_NOSYMFOLLOW, 0},
    {"symfollow", 0, MS_NOSYMFOLLOW},
});

/// Applies `name` to `flags` and returns true, if it is one of those words.
bool apply_word(std::string_view name, unsigned long& flags) {
  for (const FlagWord& word : kFlagWords) {
    if (word.name != name) continue;
    flags = (flags & ~word.clears) | word.sets;
    return true;
  }
  return false;
}

std::vector<std::string> words_of(const std::string& list) {
  std::vector<std::string> words;
  std::istringstream parts(list);
  for (std::string part; std::getline(parts, part, ',');) words.push_back(part);
  return words;
}

unsigned long flags_of(const MountEntry& mount) {
  unsigned long flags = 0;
  // "rw" of the one must not hide "ro" of the other.
  for (const auto& list : {mount.options, mount.super_options}) {
    for (const auto& word : words_of(list)) {
      if (word != "rw") apply_word(word, flags);
    }
  }
  return flags;
}

std::string text_of(const MountOption& option) {
  return option.value ? fmt::format("{}={}", option.name, *option.value) : option.name;
}

/// What is asked of the kernel and what of the daemon.
struct Wishes {
  unsigned long flags = 0;
  Json settings = Json::object();
};

Wishes sort_out(const std::vector<MountOption>& options, const MountEntry& mount) {
  Wishes wishes;
  wishes.flags = flags_of(mount);
  const auto present = words_of(mount.super_options);
  for (const MountOption& wish : options) {
    const auto* spec = option::find_option(wish.name);
    if (spec != nullptr && spec->section == option::Section::kIgnored) continue;
    if (wish.name == "remount" || wish.name == "sloppy" || wish.name == "clear_dead") {
      continue;
    }
    if (!wish.value && apply_word(wish.name, wishes.flags)) continue;
    // mount(8) repeats user_id=0 and what else the kernel tells of the mount.
    if (std::find(present.begin(), present.end(), text_of(wish)) != present.end()) continue;
    wishes.settings.erase(wish.name);  // the last one counts, and in its place
    wishes.settings[wish.name] = wish.value ? Json(*wish.value) : Json(true);
  }
  // What the daemon acts on as well.
  const unsigned long changed = wishes.flags ^ flags_of(mount);
  if ((changed & MS_NOATIME) != 0) {
    wishes.settings[(wishes.flags & MS_NOATIME) != 0 ? "noatime" : "atime"] = true;
  }
  if ((changed & MS_NODIRATIME) != 0) {
    wishes.settings[(wishes.flags & MS_NODIRATIME) != 0 ? "nodiratime" : "diratime"] = true;
  }
  return wishes;
}

/// Where the control socket of a mount may be. A daemon that still serves files of a mount detached
/// by `umount -l` keeps the first name, so that its successor has another.
std::vector<std::string> socket_paths(const Options& options, const std::string& mountpoint) {
  if (options.control.starts_with('/')) return {options.control};
  const std::string folder = control::control_folder();
  if (folder.empty()) return {};
  std::vector<std::string> paths;
  paths.reserve(control::kMostSocketTwins);
  for (int twin = 0; twin < control::kMostSocketTwins; ++twin) {
    paths.push_back(control::control_socket_path(folder, mountpoint, twin));
  }
  return paths;
}

/// Connects to the daemon that serves `mount`. Returns an empty string or what is wrong.
std::string find_daemon(control::Client& client, const Options& options, const MountEntry& mount) {
  int refused = 0;
  for (const auto& path : socket_paths(options, mount.mount_point)) {
    const int error = client.connect(path);
    if (error == EACCES || error == EPERM) refused = error;
    if (error != 0) continue;
    Json reply;
    if (std::string text = client.ask({{"cmd", "ping"}}, reply); !text.empty()) return text;
    if (reply["mount"].value("mount_device", "") == mount.device) return {};
  }
  if (refused != 0) return "no permission to use the control socket; run as root";
  return "the daemon has no control socket (-o control=off?); unmount and mount again";
}

std::string change(const CommandLine& command, const MountEntry& mount) {
  const Wishes wishes = sort_out(command.mount_options, mount);
  control::Client daemon;
  Json reply;
  const auto set = [&](bool check) {
    Json request = wishes.settings;
    request["cmd"] = "set";
    request["check"] = check;
    return daemon.ask(std::move(request), reply);
  };
  if (!wishes.settings.empty()) {
    if (std::string error = find_daemon(daemon, command.options, mount); !error.empty()) {
      return error;
    }
    if (std::string error = set(true); !error.empty()) return error;
  }
  if (command.check_only) return {};
  const bool flags_change = wishes.flags != flags_of(mount);
  if (flags_change && ::mount("none", mount.mount_point.c_str(), nullptr, MS_REMOUNT | wishes.flags,
                              nullptr) != 0) {
    switch (errno) {
      case EBUSY:
        return "files are open for writing; close them (fuser -vm shows by whom)";
      case EPERM:
      case EACCES:
        return "no permission to remount; run as root";
      default:
        return std::strerror(errno);
    }
  }
  return wishes.settings.empty() ? std::string() : set(false);
}

}  // namespace

std::string remount(const CommandLine& command) {
  const std::string& given = command.options.mountpoint;
  const auto failed = [&given](std::string_view why) {
    return fmt::format("cannot remount '{}': {}", given, why);
  };
  const std::unique_ptr<char, decltype(&std::free)> path(::realpath(given.c_str(), nullptr),
                                                         &std::free);
  if (path == nullptr) return failed(std::strerror(errno));
  const auto mount = find_mount(path.get());
  if (!mount || mount->type != "fuse.lockfs") {
    return failed("no lockfs is mounted there; mount it first");
  }
  const std::string error = change(command, *mount);
  return error.empty() ? error : failed(error);
}

}  // namespace lockfs
