#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <utility>

#include "fs/options/option_table.h"

namespace lockfs {
namespace option {
namespace {

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

}  // namespace

std::string unknown_option(std::string_view shown, std::string_view name, bool after_o) {
  const OptionSpec* best = nullptr;
  // A third of the letters may be wrong; beyond that a suggestion is a guess.
  std::size_t best_distance = std::min<std::size_t>(name.size() / 3, 3) + 1;
  if (name.size() <= 64) {
    for (const auto& spec : table()) {
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

std::string apply_option(State& state, const OptionSpec& spec, std::string_view shown,
                         const std::optional<std::string>& value, std::string_view raw) {
  if (spec.value == Value::kNone && value) {
    return fmt::format("option '{}' takes no value, but got '{}'", shown, *value);
  }
  if (spec.value == Value::kRequired && !value) {
    return fmt::format("option '{}' needs a value: {}={}", shown, shown, spec.placeholder);
  }
  if (spec.section != Section::kCommand) {
    state.result.mount_options.push_back(
        {std::string(spec.name.ends_with('*') ? shown : spec.name), value});
  }
  return spec.apply(state, Given{shown, value ? std::string_view(*value) : "", raw});
}

}  // namespace option

namespace {

using namespace option;

const OptionSpec* find_letter(char letter) {
  for (const auto& spec : table()) {
    if (spec.letter != '\0' && spec.letter == letter) return &spec;
  }
  return nullptr;
}

std::string apply_list(State& state, std::string_view list) {
  Element element;
  for (std::size_t position = 0; position < list.size();) {
    if (auto error = next_element(list, position, element); !error.empty()) return error;
    if (element.raw.empty()) continue;  // "a,,b" and "a," are common in scripts
    const auto* spec = find_option(element.name);
    if (spec == nullptr || !allowed_after_o(*spec)) {
      if (state.unknown.empty()) state.unknown = unknown_option(element.name, element.name, true);
      state.result.mount_options.push_back({element.name, element.value});
      continue;
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
    std::string error = walk();
    if (asks_for_text()) return error;
    const bool tolerated = state_.sloppy || state_.result.action == CommandLine::Action::kRemount;
    return tolerated || state_.unknown.empty() ? error : state_.unknown;
  }

 private:
  /// Whoever asks for help gets it, whatever else the line lacks.
  [[nodiscard]] bool asks_for_text() const {
    return state_.result.action == CommandLine::Action::kHelp ||
           state_.result.action == CommandLine::Action::kVersion;
  }

  std::string walk() {
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
      if (asks_for_text()) return {};
    }
    if (count_ == 2) return {};
    const auto* missing = count_ == 0 ? "SOURCE and MOUNTPOINT are" : "MOUNTPOINT is";
    return fmt::format("{} missing; usage: lockfs [options] SOURCE MOUNTPOINT", missing);
  }

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
  if (!state.root && !state.symfollow.value_or(true)) {
    return "option 'nosymfollow': only root may mount with it; leave it out";
  }
  options.nosuid = !state.suid.value_or(state.root);
  options.nodev = !state.dev.value_or(state.root);
  options.noexec = !state.exec.value_or(true);
  options.nosymfollow = !state.symfollow.value_or(true);
  options.asks_suid = state.suid.value_or(false);
  options.asks_dev = state.dev.value_or(false);
  options.asks_exec = state.exec.value_or(false);
  options.asks_symfollow = state.symfollow.value_or(false);
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

/// One line of help; what doesn't fit beside the name goes on below, after a long name all of it.
void append_row(std::string& text, std::string left, std::string_view right) {
  constexpr std::size_t kWidth = 68;
  if (left.size() >= 28) {
    text += left + "\n";
    left.clear();
  }
  while (right.size() > kWidth) {
    const auto blank = right.rfind(' ', kWidth);
    if (blank == std::string_view::npos) break;
    text += fmt::format("{:<28} {}\n", left, right.substr(0, blank));
    right.remove_prefix(blank + 1);
    left.clear();
  }
  text += fmt::format("{:<28} {}\n", left, right);
}

/// Switches say it in their text.
std::string shown_default(const OptionSpec& spec) {
  return spec.value == Value::kNone || spec.show == nullptr ? "" : spec.show(Options{}, spec.name);
}

void append_section(std::string& text, Section section, std::string_view title) {
  text += fmt::format("\n{}:\n", title);
  for (const auto& spec : table()) {
    if (spec.section != section || spec.help.empty()) continue;
    std::string left = "  ";
    if (section == Section::kCommand) {
      if (spec.value != Value::kNone) {
        left += fmt::format("-{} {}", spec.letter, spec.placeholder);
      } else if (spec.letter != '\0') {
        left += fmt::format("-{}, --{}", spec.letter, spec.name);
      } else {
        left += fmt::format("--{}", spec.name);
      }
    } else {
      left += spec.name;
      if (spec.value != Value::kNone) left += fmt::format("={}", spec.placeholder);
      if (spec.letter != '\0') left += fmt::format(", -{}", spec.letter);
    }
    std::string right(spec.help);
    if (const auto value = shown_default(spec); !value.empty()) {
      right += fmt::format(" (default {})", value);
    }
    if (spec.change == Change::kLive) right += " [R]";
    append_row(text, left, right);
  }
}

}  // namespace

CommandLine parse_command_line(const std::vector<std::string>& arguments, bool root) {
  State state;
  state.root = root;
  state.result.options.arguments = arguments;
  state.result.error = Parser(arguments, state).run();
  if (state.result.error.empty() && state.result.action != CommandLine::Action::kHelp &&
      state.result.action != CommandLine::Action::kVersion) {
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
      "comment=...) are accepted and ignored. [R]: may be changed by -o remount.\n"
      "\n"
      "Exit status: 0 mounted, 1 failed, 2 wrong usage.\n";
  return text;
}

}  // namespace lockfs
