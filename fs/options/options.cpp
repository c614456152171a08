#include "fs/options/options.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <optional>
#include <span>
#include <string_view>
#include <system_error>
#include <type_traits>

#include "fs/options/option_table.h"

namespace lockfs::option {

std::string add_kernel_option(State& state, const Given& given) {
  state.result.options.kernel_options.emplace_back(given.raw);
  return {};
}

namespace {

constexpr double kMaxSeconds = 365.0 * 24 * 60 * 60;
constexpr unsigned kMinWorkers = 1;
constexpr unsigned kMaxWorkers = 1'024;
constexpr std::uint64_t kMaxLimit = 1'000'000'000;
constexpr std::uint64_t kMaxOutsideWaits = 100'000;  // each one is a thread
constexpr std::uint64_t kMaxServerWait = 3'600;      // seconds

// -- what options do -----------------------------------------------------------------------------

std::string ignore(State& /*state*/, const Given& /*given*/) { return {}; }

/// What acts only where the source's filesystem is mounted.
std::string refuse_of_source(State& /*state*/, const Given& given) {
  return fmt::format("option '{}': the source's own mount decides that; mount that with it",
                     given.name);
}

template <bool Options::*kField, bool kValue>
std::string set_switch(State& state, const Given& /*given*/) {
  state.result.options.*kField = kValue;
  return {};
}

template <auto State::*kField, bool kValue>
std::string set_state(State& state, const Given& /*given*/) {
  state.*kField = kValue;
  return {};
}

template <CommandLine::Action kAction>
std::string set_action(State& state, const Given& /*given*/) {
  state.result.action = kAction;
  return {};
}

std::string set_check(State& state, const Given& /*given*/) {
  state.result.check_only = true;
  return {};
}

/// A decimal number of seconds, fractions allowed; nothing if `text` is anything else.
std::optional<double> parse_seconds(std::string_view text) {
  double seconds = 0;
  const auto [end, error] =
      std::from_chars(text.data(), text.data() + text.size(), seconds, std::chars_format::fixed);
  // from_chars also takes "inf" and "nan".
  if (error != std::errc{} || end != text.data() + text.size() || !std::isfinite(seconds) ||
      std::signbit(seconds) || seconds > kMaxSeconds) {
    return std::nullopt;
  }
  return seconds;
}

std::string bad_seconds(const Given& given) {
  return fmt::format("option '{}': '{}' is not a number of seconds from 0 to {:.0f}", given.name,
                     given.value, kMaxSeconds);
}

template <double Options::*... kFields>
std::string set_seconds(State& state, const Given& given) {
  const auto seconds = parse_seconds(given.value);
  if (!seconds) return bad_seconds(given);
  ((state.result.options.*kFields = *seconds), ...);
  return {};
}

/// A whole number in [min, max]; nothing if `text` is anything else.
std::optional<std::uint64_t> parse_count(std::string_view text, std::uint64_t min,
                                         std::uint64_t max) {
  std::uint64_t count = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), count);
  if (error != std::errc{} || end != text.data() + text.size() || count < min || count > max) {
    return std::nullopt;
  }
  return count;
}

template <std::uint64_t Options::*kField, std::uint64_t kMax = kMaxLimit, std::uint64_t kMin = 1>
std::string set_limit(State& state, const Given& given) {
  const auto count = parse_count(given.value, kMin, kMax);
  if (!count) {
    return fmt::format("option '{}': '{}' is not a whole number from {} to {}", given.name,
                       given.value, kMin, kMax);
  }
  state.result.options.*kField = *count;
  return {};
}

std::string set_workers(State& state, const Given& given) {
  const auto count = given.value == "auto" ? 0 : parse_count(given.value, kMinWorkers, kMaxWorkers);
  if (!count) {
    return fmt::format("option '{}': '{}' is not 'auto' or a whole number from {} to {}",
                       given.name, given.value, kMinWorkers, kMaxWorkers);
  }
  state.result.options.workers = static_cast<unsigned>(*count);
  return {};
}

std::string unknown_value(const Given& given, std::string_view known) {
  return fmt::format("option '{}': unknown value '{}'; known: {}", given.name, given.value, known);
}

/// Of kAuto, kOn and kOff.
template <auto Options::*kField>
std::string set_when(State& state, const Given& given) {
  auto& when = state.result.options.*kField;
  using When = std::remove_reference_t<decltype(when)>;
  if (given.value == "auto") {
    when = When::kAuto;
  } else if (given.value == "on") {
    when = When::kOn;
  } else if (given.value == "off") {
    when = When::kOff;
  } else {
    return unknown_value(given, "auto, on, off");
  }
  return {};
}

std::string set_policy(State& state, const Given& given) {
  const auto preset = lockmgr::Policy::named(given.value);
  if (!preset) {
    return fmt::format("option '{}': unknown policy '{}'; known: {}", given.name, given.value,
                       fmt::join(lockmgr::Policy::names(), ", "));
  }
  state.result.options.policy = *preset;
  return {};
}

std::string names_of(std::span<const lockmgr::AxisValue> values) {
  std::vector<std::string_view> names;
  for (const auto& value : values) names.push_back(value.name);
  return fmt::format("{}", fmt::join(names, ", "));
}

std::string set_policy_axis(State& state, const Given& given) {
  std::string axis(given.name.substr(std::min(given.name.find_first_not_of('-'), std::size_t{2})));
  std::replace(axis.begin(), axis.end(), '-', '_');
  lockmgr::Policy scratch;
  if (!scratch.set(axis, given.value).empty()) {
    return unknown_value(given, names_of(lockmgr::Policy::find_axis(axis)->values));
  }
  state.policy_axes.emplace_back(std::move(axis), given.value);
  return {};
}

std::string set_log_level(State& state, const Given& given) {
  constexpr std::array<std::string_view, 7> kLevels = {"trace", "debug",    "info", "warn",
                                                       "error", "critical", "off"};
  std::string_view level = given.value;
  if (level == "warning") level = "warn";
  if (level == "err") level = "error";
  if (std::find(kLevels.begin(), kLevels.end(), level) == kLevels.end()) {
    return unknown_value(given, "trace, debug, info, warn, error, critical, off");
  }
  state.log_level = level;
  return {};
}

std::string set_log_target(State& state, const Given& given) {
  auto& target = state.result.options.log_target;
  if (given.value == "auto") {
    target = LogTarget::kAuto;
  } else if (given.value == "stderr") {
    target = LogTarget::kStderr;
  } else if (given.value == "syslog") {
    target = LogTarget::kSyslog;
  } else if (given.value == "journal") {
#ifdef LOCKFS_HAVE_SYSTEMD
    target = LogTarget::kJournal;
#else
    return fmt::format("option '{}': this lockfs was built without the journal; use {}=syslog",
                       given.name, given.name);
#endif
  } else {
    return unknown_value(given, "auto, stderr, syslog, journal");
  }
  return {};
}

std::string set_fsname(State& state, const Given& given) {
  if (given.value.empty()) return fmt::format("option '{}': the name is empty", given.name);
  state.result.options.fsname = given.value;
  return {};
}

std::string set_control(State& state, const Given& given) {
  if (given.value != "auto" && given.value != "off" && !given.value.starts_with('/')) {
    return fmt::format("option '{}': '{}' is not 'auto', 'off' or an absolute path", given.name,
                       given.value);
  }
  state.result.options.control = given.value;
  return {};
}

std::string set_control_group(State& state, const Given& given) {
  if (given.value.empty()) return fmt::format("option '{}': the group is empty", given.name);
  state.result.options.control_group = given.value;
  return {};
}

// -- what options are ----------------------------------------------------------------------------

template <auto Options::*kField>
std::string value_of(const Options& options, std::string_view /*name*/) {
  return fmt::format("{}", options.*kField);
}

template <bool Options::*kField>
std::string switch_of(const Options& options, std::string_view /*name*/) {
  return options.*kField ? "on" : "off";
}

std::string workers_of(const Options& options, std::string_view /*name*/) {
  return options.workers == 0 ? "auto" : std::to_string(options.workers);
}

template <auto Options::*kField>
std::string when_of(const Options& options, std::string_view /*name*/) {
  using When = std::remove_cvref_t<decltype(options.*kField)>;
  switch (options.*kField) {
    case When::kOn:
      return "on";
    case When::kOff:
      return "off";
    case When::kAuto:
      break;
  }
  return "auto";
}

std::string log_target_of(const Options& options, std::string_view /*name*/) {
  switch (options.log_target) {
    case LogTarget::kStderr:
      return "stderr";
    case LogTarget::kSyslog:
      return "syslog";
    case LogTarget::kJournal:
      return "journal";
    case LogTarget::kAuto:
      break;
  }
  return "auto";
}

std::string policy_of(const Options& options, std::string_view /*name*/) {
  return options.policy.text();
}

std::string axis_of(const Options& options, std::string_view name) {
  return std::string(lockmgr::Policy::find_axis(name)->get(options.policy));
}

// -- the table -----------------------------------------------------------------------------------

using A = CommandLine::Action;
using C = Change;
using O = Options;
using S = Section;
using V = Value;

// clang-format off
constexpr auto kOptions = std::to_array<OptionSpec>({
    {'f', "foreground", V::kNone, "", S::kCommand, set_switch<&O::foreground, true>,
     "stay in the foreground, log to stderr"},
    {'d', "debug", V::kNone, "", S::kCommand, set_switch<&O::debug, true>,
     "trace every request; implies -f and log_level=debug", switch_of<&O::debug>},
    {'\0', "check", V::kNone, "", S::kCommand, set_check,
     "check that it could be mounted, mount nothing"},
    {'h', "help", V::kNone, "", S::kCommand, set_action<A::kHelp>, "print this text and exit"},
    {'V', "version", V::kNone, "", S::kCommand, set_action<A::kVersion>,
     "print the version and exit"},
    {'o', "options", V::kRequired, "OPT[,OPT...]", S::kCommand, nullptr,
     "mount options, any of those below; may be repeated"},

    {'r', "ro", V::kNone, "", S::kMount, set_switch<&O::read_only, true>, "mount read-only"},
    {'w', "rw", V::kNone, "", S::kMount, set_switch<&O::read_only, false>,
     "mount read-write (default)"},
    {'\0', "nosuid", V::kNone, "", S::kMount, set_state<&State::suid, false>,
     "ignore set-user-id bits and file capabilities (always on unless root mounts)"},
    {'\0', "suid", V::kNone, "", S::kMount, set_state<&State::suid, true>, "opposite of nosuid"},
    {'\0', "nodev", V::kNone, "", S::kMount, set_state<&State::dev, false>,
     "ignore device files (always on unless root mounts)"},
    {'\0', "dev", V::kNone, "", S::kMount, set_state<&State::dev, true>, "opposite of nodev"},
    {'\0', "noexec", V::kNone, "", S::kMount, set_state<&State::exec, false>,
     "refuse to run programs"},
    {'\0', "exec", V::kNone, "", S::kMount, set_state<&State::exec, true>, "opposite of noexec"},
    {'\0', "nosymfollow", V::kNone, "", S::kMount, set_state<&State::symfollow, false>,
     "don't follow symbolic links (root only)"},
    {'\0', "symfollow", V::kNone, "", S::kMount, set_state<&State::symfollow, true>,
     "opposite of nosymfollow"},
    {'\0', "noatime", V::kNone, "", S::kMount, set_switch<&O::noatime, true>,
     "don't update access times of what is opened from now on", switch_of<&O::noatime>, C::kLive},
    {'\0', "atime", V::kNone, "", S::kMount, set_switch<&O::noatime, false>,
     "as the source's filesystem does (default)", nullptr, C::kLive},
    {'\0', "nodiratime", V::kNone, "", S::kMount, set_switch<&O::nodiratime, true>,
     "the same for directories only", switch_of<&O::nodiratime>, C::kLive},
    {'\0', "diratime", V::kNone, "", S::kMount, set_switch<&O::nodiratime, false>,
     "opposite of nodiratime", nullptr, C::kLive},
    {'\0', "sync", V::kNone, "", S::kMount, set_state<&State::sync, true>,
     "write synchronously"},
    {'\0', "async", V::kNone, "", S::kMount, set_state<&State::sync, false>, "opposite of sync"},
    {'\0', "dirsync", V::kNone, "", S::kMount, set_state<&State::dirsync, true>,
     "change directories synchronously"},
    {'\0', "allow_other", V::kNone, "", S::kMount, set_state<&State::allow_other, true>,
     "let all users in (default when root mounts)", switch_of<&O::allow_other>},
    {'\0', "no_allow_other", V::kNone, "", S::kMount, set_state<&State::allow_other, false>,
     "let only the mounting user in", switch_of<&O::allow_other>},
    {'\0', "default_permissions", V::kNone, "", S::kMount,
     set_state<&State::default_permissions, true>,
     "the kernel checks file permissions (default when root mounts or with allow_other)", switch_of<&O::default_permissions>},
    {'\0', "no_default_permissions", V::kNone, "", S::kMount,
     set_state<&State::default_permissions, false>, "opposite; needs no_allow_other", switch_of<&O::default_permissions>},
    {'\0', "fsname", V::kRequired, "NAME", S::kMount, set_fsname,
     "the source shown by mount and df (default: SOURCE)", value_of<&O::fsname>},
    {'\0', "context", V::kRequired, "CONTEXT", S::kMount, add_kernel_option,
     "SELinux context; also fscontext, defcontext, rootcontext"},
    {'\0', "fscontext", V::kRequired, "CONTEXT", S::kMount, add_kernel_option, ""},
    {'\0', "defcontext", V::kRequired, "CONTEXT", S::kMount, add_kernel_option, ""},
    {'\0', "rootcontext", V::kRequired, "CONTEXT", S::kMount, add_kernel_option, ""},
    {'\0', "remount", V::kNone, "", S::kMount, set_action<A::kRemount>,
     "change a mount that is there: the options that follow, or fail and change nothing"},
    {'\0', "clear_dead", V::kNone, "", S::kMount, set_switch<&O::clear_dead, true>,
     "first detach what a lockfs that died has left on the mount point (root only)"},
    {'\0', "sloppy", V::kNone, "", S::kMount, set_state<&State::sloppy, true>,
     "skip unknown mount options"},

    {'\0', "attr_timeout", V::kRequired, "SECONDS", S::kCache, set_seconds<&O::attr_timeout>,
     "how long the kernel may believe attributes", value_of<&O::attr_timeout>, C::kLive},
    {'\0', "entry_timeout", V::kRequired, "SECONDS", S::kCache, set_seconds<&O::entry_timeout>,
     "how long the kernel may believe a name", value_of<&O::entry_timeout>, C::kLive},
    {'\0', "negative_timeout", V::kRequired, "SECONDS", S::kCache,
     set_seconds<&O::negative_timeout>, "how long the kernel may believe that a name is missing",
     value_of<&O::negative_timeout>, C::kLive},
    {'\0', "cache", V::kRequired, "SECONDS", S::kCache,
     set_seconds<&O::attr_timeout, &O::entry_timeout>, "sets attr_timeout and entry_timeout",
     nullptr, C::kLive},

    {'\0', "log_level", V::kRequired, "LEVEL", S::kLog, set_log_level,
     "trace, debug, info, warn, error, critical or off", value_of<&O::log_level>, C::kLive},
    {'\0', "log_target", V::kRequired, "TARGET", S::kLog, set_log_target,
     "stderr, syslog, journal, or auto: stderr in the foreground, else journal or syslog",
     log_target_of},

    {'\0', "control", V::kRequired, "WHERE", S::kControl, set_control,
     "socket for lockfsctl: auto (below /run/lockfs), off, or an absolute path",
     value_of<&O::control>},
    {'\0', "control_group", V::kRequired, "GROUP", S::kControl, set_control_group,
     "a group that may use it besides root", value_of<&O::control_group>},

    {'\0', "workers", V::kRequired, "N", S::kEngine, set_workers,
     "threads that may serve requests at once", workers_of},
    {'\0', "survive", V::kRequired, "WHEN", S::kEngine, set_when<&O::survive>,
     "auto (on), on or off: a new daemon goes on with all locks when one has died", when_of<&O::survive>},
    {'\0', "passthrough", V::kRequired, "WHEN", S::kEngine, set_when<&O::passthrough>,
     "auto, on or off: data goes between kernel and backing file directly", when_of<&O::passthrough>},
    {'\0', "mirror", V::kNone, "", S::kEngine, set_switch<&O::mirror, true>,
     "carry locks to the backing files (default)", switch_of<&O::mirror>},
    {'\0', "nomirror", V::kNone, "", S::kEngine, set_switch<&O::mirror, false>,
     "don't: locks then hold only within the mount", switch_of<&O::mirror>},
    {'\0', "no_mirror", V::kNone, "", S::kEngine, set_switch<&O::mirror, false>, "", switch_of<&O::mirror>},
    {'\0', "server_wait", V::kRequired, "SECONDS", S::kEngine,
     set_limit<&O::server_wait, kMaxServerWait, 0>,
     "locks wait so long for this machine's NFS server when it has stopped, then for the end of "
     "its grace period; 0: for neither", value_of<&O::server_wait>},
    {'\0', "await_server", V::kNone, "", S::kEngine, set_switch<&O::await_server, true>,
     "the same at the start, before the NFS server is there", switch_of<&O::await_server>},
    {'\0', "no_await_server", V::kNone, "", S::kEngine, set_switch<&O::await_server, false>,
     "opposite (default)", switch_of<&O::await_server>},

    {'\0', "policy", V::kRequired, "NAME", S::kPolicy, set_policy,
     "a preset, below; the single options here go on top of it", policy_of, C::kLive},

    {'\0', "max_locks", V::kRequired, "N", S::kLimit, set_limit<&O::max_locks>,
     "locks in the whole mount", value_of<&O::max_locks>, C::kLive},
    {'\0', "max_locks_per_user", V::kRequired, "N", S::kLimit, set_limit<&O::max_locks_per_user>,
     "locks of one user", value_of<&O::max_locks_per_user>, C::kLive},
    {'\0', "max_locks_per_owner", V::kRequired, "N", S::kLimit, set_limit<&O::max_locks_per_owner>,
     "locks of one owner on one file", value_of<&O::max_locks_per_owner>, C::kLive},
    {'\0', "max_waiters", V::kRequired, "N", S::kLimit, set_limit<&O::max_waiters>,
     "waiting requests in the whole mount", value_of<&O::max_waiters>, C::kLive},
    {'\0', "max_waiters_per_user", V::kRequired, "N", S::kLimit,
     set_limit<&O::max_waiters_per_user>, "waiting requests of one user",
     value_of<&O::max_waiters_per_user>, C::kLive},
    {'\0', "max_outside_waits", V::kRequired, "N", S::kLimit,
     set_limit<&O::max_outside_waits, kMaxOutsideWaits>,
     "ranges waited for at one time because somebody outside the mount holds them",
     value_of<&O::max_outside_waits>, C::kLive},
    {'\0', "max_outside_waits_per_user", V::kRequired, "N", S::kLimit,
     set_limit<&O::max_outside_waits_per_user, kMaxOutsideWaits>,
     "such ranges waited for on behalf of one user", value_of<&O::max_outside_waits_per_user>,
     C::kLive},

    // mount(8), fstab(5) and systemd.mount(5) act on these; they may reach us all the same.
    {'\0', "defaults", V::kNone, "", S::kIgnored, ignore, ""},
    {'\0', "_netdev", V::kNone, "", S::kIgnored, ignore, ""},
    {'\0', "auto", V::kNone, "", S::kIgnored, ignore, ""},
    {'\0', "noauto", V::kNone, "", S::kIgnored, ignore, ""},
    {'\0', "nofail", V::kNone, "", S::kIgnored, ignore, ""},
    {'\0', "fail", V::kNone, "", S::kIgnored, ignore, ""},
    {'\0', "user", V::kOptional, "", S::kIgnored, ignore, ""},
    {'\0', "nouser", V::kNone, "", S::kIgnored, ignore, ""},
    {'\0', "users", V::kNone, "", S::kIgnored, ignore, ""},
    {'\0', "nousers", V::kNone, "", S::kIgnored, ignore, ""},
    {'\0', "owner", V::kNone, "", S::kIgnored, ignore, ""},
    {'\0', "noowner", V::kNone, "", S::kIgnored, ignore, ""},
    {'\0', "group", V::kNone, "", S::kIgnored, ignore, ""},
    {'\0', "nogroup", V::kNone, "", S::kIgnored, ignore, ""},
    {'\0', "comment", V::kOptional, "", S::kIgnored, ignore, ""},
    {'\0', "helper", V::kRequired, "", S::kIgnored, ignore, ""},
    {'\0', "uhelper", V::kRequired, "", S::kIgnored, ignore, ""},
    {'\0', "nomand", V::kNone, "", S::kIgnored, ignore, ""},
    {'\0', "silent", V::kNone, "", S::kIgnored, ignore, ""},
    {'\0', "loud", V::kNone, "", S::kIgnored, ignore, ""},
    {'\0', "x-*", V::kOptional, "", S::kIgnored, ignore, ""},
    {'\0', "X-*", V::kOptional, "", S::kIgnored, ignore, ""},
    // The source's own mount decides how its filesystem keeps times.
    {'\0', "relatime", V::kNone, "", S::kIgnored, ignore, ""},
    {'\0', "norelatime", V::kNone, "", S::kIgnored, refuse_of_source, ""},
    {'\0', "strictatime", V::kNone, "", S::kIgnored, refuse_of_source, ""},
    {'\0', "nostrictatime", V::kNone, "", S::kIgnored, ignore, ""},
    {'\0', "lazytime", V::kNone, "", S::kIgnored, refuse_of_source, ""},
    {'\0', "nolazytime", V::kNone, "", S::kIgnored, ignore, ""},
});
// clang-format on

/// The table, and an option for each axis of the lock policy behind "policy".
const std::vector<OptionSpec>& all_options() {
  static const std::vector<std::string> kTexts = [] {
    std::vector<std::string> texts;
    for (const auto& axis : lockmgr::Policy::axes()) {
      texts.push_back(fmt::format("{}: {}", axis.question, names_of(axis.values)));
    }
    return texts;
  }();
  static const std::vector<OptionSpec> kAll = [] {
    std::vector<OptionSpec> all;
    for (const auto& spec : kOptions) {
      all.push_back(spec);
      if (spec.name != "policy") continue;
      for (std::size_t i = 0; i < kTexts.size(); ++i) {
        all.push_back({'\0', lockmgr::Policy::axes()[i].name, V::kRequired, "VALUE", S::kPolicy,
                       set_policy_axis, kTexts[i], axis_of, C::kLive});
      }
    }
    return all;
  }();
  return kAll;
}

bool name_matches(const OptionSpec& spec, std::string_view name) {
  if (spec.name.ends_with('*')) {
    const auto stem = spec.name.substr(0, spec.name.size() - 1);
    return name.size() > stem.size() && name.starts_with(stem);
  }
  return spec.name == name;
}

}  // namespace

std::span<const OptionSpec> table() { return all_options(); }

const OptionSpec* find_option(std::string_view name) {
  for (const auto& spec : table()) {
    if (name_matches(spec, name)) return &spec;
  }
  return nullptr;
}

// As libfuse programs do, -o takes "debug".
bool allowed_after_o(const OptionSpec& spec) {
  return spec.section != Section::kCommand || spec.name == "debug";
}

}  // namespace lockfs::option
