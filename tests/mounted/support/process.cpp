#include "tests/mounted/support/process.h"

#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <utility>

namespace lockfs::test {

using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;

namespace {

long long number_from_env(const char* name, long long fallback) {
  const char* text = std::getenv(name);
  if (text == nullptr || *text == '\0') return fallback;
  char* end = nullptr;
  const long long value = std::strtoll(text, &end, 10);
  return *end == '\0' && value > 0 ? value : fallback;
}

}  // namespace

UniqueFd& UniqueFd::operator=(UniqueFd&& other) noexcept {
  if (this != &other) reset(other.release());
  return *this;
}

int UniqueFd::release() { return std::exchange(fd_, -1); }

void UniqueFd::reset(int fd) {
  if (fd_ >= 0) ::close(fd_);
  fd_ = fd;
}

milliseconds deadline() {
  static const long long seconds = number_from_env("LOCKFS_TEST_DEADLINE", 60);
  return milliseconds(seconds * 1000);
}

int scaled(int rounds, int at_least) {
  static const long long divisor = std::max(1LL, number_from_env("LOCKFS_TEST_SCALE", 1));
  return std::max(at_least, static_cast<int>(rounds / divisor));
}

bool wait_readable(int fd, milliseconds limit) {
  const auto end = Clock::now() + limit;
  for (;;) {
    const auto left = std::chrono::duration_cast<milliseconds>(end - Clock::now());
    pollfd entry{fd, POLLIN, 0};
    const int ready = ::poll(&entry, 1, static_cast<int>(std::max<long long>(0, left.count())));
    if (ready > 0) return true;
    if (ready == 0 && Clock::now() >= end) return false;
    if (ready < 0 && errno != EINTR) return false;
  }
}

int open_pidfd(pid_t pid) { return static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)); }

int reap(pid_t pid, int pidfd, milliseconds limit) {
  if (!wait_readable(pidfd, limit)) return -1;
  int status = 0;
  while (::waitpid(pid, &status, 0) < 0) {
    if (errno != EINTR) return -1;
  }
  return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

Process::Process(const std::function<int()>& body) {
  std::fflush(nullptr);
  pid_ = ::fork();
  if (pid_ == 0) {
    // A killed test program must not leave children that hold locks.
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    int status = 125;
    try {
      status = body();
    } catch (const std::exception& error) {
      std::fprintf(stderr, "child: %s\n", error.what());
    }
    std::fflush(nullptr);
    ::_exit(status);
  }
  if (pid_ < 0) {
    std::perror("fork");
    std::abort();
  }
  pidfd_.reset(open_pidfd(pid_));
}

Process::Process(Process&& other) noexcept
    : pid_(std::exchange(other.pid_, -1)),
      pidfd_(std::move(other.pidfd_)),
      status_(std::exchange(other.status_, std::nullopt)) {}

Process::~Process() {
  if (pid_ <= 0 || status_) return;
  kill(SIGKILL);
  wait();
}

void Process::kill(int signal) const {
  if (pid_ > 0 && !status_) ::kill(pid_, signal);
}

int Process::wait() {
  if (!status_) {
    const int status = reap(pid_, pidfd_.get(), deadline());
    if (status == -1) return -1;
    status_ = status;
  }
  return *status_;
}

ProgramResult run_program(const std::vector<std::string>& command, const ProgramOptions& options) {
  ProgramResult result;
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return result;
  UniqueFd read_end(ends[0]);
  UniqueFd write_end(ends[1]);
  std::vector<char*> argv;
  argv.reserve(command.size() + 1);
  for (const std::string& word : command) argv.push_back(const_cast<char*>(word.c_str()));
  argv.push_back(nullptr);

  Process child([&] {
    const int input =
        ::open(options.input.empty() ? "/dev/null" : options.input.c_str(), O_RDONLY | O_CLOEXEC);
    ::dup2(input, STDIN_FILENO);
    ::dup2(write_end.get(), STDOUT_FILENO);
    ::dup2(write_end.get(), STDERR_FILENO);
    if (!options.directory.empty() && ::chdir(options.directory.c_str()) != 0) return 126;
    for (const auto& [name, value] : options.environment) {
      ::setenv(name.c_str(), value.c_str(), 1);
    }
    if (options.uid || options.gid) {
      const gid_t gid = options.gid.value_or(::getgid());
      if (::setgroups(0, nullptr) != 0 || ::setgid(gid) != 0) return 126;
      if (options.uid && ::setuid(*options.uid) != 0) return 126;
    }
    ::execvp(argv[0], argv.data());
    std::perror(argv[0]);
    return 127;
  });
  write_end.reset();

  const auto end = Clock::now() + options.limit.value_or(deadline());
  char buffer[65536];
  for (;;) {
    const auto left = std::chrono::duration_cast<milliseconds>(end - Clock::now());
    if (left.count() <= 0 || !wait_readable(read_end.get(), left)) {
      child.kill(SIGKILL);
      child.wait();
      result.output += "\n(deadline passed)\n";
      return result;
    }
    const ssize_t got = ::read(read_end.get(), buffer, sizeof buffer);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) break;
    result.output.append(buffer, static_cast<std::size_t>(got));
  }
  result.status = child.wait();
  return result;
}

}  // namespace lockfs::test
