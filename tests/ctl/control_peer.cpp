#include "tests/ctl/control_peer.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <thread>

namespace lockfs::test {

ControlPeer::ControlPeer(const std::string& path)
    : fd_(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, path.c_str(), sizeof address.sun_path - 1);
  if (::connect(fd_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    fd_.reset();
  }
}

std::size_t ControlPeer::send(const std::string& bytes) {
  std::size_t sent = 0;
  while (sent < bytes.size()) {
    const ssize_t put = ::send(fd_.get(), bytes.data() + sent, bytes.size() - sent, MSG_NOSIGNAL);
    if (put < 0) {
      if (errno == EINTR) continue;
      break;
    }
    sent += static_cast<std::size_t>(put);
  }
  return sent;
}

void ControlPeer::end() { ::shutdown(fd_.get(), SHUT_WR); }

std::optional<std::string> ControlPeer::line() {
  if (!valid()) return std::nullopt;
  while (true) {
    if (const auto end = input_.find('\n'); end != std::string::npos) {
      std::string text = input_.substr(0, end);
      input_.erase(0, end + 1);
      return text;
    }
    std::array<char, 65536> buffer;
    if (!wait_readable(fd_.get(), deadline())) return std::nullopt;
    const ssize_t got = ::recv(fd_.get(), buffer.data(), buffer.size(), 0);
    if (got <= 0) return std::nullopt;
    input_.append(buffer.data(), static_cast<std::size_t>(got));
  }
}

Json ControlPeer::json() {
  const auto text = line();
  return text ? Json::parse(*text, nullptr, false) : Json(Json::value_t::discarded);
}

bool ControlPeer::closed() {
  while (wait_readable(fd_.get(), deadline())) {
    std::array<char, 65536> buffer;
    const ssize_t got = ::recv(fd_.get(), buffer.data(), buffer.size(), 0);
    if (got == 0 || (got < 0 && errno == ECONNRESET)) return true;
  }
  return false;
}

std::vector<Json> ControlPeer::ask(const std::string& command, Json more) {
  more["v"] = 1;
  more["cmd"] = command;
  send(more.dump() + "\n");
  std::vector<Json> lines;
  do {
    lines.push_back(json());
  } while (lines.back().is_object() && !lines.back().contains("ok"));
  return lines;
}

Json ControlPeer::call(const std::string& command, Json more) {
  return ask(command, std::move(more)).back();
}

void ControlTest::SetUp() {
  std::vector<std::string> all = options();
  all.push_back("control=" + socket());
  const std::string error = fs_.start(all);
  ASSERT_TRUE(error.empty()) << error;
  // The mount answers a moment before its socket is there.
  const auto end = std::chrono::steady_clock::now() + deadline();
  while (!ControlPeer(socket()).valid()) {
    ASSERT_LT(std::chrono::steady_clock::now(), end) << "no control socket";
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

void ControlTest::TearDown() { EXPECT_EQ(fs_.stop(), ""); }

std::uint64_t ControlTest::make_file(const std::string& name) {
  EXPECT_TRUE(write_file(in_mount(name), "x"));
  struct stat status {};
  EXPECT_EQ(::stat(in_mount(name).c_str(), &status), 0) << std::strerror(errno);
  return status.st_ino;
}

}  // namespace lockfs::test
