/// Child processes of the tests: a forked function, or a program run to its end with its output.
///
/// Thread safety: none; a test drives them from its one thread. The test program itself must stay
/// single-threaded, because the children are made by fork() without exec().
#pragma once

#include <sys/types.h>

#include <chrono>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace lockfs::test {

/// A descriptor that closes itself.
class UniqueFd {
 public:
  UniqueFd() = default;
  explicit UniqueFd(int fd) : fd_(fd) {}
  UniqueFd(UniqueFd&& other) noexcept : fd_(other.release()) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept;
  UniqueFd(const UniqueFd&) = delete;
  UniqueFd& operator=(const UniqueFd&) = delete;
  ~UniqueFd() { reset(); }

  [[nodiscard]] int get() const { return fd_; }
  [[nodiscard]] bool valid() const { return fd_ >= 0; }
  int release();
  void reset(int fd = -1);

 private:
  int fd_ = -1;
};

/// How long an event that must happen is waited for (60 s, LOCKFS_TEST_DEADLINE overrides in
/// seconds). Only failures ever take that long.
std::chrono::milliseconds deadline();

/// `rounds` divided by LOCKFS_TEST_SCALE (10: a tenth), but at least `at_least`.
int scaled(int rounds, int at_least = 1);

/// Waits until `fd` is readable. Returns false when `limit` has passed.
bool wait_readable(int fd, std::chrono::milliseconds limit);

/// A forked child running one function. The destructor kills and reaps what still runs.
class Process {
 public:
  /// Forks. The child runs `body`, and leaves with its return value through _exit(). Descriptors
  /// of the parent are inherited.
  explicit Process(const std::function<int()>& body);
  Process(Process&& other) noexcept;
  Process& operator=(Process&&) = delete;
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;
  ~Process();

  [[nodiscard]] pid_t pid() const { return pid_; }
  void kill(int signal) const;

  /// Waits for the end. Returns the exit status, 128 + signal when a signal ended it, or -1 when
  /// the deadline passed.
  int wait();

 private:
  pid_t pid_ = -1;
  UniqueFd pidfd_;
  std::optional<int> status_;
};

struct ProgramResult {
  int status = -1;     ///< exit status, 128 + signal, or -1 when the deadline passed
  std::string output;  ///< stdout and stderr together
};

struct ProgramOptions {
  std::string directory;     ///< working directory; empty: the test's own
  std::string input;         ///< path for stdin; empty: /dev/null
  std::optional<uid_t> uid;  ///< run as this user, without other groups
  std::optional<gid_t> gid;  ///< run with this group
  std::vector<std::pair<std::string, std::string>> environment;  ///< added variables
  std::optional<std::chrono::milliseconds> limit;                ///< default: deadline()
};

/// Runs a program found in PATH to its end and returns what it printed.
ProgramResult run_program(const std::vector<std::string>& command,
                          const ProgramOptions& options = {});

/// Waits for a child by its pidfd, then reaps it. Same result as Process::wait().
int reap(pid_t pid, int pidfd, std::chrono::milliseconds limit);

int open_pidfd(pid_t pid);

}  // namespace lockfs::test
