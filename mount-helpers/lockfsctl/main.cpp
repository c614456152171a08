// lockfsctl: looks at and manages the locks of running lockfs mounts.
#include <clocale>
#include <cstdio>
#include <iostream>

#include "mount-helpers/lockfsctl/subcommand.h"

int main(int argc, char** argv) {
  using namespace lockfs::ctl;  // NOLINT(google-build-using-namespace)
  std::setlocale(LC_ALL, "");
  CLI::App app("Shows and manages the locks of lockfs mounts.", "lockfsctl");
  app.set_version_flag("--version", "lockfsctl " LOCKFS_VERSION);
  app.require_subcommand(1);
  Globals globals;
  app.add_option("--socket", globals.socket,
                 "Control socket of the mount (default: the one below /run/lockfs)");
  Run run;
  for (const Add add : subcommands()) add(app, globals, run);
  try {
    app.parse(argc, argv);
    return run ? run() : 0;
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);
    const std::vector<std::string> left = app.remaining();
    const bool unknown = app.get_subcommands().empty() && !left.empty();
    std::cerr << "lockfsctl: "
              << (unknown ? "there is no subcommand '" + left.front() + "'" : error.what())
              << "; see lockfsctl --help\n";
    return 2;
  } catch (const Error& error) {
    std::cout.flush();
    std::cerr << "lockfsctl: " << error.what() << '\n';
    return error.status;
  } catch (const std::exception& error) {
    std::cout.flush();
    std::cerr << "lockfsctl: " << error.what() << '\n';
    return 1;
  }
}
