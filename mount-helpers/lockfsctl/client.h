/// A connection to the control socket of one mount, and the search for the mount that a path means.
/// The protocol is described in PROTOCOL.md.
///
/// Thread safety: none.
#pragma once

#include <algorithm>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "mount-helpers/lockfsctl/subcommand.h"

namespace lockfs::ctl {

/// What a mount says of itself ("ping").
struct MountInfo {
  std::string socket;
  std::string source;
  std::string mountpoint;
  std::string source_device;  ///< "MAJOR:MINOR" as stat(2) has it
  std::string policy;
  std::string version;
  int pid = 0;
  bool mirror = true;
  std::int64_t uptime_s = 0;
  bool survives = false;            ///< a new daemon goes on when one dies
  std::vector<int> keepers;         ///< processes that have its descriptors
  std::uint32_t generation = 0;     ///< of its daemons; 0: an older lockfs
  std::uint32_t program_since = 0;  ///< the first generation of its program
  std::string last_death;           ///< its reason; empty: none so far
  double last_death_time = 0;       ///< seconds since 1970
  double last_gap_ms = 0;           ///< without a daemon
};

/// Whether a process is the mount's own.
[[nodiscard]] inline bool is_own(const MountInfo& mount, int pid) {
  return pid == mount.pid ||
         std::find(mount.keepers.begin(), mount.keepers.end(), pid) != mount.keepers.end();
}

/// The mount has gone, or its daemon has died, with a request under way.
class Closed : public Error {
 public:
  using Error::Error;
};

class Client {
 public:
  /// Connects and pings. Throws Error: nothing listens, no permission, another protocol version.
  explicit Client(const std::string& socket);
  ~Client();
  Client(Client&& other) noexcept;
  Client& operator=(Client&& other) noexcept;
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  [[nodiscard]] const MountInfo& mount() const { return mount_; }
  /// For poll(2); owned by the object.
  [[nodiscard]] int fd() const { return fd_; }

  /// Sends a request and returns the line with "ok"; `on_line` gets those before it. Throws Error
  /// when the mount refuses, goes away or says nothing for ten seconds.
  Json call(const std::string& command, Json arguments = Json::object(),
            const std::function<void(const Json&)>& on_line = {});

  /// The next line, such as an event; nothing when the mount has gone. Blocks.
  std::optional<Json> next();
  /// What has come and was not read as lines, once the rest of the connection is no lines.
  std::string take_rest() { return std::exchange(input_, {}); }
  /// Whether next() has a line at once.
  [[nodiscard]] bool has_line() const { return input_.find('\n') != std::string::npos; }
  /// Reads what has come, without blocking. Returns false when the mount has gone.
  bool receive();

 private:
  Json greet(const std::string& socket);

  int fd_ = -1;
  std::string input_;
  MountInfo mount_;
};

/// What a command is to look at.
struct Target {
  Client client;
  Json filter = Json::object();  ///< the file, as arguments of a request; empty: the whole mount
  std::string file;              ///< its path as given; empty: the whole mount
};

/// Every socket below /run/lockfs.
std::vector<std::string> all_sockets();

/// Connections to every mount that answers, or to `globals.socket` alone. Left-overs of daemons
/// that were killed are passed over; other failures are reported on standard error.
std::vector<Client> all_mounts(const Globals& globals);

/// The mount that `path` names: the mount point, the source, or a file below either of them. Throws
/// Error.
Target find_target(const Globals& globals, const std::string& path);

/// find_target(), or all mounts when `path` is empty; throws Error when there is none at all.
std::vector<Target> find_targets(const Globals& globals, const std::string& path);

/// The same, for commands that work on one mount: an empty path means the only one there is.
Target find_one(const Globals& globals, const std::string& path);

}  // namespace lockfs::ctl
