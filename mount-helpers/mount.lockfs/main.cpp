/// mount.lockfs SOURCE MOUNTPOINT [-fnsv] [-N NAMESPACE] [-o OPTIONS] [-t TYPE]
///
/// What mount(8) runs for the file system types lockfs and fuse.lockfs: translates its arguments
/// into those of lockfs and the exit status of lockfs into one that mount(8) documents. All that
/// options mean, `remount` included, is up to lockfs.

#include <fcntl.h>
#include <sched.h>
#include <spawn.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

namespace {

// mount(8), "EXIT STATUS".
constexpr int kUsage = 1;
constexpr int kSystem = 2;
constexpr int kInterrupted = 8;
constexpr int kFailure = 32;

// lockfs(8), "EXIT STATUS".
constexpr int kUsageOfLockfs = 2;

constexpr std::string_view kHelp =
    "Usage: mount.lockfs SOURCE MOUNTPOINT [-fnsv] [-N NAMESPACE] [-o OPTIONS] [-t TYPE]\n"
    "\n"
    "Meant to be run by mount(8): mount -t lockfs SOURCE MOUNTPOINT -o OPTIONS\n"
    "\n"
    "  -f             check everything, mount nothing\n"
    "  -n             accepted and ignored: there is no /etc/mtab to write\n"
    "  -s             skip options that lockfs does not know\n"
    "  -v             show the command that is run\n"
    "  -N NAMESPACE   mount in this mount namespace: a file, or a process by its number\n"
    "  -o OPTIONS     separated by commas; 'lockfs --help' lists them\n"
    "  -t TYPE        accepted and ignored: lockfs or fuse.lockfs\n"
    "  -h, -V         print this text, or the version, and exit\n"
    "\n"
    "Exit status, as mount(8) has it: 0 mounted, 1 wrong usage, 2 system error, 8 interrupted,\n"
    "32 mount failed.\n";

void complain(const std::string& message) {
  const std::string line = "mount.lockfs: " + message + "\n";
  std::fputs(line.c_str(), stderr);
}

struct Request {
  std::vector<std::string> paths;  ///< SOURCE, MOUNTPOINT
  std::vector<std::string> options;
  std::string name_space;
  bool fake = false;
  bool sloppy = false;
  bool verbose = false;
  bool help = false;
  bool version = false;
};

/// Returns an empty string or what is wrong.
std::string parse(int argc, char* argv[], Request& request) {
  opterr = 0;
  for (int letter = 0; (letter = getopt(argc, argv, ":fnsvhVN:o:t:")) != -1;) {
    switch (letter) {
      case 'f':
        request.fake = true;
        break;
      case 's':
        request.sloppy = true;
        break;
      case 'v':
        request.verbose = true;
        break;
      case 'N':
        request.name_space = optarg;
        break;
      case 'o':
        request.options.emplace_back(optarg);
        break;
      case 'h':
        request.help = true;
        break;
      case 'V':
        request.version = true;
        break;
      case 'n':
      case 't':
        break;
      case ':':
        return std::string("option '-") + static_cast<char>(optopt) + "' needs a value";
      default:
        return std::string("unknown option '-") + static_cast<char>(optopt) +
               "'; lockfs options go behind -o";
    }
  }
  if (request.help || request.version) return {};
  request.paths.assign(argv + optind, argv + argc);
  if (request.paths.size() != 2) {
    return "SOURCE and MOUNTPOINT are wanted; usage: mount -t lockfs SOURCE MOUNTPOINT -o OPTIONS";
  }
  return {};
}

bool has_word(const Request& request, std::string_view wanted) {
  for (const auto& list : request.options) {
    std::istringstream parts(list);
    for (std::string part; std::getline(parts, part, ',');) {
      if (part == wanted) return true;
    }
  }
  return false;
}

/// The lockfs that belongs to this program: beside it in a build tree, in the bin folder beside its
/// sbin folder where both are installed.
std::string lockfs_program() {
  std::array<char, PATH_MAX> self{};
  const ssize_t length = readlink("/proc/self/exe", self.data(), self.size());
  std::string folder(self.data(), static_cast<std::size_t>(std::max<ssize_t>(length, 0)));
  folder.resize(folder.find_last_of('/') + 1);
  const std::string beside = folder + "lockfs";
  return access(beside.c_str(), X_OK) == 0 ? beside : folder + "../bin/lockfs";
}

std::vector<std::string> command_of(const Request& request) {
  std::vector<std::string> command{lockfs_program()};
  if (request.version) {
    command.emplace_back("--version");
    return command;
  }
  if (request.fake) command.emplace_back("--check");
  if (request.sloppy) command.insert(command.end(), {"-o", "sloppy"});
  for (const auto& list : request.options) command.insert(command.end(), {"-o", list});
  command.emplace_back("--");
  command.insert(command.end(), request.paths.begin(), request.paths.end());
  return command;
}

/// setns(2) into the mount namespace that -N names. Returns an empty string or what is wrong.
std::string enter(const std::string& name_space) {
  const bool number = std::all_of(name_space.begin(), name_space.end(),
                                  [](unsigned char c) { return c >= '0' && c <= '9'; });
  const std::string path = number ? "/proc/" + name_space + "/ns/mnt" : name_space;
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  const bool entered = fd >= 0 && setns(fd, CLONE_NEWNS) == 0;
  const int error = errno;
  if (fd >= 0) close(fd);
  return entered ? "" : "cannot enter the namespace '" + name_space + "': " + std::strerror(error);
}

int translate(int status) {
  if (WIFSIGNALED(status)) return WTERMSIG(status) == SIGINT ? kInterrupted : kFailure;
  switch (WEXITSTATUS(status)) {
    case 0:
      return 0;
    case kUsageOfLockfs:
      return kUsage;
    default:
      return kFailure;
  }
}

/// Runs the command to its end, which for a mount is the daemon's being ready, and hands on the
/// signals that would end it. Returns an exit status for mount(8).
int run(const std::vector<std::string>& command) {
  sigset_t signals;
  sigset_t before;
  sigemptyset(&signals);
  for (const int signal : {SIGCHLD, SIGINT, SIGTERM, SIGHUP, SIGQUIT}) sigaddset(&signals, signal);
  std::signal(SIGCHLD, SIG_DFL);  // ignored, it would never come
  sigprocmask(SIG_BLOCK, &signals, &before);

  std::vector<char*> arguments;
  arguments.reserve(command.size() + 1);
  for (const auto& argument : command) arguments.push_back(const_cast<char*>(argument.c_str()));
  arguments.push_back(nullptr);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  posix_spawnattr_setsigmask(&attributes, &before);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
  pid_t child = -1;
  const int error =
      posix_spawn(&child, arguments[0], nullptr, &attributes, arguments.data(), environ);
  posix_spawnattr_destroy(&attributes);
  if (error != 0) {
    complain("cannot run '" + command[0] + "': " + std::strerror(error) + "; install lockfs there");
    return kSystem;
  }
  while (true) {
    const int signal = sigwaitinfo(&signals, nullptr);
    int status = 0;
    if (waitpid(child, &status, WNOHANG) == child) return translate(status);
    if (signal > 0 && signal != SIGCHLD) kill(child, signal);
  }
}

bool is_missing(const std::string& path) {
  struct stat status {};
  return stat(path.c_str(), &status) != 0 && errno == ENOENT;
}

}  // namespace

int main(int argc, char* argv[]) {
  Request request;
  if (const std::string error = parse(argc, argv, request); !error.empty()) {
    complain(error);
    return kUsage;
  }
  if (request.help) {
    return std::fputs(kHelp.data(), stdout) < 0 || std::fflush(stdout) != 0 ? kSystem : 0;
  }
  if (!request.name_space.empty()) {
    if (const std::string error = enter(request.name_space); !error.empty()) {
      complain(error);
      return kFailure;
    }
  }
  // mount(8): "nofail: do not report errors for this device if it does not exist".
  if (!request.version && is_missing(request.paths[0]) && has_word(request, "nofail")) return 0;

  const auto command = command_of(request);
  if (request.verbose) {
    std::string text = "mount.lockfs: running";
    for (const auto& word : command) text += " " + word;
    std::puts(text.c_str());
    std::fflush(stdout);
  }
  return run(command);
}
