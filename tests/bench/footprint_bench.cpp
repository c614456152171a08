/// What a daemon costs: from its start to a mount that answers, memory and descriptors after it has
/// shown a million files, and after the kernel has forgotten them.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "tests/bench/compare.h"
#include "tests/bench/mounts.h"
#include "tests/bench/places.h"
#include "tests/bench/programs.h"

namespace lockfs::bench {
namespace {

constexpr int kStarts = 20;

double resident_mib(pid_t pid) {
  std::ifstream in("/proc/" + std::to_string(pid) + "/status");
  for (std::string line; std::getline(in, line);) {
    double kib = 0;
    if (std::sscanf(line.c_str(), "VmRSS: %lf", &kib) == 1) return kib / 1024;
  }
  throw std::runtime_error("a daemon ended");
}

double descriptors(pid_t pid) {
  const std::filesystem::directory_iterator open("/proc/" + std::to_string(pid) + "/fd");
  return static_cast<double>(std::distance(begin(open), end(open)));
}

/// Has the kernel drop every name and inode that nobody uses, and waits until the daemon has dealt
/// with that: lockfs gives memory back every five seconds. False without the right to.
bool forget_all(pid_t daemon) {
  {
    std::ofstream drop("/proc/sys/vm/drop_caches");
    drop << "2" << std::flush;
    if (!drop) return false;
  }
  double last = 0;
  for (int same = 0, tries = 0; same < 70 && tries < 600; ++tries) {
    usleep(100'000);
    const double now = resident_mib(daemon) + descriptors(daemon);
    same = now == last ? same + 1 : 0;
    last = now;
  }
  return true;
}

/// Milliseconds from the start of a mount to its first answer, sorted.
Samples measure_starts(const Settings& settings, const std::string& filesystem) {
  Samples samples;
  for (int i = 0; i < settings.rounds(kStarts); ++i) {
    const std::int64_t start = now_ns();
    const std::optional<Mount> mount = mount_of(filesystem, settings, "start", 1);
    struct stat st = {};
    check(mount && stat(mount->dir().c_str(), &st) == 0, "stat of a mount");
    samples.push_back(static_cast<double>(now_ns() - start) / 1e6);
  }
  std::sort(samples.begin(), samples.end());
  return samples;
}

}  // namespace

void run_footprint_benchmarks(Report& report, const Settings& settings) {
  struct Program {
    std::string filesystem;
    Settings build;
  };
  std::vector<Program> programs;
  for (const Settings& build : settings.builds()) {
    for (const std::string filesystem : filesystems(settings)) {
      if (mount_of(filesystem, build, "start", 1)) programs.push_back({filesystem, build});
    }
  }
  for (const Program& program : programs) {
    const Samples starts = measure_starts(program.build, program.filesystem);
    std::vector<std::pair<std::string, double>> figures = {{"median ms", starts[starts.size() / 2]},
                                                           {"slowest ms", starts.back()}};
    if (settings.two_builds()) figures.pop_back();
    report.add_figures("start", "mount until its first answer", "", program.filesystem, figures,
                       program.build.build);
  }

  const int files = settings.quick ? 50'000 : settings.two_builds() ? 100'000 : 1'000'000;
  const std::string title = std::to_string(files) + " files";
  const std::string shared = make_folder(settings, "footprint");
  make_files(shared, files);
  for (const Program& program : programs) {
    const std::optional<Mount> mount = mount_of(program.filesystem, program.build, "footprint", 1);
    const pid_t daemon = find_daemon(mount->dir());
    const auto note = [&](const std::string& when) {
      report.add_figures(
          "footprint", title, when, program.filesystem,
          {{"resident MiB", resident_mib(daemon)}, {"descriptors", descriptors(daemon)}},
          program.build.build);
    };
    note("mounted");
    // The mount shows what its folder holds by now.
    const std::string source = mount->source() + "/all";
    std::filesystem::rename(shared, source);
    check(visit(mount->dir() + "/all") == files, "visit " + mount->dir());
    note("visited");
    if (forget_all(daemon)) note("forgotten");
    std::filesystem::rename(source, shared);
  }
}

}  // namespace lockfs::bench
