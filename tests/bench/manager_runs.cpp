/// The lock manager of two builds: their manager_bench programs, row by row in turns.
#include <algorithm>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "tests/bench/compare.h"
#include "tests/bench/programs.h"

namespace lockfs::bench {
namespace {

/// The benchmarks that a manager_bench program knows.
std::vector<std::string> benchmarks_of(const std::string& program) {
  int output = -1;
  const pid_t pid = spawn({program, "--benchmark_list_tests"}, &output);
  const std::string text = read_all(output);
  if (wait_for(pid) != 0) throw std::runtime_error(program + " could not list its benchmarks");
  std::vector<std::string> names;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) names.push_back(line);
  return names;
}

/// Whether it measures the lock manager in a time that allows for several passes: a million locks
/// are built up anew for each of the program's guesses at how often to repeat.
bool is_compared(const std::string& name) {
  return !name.starts_with("BM_Kernel") && !name.ends_with("/1000000");
}

/// Runs one benchmark in a process of its own: time of a lock and an unlock, and the counters.
std::vector<std::pair<std::string, double>> run(const Settings& build, const std::string& name) {
  const std::string file = build.scratch + ".json";
  // The program stops early once five times this has gone by on the clock: with 0.02 s a busy
  // machine left few repetitions, of which the first, slow one was most. It runs silently, since it
  // describes the machine on standard error each time.
  run_program({build.manager, "--benchmark_filter=^" + name + "$", "--benchmark_min_time=0.1",
               "--benchmark_out=" + file, "--benchmark_out_format=json"},
              true);
  std::ifstream in(file);
  const nlohmann::json results = nlohmann::json::parse(in).at("benchmarks");
  if (results.size() != 1 || results[0].contains("error_occurred")) {
    throw std::runtime_error(build.manager + ": " + name + " failed");
  }
  std::vector<std::pair<std::string, double>> figures = {
      {"cpu ns", results[0].at("cpu_time").get<double>()}};
  for (const char* counter : {"bytes/lock", "bytes/file"}) {
    if (results[0].contains(counter)) {
      figures.emplace_back(counter, results[0][counter].get<double>());
    }
  }
  return figures;
}

}  // namespace

void run_manager_benchmarks(Report& report, const Settings& settings) {
  const std::vector<std::string> theirs = benchmarks_of(settings.other_manager);
  for (const std::string& name : benchmarks_of(settings.manager)) {
    if (!is_compared(name)) continue;
    if (std::find(theirs.begin(), theirs.end(), name) == theirs.end()) {
      std::fprintf(stderr, "%s: the other build has no such benchmark\n", name.c_str());
      continue;
    }
    for (const Settings& build : settings.builds()) {
      report.add_figures("manager", name.substr(name.find('_') + 1), "", "", run(build, name),
                         build.build);
    }
  }
}

}  // namespace lockfs::bench
