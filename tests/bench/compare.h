/// Measuring the same operation in several places ("sides") in interleaved rounds, so that drift of
/// the machine hits all of them alike, and the report of it. Not thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <ctime>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "tests/bench/two_builds.h"

namespace lockfs::bench {

/// CLOCK_MONOTONIC in nanoseconds.
inline std::int64_t now_ns() {
  timespec ts = {};
  clock_gettime(CLOCK_MONOTONIC, &ts);
  return static_cast<std::int64_t>(ts.tv_sec) * 1'000'000'000 + ts.tv_nsec;
}

/// Latencies in nanoseconds.
using Samples = std::vector<double>;

/// Appends the duration of `operation()` to `samples`.
template <typename Operation>
void time_into(Samples& samples, const Operation& operation) {
  const std::int64_t start = now_ns();
  operation();
  samples.push_back(static_cast<double>(now_ns() - start));
}

// Names of sides that others are compared with.
inline constexpr const char* kBacking = "backing";
inline constexpr const char* kFloor = "do-nothing";

/// Whose lockfs a side is; the other is there with --against only.
enum class Build { kThis, kOther };

/// One place where an operation is measured. `round` appends the latencies of one round; `peer` is
/// the target of a side to compare with, besides kBacking.
struct Side {
  std::string target;
  std::function<void(Samples&)> round;
  std::string peer = kFloor;
  Build build = Build::kThis;
};

/// What came out for one operation on one side. Times in nanoseconds; ratios are medians over the
/// rounds of (this side's median in the round) / (the other's), 0 where there is nothing to
/// compare.
struct Row {
  std::string group;
  std::string name;
  std::string target;
  std::size_t samples = 0;
  double p50 = 0;
  double p99 = 0;
  double p999 = 0;
  double mean = 0;
  std::vector<std::pair<double, double>> distribution;  ///< percentiles and their values
  double round_p50_min = 0;                             ///< median of the best round
  double round_p50_max = 0;                             ///< median of the worst round
  double ratio_backing = 0;
  double ratio_peer = 0;
  std::string peer;
  double mb_per_second = 0;  ///< 0 where no data is moved
};

struct Settings {
  std::string lockfs;          ///< the lockfs program
  std::string null_daemon;     ///< the do-nothing daemon
  std::string manager;         ///< the manager_bench program
  std::string scratch;         ///< an empty folder of this run
  bool quick = false;          ///< fewer rounds, to see that everything runs
  std::string other_lockfs;    ///< the other build's lockfs program; empty: nothing to compare with
  std::string other_manager;   ///< the other build's manager_bench program
  bool other_first = false;    ///< of two builds the other comes first in this pass
  Build build = Build::kThis;  ///< what `lockfs` and `manager` are

  /// Whether two builds are compared. A group then runs several times, each a pass: it measures the
  /// mounts of builds() only, gives figures of which less is better, and is short.
  [[nodiscard]] bool two_builds() const { return !other_lockfs.empty(); }

  [[nodiscard]] int rounds(int wanted) const {
    if (two_builds()) return wanted < 8 ? 1 : wanted / 4;
    return quick ? 2 : wanted;
  }

  /// The settings for the mounts of each build to measure, in the order of this pass, each with a
  /// scratch folder of its own; without another build it is these settings.
  [[nodiscard]] std::vector<Settings> builds() const;
};

class Report {
 public:
  explicit Report(Settings settings) : settings_(std::move(settings)) {}

  /// Runs every side once for warming up and then `rounds` times, the order of sides turning by one
  /// from round to round, and records and prints one row a side. `bytes_per_sample`: data moved by
  /// one sample. Throws what the sides throw, and std::runtime_error after SIGINT or SIGTERM.
  /// Where two builds are compared, the sides of one target take turns, and what is recorded is the
  /// median over the rounds of the ratios of their medians.
  void compare(const std::string& group, const std::string& name, const std::vector<Side>& sides,
               int rounds, std::size_t bytes_per_sample = 0);

  /// Records and prints what is no latency: `figures` are names and values. `variant`: what
  /// distinguishes rows of one name. Where two builds are compared, each has to give the same.
  void add_figures(const std::string& group, const std::string& name, const std::string& variant,
                   const std::string& target,
                   const std::vector<std::pair<std::string, double>>& figures,
                   Build build = Build::kThis);

  /// The rows of two builds.
  [[nodiscard]] TwoBuilds& pairs() { return pairs_; }

  /// Writes everything recorded as JSON. Throws std::runtime_error if `path` can't be written.
  void write_json(const std::string& path) const;

 private:
  void compare_builds(const std::string& group, const std::string& name,
                      const std::vector<Side>& sides, int rounds);
  void print(const Row& row);

  /// As add_figures() got them.
  struct Figures {
    std::string group;
    std::string name;
    std::string variant;
    std::string target;
    std::vector<std::pair<std::string, double>> figures;
  };

  const Settings settings_;
  std::vector<Row> rows_;
  std::vector<Figures> figures_;
  TwoBuilds pairs_;
  std::vector<std::pair<RowKey, double>> unpaired_;  ///< of one build, the other's yet to come
  int turn_ = 0;                                     ///< which of two sides comes first, if even
  std::string printed_group_;
  std::string printed_name_;
};

/// Makes SIGINT, SIGTERM, SIGHUP and SIGPIPE end the run at the next round, with all mounts undone.
void catch_signals();

// The groups of benchmarks. The manager's compares two builds only.
void run_lock_benchmarks(Report& report, const Settings& settings);
void run_handover_benchmarks(Report& report, const Settings& settings);
void run_client_benchmarks(Report& report, const Settings& settings);
void run_waiter_benchmarks(Report& report, const Settings& settings);
void run_mirror_benchmarks(Report& report, const Settings& settings);
void run_innocent_benchmarks(Report& report, const Settings& settings);
void run_metadata_benchmarks(Report& report, const Settings& settings);
void run_tree_benchmarks(Report& report, const Settings& settings);
void run_data_benchmarks(Report& report, const Settings& settings);
void run_footprint_benchmarks(Report& report, const Settings& settings);
void run_survive_benchmarks(Report& report, const Settings& settings);
void run_manager_benchmarks(Report& report, const Settings& settings);

}  // namespace lockfs::bench
