/// lockfs [options] SOURCE MOUNTPOINT
///
/// Exit status: 0 mounted (in the background) or served and cleanly unmounted (in the foreground),
/// 1 failed, 2 wrong usage.

#include <fcntl.h>
#include <fmt/format.h>
#include <fuse3/fuse_lowlevel.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include "fs/base/book.h"
#include "fs/daemon/daemonize.h"
#include "fs/daemon/keeper.h"
#include "fs/daemon/preflight.h"
#include "fs/daemon/remount.h"
#include "fs/daemon/session.h"
#include "fs/daemon/survival.h"
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

/// In the process that serves.
int serve_with(const Options& options, Book& book, const ReadyFunction& on_ready) {
  start_logging(options, !options.foreground);
  return run_session(options, book, [&on_ready](const std::string& error) {
    const std::string details = take_libfuse_errors();
    if (error.empty() || details.empty()) {
      on_ready(error);
    } else {
      on_ready(fmt::format("{} ({})", error, details));
    }
  });
}

/// With a keeper.
int keep(const Options& options, Book& book, const ReadyFunction& on_ready) {
  const auto serves = [&] { return serve_with(options, book, on_ready); };
  const int status = keep_daemon(book, options, serves, on_ready);
  // The daemon has said that the mount is ready, which this process does not know.
  if (book.header<BookHeader>().phase != BookHeader::kStarting) std::exit(status);
  return status;
}

/// In a memory file, for daemons to come, unless the options forbid it. Throws std::system_error.
Book make_book(const Options& options) {
  Book::Shapes shapes;
  book_shapes(options, shapes);
  const bool survives = options.survive != Survive::kOff;
  try {
    return Book(shapes, sizeof(BookHeader), survives);
  } catch (const std::system_error& error) {
    if (options.survive != Survive::kAuto) throw;
    print_error(fmt::format("note: {}: the mount will end if its daemon dies", error.what()));
  }
  return Book(shapes, sizeof(BookHeader), false);
}

int serve(const Options& options, const ReadyFunction& on_ready) {
  Book book = make_book(options);
  begin_header(book, options);
  return book.is_shared() ? keep(options, book, on_ready) : serve_with(options, book, on_ready);
}

/// Takes over a mount from another program: see Keeper::upgrade(). `only_looks`: says whether it
/// could, and changes nothing.
int adopt(std::string_view number, const std::vector<std::string>& arguments, bool only_looks) {
  const auto refuse = [](const std::string& why) {
    print_error(why);
    return kFailure;
  };
  CommandLine command = parse_command_line(arguments, geteuid() == 0);
  if (!command.error.empty()) return refuse(command.error);
  Options& options = command.options;
  int fd = -1;
  std::from_chars(number.data(), number.data() + number.size(), fd);
  if (const std::string error = check_version(fd); !error.empty()) return refuse(error);
  Book::Shapes shapes;
  book_shapes(options, shapes);
  Book book(UniqueFd(fd), shapes, sizeof(BookHeader));
  const auto& header = book.header<BookHeader>();
  if (const std::string error = take_header(header, options); !error.empty()) return refuse(error);
  if (only_looks) return 0;
  if (const std::string error = check_belongs(header); !error.empty()) return refuse(error);
  std::vector<int> known;
  known_descriptors(book, known);
  for (const int each : known) {
    if (each > STDERR_FILENO) ::fcntl(each, F_SETFD, FD_CLOEXEC);
  }
  return keep(options, book, [](const std::string&) {});
}

int run(const std::vector<std::string>& arguments) {
  for (const std::string_view option : {"--adopt=", "--can-adopt="}) {
    if (arguments.empty() || !arguments[0].starts_with(option)) continue;
    return adopt(std::string_view(arguments[0]).substr(option.size()),
                 {arguments.begin() + 1, arguments.end()}, option == "--can-adopt=");
  }
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
  const ServeFunction served = [&](const ReadyFunction& on_ready) {
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
