/// Metadata, file by file: open + close, stat of cached and uncached paths, create + unlink.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "tests/bench/compare.h"
#include "tests/bench/mounts.h"
#include "tests/bench/places.h"

namespace lockfs::bench {
namespace {

constexpr int kRounds = 20;
constexpr int kFiles = 500;

std::string file_of(const std::string& dir, int number) {
  return dir + "/f" + std::to_string(number);
}

void make_files(const std::string& dir) {
  for (int i = 0; i < kFiles; ++i) const File created(file_of(dir, i), O_RDWR | O_CREAT);
}

void make_files(const Places& places) {
  for (const Place& place : places.all()) make_files(place.source);
}

/// Times `operation(path)` for each file of a folder.
template <typename Operation>
void each_file(const std::string& dir, Samples& samples, const Operation& operation) {
  for (int i = 0; i < kFiles; ++i) {
    const std::string path = file_of(dir, i);
    time_into(samples, [&] { operation(path); });
  }
}

void stat_one(const std::string& path) {
  struct stat st = {};
  check(stat(path.c_str(), &st) == 0, "stat " + path);
}

}  // namespace

void run_metadata_benchmarks(Report& report, const Settings& settings) {
  const int rounds = settings.rounds(kRounds);
  const Places cached(settings, "metadata", 1);
  make_files(cached);
  report.compare("metadata", "open + close", cached.sides([](const Place& place, Samples& samples) {
    each_file(place.dir, samples, [](const std::string& path) { const File file(path, O_RDONLY); });
  }),
                 rounds);
  report.compare("metadata", "stat, cached", cached.sides([](const Place& place, Samples& samples) {
    Samples warming;
    each_file(place.dir, warming, stat_one);
    each_file(place.dir, samples, stat_one);
  }),
                 rounds);
  {
    const Places uncached(settings, "metadata-uncached", 0);
    make_files(uncached);
    report.compare("metadata", "stat, nothing cached",
                   uncached.sides([](const Place& place, Samples& samples) {
                     each_file(place.dir, samples, stat_one);
                   }),
                   rounds);
  }
  report.compare(
      "metadata", "stat, first visit",
      new_mount_sides(
          settings, "metadata-new", 1, [](const std::string& folder) { make_files(folder); },
          [](const Place& place, Samples& samples) { each_file(place.dir, samples, stat_one); }),
      rounds);
  report.compare("metadata", "create + unlink",
                 cached.sides([](const Place& place, Samples& samples) {
                   const std::string dir = place.dir + "/new";
                   mkdir(dir.c_str(), 0777);  // the first time
                   each_file(dir, samples, [](const std::string& path) {
                     { const File created(path, O_WRONLY | O_CREAT | O_EXCL); }
                     check(unlink(path.c_str()) == 0, "unlink " + path);
                   });
                 }),
                 rounds);
}

}  // namespace lockfs::bench
