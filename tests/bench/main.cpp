/// Compares operations on lockfs mounts with the same on the backing filesystem and, for lock
/// calls, with a daemon that does nothing. Needs root or fusermount3; --help says how to use it.
#include <getopt.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <string_view>

#include "tests/bench/compare.h"
#include "tests/bench/mounts.h"

namespace {

using lockfs::bench::Report;
using lockfs::bench::Settings;

constexpr const char* kUsage =
    "usage: lockfs_bench [options]\n"
    "\n"
    "  --only=GROUP     only lock, handover, clients, waiters, mirror, metadata, trees,\n"
    "                   data or footprint\n"
    "  --json=FILE      write the results there too\n"
    "  --dir=FOLDER     where scratch files go; its filesystem is what is measured (default /tmp)\n"
    "  --lockfs=PATH    the lockfs program (default: beside this one)\n"
    "  --quick          two rounds of everything\n";

struct Group {
  std::string_view name;
  void (*run)(Report&, const Settings&);
};

constexpr std::array<Group, 9> kGroups = {{
    {"lock", lockfs::bench::run_lock_benchmarks},
    {"handover", lockfs::bench::run_handover_benchmarks},
    {"clients", lockfs::bench::run_client_benchmarks},
    {"waiters", lockfs::bench::run_waiter_benchmarks},
    {"mirror", lockfs::bench::run_mirror_benchmarks},
    {"metadata", lockfs::bench::run_metadata_benchmarks},
    {"trees", lockfs::bench::run_tree_benchmarks},
    {"data", lockfs::bench::run_data_benchmarks},
    {"footprint", lockfs::bench::run_footprint_benchmarks},
}};

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

int run(int argc, char** argv) {
  const std::filesystem::path programs =
      std::filesystem::read_symlink("/proc/self/exe").parent_path();
  Settings settings;
  settings.lockfs = programs / "lockfs";
  settings.null_daemon = programs / "bench_null_daemon";
  std::string only;
  std::string json;
  std::string parent = "/tmp";

  const std::array<option, 7> options = {{{"only", required_argument, nullptr, 'g'},
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

  const Scratch scratch(std::filesystem::absolute(parent));
  settings.scratch = scratch.path();
  lockfs::bench::catch_signals();
  Report report;
  bool any = false;
  for (const Group& group : kGroups) {
    if (!only.empty() && only != group.name) continue;
    any = true;
    group.run(report, settings);
  }
  if (!any) throw std::runtime_error("no group of benchmarks is called '" + only + "'");
  if (!json.empty()) report.write_json(json, settings);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "lockfs_bench: %s\n", error.what());
    return 1;
  }
}
