/// Metadata: open + close, stat of cached and uncached paths, create + unlink.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <vector>

#include "tests/bench/compare.h"
#include "tests/bench/mounts.h"

namespace lockfs::bench {
namespace {

constexpr int kRounds = 20;
constexpr int kFiles = 500;

/// A place with kFiles files in it.
struct Place {
  Place(std::string target_name, const std::string& dir) : target(std::move(target_name)) {
    for (int i = 0; i < kFiles; ++i) {
      files.push_back(dir + "/f" + std::to_string(i));
      fresh.push_back(dir + "/new" + std::to_string(i));
      const File created(files.back(), O_RDWR | O_CREAT);
    }
  }

  std::string target;
  std::vector<std::string> files;  ///< they exist
  std::vector<std::string> fresh;  ///< they don't
};

void stat_one(const std::string& path) {
  struct stat st = {};
  check(stat(path.c_str(), &st) == 0, "stat " + path);
}

}  // namespace

void run_metadata_benchmarks(Report& report, const Settings& settings) {
  const Mount mount = Mount::lockfs(settings, "metadata", "");
  const Mount uncached = Mount::lockfs(settings, "metadata-uncached", "cache=0");
  const Place backing(kBacking, make_folder(settings, "metadata-backing"));
  const Place mounted("lockfs", mount.dir());
  const Place mounted_uncached("lockfs, cache=0", uncached.dir());

  const auto compare = [&](const std::string& name, const std::vector<const Place*>& places,
                           const auto& round) {
    std::vector<Side> sides;
    for (const Place* place : places) {
      sides.push_back(
          {place->target, [place, round](Samples& samples) { round(*place, samples); }});
    }
    report.compare("metadata", name, sides, settings.rounds(kRounds));
  };

  compare("open + close", {&backing, &mounted}, [](const Place& place, Samples& samples) {
    for (const std::string& path : place.files) {
      time_into(samples, [&] { const File file(path, O_RDONLY); });
    }
  });
  compare("stat, cached", {&backing, &mounted}, [](const Place& place, Samples& samples) {
    for (const std::string& path : place.files) stat_one(path);
    for (const std::string& path : place.files) time_into(samples, [&] { stat_one(path); });
  });
  compare("stat, uncached", {&backing, &mounted_uncached},
          [](const Place& place, Samples& samples) {
            for (const std::string& path : place.files) {
              time_into(samples, [&] { stat_one(path); });
            }
          });
  compare("create + unlink", {&backing, &mounted}, [](const Place& place, Samples& samples) {
    for (const std::string& path : place.fresh) {
      time_into(samples, [&] {
        { const File created(path, O_WRONLY | O_CREAT | O_EXCL); }
        check(unlink(path.c_str()) == 0, "unlink " + path);
      });
    }
  });
}

}  // namespace lockfs::bench
