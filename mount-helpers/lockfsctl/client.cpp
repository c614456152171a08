#include "mount-helpers/lockfsctl/client.h"

#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <iostream>
#include <utility>

#include "fs/base/mount_table.h"

namespace lockfs::ctl {

namespace {

constexpr int kProtocol = 1;
/// Seconds that a mount may take for its next line of an answer.
constexpr time_t kMostSilence = 10;

std::string socket_folder() {
  if (geteuid() == 0) return "/run/lockfs";
  const char* runtime = std::getenv("XDG_RUNTIME_DIR");
  const std::string own = runtime == nullptr ? "" : std::string(runtime) + "/lockfs";
  std::error_code error;
  return !own.empty() && std::filesystem::exists(own, error) ? own : "/run/lockfs";
}

/// Nobody serves that socket.
class Gone : public Error {
 public:
  using Error::Error;
};

/// How long reading from the socket may take, or the other way, in seconds; 0: for ever.
void set_patience(int fd, int direction, time_t seconds) {
  const timeval time{seconds, 0};
  setsockopt(fd, SOL_SOCKET, direction, &time, sizeof time);
}

int connect_to(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) {
    throw Error(fmt::format("the socket path '{}' is too long", path), 2);
  }
  std::memcpy(address.sun_path, path.c_str(), path.size());
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) throw Error(fmt::format("cannot make a socket: {}", std::strerror(errno)));
  set_patience(fd, SO_SNDTIMEO, kMostSilence);
  if (connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0) return fd;
  const int error = errno;
  close(fd);
  if (error == ECONNREFUSED || error == ENOENT) {
    throw Gone(
        fmt::format("nobody listens at {}; is the mount there, and made with control=auto? "
                    "See lockfsctl mounts",
                    path));
  }
  const char* remedy = "";
  if (error == EACCES) remedy = "; be root, or in the group of the mount's control_group";
  if (error == EAGAIN) remedy = "; is its daemon stopped?";
  throw Error(fmt::format("cannot reach {}: {}{}", path, std::strerror(error), remedy));
}

/// The file as requests name it: by the inode that the mount shows, or by what the source has.
Json filter_of(const std::string& path, bool in_mount) {
  struct stat status {};
  if (stat(path.c_str(), &status) != 0) {
    throw Error(fmt::format("{}: {}", path, std::strerror(errno)));
  }
  if (in_mount) return {{"inode", status.st_ino}};
  return {{"device", fmt::format("{}:{}", major(status.st_dev), minor(status.st_dev))},
          {"source_inode", status.st_ino}};
}

}  // namespace

Json Client::greet(const std::string& socket) {
  // A daemon that has died meanwhile is followed by another, which listens at the same socket.
  constexpr int kMost = 10;
  for (int attempt = 1;; ++attempt) {
    fd_ = connect_to(socket);
    try {
      return call("ping");
    } catch (const Closed&) {
      if (attempt == kMost) throw;
      close(std::exchange(fd_, -1));
    }
  }
}

Client::Client(const std::string& socket) {
  try {
    const Json reply = greet(socket);
    const Json& m = reply.at("mount");
    mount_.socket = socket;
    mount_.source = m.at("source").get<std::string>();
    mount_.mountpoint = m.at("mountpoint").get<std::string>();
    mount_.source_device = m.at("source_device").get<std::string>();
    mount_.policy = m.at("policy").get<std::string>();
    mount_.version = m.at("version").get<std::string>();
    mount_.pid = m.at("pid").get<int>();
    mount_.mirror = m.at("mirror").get<bool>();
    mount_.uptime_s = m.at("uptime_s").get<std::int64_t>();
    if (const auto survival = m.find("survival"); survival != m.end()) {
      mount_.survives = survival->at("survives").get<bool>();
      mount_.keepers = survival->value("keepers", std::vector<int>());
      mount_.generation = survival->at("generation").get<std::uint32_t>();
      mount_.program_since = survival->at("program_since").get<std::uint32_t>();
      mount_.last_gap_ms = survival->at("gap_ms").get<double>();
      if (const auto death = survival->find("last_death"); death != survival->end()) {
        mount_.last_death = death->at("reason").get<std::string>();
        mount_.last_death_time = death->at("time").get<double>();
      }
    }
  } catch (const Json::exception& error) {
    close(fd_);
    throw Error(fmt::format("{}: not the answer of a lockfs mount: {}", socket, error.what()));
  } catch (const Error&) {
    if (fd_ >= 0) close(fd_);
    throw;
  }
}

Client::Client(Client&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)),
      input_(std::move(other.input_)),
      mount_(std::move(other.mount_)) {}

Client& Client::operator=(Client&& other) noexcept {
  std::swap(fd_, other.fd_);
  std::swap(input_, other.input_);
  std::swap(mount_, other.mount_);
  return *this;
}

Client::~Client() {
  if (fd_ >= 0) close(fd_);
}

Json Client::call(const std::string& command, Json arguments,
                  const std::function<void(const Json&)>& on_line) {
  arguments["v"] = kProtocol;
  arguments["cmd"] = command;
  const std::string text = arguments.dump() + '\n';
  for (std::size_t sent = 0; sent < text.size();) {
    const ssize_t put = send(fd_, text.data() + sent, text.size() - sent, MSG_NOSIGNAL);
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) break;  // what it has said before it went is read below
    sent += static_cast<std::size_t>(put);
  }
  set_patience(fd_, SO_RCVTIMEO, kMostSilence);
  errno = 0;
  while (auto line = next()) {
    if (!line->contains("ok")) {
      if (on_line) on_line(*line);
      continue;
    }
    set_patience(fd_, SO_RCVTIMEO, 0);
    if (line->at("ok") == true) return std::move(*line);
    throw Error(fmt::format("{}: {}", command, line->value("error", "refused")));
  }
  if (errno == EAGAIN) {
    throw Error(fmt::format("{}: no answer within {} s; is the mount's daemon{} stopped?", command,
                            kMostSilence,
                            mount_.pid > 0 ? fmt::format(" (pid {})", mount_.pid) : ""));
  }
  throw Closed("the mount has closed the connection");
}

bool Client::receive() {
  std::array<char, 65536> buffer;
  const ssize_t got = recv(fd_, buffer.data(), buffer.size(), MSG_DONTWAIT);
  if (got > 0) input_.append(buffer.data(), static_cast<std::size_t>(got));
  return got > 0 || (got < 0 && (errno == EAGAIN || errno == EINTR));
}

std::optional<Json> Client::next() {
  std::size_t searched = 0;
  while (true) {
    if (const auto end = input_.find('\n', searched); end != std::string::npos) {
      Json line = Json::parse(input_.begin(), input_.begin() + static_cast<std::ptrdiff_t>(end));
      input_.erase(0, end + 1);
      return line;
    }
    searched = input_.size();
    std::array<char, 65536> buffer;
    const ssize_t got = recv(fd_, buffer.data(), buffer.size(), 0);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return std::nullopt;
    input_.append(buffer.data(), static_cast<std::size_t>(got));
  }
}

// -- finding mounts -------------------------------------------------------------------------------

std::vector<std::string> all_sockets() {
  std::vector<std::string> found;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(socket_folder(), error)) {
    if (entry.path().extension() == ".sock") found.push_back(entry.path());
  }
  std::sort(found.begin(), found.end());
  return found;
}

namespace {

/// Connections to every mount that answers, or to `globals.socket` alone; appends to `problems` why
/// others do not, but for left-overs of daemons that were killed.
std::vector<Client> reachable_mounts(const Globals& globals, std::vector<std::string>& problems) {
  std::vector<Client> found;
  if (!globals.socket.empty()) {
    found.emplace_back(globals.socket);
    return found;
  }
  for (const std::string& socket : all_sockets()) {
    try {
      found.emplace_back(socket);
    } catch (const Gone&) {
      continue;
    } catch (const Error& problem) {
      problems.emplace_back(problem.what());
    }
  }
  return found;
}

}  // namespace

std::vector<Client> all_mounts(const Globals& globals) {
  std::vector<std::string> problems;
  std::vector<Client> found = reachable_mounts(globals, problems);
  for (const std::string& problem : problems) std::cerr << "lockfsctl: " << problem << '\n';
  return found;
}

Target find_target(const Globals& globals, const std::string& path) {
  std::error_code error;
  const std::string real = std::filesystem::canonical(path, error);
  if (error) throw Error(fmt::format("{}: {}", path, error.message()));
  std::vector<std::string> problems;
  std::vector<Client> mounts = reachable_mounts(globals, problems);
  // The innermost mount whose mount point, or else whose source, the path lies in; of twins the one
  // on top, which was mounted last.
  const auto best = [&](auto member) {
    Client* found = nullptr;
    for (Client& client : mounts) {
      const std::string& folder = client.mount().*member;
      if (!is_below(real, folder)) continue;
      if (found == nullptr || folder.size() > (found->mount().*member).size() ||
          (folder.size() == (found->mount().*member).size() &&
           client.mount().uptime_s <= found->mount().uptime_s)) {
        found = &client;
      }
    }
    return found;
  };
  Client* client = best(&MountInfo::mountpoint);
  const bool in_mount = client != nullptr;
  if (!in_mount) client = best(&MountInfo::source);
  if (client == nullptr) {
    if (!problems.empty()) throw Error(fmt::format("{}: {}", path, problems.front()));
    throw Error(
        fmt::format("{} lies in no lockfs mount that answers; lockfsctl mounts lists them", path));
  }
  const std::string& folder = in_mount ? client->mount().mountpoint : client->mount().source;
  if (real == folder) return {std::move(*client), Json::object(), ""};
  Json filter = filter_of(real, in_mount);
  return {std::move(*client), std::move(filter), path};
}

std::vector<Target> find_targets(const Globals& globals, const std::string& path) {
  std::vector<Target> targets;
  if (!path.empty()) {
    targets.push_back(find_target(globals, path));
    return targets;
  }
  for (Client& client : all_mounts(globals)) {
    targets.push_back({std::move(client), Json::object(), ""});
  }
  if (targets.empty()) {
    throw Error(
        fmt::format("no lockfs mount answers: nothing in {}; be root, or name a socket "
                    "with --socket",
                    socket_folder()));
  }
  return targets;
}

Target find_one(const Globals& globals, const std::string& path) {
  std::vector<Target> targets = find_targets(globals, path);
  if (targets.size() > 1) throw Error("there are several mounts; name one of them", 2);
  return std::move(targets.front());
}

}  // namespace lockfs::ctl
