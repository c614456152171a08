#include "fs/options.h"

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
#include <utility>

namespace lockfs {
namespace {

constexpr double kMaxSeconds = 365.0 * 24 * 60 * 60;
constexpr unsigned kMinWorkers = 1;
constexpr unsigned kMaxWorkers = 1'024;
constexpr std::uint64_t kMaxLimit = 1'000'000'000;
constexpr std::uint64_t kMaxOutsideWaits = 100'000;  // each one is a thread

/// What has been read so far. Settings whose default depends on others stay open until the end.
struct State {
  CommandLine result;
  std::optional<bool> allow_other;
  std::optional<bool> default_permissions;
  std::optional<bool> suid;
  std::optional<bool> dev;
  std::optional<std::string> log_level;
  /// Single axes of the lock policy; they go on top of the preset wherever they stand.
  std::vector<std::pair<std::string, std::string>> policy_axes;
  bool sync = false;
  bool dirsync = false;
  bool root = false;
};

/// One occurrence of an option: its name and value as the user wrote them.
struct Given {
  std::string_view name;
  std::string_view value;
  std::string_view raw;  ///< name=value before quotes were taken off
};

/// Carries out one option; returns an empty string or what is wrong with it.
using Apply = std::string (*)(State&, const Given&);
/// The default shown by --help; null: none is shown.
using Default = std::string (*)();

enum class Section { kCommand, kMount, kCache, kLog, kControl, kEngine, kPolicy, kLimit, kIgnored };
enum class Value { kNone, kRequired, kOptional };

struct OptionSpec {
  char letter = '\0';            ///< the short form, if there is one
  std::string_view name;         ///< a trailing '*' matches any ending
  Value value = Value::kNone;    ///< whether "=value" follows
  std::string_view placeholder;  ///< what --help writes for the value
  Section section = Section::kCommand;
  Apply apply = nullptr;
  std::string_view help;  ///< empty: left out of --help
  Default show_default = nullptr;
};

// -- what options do -----------------------------------------------------------------------------

std::string ignore(State& /*state*/, const Given& /*given*/) { return {}; }

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

template <std::uint64_t Options::*kField, std::uint64_t kMax = kMaxLimit>
std::string set_limit(State& state, const Given& given) {
  const auto count = parse_count(given.value, 1, kMax);
  if (!count) {
    return fmt::format("option '{}': '{}' is not a whole number from 1 to {}", given.name,
                       given.value, kMax);
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

std::string set_passthrough(State& state, const Given& given) {
  auto& passthrough = state.result.options.passthrough;
  if (given.value == "auto") {
    passthrough = DataPassthrough::kAuto;
  } else if (given.value == "on") {
    passthrough = DataPassthrough::kOn;
  } else if (given.value == "off") {
    passthrough = DataPassthrough::kOff;
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

std::string add_kernel_option(State& state, const Given& given) {
  state.result.options.kernel_options.emplace_back(given.raw);
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

std::string refuse_remount(State& /*state*/, const Given& given) {
  return fmt::format("option '{}' isn't supported: unmount and mount again", given.name);
}

// -- defaults for --help -------------------------------------------------------------------------

template <auto Options::*kField>
std::string default_of() {
  return fmt::format("{}", Options{}.*kField);
}

std::string default_auto() { return "auto"; }

std::string default_policy() { return lockmgr::Policy{}.text(); }

// -- the table -----------------------------------------------------------------------------------

using A = CommandLine::Action;
using O = Options;
using S = Section;
using V = Value;

// clang-format off
constexpr auto kOptions = std::to_array<OptionSpec>({
    {'f', "foreground", V::kNone, "", S::kCommand, set_switch<&O::foreground, true>,
     "stay in the foreground, log to stderr"},
    {'d', "debug", V::kNone, "", S::kCommand, set_switch<&O::debug, true>,
     "trace every request; implies -f and log_level=debug"},
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
    {'\0', "noexec", V::kNone, "", S::kMount, set_switch<&O::noexec, true>,
     "refuse to run programs"},
    {'\0', "exec", V::kNone, "", S::kMount, set_switch<&O::noexec, false>, "opposite of noexec"},
    {'\0', "noatime", V::kNone, "", S::kMount, set_switch<&O::noatime, true>,
     "don't update access times"},
    {'\0', "atime", V::kNone, "", S::kMount, set_switch<&O::noatime, false>,
     "opposite of noatime"},
    {'\0', "sync", V::kNone, "", S::kMount, set_state<&State::sync, true>,
     "write synchronously"},
    {'\0', "async", V::kNone, "", S::kMount, set_state<&State::sync, false>, "opposite of sync"},
    {'\0', "dirsync", V::kNone, "", S::kMount, set_state<&State::dirsync, true>,
     "change directories synchronously"},
    {'\0', "allow_other", V::kNone, "", S::kMount, set_state<&State::allow_other, true>,
     "let all users in (default when root mounts)"},
    {'\0', "no_allow_other", V::kNone, "", S::kMount, set_state<&State::allow_other, false>,
     "let only the mounting user in"},
    {'\0', "default_permissions", V::kNone, "", S::kMount,
     set_state<&State::default_permissions, true>,
     "the kernel checks file permissions (default when root mounts or with allow_other)"},
    {'\0', "no_default_permissions", V::kNone, "", S::kMount,
     set_state<&State::default_permissions, false>, "opposite; needs no_allow_other"},
    {'\0', "fsname", V::kRequired, "NAME", S::kMount, set_fsname,
     "the source shown by mount and df (default: SOURCE)"},
    {'\0', "context", V::kRequired, "CONTEXT", S::kMount, add_kernel_option,
     "SELinux context; also fscontext, defcontext, rootcontext"},
    {'\0', "fscontext", V::kRequired, "CONTEXT", S::kMount, add_kernel_option, ""},
    {'\0', "defcontext", V::kRequired, "CONTEXT", S::kMount, add_kernel_option, ""},
    {'\0', "rootcontext", V::kRequired, "CONTEXT", S::kMount, add_kernel_option, ""},
    {'\0', "remount", V::kNone, "", S::kMount, refuse_remount, ""},

    {'\0', "attr_timeout", V::kRequired, "SECONDS", S::kCache, set_seconds<&O::attr_timeout>,
     "how long the kernel may believe attributes", default_of<&O::attr_timeout>},
    {'\0', "entry_timeout", V::kRequired, "SECONDS", S::kCache, set_seconds<&O::entry_timeout>,
     "how long the kernel may believe a name", default_of<&O::entry_timeout>},
    {'\0', "negative_timeout", V::kRequired, "SECONDS", S::kCache,
     set_seconds<&O::negative_timeout>, "how long the kernel may believe that a name is missing",
     default_of<&O::negative_timeout>},
    {'\0', "cache", V::kRequired, "SECONDS", S::kCache,
     set_seconds<&O::attr_timeout, &O::entry_timeout>, "sets attr_timeout and entry_timeout"},

    {'\0', "log_level", V::kRequired, "LEVEL", S::kLog, set_log_level,
     "trace, debug, info, warn, error, critical or off", default_of<&O::log_level>},
    {'\0', "log_target", V::kRequired, "TARGET", S::kLog, set_log_target,
     "stderr, syslog, journal, or auto: stderr in the foreground, else journal or syslog",
     default_auto},

    {'\0', "control", V::kRequired, "WHERE", S::kControl, set_control,
     "socket for lockfsctl: auto (below /run/lockfs), off, or an absolute path",
     default_of<&O::control>},
    {'\0', "control_group", V::kRequired, "GROUP", S::kControl, set_control_group,
     "a group that may use it besides root"},

    {'\0', "workers", V::kRequired, "N", S::kEngine, set_workers,
     "threads that may serve requests at once", default_auto},
    {'\0', "passthrough", V::kRequired, "WHEN", S::kEngine, set_passthrough,
     "auto, on or off: data goes between kernel and backing file directly", default_auto},
    {'\0', "mirror", V::kNone, "", S::kEngine, set_switch<&O::mirror, true>,
     "carry locks to the backing files (default)"},
    {'\0', "nomirror", V::kNone, "", S::kEngine, set_switch<&O::mirror, false>,
     "don't: locks then hold only within the mount"},
    {'\0', "no_mirror", V::kNone, "", S::kEngine, set_switch<&O::mirror, false>, ""},

    {'\0', "policy", V::kRequired, "NAME", S::kPolicy, set_policy,
     "a preset, below; the single options here go on top of it", default_policy},

    {'\0', "max_locks", V::kRequired, "N", S::kLimit, set_limit<&O::max_locks>,
     "locks in the whole mount", default_of<&O::max_locks>},
    {'\0', "max_locks_per_user", V::kRequired, "N", S::kLimit, set_limit<&O::max_locks_per_user>,
     "locks of one user", default_of<&O::max_locks_per_user>},
    {'\0', "max_locks_per_owner", V::kRequired, "N", S::kLimit, set_limit<&O::max_locks_per_owner>,
     "locks of one owner on one file", default_of<&O::max_locks_per_owner>},
    {'\0', "max_waiters", V::kRequired, "N", S::kLimit, set_limit<&O::max_waiters>,
     "waiting requests in the whole mount", default_of<&O::max_waiters>},
    {'\0', "max_waiters_per_user", V::kRequired, "N", S::kLimit,
     set_limit<&O::max_waiters_per_user>, "waiting requests of one user",
     default_of<&O::max_waiters_per_user>},
    {'\0', "max_outside_waits", V::kRequired, "N", S::kLimit,
     set_limit<&O::max_outside_waits, kMaxOutsideWaits>,
     "files waited for at one time because somebody outside the mount holds them",
     default_of<&O::max_outside_waits>},

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
    {'\0', "silent", V::kNone, "", S::kIgnored, ignore, ""},
    {'\0', "loud", V::kNone, "", S::kIgnored, ignore, ""},
    {'\0', "x-*", V::kOptional, "", S::kIgnored, ignore, ""},
    {'\0', "X-*", V::kOptional, "", S::kIgnored, ignore, ""},
    // The backing filesystem keeps the access times, so these have nothing to act on here.
    {'\0', "diratime", V::kNone, "", S::kIgnored, ignore, ""},
    {'\0', "nodiratime", V::kNone, "", S::kIgnored, ignore, ""},
    {'\0', "relatime", V::kNone, "", S::kIgnored, ignore, ""},
    {'\0', "norelatime", V::kNone, "", S::kIgnored, ignore, ""},
    {'\0', "strictatime", V::kNone, "", S::kIgnored, ignore, ""},
    {'\0', "nostrictatime", V::kNone, "", S::kIgnored, ignore, ""},
    {'\0', "lazytime", V::kNone, "", S::kIgnored, ignore, ""},
    {'\0', "nolazytime", V::kNone, "", S::kIgnored, ignore, ""},
});
// clang-format on

/// The table, and an option for each axis of the lock policy behind "policy".
const std::vector<OptionSpec>& all_options() {
  static const std::vector<std::string> kTexts = [] {
    std::vector<std::string> texts;
    for (const auto& axis : lockmgr::Policy::axes()) {
      texts.push_back(
          fmt::format("{}: {} (default {})", axis.question, names_of(axis.values), axis.get({})));
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
                       set_policy_axis, kTexts[i]});
      }
    }
    return all;
  }();
  return kAll;
}

/// Options about the command itself; of these, -o takes only "debug", as libfuse programs do.
bool allowed_after_o(const OptionSpec& spec) {
  return spec.section != Section::kCommand || spec.name == "debug";
}

bool name_matches(const OptionSpec& spec, std::string_view name) {
  if (spec.name.ends_with('*')) {
    const auto stem = spec.name.substr(0, spec.name.size() - 1);
    return name.size() > stem.size() && name.starts_with(stem);
  }
  return spec.name == name;
}

const OptionSpec* find_option(std::string_view name) {
  for (const auto& spec : all_options()) {
    if (name_matches(spec, name)) return &spec;
  }
  return nullptr;
}

const OptionSpec* find_letter(char letter) {
  for (const auto& spec : all_options()) {
    if (spec.letter != '\0' && spec.letter == letter) return &spec;
  }
  return nullptr;
}

// -- suggestions ---------------------------------------------------------------------------------

/// Insertions, deletions and replacements that turn `a` into `b`.
std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (std::size_t i = 0; i < a.size(); ++i) {
    std::size_t diagonal = row[0];
    row[0] = i + 1;
    for (std::size_t j = 0; j < b.size(); ++j) {
      const std::size_t above = row[j + 1];
      const std::size_t replaced = diagonal + (a[i] == b[j] ? 0 : 1);
      row[j + 1] = std::min({above + 1, row[j] + 1, replaced});
      diagonal = above;
    }
  }
  return row[b.size()];
}

std::string dashed(std::string_view name) {
  std::string text(name);
  std::replace(text.begin(), text.end(), '_', '-');
  return text;
}

/// `shown`: the option as the user wrote it, dashes and all. `name`: the bare name, underscored.
std::string unknown_option(std::string_view shown, std::string_view name, bool after_o) {
  const OptionSpec* best = nullptr;
  // A third of the letters may be wrong; beyond that a suggestion is a guess.
  std::size_t best_distance = std::min<std::size_t>(name.size() / 3, 3) + 1;
  if (name.size() <= 64) {
    for (const auto& spec : all_options()) {
      if (spec.section == Section::kIgnored || (after_o && !allowed_after_o(spec))) continue;
      const auto distance = edit_distance(name, spec.name);
      if (distance < best_distance) {
        best_distance = distance;
        best = &spec;
      }
    }
  }
  if (best == nullptr) {
    return fmt::format("unknown option '{}'; 'lockfs --help' lists the options", shown);
  }
  const auto suggestion = after_o ? std::string(best->name) : "--" + dashed(best->name);
  return fmt::format("unknown option '{}'; did you mean '{}'? 'lockfs --help' lists the options",
                     shown, suggestion);
}

// -- parsing -------------------------------------------------------------------------------------

/// One element of a -o list.
struct Element {
  std::string name;
  std::optional<std::string> value;
  std::string raw;
};

/// Takes the element that starts at `list[position]` and moves `position` behind its comma. As in
/// mount(8) a value in double quotes may hold commas; as in libfuse `\,` and `\\` stand for
/// themselves. Returns an error or an empty string.
std::string next_element(std::string_view list, std::size_t& position, Element& element) {
  element = {};
  std::string* text = &element.name;
  bool quoted = false;
  const auto start = position;
  for (; position < list.size(); ++position) {
    const char c = list[position];
    if (c == '\\' && position + 1 < list.size() &&
        (list[position + 1] == ',' || list[position + 1] == '\\')) {
      ++position;
      text->push_back(list[position]);
      element.raw.push_back(list[position]);
      continue;
    }
    if (c == ',' && !quoted) break;
    element.raw.push_back(c);
    if (c == '"' && (quoted || (element.value && element.value->empty()))) {
      quoted = !quoted;
    } else if (c == '=' && !element.value) {
      element.value.emplace();
      text = &*element.value;
    } else {
      text->push_back(c);
    }
  }
  if (quoted) {
    return fmt::format("mount options '{}': the closing quote is missing", list.substr(start));
  }
  ++position;  // the comma
  return {};
}

/// Applies one option. `shown`: as written, for messages.
std::string apply_option(State& state, const OptionSpec& spec, std::string_view shown,
                         const std::optional<std::string>& value, std::string_view raw) {
  if (spec.value == Value::kNone && value) {
    return fmt::format("option '{}' takes no value, but got '{}'", shown, *value);
  }
  if (spec.value == Value::kRequired && !value) {
    return fmt::format("option '{}' needs a value: {}={}", shown, shown, spec.placeholder);
  }
  return spec.apply(state, Given{shown, value ? std::string_view(*value) : "", raw});
}

std::string apply_list(State& state, std::string_view list) {
  Element element;
  for (std::size_t position = 0; position < list.size();) {
    if (auto error = next_element(list, position, element); !error.empty()) return error;
    if (element.raw.empty()) continue;  // "a,,b" and "a," are common in scripts
    const auto* spec = find_option(element.name);
    if (spec == nullptr || !allowed_after_o(*spec)) {
      return unknown_option(element.name, element.name, true);
    }
    if (auto error = apply_option(state, *spec, element.name, element.value, element.raw);
        !error.empty()) {
      return error;
    }
  }
  return {};
}

/// Walks over the arguments and hands each option to the table.
class Parser {
 public:
  Parser(const std::vector<std::string>& arguments, State& state)
      : arguments_(arguments), state_(state) {}

  std::string run() {
    bool options_ended = false;
    while (next_ < arguments_.size()) {
      const std::string& argument = arguments_[next_++];
      std::string error;
      if (options_ended || argument.size() < 2 || argument[0] != '-') {
        error = positional(argument);
      } else if (argument == "--") {
        options_ended = true;
      } else if (argument[1] == '-') {
        error = long_option(argument);
      } else {
        error = short_options(argument);
      }
      if (!error.empty()) return error;
      // Whoever asks for help gets it, whatever else the line lacks.
      if (state_.result.action != CommandLine::Action::kMount) return {};
    }
    if (count_ == 2) return {};
    const auto* missing = count_ == 0 ? "SOURCE and MOUNTPOINT are" : "MOUNTPOINT is";
    return fmt::format("{} missing; usage: lockfs [options] SOURCE MOUNTPOINT", missing);
  }

 private:
  std::string positional(const std::string& argument) {
    const auto* role = count_ == 0 ? "SOURCE" : "MOUNTPOINT";
    if (count_ == 2) {
      return fmt::format(
          "unexpected argument '{}' after SOURCE and MOUNTPOINT; "
          "mount options go behind -o",
          argument);
    }
    if (argument.empty()) return fmt::format("{} is empty; name a directory", role);
    (count_ == 0 ? state_.result.options.source : state_.result.options.mountpoint) = argument;
    ++count_;
    return {};
  }

  std::string long_option(const std::string& argument) {
    const auto equals = argument.find('=');
    const auto shown = argument.substr(0, equals);
    auto name = shown.substr(2);
    std::replace(name.begin(), name.end(), '-', '_');
    std::optional<std::string> value;
    if (equals != std::string::npos) value = argument.substr(equals + 1);

    const auto* spec = find_option(name);
    if (spec == nullptr) spec = find_option(std::string_view(shown).substr(2));  // x-...
    if (spec == nullptr) return unknown_option(shown, name, false);
    if (spec->value == Value::kRequired && !value && next_ < arguments_.size()) {
      value = arguments_[next_++];
    }
    if (spec->apply == nullptr) return list_option(shown, value);
    return apply_option(state_, *spec, shown, value,
                        value ? fmt::format("{}={}", name, *value) : name);
  }

  /// "-f", "-fd", "-oro", "-o ro", "-fo ro".
  std::string short_options(const std::string& argument) {
    for (std::size_t i = 1; i < argument.size(); ++i) {
      const auto shown = fmt::format("-{}", argument[i]);
      const auto* spec = find_letter(argument[i]);
      if (spec == nullptr) {
        return fmt::format("unknown option '{}'; 'lockfs --help' lists the options",
                           i == 1 ? argument : shown);
      }
      if (spec->apply == nullptr) {
        std::optional<std::string> value;
        if (i + 1 < argument.size()) {
          value = argument.substr(i + 1);
        } else if (next_ < arguments_.size()) {
          value = arguments_[next_++];
        }
        return list_option(shown, value);
      }
      if (auto error = apply_option(state_, *spec, shown, std::nullopt, spec->name);
          !error.empty()) {
        return error;
      }
    }
    return {};
  }

  std::string list_option(std::string_view shown, const std::optional<std::string>& value) {
    if (!value) {
      return fmt::format("option '{}' needs mount options behind it, as in {} ro,nosuid", shown,
                         shown);
    }
    return apply_list(state_, *value);
  }

  const std::vector<std::string>& arguments_;
  State& state_;
  std::size_t next_ = 0;
  int count_ = 0;
};

/// Settles what depends on several options.
std::string settle(State& state) {
  auto& options = state.result.options;
  if (!state.root && (state.suid.value_or(false) || state.dev.value_or(false))) {
    return fmt::format("option '{}': only root may mount with it; leave it out",
                       state.suid.value_or(false) ? "suid" : "dev");
  }
  options.nosuid = !state.suid.value_or(state.root);
  options.nodev = !state.dev.value_or(state.root);
  options.allow_other = state.allow_other.value_or(state.root);
  options.default_permissions =
      state.default_permissions.value_or(state.root || options.allow_other);
  if (options.allow_other && !options.default_permissions) {
    return "option 'no_default_permissions': with allow_other it would give every user the "
           "daemon's own access to the files; add no_allow_other";
  }
  for (const auto& [axis, value] : state.policy_axes) options.policy.set(axis, value);
  if (state.sync) options.kernel_options.emplace_back("sync");
  if (state.dirsync) options.kernel_options.emplace_back("dirsync");
  if (options.debug) options.foreground = true;
  options.log_level = state.log_level.value_or(options.debug ? "debug" : options.log_level);
  return {};
}

/// One line of help; what doesn't fit beside the name goes on below.
void append_row(std::string& text, std::string left, std::string_view right) {
  constexpr std::size_t kWidth = 68;
  while (right.size() > kWidth) {
    const auto blank = right.rfind(' ', kWidth);
    if (blank == std::string_view::npos) break;
    text += fmt::format("{:<28} {}\n", left, right.substr(0, blank));
    right.remove_prefix(blank + 1);
    left.clear();
  }
  text += fmt::format("{:<28} {}\n", left, right);
}

void append_section(std::string& text, Section section, std::string_view title) {
  text += fmt::format("\n{}:\n", title);
  for (const auto& spec : all_options()) {
    if (spec.section != section || spec.help.empty()) continue;
    std::string left = "  ";
    if (section == Section::kCommand) {
      left += spec.value == Value::kNone ? fmt::format("-{}, --{}", spec.letter, spec.name)
                                         : fmt::format("-{} {}", spec.letter, spec.placeholder);
    } else {
      left += spec.name;
      if (spec.value != Value::kNone) left += fmt::format("={}", spec.placeholder);
      if (spec.letter != '\0') left += fmt::format(", -{}", spec.letter);
    }
    std::string right(spec.help);
    if (spec.show_default != nullptr) right += fmt::format(" (default {})", spec.show_default());
    append_row(text, left, right);
  }
}

}  // namespace

CommandLine parse_command_line(const std::vector<std::string>& arguments, bool root) {
  State state;
  state.root = root;
  state.result.error = Parser(arguments, state).run();
  if (state.result.error.empty() && state.result.action == CommandLine::Action::kMount) {
    state.result.error = settle(state);
  }
  return std::move(state.result);
}

std::string help_text() {
  std::string text =
      "Usage: lockfs [options] SOURCE MOUNTPOINT\n"
      "\n"
      "Mounts the directory SOURCE on MOUNTPOINT. File locks taken through MOUNTPOINT and locks\n"
      "held on the files of SOURCE by others, such as an NFS server, see each other. SOURCE may\n"
      "be mounted over itself. Unmount with: umount MOUNTPOINT\n";
  append_section(text, Section::kCommand, "Options");
  append_section(text, Section::kMount, "Mount options (after -o, or as --name[=value])");
  append_section(text, Section::kCache, "Caches");
  append_section(text, Section::kLog, "Log");
  append_section(text, Section::kControl, "Control socket");
  append_section(text, Section::kEngine, "Engine");
  append_section(text, Section::kPolicy, "Lock policy (who conflicts with whom, and who waits)");
  for (const auto& preset : lockmgr::Policy::presets()) {
    append_row(text, fmt::format("    {}", preset.name), preset.follows);
  }
  append_section(text, Section::kLimit, "Limits (a request beyond one gets ENOLCK)");
  text +=
      "\n"
      "Options that only mount(8), fstab(5) and systemd act on (defaults, nofail, _netdev, x-*,\n"
      "comment=...) are accepted and ignored.\n"
      "\n"
      "Exit status: 0 mounted, 1 failed, 2 wrong usage.\n";
  return text;
}

}  // namespace lockfs
