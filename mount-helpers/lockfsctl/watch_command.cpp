// lockfsctl watch: what happens to locks, as it happens.
#include <fmt/format.h>
#include <poll.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <ctime>
#include <iostream>
#include <thread>
#include <utility>
#include <vector>

#include "mount-helpers/lockfsctl/mount_points.h"
#include "mount-helpers/lockfsctl/snapshot.h"
#include "mount-helpers/lockfsctl/text.h"

namespace lockfs::ctl {

namespace {

struct WatchOptions {
  std::string path;
  bool json = false;
  pid_t pid = 0;
};

std::string time_of(double seconds) {
  const auto whole = static_cast<std::time_t>(seconds);
  std::tm local{};
  localtime_r(&whole, &local);
  std::array<char, 32> buffer{};
  std::strftime(buffer.data(), buffer.size(), "%T", &local);
  return fmt::format("{}.{:03}", buffer.data(),
                     static_cast<int>((seconds - static_cast<double>(whole)) * 1000));
}

std::string line_of(const Json& event) {
  if (event.at("event") == "dropped") {
    return fmt::format("... {} events were dropped: this reader was too slow",
                       event.at("count").get<std::uint64_t>());
  }
  Record r;
  r.first = event.at("start").get<std::int64_t>();
  r.last = event.at("end").is_null() ? kEof : event.at("end").get<std::int64_t>();
  r.pid = event.at("pid").get<pid_t>();
  r.uid = event.at("uid").get<uid_t>();
  r.command = command_of(r.pid);
  const std::string mode = event.at("mode").get<std::string>();
  std::string text =
      fmt::format("{} {:<8} {:<5} {:<9} {:<12} {}  {}", time_of(event.at("time").get<double>()),
                  event.at("event").get<std::string>(), event.at("type").get<std::string>(),
                  mode == "none" ? "" : mode, range_text(r),
                  printable(event.at("path").get<std::string>()), who_text(r));
  if (const double waited = event.at("waited_ms").get<double>(); waited > 0) {
    text += fmt::format(", after {}", short_time(waited * 1e6));
  }
  if (const int error = event.at("errno").get<int>(); error != 0) {
    text += fmt::format(": {}", std::strerror(error));
  }
  return text;
}

void ask(Client& client, const Json& filter, const WatchOptions& options) {
  Json arguments = filter;
  if (options.pid != 0) arguments["pid"] = options.pid;
  client.call("watch", std::move(arguments));
}

/// Whether the mount point is one of lockfs still.
bool is_mounted(const std::string& mountpoint) {
  const std::vector<std::string> points = lockfs_mount_points("/proc/self/mountinfo");
  return std::find(points.begin(), points.end(), mountpoint) != points.end();
}

/// A mount whose daemon has died is served by another in a moment: watches that. False: it has
/// ended.
bool watch_again(Target& target, const WatchOptions& options) {
  constexpr auto kPause = std::chrono::milliseconds(20);
  constexpr auto kPatience = std::chrono::seconds(30);
  const MountInfo before = target.client.mount();
  if (!before.survives) return false;
  const auto end = std::chrono::steady_clock::now() + kPatience;
  while (is_mounted(before.mountpoint) && std::chrono::steady_clock::now() < end) {
    try {
      Client client(before.socket);
      ask(client, target.filter, options);
      target.client = std::move(client);
      return true;
    } catch (const Error&) {
      std::this_thread::sleep_for(kPause);
    }
  }
  return false;
}

/// As other events are shown.
std::string restarted(const MountInfo& mount, bool json) {
  const double time = mount.last_death_time + mount.last_gap_ms / 1000;
  if (json) {
    return Json{{"event", "restarted"},           {"time", time},
                {"mountpoint", mount.mountpoint}, {"generation", mount.generation},
                {"reason", mount.last_death},     {"gap_ms", mount.last_gap_ms}}
        .dump();
  }
  return fmt::format("{} restarted {}: the daemon was {}, {:.1f} ms without; events may be missing",
                     time_of(time), printable(mount.mountpoint), mount.last_death,
                     mount.last_gap_ms);
}

int watch(const Globals& globals, const WatchOptions& options) {
  std::vector<Target> targets = find_targets(globals, options.path);
  for (Target& target : targets) ask(target.client, target.filter, options);
  // In a pipe the reader would otherwise see nothing for long.
  std::cout << std::unitbuf;
  while (!targets.empty()) {
    std::vector<pollfd> entries;
    bool ready = false;
    for (Target& target : targets) {
      entries.push_back({target.client.fd(), POLLIN, 0});
      ready = ready || target.client.has_line();
    }
    poll(entries.data(), entries.size(), ready ? 0 : -1);
    std::vector<Target> left;
    for (std::size_t i = 0; i < targets.size(); ++i) {
      Client& client = targets[i].client;
      const bool alive = entries[i].revents == 0 || client.receive();
      while (client.has_line()) {
        const Json event = *client.next();
        std::cout << (options.json ? event.dump() : line_of(event)) << '\n';
      }
      if (!std::cout) return 0;  // the reader has gone
      if (!alive && watch_again(targets[i], options)) {
        std::cout << restarted(targets[i].client.mount(), options.json) << '\n';
        left.push_back(std::move(targets[i]));
      } else if (alive) {
        left.push_back(std::move(targets[i]));
      } else {
        std::cerr << fmt::format("lockfsctl: {} has ended\n", client.mount().mountpoint);
      }
    }
    targets = std::move(left);
  }
  return 0;
}

}  // namespace

void add_watch(CLI::App& app, const Globals& globals, Run& run) {
  auto* sub = app.add_subcommand(
      "watch", "Print grants, waits, refusals, deadlocks and releases as they happen");
  auto o = std::make_shared<WatchOptions>();
  sub->add_option("PATH", o->path, "A mount point, a source or a file (default: all mounts)");
  sub->add_flag("--json,-J", o->json, "Print JSON, one event a line");
  sub->add_option("--pid,-p", o->pid, "Only of this process")->check(CLI::PositiveNumber);
  sub->callback([&globals, &run, o] { run = [&globals, o] { return watch(globals, *o); }; });
}

}  // namespace lockfs::ctl
