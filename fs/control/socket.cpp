#include "fs/control/socket.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <grp.h>
#include <spdlog/spdlog.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <string_view>
#include <vector>

#include "fs/base/fnv.h"

namespace lockfs::control {

namespace {

/// Peers that may have connected and not been accepted yet: as many as the kernel allows
/// (net.core.somaxconn), since the next one is refused or waits in connect(2).
constexpr int kBacklog = SOMAXCONN;

std::string failed(std::string_view what, const std::string& path, int error) {
  return fmt::format("cannot {} {}: {}", what, path, std::strerror(error));
}

bool fill(sockaddr_un& address, const std::string& path) {
  address = {};
  address.sun_family = AF_UNIX;
  if (path.size() > kMostSocketPath) return false;
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  return true;
}

/// Whether a daemon listens there: 0 yes; ECONNREFUSED: a left-over; ENOENT: nothing.
int probe(const std::string& path) {
  const UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return errno;
  sockaddr_un address{};
  if (!fill(address, path)) return ENAMETOOLONG;
  const int result = connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address);
  if (result == 0) return 0;
  return errno == EAGAIN ? 0 : errno;  // its backlog is full: it lives
}

/// Removes the sockets of daemons that were killed. REQUIRES: nobody is about to listen there.
void sweep(const std::string& folder) {
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
    if (entry.path().extension() == ".sock" && probe(entry.path()) == ECONNREFUSED) {
      unlink(entry.path().c_str());
    }
  }
}

/// The group called or numbered `name`. Returns an empty string or what is wrong.
std::string find_group(const std::string& name, gid_t& gid) {
  std::vector<char> buffer(std::size_t{64} * 1024);
  group entry{};
  group* found = nullptr;
  if (getgrnam_r(name.c_str(), &entry, buffer.data(), buffer.size(), &found) == 0 &&
      found != nullptr) {
    gid = found->gr_gid;
    return {};
  }
  std::uint32_t number = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), number);
  if (error != std::errc{} || end != name.data() + name.size()) {
    return fmt::format("option 'control_group': there is no group '{}'; groupadd {} makes one",
                       name, name);
  }
  gid = number;
  return {};
}

}  // namespace

std::string control_folder() {
  if (geteuid() == 0) return "/run/lockfs";
  const char* runtime = getenv("XDG_RUNTIME_DIR");  // NOLINT(concurrency-mt-unsafe)
  return runtime != nullptr && runtime[0] == '/' ? fmt::format("{}/lockfs", runtime)
                                                 : std::string();
}

std::string control_socket_name(const std::string& mountpoint) {
  constexpr std::string_view kPlain =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._:";
  constexpr std::size_t kMost = 70;  // with folder, ending and number below kMostSocketPath
  std::string name;
  for (std::size_t i = mountpoint.starts_with('/') ? 1 : 0; i < mountpoint.size(); ++i) {
    const char c = mountpoint[i];
    if (c == '/') {
      name += '-';
    } else if (kPlain.find(c) != std::string_view::npos && !(name.empty() && c == '.')) {
      name += c;
    } else {
      name += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
    }
  }
  if (name.empty()) name = "-";
  if (name.size() > kMost) {
    name = fmt::format("{}-{:016x}", name.substr(0, kMost - 17), fnv1a(mountpoint));
  }
  return name;
}

std::string control_socket_path(const std::string& folder, const std::string& mountpoint,
                                int twin) {
  const std::string name = control_socket_name(mountpoint);
  return twin == 0 ? fmt::format("{}/{}.sock", folder, name)
                   : fmt::format("{}/{}+{}.sock", folder, name, twin);
}

ControlSocket::~ControlSocket() {
  if (!fd_) return;
  struct stat status {};
  if (lstat(path_.c_str(), &status) == 0 && status.st_dev == device_ && status.st_ino == inode_) {
    unlink(path_.c_str());
  }
}

/// Listens at `path`. Returns an empty string or what is wrong; EADDRINUSE is left in errno.
std::string ControlSocket::bind_at(const std::string& path) {
  sockaddr_un address{};
  if (!fill(address, path)) {
    return fmt::format(
        "option 'control': the path '{}' is longer than {} bytes; name a shorter one", path,
        kMostSocketPath);
  }
  UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return failed("make the control socket", path, errno);
  if (bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    const int error = errno;
    std::string text = failed("make the control socket", path, error);
    errno = error;
    return text;
  }
  const bool shared = group_ != static_cast<gid_t>(-1);
  struct stat status {};
  if ((shared && lchown(path.c_str(), static_cast<uid_t>(-1), group_) != 0) ||
      chmod(path.c_str(), shared ? 0660 : 0600) != 0 || lstat(path.c_str(), &status) != 0 ||
      listen(fd.get(), kBacklog) != 0) {
    std::string text = failed("set up the control socket", path, errno);
    unlink(path.c_str());
    errno = 0;
    return text;
  }
  fd_ = std::move(fd);
  path_ = path;
  device_ = status.st_dev;
  inode_ = status.st_ino;
  return {};
}

std::string ControlSocket::open_default(const Options& options) {
  const std::string folder = control_folder();
  if (folder.empty()) {
    spdlog::info("no control socket: $XDG_RUNTIME_DIR is not set; name one with -o control=PATH");
    return {};
  }
  if (mkdir(folder.c_str(), 0755) != 0 && errno != EEXIST) {
    return failed("make the folder of control sockets,", folder, errno);
  }
  // One at a time, so that nobody takes a socket for a left-over that is about to listen.
  const UniqueFd turn(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW));
  if (!turn) return failed("open the folder of control sockets,", folder, errno);
  struct stat status {};
  if (fstat(turn.get(), &status) != 0 || status.st_uid != geteuid() ||
      (status.st_mode & (S_IWGRP | S_IWOTH)) != 0) {
    return fmt::format("{} belongs to or may be written by others; remove it", folder);
  }
  if (flock(turn.get(), LOCK_EX) != 0) return failed("lock", folder, errno);

  sweep(folder);
  for (int twin = 0; twin < kMostSocketTwins; ++twin) {
    const std::string path = control_socket_path(folder, options.mountpoint_path, twin);
    const int found = probe(path);
    if (found == 0) continue;
    std::string error = bind_at(path);
    if (error.empty() || errno != EADDRINUSE) return error;
  }
  return fmt::format("all names for a control socket of {} in {} are taken; remove left-overs",
                     options.mountpoint_path, folder);
}

std::string ControlSocket::open(const Options& options) {
  if (options.control == "off") return {};
  if (!options.control_group.empty()) {
    if (std::string error = find_group(options.control_group, group_); !error.empty()) return error;
  }
  if (options.control == "auto") {
    std::string error = open_default(options);
    if (error.empty() || !options.control_group.empty()) return error;
    // A mount does without what nobody asked for.
    spdlog::warn("no control socket: {}", error);
    return {};
  }
  // A left-over of an earlier daemon may be in the way, but nothing else than a socket is removed.
  struct stat status {};
  if (lstat(options.control.c_str(), &status) == 0) {
    if (!S_ISSOCK(status.st_mode)) {
      return fmt::format("option 'control': {} exists and is no socket; name another path",
                         options.control);
    }
    if (probe(options.control) != ECONNREFUSED) {
      return fmt::format("option 'control': {} is in use by another program; name another path",
                         options.control);
    }
    unlink(options.control.c_str());
  }
  return bind_at(options.control);
}

std::string ControlSocket::adopt(const Options& options, const KeptSocket& kept) {
  if (kept.fd == 0) return {};
  if (!options.control_group.empty()) {
    if (std::string error = find_group(options.control_group, group_); !error.empty()) return error;
  }
  fd_.reset(kept.fd);
  path_ = kept.path;
  device_ = kept.device;
  inode_ = kept.inode;
  return {};
}

void ControlSocket::note(KeptSocket& kept) const noexcept {
  if (!fd_) return;
  std::memcpy(kept.path, path_.c_str(), path_.size() + 1);
  kept.device = device_;
  kept.inode = inode_;
  kept.fd = fd_.get();
}

}  // namespace lockfs::control
