/// Runs the lockfs command as a user would and looks at what it leaves on the machine.
///
/// Thread safety: none; used from the one thread of the test program.
#pragma once

#include <gtest/gtest.h>
#include <sys/types.h>

#include <map>
#include <string>
#include <vector>

#include "tests/mounted/support/process.h"

namespace lockfs::test {

/// How a command ended.
struct Outcome {
  int status = -1;     ///< exit status, 128 + signal, or -1 when the deadline passed
  bool eof = false;    ///< whether standard output and error were closed by everybody
  std::string output;  ///< standard output
  std::string errors;  ///< standard error
};

struct CommandOptions {
  std::string directory;                           ///< working directory; empty: the test's own
  std::map<std::string, std::string> environment;  ///< added or replaced variables
  std::vector<int> closed;                         ///< descriptors the command starts without
};

/// Starts a program found in $PATH and waits until it has ended and nobody holds its standard
/// output and error, nor one more pipe it inherits, any longer.
Outcome run_command(const std::vector<std::string>& command, const CommandOptions& options = {});

/// A command that goes on running.
class RunningCommand {
 public:
  explicit RunningCommand(const std::vector<std::string>& command,
                          const CommandOptions& options = {});
  RunningCommand(const RunningCommand&) = delete;
  RunningCommand& operator=(const RunningCommand&) = delete;
  ~RunningCommand();

  [[nodiscard]] pid_t pid() const { return pid_; }
  void kill(int signal) const;
  /// Waits until `text` has been written to standard output; the output read until then is lost.
  /// Returns false when the output ended or the deadline passed first.
  bool wait_output(const std::string& text);
  /// Waits for the end and everything that was printed.
  Outcome wait();

 private:
  pid_t pid_ = -1;
  UniqueFd pidfd_;
  UniqueFd output_;
  UniqueFd errors_;
  UniqueFd extra_;  ///< the read end of a pipe that the command inherits as a further descriptor
};

/// The command that runs `command` as the user nobody, without other groups.
std::vector<std::string> as_nobody(std::vector<std::string> command);

/// The lockfs program with these arguments.
std::vector<std::string> lockfs_command(const std::vector<std::string>& arguments);

/// Processes that run the lockfs program with `argument` on their command line.
std::vector<pid_t> find_processes(const std::string& argument);
/// Of these, those that serve: the others wait for a child among them to die.
std::vector<pid_t> find_daemons(const std::string& argument);
/// Kills them all at once, and waits until they have gone. False: there was none, or not in time.
bool kill_mount(const std::string& argument);

/// Waits for processes that need not be children to end. Returns false when the deadline passed.
bool wait_gone(const std::vector<pid_t>& processes);

/// One mount as /proc/self/mountinfo has it.
struct MountLine {
  std::string options;
  std::string type;
  std::string source;
  std::string super_options;
};

/// All that is mounted on exactly this path.
std::vector<MountLine> mounts_on(const std::string& path);

/// Waits until something is mounted on `path`. Returns false when the deadline passed.
bool wait_mounted(const std::string& path);

/// Whether `list`, separated by commas, has the element `option`.
bool has_option(const std::string& list, const std::string& option);

/// The error of an open(2) that is closed again at once, or 0.
int open_error(const std::string& path, int flags);

/// A test in a mount namespace of the program's own, as root, where it may cover /dev/fuse and
/// system files without harm to the machine. Scratch folders `source()` and `mount()` lie below
/// `base()`, which every user may enter; what is left mounted there is unmounted at the end.
class CommandTest : public ::testing::Test {
 public:
  static void SetUpTestSuite();

 protected:
  void SetUp() override;
  void TearDown() override;

  [[nodiscard]] const std::string& base() const { return base_; }
  [[nodiscard]] std::string in_base(const std::string& name) const { return base_ + "/" + name; }
  [[nodiscard]] std::string source() const { return in_base("source"); }
  [[nodiscard]] std::string mount() const { return in_base("mount"); }

  /// Runs lockfs to its end (or into the background).
  Outcome lockfs(const std::vector<std::string>& arguments, const CommandOptions& options = {});

  /// Runs lockfs in the background and checks that it reports success, prints nothing and has
  /// mounted. Returns the daemon, or -1 with a failure recorded.
  pid_t start(const std::vector<std::string>& arguments, const std::string& mountpoint);

  /// Unmounts and checks that the daemon ends.
  void stop(const std::string& mountpoint);

  /// Mounts the file `over` on `path` until the end of the test.
  void cover(const std::string& path, const std::string& over);

  struct Device {
    std::string name;
    unsigned major;
    unsigned minor;
  };
  static inline const Device kNull{"null", 1, 3};
  static inline const Device kFuse{"fuse", 10, 229};

  /// Puts a /dev with only these devices, open to every user, in place of the machine's until the
  /// end of the test.
  void replace_devices(const std::vector<Device>& devices);

 private:
  std::string base_;
  std::vector<std::string> covered_;
};

/// Checks what every failed start must look like: `status`, nothing on standard output, one line
/// "lockfs: ..." with each of `parts` on standard error.
void expect_failure(const Outcome& outcome, int status, const std::vector<std::string>& parts);

}  // namespace lockfs::test
