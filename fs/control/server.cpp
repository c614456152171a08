#include "fs/control/server.h"

#include <fmt/format.h>
#include <poll.h>
#include <pthread.h>
#include <spdlog/spdlog.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <exception>
#include <new>
#include <system_error>
#include <utility>

namespace lockfs::control {

Server::Server(const Options& options, Filesystem& filesystem, LockOps& lock_ops,
               BookHeader& header)
    : context_(options, filesystem, lock_ops, header) {}

Server::~Server() { stop(); }

std::string Server::open() {
  std::string error = socket_.open(context_.options);
  socket_.note(context_.header.control);
  return error;
}

std::string Server::adopt() { return socket_.adopt(context_.options, context_.header.control); }

std::string Server::start() {
  if (socket_.fd() < 0) return {};
  context_.note_mount();
  stop_.reset(eventfd(0, EFD_CLOEXEC));
  if (!stop_) return fmt::format("cannot serve {}: {}", socket_.path(), std::strerror(errno));
  try {
    thread_ = std::thread([this] { run(); });
  } catch (const std::system_error& error) {
    return fmt::format("cannot serve {}: {}", socket_.path(), error.what());
  }
  return {};
}

void Server::stop() noexcept {
  if (!thread_.joinable()) return;
  const std::uint64_t one = 1;
  while (write(stop_.get(), &one, sizeof one) < 0 && errno == EINTR) {
  }
  thread_.join();
  context_.recorder.stop();
  stop_watching();
  connections_.clear();
  events_.clear();
}

void Server::run() noexcept {
  pthread_setname_np(pthread_self(), "lockfs-control");
  while (true) {
    try {
      pollfd stop{stop_.get(), POLLIN, 0};
      if (poll(&stop, 1, 0) > 0) return;
      turn();
    } catch (const std::exception& error) {
      // Want of memory, as a rule. The peers are what took it.
      connections_.clear();
      stop_watching();
      events_ = {};
      spdlog::error("control socket: {}; all connections closed", error.what());
    }
  }
}

/// Waits until there is something to do, and does it.
void Server::turn() {
  std::vector<pollfd> entries;
  entries.push_back({stop_.get(), POLLIN, 0});
  entries.push_back({socket_.fd(), POLLIN, 0});
  entries.push_back({feed_.fd(), POLLIN, 0});
  for (const Connection& c : connections_) {
    short wanted = 0;
    if (!c.closing && c.reply == nullptr && has_room(c) && c.input.size() <= kMostLine)
      wanted |= POLLIN;
    if (c.pending() > 0) wanted |= POLLOUT;
    entries.push_back({c.fd.get(), wanted, 0});
  }
  if (poll(entries.data(), entries.size(), busy_ ? 0 : -1) < 0 && errno != EINTR) {
    throw std::system_error(errno, std::generic_category(), "poll");
  }
  busy_ = false;
  if ((entries[2].revents & POLLIN) != 0) spread_events();
  std::size_t i = 3;
  for (Connection& c : connections_) {
    const short ready = entries[i++].revents;
    if ((ready & POLLIN) != 0) read_from(c);
    // A peer that has gone wants no reply; one that only shut its sending side down does.
    if ((ready & (POLLERR | POLLNVAL)) != 0 || ((ready & POLLHUP) != 0 && (ready & POLLIN) == 0)) {
      c.dead = true;
    }
    if (!c.dead && advance(c)) busy_ = true;
    if (!c.dead) write_to(c);
    if (c.closing && c.reply == nullptr && c.pending() == 0 &&
        c.input.find('\n') == std::string::npos) {
      c.dead = true;
    }
  }
  connections_.remove_if([](const Connection& c) { return c.dead; });
  note_watchers();
  if (std::exchange(context_.hands_over, false)) hand_over(context_.header);
  // Last: `entries` is by position.
  if ((entries[1].revents & POLLIN) != 0) accept_peers();
}

// -- connections ---------------------------------------------------------------------------------

/// The permissions of the socket say the same; this holds also where they do not reach.
bool Server::admits(int fd, Peer& peer) const {
  ucred credentials{};
  socklen_t size = sizeof credentials;
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &credentials, &size) != 0) return false;
  const bool own = credentials.uid == 0 || credentials.uid == geteuid();
  peer = {credentials.pid, credentials.uid, own};
  if (own) return true;
  const gid_t group = socket_.group();
  if (group == static_cast<gid_t>(-1)) return false;
  if (credentials.gid == group) return true;
  std::vector<gid_t> groups(65536);  // NGROUPS_MAX
  size = static_cast<socklen_t>(groups.size() * sizeof(gid_t));
  if (getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, groups.data(), &size) != 0) return false;
  groups.resize(size / sizeof(gid_t));
  return std::find(groups.begin(), groups.end(), group) != groups.end();
}

/// Whether there is a place for one more connection of `peer`, its kind's idlest evicted if need
/// be.
bool Server::make_room(const Peer& peer) {
  const auto is_looker = [](const Connection& c) { return !c.peer.may_change; };
  const auto lookers = std::count_if(connections_.begin(), connections_.end(), is_looker);
  const bool looks = !peer.may_change;
  if (connections_.size() < kMostConnections &&
      (!looks || static_cast<std::size_t>(lookers) < kMostLookers)) {
    return true;
  }
  const auto now = Clock::now();
  auto idlest = connections_.end();
  for (auto it = connections_.begin(); it != connections_.end(); ++it) {
    if (it->idle(now) && (!looks || is_looker(*it)) &&
        (idlest == connections_.end() || it->moved < idlest->moved)) {
      idlest = it;
    }
  }
  if (idlest == connections_.end()) return false;
  connections_.erase(idlest);
  return true;
}

/// All who wait, but not without end.
void Server::accept_peers() {
  constexpr int kMostAtOnce = 64;
  for (int i = 0; i < kMostAtOnce && accept_peer(); ++i) {
  }
}

/// Returns whether there may be another.
bool Server::accept_peer() {
  UniqueFd fd(accept4(socket_.fd(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (!fd) {
    // Out of descriptors the socket would stay readable and this thread would spin.
    if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
      pollfd stop{stop_.get(), POLLIN, 0};
      poll(&stop, 1, 100);
    }
    return false;
  }
  Peer peer;
  std::string refusal;
  if (!admits(fd.get(), peer)) {
    refusal = error_line(nullptr, "permission",
                         "not root, nor in the group of this mount's control_group");
  } else if (!make_room(peer)) {
    refusal = error_line(nullptr, "busy", "too many connections; close some");
  }
  if (!refusal.empty()) {
    static_cast<void>(send(fd.get(), refusal.data(), refusal.size(), MSG_NOSIGNAL));
    return true;
  }
  connections_.emplace_back();
  connections_.back().fd = std::move(fd);
  connections_.back().peer = peer;
  return true;
}

void Server::read_from(Connection& c) {
  std::array<char, std::size_t{16} * 1024> buffer;
  const ssize_t got = recv(c.fd.get(), buffer.data(), buffer.size(), 0);
  if (got > 0) {
    c.input.append(buffer.data(), static_cast<std::size_t>(got));
    c.moved = Clock::now();
  } else if (got == 0) {
    c.closing = true;
  } else if (errno != EAGAIN && errno != EINTR) {
    c.dead = true;
  }
}

bool Server::advance(Connection& c) {
  if (!has_room(c)) return false;
  if (c.lost != 0) {
    c.output += lost_line(c.lost);
    c.lost = 0;
  }
  if (c.reply != nullptr) {
    if (!c.reply->next(c.output)) c.reply = nullptr;
    return c.reply != nullptr || !c.input.empty();
  }
  const auto end = c.input.find('\n');
  if (end == std::string::npos ? c.input.size() > kMostLine : end > kMostLine) {
    c.output +=
        error_line(nullptr, "too_long", fmt::format("a line is longer than {} bytes", kMostLine));
    c.input.clear();
    c.closing = true;
    // What it goes on sending is not read.
    shutdown(c.fd.get(), SHUT_RD);
    return false;
  }
  if (end == std::string::npos) return false;
  const std::string line = c.input.substr(0, end);
  c.input.erase(0, end + 1);
  Outcome outcome = execute(context_, line, c.peer);
  c.output += outcome.lines;
  c.reply = std::move(outcome.more);
  if (outcome.hand_over) {
    const std::string refusal = outcome.hand_over(c.fd, c.output.substr(c.sent));
    c.dead = refusal.empty();
    if (!c.dead) c.output += error_line(nullptr, "failed", refusal);
    return false;
  }
  if (outcome.watch) {
    c.watch = outcome.watch;
    note_watchers();
  }
  return c.reply != nullptr || !c.input.empty();
}

void Server::write_to(Connection& c) {
  while (c.pending() > 0) {
    const ssize_t put = send(c.fd.get(), c.output.data() + c.sent, c.pending(), MSG_NOSIGNAL);
    if (put < 0) {
      if (errno == EINTR) continue;
      if (errno != EAGAIN) c.dead = true;
      return;
    }
    c.sent += static_cast<std::size_t>(put);
    c.moved = Clock::now();
  }
  c.output.clear();
  c.sent = 0;
}

// -- events --------------------------------------------------------------------------------------

void Server::note_watchers() {
  const bool wanted =
      std::any_of(connections_.begin(), connections_.end(),
                  [](const Connection& c) { return c.watch.has_value() && !c.dead; });
  if (wanted == watching_) return;
  if (!wanted) {
    stop_watching();
    return;
  }
  watching_ = true;  // whatever fails now, stop_watching() will undo
  feed_.open();
  context_.lock_ops.events().add(feed_);
}

void Server::stop_watching() noexcept {
  if (!std::exchange(watching_, false)) return;
  context_.lock_ops.events().remove(feed_);
  feed_.close();
}

void Server::spread_events() {
  const std::uint64_t lost = feed_.take(events_);
  for (const FeedItem& item : events_) {
    std::string line;  // made once, and only if anybody takes it
    for (Connection& c : connections_) {
      if (!c.watch || !c.watch->fits(item)) continue;
      if (!has_room(c) || c.lost != 0) {
        ++c.lost;
        continue;
      }
      if (line.empty()) line = event_line(context_, item);
      c.output += line;
    }
  }
  for (Connection& c : connections_) {
    if (c.watch) c.lost += lost;
  }
  events_.clear();
}

}  // namespace lockfs::control
