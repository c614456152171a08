#include "fs/daemon/preflight.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/capability.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cerrno>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <memory>
#include <optional>
#include <sstream>
#include <system_error>

#include "fs/base/unique_fd.h"
#include "fs/daemon/source_mounts.h"

namespace lockfs {
namespace {

std::string describe(int error) { return std::generic_category().message(error); }

std::optional<std::string> read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return std::nullopt;
  return std::string(std::istreambuf_iterator<char>(file), {});
}

/// Asks the filesystem itself: a plain stat() of a mount whose daemon has died may still be
/// answered from the kernel's attribute cache. Returns an errno.
int stat_now(const std::string& path, struct statx& out) {
  constexpr int kFlags = AT_STATX_FORCE_SYNC | AT_NO_AUTOMOUNT;
  return statx(AT_FDCWD, path.c_str(), kFlags, STATX_BASIC_STATS, &out) == 0 ? 0 : errno;
}

/// The mount that a folder is on; 0 if that cannot be told. Opened as it will be later, which
/// brings an automount about.
std::uint64_t mount_of(const std::string& path) {
  const UniqueFd fd(open(path.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  struct statx at {};
  const bool told = fd && statx(fd.get(), "", AT_EMPTY_PATH, STATX_MNT_ID, &at) == 0 &&
                    (at.stx_mask & STATX_MNT_ID) != 0;
  return told ? at.stx_mnt_id : 0;
}

bool same_file(const struct statx& a, const struct statx& b) {
  return a.stx_dev_major == b.stx_dev_major && a.stx_dev_minor == b.stx_dev_minor &&
         a.stx_ino == b.stx_ino;
}

/// realpath(3); sets `error` when the result is empty.
std::string canonical(const std::string& path, int& error) {
  const std::unique_ptr<char, decltype(&std::free)> resolved(::realpath(path.c_str(), nullptr),
                                                             &std::free);
  error = resolved ? 0 : errno;
  return resolved ? std::string(resolved.get()) : std::string();
}

/// The path with "." components, doubled and closing slashes removed, made absolute. ".." and
/// symbolic links stay: only the filesystem can resolve them.
std::string absolute(const std::string& path) {
  std::string joined = path;
  if (!path.starts_with('/')) {
    std::array<char, PATH_MAX> cwd{};
    joined = getcwd(cwd.data(), cwd.size()) != nullptr ? cwd.data() + ("/" + path) : path;
  }
  std::string result;
  std::istringstream parts(joined);
  for (std::string part; std::getline(parts, part, '/');) {
    if (!part.empty() && part != ".") result += "/" + part;
  }
  return result.empty() ? "/" : result;
}

/// The root of the dead mount that `path` lies on or below: what umount needs. Follows symbolic
/// links by hand, since no call that ends on the dead mount succeeds.
std::string dead_mount_root(const std::string& path) {
  constexpr int kMaxLinks = 40;  // as the kernel's MAXSYMLINKS
  std::string current = absolute(path);
  for (int links = 0; links < kMaxLinks; ++links) {
    // The shortest prefix that fails is the mount's root, or a link that leads to it.
    std::string prefix;
    struct statx unused {};
    for (std::size_t slash = 0; slash != std::string::npos;) {
      slash = current.find('/', slash + 1);
      prefix = current.substr(0, slash);
      if (stat_now(prefix, unused) != 0) break;
    }
    int error = 0;
    const auto parent_end = prefix.find_last_of('/');
    std::string parent = canonical(parent_end == 0 ? "/" : prefix.substr(0, parent_end), error);
    if (parent.empty()) return prefix;
    if (parent != "/") parent += '/';
    const std::string name = prefix.substr(parent_end + 1);
    std::array<char, PATH_MAX> target{};
    const auto length = readlink((parent + name).c_str(), target.data(), target.size());
    if (length < 0) return parent + name;
    const std::string link(target.data(), static_cast<std::size_t>(length));
    const std::string rest = current.substr(prefix.size());
    current = absolute((link.starts_with('/') ? link : parent + link) + rest);
  }
  return current;
}

/// Detaches mounts that lie dead on the mount point, as they are where a daemon was killed and a
/// service manager starts it again. Nothing but a dead lockfs goes: with it gone, what it covered
/// shows, and that is somebody's.
std::string clear_dead_mounts(const Options& options, const Machine& machine) {
  constexpr int kMostStacked = 32;
  for (int i = 0; i < kMostStacked; ++i) {
    struct statx unused {};
    const int error = stat_now(options.mountpoint, unused);
    if (error != ENOTCONN && error != ECONNABORTED) return {};
    const std::string root = dead_mount_root(options.mountpoint);
    const auto on_top = find_mount(root, machine.mountinfo);
    if (!on_top || on_top->type != "fuse.lockfs") return {};  // the checks that follow tell
    if (umount2(root.c_str(), MNT_DETACH | UMOUNT_NOFOLLOW) != 0) {
      return fmt::format("cannot detach the dead mount on '{}': {}; clear it with: umount {}",
                         options.mountpoint, describe(errno), shell_quote(root));
    }
  }
  return {};
}

struct Directory {
  std::string path;  ///< canonical
  struct statx status {};
};

/// Resolves SOURCE or MOUNTPOINT and checks that it's a directory in working order.
std::string resolve_directory(const std::string& given, std::string_view role, Directory& out) {
  int error = 0;
  out.path = canonical(given, error);
  if (error == 0) error = stat_now(out.path, out.status);
  switch (error) {
    case 0:
      break;
    case ENOENT:
      if (role == "source") {
        return fmt::format("source '{}' does not exist; name an existing directory", given);
      }
      return fmt::format("mount point '{}' does not exist; create it with: mkdir -p {}", given,
                         shell_quote(given));
    case ENOTCONN:
    case ECONNABORTED:
      return fmt::format(
          "{} '{}' lies on a dead mount (its daemon is gone); clear it with: umount {}", role,
          given, shell_quote(dead_mount_root(given)));
    case ENOTDIR:
      return fmt::format("{} '{}' leads through a file; name a directory", role, given);
    case EACCES:
    case EPERM:
      return fmt::format(
          "{} '{}' is not accessible: {}; run as root or get search permission on "
          "every directory above it",
          role, given, describe(error));
    default:
      return fmt::format("{} '{}' is not usable: {}; check the path and its filesystem", role,
                         given, describe(error));
  }
  if (!S_ISDIR(out.status.stx_mode)) {
    return fmt::format("{} '{}' is not a directory; name a directory", role, given);
  }
  return {};
}

/// Whether one of the directories above `path` is `directory`. Compares identities as well as
/// names, so that a bind mount doesn't hide the relation.
bool lies_inside(const Directory& inner, const Directory& directory) {
  if (directory.path == "/") return inner.path != "/";
  if (inner.path != directory.path && is_below(inner.path, directory.path)) return true;
  for (std::string path = inner.path; path.size() > 1;) {
    path.resize(std::max<std::size_t>(path.find_last_of('/'), 1));
    struct statx above {};
    if (stat_now(path, above) == 0 && same_file(above, directory.status)) return true;
  }
  return false;
}

/// Whether programs all over the system break when something else covers the directory, or when
/// what covers it ends: what runs from it, or the kernel's own filesystems.
bool is_vital(const std::string& path) {
  constexpr std::array<std::string_view, 12> kVital = {"/bin",   "/dev",   "/etc",    "/lib",
                                                       "/lib32", "/lib64", "/libx32", "/proc",
                                                       "/run",   "/sbin",  "/sys",    "/usr"};
  if (std::find(kVital.begin(), kVital.end(), path) != kVital.end()) return true;
  constexpr std::array<std::string_view, 3> kKernels = {"/dev/", "/proc/", "/sys/"};
  return std::any_of(kKernels.begin(), kKernels.end(),
                     [&path](std::string_view folder) { return path.starts_with(folder); });
}

/// A daemon that walked from its source into its own mount would wait for itself.
std::string check_relation(const Options& options, const Directory& source,
                           const Directory& mountpoint) {
  if (mountpoint.path == "/") {
    return fmt::format("mount point '{}' is the root directory; name a directory below it",
                       options.mountpoint);
  }
  if (is_vital(mountpoint.path)) {
    return fmt::format(
        "mount point '{}' is a directory that the system cannot do without; name one of your own",
        options.mountpoint);
  }
  if (source.path == mountpoint.path) return {};
  if (lies_inside(mountpoint, source)) {
    return fmt::format(
        "mount point '{}' lies inside the source '{}'; choose one outside, or mount the source "
        "over itself",
        options.mountpoint, options.source);
  }
  if (lies_inside(source, mountpoint)) {
    return fmt::format(
        "source '{}' lies inside the mount point '{}'; choose a mount point that doesn't hide it",
        options.source, options.mountpoint);
  }
  return {};
}

std::string check_mounted(const Options& options, const Machine& machine) {
  const auto text = read_file(machine.mountinfo);
  if (!text) return fmt::format("cannot read {}; mount /proc first", machine.mountinfo);
  for (const auto& entry : parse_mountinfo(*text)) {
    if (entry.mount_point == options.mountpoint_path && entry.type == "fuse.lockfs") {
      return fmt::format(
          "'{}' is already mounted by lockfs (source '{}'); unmount it with: umount {}",
          options.mountpoint, entry.source, shell_quote(options.mountpoint_path));
    }
  }
  return {};
}

std::string check_device(const Machine& machine) {
  const int fd = open(machine.fuse_device.c_str(), O_RDWR | O_CLOEXEC);
  if (fd >= 0) {
    close(fd);
    return {};
  }
  switch (errno) {
    case ENOENT:
    case ENODEV:
    case ENXIO:
      return fmt::format("{} is missing; load the kernel module with: modprobe fuse",
                         machine.fuse_device);
    case EACCES:
    case EPERM:
      return fmt::format(
          "no permission to open {}; run as root, or have the administrator allow it (chmod 666 "
          "{}, "
          "in a container --device {})",
          machine.fuse_device, machine.fuse_device, machine.fuse_device);
    default:
      return fmt::format("cannot open {}: {}; load the kernel module with: modprobe fuse",
                         machine.fuse_device, describe(errno));
  }
}

/// Where libfuse would find fusermount3; empty: nowhere.
std::string find_fusermount(const Machine& machine) {
  auto folders = machine.fusermount_folders;
  if (folders.empty()) {
    folders = {"/usr/bin", "/bin", "/usr/local/bin"};
    const char* path = getenv("PATH");  // NOLINT(concurrency-mt-unsafe): no threads yet
    std::istringstream parts(path != nullptr ? path : "");
    for (std::string part; std::getline(parts, part, ':');) folders.push_back(part);
  }
  for (const auto& folder : folders) {
    auto candidate = folder + "/fusermount3";
    if (access(candidate.c_str(), X_OK) == 0) return candidate;
  }
  return {};
}

/// fusermount3 mounts on behalf of a plain user only with root's powers from its own file.
bool has_privilege(const std::string& program) {
  struct stat status {};
  if (stat(program.c_str(), &status) != 0) return false;
  if (status.st_uid == 0 && (status.st_mode & S_ISUID) != 0) return true;
  return getxattr(program.c_str(), "security.capability", nullptr, 0) > 0;
}

bool user_allow_other(const Machine& machine) {
  std::istringstream lines(read_file(machine.fuse_conf).value_or(""));
  for (std::string line; std::getline(lines, line);) {
    line.erase(std::min(line.find('#'), line.size()));
    std::erase_if(line, [](unsigned char c) { return std::isspace(c) != 0; });
    if (line == "user_allow_other") return true;
  }
  return false;
}

/// What fusermount3 will insist on when a plain user mounts.
std::string check_plain_user(const Options& options, const Directory& mountpoint,
                             const Machine& machine) {
  const auto fusermount = find_fusermount(machine);
  if (fusermount.empty()) {
    return "no permission to mount: not root and no fusermount3 found; run as root or install the "
           "package fuse3";
  }
  if (!has_privilege(fusermount)) {
    return fmt::format(
        "no permission to mount: not root and {} is not set-user-id root; run as root or have the "
        "administrator run: chmod u+s {}",
        fusermount, fusermount);
  }
  if (faccessat(AT_FDCWD, mountpoint.path.c_str(), W_OK | X_OK, AT_EACCESS) != 0) {
    return fmt::format(
        "no permission to mount on '{}': {}; choose a mount point you may write to, or run as root",
        options.mountpoint, describe(errno));
  }
  if ((mountpoint.status.stx_mode & S_ISVTX) != 0 && mountpoint.status.stx_uid != getuid()) {
    return fmt::format(
        "no permission to mount on '{}': it is sticky and not yours; choose a mount point you own, "
        "or run as root",
        options.mountpoint);
  }
  if (options.allow_other && !user_allow_other(machine)) {
    return fmt::format(
        "option 'allow_other': only root may use it unless {} says user_allow_other; add that line "
        "or leave the option out",
        machine.fuse_conf);
  }
  return {};
}

std::string check_permission(const Options& options, const Directory& source,
                             const Directory& mountpoint, const Machine& machine) {
  if (!may_mount()) {
    // fusermount3 started by root gains nothing it lacks already.
    if (geteuid() == 0) {
      return "no permission to mount: CAP_SYS_ADMIN is missing; in a container add --cap-add "
             "SYS_ADMIN --device /dev/fuse";
    }
    if (auto error = check_plain_user(options, mountpoint, machine); !error.empty()) return error;
  }
  if (faccessat(AT_FDCWD, source.path.c_str(), R_OK | X_OK, AT_EACCESS) != 0) {
    return fmt::format(
        "source '{}' is not accessible: {}; run as root or get read and search permission on it",
        options.source, describe(errno));
  }
  return {};
}

}  // namespace

std::string shell_quote(const std::string& text) {
  const auto plain = [](unsigned char c) {
    return std::isalnum(c) != 0 || std::strchr("/._-+:@%,=", c) != nullptr;
  };
  if (!text.empty() && text.front() != '-' && std::all_of(text.begin(), text.end(), plain)) {
    return text;
  }
  std::string quoted = "'";
  for (const char c : text) {
    if (c == '\'') {
      quoted += "'\\''";
    } else {
      quoted += c;
    }
  }
  return quoted + "'";
}

bool may_mount() {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  std::array<__user_cap_data_struct, _LINUX_CAPABILITY_U32S_3> data{};
  if (syscall(SYS_capget, &header, data.data()) != 0) return geteuid() == 0;
  return (data[CAP_TO_INDEX(CAP_SYS_ADMIN)].effective & CAP_TO_MASK(CAP_SYS_ADMIN)) != 0;
}

std::string check_start(Options& options, const Machine& machine) {
  Directory source;
  Directory mountpoint;
  std::string error;
  if (options.clear_dead) error = clear_dead_mounts(options, machine);
  if (error.empty()) error = resolve_directory(options.source, "source", source);
  if (error.empty()) error = resolve_directory(options.mountpoint, "mount point", mountpoint);
  if (!error.empty()) return error;
  options.source_path = source.path;
  options.mountpoint_path = mountpoint.path;
  options.source_mount = mount_of(source.path);
  if (options.fsname.empty()) options.fsname = source.path;

  error = check_relation(options, source, mountpoint);
  if (error.empty()) error = check_mounted(options, machine);
  if (error.empty()) error = check_device(machine);
  if (error.empty()) error = check_permission(options, source, mountpoint, machine);
  if (error.empty() && options.log_target == LogTarget::kJournal &&
      access(machine.journal_socket.c_str(), F_OK) != 0) {
    error = fmt::format("option 'log_target': no journal listens at {}; use log_target=syslog",
                        machine.journal_socket);
  }
  if (error.empty()) heed_source_mounts(options, machine.mountinfo);
  return error;
}

}  // namespace lockfs
