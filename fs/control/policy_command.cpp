// "policy": shows, lists, explains; "set_policy": switches.
#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <cerrno>
#include <utility>

#include "fs/control/commands.h"
#include "fs/options/logging.h"
#include "lockmgr/explain.h"

namespace lockfs::control {

namespace {

/// Locks and waiters of a file that are looked at to explain; the rest is left out and said so.
constexpr std::size_t kMostExplained = 4096;
/// Obstacles shown a policy.
constexpr std::size_t kMostObstacles = 16;

Json axes_json(const lockmgr::Policy& policy) {
  Json axes = Json::object();
  for (const auto& axis : lockmgr::Policy::axes()) axes[std::string(axis.name)] = axis.get(policy);
  return axes;
}

Json shown(const lockmgr::Policy& policy) {
  return {{"policy", policy.text()}, {"axes", axes_json(policy)}};
}

Json listed() {
  Json presets = Json::array();
  for (const auto& preset : lockmgr::Policy::presets()) {
    presets.push_back({{"name", std::string(preset.name)},
                       {"follows", std::string(preset.follows)},
                       {"axes", axes_json(preset.policy)}});
  }
  Json axes = Json::array();
  for (const auto& axis : lockmgr::Policy::axes()) {
    Json values = Json::array();
    for (const auto& value : axis.values) {
      values.push_back(
          {{"name", std::string(value.name)}, {"follows", std::string(value.follows)}});
    }
    axes.push_back({{"name", std::string(axis.name)},
                    {"question", std::string(axis.question)},
                    {"values", std::move(values)}});
  }
  return {{"presets", std::move(presets)}, {"axes", std::move(axes)}};
}

// -- explain -------------------------------------------------------------------------------------

lockmgr::Mode wanted_mode(const Json& request) {
  const std::string mode = text_in(request, "mode").value_or("exclusive");
  if (mode == "shared") return lockmgr::Mode::kShared;
  if (mode == "exclusive") return lockmgr::Mode::kExclusive;
  throw Failure{"bad_request", "'mode' is neither shared nor exclusive"};
}

lockmgr::OwnerType wanted_type(const Json& request) {
  const std::string type = text_in(request, "type").value_or("flock");
  for (const auto known :
       {lockmgr::OwnerType::kProcess, lockmgr::OwnerType::kOpenFile, lockmgr::OwnerType::kFlock}) {
    if (type == lockmgr::to_string(known)) return known;
  }
  throw Failure{"bad_request", "'type' is not posix, ofd or flock"};
}

/// "open": "r", "w" or "rw".
void read_open_mode(const Json& request, lockmgr::Hypothesis& hypothesis) {
  const std::string open = text_in(request, "open").value_or("rw");
  if (open != "r" && open != "w" && open != "rw") {
    throw Failure{"bad_request", "'open' is not r, w or rw"};
  }
  hypothesis.readable = open != "w";
  hypothesis.writable = open != "r";
}

Json obstacle_json(const lockmgr::Obstacle& obstacle) {
  using What = lockmgr::Obstacle::What;
  Json json;
  json["what"] = obstacle.what == What::kLock     ? "lock"
                 : obstacle.what == What::kWaiter ? "waiter"
                                                  : "outsider";
  if (obstacle.what != What::kOutsider) {
    json["type"] = lockmgr::to_string(obstacle.owner.type);
    json["owner"] = text_of(obstacle.owner);
  }
  json["pid"] = obstacle.pid > 0 ? Json(obstacle.pid) : Json();
  add_range(json, obstacle.range, obstacle.mode);
  json["blocks"] = obstacle.blocks;
  json["why"] = std::string(obstacle.why);
  return json;
}

Json explained(const Context& context, const Json& request) {
  const FileFilter filter(context, request);
  if (filter.fits_all()) throw Failure{"bad_request", "'inode' is missing: explain needs a file"};
  lockmgr::Hypothesis hypothesis;
  hypothesis.request.owner = {wanted_type(request), 0};
  hypothesis.request.mode = wanted_mode(request);
  hypothesis.request.range = hypothesis.request.owner.type == lockmgr::OwnerType::kFlock
                                 ? lockmgr::kWholeFile
                                 : range_in(request);
  hypothesis.request.caller.pid = static_cast<pid_t>(number_in(request, "pid").value_or(0));
  read_open_mode(request, hypothesis);

  bool known = false;
  bool complete = true;
  for (const auto& weak : files_of(context, filter)) {
    const auto file = weak.lock();
    if (file == nullptr) continue;
    known = true;
    lockmgr::PageMark locks;
    complete = !file->locks_page(locks, kMostExplained, hypothesis.locks) && complete;
    lockmgr::PageMark waiters;
    complete = !file->waiters_page(waiters, kMostExplained, hypothesis.waiters) && complete;
    file->outsiders(hypothesis.request.range, hypothesis.request.mode, hypothesis.outside_record,
                    hypothesis.outside_flock);
  }
  Json policies = Json::array();
  const lockmgr::Policy now = context.lock_ops.manager().policy();
  for (const auto& explanation : lockmgr::explain_all(now, hypothesis)) {
    Json obstacles = Json::array();
    for (const auto& obstacle : explanation.obstacles) {
      if (obstacles.size() < kMostObstacles) obstacles.push_back(obstacle_json(obstacle));
    }
    policies.push_back({{"policy", explanation.policy},
                        {"outcome", explanation.error == EBADF    ? "EBADF"
                                    : explanation.error == EAGAIN ? "blocked"
                                    : explanation.queues          ? "queues"
                                                                  : "granted"},
                        {"obstacles", std::move(obstacles)},
                        {"more", explanation.obstacles.size() > kMostObstacles}});
  }
  // Of a file without locks nothing is known, not even what outsiders hold there.
  return {{"now", now.text()},
          {"known", known},
          {"complete", complete},
          {"policies", std::move(policies)}};
}

}  // namespace

Outcome policy(Context& context, const Call& call) {
  const std::string action = text_in(call.request, "action").value_or("show");
  if (action == "show") return done(call, "result", shown(context.lock_ops.manager().policy()));
  if (action == "list") return done(call, "result", listed());
  if (action == "explain") return done(call, "result", explained(context, call.request));
  throw Failure{"bad_request", "'action' is not show, list or explain"};
}

Outcome set_policy(Context& context, const Call& call) {
  const auto text = text_in(call.request, "policy");
  if (!text) throw Failure{"bad_request", "'policy' is missing: PRESET[,AXIS=VALUE...]"};
  lockmgr::Policy wanted;
  if (const auto error = lockmgr::Policy::parse(*text, context.current.policy, wanted);
      !error.empty()) {
    throw Failure{"bad_request", error};
  }
  const lockmgr::PolicySwitch report = switch_policy(context, wanted, call.peer);
  return done(call, "result",
              {{"from", report.from.text()},
               {"to", report.to.text()},
               {"files", report.files},
               {"locks", report.locks},
               {"conflicting", report.conflicting},
               {"waiters", report.waiters},
               {"granted", report.granted},
               {"deadlocks", report.deadlocks},
               {"left_behind", report.left_behind},
               {"not_carried", report.not_carried}});
}

lockmgr::PolicySwitch switch_policy(Context& context, const lockmgr::Policy& to, const Peer& peer) {
  lockmgr::PolicySwitch report = context.lock_ops.switch_policy(to);
  context.current.policy = to;
  context.save_options();
  log_event(
      spdlog::level::warn,
      fmt::format("lock policy switched from {} to {} by pid {} (uid {}): {} locks kept on {} "
                  "files, {} waiters looked at again",
                  report.from.text(), report.to.text(), peer.pid, peer.uid, report.locks,
                  report.files, report.waiters),
      {{"LOCKFS_OP", "policy"},
       {"LOCKFS_BY_UID", std::to_string(peer.uid)},
       {"LOCKFS_BY_PID", std::to_string(peer.pid)}});
  return report;
}

}  // namespace lockfs::control
