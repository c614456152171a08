/// Metadata, whole trees at a time: what ls, find, tar, git and rm take. A sample is one run of the
/// program.
#include <fcntl.h>
#include <unistd.h>

#include <filesystem>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "tests/bench/compare.h"
#include "tests/bench/mounts.h"
#include "tests/bench/places.h"
#include "tests/bench/programs.h"

namespace lockfs::bench {
namespace {

constexpr int kRounds = 3;
constexpr const char* kGroup = "trees";

struct Sizes {
  int entries;     ///< of the folder that is listed
  int files;       ///< of the tree
  int per_folder;  ///< files in each folder of the tree
};

using Command = std::vector<std::string>;

void fill_folder(const std::string& dir, int entries) {
  std::filesystem::create_directories(dir);
  for (int i = 0; i < entries; ++i) {
    const File created(dir + "/entry-" + std::to_string(i), O_WRONLY | O_CREAT);
  }
}

/// Files of up to 8 KiB, as source trees have them.
void make_tree(const std::string& dir, const Sizes& sizes) {
  std::minstd_rand random(1);
  const std::string text(8192, 'x');
  for (int i = 0; i < sizes.files; ++i) {
    const std::string folder = dir + "/folder-" + std::to_string(i / sizes.per_folder);
    if (i % sizes.per_folder == 0) std::filesystem::create_directories(folder);
    const File file(folder + "/file-" + std::to_string(i), O_WRONLY | O_CREAT);
    const std::string number = std::to_string(i);
    const std::size_t length = random() % text.size();
    check(write(file.fd(), number.data(), number.size()) > 0 &&
              write(file.fd(), text.data(), length) == static_cast<ssize_t>(length),
          "write " + folder);
  }
}

void commit_tree(const std::string& dir) {
  const Command git = {
      "git", "-C", dir, "-c", "user.name=bench", "-c", "user.email=b@localhost", "-c", "gc.auto=0"};
  const auto run = [&git](const Command& more) {
    Command command = git;
    command.insert(command.end(), more.begin(), more.end());
    run_program(command);
  };
  run({"init", "-q"});
  run({"add", "-A"});
  run({"commit", "-q", "-m", "tree"});
}

/// Runs a program once and times it. What was written before is on the disk by then.
void time_program(Samples& samples, const Command& command) {
  sync();
  time_into(samples, [&] { run_program(command); });
}

class Trees {
 public:
  Trees(Report& report, const Settings& settings)
      : report_(report),
        settings_(settings),
        rounds_(settings.rounds(kRounds)),
        sizes_(settings.quick || settings.two_builds() ? Sizes{10'000, 2'000, 100}
                                                       : Sizes{100'000, 20'000, 100}),
        template_(make_folder(settings, "tree")),
        archive_(settings.scratch + "/tree.tar") {
    make_tree(template_, sizes_);
    run_program({"tar", "-C", template_, "-cf", archive_, "."});
  }

  void list() {
    const Places places(settings_, "list", 1);
    for (const Place& place : places.all()) fill_folder(place.source + "/many", sizes_.entries);
    compare(places, "ls -l, " + std::to_string(sizes_.entries), [](const Place& place) {
      return Command{"ls", "-l", place.dir + "/many"};
    });
  }

  void list_first() {
    report_.compare(kGroup, "ls -l, first visit",
                    new_mount_sides(
                        settings_, "list-new", 1,
                        [this](const std::string& folder) { fill_folder(folder, sizes_.entries); },
                        [](const Place& place, Samples& samples) {
                          time_program(samples, {"ls", "-l", place.dir});
                        }),
                    rounds_);
  }

  void unpack_and_remove() {
    const Places places(settings_, "unpack", 1);
    const std::string count = std::to_string(sizes_.files);
    // Each round unpacks into a new folder, which a round of the second comparison removes.
    std::map<std::string, int> made;
    std::map<std::string, int> removed;
    report_.compare(kGroup, "tar x, " + count,
                    places.sides([&](const Place& place, Samples& samples) {
                      const std::string to = place.dir + "/" + std::to_string(made[place.dir]++);
                      std::filesystem::create_directory(to);
                      time_program(samples, {"tar", "-C", to, "-xf", archive_});
                    }),
                    rounds_);
    report_.compare(
        kGroup, "rm -r, " + count, places.sides([&](const Place& place, Samples& samples) {
          const std::string from = place.dir + "/" + std::to_string(removed[place.dir]++);
          time_program(samples, {"rm", "-r", from});
        }),
        rounds_);
  }

  void walk() {
    commit_tree(template_);
    const Places places(settings_, "walk", 1);
    for (const Place& place : places.all()) {
      run_program({"cp", "-a", template_, place.source + "/tree"});
    }
    const std::string count = std::to_string(sizes_.files);
    compare(places, "find, " + count, [](const Place& place) {
      return Command{"find", place.dir + "/tree", "-name", "nothing"};
    });
    compare(places, "find -size, " + count, [](const Place& place) {
      return Command{"find", place.dir + "/tree", "-size", "+100k"};
    });
    // The first run, not counted, brings the index up to date.
    compare(places, "git status, " + count, [](const Place& place) {
      return Command{"git", "-C", place.dir + "/tree", "status", "--porcelain"};
    });
  }

 private:
  template <typename MakeCommand>
  void compare(const Places& places, const std::string& name, const MakeCommand& command) {
    report_.compare(kGroup, name, places.sides([&](const Place& place, Samples& samples) {
      time_program(samples, command(place));
    }),
                    rounds_);
  }

  Report& report_;
  const Settings& settings_;
  const int rounds_;
  const Sizes sizes_;
  const std::string template_;
  const std::string archive_;
};

}  // namespace

void run_tree_benchmarks(Report& report, const Settings& settings) {
  Trees trees(report, settings);
  trees.list();
  trees.list_first();
  trees.unpack_and_remove();
  trees.walk();
}

}  // namespace lockfs::bench
