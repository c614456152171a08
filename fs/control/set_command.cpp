// "set": changes options while mounted, all or nothing. Each field of the request but "v", "id",
// "cmd" and "check" is an option, with true for one that takes no value; "check" true changes
// nothing and only tells whether it could be done.
#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <string>
#include <utility>
#include <vector>

#include "fs/control/commands.h"
#include "fs/options/logging.h"
#include "fs/options/option_change.h"

namespace lockfs::control {

namespace {

std::vector<MountOption> changes_in(const Json& request) {
  std::vector<MountOption> changes;
  for (const auto& [name, value] : request.items()) {
    if (name == "v" || name == "id" || name == "cmd" || name == "check") continue;
    MountOption change{name, std::nullopt};
    if (value != true) change.value = value.is_string() ? value.get<std::string>() : value.dump();
    changes.push_back(std::move(change));
  }
  return changes;
}

/// The policy comes first, since only that can fail (std::bad_alloc).
void apply(Context& context, Options wanted, const Peer& peer) {
  if (!(wanted.policy == context.current.policy)) switch_policy(context, wanted.policy, peer);
  context.current = std::move(wanted);
  const Options& options = context.current;
  spdlog::set_level(spdlog::level::from_str(options.log_level));
  Filesystem::CacheTimes& times = context.filesystem.cache_times();
  times.attr = options.attr_timeout;
  times.entry = options.entry_timeout;
  times.negative = options.negative_timeout;
  Filesystem::AccessTimes& access = context.filesystem.access_times();
  access.keep = options.noatime;
  access.keep_directories = options.nodiratime;
  context.lock_ops.set_limits(options);
  context.save_options();
}

void report(const std::vector<MountOption>& changes, const Peer& peer) {
  std::string text;
  for (const auto& [name, value] : changes) {
    text += (text.empty() ? "" : ",") + name + (value ? "=" + *value : "");
  }
  log_event(spdlog::level::info,
            fmt::format("options set by pid {} (uid {}): {}", peer.pid, peer.uid, text),
            {{"LOCKFS_OP", "set"},
             {"LOCKFS_BY_UID", std::to_string(peer.uid)},
             {"LOCKFS_BY_PID", std::to_string(peer.pid)}});
}

}  // namespace

Outcome set(Context& context, const Call& call) {
  const auto changes = changes_in(call.request);
  OptionChange planned = plan_change(context.current, changes);
  if (!planned.error.empty()) throw Failure{"bad_request", std::move(planned.error)};
  if (!call.request.value("check", false) && !changes.empty()) {
    apply(context, std::move(planned.wanted), call.peer);
    report(changes, call.peer);
  }
  Json values;
  for (const auto& [name, value] : live_values(context.current)) {
    Json parsed = Json::parse(value, nullptr, false);
    values[name] = parsed.is_number() ? std::move(parsed) : Json(value);
  }
  return done(call, "result", std::move(values));
}

}  // namespace lockfs::control
