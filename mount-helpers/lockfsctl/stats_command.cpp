// lockfsctl stats: counters, gauges and latency histograms.
#include <fmt/format.h>

#include <iostream>

#include "mount-helpers/lockfsctl/client.h"
#include "mount-helpers/lockfsctl/text.h"

namespace lockfs::ctl {

namespace {

struct StatsOptions {
  std::string path;
  bool json = false;
  bool prometheus = false;
};

/// The upper bound of the bucket that the share `part` of all counts lies in.
std::string quantile(const Json& timing, double part) {
  const double wanted = part * timing.at("count").get<double>();
  double seen = 0;
  for (const Json& bucket : timing.at("buckets")) {
    seen += bucket.at("count").get<double>();
    if (seen >= wanted) return "< " + short_time(bucket.at("below_ns").get<double>());
  }
  return "-";
}

void print_text(const MountInfo& mount, const Json& stats) {
  std::cout << fmt::format("{} (source {}), up for {}\n", mount.mountpoint, mount.source,
                           duration_text(mount.uptime_s));
  if (!mount.last_death.empty()) {
    std::cout << fmt::format("  daemon {}: the one before was {}\n", mount.generation,
                             mount.last_death);
  }
  Table numbers({{"counter"}, {"value", true}});
  for (const char* group : {"counters", "gauges"}) {
    for (const auto& [name, value] : stats.at(group).items()) {
      numbers.add({"  " + name, value.dump()});
    }
  }
  std::cout << numbers.text(false);
  Table times({{"  timing"},
               {"count", true},
               {"mean", true},
               {"half", true},
               {"99%", true},
               {"all", true}});
  for (const auto& [name, timing] : stats.at("timings").items()) {
    const double count = timing.at("count").get<double>();
    const double mean = count == 0 ? 0 : timing.at("sum_ns").get<double>() / count;
    times.add({"  " + name, fmt::format("{:.0f}", count), short_time(mean), quantile(timing, 0.5),
               quantile(timing, 0.99), quantile(timing, 1)});
  }
  std::cout << times.text();
}

std::string label_of(const std::string& mountpoint) {
  std::string out;
  for (const char c : mountpoint) {
    if (c == '\\' || c == '"') out += '\\';
    out += c == '\n' ? std::string("\\n") : std::string(1, c);
  }
  return fmt::format("mount=\"{}\"", out);
}

struct Sample {
  std::string label;
  Json stats;
};

/// The text exposition format, version 0.0.4: each metric's samples together.
void print_prometheus(const std::vector<Sample>& samples) {
  if (samples.empty()) return;
  const auto family = [&](const char* group, const char* type, const char* ending) {
    for (const auto& [name, first] : samples.front().stats.at(group).items()) {
      std::cout << fmt::format("# TYPE lockfs_{}{} {}\n", name, ending, type);
      for (const Sample& sample : samples) {
        std::cout << fmt::format("lockfs_{}{}{{{}}} {}\n", name, ending, sample.label,
                                 sample.stats.at(group).at(name).dump());
      }
    }
  };
  family("counters", "counter", "_total");
  family("gauges", "gauge", "");
  for (const auto& [name, first] : samples.front().stats.at("timings").items()) {
    std::cout << fmt::format("# TYPE lockfs_{}_seconds histogram\n", name);
    for (const Sample& sample : samples) {
      const Json& timing = sample.stats.at("timings").at(name);
      std::uint64_t seen = 0;
      for (const Json& bucket : timing.at("buckets")) {
        seen += bucket.at("count").get<std::uint64_t>();
        std::cout << fmt::format("lockfs_{}_seconds_bucket{{{},le=\"{:.9g}\"}} {}\n", name,
                                 sample.label, bucket.at("below_ns").get<double>() / 1e9, seen);
      }
      std::cout << fmt::format("lockfs_{}_seconds_bucket{{{},le=\"+Inf\"}} {}\n", name,
                               sample.label, seen);
      std::cout << fmt::format("lockfs_{}_seconds_sum{{{}}} {:.9g}\n", name, sample.label,
                               timing.at("sum_ns").get<double>() / 1e9);
      std::cout << fmt::format("lockfs_{}_seconds_count{{{}}} {}\n", name, sample.label, seen);
    }
  }
}

int stats(const Globals& globals, const StatsOptions& options) {
  std::vector<Sample> samples;
  Json all = Json::array();
  for (Target& target : find_targets(globals, options.path)) {
    const MountInfo& mount = target.client.mount();
    Json stats = target.client.call("stats").at("stats");
    if (options.json) {
      all.push_back({{"mount", mount.mountpoint}, {"uptime_s", mount.uptime_s}});
      all.back().update(stats);
    } else if (options.prometheus) {
      samples.push_back({label_of(mount.mountpoint), std::move(stats)});
    } else {
      print_text(mount, stats);
    }
  }
  if (options.json) std::cout << all.dump(2) << '\n';
  print_prometheus(samples);
  return 0;
}

}  // namespace

void add_stats(CLI::App& app, const Globals& globals, Run& run) {
  auto* sub = app.add_subcommand("stats", "Show counters and latency histograms");
  auto o = std::make_shared<StatsOptions>();
  sub->add_option("PATH", o->path, "A mount point or source (default: all mounts)");
  auto* json = sub->add_flag("--json,-J", o->json, "Print JSON");
  sub->add_flag("--prometheus", o->prometheus, "Print in Prometheus' text format")->excludes(json);
  sub->callback([&globals, &run, o] { run = [&globals, o] { return stats(globals, *o); }; });
}

}  // namespace lockfs::ctl
