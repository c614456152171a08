// lockfs-replay: what would other lock policies have made of this workload?
#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "mount-helpers/replay/difference.h"
#include "mount-helpers/replay/program.h"
#include "mount-helpers/replay/report.h"
#include "mount-helpers/replay/script.h"
#include "mount-helpers/replay/simulation.h"
#include "mount-helpers/replay/trace_file.h"

namespace {

struct Arguments {
  std::string trace;
  std::vector<std::string> policies;
  std::string html;
  bool json = false;
  bool verify = false;
  bool partial = false;
};

using replay::kFailure;
using replay::kUsage;

constexpr replay::Program kProgram{
    "lockfs-replay", "Replays a trace of lock traffic under other policies and compares them."};

void describe(CLI::App& app, Arguments& arguments) {
  app.add_option("TRACE", arguments.trace,
                 "a trace of lockfsctl record or lockfs-workload; -: stdin")
      ->required();
  app.add_option("--policy,-p", arguments.policies,
                 "policy to replay under, as in lockfs -o policy=; may be repeated; recorded "
                 "(default): that of the trace, switches included")
      ->take_all();
  app.add_flag("--json", arguments.json, "print JSON instead of a table");
  app.add_option("--html", arguments.html, "write a page with plots to this file");
  app.add_flag("--verify", arguments.verify,
               "fail (exit 1) unless every answer and every wait is as recorded");
  app.add_flag("--partial", arguments.partial, "use a damaged trace up to the damage");
  app.set_version_flag("--version", LOCKFS_VERSION);
  app.footer("Exit status: 0 done, 1 failed, 2 wrong usage.");
}

int run(const Arguments& arguments) {
  replay::Trace trace;
  if (const std::string error = replay::read_trace(arguments.trace, arguments.partial, trace);
      !error.empty()) {
    if (error.rfind("note:", 0) != 0) return kProgram.fail(kFailure, error);
    kProgram.fail(0, error);
  }
  if (trace.lost > 0) {
    kProgram.fail(0, "note: " + arguments.trace + ": " + std::to_string(trace.lost) +
                         " events were lost while recording; the outcome is not exact");
  }
  std::vector<std::string> names = arguments.policies;
  if (names.empty()) names.emplace_back("recorded");
  if (arguments.verify && trace.head.generated) {
    return kProgram.fail(kFailure,
                         arguments.trace + ": a generated trace holds no answers to verify");
  }

  const replay::Scripts scripts = replay::scripts_of(trace);
  std::vector<replay::Outcome> outcomes;
  for (const std::string& name : names) {
    replay::Choice choice;
    if (const std::string error = replay::choose(trace, name, choice); !error.empty()) {
      return kProgram.fail(kUsage, "--policy " + name + ": " + error);
    }
    outcomes.push_back(replay::simulate(trace, scripts, choice));
  }

  const replay::Comparison comparison{trace, arguments.trace, outcomes};
  const std::string report =
      arguments.json ? replay::json_report(comparison) : replay::text_report(comparison);
  if (const std::string error = replay::write_whole_file("-", report); !error.empty()) {
    return kProgram.fail(kFailure, error);
  }
  if (!arguments.html.empty()) {
    const std::string error =
        replay::write_whole_file(arguments.html, replay::html_report(comparison));
    if (!error.empty()) return kProgram.fail(kFailure, error);
  }
  if (!arguments.verify) return 0;
  for (const replay::Outcome& outcome : outcomes) {
    if (outcome.as_recorded == outcome.answers.size()) continue;
    return kProgram.fail(kFailure,
                         "under " + outcome.policy + " " +
                             std::to_string(outcome.answers.size() - outcome.as_recorded) + " of " +
                             std::to_string(outcome.answers.size()) +
                             " answers differ from the recorded ones; the first: " +
                             replay::first_difference(trace, scripts, outcome));
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  Arguments arguments;
  return kProgram.main(
      argc, argv, [&](CLI::App& app) { describe(app, arguments); }, [&] { return run(arguments); });
}
