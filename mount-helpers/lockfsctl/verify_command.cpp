// lockfsctl verify: compares the manager, the mirror and /proc/locks.
#include <fmt/format.h>

#include <algorithm>
#include <iostream>
#include <set>

#include "mount-helpers/lockfsctl/proc_locks.h"
#include "mount-helpers/lockfsctl/snapshot.h"
#include "mount-helpers/lockfsctl/text.h"

namespace lockfs::ctl {

namespace {

/// Locks come and go: what is not seen in each of so many rounds was a change.
constexpr int kRounds = 3;

/// A granted stretch that /proc/locks does not show on the backing file: path, first, last, mode.
using Missing = std::tuple<std::string, std::int64_t, std::int64_t, bool>;

/// The parts of `r` that none of `table` covers in its mode.
void find_missing(const Snapshot& s, const Record& r, const std::set<std::string>& devices,
                  const std::vector<ProcLock>& table, std::set<Missing>& out) {
  const File& file = s.files[r.file];
  const char* kind = s.policy.separates_flocks() && r.type == "flock" ? "FLOCK" : "OFDLCK";
  std::vector<std::pair<std::int64_t, std::int64_t>> covered;
  for (const ProcLock& lock : table) {
    if (lock.type == kind && !lock.waiting && lock.inode == file.inode &&
        (devices.count(lock.device) != 0 || lock.device == file.device) &&
        (lock.exclusive || !r.exclusive)) {
      covered.emplace_back(lock.first, lock.last);
    }
  }
  std::sort(covered.begin(), covered.end());
  std::int64_t at = r.first;
  for (const auto& [first, last] : covered) {
    if (last < at) continue;
    if (first > r.last) break;
    if (first > at) out.emplace(file.path, at, first - 1, r.exclusive);
    if (last == kEof || last >= r.last) return;
    at = last + 1;
  }
  out.emplace(file.path, at, r.last, r.exclusive);
}

std::set<Missing> missing_in_proc(Target& target) {
  const MountInfo& mount = target.client.mount();
  const std::set<std::string> devices = {mount.source_device, superblock_device(mount.source)};
  std::set<Missing> steady;
  for (int round = 0; round < kRounds; ++round) {
    const Snapshot s = take_snapshot(target, false);
    const std::vector<ProcLock> table = read_proc_locks();
    std::set<Missing> now;
    for (const Record& r : s.locks) find_missing(s, r, devices, table, now);
    if (round == 0) steady = now;
    std::erase_if(steady, [&](const Missing& m) { return now.count(m) == 0; });
    if (steady.empty()) break;
  }
  return steady;
}

std::string bytes_text(std::int64_t first, std::int64_t last) {
  Record r;
  r.first = first;
  r.last = last;
  return range_text(r);
}

int verify(const Globals& globals, const std::string& path) {
  bool differs = false;
  for (Target& target : find_targets(globals, path)) {
    const MountInfo& mount = target.client.mount();
    std::size_t found = 0;
    const Json sums = target.client.call("verify", target.filter, [&](const Json& line) {
      const Json& d = line.at("difference");
      ++found;
      const std::int64_t last = d.at("end").is_null() ? kEof : d.at("end").get<std::int64_t>();
      std::cout << fmt::format("{}: {}: granted {}, but the mirror carries {}\n",
                               printable(d.at("path").get<std::string>()),
                               bytes_text(d.at("start").get<std::int64_t>(), last),
                               d.at("granted").get<std::string>(),
                               d.at("carried").get<std::string>());
    });
    const bool listed = mount.mirror && sums.at("unknown") == 0;
    if (listed) {
      for (const auto& [file, first, last, exclusive] : missing_in_proc(target)) {
        ++found;
        std::cout << fmt::format("{}: {}: granted {}, but /proc/locks does not show it\n",
                                 printable(file), bytes_text(first, last),
                                 exclusive ? "exclusive" : "shared");
      }
    }
    differs = differs || found > 0;
    std::string text = fmt::format("{}: {} files compared, {} differences", mount.mountpoint,
                                   sums.at("compared").get<std::uint64_t>(), found);
    if (const auto n = sums.at("changing").get<std::uint64_t>(); n > 0) {
      text += fmt::format(", {} files changed too fast to compare", n);
    }
    if (!mount.mirror) {
      text += ", nothing is carried to the files (nomirror)";
    } else if (const auto n = sums.at("unknown").get<std::uint64_t>(); n > 0) {
      text += fmt::format(", {} files on a filesystem that does not list its locks", n);
    }
    std::cout << text << '\n';
  }
  return differs ? 1 : 0;
}

}  // namespace

void add_verify(CLI::App& app, const Globals& globals, Run& run) {
  auto* sub = app.add_subcommand(
      "verify", "Compare the manager, the mirror and /proc/locks; status 1 if they differ");
  auto path = std::make_shared<std::string>();
  sub->add_option("PATH", *path, "A mount point, a source or a file (default: all mounts)");
  sub->callback(
      [&globals, &run, path] { run = [&globals, path] { return verify(globals, *path); }; });
}

}  // namespace lockfs::ctl
