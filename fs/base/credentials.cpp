#include "fs/base/credentials.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <sched.h>
#include <sys/fsuid.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "fs/base/unique_fd.h"

namespace lockfs {
namespace {

/// The effective capabilities of a thread.
class Capabilities {
 public:
  int read() noexcept { return ::syscall(SYS_capget, &header_, data_.data()) == 0 ? 0 : errno; }
  int write() noexcept { return ::syscall(SYS_capset, &header_, data_.data()) == 0 ? 0 : errno; }

  void remove(unsigned capability) noexcept {
    data_.at(CAP_TO_INDEX(capability)).effective &= ~CAP_TO_MASK(capability);
  }

 private:
  __user_cap_header_struct header_{_LINUX_CAPABILITY_VERSION_3, 0};
  std::array<__user_cap_data_struct, _LINUX_CAPABILITY_U32S_3> data_{};
};

/// What prepare_worker_thread() left in the calling thread.
struct ThreadIdentity {
  bool prepared = false;
  bool root = false;
  Capabilities capabilities;
};
thread_local ThreadIdentity own;

// setgroups() of the C library changes every thread, the system call only one.
int set_groups(std::span<const gid_t> groups) noexcept {
  return ::syscall(SYS_setgroups, groups.size(), groups.data()) == 0 ? 0 : errno;
}

/// Sets owner and group of new files. These calls don't report failure but can be asked: an invalid
/// id changes nothing and returns the present one.
int set_owner(uid_t uid, gid_t gid) noexcept {
  ::setfsgid(gid);
  ::setfsuid(uid);
  const bool done = ::setfsgid(static_cast<gid_t>(-1)) == static_cast<int>(gid) &&
                    ::setfsuid(static_cast<uid_t>(-1)) == static_cast<int>(uid);
  return done ? 0 : EPERM;
}

/// The text of /proc/<tid>/status; empty if the thread cannot be seen. Throws std::bad_alloc.
const std::string& status_of(pid_t tid) {
  thread_local std::string text;
  char path[32];
  std::snprintf(path, sizeof path, "/proc/%d/status", tid);
  const UniqueFd file(::open(path, O_RDONLY | O_CLOEXEC));
  std::size_t length = 0;
  while (file) {
    if (length == text.size()) text.resize(std::max<std::size_t>(2048, text.size() * 2));
    const ssize_t got = ::read(file.get(), text.data() + length, text.size() - length);
    if (got <= 0) break;
    length += static_cast<std::size_t>(got);
  }
  text.resize(length);
  return text;
}

/// Supplementary groups of the thread that made the request. None if it cannot be seen: it runs in
/// another pid namespace or was killed meanwhile. (fuse_req_getgroups() of libfuse 3.14 searches
/// a buffer that it has not terminated.)
std::span<const gid_t> groups_of(fuse_req_t req) {
  thread_local std::vector<gid_t> groups;
  groups.clear();
  constexpr std::string_view kLabel = "\nGroups:";
  const std::string& status = status_of(fuse_req_ctx(req)->pid);
  const std::size_t label = status.find(kLabel);
  if (label == std::string::npos) return {};
  const char* at = status.data() + label + kLabel.size();
  const char* const end = status.data() + status.size();
  while (at != end && (*at == ' ' || *at == '\t')) {
    gid_t group = 0;
    const auto [next, error] = std::from_chars(++at, end, group);
    if (error != std::errc()) continue;
    groups.push_back(group);
    at = next;
  }
  return groups;
}

/// What lets root do to files of others what their owners may.
constexpr std::array<unsigned, 3> kPowersOverOthers{CAP_FOWNER, CAP_DAC_OVERRIDE,
                                                    CAP_DAC_READ_SEARCH};

/// Whether the thread is in the daemon's user namespace: in another one its capabilities are over
/// what belongs to that one.
bool shares_user_namespace(pid_t tid) noexcept {
  char path[32];
  std::snprintf(path, sizeof path, "/proc/%d/ns/user", tid);
  struct stat theirs {};
  struct stat ours {};
  return ::stat(path, &theirs) == 0 && ::stat("/proc/self/ns/user", &ours) == 0 &&
         theirs.st_dev == ours.st_dev && theirs.st_ino == ours.st_ino;
}

/// The effective capabilities of the thread in the daemon's user namespace, a bit each. None if it
/// cannot be seen. Throws std::bad_alloc.
std::uint64_t capabilities_of(pid_t tid) {
  constexpr std::string_view kLabel = "\nCapEff:\t";
  const std::string& status = status_of(tid);
  const std::size_t label = status.find(kLabel);
  if (label == std::string::npos) return 0;
  std::uint64_t held = 0;
  std::from_chars(status.data() + label + kLabel.size(), status.data() + status.size(), held, 16);
  return held != 0 && shares_user_namespace(tid) ? held : 0;
}

int drop_set_id_rights() noexcept {
  Capabilities reduced = own.capabilities;
  reduced.remove(CAP_FSETID);
  return reduced.write();
}

}  // namespace

int prepare_worker_thread() noexcept {
  if (::unshare(CLONE_FS) != 0) return errno;
  own.root = ::geteuid() == 0;
  if (own.root) {
    if (::prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP) != 0) return errno;
    if (const int error = set_groups({}); error != 0) return error;
    if (const int error = own.capabilities.read(); error != 0) return error;
    own.capabilities.remove(CAP_SYS_RESOURCE);
    if (const int error = own.capabilities.write(); error != 0) return error;
  }
  own.prepared = true;
  return 0;
}

CallerIdentity::CallerIdentity(fuse_req_t req, Powers powers) : error_(take(req, powers)) {}

int CallerIdentity::take(fuse_req_t req, Powers powers) {
  if (!own.prepared) return EPERM;
  const fuse_ctx& caller = *fuse_req_ctx(req);
  ::umask(caller.umask);
  if (!own.root || (caller.uid == 0 && caller.gid == 0)) return 0;

  // What may throw comes first: the thread must not be left with half an identity.
  const auto groups = groups_of(req);
  const std::uint64_t held = powers == Powers::kOwn ? capabilities_of(caller.pid) : 0;
  switched_ = true;
  if (const int error = set_groups(groups); error != 0) return error;
  if (const int error = set_owner(caller.uid, caller.gid); error != 0) return error;
  if (caller.uid == 0) return 0;
  Capabilities reduced = own.capabilities;
  reduced.remove(CAP_FSETID);
  if (powers == Powers::kOwn) {
    for (const unsigned power : kPowersOverOthers) {
      if ((held >> power & 1) == 0) reduced.remove(power);
    }
  }
  return reduced.write();
}

CallerIdentity::~CallerIdentity() {
  if (!switched_) return;
  // The thread must not go on with a stranger's identity.
  if (own.capabilities.write() != 0 || set_owner(0, 0) != 0 || set_groups({}) != 0) std::abort();
}

bool has_capability(pid_t tid, unsigned capability) {
  return (capabilities_of(tid) >> capability & 1) != 0;
}

AllocatesAs::AllocatesAs(uid_t uid, bool local) noexcept
    : switched_(own.root && local && uid != 0) {
  if (switched_) ::setfsuid(uid);
}

AllocatesAs::~AllocatesAs() {
  if (switched_) ::setfsuid(0);
}

StrangersRights::StrangersRights(bool local) noexcept
    : nobody_(kNobody, local),
      error_(!own.prepared ? EPERM
             : own.root    ? drop_set_id_rights()
                           : 0) {}

StrangersRights::~StrangersRights() {
  // capset() to what the thread had a moment ago is always allowed.
  if (own.root && own.capabilities.write() != 0) std::abort();
}

}  // namespace lockfs
