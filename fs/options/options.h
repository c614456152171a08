/// What the command line asked for, parsed and checked, and the parser itself. Plain data: no
/// thread touches it after start-up except to read it.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "lockmgr/policy.h"

namespace lockfs {

enum class DataPassthrough { kAuto, kOn, kOff };
enum class Survive { kAuto, kOn, kOff };
enum class LogTarget { kAuto, kStderr, kSyslog, kJournal };

struct Options {
  /// The command line without the program's name, for another program that takes over.
  std::vector<std::string> arguments;

  // -- positional ------------------------------------------------------------------------------
  std::string source;      ///< as given on the command line
  std::string mountpoint;  ///< as given on the command line
  /// Canonical absolute paths, filled in by check_start(): they stay right after chdir("/").
  std::string source_path;
  std::string mountpoint_path;
  std::uint64_t source_mount = 0;  ///< STATX_MNT_ID of the source; 0: unknown
  /// What the user should know of a start that succeeds, a line each.
  std::vector<std::string> start_notes;

  // -- behaviour of the command ----------------------------------------------------------------
  bool foreground = false;
  bool debug = false;  ///< implies foreground, log level debug and libfuse's protocol trace

  // -- mount(8) options ------------------------------------------------------------------------
  bool read_only = false;
  bool nosuid = false;  ///< always true for a mount made without root
  bool nodev = false;   ///< always true for a mount made without root
  bool noexec = false;
  bool nosymfollow = false;
  /// Asked for by name: a mount below the source that forbids it does not take it away.
  bool asks_suid = false;
  bool asks_dev = false;
  bool asks_exec = false;
  bool asks_symfollow = false;
  bool noatime = false;
  bool nodiratime = false;
  bool allow_other = false;          ///< on by default when root mounts
  bool default_permissions = false;  ///< on by default when root mounts or with allow_other
  std::string fsname;                ///< first column of /proc/mounts; default: source_path
  /// Options of mount(8) handed to the kernel unchanged: sync, dirsync and the *context= family.
  std::vector<std::string> kernel_options;
  bool clear_dead = false;  ///< a mount of a daemon that died goes first

  // -- caches ----------------------------------------------------------------------------------
  double attr_timeout = 1.0;      ///< seconds the kernel may believe attributes
  double entry_timeout = 1.0;     ///< seconds the kernel may believe a name
  double negative_timeout = 0.0;  ///< seconds the kernel may believe that a name is missing

  // -- log -------------------------------------------------------------------------------------
  std::string log_level = "info";  ///< trace, debug, info, warn, error, critical, off
  LogTarget log_target = LogTarget::kAuto;

  // -- control socket --------------------------------------------------------------------------
  std::string control = "auto";  ///< "auto": in control_folder(); "off"; or an absolute path
  std::string control_group;     ///< who may use it besides root: a group's name or number

  // -- engine ----------------------------------------------------------------------------------
  unsigned workers = 0;  ///< threads that may serve requests at once; 0: chosen from the machine
  DataPassthrough passthrough = DataPassthrough::kAuto;
  Survive survive = Survive::kAuto;  ///< whether a keeper and a new daemon go on after a death
  lockmgr::Policy policy;
  bool mirror = true;         ///< carry locks to the backing files; off only to measure its cost
  bool await_server = false;  ///< an NFS server is waited for that is not there at the start
  std::uint64_t server_wait = 15;  ///< seconds for one that has stopped; 0: none is heeded

  // -- limits ----------------------------------------------------------------------------------
  std::uint64_t max_locks = 4'000'000;               ///< granted locks in the whole mount
  std::uint64_t max_locks_per_user = 2'000'000;      ///< granted locks of one uid
  std::uint64_t max_locks_per_owner = 1'000'000;     ///< granted locks of one owner on one file
  std::uint64_t max_waiters = 100'000;               ///< parked requests in the whole mount
  std::uint64_t max_waiters_per_user = 50'000;       ///< parked requests of one uid
  std::uint64_t max_outside_waits = 4'096;           ///< ranges waited for on outsiders at one time
  std::uint64_t max_outside_waits_per_user = 1'024;  ///< those of one uid
};

/// A mount option as the user wrote it, quotes taken off.
struct MountOption {
  std::string name;
  std::optional<std::string> value;
};

/// What a command line comes to.
struct CommandLine {
  enum class Action { kMount, kRemount, kHelp, kVersion };

  Action action = Action::kMount;
  Options options;          ///< meaningful for kMount and kRemount without error
  bool check_only = false;  ///< change nothing, only say whether it could be done
  /// All mount options in their order. For kRemount also such as lockfs doesn't know: mount(8)
  /// repeats what it reads from /proc/self/mountinfo.
  std::vector<MountOption> mount_options;
  std::string error;  ///< empty, or one line: what is wrong and what to do about it
};

/// Parses `arguments` (without the program's name). Options may stand before, between and after the
/// two paths, as mount(8) puts them behind; "--" ends them. Of options that contradict each other
/// the last one counts. `root`: whether the mount is made with root's powers, which switches
/// allow_other and default_permissions on and lets suid and dev through. Touches nothing outside.
CommandLine parse_command_line(const std::vector<std::string>& arguments, bool root);

/// The text of --help, made from the same table that drives the parser.
std::string help_text();

}  // namespace lockfs
