/// The mirror at scale: one process locks every other byte of a file. The kernel's list of record
/// locks is linear, on the backing file as beneath the mirror, so the total is quadratic in both.
#include <fcntl.h>

#include <string>
#include <vector>

#include "tests/bench/compare.h"
#include "tests/bench/locking.h"
#include "tests/bench/mounts.h"

namespace lockfs::bench {
namespace {

/// Seconds to lock `count` bytes, each its own lock.
double lock_alternate_bytes(const File& file, int count) {
  const std::int64_t start = now_ns();
  for (int i = 0; i < count; ++i) {
    check(lock(Kind::kPosix, file.fd(), 2 * static_cast<off_t>(i), 1), "lock");
  }
  return static_cast<double>(now_ns() - start) / 1e9;
}

}  // namespace

void run_mirror_benchmarks(Report& report, const Settings& settings) {
  struct Place {
    std::string target;
    std::string dir;
    Build build = Build::kThis;
  };
  std::vector<Mount> mounts;
  std::vector<Place> places;
  if (!settings.two_builds()) places.push_back({kBacking, make_folder(settings, "mirror-backing")});
  for (const Settings& build : settings.builds()) {
    mounts.push_back(Mount::lockfs(build, "mirror", ""));
    places.push_back({"lockfs", mounts.back().dir(), build.build});
    mounts.push_back(Mount::lockfs(build, "mirror-off", "nomirror"));
    places.push_back({"lockfs, mirror off", mounts.back().dir(), build.build});
  }
  for (const int count : {1000, 10'000, 30'000, 100'000}) {
    if ((settings.quick || settings.two_builds()) && count > 10'000) break;
    double backing = 0;
    for (const Place& place : places) {
      // Closing the file lets the locks go.
      const File file(place.dir + "/file", O_RDWR | O_CREAT);
      const double seconds = lock_alternate_bytes(file, count);
      if (settings.two_builds()) {
        report.add_figures("every other byte", std::to_string(count) + " POSIX locks", "",
                           place.target, {{"us a lock", seconds * 1e6 / count}}, place.build);
        continue;
      }
      if (place.target == kBacking) backing = seconds;
      report.add_figures("every other byte", std::to_string(count) + " POSIX locks", "",
                         place.target,
                         {{"seconds", seconds},
                          {"us a lock", seconds * 1e6 / count},
                          {"x backing", seconds / backing}});
    }
  }
}

}  // namespace lockfs::bench
