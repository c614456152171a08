/// Data: sequential and random reads and writes, buffered, O_DIRECT and through a mapping, with and
/// without the kernel's passthrough, beside bindfs. The backing file is in the page cache; a
/// mount's own cache is emptied before every round, so that the path through a daemon is measured
/// and not the kernel's memory.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "tests/bench/compare.h"
#include "tests/bench/mounts.h"
#include "tests/bench/places.h"

namespace lockfs::bench {
namespace {

constexpr int kRounds = 8;
constexpr std::size_t kMiB = std::size_t{1} << 20;
constexpr std::size_t kFileSize = 64 * kMiB;
constexpr std::size_t kAlignment = 4096;

enum class Way { kBuffered, kDirect, kMapped };

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

struct Group {
  const char* name;
  Way way;
};

constexpr std::array<Group, 3> kGroups = {{
    {"data", Way::kBuffered},
    {"data, O_DIRECT", Way::kDirect},
    {"data, mmap", Way::kMapped},
}};

/// A shared mapping of a whole file.
class Mapping {
 public:
  explicit Mapping(const File& file)
      : start_(mmap(nullptr, kFileSize, PROT_READ | PROT_WRITE, MAP_SHARED, file.fd(), 0)) {
    check(start_ != MAP_FAILED, "mmap");
  }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  ~Mapping() { munmap(start_, kFileSize); }
  [[nodiscard]] char* at(std::size_t offset) const { return static_cast<char*>(start_) + offset; }

 private:
  void* start_;
};

struct Free {
  void operator()(void* memory) const { std::free(memory); }
};

struct Target {
  std::string name;
  std::string path;  ///< of the file
  Build build = Build::kThis;

  [[nodiscard]] bool mounted() const { return name != kBacking; }
};

void run_pattern(const Pattern& pattern, Way way, const Target& target, unsigned seed,
                 Samples& samples) {
  const File file(target.path, O_RDWR | (way == Way::kDirect ? O_DIRECT : 0));
  if (target.mounted()) posix_fadvise(file.fd(), 0, 0, POSIX_FADV_DONTNEED);
  const std::unique_ptr<char, Free> memory(
      static_cast<char*>(std::aligned_alloc(kAlignment, pattern.block)));
  char* const buffer = memory.get();
  check(buffer != nullptr, "aligned_alloc");
  std::memset(buffer, 'x', pattern.block);
  std::optional<Mapping> mapping;
  if (way == Way::kMapped) mapping.emplace(file);

  const auto transfer = [&](std::size_t offset) {
    if (mapping) {
      char* const there = mapping->at(offset);
      std::memcpy(pattern.write ? there : buffer, pattern.write ? buffer : there, pattern.block);
      return;
    }
    const auto position = static_cast<off_t>(offset);
    const ssize_t n = pattern.write ? pwrite(file.fd(), buffer, pattern.block, position)
                                    : pread(file.fd(), buffer, pattern.block, position);
    check(n == static_cast<ssize_t>(pattern.block), pattern.name);
  };
  std::minstd_rand random(seed);
  const std::size_t blocks = kFileSize / pattern.block;
  for (std::size_t i = 0; i < pattern.samples; ++i) {
    const std::size_t block = pattern.random ? random() % blocks : i % blocks;
    time_into(samples, [&] { transfer(block * pattern.block); });
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
  const std::string through_daemon = "lockfs, through daemon";
  std::vector<Mount> mounts;
  std::vector<Target> targets;
  if (!settings.two_builds()) {
    targets.push_back({kBacking, make_folder(settings, "data-backing") + "/file"});
  }
  for (const Settings& build : settings.builds()) {
    mounts.push_back(Mount::lockfs(build, "data", ""));
    targets.push_back({"lockfs", mounts.back().dir() + "/file", build.build});
    mounts.push_back(Mount::lockfs(build, "data-daemon", "passthrough=off"));
    targets.push_back({through_daemon, mounts.back().dir() + "/file", build.build});
  }
  if (!settings.two_builds()) {
    if (std::optional<Mount> bindfs = mount_of("bindfs", settings, "data", 1)) {
      mounts.push_back(std::move(*bindfs));
      targets.push_back({"bindfs", mounts.back().dir() + "/file"});
    }
  }
  for (const Target& target : targets) fill(target.path);

  unsigned seed = 1;
  for (const Group& group : kGroups) {
    for (const Pattern& pattern : kPatterns) {
      std::vector<Side> sides;
      sides.reserve(targets.size());
      for (const Target& target : targets) {
        sides.push_back({target.name,
                         [&pattern, &target, way = group.way, seed](Samples& samples) {
                           run_pattern(pattern, way, target, seed, samples);
                         },
                         target.name == "bindfs" ? through_daemon : std::string(), target.build});
      }
      report.compare(group.name, pattern.name, sides, settings.rounds(kRounds), pattern.block);
      ++seed;
    }
  }
}

}  // namespace lockfs::bench
