// Checks of the NFS server and of NFS mounts on this machine.
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>

#include "fs/base/mount_table.h"
#include "mount-helpers/lockfsctl/doctor.h"
#include "mount-helpers/lockfsctl/proc_locks.h"
#include "mount-helpers/lockfsctl/snapshot.h"

namespace lockfs::ctl {

namespace {

using Grade = Finding::Grade;

struct Export {
  std::string path;
  std::string file;  ///< that says so
};

/// The paths that exports(5) files name.
std::vector<Export> exports_of(const Patient& patient) {
  std::set<std::string> files = {"/etc/exports", "/var/lib/nfs/etab"};
  std::error_code error;
  for (const auto& entry :
       std::filesystem::directory_iterator(patient.at("/etc/exports.d"), error)) {
    if (entry.path().extension() == ".exports") {
      files.insert("/etc/exports.d/" + entry.path().filename().string());
    }
  }
  std::vector<Export> found;
  for (const std::string& file : files) {
    std::ifstream text(patient.at(file));
    std::string line;
    std::string whole;
    while (std::getline(text, line)) {
      if (line.ends_with('\\')) {
        whole += line.substr(0, line.size() - 1) + ' ';
        continue;
      }
      whole += line;
      const auto begin = whole.find_first_not_of(" \t");
      if (begin != std::string::npos && whole[begin] != '#' && whole[begin] != '-') {
        // A path with blanks stands in double quotes.
        const bool quoted = whole[begin] == '"';
        const auto first = quoted ? begin + 1 : begin;
        const auto end = quoted ? whole.find('"', first) : whole.find_first_of(" \t", first);
        found.push_back({whole.substr(first, end - first), file});
      }
      whole.clear();
    }
  }
  return found;
}

bool serves_version_3(const Patient& patient) {
  // "-2 +3 +4 +4.1 +4.2"; without the file nobody serves, now.
  const auto versions = patient.line_of("/proc/fs/nfsd/versions");
  return !versions || versions->find("+3") != std::string::npos;
}

bool runs(const Patient& patient, const std::string& name) {
  if (!patient.root.empty()) return std::filesystem::exists(patient.at("/run/" + name + ".pid"));
  const auto pids = all_processes();
  return std::any_of(pids.begin(), pids.end(), [&](pid_t pid) { return command_of(pid) == name; });
}

}  // namespace

std::vector<Finding> check_exports(const Patient& patient) {
  const std::vector<Export> exports = exports_of(patient);
  std::vector<Finding> found;
  if (!patient.mountpoint.empty() && patient.mountpoint != patient.source) {
    std::set<std::string> told;
    for (const Export& e : exports) {
      if (!is_below(e.path, patient.mountpoint) || !told.insert(e.path).second) continue;
      const std::string rest = e.path.substr(patient.mountpoint.size());
      found.push_back(
          {serves_version_3(patient) ? Grade::kTrap : Grade::kNote,
           fmt::format("{} exports {}, which is in the lockfs mount: NFSv3 clients get ENOLCK for "
                       "every lock (the kernel's fuse_setlk() refuses lockd)",
                       e.file, e.path),
           fmt::format("export {}{} instead, and exportfs -ra", patient.source, rest)});
    }
  }
  if (found.empty()) {
    found.push_back({Grade::kFine,
                     exports.empty() ? "nothing is exported by NFS"
                                     : "no lockfs mount is exported to NFSv3 clients",
                     ""});
  }
  return found;
}

std::vector<Finding> check_statd(const Patient& patient) {
  if (exports_of(patient).empty() || !serves_version_3(patient)) return {};
  if (runs(patient, "rpc.statd")) return {{Grade::kFine, "rpc.statd runs", ""}};
  return {{Grade::kTrap,
           "rpc.statd does not run, but NFSv3 is served: clients cannot take locks, or lose them "
           "without notice when a machine restarts",
           "apt install nfs-common; systemctl enable --now rpc-statd; or serve NFSv4 only "
           "(vers3=n in /etc/nfs.conf)"}};
}

std::vector<Finding> check_grace(const Patient& patient) {
  const auto says_no = [&](const std::string& path) {
    return patient.line_of(path).value_or("").starts_with("N");
  };
  const std::string threads = patient.line_of("/proc/fs/nfsd/threads").value_or("");
  if (threads.empty() || threads.starts_with("0")) return {};
  std::string flag = "/proc/fs/nfsd/v4_end_grace";
  if (!says_no(flag)) flag = "/proc/fs/lockd/nlm_end_grace";
  if (!says_no(flag)) return {};
  return {{Grade::kNote,
           "the NFS server is in its grace period: requests for locks wait for its end, those of "
           "local programs (unless mounted with server_wait=0) as those of clients",
           fmt::format("wait, some 90 s at most; or give up what clients have not reclaimed: "
                       "echo Y > {}",
                       flag)}};
}

std::vector<Finding> check_local_lock(const Patient& patient) {
  std::vector<Finding> found;
  std::ifstream table(patient.at("/proc/mounts"));
  std::string line;
  while (std::getline(table, line)) {
    std::istringstream fields(line);
    std::string server;
    std::string point;
    std::string type;
    std::string options;
    fields >> server >> point >> type >> options;
    if (type != "nfs" && type != "nfs4") continue;
    options = "," + options + ",";
    for (const char* bad : {"local_lock=all", "local_lock=flock", "local_lock=posix", "nolock"}) {
      if (options.find(fmt::format(",{},", bad)) == std::string::npos) continue;
      found.push_back({Grade::kTrap,
                       fmt::format("{} ({}) is mounted with {}: locks taken there stay on this "
                                   "machine, the server and others never see them",
                                   point, server, bad),
                       fmt::format("unmount it and mount it again without {}", bad)});
      break;
    }
  }
  return found;
}

}  // namespace lockfs::ctl
