/// A scratch directory mounted by the lockfs program under test, and the fixtures that use it.
///
/// Environment:
///   LOCKFS_BIN         the program under test (default: the one of the build)
///   LOCKFS_TEST_DIR    where scratch directories are made (default: the temporary directory)
///   LOCKFS_TEST_PLAIN  1: no daemon; mount() and source() are one plain directory, so that a test
///                      can be checked against the backing filesystem itself
///   LOCKFS_TEST_OPTIONS  more -o options for every mount (e.g. passthrough=off)
///   LOCKFS_TEST_DEATHS  kills the daemon of every mount that survives it again and again, so many
///                      milliseconds after the last time
///   LOCKFS_TEST_SCALE  divides the number of rounds of long tests (10: a tenth)
///   LOCKFS_TEST_DEADLINE  seconds to wait for what must happen (default 60)
///   LOCKFS_TEST_KEEP   1: scratch directories stay
///
/// Thread safety: none; used from the one thread of the test program.
#pragma once

#include <gtest/gtest.h>
#include <sys/types.h>

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "tests/mounted/support/process.h"

namespace lockfs::test {

/// True with LOCKFS_TEST_PLAIN=1.
bool plain_mode();

/// For tests that state what only lockfs does: leaves the test when there is no daemon.
#define LOCKFS_NOT_PLAIN() \
  if (::lockfs::test::plain_mode()) GTEST_SKIP() << "LOCKFS_TEST_PLAIN=1: no lockfs to test"

/// Path of the lockfs program under test.
std::string lockfs_program();

/// One scratch directory `<base>/{source,mount,log}` and the daemon that serves it.
///
/// The daemon runs in the foreground (-f) as a child with its output in a file, so that its exit
/// status and every sanitizer report are seen. It is told to end (SIGTERM) when the test program
/// dies.
class Mount {
 public:
  Mount();
  Mount(const Mount&) = delete;
  Mount& operator=(const Mount&) = delete;
  ~Mount();

  /// Starts lockfs with each of `options` as an `-o`, and waits until the mount answers.
  /// `arguments` are put before SOURCE. Returns "" or what went wrong, with the log.
  std::string start(const std::vector<std::string>& options,
                    const std::vector<std::string>& arguments = {});

  /// Unmounts, waits for the daemon's end and checks it: exit status 0, nothing bad in the log.
  /// Returns "" or what was wrong. Does nothing when not started.
  std::string stop();

  /// Sends a signal to the process that was started; SIGSTOP, SIGCONT and SIGKILL to all of the
  /// mount, so that none goes on for another.
  void signal(int number) const;

  /// Waits for the daemon to end by itself, then checks like stop().
  std::string wait_exit();

  [[nodiscard]] const std::string& mount() const { return mount_; }
  [[nodiscard]] const std::string& source() const { return source_; }
  [[nodiscard]] const std::string& scratch() const { return base_; }
  [[nodiscard]] std::string in_mount(const std::string& name) const { return mount_ + "/" + name; }
  [[nodiscard]] std::string in_source(const std::string& name) const {
    return source_ + "/" + name;
  }
  /// Daemon's process id, or -1.
  /// The process that serves. Unless survive=off it is the child of the keeper, which is the child
  /// of the standby, the process that was started.
  [[nodiscard]] pid_t pid() const;
  [[nodiscard]] pid_t standby_pid() const { return pid_; }
  /// 0 while there is none.
  [[nodiscard]] pid_t keeper_pid() const;
  [[nodiscard]] pid_t daemon_pid() const;
  [[nodiscard]] bool running() const { return running_; }

  /// Everything the daemon has logged so far.
  [[nodiscard]] std::string log() const;

  /// Lines that match this POSIX extended regular expression may stand in the log though they are
  /// errors.
  void allow_log(const std::string& pattern) { allowed_.push_back(pattern); }

  /// One lock request round trip on that file of the mount. The daemon handles lock requests,
  /// closes included, of one file in the order in which it reads them, so every one queued before
  /// this call has been granted, refused, parked or carried to the source when it returns.
  void settle(const std::string& name) const;

  /// One round trip to the daemon that says nothing about the order of others.
  void settle() const;

 private:
  std::string check_end(int status);
  void begin_deaths();
  void end_deaths();
  std::string check_log() const;

  std::string base_;
  std::string source_;
  std::string mount_;
  std::string log_;
  std::vector<std::string> allowed_;
  pid_t pid_ = -1;
  UniqueFd pidfd_;
  bool running_ = false;
  std::unique_ptr<Process> killer_;  ///< LOCKFS_TEST_DEATHS; null: none
};

/// The same for the file that process `pid` has open as `fd`, if it still has.
void settle_file_of(pid_t pid, int fd);

/// A mount of its own for each test.
class MountedTest : public ::testing::Test {
 protected:
  /// Options for this mount, each for one -o.
  virtual std::vector<std::string> options() const { return {}; }

  void SetUp() override;
  void TearDown() override;

  [[nodiscard]] Mount& fs() const { return *fs_; }
  [[nodiscard]] const std::string& mount() const { return fs_->mount(); }
  [[nodiscard]] const std::string& source() const { return fs_->source(); }
  [[nodiscard]] std::string in_mount(const std::string& name) const { return fs_->in_mount(name); }
  [[nodiscard]] std::string in_source(const std::string& name) const {
    return fs_->in_source(name);
  }

 private:
  std::unique_ptr<Mount> fs_;
};

/// One mount for all the tests of a suite. A suite that needs options hides SetUpTestSuite() with
/// `static void SetUpTestSuite() { start_suite({"attr_timeout=3600"}); }`.
class SharedMountTest : public ::testing::Test {
 public:
  static void SetUpTestSuite() { start_suite({}); }
  static void TearDownTestSuite();

 protected:
  static void start_suite(const std::vector<std::string>& options);

  void SetUp() override;

  static Mount& fs() { return *fs_; }
  static const std::string& mount() { return fs_->mount(); }
  static const std::string& source() { return fs_->source(); }
  static std::string in_mount(const std::string& name) { return fs_->in_mount(name); }
  static std::string in_source(const std::string& name) { return fs_->in_source(name); }

  /// A new empty file of the mount; returns its name, to be used with in_mount() and in_source().
  static std::string new_file(const std::string& content = "");

 private:
  static inline std::unique_ptr<Mount> fs_;
  static inline std::string start_error_;
};

/// Looks until `condition` holds; for what the daemon does after it has answered. False when the
/// deadline passes first.
inline bool eventually(const std::function<bool()>& condition) {
  const auto end = std::chrono::steady_clock::now() + deadline();
  while (!condition()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  return true;
}

/// Writes a file directly. Returns false and sets errno on failure.
bool write_file(const std::string& path, const std::string& content);

/// Reads a whole file; "" when it cannot be read.
std::string read_file(const std::string& path);

}  // namespace lockfs::test
