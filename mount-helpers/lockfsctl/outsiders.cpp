#include "mount-helpers/lockfsctl/outsiders.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include "mount-helpers/lockfsctl/nfs_server.h"
#include "mount-helpers/lockfsctl/proc_locks.h"

namespace lockfs::ctl {

namespace {

constexpr std::size_t kMostSearched = 500'000;  ///< directory entries, for a file without a name

std::optional<uid_t> owner_of(pid_t pid) {
  struct stat status {};
  if (stat(fmt::format("/proc/{}", pid).c_str(), &status) != 0) return std::nullopt;
  return status.st_uid;
}

class Outsiders {
 public:
  Outsiders(Snapshot& snapshot, const Target& target) : s_(snapshot) {
    const std::string device = superblock_device(s_.mount.source);
    devices_.emplace(s_.mount.source_device, s_.mount.source_device);
    if (!device.empty()) devices_.emplace(device, s_.mount.source_device);
    for (std::size_t i = 0; i < s_.files.size(); ++i) {
      devices_.emplace(s_.files[i].device, s_.files[i].device);
      by_name_[{s_.files[i].device, s_.files[i].inode}] = i;
    }
    read_filter(target);
  }

  void add() {
    for (ProcLock& lock : read_proc_locks()) {
      if (devices_.count(lock.device) == 0) continue;
      // A wait of the daemon's threads cannot be told from others'.
      if (lock.waiting && lock.type == "OFDLCK") continue;
      if (lock.waiting) {
        waits_.push_back(std::move(lock));
      } else {
        auto name = lock.name();
        held_.emplace(std::move(name), std::move(lock));
      }
    }
    add_local(true);
    bool all_looked_at = false;  // takes root
    for (const HeldLock& mirror : locks_of_process(s_.mount.pid, "", &all_looked_at)) {
      take(mirror.lock);
    }
    // Processes in another mount namespace have other paths.
    if (all_looked_at && std::any_of(held_.begin(), held_.end(), [&](const auto& held) {
          return is_known(held.second) && !is_of_server(held.second);
        })) {
      add_local(false);
    }
    add_rest(all_looked_at);
  }

 private:
  void read_filter(const Target& target) {
    if (const auto it = target.filter.find("source_inode"); it != target.filter.end()) {
      wanted_ = {target.filter.at("device").get<std::string>(), it->get<std::uint64_t>()};
    } else if (const auto shown = target.filter.find("inode"); shown != target.filter.end()) {
      // Files of filesystems mounted below the source are known only while the mount has locks.
      wanted_ = {s_.mount.source_device, shown->get<std::uint64_t>()};
      if (!s_.files.empty()) wanted_ = {s_.files.front().device, s_.files.front().inode};
    }
    wanted_path_ = target.file;
  }

  /// Takes a lock that looks like this one out of those held, if there is one.
  std::optional<ProcLock> take(const ProcLock& lock) {
    auto found = held_.extract(lock.name());
    if (found.empty()) return std::nullopt;
    return std::move(found.mapped());
  }

  /// Whether the file is one that the mount knows or that was asked for.
  [[nodiscard]] bool is_known(const ProcLock& lock) const {
    const Name name{devices_.at(lock.device), lock.inode};
    return by_name_.count(name) != 0 || (wanted_ && *wanted_ == name);
  }

  /// command_of(), asked once for each process.
  const std::string& command(pid_t pid) {
    const auto [it, fresh] = commands_.try_emplace(pid);
    if (fresh) it->second = command_of(pid);
    return it->second;
  }

  bool is_of_server(const ProcLock& lock) {
    const std::string& name = command(lock.pid);
    return name == "nfsd" || name == "lockd";
  }

  /// Locks that local processes hold through descriptors whose path is below the source, or through
  /// the others.
  void add_local(bool below) {
    if (held_.empty()) return;
    const std::string& source = s_.mount.source;
    const std::string prefix = source == "/" ? source : source + "/";
    for (const pid_t pid : all_processes()) {
      if (is_own(s_.mount, pid)) continue;
      for (const HeldLock& held : locks_of_process(pid, below ? prefix : "")) {
        if (!below && held.path.starts_with(prefix)) continue;
        auto lock = take(held.lock);
        if (!lock) continue;
        lock->pid = pid;
        if (below || is_known(*lock)) add_record(*lock, below ? held.path : "");
      }
    }
  }

  /// Locks of NFS clients, and waits. Other locks held have gone again before their holder was
  /// looked at, or the kernel has shown them twice, if all holders could be looked at; otherwise
  /// OFD locks may be the mirror's.
  void add_rest(bool all_looked_at) {
    for (const ProcLock& lock : waits_) {
      if (is_known(lock)) add_record(lock, "");
    }
    std::vector<ProcLock> nameless;
    for (const auto& [name, lock] : held_) {
      const bool of_server = is_of_server(lock);
      if (!of_server && (all_looked_at || lock.type == "OFDLCK")) continue;
      if (is_known(lock)) {
        add_record(lock, "");
      } else if (of_server) {
        nameless.push_back(lock);
      }
    }
    if (nameless.empty() || wanted_) return;
    const auto paths = search(nameless);
    for (const ProcLock& lock : nameless) {
      if (const auto it = paths.find(lock.inode); it != paths.end()) add_record(lock, it->second);
    }
  }

  /// The paths below the source of the inodes of these locks.
  [[nodiscard]] std::map<std::uint64_t, std::string> search(
      const std::vector<ProcLock>& locks) const {
    namespace fs = std::filesystem;
    std::set<std::uint64_t> wanted;
    for (const ProcLock& lock : locks) wanted.insert(lock.inode);
    std::map<std::uint64_t, std::string> found;
    std::error_code error;
    fs::recursive_directory_iterator it(s_.mount.source,
                                        fs::directory_options::skip_permission_denied, error);
    for (std::size_t left = kMostSearched;
         !error && left > 0 && !wanted.empty() && it != fs::recursive_directory_iterator();
         --left, it.increment(error)) {
      struct stat status {};
      if (lstat(it->path().c_str(), &status) != 0 || wanted.erase(status.st_ino) == 0) continue;
      found[status.st_ino] = it->path();
    }
    return found;
  }

  void add_record(const ProcLock& lock, const std::string& path) {
    const std::string device = devices_.at(lock.device);
    if (wanted_ && *wanted_ != Name{device, lock.inode}) return;
    Record r;
    r.file = file_of(device, lock.inode, path);
    r.type = lock.type == "POSIX" ? "posix" : lock.type == "OFDLCK" ? "ofd" : "flock";
    r.pid = std::max(lock.pid, 0);
    r.command = command(r.pid);
    if (r.pid != 0) r.uid = owner_of(r.pid);
    r.exclusive = lock.exclusive;
    r.first = lock.first;
    r.last = lock.last;
    r.outside = true;
    r.waiting = lock.waiting;
    if (r.command == "nfsd") r.client = client_of(lock);
    if (lock.waiting) r.place = "blocked";
    (lock.waiting ? s_.waits : s_.locks).push_back(std::move(r));
  }

  std::size_t file_of(const std::string& device, std::uint64_t inode, std::string path) {
    const auto [it, fresh] = by_name_.try_emplace({device, inode}, s_.files.size());
    if (fresh) {
      constexpr std::string_view kDeleted = " (deleted)";
      const bool deleted = path.ends_with(kDeleted);
      if (deleted) path.resize(path.size() - kDeleted.size());
      File file{path, path, device, inode, deleted};
      if (path.empty()) file.path = wanted_path_;
      const std::string& source = s_.mount.source;
      if (!path.empty()) {
        file.path = s_.mount.mountpoint + (source == "/" ? path : path.substr(source.size()));
      }
      s_.files.push_back(std::move(file));
    }
    return it->second;
  }

  /// The NFSv4 clients that hold locks on that file.
  std::string client_of(const ProcLock& lock) {
    if (!nfs_) nfs_ = nfs_locks();
    std::set<std::string> addresses;
    for (const NfsLock& held : *nfs_) {
      if (held.device == lock.device && held.inode == lock.inode) addresses.insert(held.address);
    }
    return fmt::format("{}", fmt::join(addresses, " or "));
  }

  using Name = std::pair<std::string, std::uint64_t>;

  Snapshot& s_;
  std::map<std::string, std::string> devices_;    ///< as /proc/locks has them, to those of stat(2)
  std::multimap<ProcLock::Name, ProcLock> held_;  ///< whose holder is not known yet
  std::vector<ProcLock> waits_;
  std::map<pid_t, std::string> commands_;
  std::map<Name, std::size_t> by_name_;  ///< to the index in Snapshot::files
  std::optional<Name> wanted_;           ///< only this file
  std::string wanted_path_;
  std::optional<std::vector<NfsLock>> nfs_;
};

}  // namespace

void add_outsiders(Snapshot& snapshot, const Target& target) { Outsiders(snapshot, target).add(); }

}  // namespace lockfs::ctl
