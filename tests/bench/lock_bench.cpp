/// Lock calls: the round trip without contention, and the hand-over from one process to another.
#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <stdexcept>
#include <vector>

#include "tests/bench/compare.h"
#include "tests/bench/locking.h"
#include "tests/bench/mounts.h"
#include "tests/bench/shared_memory.h"

namespace lockfs::bench {
namespace {

/// A place to measure locks in.
struct Place {
  std::string target;
  std::string path;  ///< of the file to lock
  Build build = Build::kThis;
};

/// The second process of a hand-over: on each byte from the command pipe it asks for the lock,
/// which the first one holds, notes when it got it, lets go and answers with a byte.
class Waiter {
 public:
  Waiter(Kind kind, const std::string& path) {
    std::array<int, 2> command = {};
    std::array<int, 2> answer = {};
    check(pipe2(command.data(), O_CLOEXEC) == 0 && pipe2(answer.data(), O_CLOEXEC) == 0, "pipe");
    pid_ = fork();
    check(pid_ >= 0, "fork");
    if (pid_ == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      // A signal to the whole group would end the wait here, and the parent would wait for nobody.
      for (const int sent : {SIGINT, SIGTERM, SIGHUP}) signal(sent, SIG_IGN);
      close(command[1]);
      close(answer[0]);
      serve(kind, path, command[0], answer[1]);
    }
    close(command[0]);
    close(answer[1]);
    command_ = command[1];
    answer_ = answer[0];
  }
  Waiter(const Waiter&) = delete;
  Waiter& operator=(const Waiter&) = delete;
  ~Waiter() {
    // Closing the pipe would not end it: a waiter started later holds a copy of the other end.
    kill(pid_, SIGKILL);
    close(command_);
    close(answer_);
    waitpid(pid_, nullptr, 0);
  }

  /// Has the process ask for the lock; returns once it sleeps in the call.
  void ask() {
    const char byte = 0;
    check(write(command_, &byte, 1) == 1, "write to the waiter");
    const std::string path = "/proc/" + std::to_string(pid_) + "/syscall";
    const std::string flock_call = std::to_string(SYS_flock) + " ";
    const std::string fcntl_call = std::to_string(SYS_fcntl) + " ";
    for (;;) {
      std::ifstream in(path);
      std::string call;
      std::getline(in, call);
      if (call.rfind(flock_call, 0) == 0 || call.rfind(fcntl_call, 0) == 0) break;
    }
    // The daemon is given time to park the request and the processors to go idle, as they are when
    // a lock has been held for a while.
    usleep(200);
  }

  /// Waits until it has had the lock; returns when it got it, in nanoseconds of now_ns().
  std::int64_t granted_at() {
    char byte = 0;
    check(read(answer_, &byte, 1) == 1, "read from the waiter");
    if (byte != 0) throw std::runtime_error("the waiting process could not lock");
    return granted_at_[0];
  }

 private:
  [[noreturn]] void serve(Kind kind, const std::string& path, int command, int answer) {
    const int fd = open(path.c_str(), O_RDWR | O_CLOEXEC);
    char byte = 0;
    while (read(command, &byte, 1) == 1) {
      char result = fd >= 0 && lock(kind, fd) ? 0 : 1;
      granted_at_[0] = now_ns();
      if (result == 0 && !unlock(kind, fd)) result = 1;
      if (write(answer, &result, 1) != 1) break;
    }
    _exit(0);
  }

  pid_t pid_ = -1;
  int command_ = -1;
  int answer_ = -1;
  const SharedArray<std::int64_t> granted_at_{1};
};

}  // namespace

void run_lock_benchmarks(Report& report, const Settings& settings) {
  constexpr int kRounds = 20;
  constexpr int kPairs = 1000;
  std::vector<Mount> mounts;
  std::vector<Place> places;
  if (!settings.two_builds()) {
    places.push_back({kBacking, make_folder(settings, "lock-backing") + "/file"});
  }
  for (const Settings& build : settings.builds()) {
    mounts.push_back(Mount::lockfs(build, "lock", ""));
    places.push_back({"lockfs", mounts.back().dir() + "/file", build.build});
    mounts.push_back(Mount::lockfs(build, "lock-nomirror", "nomirror"));
    places.push_back({"lockfs, mirror off", mounts.back().dir() + "/file", build.build});
  }
  for (const Place& place : places) const File created(place.path, O_RDWR | O_CREAT);
  if (!settings.two_builds()) {
    mounts.push_back(Mount::null(settings));
    places.push_back({kFloor, mounts.back().dir() + "/file"});
  }

  for (const Kind kind : kKinds) {
    std::vector<Side> sides;
    for (const Place& place : places) {
      auto file = std::make_shared<File>(place.path, O_RDWR);
      sides.push_back({.target = place.target,
                       .round =
                           [kind, file](Samples& samples) {
                             for (int i = 0; i < kPairs; ++i) {
                               time_into(samples, [&] {
                                 check(lock(kind, file->fd()) && unlock(kind, file->fd()), "lock");
                               });
                             }
                           },
                       .build = place.build});
    }
    report.compare("lock + unlock", name_of(kind), sides, settings.rounds(kRounds));
  }

  for (const Kind kind : kKinds) {
    std::vector<Side> sides;
    for (const Place& place : places) {
      sides.push_back({.target = place.target,
                       .round =
                           [kind, path = place.path](Samples& samples) {
                             for (int i = 0; i < kPairs / 4; ++i) {
                               time_into(samples, [&] {
                                 const File file(path, O_RDWR);
                                 check(lock(kind, file.fd()), "lock");
                               });
                             }
                           },
                       .build = place.build});
    }
    report.compare("open + lock + close", name_of(kind), sides, settings.rounds(kRounds));
  }
}

void run_handover_benchmarks(Report& report, const Settings& settings) {
  constexpr int kRounds = 10;
  constexpr int kHandovers = 200;
  std::vector<Mount> mounts;
  std::vector<Place> places;
  if (!settings.two_builds()) {
    places.push_back({kBacking, make_folder(settings, "handover-backing") + "/file"});
  }
  for (const Settings& build : settings.builds()) {
    mounts.push_back(Mount::lockfs(build, "handover", ""));
    places.push_back({"lockfs", mounts.back().dir() + "/file", build.build});
  }
  for (const Place& place : places) const File created(place.path, O_RDWR | O_CREAT);

  for (const Kind kind : kKinds) {
    std::vector<Side> sides;
    for (const Place& place : places) {
      auto file = std::make_shared<File>(place.path, O_RDWR);
      auto waiter = std::make_shared<Waiter>(kind, place.path);
      sides.push_back({.target = place.target,
                       .round =
                           [kind, file, waiter](Samples& samples) {
                             for (int i = 0; i < kHandovers; ++i) {
                               check(lock(kind, file->fd()), "lock");
                               waiter->ask();
                               const std::int64_t start = now_ns();
                               check(unlock(kind, file->fd()), "unlock");
                               samples.push_back(static_cast<double>(waiter->granted_at() - start));
                             }
                           },
                       .build = place.build});
    }
    report.compare("unlock to next one's grant", name_of(kind), sides, settings.rounds(kRounds));
  }
}

}  // namespace lockfs::bench
