/// What main() of lockfs-replay and of lockfs-workload share: reading the arguments, the exit
/// status, and one line on standard error for whatever goes wrong.
#pragma once

#include <functional>
#include <string>

namespace CLI {
class App;
}

namespace replay {

/// Exit statuses beside 0.
constexpr int kFailure = 1;
constexpr int kUsage = 2;

/// A program of the command line. A constant of its file, so that every function there can fail().
struct Program {
  const char* name;
  const char* about;  ///< the first line of --help

  /// Prints `line` after the program's name on standard error; returns `status`.
  int fail(int status, const std::string& line) const;

  /// The body of main(): `describe` adds the options, `run` works with what they hold and returns
  /// the exit status. Help and version are printed and give 0, wrong usage gives kUsage, an
  /// exception of `run` kFailure.
  int main(int argc, char** argv, const std::function<void(CLI::App&)>& describe,
           const std::function<int()>& run) const;
};

}  // namespace replay
