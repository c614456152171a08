#include "mount-helpers/workload/live_run.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <ctime>
#include <map>
#include <vector>

namespace workload {

namespace {

using lockmgr::Mode;
using lockmgr::OwnerType;
using What = Action::What;

Nanoseconds now() {
  timespec ts{};
  clock_gettime(CLOCK_MONOTONIC, &ts);
  return std::chrono::seconds(ts.tv_sec) + Nanoseconds(ts.tv_nsec);
}

void sleep_until(Nanoseconds time) {
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(time);
  const timespec ts{seconds.count(), (time - seconds).count()};
  while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &ts, nullptr) == EINTR) {
  }
}

/// What a child leaves for its parent, in memory that both see.
struct Shared {
  std::atomic<std::uint64_t> asked, granted, refused, deadlocks, given_up, errors, waited_ns,
      longest_ns;
};

/// While it lives a blocking call ends with EINTR after `patience`, again and again should the
/// first signal come before the call.
class Alarm {
 public:
  explicit Alarm(Nanoseconds patience) { set(patience, std::chrono::milliseconds(10)); }
  ~Alarm() { set(Nanoseconds(0), Nanoseconds(0)); }
  Alarm(const Alarm&) = delete;
  Alarm& operator=(const Alarm&) = delete;

 private:
  static timeval value(Nanoseconds time) {
    const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(time);
    return {seconds.count(),
            std::chrono::duration_cast<std::chrono::microseconds>(time - seconds).count()};
  }
  static void set(Nanoseconds first, Nanoseconds then) {
    const itimerval timer{value(first.count() == 0 ? Nanoseconds(0) : then), value(first)};
    setitimer(ITIMER_REAL, &timer, nullptr);
  }
};

/// 0 or the errno of the call.
int lock_call(int fd, const Action& action) {
  if (action.type == OwnerType::kFlock) {
    const int how = action.mode == Mode::kNone     ? LOCK_UN
                    : action.mode == Mode::kShared ? LOCK_SH
                                                   : LOCK_EX;
    return flock(fd, action.wait ? how : how | LOCK_NB) == 0 ? 0 : errno;
  }
  struct flock lock {};
  lock.l_type = static_cast<short>(action.mode == Mode::kNone     ? F_UNLCK
                                   : action.mode == Mode::kShared ? F_RDLCK
                                                                  : F_WRLCK);
  lock.l_whence = SEEK_SET;
  lock.l_start = action.range.first;
  lock.l_len = action.range.last == lockmgr::kEof ? 0 : action.range.last - action.range.first + 1;
  const bool process = action.type == OwnerType::kProcess;
  const int command =
      process ? (action.wait ? F_SETLKW : F_SETLK) : (action.wait ? F_OFD_SETLKW : F_OFD_SETLK);
  return fcntl(fd, command, &lock) == 0 ? 0 : errno;
}

/// One process of the plan, in the child.
class Runner {
 public:
  Runner(const Plan& plan, const Program& program, int directory, Shared& shared)
      : plan_(plan), program_(program), directory_(directory), shared_(shared) {}

  /// 0 or the errno of an open.
  int run() {
    bool skips = false;
    std::size_t skipped_file = 0;
    for (const Action& action : program_.actions) {
      if (skips && !(action.what == What::kClose && action.file == skipped_file)) continue;
      skips = false;
      if (action.what == What::kSleep) {
        sleep_until(now() + action.time);
      } else if (action.what == What::kClose) {
        close(fds_.at(action.file));
      } else if (action.what == What::kOpen) {
        const int fd = openat(directory_, plan_.files[action.file].c_str(), O_RDWR | O_CLOEXEC);
        if (fd < 0) return errno;
        fds_[action.file] = fd;
      } else if (!lock(action)) {
        skips = true;
        skipped_file = action.file;
      }
    }
    return 0;
  }

 private:
  bool lock(const Action& action) {
    const Nanoseconds begin = now();
    int error = 0;
    {
      const Alarm alarm(action.wait ? action.patience : Nanoseconds(0));
      error = lock_call(fds_.at(action.file), action);
    }
    if (action.mode == Mode::kNone) return true;
    const auto took = static_cast<std::uint64_t>((now() - begin).count());
    ++shared_.asked;
    shared_.waited_ns += took;
    std::uint64_t longest = shared_.longest_ns;
    while (took > longest && !shared_.longest_ns.compare_exchange_weak(longest, took)) {
    }
    ++(error == 0                           ? shared_.granted
       : error == EAGAIN || error == EACCES ? shared_.refused
       : error == EDEADLK                   ? shared_.deadlocks
       : error == EINTR                     ? shared_.given_up
                                            : shared_.errors);
    return error == 0;
  }

  const Plan& plan_;
  const Program& program_;
  const int directory_;
  Shared& shared_;
  std::map<std::size_t, int> fds_;
};

/// Makes the plan's files. 0 or an errno.
int make_files(const Plan& plan, int directory) {
  for (const std::string& name : plan.files) {
    const int fd = openat(directory, name.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
    if (fd < 0) return errno;
    close(fd);
  }
  return 0;
}

std::string failed(const std::string& what, int error) {
  return what + ": " + std::strerror(error);
}

/// Starts a process for each program and waits for all of them.
std::string run_programs(const Plan& plan, int directory, int source, Shared& shared) {
  const Nanoseconds begin = now() + std::chrono::milliseconds(50);
  std::vector<const Program*> order;
  for (const Program& program : plan.programs) order.push_back(&program);
  std::stable_sort(order.begin(), order.end(),
                   [](const Program* a, const Program* b) { return a->start < b->start; });
  std::string error;
  std::size_t children = 0;
  for (const Program* program : order) {
    // Forked when its time has come, so that not all programs of a long run exist at once.
    sleep_until(begin + program->start);
    const pid_t child = fork();
    if (child < 0) {
      error = failed("fork", errno);
      break;
    }
    if (child == 0) {
      struct sigaction interrupt {};
      interrupt.sa_handler = [](int) {};
      sigaction(SIGALRM, &interrupt, nullptr);
      _exit(Runner(plan, *program, program->remote ? source : directory, shared).run());
    }
    ++children;
  }
  for (; children > 0; --children) {
    int status = 0;
    while (wait(&status) < 0 && errno == EINTR) {
    }
    if (WIFSIGNALED(status)) {
      error = "a program was killed by signal " + std::to_string(WTERMSIG(status));
    } else if (WEXITSTATUS(status) != 0) {
      error = failed("a program could not open its file", WEXITSTATUS(status));
    }
  }
  return error;
}

}  // namespace

std::string run_live(const Plan& plan, const std::string& directory, const std::string& source,
                     Counts& counts) {
  const bool remote = std::any_of(plan.programs.begin(), plan.programs.end(),
                                  [](const Program& program) { return program.remote; });
  if (remote && source.empty()) {
    return "this workload has an NFS client in it: --source names the directory below the mount, "
           "where its locks arrive";
  }
  const int dir = open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (dir < 0) return failed(directory, errno);
  const int below = remote ? open(source.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
  if (remote && below < 0) return failed(source, errno);
  if (const int error = make_files(plan, dir); error != 0) return failed(directory, error);

  void* memory =
      mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return failed("mmap", errno);
  auto& shared = *new (memory) Shared{};
  std::string error = run_programs(plan, dir, below, shared);
  counts = {shared.asked,    shared.granted, shared.refused,   shared.deadlocks,
            shared.given_up, shared.errors,  shared.waited_ns, shared.longest_ns};
  munmap(memory, sizeof(Shared));
  close(dir);
  if (remote) close(below);
  return error;
}

}  // namespace workload
