#include "tests/mounted/support/mounted.h"

#include <fcntl.h>
#include <poll.h>
#include <regex.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>

namespace lockfs::test {

using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;

namespace {

std::string env(const char* name, const std::string& fallback = "") {
  const char* value = std::getenv(name);
  return value != nullptr && *value != '\0' ? value : fallback;
}

std::string errno_text(const std::string& what) { return what + ": " + std::strerror(errno); }

/// True when `path` is the root of a mount of its own.
bool is_mount_root(const std::string& path) {
  std::ifstream table("/proc/self/mountinfo");
  std::string line;
  while (std::getline(table, line)) {
    std::istringstream fields(line);
    std::string id, parent, device, root, point;
    fields >> id >> parent >> device >> root >> point;
    if (point == path) return true;
  }
  return false;
}

/// A POSIX extended regular expression.
class Pattern {
 public:
  explicit Pattern(const std::string& text) {
    if (::regcomp(&compiled_, text.c_str(), REG_EXTENDED | REG_NOSUB) != 0) std::abort();
  }
  Pattern(const Pattern&) = delete;
  Pattern& operator=(const Pattern&) = delete;
  ~Pattern() { ::regfree(&compiled_); }
  [[nodiscard]] bool found_in(const std::string& line) const {
    return ::regexec(&compiled_, line.c_str(), 0, nullptr, 0) == 0;
  }

 private:
  regex_t compiled_;
};

/// A line the daemon must not have written: an error of its own, or a report of a sanitizer.
bool is_bad_line(const std::string& line) {
  static const Pattern bad(
      "lockfs(\\[[0-9]+\\])?:? (error|critical|fatal)|Sanitizer|runtime error:|terminate called|"
      "Assertion .* failed");
  return bad.found_in(line);
}

}  // namespace

bool plain_mode() { return env("LOCKFS_TEST_PLAIN") == "1"; }

std::string lockfs_program() {
#ifdef LOCKFS_BIN_PATH
  const std::string built = LOCKFS_BIN_PATH;
#else
  const std::string built =
      (std::filesystem::read_symlink("/proc/self/exe").parent_path() / "lockfs").string();
#endif
  return env("LOCKFS_BIN", built);
}

bool write_file(const std::string& path, const std::string& content) {
  const UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666));
  if (!fd.valid()) return false;
  std::size_t done = 0;
  while (done < content.size()) {
    const ssize_t put = ::write(fd.get(), content.data() + done, content.size() - done);
    if (put < 0) return false;
    done += static_cast<std::size_t>(put);
  }
  return true;
}

std::string read_file(const std::string& path) {
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  std::string content;
  char buffer[65536];
  while (fd.valid()) {
    const ssize_t got = ::read(fd.get(), buffer, sizeof buffer);
    if (got <= 0) break;
    content.append(buffer, static_cast<std::size_t>(got));
  }
  return content;
}

Mount::Mount() {
  const std::string parent =
      env("LOCKFS_TEST_DIR", std::filesystem::temp_directory_path().string());
  base_ = std::filesystem::canonical(parent).string() + "/lockfs-test-XXXXXX";
  if (::mkdtemp(base_.data()) == nullptr) {
    std::perror(base_.c_str());
    std::abort();
  }
  // Unprivileged users of the tests must be able to get through.
  ::chmod(base_.c_str(), 0755);
  source_ = base_ + "/source";
  mount_ = plain_mode() ? source_ : base_ + "/mount";
  log_ = base_ + "/log";
  for (const std::string& directory : {source_, mount_}) {
    ::mkdir(directory.c_str(), 0755);
    ::chmod(directory.c_str(), 0755);
  }
}

Mount::~Mount() {
  if (running_) {
    const std::string wrong = stop();
    if (!wrong.empty()) ADD_FAILURE() << wrong;
  }
  if (is_mount_root(base_ + "/mount")) ::umount2((base_ + "/mount").c_str(), MNT_DETACH);
  if (env("LOCKFS_TEST_KEEP") == "1") return;
  std::error_code ignored;
  std::filesystem::remove_all(base_, ignored);
}

std::string Mount::start(const std::vector<std::string>& options,
                         const std::vector<std::string>& arguments) {
  if (plain_mode()) return "";
  std::vector<std::string> command{lockfs_program(), "-f"};
#ifdef __SANITIZE_THREAD__
  // It does not know processes that are cloned past the C library.
  command.insert(command.end(), {"-o", "survive=off"});
#endif
  for (const std::string& option : options) command.insert(command.end(), {"-o", option});
  const std::string more = env("LOCKFS_TEST_OPTIONS");
  if (!more.empty()) command.insert(command.end(), {"-o", more});
  command.insert(command.end(), arguments.begin(), arguments.end());
  command.insert(command.end(), {source_, mount_});
  std::vector<char*> argv;
  argv.reserve(command.size() + 1);
  for (std::string& word : command) argv.push_back(word.data());
  argv.push_back(nullptr);

  const UniqueFd table(::open("/proc/self/mountinfo", O_RDONLY | O_CLOEXEC));
  std::fflush(nullptr);
  const pid_t self = ::getpid();
  pid_ = ::fork();
  if (pid_ < 0) return errno_text("fork");
  if (pid_ == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (::getppid() != self) ::_exit(125);
    const int input = ::open("/dev/null", O_RDONLY);
    const int output = ::open(log_.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0644);
    ::dup2(input, STDIN_FILENO);
    ::dup2(output, STDOUT_FILENO);
    ::dup2(output, STDERR_FILENO);
    if (::close_range(3, ~0U, 0) != 0) ::_exit(125);
    ::execv(argv[0], argv.data());
    std::perror(argv[0]);
    ::_exit(127);
  }
  pidfd_.reset(open_pidfd(pid_));
  running_ = true;

  // Ready when the mount point is a mount root and answers. The kernel flags a change of the mount
  // table on an open mountinfo as POLLPRI, so nothing is polled for.
  const auto end = Clock::now() + deadline();
  while (!is_mount_root(mount_)) {
    const auto left = std::chrono::duration_cast<milliseconds>(end - Clock::now()).count();
    pollfd entries[2] = {{pidfd_.get(), POLLIN, 0}, {table.get(), POLLPRI, 0}};
    const int ready = left > 0 ? ::poll(entries, 2, static_cast<int>(left)) : 0;
    if (ready == 0) {
      signal(SIGKILL);
      reap(pid_, pidfd_.get(), deadline());
      running_ = false;
      return "lockfs did not mount in time\n" + log();
    }
    if ((entries[0].revents & POLLIN) != 0 && !is_mount_root(mount_)) {
      const int status = reap(pid_, pidfd_.get(), deadline());
      running_ = false;
      return "lockfs did not mount, exit status " + std::to_string(status) + "\n" + log();
    }
  }
  // In a child: a daemon that hangs must not hang the test program.
  Process probe([this] {
    struct stat info {};
    return ::stat(mount_.c_str(), &info) == 0 ? 0 : 1;
  });
  if (probe.wait() != 0) {
    signal(SIGKILL);
    reap(pid_, pidfd_.get(), deadline());
    running_ = false;
    ::umount2(mount_.c_str(), MNT_DETACH);
    return "lockfs mounted but does not answer\n" + log();
  }
  begin_deaths();
  return "";
}

namespace {

/// A child of a process; 0: it has none.
pid_t child_of(pid_t process) {
  const std::string number = std::to_string(process);
  std::ifstream children("/proc/" + number + "/task/" + number + "/children");
  pid_t pid = 0;
  children >> pid;
  return pid;
}

}  // namespace

pid_t Mount::pid() const {
  pid_t pid = pid_;
  for (pid_t child = pid; child > 0; child = child_of(pid)) pid = child;
  return pid;
}

pid_t Mount::keeper_pid() const { return child_of(pid_); }

pid_t Mount::daemon_pid() const {
  const pid_t keeper = keeper_pid();
  return keeper > 0 ? child_of(keeper) : 0;
}

void Mount::begin_deaths() {
  const int pause = std::atoi(env("LOCKFS_TEST_DEATHS", "0").c_str());
  if (pause <= 0) return;
  allow_log("the daemon was killed by signal 9 .* generation [0-9]+ goes on");
  killer_ = std::make_unique<Process>([this, pause] {
    while (running_) {
      std::this_thread::sleep_for(milliseconds(pause));
      settle();  // daemons that die before they answer are not followed for ever
      const pid_t daemon = daemon_pid();
      if (daemon > 0) ::kill(daemon, SIGKILL);
    }
    return 0;
  });
}

/// A death while the mount ends would be its end.
void Mount::end_deaths() {
  killer_.reset();
  settle();
}

std::string Mount::stop() {
  if (!running_) return "";
  end_deaths();
  std::string wrong;
  int failed = 0;
  if (::geteuid() == 0) {
    failed = ::umount2(mount_.c_str(), 0) == 0 ? 0 : errno;
  } else {
    const ProgramResult result = run_program({"fusermount3", "-u", mount_});
    if (result.status != 0) failed = EBUSY;
  }
  if (failed != 0) {
    wrong = std::string("cannot unmount: ") + std::strerror(failed) + "\n";
    // What it may not look at it says as well.
    const ProgramResult users =
        run_program({"sh", "-c", "fuser -vm \"$0\" 2>&1 | grep -v '^Cannot stat'", mount_});
    wrong += users.output;
    ::umount2(mount_.c_str(), MNT_DETACH);
    signal(SIGTERM);
  }
  return wrong + wait_exit();
}

void Mount::signal(int number) const {
  if (!running_) return;
  if (killer_) {
    killer_->kill(SIGKILL);
    killer_->wait();
  }
  if (number != SIGSTOP && number != SIGCONT && number != SIGKILL) {
    ::kill(pid_, number);
    return;
  }
  // Stopped from the first to the last, so that nobody takes the place of one that dies.
  std::vector<pid_t> family;
  for (pid_t pid = pid_; pid > 0; pid = child_of(pid)) {
    if (number != SIGCONT) ::kill(pid, SIGSTOP);
    family.push_back(pid);
  }
  if (number == SIGSTOP) return;
  for (const pid_t pid : family) ::kill(pid, number);
}

std::string Mount::wait_exit() {
  killer_.reset();
  int status = reap(pid_, pidfd_.get(), deadline());
  std::string wrong;
  if (status == -1) {
    wrong = "lockfs did not end in time\n";
    signal(SIGKILL);
    status = reap(pid_, pidfd_.get(), deadline());
  }
  running_ = false;
  return wrong + check_end(status);
}

std::string Mount::check_end(int status) {
  std::string wrong;
  if (status != 0) wrong = "lockfs ended with status " + std::to_string(status) + "\n";
  if (is_mount_root(mount_)) wrong += "lockfs left its mount behind\n";
  return wrong + check_log();
}

std::string Mount::check_log() const {
  std::istringstream lines(log());
  std::string line;
  while (std::getline(lines, line)) {
    if (!is_bad_line(line)) continue;
    const bool allowed = std::any_of(allowed_.begin(), allowed_.end(), [&](const auto& pattern) {
      return Pattern(pattern).found_in(line);
    });
    if (!allowed) {
      std::string text = log();
      if (text.size() > 20000) text.resize(20000);
      return "bad line in the log of lockfs: " + line + "\n--- log ---\n" + text;
    }
  }
  return "";
}

std::string Mount::log() const { return read_file(log_); }

namespace {

void settle_path(const std::string& path) {
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) return;
  // Always answered at once, and changes nothing.
  struct flock unlock {};
  unlock.l_type = F_UNLCK;
  unlock.l_whence = SEEK_SET;
  ::fcntl(fd.get(), F_OFD_SETLK, &unlock);
}

}  // namespace

void Mount::settle(const std::string& name) const {
  if (running_) settle_path(in_mount(name));
}

void Mount::settle() const {
  struct statvfs ignored {};
  if (running_) ::statvfs(mount_.c_str(), &ignored);
}

void settle_file_of(pid_t pid, int fd) {
  settle_path("/proc/" + std::to_string(pid) + "/fd/" + std::to_string(fd));
}

void MountedTest::SetUp() {
  fs_ = std::make_unique<Mount>();
  const std::string wrong = fs_->start(options());
  ASSERT_EQ(wrong, "");
}

void MountedTest::TearDown() {
  if (fs_ == nullptr) return;  // skipped
  const std::string wrong = fs_->stop();
  EXPECT_EQ(wrong, "");
  fs_.reset();
}

void SharedMountTest::start_suite(const std::vector<std::string>& options) {
  fs_ = std::make_unique<Mount>();
  start_error_ = fs_->start(options);
}

void SharedMountTest::TearDownTestSuite() {
  const std::string wrong = fs_->stop();
  EXPECT_EQ(wrong, "");
  fs_.reset();
}

void SharedMountTest::SetUp() { ASSERT_EQ(start_error_, ""); }

std::string SharedMountTest::new_file(const std::string& content) {
  static int counter = 0;
  const std::string name = "file-" + std::to_string(++counter);
  if (!write_file(in_source(name), content)) ADD_FAILURE() << errno_text(in_source(name));
  return name;
}

}  // namespace lockfs::test
