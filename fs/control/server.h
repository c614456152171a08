/// Serves the control socket on a thread of its own. Nothing a peer does or fails to do reaches the
/// request loop: what it sends is bounded per line, what it does not read is bounded per
/// connection, and the number of connections is bounded, for those who may only look twice over, so
/// that they never keep root out.
///
/// Thread safety: start() and stop() are called by the thread that owns the object.
///
/// Invariants:
///  1. A connection has at most one reply under way; its next line is read after that.
///  2. A connection's output holds at most kMostOutput and one page beyond it; events that do not
///     fit are counted, and the count is sent when there is room again.
///  3. The feed is open, and one of LockOps::events(), exactly while `watching_`; after each turn
///     that is while somebody watches.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <list>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "fs/base/unique_fd.h"
#include "fs/control/commands.h"
#include "fs/control/feed.h"
#include "fs/control/socket.h"

namespace lockfs::control {

class Server {
 public:
  static constexpr std::size_t kMostLine = std::size_t{64} * 1024;
  static constexpr std::size_t kMostOutput = std::size_t{256} * 1024;
  static constexpr std::size_t kMostConnections = 64;
  /// Of these, at most so many of peers that may only look.
  static constexpr std::size_t kMostLookers = 48;
  /// When all are taken, one that has been idle for so long makes room.
  static constexpr std::chrono::seconds kIdle{1};

  /// All must outlive the object. Throws std::system_error.
  Server(const Options& options, Filesystem& filesystem, LockOps& lock_ops, BookHeader& header);
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  /// Makes the socket, if the options want one. Peers may connect from here on. Returns an empty
  /// string or one line: why not.
  std::string open();
  /// In place of open(): goes on with the socket of the daemon that has died. Returns the same.
  std::string adopt();

  /// Starts the thread, if there is a socket. Returns an empty string or one line: why not.
  std::string start();

  /// Ends the thread, closes every connection, removes the socket, lets go of every file. Blocks
  /// for as long as the command under way takes.
  void stop() noexcept;

 private:
  using Clock = std::chrono::steady_clock;

  struct Connection {
    UniqueFd fd;
    Peer peer;
    std::string input;
    std::string output;
    std::size_t sent = 0;  ///< of output
    std::unique_ptr<Reply> reply;
    std::optional<WatchFilter> watch;
    std::uint64_t lost = 0;                  ///< events, not told of yet
    Clock::time_point moved = Clock::now();  ///< when it last sent or took something
    bool closing = false;                    ///< no more input; ends when the output is sent
    bool dead = false;

    [[nodiscard]] std::size_t pending() const { return output.size() - sent; }
    /// Nothing is under way, or its peer does not read.
    [[nodiscard]] bool idle(Clock::time_point now) const {
      return now - moved >= kIdle && (!watch || pending() > 0);
    }
  };

  void run() noexcept;
  void turn();
  void accept_peers();
  bool accept_peer();
  bool admits(int fd, Peer& peer) const;
  bool make_room(const Peer& peer);
  void read_from(Connection& connection);
  /// Carries out what is in the input, one step. Returns whether there is more to do at once.
  bool advance(Connection& connection);
  void write_to(Connection& connection);
  void spread_events();
  void note_watchers();
  void stop_watching() noexcept;
  static bool has_room(const Connection& connection) { return connection.pending() < kMostOutput; }

  Context context_;
  ControlSocket socket_;
  EventFeed feed_;
  UniqueFd stop_;  ///< eventfd: readable when the thread is to end
  // The rest belongs to the control thread.
  std::list<Connection> connections_;
  std::vector<FeedItem> events_;
  bool watching_ = false;
  bool busy_ = false;  ///< a connection has more to do at once
  std::thread thread_;
};

}  // namespace lockfs::control
