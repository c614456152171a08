#include "fs/options/option_change.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "fs/options/option_table.h"

namespace lockfs {

namespace {

std::string refusal(const option::OptionSpec& spec, const MountOption& change,
                    const Options& current) {
  const bool shown = spec.value != option::Value::kNone && spec.show != nullptr;
  const std::string now = shown ? spec.show(current, spec.name) : "";
  return fmt::format("option '{}' cannot change while mounted{}; unmount and mount again",
                     change.name, now.empty() ? "" : fmt::format(" (it is {})", now));
}

/// The option that makes what `name` shows `value`: of one without value, such as noatime, that is
/// its name or, for "off", its opposite's. The axes on top of a policy's preset have values of
/// their own.
MountOption change_to(std::string name, std::string value) {
  if (name == "policy") return {name, value.substr(0, value.find(','))};
  const auto* const spec = option::find_option(name);
  if (spec == nullptr || spec->value != option::Value::kNone) return {name, value};
  constexpr std::string_view kNot = "no";
  if (value == "off") name = name.starts_with(kNot) ? name.substr(kNot.size()) : "no" + name;
  return {name, std::nullopt};
}

}  // namespace

OptionChange plan_change(const Options& current, const std::vector<MountOption>& changes) {
  option::State state;
  state.root = true;
  state.result.options = current;
  const auto failed = [&current](std::string error) {
    return OptionChange{current, std::move(error)};
  };

  std::vector<const option::OptionSpec*> specs;
  for (const auto& [name, value] : changes) {
    const auto* spec = option::find_option(name);
    if (spec == nullptr || !option::allowed_after_o(*spec)) {
      return failed(option::unknown_option(name, name, true));
    }
    const std::string raw = value ? fmt::format("{}={}", name, *value) : name;
    if (auto error = option::apply_option(state, *spec, name, value, raw); !error.empty()) {
      return failed(std::move(error));
    }
    specs.push_back(spec);
  }

  Options& wanted = state.result.options;
  wanted.allow_other = state.allow_other.value_or(current.allow_other);
  wanted.default_permissions = state.default_permissions.value_or(current.default_permissions);
  for (const auto& [axis, value] : state.policy_axes) wanted.policy.set(axis, value);
  wanted.log_level = state.log_level.value_or(current.log_level);
  for (std::size_t i = 0; i < specs.size(); ++i) {
    const auto& spec = *specs[i];
    const bool differs =
        spec.show != nullptr && spec.show(wanted, spec.name) != spec.show(current, spec.name);
    // The security contexts of the mount; those it has never come here (see remount.cpp).
    const bool of_kernel = spec.apply == option::add_kernel_option;
    if (of_kernel || (spec.change == option::Change::kMounting && differs)) {
      return failed(refusal(spec, changes[i], current));
    }
  }
  return {std::move(wanted), {}};
}

std::vector<std::pair<std::string, std::string>> live_values(const Options& options) {
  std::vector<std::pair<std::string, std::string>> values;
  for (const auto& spec : option::table()) {
    if (spec.change == option::Change::kLive && spec.show != nullptr) {
      values.emplace_back(spec.name, spec.show(options, spec.name));
    }
  }
  return values;
}

std::string live_text(const Options& options) {
  std::string text;
  for (const auto& [name, value] : live_values(options)) {
    text += fmt::format("{}={}\n", name, value);
  }
  return text;
}

std::string read_live_values(std::string_view text, Options& options) {
  std::vector<MountOption> changes;
  while (!text.empty()) {
    const std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(text.size(), line.size() + 1));
    const auto equals = line.find('=');
    if (equals == std::string_view::npos) continue;
    changes.push_back(
        change_to(std::string(line.substr(0, equals)), std::string(line.substr(equals + 1))));
  }
  OptionChange change = plan_change(options, changes);
  if (change.error.empty()) options = std::move(change.wanted);
  return std::move(change.error);
}

}  // namespace lockfs
