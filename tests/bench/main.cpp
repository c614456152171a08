/// Compares operations on lockfs mounts with the same on the backing filesystem and, for lock
/// calls, with a daemon that does nothing; or two builds of lockfs with each other. Needs root or
/// fusermount3; --help says how to use it.
#include <getopt.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <set>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "tests/bench/compare.h"
#include "tests/bench/mounts.h"

namespace {

using lockfs::bench::Report;
using lockfs::bench::Settings;

constexpr const char* kUsage =
    "usage: lockfs_bench [options]\n"
    "\n"
    "  --only=GROUPS    only lock, handover, clients, waiters, mirror, innocent, metadata, trees,\n"
    "                   data, footprint or survive, or several with commas between; with "
    "--against\n"
    "                   manager too\n"
    "  --against=BIN    compare with the build whose programs are in the folder BIN: each group "
    "in\n"
    "                   several passes, in each the two builds in turns on mounts of their own\n"
    "  --json=FILE      write the results there too\n"
    "  --dir=FOLDER     where scratch files go; its filesystem is what is measured (default /tmp)\n"
    "  --lockfs=PATH    the lockfs program (default: beside this one)\n"
    "  --quick          two rounds of everything\n";

struct Group {
  std::string_view name;
  void (*run)(Report&, const Settings&);
  int passes;  ///< at most so many of two builds
};

constexpr std::array<Group, 12> kGroups = {{
    {"lock", lockfs::bench::run_lock_benchmarks, 60},
    {"handover", lockfs::bench::run_handover_benchmarks, 40},
    {"clients", lockfs::bench::run_client_benchmarks, 20},
    {"waiters", lockfs::bench::run_waiter_benchmarks, 20},
    {"mirror", lockfs::bench::run_mirror_benchmarks, 20},
    {"innocent", lockfs::bench::run_innocent_benchmarks, 8},
    {"metadata", lockfs::bench::run_metadata_benchmarks, 60},
    {"trees", lockfs::bench::run_tree_benchmarks, 20},
    {"data", lockfs::bench::run_data_benchmarks, 20},
    {"footprint", lockfs::bench::run_footprint_benchmarks, 8},
    {"survive", lockfs::bench::run_survive_benchmarks, 8},
    {"manager", lockfs::bench::run_manager_benchmarks, 30},
}};

constexpr std::string_view kManager = "manager";

/// As few passes give an interval at all, and as few are trusted with one.
constexpr int kPassesForInterval = 6;
constexpr int kFewestPasses = 10;

/// A command line that cannot be followed.
struct UsageError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// The groups named in `only`, with commas between; all where it is empty. Throws UsageError.
std::vector<Group> select_groups(const std::string& only, bool two_builds) {
  const auto known = [two_builds](const Group& group) {
    return two_builds || group.name != kManager;
  };
  std::vector<Group> all;
  std::string names;
  for (const Group& group : kGroups) {
    if (!known(group)) continue;
    all.push_back(group);
    names += (names.empty() ? "" : ", ") + std::string(group.name);
  }
  if (only.empty()) return all;
  std::set<std::string_view> wanted;
  std::istringstream in(only);
  for (std::string name; std::getline(in, name, ',');) {
    const auto group =
        std::find_if(all.begin(), all.end(), [&name](const Group& g) { return g.name == name; });
    if (group == all.end()) {
      throw UsageError("no group of benchmarks is called '" + name + "'; there are " + names);
    }
    wanted.insert(group->name);
  }
  std::erase_if(all, [&wanted](const Group& group) { return !wanted.contains(group.name); });
  return all;
}

/// Throws UsageError unless `program` can be run.
void need_program(const std::string& program) {
  if (access(program.c_str(), X_OK) != 0) throw UsageError("there is no program " + program);
}

/// A folder that is removed at the end.
class Scratch {
 public:
  explicit Scratch(const std::string& parent) : path_(parent + "/lockfs-bench.XXXXXX") {
    lockfs::bench::check(mkdtemp(path_.data()) != nullptr, "mkdtemp " + path_);
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() {
    std::error_code error;
    std::filesystem::remove_all(path_, error);
    if (error) std::fprintf(stderr, "%s: %s\n", path_.c_str(), error.message().c_str());
  }
  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  std::string path_;
};

/// Copies the programs that a group needs of both builds into `folder` and has `settings` name the
/// copies. A file keeps its pages from run to run, and with them how its code falls into the
/// processor's caches. Without new copies two files with one program were told apart: 1.020..1.064.
void copy_programs(Settings& settings, const Group& group, const std::string& folder) {
  const auto copy = [&folder](std::string& program, const char* name) {
    const std::string to = folder + "/" + name;
    std::filesystem::copy_file(program, to);
    program = to;
  };
  const bool manager = group.name == kManager;
  copy(manager ? settings.manager : settings.lockfs, "this-program");
  copy(manager ? settings.other_manager : settings.other_lockfs, "that-program");
}

/// Runs a group until its intervals are narrow enough or its passes are used up, each pass with
/// mounts, processes and copies of the programs of its own: a ratio is to hold for any, not for the
/// two at hand.
void compare_builds(Report& report, const Group& group, const Settings& run) {
  const int least = run.quick ? kPassesForInterval : kFewestPasses;
  const int most = run.quick ? kPassesForInterval : std::max(least, group.passes);
  const std::int64_t start = lockfs::bench::now_ns();
  int pass = 0;
  for (; pass < most && (pass < least || !report.pairs().settled()); ++pass) {
    const Scratch own(run.scratch);
    Settings settings = run;
    settings.scratch = own.path();
    copy_programs(settings, group, own.path());
    settings.other_first = pass % 2 != 0;
    group.run(report, settings);
  }
  report.pairs().print_rows();
  std::printf("%s: %d passes in %.0f s\n", std::string(group.name).c_str(), pass,
              static_cast<double>(lockfs::bench::now_ns() - start) / 1e9);
  std::fflush(stdout);
}

int run(int argc, char** argv) {
  const std::filesystem::path programs =
      std::filesystem::read_symlink("/proc/self/exe").parent_path();
  Settings settings;
  settings.lockfs = programs / "lockfs";
  settings.null_daemon = programs / "bench_null_daemon";
  settings.manager = programs / "manager_bench";
  std::string only;
  std::string against;
  std::string json;
  std::string parent = "/tmp";

  const std::array<option, 8> options = {{{"only", required_argument, nullptr, 'g'},
                                          {"against", required_argument, nullptr, 'a'},
                                          {"json", required_argument, nullptr, 'j'},
                                          {"dir", required_argument, nullptr, 'd'},
                                          {"lockfs", required_argument, nullptr, 'l'},
                                          {"quick", no_argument, nullptr, 'q'},
                                          {"help", no_argument, nullptr, 'h'},
                                          {nullptr, 0, nullptr, 0}}};
  for (int c = 0; (c = getopt_long(argc, argv, "h", options.data(), nullptr)) != -1;) {
    switch (c) {
      case 'g':
        only = optarg;
        break;
      case 'a':
        against = optarg;
        break;
      case 'j':
        json = optarg;
        break;
      case 'd':
        parent = optarg;
        break;
      case 'l':
        settings.lockfs = optarg;
        break;
      case 'q':
        settings.quick = true;
        break;
      case 'h':
        std::fputs(kUsage, stdout);
        return 0;
      default:
        std::fputs(kUsage, stderr);
        return 2;
    }
  }

  if (!against.empty()) {
    const std::filesystem::path other = std::filesystem::absolute(against);
    settings.other_lockfs = other / "lockfs";
    settings.other_manager = other / "manager_bench";
  }
  const std::vector<Group> groups = select_groups(only, settings.two_builds());
  for (const Group& group : groups) {
    if (!settings.two_builds()) break;
    const bool manager = group.name == kManager;
    need_program(manager ? settings.manager : settings.lockfs);
    need_program(manager ? settings.other_manager : settings.other_lockfs);
  }

  const Scratch scratch(std::filesystem::absolute(parent));
  settings.scratch = scratch.path();
  lockfs::bench::catch_signals();
  Report report(settings);
  for (const Group& group : groups) {
    if (settings.two_builds()) {
      compare_builds(report, group, settings);
    } else {
      group.run(report, settings);
    }
  }
  if (settings.two_builds()) report.pairs().print_verdict();
  if (!json.empty()) report.write_json(json);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const UsageError& error) {
    std::fprintf(stderr, "lockfs_bench: %s\n", error.what());
    return 2;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "lockfs_bench: %s\n", error.what());
    return 1;
  }
}
