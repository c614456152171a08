/// The table of options, shared by the parser, --help and changes while mounted. Internal to
/// options.cpp, option_parser.cpp and option_change.cpp.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "fs/options/options.h"

namespace lockfs::option {

/// What has been read so far. Settings whose default depends on others stay open until the end.
struct State {
  CommandLine result;
  std::optional<bool> allow_other;
  std::optional<bool> default_permissions;
  std::optional<bool> suid;
  std::optional<bool> dev;
  std::optional<bool> exec;
  std::optional<bool> symfollow;
  std::optional<std::string> log_level;
  /// Single axes of the lock policy; they go on top of the preset wherever they stand.
  std::vector<std::pair<std::string, std::string>> policy_axes;
  bool sync = false;
  bool dirsync = false;
  bool root = false;
  bool sloppy = false;
  std::string unknown;  ///< what is wrong with the first unknown mount option
};

/// One occurrence of an option: its name and value as the user wrote them.
struct Given {
  std::string_view name;
  std::string_view value;
  std::string_view raw;  ///< name=value before quotes were taken off
};

/// Carries out one option; returns an empty string or what is wrong with it.
using Apply = std::string (*)(State&, const Given&);
/// The value that the option called `name` has in `options`, spelled as the command line takes it.
using Show = std::string (*)(const Options& options, std::string_view name);

enum class Section { kCommand, kMount, kCache, kLog, kControl, kEngine, kPolicy, kLimit, kIgnored };
enum class Value { kNone, kRequired, kOptional };
enum class Change { kMounting, kLive };  ///< whether an option may change while mounted

struct OptionSpec {
  char letter = '\0';            ///< the short form, if there is one
  std::string_view name;         ///< a trailing '*' matches any ending
  Value value = Value::kNone;    ///< whether "=value" follows
  std::string_view placeholder;  ///< what --help writes for the value
  Section section = Section::kCommand;
  Apply apply = nullptr;
  std::string_view help;  ///< empty: left out of --help
  Show show = nullptr;    ///< null: for the kernel or mount(8) alone
  Change change = Change::kMounting;
};

/// One element of a -o list.
struct Element {
  std::string name;
  std::optional<std::string> value;
  std::string raw;  ///< as it stood, without the quoting of commas
};

/// What the options do that the kernel gets unchanged.
std::string add_kernel_option(State& state, const Given& given);

/// Every option, in the order of --help.
std::span<const OptionSpec> table();

/// The option that `name` calls, or null.
const OptionSpec* find_option(std::string_view name);

/// Whether -o takes it: options about the command itself it doesn't, but for "debug".
bool allowed_after_o(const OptionSpec& spec);

/// Takes the element that starts at `list[position]` and moves `position` behind its comma. As in
/// mount(8) a value in double quotes may hold commas; as in libfuse `\,` and `\\` stand for
/// themselves. Returns an error or an empty string.
std::string next_element(std::string_view list, std::size_t& position, Element& element);

/// Applies one option. `shown`: as written, for messages. Returns an error or an empty string.
std::string apply_option(State& state, const OptionSpec& spec, std::string_view shown,
                         const std::optional<std::string>& value, std::string_view raw);

/// What is said about an option that is none. `shown`: as the user wrote it, dashes and all.
/// `name`: the bare name, underscored.
std::string unknown_option(std::string_view shown, std::string_view name, bool after_o);

}  // namespace lockfs::option
