// lockfsctl ping and mounts: which mounts there are, and whether they answer.
#include <fmt/format.h>

#include <chrono>
#include <ctime>
#include <iostream>
#include <set>
#include <vector>

#include "mount-helpers/lockfsctl/client.h"
#include "mount-helpers/lockfsctl/mount_points.h"
#include "mount-helpers/lockfsctl/text.h"

namespace lockfs::ctl {

namespace {

int ping(const Globals& globals, const std::string& path) {
  for (Target& target : find_targets(globals, path)) {
    const auto begin = std::chrono::steady_clock::now();
    target.client.call("ping");
    const std::chrono::duration<double, std::nano> time = std::chrono::steady_clock::now() - begin;
    const MountInfo& m = target.client.mount();
    std::cout << fmt::format("{}: lockfs {} (pid {}) answers in {}, up for {}\n", m.mountpoint,
                             m.version, m.pid, short_time(time.count()), duration_text(m.uptime_s));
    if (!m.last_death.empty()) {
      const auto ago = std::time(nullptr) - static_cast<std::int64_t>(m.last_death_time);
      std::cout << fmt::format("{}: daemon {} since {}: the one before was {}; {:.1f} ms without\n",
                               m.mountpoint, m.generation, clock_text(ago), m.last_death,
                               m.last_gap_ms);
    }
  }
  return 0;
}

int mounts(const Globals& globals, bool json) {
  Json all = Json::array();
  Table table({{"MOUNTPOINT"},
               {"SOURCE"},
               {"POLICY"},
               {"PID", true},
               {"UP", true},
               {"DAEMON", true},
               {"SOCKET"}});
  const std::vector<std::string> points = lockfs_mount_points("/proc/self/mountinfo");
  std::set<std::string> unserved(points.begin(), points.end());
  for (const Client& client : all_mounts(globals)) {
    const MountInfo& m = client.mount();
    unserved.erase(m.mountpoint);
    table.add({printable(m.mountpoint), printable(m.source), m.policy, std::to_string(m.pid),
               duration_text(m.uptime_s), m.survives ? std::to_string(m.generation) : "-",
               m.socket});
    all.push_back({{"mountpoint", m.mountpoint},
                   {"source", m.source},
                   {"policy", m.policy},
                   {"mirror", m.mirror},
                   {"pid", m.pid},
                   {"version", m.version},
                   {"uptime_s", m.uptime_s},
                   {"survives", m.survives},
                   {"generation", m.generation},
                   {"socket", m.socket}});
  }
  if (globals.socket.empty()) {
    for (const std::string& point : unserved) {
      table.add({printable(point), "?", "?", "?", "?", "?", "no socket answers"});
      all.push_back({{"mountpoint", point}, {"socket", nullptr}});
    }
  }
  if (json) {
    std::cout << all.dump(2) << '\n';
  } else {
    std::cout << table.text();
  }
  return 0;
}

}  // namespace

void add_ping(CLI::App& app, const Globals& globals, Run& run) {
  auto* sub = app.add_subcommand("ping", "Ask mounts whether they live");
  auto path = std::make_shared<std::string>();
  sub->add_option("PATH", *path, "A mount point, a source or a file (default: all mounts)");
  sub->callback(
      [&globals, &run, path] { run = [&globals, path] { return ping(globals, *path); }; });
}

void add_mounts(CLI::App& app, const Globals& globals, Run& run) {
  auto* sub = app.add_subcommand("mounts", "List lockfs mounts and their control sockets");
  auto json = std::make_shared<bool>(false);
  sub->add_flag("--json,-J", *json, "Print JSON");
  sub->callback(
      [&globals, &run, json] { run = [&globals, json] { return mounts(globals, *json); }; });
}

}  // namespace lockfs::ctl
