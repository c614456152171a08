/// Data: sequential and random reads and writes, with and without the kernel's passthrough. The
/// backing file is in the page cache; the mount's own cache (fallback mode) is emptied before every
/// round, so that the path through the daemon is measured and not the kernel's memory.
#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <memory>
#include <random>
#include <vector>

#include "tests/bench/compare.h"
#include "tests/bench/mounts.h"

namespace lockfs::bench {
namespace {

constexpr int kRounds = 8;
constexpr std::size_t kMiB = std::size_t{1} << 20;
constexpr std::size_t kFileSize = 64 * kMiB;

struct Pattern {
  const char* name;
  std::size_t block;
  std::size_t samples;  ///< a round
  bool random;
  bool write;
};

constexpr std::array<Pattern, 8> kPatterns = {{
    {"read 4 KiB sequential", 4096, 2000, false, false},
    {"read 4 KiB random", 4096, 1000, true, false},
    {"read 1 MiB sequential", kMiB, 64, false, false},
    {"read 1 MiB random", kMiB, 64, true, false},
    {"write 4 KiB sequential", 4096, 2000, false, true},
    {"write 4 KiB random", 4096, 1000, true, true},
    {"write 1 MiB sequential", kMiB, 64, false, true},
    {"write 1 MiB random", kMiB, 64, true, true},
}};

void run_pattern(const Pattern& pattern, const std::string& path, bool mounted, unsigned seed,
                 Samples& samples) {
  const File file(path, O_RDWR);
  if (mounted) posix_fadvise(file.fd(), 0, 0, POSIX_FADV_DONTNEED);
  std::vector<char> buffer(pattern.block, 'x');
  std::minstd_rand random(seed);
  const std::size_t blocks = kFileSize / pattern.block;
  for (std::size_t i = 0; i < pattern.samples; ++i) {
    const std::size_t block = pattern.random ? random() % blocks : i % blocks;
    const auto offset = static_cast<off_t>(block * pattern.block);
    time_into(samples, [&] {
      const ssize_t n = pattern.write ? pwrite(file.fd(), buffer.data(), buffer.size(), offset)
                                      : pread(file.fd(), buffer.data(), buffer.size(), offset);
      check(n == static_cast<ssize_t>(buffer.size()), pattern.name);
    });
  }
}

void fill(const std::string& path) {
  const File file(path, O_RDWR | O_CREAT | O_TRUNC);
  const std::vector<char> block(kMiB, 'a');
  for (std::size_t done = 0; done < kFileSize; done += block.size()) {
    check(write(file.fd(), block.data(), block.size()) == static_cast<ssize_t>(block.size()),
          "write " + path);
  }
  check(fdatasync(file.fd()) == 0, "fdatasync " + path);  // writeback would disturb the rounds
}

}  // namespace

void run_data_benchmarks(Report& report, const Settings& settings) {
  const Mount mount = Mount::lockfs(settings, "data", "");
  const Mount daemon = Mount::lockfs(settings, "data-daemon", "passthrough=off");
  struct Place {
    const char* target;
    std::string path;
  };
  const std::array<Place, 3> places = {{
      {kBacking, make_folder(settings, "data-backing") + "/file"},
      {"lockfs", mount.dir() + "/file"},
      {"lockfs, through daemon", daemon.dir() + "/file"},
  }};
  for (const Place& place : places) fill(place.path);

  unsigned seed = 1;
  for (const Pattern& pattern : kPatterns) {
    std::vector<Side> sides;
    for (const Place& place : places) {
      const bool mounted = place.target != kBacking;
      sides.push_back(
          {place.target, [&pattern, path = place.path, mounted, seed](Samples& samples) {
             run_pattern(pattern, path, mounted, seed, samples);
           }});
    }
    report.compare("data", pattern.name, sides, settings.rounds(kRounds), pattern.block);
    ++seed;
  }
}

}  // namespace lockfs::bench
