// lockfsctl policy: shows, lists, sets and explains the lock policy of a mount.
#include <fmt/format.h>

#include <iostream>
#include <memory>

#include "mount-helpers/lockfsctl/client.h"
#include "mount-helpers/lockfsctl/text.h"

namespace lockfs::ctl {

namespace {

/// What the command line says about the request to explain.
struct Hypothetical {
  std::string path;
  std::string type = "flock";
  bool shared = false;
  std::int64_t first = 0;
  std::int64_t last = -1;  ///< -1: to the end of the file
  int pid = 0;
  std::string open = "rw";
  bool json = false;
};

std::string str(const Json& json, const char* name) { return json.at(name).get<std::string>(); }

int show(const Globals& globals, const std::string& path) {
  for (Target& target : find_targets(globals, path)) {
    const Json result = target.client.call("policy", {{"action", "show"}}).at("result");
    std::cout << fmt::format("{}: {}\n", target.client.mount().mountpoint, str(result, "policy"));
    for (const auto& [axis, value] : result.at("axes").items()) {
      std::cout << fmt::format("  {}={}\n", axis, value.get<std::string>());
    }
  }
  return 0;
}

int list(const Globals& globals, const std::string& path) {
  Target target = find_one(globals, path);
  const Json result = target.client.call("policy", {{"action", "list"}}).at("result");
  const Json defaults = result.at("presets").at(0).at("axes");
  std::cout << "presets:\n";
  for (const Json& preset : result.at("presets")) {
    std::string differs;
    for (const auto& [axis, value] : preset.at("axes").items()) {
      if (value != defaults.at(axis)) {
        differs +=
            fmt::format("{}{}={}", differs.empty() ? "" : ",", axis, value.get<std::string>());
      }
    }
    std::cout << fmt::format("  {:<16} {}\n", str(preset, "name"), str(preset, "follows"));
    if (!differs.empty()) std::cout << fmt::format("  {:<16} {}\n", "", differs);
  }
  for (const Json& axis : result.at("axes")) {
    std::cout << fmt::format("{}: {}?\n", str(axis, "name"), str(axis, "question"));
    for (const Json& value : axis.at("values")) {
      std::cout << fmt::format("  {:<16} {}\n", str(value, "name"), str(value, "follows"));
    }
  }
  return 0;
}

int set(const Globals& globals, std::string policy, const std::string& path) {
  // As -o has it.
  if (policy.starts_with("policy=")) policy.erase(0, sizeof "policy=" - 1);
  Target target = find_one(globals, path);
  const Json r = target.client.call("set_policy", {{"policy", policy}}).at("result");
  const auto number = [&r](const char* name) { return r.at(name).get<std::uint64_t>(); };
  std::cout << fmt::format("{}: {} -> {}\n", target.client.mount().mountpoint, str(r, "from"),
                           str(r, "to"));
  std::cout << fmt::format("{} locks on {} files stay granted\n", number("locks"), number("files"));
  if (number("conflicting") > 0) {
    std::cout << fmt::format(
        "{} of them lie beside others that this policy would not grant together: they stay until "
        "they are let go, and none is granted anew meanwhile\n",
        number("conflicting"));
  }
  if (number("not_carried") > 0) {
    std::cout << fmt::format(
        "{} files have locks that are not carried to the source yet, since somebody outside is in "
        "the way; tried again with each request\n",
        number("not_carried"));
  }
  if (number("left_behind") > 0) {
    std::cout << fmt::format("{} files keep the old policy for want of memory; set it again\n",
                             number("left_behind"));
  }
  std::cout << fmt::format("{} requests waited: {} granted now, {} refused as deadlocks\n",
                           number("waiters"), number("granted"), number("deadlocks"));
  return 0;
}

std::string obstacle_text(const Json& o) {
  const std::string last =
      o.at("end").is_null() ? "EOF" : std::to_string(o.at("end").get<std::int64_t>());
  const std::string pid =
      o.at("pid").is_null() ? "unknown" : std::to_string(o.at("pid").get<int>());
  const std::string what = str(o, "what") == "outsider"
                               ? fmt::format("an outsider's {} lock", str(o, "mode"))
                               : fmt::format("{} {} {}", str(o, "mode"), str(o, "type"),
                                             str(o, "what") == "waiter" ? "request" : "lock");
  return fmt::format("{} {} on {}-{} of pid {}: {}", o.at("blocks").get<bool>() ? "-" : " (not)",
                     what, o.at("start").get<std::int64_t>(), last, pid, str(o, "why"));
}

int explain(const Globals& globals, const Hypothetical& h) {
  Target target = find_target(globals, h.path);
  if (target.filter.empty())
    throw Error(fmt::format("{} is a whole mount; name a file", h.path), 2);
  Json request = target.filter;
  request["action"] = "explain";
  request["type"] = h.type;
  request["mode"] = h.shared ? "shared" : "exclusive";
  request["start"] = h.first;
  request["end"] = h.last < 0 ? Json() : Json(h.last);
  request["open"] = h.open;
  if (h.pid != 0) request["pid"] = h.pid;
  const Json result = target.client.call("policy", request).at("result");
  if (h.json) {
    std::cout << result.dump(2) << '\n';
    return 0;
  }
  if (!result.at("known").get<bool>()) {
    std::cout << fmt::format("{}: nobody has asked for a lock on it through the mount\n", h.path);
  }
  for (const Json& policy : result.at("policies")) {
    std::string name = str(policy, "policy");
    if (name == "now") name = fmt::format("now ({})", str(result, "now"));
    std::cout << fmt::format("{}: {}\n", name, str(policy, "outcome"));
    for (const Json& o : policy.at("obstacles")) std::cout << "  " << obstacle_text(o) << '\n';
    if (policy.at("more").get<bool>()) std::cout << "  - and more\n";
  }
  return 0;
}

}  // namespace

void add_policy(CLI::App& app, const Globals& globals, Run& run) {
  auto* sub = app.add_subcommand("policy", "Show, list, set or explain the lock policy");
  sub->require_subcommand(1);

  auto path = std::make_shared<std::string>();
  auto* show_sub = sub->add_subcommand("show", "The policy of a mount, axis by axis");
  show_sub->add_option("PATH", *path, "A mount point or a source (default: all mounts)");
  show_sub->callback(
      [&globals, &run, path] { run = [&globals, path] { return show(globals, *path); }; });

  auto* list_sub = sub->add_subcommand("list", "Every preset, axis and value, and whom it follows");
  list_sub->add_option("PATH", *path, "A mount point or a source (default: the only mount)");
  list_sub->callback(
      [&globals, &run, path] { run = [&globals, path] { return list(globals, *path); }; });

  auto policy = std::make_shared<std::string>();
  auto* set_sub =
      sub->add_subcommand("set", "Switch a mount to another policy; locks that are granted stay");
  set_sub
      ->add_option("POLICY", *policy, "PRESET[,AXIS=VALUE...], or AXIS=VALUE[,...] on top of now")
      ->required();
  set_sub->add_option("PATH", *path, "A mount point or a source (default: the only mount)");
  set_sub->callback([&globals, &run, policy, path] {
    run = [&globals, policy, path] { return set(globals, *policy, *path); };
  });

  auto h = std::make_shared<Hypothetical>();
  auto* explain_sub = sub->add_subcommand(
      "explain", "Who would block a request on a file under each preset, and why");
  explain_sub->add_option("FILE", h->path, "A file in a mount or in its source")->required();
  explain_sub->add_option("--type", h->type, "flock, posix or ofd (default flock)")
      ->check(CLI::IsMember({"flock", "posix", "ofd"}));
  explain_sub->add_flag("--shared", h->shared, "A shared lock (default: exclusive)");
  explain_sub->add_option("--first", h->first, "First byte (posix, ofd)")
      ->check(CLI::NonNegativeNumber);
  explain_sub->add_option("--last", h->last, "Last byte (default: to the end)")
      ->check(CLI::NonNegativeNumber);
  explain_sub->add_option("--pid", h->pid, "The process that asks (default: another one)")
      ->check(CLI::PositiveNumber);
  explain_sub->add_option("--open", h->open, "How its descriptor is open: r, w or rw (default rw)")
      ->check(CLI::IsMember({"r", "w", "rw"}));
  explain_sub->add_flag("--json", h->json, "Print JSON");
  explain_sub->callback(
      [&globals, &run, h] { run = [&globals, h] { return explain(globals, *h); }; });
}

}  // namespace lockfs::ctl
