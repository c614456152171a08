#include "mount-helpers/replay/program.h"

#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>

namespace replay {

int Program::fail(int status, const std::string& line) const {
  std::fprintf(stderr, "%s: %s\n", name, line.c_str());
  return status;
}

int Program::main(int argc, char** argv, const std::function<void(CLI::App&)>& describe,
                  const std::function<int()>& run) const {
  try {
    CLI::App app(about, name);
    describe(app);
    try {
      app.parse(argc, argv);
    } catch (const CLI::Success& done) {
      return app.exit(done);
    } catch (const CLI::ParseError& error) {
      return fail(kUsage, std::string(error.what()) + "; see " + name + " --help");
    }
    return run();
  } catch (const std::exception& error) {
    return fail(kFailure, error.what());
  }
}

}  // namespace replay
