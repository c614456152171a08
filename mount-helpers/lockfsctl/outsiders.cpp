#include "mount-helpers/lockfsctl/outsiders.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>

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
    bool readable = false;
    const auto before = locks_of_process(s_.mount.pid, "", &readable);
    std::vector<ProcLock> table = read_proc_locks();
    const auto after = locks_of_process(s_.mount.pid, "", &readable);
    take_out_mirror(table, readable ? &before : nullptr, after);
    add_local(table);
    add_rest(table);
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

  /// The mirror's locks, as they were before or after the table was read. When the daemon's
  /// descriptors may not be looked at, every OFD lock may be one.
  void take_out_mirror(std::vector<ProcLock>& table, const std::vector<HeldLock>* before,
                       const std::vector<HeldLock>& after) const {
    if (before == nullptr) {
      std::erase_if(table, [](const ProcLock& l) { return l.type == "OFDLCK"; });
      return;
    }
    std::vector<HeldLock> mirror = *before;
    std::vector<HeldLock> seen = *before;
    for (const HeldLock& held : after) {
      const auto it = std::find_if(seen.begin(), seen.end(), [&](const HeldLock& other) {
        return other.lock.same_lock(held.lock);
      });
      if (it == seen.end()) {
        mirror.push_back(held);
      } else {
        seen.erase(it);
      }
    }
    for (const HeldLock& held : mirror) {
      const auto it = std::find_if(table.begin(), table.end(), [&](const ProcLock& l) {
        return !l.waiting && l.same_lock(held.lock);
      });
      if (it != table.end()) table.erase(it);
    }
    // A wait of the daemon's threads cannot be told from others'.
    std::erase_if(table, [](const ProcLock& l) { return l.waiting && l.type == "OFDLCK"; });
  }

  /// Locks that local processes hold through descriptors below the source.
  void add_local(std::vector<ProcLock>& table) {
    const std::string prefix = s_.mount.source == "/" ? "/" : s_.mount.source + "/";
    std::set<std::pair<std::string, std::uint64_t>> names;
    for (const ProcLock& lock : table) names.insert({lock.device, lock.inode});
    if (names.empty()) return;
    for (const pid_t pid : all_processes()) {
      if (pid == s_.mount.pid) continue;
      for (const HeldLock& held : locks_of_process(pid, prefix)) {
        const auto it = std::find_if(table.begin(), table.end(), [&](const ProcLock& l) {
          return !l.waiting && l.same_lock(held.lock);
        });
        if (it == table.end() || devices_.count(it->device) == 0) continue;
        ProcLock lock = *it;
        table.erase(it);
        lock.pid = pid;
        add_record(lock, held.path);
      }
    }
  }

  /// Locks of NFS clients, of processes whose paths look otherwise, and waits.
  void add_rest(const std::vector<ProcLock>& table) {
    std::vector<ProcLock> nameless;
    for (const ProcLock& lock : table) {
      const auto device = devices_.find(lock.device);
      if (device == devices_.end()) continue;
      const bool known = by_name_.count({device->second, lock.inode}) != 0 ||
                         (wanted_ && *wanted_ == Name{device->second, lock.inode});
      if (known) {
        add_record(lock, "");
      } else if (const std::string name = command_of(lock.pid); name == "nfsd" || name == "lockd") {
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
    r.command = command_of(r.pid);
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
  std::map<std::string, std::string> devices_;  ///< as /proc/locks has them, to those of stat(2)
  std::map<Name, std::size_t> by_name_;         ///< to the index in Snapshot::files
  std::optional<Name> wanted_;                  ///< only this file
  std::string wanted_path_;
  std::optional<std::vector<NfsLock>> nfs_;
};

}  // namespace

void add_outsiders(Snapshot& snapshot, const Target& target) { Outsiders(snapshot, target).add(); }

}  // namespace lockfs::ctl
