// lockfsctl top: a live screen of rates, busiest files and longest waits.
#include <fmt/format.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <map>
#include <sstream>

#include "mount-helpers/lockfsctl/screen.h"
#include "mount-helpers/lockfsctl/snapshot.h"
#include "mount-helpers/lockfsctl/text.h"

namespace lockfs::ctl {

namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t kMostShown = 50;  ///< lines of a table, whatever the terminal's height

/// What has been seen since the last picture.
struct Interval {
  std::map<std::string, std::uint64_t> events;  ///< by path
  std::uint64_t dropped = 0;
  double seconds = 1;
};

class Top {
 public:
  Top(Target looks, Target watches, double delay)
      : looks_(std::move(looks)), watches_(std::move(watches)), delay_(delay) {}

  /// Until q is pressed or the mount ends. Returns the exit status.
  int run() {
    watches_.client.call("watch", watches_.filter);
    Screen screen;
    auto begin = Clock::now();
    picture(screen, begin);
    while (true) {
      const auto now = Clock::now();
      const auto left = std::chrono::duration<double>(delay_) - (now - begin);
      if (left <= left.zero()) {
        picture(screen, begin);
        begin = now;
        continue;
      }
      pollfd entries[] = {{STDIN_FILENO, POLLIN, 0}, {watches_.client.fd(), POLLIN, 0}};
      const int wait = static_cast<int>(left / std::chrono::milliseconds(1)) + 1;
      if (poll(entries, 2, watches_.client.has_line() ? 0 : wait) < 0 && errno != EINTR) return 1;
      // A terminal that was resized says so through the keyboard.
      for (int key = screen.key(); key >= 0; key = screen.key()) {
        if (key == 'q' || key == 'Q') return 0;
        picture(screen, begin);
      }
      if ((entries[0].revents & (POLLHUP | POLLERR)) != 0) return 0;
      if (entries[1].revents != 0 && !watches_.client.receive()) {
        throw Error(watches_.client.mount().mountpoint + " has ended");
      }
      count_events();
    }
  }

 private:
  void count_events() {
    while (watches_.client.has_line()) {
      const Json event = *watches_.client.next();
      if (event.at("event") == "dropped") {
        interval_.dropped += event.at("count").get<std::uint64_t>();
      } else {
        ++interval_.events[event.at("path").get<std::string>()];
      }
    }
  }

  /// Asks the mount and shows what it says. Keys that come early show the same interval anew.
  void picture(Screen& screen, Clock::time_point since) {
    const Json stats = looks_.client.call("stats").at("stats");
    const Snapshot s = take_snapshot(looks_, false);
    interval_.seconds =
        std::max(0.001, std::chrono::duration<double>(Clock::now() - since).count());
    const MountInfo& mount = s.mount;
    screen.clear();
    screen.line(fmt::format("lockfsctl top - {} (source {}), policy {}, at {}", mount.mountpoint,
                            mount.source, mount.policy, clock_text(0)),
                true);
    const Json& gauges = stats.at("gauges");
    screen.line(fmt::format("{} locks, {} waiting ({} outside), {} files, {:.1f} MB of memory",
                            gauges.at("locks").dump(), gauges.at("waiters").dump(),
                            gauges.at("waiting_outside").dump(), gauges.at("files").dump(),
                            gauges.at("resident_bytes").get<double>() / 1e6));
    screen.line(rates(stats.at("counters")));
    screen.line("");
    const auto room = static_cast<std::size_t>(std::max(2, (screen.rows() - 8) / 2));
    show(screen, "Busiest files", busiest(s, std::min(room, kMostShown)));
    show(screen, "Longest waits", longest(s, std::min(room, kMostShown)));
    if (interval_.dropped > 0) {
      screen.line(
          fmt::format("({} events came too fast to be counted by file)", interval_.dropped));
    }
    screen.line("q quits");
    screen.show();
    interval_ = {};
  }

  std::string rates(const Json& counters) {
    std::string text = "a second:";
    for (const char* name :
         {"grants", "unlocks", "conflicts", "waits", "interrupts", "deadlocks", "mirror_calls"}) {
      const double now = counters.at(name).get<double>();
      const double before = last_.is_null() ? now : last_.at(name).get<double>();
      text += fmt::format(" {} {}", short_number((now - before) / interval_.seconds), name);
    }
    last_ = counters;
    return text;
  }

  [[nodiscard]] Table busiest(const Snapshot& s, std::size_t most) const {
    struct Busy {
      std::uint64_t events = 0;
      std::size_t locks = 0;
      std::size_t waits = 0;
    };
    std::map<std::string, Busy> files;
    for (const auto& [path, count] : interval_.events) files[path].events = count;
    for (const Record& r : s.locks) ++files[s.files[r.file].path].locks;
    for (const Record& r : s.waits) ++files[s.files[r.file].path].waits;
    std::vector<std::pair<std::string, Busy>> order(files.begin(), files.end());
    std::stable_sort(order.begin(), order.end(), [](const auto& a, const auto& b) {
      return std::tuple(a.second.events, a.second.waits, a.second.locks) >
             std::tuple(b.second.events, b.second.waits, b.second.locks);
    });
    Table table({{"EVENTS/S", true}, {"LOCKS", true}, {"WAITING", true}, {"PATH"}});
    for (std::size_t i = 0; i < std::min(order.size(), most); ++i) {
      const auto& [path, busy] = order[i];
      table.add({short_number(static_cast<double>(busy.events) / interval_.seconds),
                 std::to_string(busy.locks), std::to_string(busy.waits), printable(path)});
    }
    return table;
  }

  [[nodiscard]] static Table longest(const Snapshot& s, std::size_t most) {
    std::vector<const Record*> order;
    for (const Record& r : s.waits) order.push_back(&r);
    std::stable_sort(order.begin(), order.end(), [](const Record* a, const Record* b) {
      return a->seconds.value_or(0) > b->seconds.value_or(0);
    });
    Table table(
        {{"WAITS", true}, {"PID", true}, {"COMMAND"}, {"MODE"}, {"RANGE"}, {"HELD BY"}, {"PATH"}});
    for (std::size_t i = 0; i < std::min(order.size(), most); ++i) {
      const Record& r = *order[i];
      const auto holder = std::find_if(s.locks.begin(), s.locks.end(), [&](const Record& lock) {
        return s.stands_in_the_way(lock, r);
      });
      std::string held = "-";
      if (holder != s.locks.end()) held = fmt::format("{} ({})", holder->pid, holder->command);
      if (r.place == "outside") held = "outside";
      table.add({duration_text(r.seconds.value_or(0)), std::to_string(r.pid), r.command,
                 r.exclusive ? "WRITE" : "READ", range_text(r), held,
                 printable(s.files[r.file].path)});
    }
    return table;
  }

  static void show(Screen& screen, const char* title, const Table& table) {
    screen.line(title, true);
    std::istringstream lines(table.text());
    std::string text;
    while (std::getline(lines, text)) screen.line("  " + text);
    screen.line("");
  }

  Target looks_;    ///< for requests
  Target watches_;  ///< for events
  const double delay_;
  Interval interval_;
  Json last_;  ///< counters of the last picture
};

}  // namespace

void add_top(CLI::App& app, const Globals& globals, Run& run) {
  auto* sub = app.add_subcommand("top", "Show a live screen of what goes on; q quits");
  struct Options {
    std::string path;
    double delay = 1;
  };
  auto o = std::make_shared<Options>();
  sub->add_option("PATH", o->path, "A mount point or source (default: the only mount)");
  sub->add_option("--delay,-d", o->delay, "Seconds between pictures")
      ->check(CLI::Range(0.1, 3600.0))
      ->capture_default_str();
  sub->callback([&globals, &run, o] {
    run = [&globals, o] {
      return Top(find_one(globals, o->path), find_one(globals, o->path), o->delay).run();
    };
  });
}

}  // namespace lockfs::ctl
