// lockfsctl break: takes locks away from their owners.
#include <fmt/format.h>
#include <unistd.h>

#include <charconv>
#include <iostream>
#include <set>

#include "mount-helpers/lockfsctl/nfs_server.h"
#include "mount-helpers/lockfsctl/snapshot.h"
#include "mount-helpers/lockfsctl/text.h"

namespace lockfs::ctl {

namespace {

struct BreakOptions {
  std::string path;
  pid_t pid = 0;
  std::string owner;
  std::string range;
  bool yes = false;
  bool outside = false;
  std::string server_address;
  std::string nfsd = "/proc/fs/nfsd";
};

/// "S-E", "S-" or "S-EOF", both ends included.
Record parse_range(const std::string& text) {
  Record r;
  if (text.empty()) return r;
  const auto dash = text.find('-');
  const auto number = [&](const std::string& digits) {
    std::int64_t value = 0;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
    if (error != std::errc{} || end != digits.data() + digits.size()) {
      throw Error(fmt::format("--range: '{}' is not FIRST-LAST, such as 0-99 or 100-EOF", text), 2);
    }
    return value;
  };
  r.first = number(text.substr(0, dash));
  const std::string last = dash == std::string::npos ? text : text.substr(dash + 1);
  r.last = last.empty() || last == "EOF" ? kEof : number(last);
  if (r.first > r.last) {
    throw Error(fmt::format("--range: '{}' ends before it begins", text), 2);
  }
  return r;
}

bool chosen(const Record& lock, const BreakOptions& options, Record range) {
  range.file = lock.file;
  return lock.overlaps(range) && (options.pid == 0 || lock.pid == options.pid) &&
         (options.owner.empty() || lock.owner == options.owner);
}

std::string describe(const Snapshot& s, const Record& lock) {
  return fmt::format("{}: {} {} lock {} of {}", printable(s.files[lock.file].path),
                     lock.exclusive ? "exclusive" : "shared", lock.type, range_text(lock),
                     who_text(lock));
}

/// Asks a person; without one --yes must have been said.
bool agreed(const BreakOptions& options, const std::string& question) {
  if (options.yes) return true;
  if (isatty(STDIN_FILENO) == 0) {
    throw Error("nobody is there to be asked; say --yes to go ahead without", 2);
  }
  std::cout << question << " [y/N] " << std::flush;
  std::string answer;
  std::getline(std::cin, answer);
  return answer == "y" || answer == "Y" || answer == "yes";
}

/// Carries out `action` if that is wished for. Returns whether it was done.
bool offer(const BreakOptions& options, const std::string& what, const std::string& control,
           const std::string& text) {
  if (access(control.c_str(), W_OK) != 0) {
    std::cout << fmt::format("  {} cannot be written here\n", control);
    return false;
  }
  if (!options.outside && isatty(STDIN_FILENO) == 0) {
    std::cout << "  lockfsctl break ... --outside does it\n";
    return false;
  }
  if (!agreed(options, "  " + what + "?")) return false;
  if (const std::string error = write_control(control, text); !error.empty()) throw Error(error);
  std::cout << "  done\n";
  return true;
}

/// What can be done about a lock of an outsider. Returns whether something was.
bool deal_with_outsider(const Snapshot& s, const Record& lock, const BreakOptions& options) {
  std::cout << describe(s, lock) << ": held outside, lockfs cannot take it away\n";
  if (lock.command == "lockd") {
    std::cout << fmt::format(
        "  the NFS server can drop all NFSv3 locks on a filesystem:\n"
        "    echo {0} > {1}/unlock_filesystem\n"
        "  or those of all clients that came in through one of its own addresses "
        "(--server-address):\n"
        "    echo ADDRESS > {1}/unlock_ip\n",
        s.mount.source, options.nfsd);
    if (!options.server_address.empty()) {
      return offer(
          options,
          fmt::format("drop all NFSv3 locks that came in through {}", options.server_address),
          options.nfsd + "/unlock_ip", options.server_address);
    }
    return offer(options,
                 fmt::format("drop all NFSv3 locks on the filesystem of {}", s.mount.source),
                 options.nfsd + "/unlock_filesystem", s.mount.source);
  }
  if (lock.command == "nfsd") {
    const File& file = s.files[lock.file];
    bool done = false;
    std::set<std::string> asked;
    for (const NfsLock& held : nfs_locks(options.nfsd)) {
      if (held.inode != file.inode || !asked.insert(held.folder).second) continue;
      std::cout << fmt::format(
          "  the NFS server can expel the client {0}, with all its opens and locks:\n"
          "    echo expire > {1}/ctl\n",
          held.address, held.folder);
      done = offer(options, fmt::format("expel the NFSv4 client {}", held.address),
                   held.folder + "/ctl", "expire") ||
             done;
    }
    if (asked.empty()) {
      std::cout << fmt::format("  the client is not to be found in {}/clients\n", options.nfsd);
    }
    return done;
  }
  if (lock.pid > 0) {
    std::cout << fmt::format(
        "  the program uses the source and bypasses the mount; end it (kill {}), or have it use "
        "{}\n",
        lock.pid, s.mount.mountpoint);
  } else {
    std::cout << "  nobody says who it is; lslocks or the NFS server's clients may tell\n";
  }
  return false;
}

int break_locks(const Globals& globals, const BreakOptions& options) {
  if (options.path.empty() && options.pid == 0 && options.owner.empty()) {
    throw Error("break: say what: a FILE, --pid or --owner", 2);
  }
  const Record range = parse_range(options.range);
  std::vector<Target> targets = find_targets(globals, options.path);
  std::vector<Snapshot> snapshots;
  std::size_t found = 0;
  for (Target& target : targets) {
    if (target.filter.empty() && options.pid == 0 && options.owner.empty()) {
      throw Error(fmt::format("{} is a whole mount; name a file, --pid or --owner", options.path),
                  2);
    }
    snapshots.push_back(take_snapshot(target));
    for (const Record& lock : snapshots.back().locks) {
      if (lock.outside || !chosen(lock, options, range)) continue;
      std::cout << describe(snapshots.back(), lock) << '\n';
      ++found;
    }
  }
  std::uint64_t broken = 0;
  if (found > 0 && agreed(options, "Take these away? Their holders are not told")) {
    for (Target& target : targets) {
      Json arguments = target.filter;
      if (options.pid != 0) arguments["pid"] = options.pid;
      if (!options.owner.empty()) arguments["owner"] = options.owner;
      arguments["start"] = range.first;
      if (range.last != kEof) arguments["end"] = range.last;
      const Json sum = target.client.call("break", std::move(arguments), [](const Json& line) {
        const Json& gone = line.at("broken");
        std::cout << fmt::format(
            "broken: {} {}-{} of pid {}\n", printable(gone.at("path").get<std::string>()),
            gone.at("start").dump(), gone.at("end").is_null() ? "EOF" : gone.at("end").dump(),
            gone.at("pid").dump());
      });
      broken += sum.at("broken").get<std::uint64_t>();
    }
  }
  bool outside = false;
  std::set<std::string> dealt_with;
  for (const Snapshot& s : snapshots) {
    for (const Record& lock : s.locks) {
      if (!lock.outside || !chosen(lock, options, range)) continue;
      ++found;
      // One client or program may hold many.
      const std::string key = fmt::format("{} {} {}", lock.command, lock.pid, lock.file);
      if (dealt_with.insert(key).second) outside = deal_with_outsider(s, lock, options) || outside;
    }
  }
  if (found == 0) std::cout << "no such lock\n";
  return broken > 0 || outside ? 0 : 1;
}

}  // namespace

void add_break(CLI::App& app, const Globals& globals, Run& run) {
  auto* sub = app.add_subcommand("break",
                                 "Take locks away from their owners and grant those who wait next");
  auto o = std::make_shared<BreakOptions>();
  sub->add_option("FILE", o->path, "A file in a mount or in its source");
  sub->add_option("--pid,-p", o->pid, "Only locks that this process took")
      ->check(CLI::PositiveNumber);
  sub->add_option("--owner", o->owner, "Only of this owner, as list -o OWNER shows it");
  sub->add_option("--range", o->range, "Only these bytes: FIRST-LAST or FIRST-EOF");
  sub->add_flag("--yes,-y", o->yes, "Do not ask");
  sub->add_flag("--outside", o->outside,
                "Also use the NFS server's own interfaces for locks held outside");
  sub->add_option("--server-address", o->server_address,
                  "With --outside: the NFSv3 locks that came in through this address of the NFS "
                  "server, instead of all on the filesystem");
  sub->add_option("--nfsd", o->nfsd, "Where the NFS server's filesystem is")->group("");
  sub->callback([&globals, &run, o] { run = [&globals, o] { return break_locks(globals, *o); }; });
}

}  // namespace lockfs::ctl
