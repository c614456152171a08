/// What the control socket can be asked for. Each command is a function in one of the
/// *_command.cpp, entered in the table of command_table.cpp; it turns one request into a reply,
/// line by line, so that a long reply never has to be in memory as a whole. Nothing here knows of
/// sockets.
///
/// mount-helpers/README.md tells how to add a command.
///
/// Thread safety: commands and replies run on the control thread only. They may use the manager and
/// the filesystem at any time while these exist, and should not hold a file locked, nor block, for
/// longer than a page of a reply takes to collect: other connections wait meanwhile.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "fs/base/book_header.h"
#include "fs/control/feed.h"
#include "fs/control/protocol.h"
#include "fs/locks/lock_ops.h"
#include "fs/options/options.h"
#include "fs/record/recorder.h"
#include "fs/tree/filesystem.h"

namespace lockfs::control {

/// Records collected while a file is held.
inline constexpr std::size_t kPage = 256;

/// Who is at the other end of a connection.
struct Peer {
  pid_t pid = 0;
  uid_t uid = 0;
  bool may_change = false;  ///< root or the daemon's own user; others may only look
};

/// What commands work on. All must outlive the object.
struct Context {
  Context(const Options& mount_options, Filesystem& fs, LockOps& ops, BookHeader& book);

  /// To be called when `current` has changed: the next daemon begins with it.
  void save_options() const;

  /// To be called when the mount is made.
  void note_mount();

  const Options& options;    ///< of the start
  Options current;           ///< with what "set" has changed since
  std::string mount_device;  ///< as in /proc/self/mountinfo; empty: unknown
  Filesystem& filesystem;
  LockOps& lock_ops;
  BookHeader& header;
  const std::chrono::steady_clock::time_point began = std::chrono::steady_clock::now();
  Recorder recorder;
  bool hands_over = false;  ///< another program is to take over once the peer has its answer
};

/// A reply under way.
class Reply {
 public:
  virtual ~Reply() = default;
  /// Appends the next lines, each with its newline and together a few hundred at most. Returns
  /// whether there is more to come. May throw std::bad_alloc.
  virtual bool next(std::string& out) = 0;
};

/// A file as requests name it: what is given must fit.
struct FileFilter {
  /// Reads "inode" (as stat(2) shows it in the mount) and "device" with "source_inode" (as in the
  /// source). Throws Failure.
  FileFilter(const Context& context, const Json& request);

  [[nodiscard]] bool fits_all() const { return !shown_inode_ && !key_; }
  [[nodiscard]] bool fits(const lockmgr::FileLocks& file) const;

 private:
  const Context* context_;
  std::optional<std::uint64_t> shown_inode_;
  std::optional<lockmgr::FileKey> key_;
};

/// What a watcher wants to see.
struct WatchFilter {
  FileFilter file;
  pid_t pid = 0;  ///< 0: everybody's

  [[nodiscard]] bool fits(const FeedItem& item) const {
    return (pid == 0 || item.event.caller.pid == pid) && file.fits(*item.file);
  }
};

/// A request.
struct Call {
  const Json& request;
  const Json& id;  ///< to be repeated in each line of the reply
  const Peer& peer;
};

/// The outcome of a request: lines to send at once, and what follows them.
struct Outcome {
  std::string lines;
  std::unique_ptr<Reply> more;       ///< may be null
  std::optional<WatchFilter> watch;  ///< the peer wants events from now on
  /// If set, the connection is somebody else's from now on, who sends `unsent` first. Returns an
  /// empty string, or why it cannot be; then the connection goes on. May throw std::bad_alloc.
  std::function<std::string(UniqueFd& peer, const std::string& unsent)> hand_over = nullptr;
};

/// {"id":..,"ok":true,"<name>":<value>}: the whole of a short reply.
Outcome done(const Call& call, const char* name, Json value);

using Run = Outcome (*)(Context& context, const Call& call);

enum class Access : std::uint8_t { kLook, kChange };

struct Command {
  std::string_view name;
  Access access;  ///< kChange: refused unless Peer::may_change
  Run run;        ///< may throw Failure, Json::exception and std::bad_alloc
};

/// All commands (command_table.cpp).
const std::vector<Command>& commands();

/// Carries out one request line (without its newline). Bad ones are answered, never thrown. May
/// throw std::bad_alloc.
Outcome execute(Context& context, const std::string& line, const Peer& peer);

/// Switches the mount to another policy, and logs by whom. May throw std::bad_alloc; then the
/// policy is the old one, or the new one for some files.
lockmgr::PolicySwitch switch_policy(Context& context, const lockmgr::Policy& to, const Peer& peer);

// -- parts that several replies share -------------------------------------------------------------

/// "path" in the mount, "source_path", "deleted", "device", "inode" (of the source).
Json file_json(const Context& context, const lockmgr::FileLocks& file);

/// The files that exist now and fit, without keeping them alive.
std::vector<std::weak_ptr<lockmgr::FileLocks>> files_of(const Context& context,
                                                        const FileFilter& filter);

/// The line for an event.
std::string event_line(const Context& context, const FeedItem& item);
/// The line that says how many events were lost.
std::string lost_line(std::uint64_t count);

// -- the commands ---------------------------------------------------------------------------------

Outcome ping(Context& context, const Call& call);
Outcome list(Context& context, const Call& call);
Outcome stats(Context& context, const Call& call);
Outcome verify(Context& context, const Call& call);
Outcome take_away(Context& context, const Call& call);  ///< "break"
Outcome set(Context& context, const Call& call);
Outcome watch(Context& context, const Call& call);
Outcome policy(Context& context, const Call& call);
Outcome set_policy(Context& context, const Call& call);
Outcome record(Context& context, const Call& call);
Outcome upgrade(Context& context, const Call& call);
/// What Context::hands_over asks for: the standby ends this process soon.
void hand_over(BookHeader& header) noexcept;

}  // namespace lockfs::control
