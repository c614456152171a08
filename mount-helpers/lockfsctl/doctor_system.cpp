// Checks of the kernel, the daemon, and local programs.
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/magic.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <map>

#include "mount-helpers/lockfsctl/doctor.h"
#include "mount-helpers/lockfsctl/mount_points.h"
#include "mount-helpers/lockfsctl/proc_locks.h"
#include "mount-helpers/lockfsctl/snapshot.h"
#include "mount-helpers/lockfsctl/subcommand.h"

namespace lockfs::ctl {

namespace {

using Grade = Finding::Grade;

constexpr long kFewDescriptors = 4096;
constexpr long kEnoughDescriptors = 65536;

enum class Answer { kWell, kDead, kNone };

/// Whether a mount answers. Asked by a child, which may be left behind in its system call.
Answer ask(const std::string& point) {
  constexpr int kPatience = 5'000;  // ms
  const pid_t child = fork();
  if (child == 0) {
    struct statvfs status {};
    _exit(statvfs(point.c_str(), &status) != 0 && errno == ENOTCONN ? 1 : 0);
  }
  // glibc 2.36 declares pidfd_open() for C only.
  const int pidfd = child < 0 ? -1 : static_cast<int>(syscall(SYS_pidfd_open, child, 0));
  if (pidfd < 0) throw Error(fmt::format("cannot start a process: {}", std::strerror(errno)), 1);
  pollfd ended{pidfd, POLLIN, 0};
  const bool answered = poll(&ended, 1, kPatience) > 0;
  close(pidfd);
  int status = 0;
  if (!answered) kill(child, SIGKILL);
  waitpid(child, &status, answered ? 0 : WNOHANG);
  if (!answered) return Answer::kNone;
  return WIFEXITED(status) && WEXITSTATUS(status) == 1 ? Answer::kDead : Answer::kWell;
}

}  // namespace

std::vector<Finding> check_device(const Patient& patient) {
  const std::string path = patient.at("/dev/fuse");
  const int fd = open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (fd >= 0) {
    close(fd);
    return {{Grade::kFine, "/dev/fuse can be opened", ""}};
  }
  if (errno == ENOENT || errno == ENODEV || errno == ENXIO) {
    return {{Grade::kTrap, "/dev/fuse is missing: nothing can be mounted",
             "modprobe fuse; in a container, pass the device in (--device /dev/fuse)"}};
  }
  return {{Grade::kTrap, fmt::format("/dev/fuse cannot be opened: {}", std::strerror(errno)),
           "be root, or see that the device has mode 0666; in a container, allow the device"}};
}

std::vector<Finding> check_passthrough(const Patient& patient) {
  const std::string release = patient.line_of("/proc/sys/kernel/osrelease").value_or("");
  int major_number = 0;
  int minor_number = 0;
  std::sscanf(release.c_str(), "%d.%d", &major_number, &minor_number);
  const char* const slower = "data goes through the daemon, which is slower but right";
  if (major_number < 6 || (major_number == 6 && minor_number < 9)) {
    return {{Grade::kNote,
             fmt::format("no data passthrough: Linux {} has none; {}", release, slower),
             "Linux 6.9 or later"}};
  }
  if (geteuid() != 0 && !patient.mount) {
    return {{Grade::kNote, fmt::format("no data passthrough without root; {}", slower),
             "mount as root"}};
  }
  struct statfs info {};
  if (!patient.source.empty() && statfs(patient.source.c_str(), &info) == 0) {
    const auto type = static_cast<std::uint64_t>(info.f_type);
    if (type == FUSE_SUPER_MAGIC || type == OVERLAYFS_SUPER_MAGIC) {
      return {{Grade::kNote,
               fmt::format("no data passthrough: {} is itself on {}; {}", patient.source,
                           type == FUSE_SUPER_MAGIC ? "a FUSE filesystem" : "an overlay", slower),
               "use a source on the filesystem beneath"}};
    }
  }
  return {{Grade::kFine, fmt::format("data passthrough: Linux {} offers it", release), ""}};
}

std::vector<Finding> check_timeouts(const Patient& patient) {
  std::vector<Finding> found;
  for (const char* name : {"default_request_timeout", "max_request_timeout"}) {
    const auto value = patient.line_of(fmt::format("/proc/sys/fs/fuse/{}", name));
    if (!value || *value == "0") continue;
    found.push_back({Grade::kTrap,
                     fmt::format("sysctl fs.fuse.{} is {}: the kernel ends a mount on which a "
                                 "request, such as a wait for a lock, takes {} s",
                                 name, *value, *value),
                     fmt::format("sysctl -w fs.fuse.{}=0, and the same in /etc/sysctl.d, before "
                                 "mounting",
                                 name)});
  }
  if (found.empty()) found.push_back({Grade::kFine, "no time-out ends long waits for locks", ""});
  return found;
}

std::vector<Finding> check_descriptors(const Patient& patient) {
  if (!patient.mount) return {};
  std::ifstream limits(patient.at(fmt::format("/proc/{}/limits", patient.mount->pid)));
  std::string line;
  while (std::getline(limits, line)) {
    long soft = 0;
    if (std::sscanf(line.c_str(), "Max open files %ld", &soft) != 1) continue;
    if (soft >= kEnoughDescriptors) {
      return {{Grade::kFine, fmt::format("the daemon may open {} files", soft), ""}};
    }
    return {{soft < kFewDescriptors ? Grade::kTrap : Grade::kNote,
             fmt::format("the daemon may open only {} files; each open file and each file with "
                         "locks takes one",
                         soft),
             "LimitNOFILE=1048576 in its unit, or ulimit -Hn 1048576 before mounting"}};
  }
  return {};
}

std::vector<Finding> check_mounts(const Patient& patient) {
  std::vector<Finding> found;
  for (const std::string& point : lockfs_mount_points(patient.at("/proc/self/mountinfo"))) {
    switch (ask(point)) {
      case Answer::kWell:
        break;
      case Answer::kDead:
        found.push_back({Grade::kTrap,
                         fmt::format("{} is a dead mount: its daemon was killed", point),
                         fmt::format("umount '{0}', or umount -l '{0}' if it is busy; then mount "
                                     "again",
                                     point)});
        break;
      case Answer::kNone:
        found.push_back(
            {Grade::kTrap,
             fmt::format("{} does not answer: its daemon is stopped, or stuck in the source",
                         point),
             "pkill -CONT -x lockfs; if that is not it, look whether the source answers"});
        break;
    }
  }
  return found;
}

std::vector<Finding> check_bypass(const Patient& patient) {
  if (patient.source.empty()) return {};
  const std::string prefix = patient.source == "/" ? "/" : patient.source + "/";
  std::map<std::string, pid_t> culprits;  ///< one for each file will do
  for (const pid_t pid : all_processes()) {
    if (patient.mount && is_own(*patient.mount, pid)) continue;
    // Where lockfs covers its source both have one path; the device tells the mount's files.
    for (const HeldLock& held : locks_of_process(pid, prefix)) {
      if (held.lock.type == "FLOCK" && held.lock.device == superblock_device(patient.source)) {
        culprits.emplace(held.path, pid);
      }
    }
  }
  std::vector<Finding> found;
  found.reserve(culprits.size() + 1);
  for (const auto& [path, pid] : culprits) {
    found.push_back(
        {Grade::kTrap,
         fmt::format("pid {} ({}) holds a flock straight on {}: neither the mount nor any NFS "
                     "client sees it",
                     pid, command_of(pid), path),
         patient.mountpoint.empty()
             ? std::string("have it use the mount, or mount lockfs over the source itself")
             : fmt::format("have it use {}, or mount lockfs over the source itself",
                           patient.mountpoint)});
  }
  if (found.empty()) {
    found.push_back({Grade::kFine, "no local program holds flocks straight on the source", ""});
  }
  return found;
}

}  // namespace lockfs::ctl
