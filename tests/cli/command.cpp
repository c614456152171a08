#include "tests/cli/command.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>
#include <string_view>

#include "fs/daemon/preflight.h"
#include "tests/mounted/support/mounted.h"

extern char** environ;

namespace lockfs::test {
namespace {

constexpr const char* kNobody = "65534";
/// Where the command finds the inherited pipe.
constexpr int kExtraDescriptor = 9;

struct Pipe {
  UniqueFd read;
  UniqueFd write;
};

Pipe make_pipe() {
  std::array<int, 2> ends{};
  if (pipe2(ends.data(), O_CLOEXEC) != 0) std::abort();
  return {UniqueFd(ends[0]), UniqueFd(ends[1])};
}

std::vector<std::string> merged_environment(const std::map<std::string, std::string>& added) {
  std::vector<std::string> result;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string_view text(*entry);
    if (!added.contains(std::string(text.substr(0, text.find('='))))) result.emplace_back(text);
  }
  for (const auto& [name, value] : added) result.push_back(name + "=" + value);
  return result;
}

std::vector<char*> pointers(std::vector<std::string>& words) {
  std::vector<char*> result;
  result.reserve(words.size() + 1);
  for (auto& word : words) result.push_back(word.data());
  result.push_back(nullptr);
  return result;
}

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  std::istringstream stream(text);
  for (std::string part; std::getline(stream, part, separator);) parts.push_back(part);
  return parts;
}

/// Reads all the pipes to their ends. Returns whether all the ends came before the deadline.
bool drain(std::vector<std::pair<UniqueFd*, std::string*>> pipes) {
  const auto end = std::chrono::steady_clock::now() + deadline();
  while (!pipes.empty()) {
    std::vector<pollfd> polled;
    for (const auto& [fd, text] : pipes) polled.push_back({fd->get(), POLLIN, 0});
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
        end - std::chrono::steady_clock::now());
    if (left.count() <= 0) return false;
    if (poll(polled.data(), polled.size(), static_cast<int>(left.count())) < 0 && errno != EINTR) {
      return false;
    }
    for (std::size_t i = polled.size(); i-- > 0;) {
      if (polled[i].revents == 0) continue;
      std::array<char, 4096> buffer{};
      const ssize_t got = read(polled[i].fd, buffer.data(), buffer.size());
      if (got > 0) {
        pipes[i].second->append(buffer.data(), static_cast<std::size_t>(got));
      } else {
        pipes.erase(pipes.begin() + static_cast<std::ptrdiff_t>(i));
      }
    }
  }
  return true;
}

}  // namespace

RunningCommand::RunningCommand(const std::vector<std::string>& command,
                               const CommandOptions& options) {
  Pipe output = make_pipe();
  Pipe errors = make_pipe();
  Pipe extra = make_pipe();
  // Numbers below 10 are redirected in the child; keep the originals out of their way.
  for (UniqueFd* fd : {&output.write, &errors.write, &extra.write}) {
    fd->reset(fcntl(fd->get(), F_DUPFD_CLOEXEC, kExtraDescriptor + 1));
  }
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&actions, output.write.get(), STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&actions, errors.write.get(), STDERR_FILENO);
  posix_spawn_file_actions_adddup2(&actions, extra.write.get(), kExtraDescriptor);
  if (!options.directory.empty()) {
    posix_spawn_file_actions_addchdir_np(&actions, options.directory.c_str());
  }
  for (const int fd : options.closed) posix_spawn_file_actions_addclose(&actions, fd);

  auto words = command;
  auto variables = merged_environment(options.environment);
  const auto argv = pointers(words);
  const auto envp = pointers(variables);
  const int error =
      posix_spawnp(&pid_, command[0].c_str(), &actions, nullptr, argv.data(), envp.data());
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0) {
    pid_ = -1;
    ADD_FAILURE() << command[0] << ": " << std::strerror(error);
    return;
  }
  pidfd_.reset(open_pidfd(pid_));
  output_ = std::move(output.read);
  errors_ = std::move(errors.read);
  extra_ = std::move(extra.read);
}

RunningCommand::~RunningCommand() {
  if (pid_ < 0) return;
  kill(SIGKILL);
  reap(pid_, pidfd_.get(), deadline());
}

void RunningCommand::kill(int signal) const {
  if (pid_ > 0) ::kill(pid_, signal);
}

bool RunningCommand::wait_output(const std::string& text) {
  std::string seen;
  std::array<char, 4096> buffer{};
  while (seen.find(text) == std::string::npos) {
    if (!wait_readable(output_.get(), deadline())) return false;
    const ssize_t got = read(output_.get(), buffer.data(), buffer.size());
    if (got <= 0) return false;
    seen.append(buffer.data(), static_cast<std::size_t>(got));
  }
  return true;
}

Outcome RunningCommand::wait() {
  Outcome outcome;
  if (pid_ < 0) return outcome;
  std::string unused;
  outcome.eof =
      drain({{&output_, &outcome.output}, {&errors_, &outcome.errors}, {&extra_, &unused}});
  outcome.status = reap(pid_, pidfd_.get(), deadline());
  if (outcome.status >= 0) pid_ = -1;
  return outcome;
}

Outcome run_command(const std::vector<std::string>& command, const CommandOptions& options) {
  return RunningCommand(command, options).wait();
}

std::vector<std::string> as_nobody(std::vector<std::string> command) {
  command.insert(command.begin(), {"setpriv", std::string("--reuid=") + kNobody,
                                   std::string("--regid=") + kNobody, "--clear-groups"});
  return command;
}

std::vector<std::string> lockfs_command(const std::vector<std::string>& arguments) {
  std::vector<std::string> command{lockfs_program()};
  command.insert(command.end(), arguments.begin(), arguments.end());
  return command;
}

std::vector<pid_t> find_processes(const std::string& argument) {
  std::vector<pid_t> found;
  const auto program = std::filesystem::path(lockfs_program()).filename().string();
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    const auto name = entry.path().filename().string();
    if (name.find_first_not_of("0123456789") != std::string::npos) continue;
    const auto words = split(read_file(entry.path().string() + "/cmdline"), '\0');
    if (words.empty() || std::filesystem::path(words[0]).filename() != program) continue;
    if (std::find(words.begin(), words.end(), argument) != words.end()) {
      found.push_back(std::stoi(name));
    }
  }
  return found;
}

std::vector<pid_t> find_daemons(const std::string& argument) {
  std::vector<pid_t> found = find_processes(argument);
  for (const pid_t pid : std::vector<pid_t>(found)) {
    constexpr std::string_view kKey = "PPid:\t";
    std::ifstream status("/proc/" + std::to_string(pid) + "/status");
    for (std::string line; std::getline(status, line);) {
      if (line.starts_with(kKey)) std::erase(found, std::stoi(line.substr(kKey.size())));
    }
  }
  return found;
}

bool kill_mount(const std::string& argument) {
  const std::vector<pid_t> processes = find_processes(argument);
  // Stopped first, so that nobody takes the place of one that dies.
  for (const int signal : {SIGSTOP, SIGKILL}) {
    for (const pid_t pid : processes) kill(pid, signal);
  }
  return !processes.empty() && wait_gone(processes);
}

bool wait_gone(const std::vector<pid_t>& processes) {
  for (const pid_t pid : processes) {
    const UniqueFd pidfd(open_pidfd(pid));
    if (pidfd.valid() && !wait_readable(pidfd.get(), deadline())) return false;
  }
  return true;
}

std::vector<MountLine> mounts_on(const std::string& path) {
  std::vector<MountLine> found;
  std::ifstream table("/proc/self/mountinfo");
  for (std::string line; std::getline(table, line);) {
    const auto words = split(line, ' ');
    const auto dash = std::find(words.begin(), words.end(), "-");
    if (words.size() < 6 || words.end() - dash < 4) continue;
    if (unescape_octal(words[4]) == path) {
      found.push_back({words[5], dash[1], unescape_octal(dash[2]), dash[3]});
    }
  }
  return found;
}

bool has_option(const std::string& list, const std::string& option) {
  const auto options = split(list, ',');
  return std::find(options.begin(), options.end(), option) != options.end();
}

int open_error(const std::string& path, int flags) {
  const UniqueFd fd(open(path.c_str(), flags | O_CLOEXEC, 0600));
  return fd.valid() ? 0 : errno;
}

void CommandTest::SetUpTestSuite() {
  ASSERT_EQ(geteuid(), 0U) << "these tests mount, so they run as root";
  static bool entered = false;
  if (entered) return;
  ASSERT_EQ(unshare(CLONE_NEWNS), 0) << std::strerror(errno);
  ASSERT_EQ(::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr), 0) << std::strerror(errno);
  entered = true;
}

void CommandTest::SetUp() {
  base_ = std::filesystem::canonical(std::filesystem::temp_directory_path()).string() +
          "/lockfs-cli-XXXXXX";
  ASSERT_NE(mkdtemp(base_.data()), nullptr) << std::strerror(errno);
  // A filesystem of its own: the temporary directory may be mounted nosuid and nodev.
  ASSERT_EQ(::mount("tmpfs", base_.c_str(), "tmpfs", 0, "mode=755"), 0) << std::strerror(errno);
  for (const auto& path : {source(), mount()}) {
    ASSERT_EQ(mkdir(path.c_str(), 0755), 0) << path;
    ASSERT_EQ(chmod(path.c_str(), 0755), 0) << path;
  }
}

void CommandTest::TearDown() {
  for (auto path = covered_.rbegin(); path != covered_.rend(); ++path) {
    EXPECT_EQ(umount2(path->c_str(), MNT_DETACH), 0) << *path << ": " << std::strerror(errno);
  }
  // A daemon left over by a failed test must follow its mount.
  std::vector<std::string> left;
  std::ifstream table("/proc/self/mountinfo");
  for (std::string line; std::getline(table, line);) {
    const auto words = split(line, ' ');
    if (words.size() < 5) continue;
    const auto path = unescape_octal(words[4]);
    if (path == base_ || path.starts_with(base_ + "/")) left.push_back(path);
  }
  for (auto path = left.rbegin(); path != left.rend(); ++path) umount2(path->c_str(), MNT_DETACH);
  for (const auto& path : {mount(), source()}) {
    const auto processes = find_processes(path);
    if (processes.empty() || wait_gone(processes)) continue;
    ADD_FAILURE() << "a process outlived its mount " << path;
    kill_mount(path);
  }
  EXPECT_EQ(rmdir(base_.c_str()), 0) << std::strerror(errno);
}

bool wait_mounted(const std::string& path) {
  const UniqueFd table(open("/proc/self/mountinfo", O_RDONLY | O_CLOEXEC));
  const auto end = std::chrono::steady_clock::now() + deadline();
  while (mounts_on(path).empty()) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
        end - std::chrono::steady_clock::now());
    // The kernel reports a changed mount table as POLLPRI.
    pollfd polled{table.get(), POLLPRI, 0};
    if (left.count() <= 0 || poll(&polled, 1, static_cast<int>(left.count())) <= 0) return false;
  }
  return true;
}

Outcome CommandTest::lockfs(const std::vector<std::string>& arguments,
                            const CommandOptions& options) {
  return run_command(lockfs_command(arguments), options);
}

pid_t CommandTest::start(const std::vector<std::string>& arguments, const std::string& mountpoint) {
  const Outcome outcome = lockfs(arguments);
  EXPECT_EQ(outcome.status, 0) << outcome.errors;
  EXPECT_EQ(outcome.output, "");
  EXPECT_EQ(outcome.errors, "");
  EXPECT_TRUE(outcome.eof) << "the daemon still holds its caller's pipes";
  const auto mounts = mounts_on(mountpoint);
  EXPECT_EQ(mounts.size(), 1U);
  EXPECT_TRUE(mounts.empty() || mounts.back().type == "fuse.lockfs");
  const auto daemons = find_daemons(arguments.back());
  EXPECT_EQ(daemons.size(), 1U);
  return daemons.size() == 1 ? daemons[0] : -1;
}

void CommandTest::stop(const std::string& mountpoint) {
  const auto processes = find_processes(mountpoint);
  const Outcome outcome = run_command({"umount", mountpoint});
  EXPECT_EQ(outcome.status, 0) << outcome.errors;
  EXPECT_TRUE(mounts_on(mountpoint).empty());
  EXPECT_TRUE(wait_gone(processes)) << "a process goes on without its mount";
}

void CommandTest::cover(const std::string& path, const std::string& over) {
  ASSERT_EQ(::mount(over.c_str(), path.c_str(), nullptr, MS_BIND, nullptr), 0)
      << path << ": " << std::strerror(errno);
  covered_.push_back(path);
}

void CommandTest::replace_devices(const std::vector<Device>& devices) {
  const auto folder = in_base("dev");
  ASSERT_EQ(mkdir(folder.c_str(), 0755), 0) << std::strerror(errno);
  for (const auto& device : devices) {
    const auto node = folder + "/" + device.name;
    ASSERT_EQ(mknod(node.c_str(), S_IFCHR, makedev(device.major, device.minor)), 0)
        << std::strerror(errno);
    ASSERT_EQ(chmod(node.c_str(), 0666), 0);
  }
  cover("/dev", folder);
}

void expect_failure(const Outcome& outcome, int status, const std::vector<std::string>& parts) {
  EXPECT_EQ(outcome.status, status);
  EXPECT_TRUE(outcome.eof) << "somebody still holds the caller's pipes";
  EXPECT_EQ(outcome.output, "");
  EXPECT_TRUE(outcome.errors.starts_with("lockfs: ")) << outcome.errors;
  EXPECT_EQ(std::count(outcome.errors.begin(), outcome.errors.end(), '\n'), 1) << outcome.errors;
  EXPECT_TRUE(outcome.errors.ends_with('\n')) << outcome.errors;
  for (const auto& part : parts) {
    EXPECT_NE(outcome.errors.find(part), std::string::npos)
        << "missing: " << part << "\nin: " << outcome.errors;
  }
}

}  // namespace lockfs::test
