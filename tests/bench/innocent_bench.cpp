/// One user beside another who attacks: what a lock and unlock of a file of his own takes on lockfs
/// alone, and on lockfs and the backing folder while the same attack goes on there.
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <string>
#include <vector>

#include "tests/bench/compare.h"
#include "tests/bench/locking.h"
#include "tests/bench/mounts.h"

namespace lockfs::bench {
namespace {

/// An attack ends by itself after so many seconds, whatever happens to who started it.
constexpr unsigned kMostSeconds = 300;
constexpr const char* kMostMemory = "2G";

/// Runs `body` on a thread with a file table of its own, so that its POSIX locks are those of
/// another owner.
void start_owner(std::function<void()> body) {
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, std::size_t{64} * 1024);
  pthread_t thread = {};
  auto* const task = new std::function<void()>(std::move(body));
  const int error = pthread_create(
      &thread, &attributes,
      [](void* argument) -> void* {
        auto* const run = static_cast<std::function<void()>*>(argument);
        if (::unshare(CLONE_FILES) == 0) (*run)();
        return nullptr;
      },
      task);
  check(error == 0, "pthread_create");
  pthread_attr_destroy(&attributes);
}

bool posix(int fd, short type, bool wait, off_t start, off_t length) {
  struct flock request = {};
  request.l_type = type;
  request.l_start = start;
  request.l_len = length;
  return ::fcntl(fd, wait ? F_SETLKW : F_SETLK, &request) == 0;
}

int open_file(const std::string& path) { return ::open(path.c_str(), O_RDWR | O_CREAT, 0666); }

/// One process locks every other byte of a file, threads toggle a byte behind them. Locks are
/// looked through one by one in the kernel, on the backing file as beneath the mirror.
void lock_much(const std::string& folder, int locks, int threads) {
  const std::string path = folder + "/attacked";
  const int fd = open_file(path);
  for (off_t i = 0; i < locks; ++i) {
    if (!posix(fd, F_WRLCK, false, 2 * i, 1)) std::perror("attack: lock");
  }
  for (int i = 0; i < threads; ++i) {
    start_owner([path] {
      const int own = open_file(path);
      const off_t byte = 1'000'000'000;
      while (true) {
        posix(own, F_WRLCK, false, byte, 1);
        posix(own, F_UNLCK, false, byte, 1);
      }
    });
  }
}

/// `size` owners share one file and wait for another that as many share; twelve more ask for the
/// first over and over: whom each waits for is looked at in search of a deadlock.
void wait_much(const std::string& folder, int size) {
  const std::string first = folder + "/attacked";
  const std::string second = folder + "/attacked-too";
  static pthread_barrier_t all_share;
  pthread_barrier_init(&all_share, nullptr, 2 * static_cast<unsigned>(size) + 1);
  for (int i = 0; i < 2 * size; ++i) {
    start_owner([=] {
      const bool waits = i < size;
      const int held = open_file(waits ? first : second);
      const int wanted = open_file(second);
      if (!posix(held, F_RDLCK, false, 0, 0)) std::perror("attack: share");
      pthread_barrier_wait(&all_share);
      if (waits) posix(wanted, F_WRLCK, true, 0, 0);
      while (true) pause();
    });
  }
  pthread_barrier_wait(&all_share);
  usleep(500'000);
  struct sigaction action = {};
  action.sa_handler = [](int) {};
  sigaction(SIGUSR1, &action, nullptr);
  static std::vector<pthread_t> askers;
  static std::atomic<int> asking{0};
  constexpr int kAskers = 12;
  askers.resize(kAskers);
  for (int i = 0; i < kAskers; ++i) {
    start_owner([=] {
      askers[static_cast<std::size_t>(i)] = pthread_self();
      const int fd = open_file(first);
      ++asking;
      while (true) posix(fd, F_WRLCK, true, 0, 0);
    });
  }
  while (asking < kAskers) usleep(1000);
  start_owner([] {
    while (true) {
      usleep(5000);
      for (const pthread_t asker : askers) pthread_kill(asker, SIGUSR1);
    }
  });
}

/// Puts the calling process into a cgroup of its own with bounded memory, where there are any.
void bound_memory() {
  const std::string group = "/sys/fs/cgroup/lockfs-bench";
  if (::mkdir(group.c_str(), 0755) != 0 && errno != EEXIST) return;
  const auto write_to = [&group](const char* name, const std::string& text) {
    if (FILE* const file = std::fopen((group + name).c_str(), "we")) {
      std::fputs(text.c_str(), file);
      std::fclose(file);
    }
  };
  write_to("/memory.max", kMostMemory);
  write_to("/cgroup.procs", std::to_string(::getpid()));
}

using Attack = std::function<void(const std::string& folder)>;

/// An attack under way, in a process of its own.
class Attacker {
 public:
  Attacker(const Attack& attack, const std::string& folder) {
    int started[2];
    check(::pipe(started) == 0, "pipe");
    process_ = ::fork();
    check(process_ >= 0, "fork");
    if (process_ == 0) {
      ::alarm(kMostSeconds);
      bound_memory();
      attack(folder);
      if (::write(started[1], "x", 1) == 1) {
        while (true) ::pause();
      }
      ::_exit(1);
    }
    ::close(started[1]);
    char byte = 0;
    const bool running = ::read(started[0], &byte, 1) == 1;
    ::close(started[0]);
    if (!running) ::waitpid(process_, nullptr, 0);
    check(running, "the attack did not start");
  }
  Attacker(const Attacker&) = delete;
  Attacker& operator=(const Attacker&) = delete;
  ~Attacker() {
    ::kill(process_, SIGKILL);
    ::waitpid(process_, nullptr, 0);
    ::rmdir("/sys/fs/cgroup/lockfs-bench");
  }

 private:
  pid_t process_ = -1;
};

struct Times {
  double p50 = 0;
  double p99 = 0;
  double pairs = 0;  ///< a second
};

Times measure(const std::string& folder, std::int64_t duration_ns) {
  const File own(folder + "/own", O_RDWR | O_CREAT);
  Samples samples;
  const std::int64_t end = now_ns() + duration_ns;
  const std::int64_t began = now_ns();
  while (now_ns() < end) {
    time_into(samples, [&] {
      check(lock(Kind::kPosix, own.fd(), 0, 1) && unlock(Kind::kPosix, own.fd(), 0, 1), "lock");
    });
  }
  const double seconds = static_cast<double>(now_ns() - began) / 1e9;
  std::sort(samples.begin(), samples.end());
  const auto at = [&samples](double part) {
    return samples[static_cast<std::size_t>(part * static_cast<double>(samples.size() - 1))];
  };
  return {at(0.5), at(0.99), static_cast<double>(samples.size()) / seconds};
}

/// The median of each over the rounds.
Times typical(std::vector<Times> rounds) {
  const auto median = [&rounds](double Times::*field) {
    std::vector<double> values;
    for (const Times& each : rounds) values.push_back(each.*field);
    std::sort(values.begin(), values.end());
    return values[values.size() / 2];
  };
  return {median(&Times::p50), median(&Times::p99), median(&Times::pairs)};
}

}  // namespace

void run_innocent_benchmarks(Report& report, const Settings& settings) {
  struct Case {
    std::string name;
    Attack attack;
  };
  const std::vector<Case> cases{
      {"20,000 locks, 32 threads", [](const std::string& at) { lock_much(at, 20'000, 32); }},
      {"8,000 locks, 400 threads", [](const std::string& at) { lock_much(at, 8'000, 400); }},
      {"2 x 1,500 owners, 12 ask", [](const std::string& at) { wait_much(at, 1'500); }},
  };
  const std::int64_t duration = settings.quick ? 1'000'000'000 : 4'000'000'000;
  const int rounds = settings.quick || settings.two_builds() ? 1 : 3;
  const char* group = "an innocent user";
  for (const Case& each : cases) {
    for (const Settings& build : settings.builds()) {
      std::vector<Times> alone;
      std::vector<Times> attacked;
      std::vector<Times> on_backing;
      for (int round = 0; round < rounds; ++round) {
        const Mount mount = Mount::lockfs(build, "innocent" + std::to_string(round), "");
        alone.push_back(measure(mount.dir(), duration));
        {
          const Attacker attacker(each.attack, mount.dir());
          attacked.push_back(measure(mount.dir(), duration));
        }
        if (settings.two_builds()) continue;
        const std::string plain = make_folder(settings, "innocent-backing" + std::to_string(round));
        const Attacker attacker(each.attack, plain);
        on_backing.push_back(measure(plain, duration));
      }
      const Times without = typical(alone);
      const Times with = typical(attacked);
      if (settings.two_builds()) {
        report.add_figures(group, each.name, "", "lockfs",
                           {{"us median", with.p50 / 1e3}, {"us 99 %", with.p99 / 1e3}},
                           build.build);
        continue;
      }
      const Times backing = typical(on_backing);
      report.add_figures(group, each.name, "", "lockfs",
                         {{"us median", with.p50 / 1e3},
                          {"x alone", with.p50 / without.p50},
                          {"us 99 %", with.p99 / 1e3},
                          {"x alone 99 %", with.p99 / without.p99},
                          {"pairs/s", with.pairs},
                          {"x backing", with.pairs / backing.pairs}});
      report.add_figures(group, each.name, "", kBacking,
                         {{"us median", backing.p50 / 1e3},
                          {"us 99 %", backing.p99 / 1e3},
                          {"pairs/s", backing.pairs}});
    }
  }
}

}  // namespace lockfs::bench
