#include "tests/bench/compare.h"

#include <sys/utsname.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>
#include <numeric>
#include <stdexcept>
#include <thread>

namespace lockfs::bench {
namespace {

volatile std::sig_atomic_t g_interrupted = 0;

/// `values` must be sorted.
double percentile(const Samples& values, double fraction) {
  if (values.empty()) return 0;
  const auto last = static_cast<double>(values.size() - 1);
  return values[static_cast<std::size_t>(last * fraction + 0.5)];
}

double median(Samples values) {
  std::sort(values.begin(), values.end());
  return percentile(values, 0.5);
}

void check_interrupted() {
  if (g_interrupted != 0) throw std::runtime_error("interrupted");
}

double median_ratio(const Samples& medians, const Samples* reference) {
  if (reference == nullptr || reference == &medians) return 0;
  Samples ratios;
  for (std::size_t i = 0; i < medians.size(); ++i) ratios.push_back(medians[i] / (*reference)[i]);
  return median(ratios);
}

std::string cpu_model() {
  std::ifstream in("/proc/cpuinfo");
  for (std::string line; std::getline(in, line);) {
    if (line.rfind("model name", 0) == 0) return line.substr(line.find(':') + 2);
  }
  return "unknown";
}

std::string ratio_text(double ratio) {
  if (ratio == 0) return "-";
  char text[32];
  std::snprintf(text, sizeof text, "%.2f", ratio);
  return text;
}

}  // namespace

void catch_signals() {
  struct sigaction action = {};
  action.sa_handler = [](int) { g_interrupted = 1; };
  for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGPIPE}) sigaction(signal, &action, nullptr);
}

std::vector<Settings> Settings::builds() const {
  if (!two_builds()) return {*this};
  // Names of one length: paths should not differ in what they cost.
  Settings mine = *this;
  mine.scratch += "/this";
  Settings other = *this;
  other.scratch += "/that";
  other.lockfs = other_lockfs;
  other.manager = other_manager;
  other.build = Build::kOther;
  if (other_first) return {other, mine};
  return {mine, other};
}

void Report::compare_builds(const std::string& group, const std::string& name,
                            const std::vector<Side>& sides, int rounds) {
  struct Pair {
    const Side* mine;
    const Side* other;
    Samples my_medians;
    Samples other_medians;
  };
  std::vector<Pair> pairs;
  for (const Side& mine : sides) {
    for (const Side& other : sides) {
      if (mine.build == Build::kThis && other.build == Build::kOther &&
          mine.target == other.target) {
        pairs.push_back({&mine, &other, {}, {}});
      }
    }
  }
  const auto measure = [](const Side& side, Samples& medians) {
    check_interrupted();
    Samples samples;
    side.round(samples);
    medians.push_back(median(std::move(samples)));
  };
  // The first round is for warming up.
  for (int round = -1; round < rounds; ++round, ++turn_) {
    for (Pair& pair : pairs) {
      if (turn_ % 2 == 0) measure(*pair.mine, pair.my_medians);
      measure(*pair.other, pair.other_medians);
      if (turn_ % 2 != 0) measure(*pair.mine, pair.my_medians);
      if (round >= 0) continue;
      pair.my_medians.clear();
      pair.other_medians.clear();
    }
  }
  for (const Pair& pair : pairs) {
    std::vector<double> ratios;
    for (std::size_t i = 0; i < pair.my_medians.size(); ++i) {
      ratios.push_back(pair.my_medians[i] / pair.other_medians[i]);
    }
    pairs_.add({group, name, pair.mine->target, "us"}, median_of(pair.my_medians) / 1e3,
               median_of(pair.other_medians) / 1e3, median_of(std::move(ratios)));
  }
}

void Report::compare(const std::string& group, const std::string& name,
                     const std::vector<Side>& sides, int rounds, std::size_t bytes_per_sample) {
  if (settings_.two_builds()) {
    compare_builds(group, name, sides, rounds);
    return;
  }
  std::vector<Samples> all(sides.size());      // every sample, by side
  std::vector<Samples> medians(sides.size());  // median of each round, by side

  for (int round = -1; round < rounds; ++round) {
    for (std::size_t turn = 0; turn < sides.size(); ++turn) {
      check_interrupted();
      const std::size_t i = (turn + static_cast<std::size_t>(round + 1)) % sides.size();
      Samples samples;
      sides[i].round(samples);
      if (round < 0) continue;
      all[i].insert(all[i].end(), samples.begin(), samples.end());
      medians[i].push_back(median(std::move(samples)));
    }
  }

  const auto medians_of = [&](const std::string& target) -> const Samples* {
    for (std::size_t i = 0; i < sides.size(); ++i) {
      if (sides[i].target == target) return &medians[i];
    }
    return nullptr;
  };
  for (std::size_t i = 0; i < sides.size(); ++i) {
    std::sort(all[i].begin(), all[i].end());
    Row row;
    row.group = group;
    row.name = name;
    row.target = sides[i].target;
    row.samples = all[i].size();
    row.p50 = percentile(all[i], 0.5);
    row.p99 = percentile(all[i], 0.99);
    row.p999 = percentile(all[i], 0.999);
    for (const double p : {0.1, 1., 5., 10., 25., 50., 75., 90., 95., 99., 99.5, 99.9}) {
      row.distribution.emplace_back(p, percentile(all[i], p / 100));
    }
    row.mean = std::accumulate(all[i].begin(), all[i].end(), 0.0) /
               static_cast<double>(std::max<std::size_t>(all[i].size(), 1));
    row.round_p50_min = *std::min_element(medians[i].begin(), medians[i].end());
    row.round_p50_max = *std::max_element(medians[i].begin(), medians[i].end());
    row.ratio_backing = median_ratio(medians[i], medians_of(kBacking));
    row.ratio_peer = median_ratio(medians[i], medians_of(sides[i].peer));
    row.peer = sides[i].peer;
    if (bytes_per_sample != 0) {
      row.mb_per_second = static_cast<double>(bytes_per_sample) * 1e3 / row.mean;
    }
    print(row);
    rows_.push_back(std::move(row));
  }
}

void Report::print(const Row& row) {
  if (row.group != printed_group_) {
    std::printf("\n%-28s %-23s %9s %9s %9s  %-17s %9s %-16s %8s\n", row.group.c_str(), "where",
                "p50 us", "p99 us", "p99.9 us", "p50 of rounds", "x backing", "x another", "MB/s");
    printed_group_ = row.group;
    printed_name_.clear();
  }
  char spread[32];
  std::snprintf(spread, sizeof spread, "%.2f..%.2f", row.round_p50_min / 1e3,
                row.round_p50_max / 1e3);
  std::string peer = ratio_text(row.ratio_peer);
  if (row.ratio_peer != 0) peer += " " + row.peer;
  char speed[32] = "-";
  if (row.mb_per_second != 0) std::snprintf(speed, sizeof speed, "%.0f", row.mb_per_second);
  std::printf("%-28s %-23s %9.2f %9.2f %9.2f  %-17s %9s %-16s %8s\n",
              row.name == printed_name_ ? "" : row.name.c_str(), row.target.c_str(), row.p50 / 1e3,
              row.p99 / 1e3, row.p999 / 1e3, spread, ratio_text(row.ratio_backing).c_str(),
              peer.c_str(), speed);
  std::fflush(stdout);
  printed_name_ = row.name;
}

void Report::add_figures(const std::string& group, const std::string& name,
                         const std::string& variant, const std::string& target,
                         const std::vector<std::pair<std::string, double>>& figures, Build build) {
  check_interrupted();
  if (settings_.two_builds()) {
    for (const auto& [label, value] : figures) {
      const RowKey key = {group, name + (variant.empty() ? "" : ", " + variant), target, label};
      const auto before = std::find_if(unpaired_.begin(), unpaired_.end(),
                                       [&key](const auto& figure) { return figure.first == key; });
      if (before == unpaired_.end()) {
        unpaired_.emplace_back(key, value);
        continue;
      }
      const double mine = build == Build::kThis ? value : before->second;
      const double other = build == Build::kThis ? before->second : value;
      pairs_.add(key, mine, other, mine / other);
      unpaired_.erase(before);
    }
    return;
  }
  if (group != printed_group_) {
    std::printf("\n%-33s %-14s %-18s", group.c_str(), "", "where");
    for (const auto& [label, value] : figures) std::printf(" %16s", label.c_str());
    std::printf("\n");
    printed_group_ = group;
    printed_name_.clear();
  }
  std::printf("%-33s %-14s %-18s", name == printed_name_ ? "" : name.c_str(), variant.c_str(),
              target.c_str());
  for (const auto& [label, value] : figures) std::printf(" %16.2f", value);
  std::printf("\n");
  std::fflush(stdout);
  printed_name_ = name;
  figures_.push_back({group, name, variant, target, figures});
}

void Report::write_json(const std::string& path) const {
  utsname host = {};
  uname(&host);
  nlohmann::json document;
  document["lockfs_version"] = LOCKFS_VERSION;
  document["kernel"] = host.release;
  document["cpu"] = cpu_model();
  document["cpus"] = std::thread::hardware_concurrency();
  document["unix_time"] = std::time(nullptr);
  document["quick"] = settings_.quick;
  document["unit"] = "ns";
  document["results"] = nlohmann::json::array();
  if (settings_.two_builds()) {
    document["against"] = settings_.other_lockfs;
    document["results"] = pairs_.json();
    document.erase("unit");  // each row says its own
  }
  for (const Row& row : rows_) {
    nlohmann::json result = {
        {"group", row.group},
        {"name", row.name},
        {"target", row.target},
        {"samples", row.samples},
        {"p50", row.p50},
        {"p99", row.p99},
        {"p99.9", row.p999},
        {"mean", row.mean},
        {"distribution", row.distribution},
        {"round_p50_min", row.round_p50_min},
        {"round_p50_max", row.round_p50_max},
    };
    if (row.ratio_backing != 0) result["ratio_backing"] = row.ratio_backing;
    if (row.ratio_peer != 0) {
      result["ratio_peer"] = row.ratio_peer;
      result["peer"] = row.peer;
    }
    if (row.mb_per_second != 0) result["mb_per_second"] = row.mb_per_second;
    document["results"].push_back(std::move(result));
  }
  for (const Figures& row : figures_) {
    nlohmann::json result = {
        {"group", row.group}, {"name", row.name}, {"variant", row.variant}, {"target", row.target}};
    for (const auto& [label, value] : row.figures) result[label] = value;
    document["results"].push_back(std::move(result));
  }
  std::ofstream out(path);
  out << document.dump(2) << '\n';
  out.close();
  if (!out) throw std::runtime_error("cannot write " + path);
}

}  // namespace lockfs::bench
