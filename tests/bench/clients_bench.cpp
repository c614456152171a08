/// Many clients at once: how many pairs of lock and unlock a second they get together, and how much
/// less than the luckiest the unluckiest of them gets.
#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <cstdint>
#include <string>
#include <vector>

#include "tests/bench/compare.h"
#include "tests/bench/locking.h"
#include "tests/bench/mounts.h"
#include "tests/bench/shared_memory.h"

namespace lockfs::bench {
namespace {

constexpr off_t kLength = 100;

enum class Scene { kSameRange, kDisjointRanges, kDifferentFiles };

const char* name_of(Scene scene) {
  switch (scene) {
    case Scene::kSameRange:
      return "one range of one file";
    case Scene::kDisjointRanges:
      return "ranges of their own in one file";
    case Scene::kDifferentFiles:
      return "files of their own";
  }
  return "";
}

/// Where a client locks.
struct Spot {
  std::string path;
  off_t start = 0;
};

Spot spot_of(const std::string& folder, Scene scene, int client) {
  if (scene == Scene::kDifferentFiles) return {folder + "/file" + std::to_string(client), 0};
  return {folder + "/file", scene == Scene::kSameRange ? 0 : client * kLength * 2};
}

/// What the clients of one run share with the one who starts them.
struct Gate {
  std::int64_t begin;  ///< now_ns() of the start; 0: not yet
  std::int64_t end;
};

/// Locks and unlocks until the end. Never returns.
[[noreturn]] void be_client(const Spot& spot, volatile Gate& gate, volatile std::uint64_t& pairs,
                            int ready) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  const int fd = open(spot.path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  const char byte = fd < 0 ? 'x' : 0;
  if (write(ready, &byte, 1) != 1 || fd < 0) _exit(1);
  while (gate.begin == 0) usleep(1000);
  while (now_ns() < gate.begin) usleep(1000);
  while (now_ns() < gate.end) {
    if (!lock(Kind::kOfd, fd, spot.start, kLength)) _exit(1);
    if (!unlock(Kind::kOfd, fd, spot.start, kLength)) _exit(1);
    pairs = pairs + 1;
  }
  _exit(0);
}

/// Lets `clients` processes loop for `milliseconds`; returns how many pairs each one made.
std::vector<std::uint64_t> run_clients(const std::string& folder, Scene scene, int clients,
                                       int milliseconds) {
  const SharedArray<Gate> gate(1);
  const SharedArray<std::uint64_t> pairs(static_cast<std::size_t>(clients) * 16);
  std::array<int, 2> ready = {};
  check(pipe2(ready.data(), O_CLOEXEC) == 0, "pipe");
  std::vector<pid_t> children;
  for (int i = 0; i < clients; ++i) {
    const pid_t child = fork();
    check(child >= 0, "fork");
    if (child == 0) {
      // A cache line of its own for each count.
      be_client(spot_of(folder, scene, i), gate[0], pairs[static_cast<std::size_t>(i) * 16],
                ready[1]);
    }
    children.push_back(child);
  }
  close(ready[1]);
  bool well = true;
  for (int i = 0; i < clients; ++i) {
    char byte = 1;
    well = read(ready[0], &byte, 1) == 1 && byte == 0 && well;
  }
  close(ready[0]);
  constexpr std::int64_t kSettle = 20'000'000;
  gate[0].end = now_ns() + kSettle + std::int64_t{milliseconds} * 1'000'000;
  gate[0].begin = well ? now_ns() + kSettle : 1;
  for (const pid_t child : children) {
    int status = 0;
    check(waitpid(child, &status, 0) == child, "waitpid");
    well = status == 0 && well;
  }
  check(well, "a client could not open or lock its file");
  std::vector<std::uint64_t> counts;
  for (int i = 0; i < clients; ++i) counts.push_back(pairs[static_cast<std::size_t>(i) * 16]);
  return counts;
}

}  // namespace

void run_client_benchmarks(Report& report, const Settings& settings) {
  constexpr int kMilliseconds = 1000;
  const int milliseconds = settings.quick ? 50 : settings.two_builds() ? 100 : kMilliseconds;
  struct Place {
    std::string target;
    std::string folder;
    Build build = Build::kThis;
  };
  std::vector<Mount> mounts;
  std::vector<Place> places;
  if (!settings.two_builds()) {
    places.push_back({kBacking, make_folder(settings, "clients-backing")});
  }
  for (const Settings& build : settings.builds()) {
    mounts.push_back(Mount::lockfs(build, "clients", ""));
    places.push_back({"lockfs", mounts.back().dir(), build.build});
  }
  if (!settings.two_builds()) {
    mounts.push_back(Mount::null(settings));
    places.push_back({kFloor, mounts.back().dir()});
  }
  for (const Scene scene : {Scene::kSameRange, Scene::kDisjointRanges, Scene::kDifferentFiles}) {
    for (const int clients : {2, 8, 32, 128, 256}) {
      for (const Place& place : places) {
        // The do-nothing daemon shows one file and lets everybody have every lock.
        if (place.target == kFloor && scene != Scene::kDisjointRanges) continue;
        const std::vector<std::uint64_t> counts =
            run_clients(place.folder, scene, clients, milliseconds);
        std::uint64_t total = 0;
        for (const std::uint64_t count : counts) total += count;
        if (settings.two_builds()) {
          report.add_figures("lock + unlock by many", name_of(scene),
                             std::to_string(clients) + " clients", place.target,
                             {{"us a pair", milliseconds * 1e3 / static_cast<double>(total)}},
                             place.build);
          continue;
        }
        const auto [slowest, fastest] = std::minmax_element(counts.begin(), counts.end());
        report.add_figures(
            "lock + unlock by many", name_of(scene), std::to_string(clients) + " clients",
            place.target,
            {{"pairs/s", static_cast<double>(total) * 1000 / milliseconds},
             {"slowest/fastest",
              *fastest == 0 ? 0 : static_cast<double>(*slowest) / static_cast<double>(*fastest)}});
      }
    }
  }
}

}  // namespace lockfs::bench
