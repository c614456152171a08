#include "mount-helpers/lockfsctl/snapshot.h"

#include <fmt/format.h>
#include <pwd.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <map>

#include "lockmgr/text.h"
#include "mount-helpers/lockfsctl/outsiders.h"

namespace lockfs::ctl {

namespace {

std::int64_t last_of(const Json& json) {
  return json.at("end").is_null() ? kEof : json.at("end").get<std::int64_t>();
}

Record record_of(const Json& json, std::size_t file) {
  Record r;
  r.file = file;
  r.type = json.at("type").get<std::string>();
  r.owner = json.at("owner").get<std::string>();
  r.pid = json.at("pid").get<pid_t>();
  r.tid = json.at("tid").get<pid_t>();
  r.uid = json.at("uid").get<uid_t>();
  r.exclusive = json.at("mode") == "exclusive";
  r.first = json.at("start").get<std::int64_t>();
  r.last = last_of(json);
  return r;
}

/// Who has a lock, or waits, through the mount.
lockmgr::Party party_of(const Record& r) {
  return {lockmgr::owner_from(r.owner).value_or(lockmgr::OwnerId{}), r.pid};
}

}  // namespace

bool Snapshot::stands_in_the_way(const Record& lock, const Record& wait) const {
  if (!lock.overlaps(wait) || (!lock.exclusive && !wait.exclusive)) return false;
  const lockmgr::Party asker = party_of(wait);
  if (lock.outside) {
    const bool as_flock = policy.space_of(asker.owner.type) == lockmgr::Space::kFlocks;
    return lock.type == "flock" ? as_flock || policy.guards() : !as_flock;
  }
  return policy.excludes(party_of(lock), asker);
}

std::size_t Snapshot::waiters_behind(const Record& lock) const {
  return static_cast<std::size_t>(std::count_if(
      waits.begin(), waits.end(), [&](const Record& w) { return stands_in_the_way(lock, w); }));
}

Snapshot take_snapshot(Target& target, bool outsiders) {
  Snapshot s;
  s.mount = target.client.mount();
  if (const std::string error = lockmgr::Policy::parse(s.mount.policy, {}, s.policy);
      !error.empty()) {
    throw Error(fmt::format("the mount's policy cannot be understood: {}", error));
  }
  try {
    target.client.call("list", target.filter, [&](const Json& line) {
      if (const auto it = line.find("file"); it != line.end()) {
        s.files.push_back({it->at("path").get<std::string>(),
                           it->at("source_path").get<std::string>(),
                           it->at("device").get<std::string>(),
                           it->at("inode").get<std::uint64_t>(), it->at("deleted").get<bool>()});
      } else if (const auto lock = line.find("lock"); lock != line.end()) {
        s.locks.push_back(record_of(*lock, s.files.size() - 1));
        s.locks.back().seconds = lock->at("held_s").get<std::int64_t>();
      } else if (const auto wait = line.find("wait"); wait != line.end()) {
        Record r = record_of(*wait, s.files.size() - 1);
        r.seconds = wait->at("waited_s").get<std::int64_t>();
        r.waiting = true;
        r.ticket = wait->at("ticket").get<std::uint64_t>();
        r.place = wait->at("place").get<std::string>();
        if (!wait->at("ahead").is_null()) r.ahead = wait->at("ahead").get<std::uint64_t>();
        s.waits.push_back(std::move(r));
      }
    });
  } catch (const Json::exception& error) {
    throw Error(fmt::format("the mount's answer cannot be understood: {}", error.what()));
  }
  std::map<pid_t, std::string> commands;
  for (auto* records : {&s.locks, &s.waits}) {
    for (Record& r : *records) {
      const auto [it, fresh] = commands.try_emplace(r.pid);
      if (fresh) it->second = command_of(r.pid);
      r.command = it->second;
    }
  }
  if (outsiders) add_outsiders(s, target);
  std::stable_sort(s.locks.begin(), s.locks.end(),
                   [](const Record& a, const Record& b) { return a.file < b.file; });
  // Who came first stands first.
  std::stable_sort(s.waits.begin(), s.waits.end(), [](const Record& a, const Record& b) {
    return std::pair(a.file, a.ticket) < std::pair(b.file, b.ticket);
  });
  return s;
}

std::string range_text(const Record& r) {
  return lockmgr::text_of(lockmgr::Range{r.first, r.last});
}

std::string range_words(const Record& r) {
  if (r.first == 0 && r.last == kEof) return "the whole file";
  if (r.first == r.last) return fmt::format("byte {}", r.first);
  return r.last == kEof ? fmt::format("bytes from {} on", r.first)
                        : fmt::format("bytes {}-{}", r.first, r.last);
}

std::string user_name(const std::optional<uid_t>& uid) {
  if (!uid) return "?";
  std::array<char, 4096> buffer;
  passwd entry{};
  passwd* found = nullptr;
  if (getpwuid_r(*uid, &entry, buffer.data(), buffer.size(), &found) == 0 && found != nullptr) {
    return found->pw_name;
  }
  return std::to_string(*uid);
}

std::string command_of(pid_t pid) {
  if (pid <= 0) return {};
  std::ifstream file(fmt::format("/proc/{}/comm", pid));
  std::string name;
  std::getline(file, name);
  return name;
}

std::string who_text(const Record& r) {
  if (r.outside && (r.command == "nfsd" || r.command == "lockd")) {
    return r.client.empty() ? fmt::format("an NFS client ({})", r.command)
                            : fmt::format("the NFS client {}", r.client);
  }
  if (r.pid <= 0) return r.outside ? "somebody outside" : "an unknown process";
  const std::string name = r.command.empty() ? "gone" : r.command;
  return r.uid ? fmt::format("pid {} ({}, user {})", r.pid, name, user_name(r.uid))
               : fmt::format("pid {} ({})", r.pid, name);
}

}  // namespace lockfs::ctl
