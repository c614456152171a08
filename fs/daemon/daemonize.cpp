#include "fs/daemon/daemonize.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <string_view>

#include "fs/base/book_header.h"
#include "fs/options/logging.h"

#ifdef LOCKFS_HAVE_SYSTEMD
#include <systemd/sd-daemon.h>
#endif

namespace lockfs {
namespace {

/// First byte of what the child sends; the rest is the reason.
constexpr char kReady = 'R';
constexpr char kFailed = 'F';

/// A child that leaves without having said anything is reported with this.
constexpr std::string_view kNoReason = "the daemon ended before the mount was ready";

void write_all(int fd, std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = write(fd, text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return;  // nobody is listening any more
    text.remove_prefix(static_cast<std::size_t>(written));
  }
}

/// Reads until the writers have gone.
std::string read_all(int fd) {
  std::string text;
  std::array<char, 4096> buffer{};
  while (true) {
    const ssize_t got = read(fd, buffer.data(), buffer.size());
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return text;
    text.append(buffer.data(), static_cast<std::size_t>(got));
  }
}

/// The lines of a file joined in one, at most a screenful.
std::string read_lines(int fd) {
  constexpr std::size_t kMost = 2'000;
  if (fd < 0 || lseek(fd, 0, SEEK_SET) < 0) return {};
  std::string text = read_all(fd);
  while (text.ends_with('\n')) text.pop_back();
  std::string joined;
  for (const char c : text.substr(0, kMost)) {
    if (c == '\n') {
      joined += "; ";
    } else {
      joined += c;
    }
  }
  return joined;
}

// -- the parent ----------------------------------------------------------------------------------

std::atomic<pid_t> child_to_signal = 0;
static_assert(std::atomic<pid_t>::is_always_lock_free);  // the handler reads it

extern "C" void forward_signal(int signal) {
  const int saved = errno;
  if (const pid_t child = child_to_signal; child > 0) kill(child, signal);
  errno = saved;
}

constexpr std::array<int, 4> kForwarded = {SIGINT, SIGTERM, SIGHUP, SIGQUIT};

std::string describe_end(pid_t child) {
  int status = 0;
  pid_t ended = 0;
  do {
    ended = waitpid(child, &status, 0);
  } while (ended < 0 && errno == EINTR);
  if (ended < 0) return std::string(kNoReason);
  return fmt::format("{}: {}", kNoReason, describe_death(status));
}

/// `output`: what the child and the programs it started wrote to standard error.
int wait_for_child(pid_t child, int reports, int output) {
  const std::string report = read_all(reports);
  if (!report.empty() && report[0] == kReady) return 0;
  const std::string end = describe_end(child);
  if (!report.empty()) {
    print_error(std::string_view(report).substr(1));
    return 1;
  }
  const std::string said = read_lines(output);
  print_error(said.empty() ? end + "; run it with -f -d to see more"
                           : fmt::format("{}; it said: {}", end, said));
  return 1;
}

// -- the child -----------------------------------------------------------------------------------

/// Points the standard descriptors at /dev/null.
void leave_stdio(bool keep_stderr) {
  const int null = open("/dev/null", O_RDWR | O_CLOEXEC);
  if (null < 0) return;
  dup2(null, STDIN_FILENO);
  dup2(null, STDOUT_FILENO);
  if (!keep_stderr) dup2(null, STDERR_FILENO);
  close(null);
}

int run_child(const ServeFunction& serve, int reports, int output, bool keep_stderr) {
  setsid();
  if (chdir("/") != 0) {
    write_all(reports, fmt::format("{}cannot change to the root directory: {}", kFailed,
                                   strerrordesc_np(errno)));
    return 1;
  }
  // A pipe that the caller's other children share would otherwise stay open as long as the mount.
  // With descriptors 0 to 2 taken, these two can't be below 3, but may be in each other's way.
  constexpr int kReports = kReportDescriptors[0];
  constexpr int kOutput = kReportDescriptors[1];
  if (output == kReports) output = fcntl(output, F_DUPFD_CLOEXEC, kOutput + 1);
  if (reports != kReports) reports = dup3(reports, kReports, O_CLOEXEC);
  if (output >= 0 && output != kOutput) output = dup3(output, kOutput, O_CLOEXEC);
  if (close_range(output >= 0 ? kOutput + 1 : kReports + 1, ~0U, 0) != 0) {
    const int limit = static_cast<int>(sysconf(_SC_OPEN_MAX));
    for (int fd = output >= 0 ? kOutput + 1 : kReports + 1; fd < limit; ++fd) close(fd);
  }
  // What libraries and fusermount3 print becomes part of the one line the user sees.
  if (!keep_stderr && output >= 0) dup2(output, STDERR_FILENO);

  bool reported = false;
  const int status = serve([&](const std::string& error) {
    if (reported) return;
    reported = true;
    if (error.empty()) {
      leave_stdio(keep_stderr);
      write_all(reports, std::string(1, kReady));
    } else {
      const std::string said = keep_stderr ? std::string() : read_lines(output);
      write_all(reports,
                said.empty() ? kFailed + error : fmt::format("{}{} ({})", kFailed, error, said));
    }
    // The numbers stay taken: another daemon, after this one's death, may tell it once more.
    dup3(STDIN_FILENO, reports, O_CLOEXEC);
    if (output >= 0) dup3(STDIN_FILENO, output, O_CLOEXEC);
  });
  return status;
}

/// Limits that a process has for its own sake would bound everybody who uses the mount.
void lift_limits() noexcept {
  for (const int resource : {RLIMIT_FSIZE, RLIMIT_CPU}) {
    const struct rlimit none { RLIM_INFINITY, RLIM_INFINITY };
    struct rlimit own {};
    if (setrlimit(static_cast<__rlimit_resource>(resource), &none) == 0) continue;
    if (getrlimit(static_cast<__rlimit_resource>(resource), &own) != 0) continue;
    own.rlim_cur = own.rlim_max;  // all that a plain user may
    setrlimit(static_cast<__rlimit_resource>(resource), &own);
  }
}

}  // namespace

bool settle_process() {
  for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; ++fd) {
    // open() takes the lowest free number, and all below `fd` are taken.
    if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", O_RDWR) != fd) return false;
  }
  struct sigaction action {};
  action.sa_handler = SIG_DFL;
  sigaction(SIGCHLD, &action, nullptr);
  action.sa_handler = SIG_IGN;
  sigaction(SIGPIPE, &action, nullptr);
  sigaction(SIGXFSZ, &action, nullptr);  // EFBIG instead
  sigaction(SIGIO, &action, nullptr);    // of a lease that is held for a moment only
  // Asks other daemons to write down how they are; here the mount would be gone.
  sigaction(SIGUSR1, &action, nullptr);
  lift_limits();
  sigset_t none;
  sigemptyset(&none);
  return sigprocmask(SIG_SETMASK, &none, nullptr) == 0;
}

int run_in_foreground(const ServeFunction& serve) {
  bool reported = false;
  const int status = serve([&reported](const std::string& error) {
    reported = true;
    if (!error.empty()) {
      print_error(error);
    } else {
#ifdef LOCKFS_HAVE_SYSTEMD
      // Taken out of the environment with it: programs started later have no part in it.
      sd_notify(1, "READY=1");
#endif
    }
  });
  if (!reported) print_error(kNoReason);
  return reported ? status : 1;
}

int run_in_background(const ServeFunction& serve, bool keep_stderr) {
  std::array<int, 2> pipe{};
  if (pipe2(pipe.data(), O_CLOEXEC) != 0) {
    print_error(fmt::format("cannot make a pipe: {}", strerrordesc_np(errno)));
    return 1;
  }
  const int output =
      memfd_create("lockfs-output", MFD_CLOEXEC);  // without it lines get lost, no more

  // Signals wait until the handler knows whom to tell.
  sigset_t forwarded;
  sigset_t before;
  sigemptyset(&forwarded);
  for (const int signal : kForwarded) sigaddset(&forwarded, signal);
  sigprocmask(SIG_BLOCK, &forwarded, &before);

  const pid_t child = fork();
  if (child < 0) {
    print_error(fmt::format("cannot fork: {}", strerrordesc_np(errno)));
    return 1;
  }
  if (child == 0) {
    sigprocmask(SIG_SETMASK, &before, nullptr);
    close(pipe[0]);
    return run_child(serve, pipe[1], output, keep_stderr);
  }
  child_to_signal = child;
  struct sigaction action {};
  action.sa_handler = forward_signal;
  for (const int signal : kForwarded) {
    struct sigaction inherited {};
    sigaction(signal, nullptr, &inherited);
    if (inherited.sa_handler != SIG_IGN) sigaction(signal, &action, nullptr);
  }
  sigprocmask(SIG_SETMASK, &before, nullptr);
  close(pipe[1]);
  return wait_for_child(child, pipe[0], output);
}

}  // namespace lockfs
