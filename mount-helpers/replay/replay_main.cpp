// lockfs-replay: what would other lock policies have made of this workload?
#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>
#include <string>
#include <vector>

#include "mount-helpers/replay/difference.h"
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

constexpr int kFailure = 1;
constexpr int kUsage = 2;

int fail(int status, const std::string& line) {
  std::fprintf(stderr, "lockfs-replay: %s\n", line.c_str());
  return status;
}

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
    if (error.rfind("note:", 0) != 0) return fail(kFailure, error);
    fail(0, error);
  }
  if (trace.lost > 0) {
    fail(0, "note: " + arguments.trace + ": " + std::to_string(trace.lost) +
                " events were lost while recording; the outcome is not exact");
  }
  std::vector<std::string> names = arguments.policies;
  if (names.empty()) names.emplace_back("recorded");
  if (arguments.verify && trace.head.generated) {
    return fail(kFailure, arguments.trace + ": a generated trace holds no answers to verify");
  }

  const replay::Scripts scripts = replay::scripts_of(trace);
  std::vector<replay::Outcome> outcomes;
  for (const std::string& name : names) {
    replay::Choice choice;
    if (const std::string error = replay::choose(trace, name, choice); !error.empty()) {
      return fail(kUsage, "--policy " + name + ": " + error);
    }
    outcomes.push_back(replay::simulate(trace, scripts, choice));
  }

  const replay::Comparison comparison{trace, arguments.trace, outcomes};
  const std::string report =
      arguments.json ? replay::json_report(comparison) : replay::text_report(comparison);
  if (const std::string error = replay::write_whole_file("-", report); !error.empty()) {
    return fail(kFailure, error);
  }
  if (!arguments.html.empty()) {
    const std::string error =
        replay::write_whole_file(arguments.html, replay::html_report(comparison));
    if (!error.empty()) return fail(kFailure, error);
  }
  if (!arguments.verify) return 0;
  for (const replay::Outcome& outcome : outcomes) {
    if (outcome.as_recorded == outcome.answers.size()) continue;
    return fail(kFailure, "under " + outcome.policy + " " +
                              std::to_string(outcome.answers.size() - outcome.as_recorded) +
                              " of " + std::to_string(outcome.answers.size()) +
                              " answers differ from the recorded ones; the first: " +
                              replay::first_difference(trace, scripts, outcome));
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    Arguments arguments;
    CLI::App app("Replays a trace of lock traffic under other policies and compares them.",
                 "lockfs-replay");
    describe(app, arguments);
    try {
      app.parse(argc, argv);
    } catch (const CLI::Success& done) {
      return app.exit(done);
    } catch (const CLI::ParseError& error) {
      return fail(kUsage, std::string(error.what()) + "; see lockfs-replay --help");
    }
    return run(arguments);
  } catch (const std::exception& error) {
    return fail(kFailure, error.what());
  }
}
