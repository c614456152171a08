/// How long nobody serves when a daemon is killed: from SIGKILL to the first answer.
#include <fcntl.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <filesystem>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "tests/bench/compare.h"
#include "tests/bench/mounts.h"
#include "tests/bench/places.h"
#include "tests/bench/programs.h"

namespace lockfs::bench {
namespace {

constexpr int kDeaths = 20;

/// As many descriptors as this process may have, less some for everything else.
int most_open_files(int wanted) {
  rlimit limit{};
  check(getrlimit(RLIMIT_NOFILE, &limit) == 0, "getrlimit");
  limit.rlim_cur = limit.rlim_max;
  check(setrlimit(RLIMIT_NOFILE, &limit) == 0, "setrlimit");
  constexpr rlim_t kOthers = 100;
  return static_cast<int>(std::min<rlim_t>(static_cast<rlim_t>(wanted), limit.rlim_max - kOthers));
}

/// Opens and locks so many new files, or as many as the daemon's descriptors allow.
std::vector<File> lock_files(const std::string& dir, int files) {
  std::vector<File> open;
  for (int i = 0; i < files; ++i) {
    try {
      File file(dir + "/" + std::to_string(i), O_RDWR | O_CREAT);
      if (flock(file.fd(), LOCK_EX) != 0) break;
      open.push_back(std::move(file));
    } catch (const std::runtime_error&) {
      break;
    }
  }
  check(!open.empty(), "lock a file in " + dir);
  // The next daemon is left some to serve with.
  constexpr std::size_t kSpare = 20;
  for (std::size_t i = 0; i < kSpare && open.size() > 1; ++i) open.pop_back();
  return open;
}

/// Milliseconds from a kill to an answer that no cache has, sorted.
Samples measure_deaths(const Settings& settings, const Mount& mount) {
  Samples samples;
  for (int i = 0; i < std::max(settings.rounds(kDeaths), 3); ++i) {
    struct statvfs info = {};
    const pid_t daemon = find_daemon(mount.dir());
    const std::int64_t start = now_ns();
    check(kill(daemon, SIGKILL) == 0, "kill");
    check(statvfs(mount.dir().c_str(), &info) == 0, "statvfs of a mount whose daemon was killed");
    samples.push_back(static_cast<double>(now_ns() - start) / 1e6);
  }
  std::sort(samples.begin(), samples.end());
  return samples;
}

}  // namespace

void run_survive_benchmarks(Report& report, const Settings& settings) {
  const int files = most_open_files(settings.quick ? 1'000 : 10'000);
  const int known = settings.quick || settings.two_builds() ? 50'000 : 1'000'000;
  for (const Settings& build : settings.builds()) {
    const auto note = [&](const Mount& mount, const std::string& when) {
      const Samples gaps = measure_deaths(build, mount);
      std::vector<std::pair<std::string, double>> figures = {{"median ms", gaps[gaps.size() / 2]},
                                                             {"slowest ms", gaps.back()}};
      if (settings.two_builds()) figures.pop_back();
      report.add_figures("survive", "SIGKILL to the first answer", when, kLockfs, figures,
                         build.build);
    };
    {
      const Mount mount = Mount::lockfs(build, "survive", "");
      note(mount, "nothing open");
      const std::vector<File> open = lock_files(mount.dir(), files);
      note(mount, std::to_string(open.size()) + " files open and locked");
    }
    const Mount mount = Mount::lockfs(build, "known", "");
    make_files(mount.source(), known);
    check(visit(mount.dir()) == known, "visit " + mount.dir());
    note(mount, std::to_string(known) + " files known");
  }
}

}  // namespace lockfs::bench
