#include "fs/daemon/keeper.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/sched.h>
#include <poll.h>
#include <pthread.h>
#include <spawn.h>
#include <spdlog/spdlog.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <exception>
#include <optional>

#ifdef LOCKFS_HAVE_SYSTEMD
#include <systemd/sd-daemon.h>
#endif

#include "fs/base/clock.h"
#include "fs/daemon/survival.h"
#include "fs/options/logging.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/lsan_interface.h>
#endif

namespace lockfs {
namespace {

using namespace std::chrono_literals;

/// Before a daemon that follows one that died at once: doubled with each, from the second.
constexpr auto kFirstPause = 10ms;
/// How often to look whether the daemon has died without a word: threads of it may be stuck in the
/// backing filesystem, and until they are gone nobody is told (wait_task_zombie()). Once its main
/// thread has gone, how often, and how many times before it counts as dead.
constexpr timespec kLook{1, 0};
constexpr timespec kLookAgain{0, 100'000'000};
constexpr int kLooks = 5;

/// Of the standby and the keeper, where they may have it; else the daemon has so much more.
constexpr int kKeepersOomScore = -900;
constexpr int kDaemonsOomScore = 10;
constexpr int kMostOomScore = 1000;

constexpr std::array kPassedOn{SIGTERM, SIGINT, SIGHUP, SIGQUIT};

/// As fork(), but with one table of descriptors for both. The kernel writes the child's id to `id`
/// before the child runs, and the child's own to where the C library keeps it. (Not by clone3(2),
/// which filters of system calls forbid since they cannot look at its flags.)
pid_t clone_process(std::atomic<std::int32_t>& id) noexcept {
  int* own_id = nullptr;
  ::prctl(PR_GET_TID_ADDRESS, &own_id);
  void* robust_list = nullptr;
  std::size_t robust_size = 0;
  ::syscall(SYS_get_robust_list, 0, &robust_list, &robust_size);
  constexpr unsigned long kFlags =
      CLONE_FILES | CLONE_PARENT_SETTID | CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID | SIGCHLD;
#ifdef __x86_64__
  const long child = ::syscall(SYS_clone, kFlags, nullptr, &id, own_id, nullptr);
#else  // CONFIG_CLONE_BACKWARDS
  const long child = ::syscall(SYS_clone, kFlags, nullptr, &id, nullptr, own_id);
#endif
  // A new process has none, and so would not let go of the mutex that says that it lives.
  if (child == 0) ::syscall(SYS_set_robust_list, robust_list, robust_size);
  return static_cast<pid_t>(child);
}

void make_alive_mutex(pthread_mutex_t& mutex) noexcept {
  pthread_mutexattr_t attributes;
  ::pthread_mutexattr_init(&attributes);
  ::pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
  ::pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
  ::pthread_mutex_init(&mutex, &attributes);
  ::pthread_mutexattr_destroy(&attributes);
}

/// What this process adds to the points by which the kernel chooses whom to kill when memory runs
/// out (oom_badness()). False: it may not; only CAP_SYS_RESOURCE may lower that.
bool set_oom_score(int adjustment) noexcept {
  const int fd = ::open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
  if (fd < 0) return false;
  std::array<char, 16> text{};
  const int length = std::snprintf(text.data(), text.size(), "%d", adjustment);
  const bool set = ::write(fd, text.data(), static_cast<std::size_t>(length)) == length;
  ::close(fd);
  return set;
}

int own_oom_score() noexcept {
  const int fd = ::open("/proc/self/oom_score_adj", O_RDONLY | O_CLOEXEC);
  if (fd < 0) return 0;
  std::array<char, 16> text{};
  if (::read(fd, text.data(), text.size() - 1) < 0) text[0] = '\0';
  ::close(fd);
  return std::atoi(text.data());
}

/// The end of a cloned process: what the C library or a sanitizer does at exit, it would do as if
/// this were the process that it has seen start.
[[noreturn]] void leave(int status) noexcept {
#ifdef __SANITIZE_ADDRESS__
  __lsan_do_leak_check();
#endif
  std::fflush(nullptr);
  ::_exit(status);
}

/// Half of what systemd waits for (WatchdogSec=), as sd_watchdog_enabled(3) recommends.
std::chrono::microseconds watchdog_interval() noexcept {
#ifdef LOCKFS_HAVE_SYSTEMD
  std::uint64_t limit = 0;
  if (::sd_watchdog_enabled(0, &limit) > 0) return std::chrono::microseconds(limit / 2);
#endif
  return {};
}

void tell_watchdog() noexcept {
#ifdef LOCKFS_HAVE_SYSTEMD
  ::sd_notify(0, "WATCHDOG=1");
#endif
}

class Keeper {
 public:
  Keeper(Book& book, const Options& options, const std::function<int()>& serve,
         const std::function<void(const std::string& error)>& on_failed)
      : book_(book),
        header_(book.header<BookHeader>()),
        options_(options),
        serve_(serve),
        on_failed_(on_failed) {}

  /// As the first process. Returns the exit status.
  int run();

 private:
  /// What ended a wait.
  struct Ended {
    bool parent_died = false;
    bool upgrade = false;
    int status = 0;  ///< of the child, as waitpid(2) has it
  };

  void block_signals() noexcept;
  void unblock_in_daemon() const noexcept;
  int stand_by();
  int keep();
  Ended wait_for(pid_t child, bool is_daemon);
  bool is_stuck() noexcept;
  [[noreturn]] void become_daemon();
  void end_children() noexcept;
  bool upgrade();
  int stand_in();
  void end_keeper() noexcept;
  int give_up();
  void note_end() noexcept;
  void note_death(int status) noexcept;
  static std::optional<int> reap(pid_t child) noexcept;

  Book& book_;
  BookHeader& header_;
  const Options& options_;
  const std::function<int()>& serve_;
  const std::function<void(const std::string& error)>& on_failed_;
  pid_t parent_ = 0;  ///< the process that this one is to outlive; 0: it is the first
  /// How often the service manager wants to hear of the first process; zero: never.
  std::chrono::microseconds watchdog_{0};
  int looks_ = 0;  ///< in vain, since the daemon's main thread has ended
  sigset_t waited_{};
};

void Keeper::block_signals() noexcept {
  sigemptyset(&waited_);
  for (const int signal : kPassedOn) sigaddset(&waited_, signal);
  for (const int signal : {SIGCHLD, SIGUSR1, SIGUSR2}) sigaddset(&waited_, signal);
  ::sigprocmask(SIG_BLOCK, &waited_, nullptr);
  // Ignored signals are not waited for either.
  struct sigaction action {};
  action.sa_handler = SIG_DFL;
  ::sigaction(SIGUSR1, &action, nullptr);
}

/// The signals of the end stay blocked: the session waits for them.
void Keeper::unblock_in_daemon() const noexcept {
  struct sigaction action {};
  action.sa_handler = SIG_IGN;
  ::sigaction(SIGUSR1, &action, nullptr);
  ::sigaction(SIGUSR2, &action, nullptr);
  sigset_t unblocked;
  sigemptyset(&unblocked);
  for (const int signal : {SIGCHLD, SIGQUIT, SIGUSR1, SIGUSR2}) sigaddset(&unblocked, signal);
  ::sigprocmask(SIG_UNBLOCK, &unblocked, nullptr);
}

int Keeper::run() {
  block_signals();
  watchdog_ = watchdog_interval();
  // Killing those who look after the daemon would free next to nothing.
  if (header_.generation == 0) {
    make_alive_mutex(header_.alive);
    const int own = own_oom_score();
    const bool lowered = set_oom_score(std::min(own, kKeepersOomScore));
    header_.oom_score = lowered ? own : std::min(own + kDaemonsOomScore, kMostOomScore);
  } else {
    // Another program has come so far: nobody need be left to go on in its place.
    end_keeper();
  }
  return stand_by();
}

// -- the standby ---------------------------------------------------------------------------------

int Keeper::stand_by() {
  // Whoever is left behind by a keeper that dies becomes a child of this process.
  ::prctl(PR_SET_CHILD_SUBREAPER, 1);
  header_.standby = ::getpid();
  while (true) {
    const pid_t self = ::getpid();
    const pid_t keeper = clone_process(header_.keeper);
    if (keeper == 0) {
      ::prctl(PR_SET_CHILD_SUBREAPER, 0);
      parent_ = self;
      ::prctl(PR_SET_PDEATHSIG, SIGUSR1);
      if (::getppid() != self) ::raise(SIGUSR1);
      leave(keep());
    }
    if (keeper < 0) {
      on_failed_(fmt::format("cannot start a process: {}", strerrordesc_np(errno)));
      return 1;
    }
    const Ended ended = wait_for(keeper, false);
    if (ended.upgrade) {
      end_keeper();
      if (upgrade()) return stand_in();
      continue;
    }
    if (WIFEXITED(ended.status)) return WEXITSTATUS(ended.status);
    end_children();
    switch (header_.phase) {
      case BookHeader::kStarting:
        on_failed_("the keeper ended before the mount was ready: " + describe_death(ended.status));
        return 1;
      case BookHeader::kEnding:
        end_mount(options_, header_.fuse_fd);
        return 1;
      default:
        note_death(ended.status);
        break;
    }
  }
}

/// Daemons of a keeper that was killed die with it; whoever is stuck is left behind.
void Keeper::end_children() noexcept {
  if (const pid_t daemon = header_.daemon.exchange(0); daemon > 0) ::kill(daemon, SIGKILL);
  for (int look = 0; look < kLooks;) {
    const pid_t ended = ::waitpid(-1, nullptr, WNOHANG);
    if (ended < 0 && errno == ECHILD) return;
    if (ended > 0) continue;
    sigset_t child;
    sigemptyset(&child);
    sigaddset(&child, SIGCHLD);
    if (::sigtimedwait(&child, nullptr, &kLookAgain) < 0) ++look;
  }
}

void Keeper::end_keeper() noexcept {
  if (const pid_t keeper = header_.keeper; keeper > 0) ::kill(keeper, SIGKILL);
  end_children();
  header_.keeper = 0;
}

/// Another program takes over this process, with all descriptors. Before, it leaves a process that
/// is to go on if the other one ends before it has come so far; its return there is true. Returns
/// false where the other program could not be run.
bool Keeper::upgrade() {
  std::vector<int> known{book_.fd()};
  known_descriptors(book_, known);
  const auto keep = [&known](bool across) {
    for (const int fd : known) {
      if (fd > STDERR_FILENO) ::fcntl(fd, F_SETFD, across ? 0 : FD_CLOEXEC);
    }
  };
  note_end();
  std::vector<std::string> words{header_.program, fmt::format("--adopt={}", book_.fd())};
  words.insert(words.end(), options_.arguments.begin(), options_.arguments.end());
  std::vector<char*> argv;
  argv.reserve(words.size() + 1);
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  sigset_t before;
  ::sigprocmask(SIG_BLOCK, nullptr, &before);
  const pid_t self = ::getpid();
  const pid_t stand_in = clone_process(header_.keeper);
  if (stand_in == 0) {
    parent_ = self;
    return true;
  }
  keep(true);  // for the stand-in too, which has a program that knows them all
  ::execv(header_.program, argv.data());
  header_.upgrading = -errno;
  keep(false);
  end_keeper();
  return false;
}

/// Waits for the other program to end this process, or itself.
int Keeper::stand_in() {
  ::prctl(PR_SET_CHILD_SUBREAPER, 0);
  ::prctl(PR_SET_PDEATHSIG, SIGUSR1);
  while (::getppid() == parent_) ::sigwaitinfo(&waited_, nullptr);
  parent_ = 0;
  header_.upgrading = -ECANCELED;
  return stand_by();
}

// -- the keeper ----------------------------------------------------------------------------------

int Keeper::keep() {
  int deaths = 0;
  auto pause = kFirstPause;
  while (true) {
    const pid_t self = ::getpid();
    header_.generation.fetch_add(1);
    const pid_t daemon = clone_process(header_.daemon);
    if (daemon == 0) {
      parent_ = self;
      become_daemon();
    }
    if (daemon < 0) {
      const std::string why = fmt::format("cannot start the daemon: {}", strerrordesc_np(errno));
      if (header_.phase == BookHeader::kStarting) {
        on_failed_(why);
        return 1;
      }
      return give_up();
    }
    looks_ = 0;
    const Ended ended = wait_for(daemon, true);
    if (ended.parent_died) {
      // The next keeper begins with a daemon of its own.
      parent_ = 0;
      ::kill(daemon, SIGKILL);
      end_children();
      note_death(SIGKILL);
      return stand_by();
    }
    const std::uint32_t phase = header_.phase;
    if (phase == BookHeader::kStarting) {
      if (!WIFSIGNALED(ended.status)) return WEXITSTATUS(ended.status);
      on_failed_("the daemon ended before the mount was ready: " + describe_death(ended.status));
      return 1;
    }
    note_death(ended.status);
    if (phase == BookHeader::kEnding) {
      if (WIFEXITED(ended.status)) return WEXITSTATUS(ended.status);
      end_mount(options_, header_.fuse_fd);
      return 1;
    }
    // One that has answered whatever the last one left has got on.
    const bool at_once = header_.settled != header_.generation;
    deaths = at_once ? deaths + 1 : 0;
    if (deaths >= kMostDeaths) return give_up();
    if (deaths < 2) {
      pause = kFirstPause;
      continue;
    }
    const auto nap = std::chrono::nanoseconds(pause);
    const timespec time{nap / 1s, (nap % 1s).count()};
    ::nanosleep(&time, nullptr);
    pause *= 2;
  }
}

void Keeper::become_daemon() {
  // Without its keeper a daemon would be one too many.
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != parent_) ::raise(SIGKILL);
  if (::pthread_mutex_lock(&header_.alive) == EOWNERDEAD) {
    ::pthread_mutex_consistent(&header_.alive);
  }
  unblock_in_daemon();
  set_oom_score(header_.oom_score);
  int status = 1;
  try {
    status = serve_();
  } catch (const std::exception& error) {
    on_failed_(error.what());
  }
  leave(status);
}

std::optional<int> Keeper::reap(pid_t child) noexcept {
  // Of others that were left behind by a keeper, too.
  for (int status = 0;;) {
    const pid_t ended = ::waitpid(-1, &status, WNOHANG);
    if (ended == child) return status;
    if (ended <= 0) return {};
  }
}

Keeper::Ended Keeper::wait_for(pid_t child, bool is_daemon) {
  while (true) {
    if (const auto status = reap(child)) return {.status = *status};
    if (is_daemon && is_stuck()) return {.status = SIGKILL};
    siginfo_t info{};
    timespec look = looks_ > 0 ? kLookAgain : kLook;
    if (!is_daemon) look = timespec{watchdog_ / 1s, (watchdog_ % 1s) / 1ns};
    const bool waits = is_daemon || watchdog_ != 0us;
    const int signal = ::sigtimedwait(&waited_, &info, waits ? &look : nullptr);
    if (!is_daemon && watchdog_ != 0us) tell_watchdog();
    if (signal == SIGUSR1 && parent_ != 0 && ::getppid() != parent_) return {.parent_died = true};
    if (signal == SIGUSR2 && !is_daemon && header_.upgrading > 0) return {.upgrade = true};
    const bool passed_on = std::find(kPassedOn.begin(), kPassedOn.end(), signal) != kPassedOn.end();
    // What comes from a terminal the child gets itself; twice does no harm.
    if (passed_on) ::kill(child, signal);
  }
}

/// Whether nothing is left of the daemon but threads in a call that does not return.
bool Keeper::is_stuck() noexcept {
  const int error = ::pthread_mutex_trylock(&header_.alive);
  if (error == EBUSY) {
    looks_ = 0;
    return false;
  }
  if (error == EOWNERDEAD) ::pthread_mutex_consistent(&header_.alive);
  if (error == 0 || error == EOWNERDEAD) ::pthread_mutex_unlock(&header_.alive);
  // A daemon that has only just been cloned has not taken it yet.
  if (error == EOWNERDEAD || looks_ > 0) ++looks_;
  return looks_ > kLooks;
}

void Keeper::note_end() noexcept {
  header_.ended_at = nanoseconds_on(CLOCK_REALTIME);
  header_.dead_since = nanoseconds_on(CLOCK_MONOTONIC);
}

void Keeper::note_death(int status) noexcept {
  note_end();
  header_.death = status;
  header_.died_at = header_.ended_at;
}

int Keeper::give_up() {
  start_logging(options_, !options_.foreground);
  spdlog::critical(
      "{}: {} daemons in a row died before they had answered what the last one left ({}); "
      "unmounting",
      options_.mountpoint_path, kMostDeaths, describe_death(header_.death));
  end_mount(options_, header_.fuse_fd);
  return 1;
}

}  // namespace

int keep_daemon(Book& book, const Options& options, const std::function<int()>& serve,
                const std::function<void(const std::string& error)>& on_failed) {
  return Keeper(book, options, serve, on_failed).run();
}

void end_mount(const Options& options, int fuse_fd) noexcept {
  // As fuse_kern_unmount(): the connection may have ended before the mount. Closed first, so that
  // nobody is asked any more.
  pollfd device{fuse_fd, 0, 0};
  const bool gone = ::poll(&device, 1, 0) == 1 && (device.revents & (POLLERR | POLLNVAL)) != 0;
  ::close(fuse_fd);
  if (gone) return;
  const char* const mountpoint = options.mountpoint_path.c_str();
  if (::geteuid() == 0) {
    ::umount2(mountpoint, MNT_DETACH | UMOUNT_NOFOLLOW);
    return;
  }
  std::array<char*, 7> arguments = {const_cast<char*>("fusermount3"),
                                    const_cast<char*>("-u"),
                                    const_cast<char*>("-q"),
                                    const_cast<char*>("-z"),
                                    const_cast<char*>("--"),
                                    const_cast<char*>(mountpoint),
                                    nullptr};
  pid_t child = 0;
  if (::posix_spawnp(&child, "fusermount3", nullptr, nullptr, arguments.data(), environ) == 0) {
    ::waitpid(child, nullptr, 0);
  }
}

}  // namespace lockfs
