/// lockfs [options] SOURCE MOUNTPOINT
///
/// Exit status: 0 mounted (in the background) or served and cleanly unmounted (in the foreground),
/// 1 failed, 2 wrong usage.

#include <fmt/format.h>
#include <fuse3/fuse_lowlevel.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <cstdio>
#include <exception>
#include <string>
#include <vector>

#include "fs/daemon/daemonize.h"
#include "fs/daemon/preflight.h"
#include "fs/daemon/remount.h"
#include "fs/daemon/session.h"
#include "fs/options/logging.h"
#include "fs/options/options.h"

#ifndef LOCKFS_VERSION
#define LOCKFS_VERSION "0.1.0"
#endif

namespace lockfs {
namespace {

constexpr int kFailure = 1;
constexpr int kUsage = 2;

/// --help and --version are answers like any other: not getting them through is a failure.
int print(const std::string& text) {
  if (std::fputs(text.c_str(), stdout) < 0 || std::fflush(stdout) != 0) {
    print_error("cannot write to standard output");
    return kFailure;
  }
  return 0;
}

std::string version_text() {
  return fmt::format("lockfs {}\nlibfuse {}\n", LOCKFS_VERSION, fuse_pkgversion());
}

int serve(const Options& options, const ReadyFunction& on_ready) {
  start_logging(options, !options.foreground);
  return run_session(options, [&on_ready](const std::string& error) {
    const std::string details = take_libfuse_errors();
    if (error.empty() || details.empty()) {
      on_ready(error);
    } else {
      on_ready(fmt::format("{} ({})", error, details));
    }
  });
}

int run(const std::vector<std::string>& arguments) {
  CommandLine command = parse_command_line(arguments, geteuid() == 0);
  if (!command.error.empty()) {
    print_error(command.error);
    return kUsage;
  }
  switch (command.action) {
    case CommandLine::Action::kHelp:
      return print(help_text());
    case CommandLine::Action::kVersion:
      return print(version_text());
    case CommandLine::Action::kRemount:
      if (const std::string error = remount(command); !error.empty()) {
        print_error(error);
        return kFailure;
      }
      return 0;
    case CommandLine::Action::kMount:
      break;
  }
  Options& options = command.options;
  if (command.check_only) options.clear_dead = false;
  if (const std::string error = check_start(options); !error.empty()) {
    print_error(error);
    return kFailure;
  }
  for (const std::string& note : options.start_notes) print_error("note: " + note);
  if (command.check_only) return 0;
  const ServeFunction served = [&options](const ReadyFunction& on_ready) {
    return serve(options, on_ready);
  };
  if (options.foreground) return run_in_foreground(served);
  return run_in_background(served, options.log_target == LogTarget::kStderr);
}

}  // namespace
}  // namespace lockfs

int main(int argc, char* argv[]) {
  if (!lockfs::settle_process()) return lockfs::kFailure;
  try {
    const std::vector<std::string> arguments(argv + (argc > 0 ? 1 : 0), argv + argc);
    return lockfs::run(arguments);
  } catch (const std::exception& error) {
    lockfs::print_error(error.what());
    return lockfs::kFailure;
  }
}
