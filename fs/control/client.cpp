#include "fs/control/client.h"

#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "fs/control/socket.h"

namespace lockfs::control {

namespace {

constexpr std::size_t kMostReply = 1'048'576;

}  // namespace

int Client::connect(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() > kMostSocketPath) return ENAMETOOLONG;
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd) return errno;
  const timeval patience{kPatience.count(), 0};
  setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  setsockopt(fd.get(), SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
  if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    return errno;
  }
  fd_ = std::move(fd);
  input_.clear();
  return 0;
}

std::string Client::read_line(std::string& line) {
  while (true) {
    if (const auto end = input_.find('\n'); end != std::string::npos) {
      line = input_.substr(0, end);
      input_.erase(0, end + 1);
      return {};
    }
    if (input_.size() > kMostReply) return "the daemon's answer has no end";
    std::array<char, 4096> buffer{};
    const ssize_t got = recv(fd_.get(), buffer.data(), buffer.size(), 0);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
      return fmt::format("the daemon did not answer within {} seconds", kPatience.count());
    }
    if (got < 0) return fmt::format("cannot read the daemon's answer: {}", std::strerror(errno));
    if (got == 0) return "the daemon closed the connection; only root may use it";
    input_.append(buffer.data(), static_cast<std::size_t>(got));
  }
}

std::string Client::ask(Json request, Json& reply) {
  request["v"] = kProtocol;
  request["id"] = 1;
  const std::string text = line_of(request);
  std::size_t sent = 0;
  while (sent < text.size()) {
    const ssize_t count = send(fd_.get(), text.data() + sent, text.size() - sent, MSG_NOSIGNAL);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return fmt::format("cannot ask the daemon: {}", std::strerror(errno));
    sent += static_cast<std::size_t>(count);
  }
  std::string line;
  if (std::string error = read_line(line); !error.empty()) return error;
  reply = Json::parse(line, nullptr, false);
  if (!reply.is_object()) return "the daemon's answer is no JSON object";
  if (!reply.value("ok", false)) return reply.value("error", "the daemon refused without a reason");
  return {};
}

}  // namespace lockfs::control
