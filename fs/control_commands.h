/// What the control socket can be asked for: turns requests into replies, line by line, so that a
/// long reply never has to be in memory as a whole. Knows nothing of sockets.
///
/// Thread safety: one thread, the control thread, uses an object; it may use the manager and the
/// filesystem at any time while they exist. No file is held locked for longer than one page of a
/// reply takes to collect.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "fs/control_feed.h"
#include "fs/filesystem.h"
#include "fs/lock_ops.h"
#include "fs/options.h"

namespace lockfs {

using Json = nlohmann::ordered_json;

/// The version of the protocol; a request names it as "v".
inline constexpr int kControlProtocol = 1;

/// Who is at the other end of a connection.
struct Peer {
  pid_t pid = 0;
  uid_t uid = 0;
};

/// A reply under way.
class Reply {
 public:
  virtual ~Reply() = default;
  /// Appends the next lines, each with its newline and together a few hundred at most. Returns
  /// whether there is more to come. May throw std::bad_alloc.
  virtual bool next(std::string& out) = 0;
};

/// What a watcher wants to see.
struct WatchFilter {
  std::optional<std::uint64_t> inode;
  pid_t pid = 0;  ///< 0: everybody's
};

class ControlCommands {
 public:
  /// All must outlive the object.
  ControlCommands(const Options& options, Filesystem& filesystem, LockOps& lock_ops);

  /// To be called when the mount is made: tells "ping" which one it is.
  void note_mount();

  /// The outcome of a request: lines to send at once, and what follows them.
  struct Outcome {
    std::string lines;
    std::unique_ptr<Reply> more;       ///< may be null
    std::optional<WatchFilter> watch;  ///< the peer wants events from now on
  };

  /// Carries out one request line (without its newline). Bad ones are answered, never thrown. May
  /// throw std::bad_alloc.
  Outcome execute(const std::string& line, const Peer& peer);

  /// The line for one error, with the newline.
  static std::string error_line(const Json& id, const char* code, const std::string& message);

  /// The line for an event, or an empty string if `filter` leaves it out.
  std::string event_line(const FeedItem& item, const WatchFilter& filter) const;
  static std::string lost_line(std::uint64_t count);

 private:
  struct Failure;
  class ListReply;
  class VerifyReply;

  Outcome dispatch(const Json& request, const Json& id, const Peer& peer);
  Json about() const;
  Json statistics() const;
  Json take_away(const Json& request, const Peer& peer);
  Json change(const Json& request, const Peer& peer);
  Json file_json(const lockmgr::FileLocks& file) const;

  void apply_current();

  const Options& options_;  ///< of the start
  Options current_;         ///< with what has changed since
  Filesystem& filesystem_;
  LockOps& lock_ops_;
  const std::chrono::steady_clock::time_point began_;
  std::string source_device_;
  std::string mount_device_;  ///< as in /proc/self/mountinfo; empty: unknown
};

}  // namespace lockfs
