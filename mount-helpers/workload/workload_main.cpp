// lockfs-workload: makes the lock traffic of well-known cases, live or as a trace for
// lockfs-replay.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <string>

#include "lockmgr/trace/encoder.h"
#include "mount-helpers/replay/program.h"
#include "mount-helpers/replay/report.h"
#include "mount-helpers/replay/trace_file.h"
#include "mount-helpers/workload/live_run.h"
#include "mount-helpers/workload/plan.h"
#include "mount-helpers/workload/plan_trace.h"

namespace {

struct Arguments {
  std::string name;
  std::string directory;
  std::string trace;
  std::string source;
  unsigned length = 10;
  std::uint64_t seed = 1;
};

using replay::kFailure;
using replay::kUsage;

constexpr replay::Program kProgram{
    "lockfs-workload", "Makes the lock traffic of well-known cases, live or as a trace."};

void describe(CLI::App& app, Arguments& arguments) {
  std::string about = "Workloads:\n";
  for (const workload::Workload& one : workload::workloads()) {
    about += fmt::format("  {:<20} {}\n", one.name, one.about);
  }
  about += "Exit status: 0 done, 1 failed, 2 wrong usage.";
  app.footer(about);
  app.add_option("NAME", arguments.name, "which workload")->required();
  app.add_option("DIR", arguments.directory, "run it live on files in this directory, on a mount");
  app.add_option("--trace", arguments.trace, "write it as a trace instead; -: standard output");
  app.add_option("--source", arguments.source,
                 "live: the directory below the mount, where locks of NFS clients arrive");
  app.add_option("--length", arguments.length, "seconds for which new work is begun")
      ->check(CLI::Range(1, 86400))
      ->capture_default_str();
  app.add_option("--seed", arguments.seed, "of the random numbers")->capture_default_str();
  app.set_version_flag("--version", LOCKFS_VERSION);
}

int write_trace(const Arguments& arguments, const workload::Plan& plan) {
  const std::string program = fmt::format("lockfs-workload {} --length {} --seed {}",
                                          arguments.name, arguments.length, arguments.seed);
  const std::string bytes = lockmgr::trace::encode(workload::trace_of(plan, program));
  const std::string error = replay::write_whole_file(arguments.trace, bytes);
  return error.empty() ? 0 : kProgram.fail(kFailure, error);
}

int run_live(const Arguments& arguments, const workload::Plan& plan) {
  workload::Counts counts;
  const std::string error = workload::run_live(plan, arguments.directory, arguments.source, counts);
  if (!error.empty()) return kProgram.fail(kFailure, error);
  const auto time = [](std::uint64_t ns) {
    return replay::readable(replay::Nanoseconds(static_cast<std::int64_t>(ns)));
  };
  const std::string mean = time(counts.asked == 0 ? 0 : counts.waited_ns / counts.asked);
  fmt::print(
      "{}: {} locks asked for, {} granted, {} refused, {} deadlocks, {} given up, "
      "{} other errors; a call took {}, the longest {}\n",
      arguments.name, counts.asked, counts.granted, counts.refused, counts.deadlocks,
      counts.given_up, counts.errors, mean, time(counts.longest_ns));
  return 0;
}

int run(const Arguments& arguments) {
  const workload::Workload* chosen = nullptr;
  for (const workload::Workload& one : workload::workloads()) {
    if (one.name == arguments.name) chosen = &one;
  }
  if (chosen == nullptr) {
    return kProgram.fail(
        kUsage, "no workload \"" + arguments.name + "\"; lockfs-workload --help lists them");
  }
  if (arguments.trace.empty() == arguments.directory.empty()) {
    return kProgram.fail(kUsage, "give either a directory to run in or --trace FILE");
  }
  const workload::Plan plan =
      chosen->make({arguments.seed, std::chrono::seconds(arguments.length)});
  return arguments.trace.empty() ? run_live(arguments, plan) : write_trace(arguments, plan);
}

}  // namespace

int main(int argc, char** argv) {
  Arguments arguments;
  return kProgram.main(
      argc, argv, [&](CLI::App& app) { describe(app, arguments); }, [&] { return run(arguments); });
}
