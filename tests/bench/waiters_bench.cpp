/// Blocked waiters: how long a lock takes to go from one to the next while many others wait, and
/// between the mount and programs that lock the backing file itself.
#include <fcntl.h>
#include <pthread.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "tests/bench/compare.h"
#include "tests/bench/locking.h"
#include "tests/bench/mounts.h"

namespace lockfs::bench {
namespace {

/// Threads that all wait for one lock, each through an open file of its own. Once it is released
/// they get it one after the other; each notes when it got it and when it let go.
class Crowd {
 public:
  Crowd(const std::string& path, std::size_t size) : members_(size) {
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, std::size_t{64} * 1024);
    for (Member& member : members_) {
      member.crowd = this;
      member.file = std::make_unique<File>(path, O_RDWR);
      check(pthread_create(&member.thread, &attributes, &Crowd::serve, &member) == 0,
            "pthread_create");
    }
    pthread_attr_destroy(&attributes);
    // A thread asks right after it has counted itself; the last ones get a moment to arrive.
    while (asking_.load() < size) usleep(1000);
    usleep(20'000 + static_cast<useconds_t>(size) * 20);
  }
  Crowd(const Crowd&) = delete;
  Crowd& operator=(const Crowd&) = delete;
  ~Crowd() { join(); }

  /// Appends the time from each release to the grant that followed. `released`: now_ns() just
  /// before the lock was let go of for the first.
  void hand_overs(std::int64_t released, Samples& samples) {
    join();
    check(!failed_.load(), "a waiter could not lock");
    std::vector<const Member*> order;
    for (const Member& member : members_) order.push_back(&member);
    std::sort(order.begin(), order.end(),
              [](const Member* a, const Member* b) { return a->granted < b->granted; });
    for (const Member* member : order) {
      samples.push_back(static_cast<double>(member->granted - released));
      released = member->released;
    }
  }

 private:
  struct Member {
    Crowd* crowd = nullptr;
    std::unique_ptr<File> file;
    pthread_t thread = {};
    std::int64_t granted = 0;
    std::int64_t released = 0;
  };

  static void* serve(void* argument) {
    Member& self = *static_cast<Member*>(argument);
    self.crowd->asking_.fetch_add(1);
    if (!lock(Kind::kOfd, self.file->fd())) self.crowd->failed_ = true;
    self.granted = now_ns();
    self.released = now_ns();
    if (!unlock(Kind::kOfd, self.file->fd())) self.crowd->failed_ = true;
    return nullptr;
  }
  void join() {
    if (joined_) return;
    joined_ = true;
    for (const Member& member : members_) pthread_join(member.thread, nullptr);
  }

  std::vector<Member> members_;
  std::atomic<std::size_t> asking_{0};
  std::atomic<bool> failed_{false};
  bool joined_ = false;
};

/// A round: `holder` holds the lock while `size` wait for it through `waiters`.
Side crowd_side(const std::string& target, const std::string& holder, const std::string& waiters,
                std::size_t size, int repeats, Build build = Build::kThis) {
  return {.target = target,
          .round =
              [=](Samples& samples) {
                for (int i = 0; i < repeats; ++i) {
                  const File held(holder, O_RDWR);
                  check(lock(Kind::kOfd, held.fd()), "lock");
                  Crowd crowd(waiters, size);
                  const std::int64_t released = now_ns();
                  check(unlock(Kind::kOfd, held.fd()), "unlock");
                  crowd.hand_overs(released, samples);
                }
              },
          .build = build};
}

/// Lets this process have as many open files as `count` waiters need.
void raise_file_limit(std::size_t count) {
  rlimit limit = {};
  check(getrlimit(RLIMIT_NOFILE, &limit) == 0, "getrlimit");
  const rlim_t wanted = count + 100;
  if (limit.rlim_cur >= wanted) return;
  limit.rlim_cur = wanted;
  limit.rlim_max = std::max(limit.rlim_max, wanted);
  check(setrlimit(RLIMIT_NOFILE, &limit) == 0, "setrlimit");
}

}  // namespace

void run_waiter_benchmarks(Report& report, const Settings& settings) {
  constexpr int kRounds = 5;
  constexpr std::size_t kMost = 10'000;
  raise_file_limit(kMost);
  struct Place {
    Mount mount;
    std::string inside;  ///< the file through the mount
    std::string source;  ///< and beneath it
    Build build;
  };
  std::vector<Place> places;
  for (const Settings& build : settings.builds()) {
    Mount mount = Mount::lockfs(build, "waiters", "");
    const std::string inside = mount.dir() + "/file";
    const std::string source = mount.source() + "/file";
    places.push_back({std::move(mount), inside, source, build.build});
    const File created(inside, O_RDWR | O_CREAT);
  }
  const std::string plain = make_folder(settings, "waiters-backing") + "/file";
  const File created(plain, O_RDWR | O_CREAT);

  const char* group = "unlock to next one's grant";
  for (const std::size_t size : {std::size_t{1}, std::size_t{100}, kMost}) {
    const int repeats = size == 1 ? 50 : 1;
    if (settings.quick && size == kMost) continue;
    std::vector<Side> sides;
    if (!settings.two_builds()) {
      sides.push_back(crowd_side(kBacking, plain, plain, size, repeats));
    }
    for (const Place& at : places) {
      sides.push_back(crowd_side("lockfs", at.inside, at.inside, size, repeats, at.build));
    }
    report.compare(group, std::to_string(size) + " waiting", sides, settings.rounds(kRounds));
  }
  std::vector<Side> sides;
  if (!settings.two_builds()) sides.push_back(crowd_side(kBacking, plain, plain, 1, 50));
  for (const Place& at : places) {
    sides.push_back(crowd_side("mount to outsider", at.inside, at.source, 1, 50, at.build));
    sides.push_back(crowd_side("outsider to mount", at.source, at.inside, 1, 50, at.build));
  }
  report.compare(group, "1 waiting, two worlds", sides, settings.rounds(kRounds));
}

}  // namespace lockfs::bench
