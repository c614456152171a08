// lockfsctl who: who holds a file, who waits, since when, in plain words.
#include <fmt/format.h>

#include <iostream>

#include "mount-helpers/lockfsctl/snapshot.h"
#include "mount-helpers/lockfsctl/text.h"

namespace lockfs::ctl {

namespace {

const char* lock_words(const Record& r) {
  if (r.type == "flock") return r.exclusive ? "an exclusive flock" : "a shared flock";
  if (r.type == "ofd") {
    return r.exclusive ? "an exclusive open-file lock" : "a shared open-file lock";
  }
  return r.exclusive ? "an exclusive POSIX lock" : "a shared POSIX lock";
}

std::string time_words(const Record& r) {
  if (!r.seconds) return "nobody knows since when";
  return fmt::format("for {} (since {})", duration_text(*r.seconds), clock_text(*r.seconds));
}

/// Whom a request waits for: the holders in its way, or else the request it stands behind.
std::string reason_of(const Snapshot& s, const Record& wait) {
  std::vector<std::string> names;
  for (const Record& lock : s.locks) {
    if (!s.stands_in_the_way(lock, wait)) continue;
    std::string name = who_text(lock);
    if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
  }
  if (!names.empty()) return "held up by " + fmt::format("{}", fmt::join(names, " and "));
  for (const Record& other : s.waits) {
    if (wait.ahead != 0 && other.ticket == wait.ahead) {
      return "in the queue behind " + who_text(other);
    }
  }
  return wait.place == "outside" ? "held up by somebody outside" : "its turn is about to come";
}

int who(const Globals& globals, const std::string& path) {
  Target target = find_target(globals, path);
  if (target.filter.empty()) {
    throw Error(fmt::format("{} is a whole mount; name a file, or see lockfsctl list", path), 2);
  }
  const Snapshot s = take_snapshot(target);
  if (s.locks.empty() && s.waits.empty()) {
    std::cout << fmt::format("{}: nobody holds or awaits a lock\n", path);
    return 0;
  }
  const auto count = [](std::size_t n, const char* one) {
    return fmt::format("{} {}{}", n, one, n == 1 ? "" : "s");
  };
  std::cout << fmt::format("{}: {} held, {} waiting\n", path, count(s.locks.size(), "lock"),
                           count(s.waits.size(), "request"));
  for (const Record& lock : s.locks) {
    std::cout << fmt::format("  {} holds {} on {}, {}", who_text(lock), lock_words(lock),
                             range_words(lock), time_words(lock));
    if (const std::size_t behind = s.waiters_behind(lock); behind > 0) {
      std::cout << fmt::format("; {} {} for it", behind, behind == 1 ? "waits" : "wait");
    }
    if (lock.outside && lock.type == "flock") {
      std::cout << " -- straight on the source, where it keeps nobody out";
    } else if (lock.outside) {
      std::cout << " -- outside, on the source";
    }
    std::cout << '\n';
  }
  for (const Record& wait : s.waits) {
    std::cout << fmt::format("  {} waits for {} on {}, {}: {}\n", who_text(wait), lock_words(wait),
                             range_words(wait), time_words(wait), reason_of(s, wait));
  }
  return 0;
}

}  // namespace

void add_who(CLI::App& app, const Globals& globals, Run& run) {
  auto* sub = app.add_subcommand("who", "Say who holds a file and who waits for it");
  auto path = std::make_shared<std::string>();
  sub->add_option("FILE", *path, "A file in a mount or in its source")->required();
  sub->callback([&globals, &run, path] { run = [&globals, path] { return who(globals, *path); }; });
}

}  // namespace lockfs::ctl
