/// Whose identity the daemon's threads act with.
///
/// Thread safety: everything here concerns the calling thread alone. On Linux credentials and
/// (after unshare(CLONE_FS)) the umask belong to the thread.
#pragma once

#include <fuse3/fuse_lowlevel.h>

namespace lockfs {

/// To be called once by each thread that runs handlers, before the first: gives the thread a umask
/// of its own and, for root, keeps its capabilities when it takes a caller's identity. It also
/// gives up CAP_SYS_RESOURCE, with which the backing filesystem would ignore its users' disk
/// quotas. Returns 0 or errno.
int prepare_worker_thread() noexcept;

/// While it lives the calling thread creates files, and changes those with set-ID bits, as the
/// caller of a request would: owner, group, supplementary groups, umask, and no right to keep such
/// bits or to set those of foreign groups (CAP_FSETID).
/// All other capabilities stay unless `Powers` says otherwise, since the kernel has checked the
/// caller's permissions already.
/// A daemon that isn't root takes only the umask. At most one at a time in a thread.
class CallerIdentity {
 public:
  /// What the thread may do beyond what the caller's ids allow.
  enum class Powers {
    kDaemons,  ///< what the daemon may
    kOwn,      ///< what the caller may: nothing on files of others (CAP_FOWNER, CAP_DAC_OVERRIDE,
               ///< CAP_DAC_READ_SEARCH), unless it has that itself
  };

  /// Throws std::bad_alloc.
  explicit CallerIdentity(fuse_req_t req, Powers powers = Powers::kDaemons);
  CallerIdentity(const CallerIdentity&) = delete;
  CallerIdentity& operator=(const CallerIdentity&) = delete;
  ~CallerIdentity();

  /// 0, or the errno with which the identity could not be taken: then nothing may be created.
  [[nodiscard]] int error() const noexcept { return error_; }

 private:
  int take(fuse_req_t req, Powers powers);

  bool switched_ = false;  ///< before error_, whose initialiser sets it
  int error_;
};

/// Whether the thread has a capability over what belongs to the daemon's user namespace. False if
/// it cannot be seen. Throws std::bad_alloc.
bool has_capability(pid_t tid, unsigned capability);

/// While it lives what the calling thread allocates is not taken from what a filesystem keeps for
/// root, unless `uid` is root's: ext4 goes by the user besides CAP_SYS_RESOURCE
/// (ext4_has_free_clusters()). Does nothing in a daemon that isn't root, nor where a server decides
/// by the ids that are sent to it (not `local`).
class AllocatesAs {
 public:
  AllocatesAs(uid_t uid, bool local) noexcept;
  AllocatesAs(const AllocatesAs&) = delete;
  AllocatesAs& operator=(const AllocatesAs&) = delete;
  ~AllocatesAs();

 private:
  const bool switched_;
};

/// Somebody who owns nothing and whom nothing is kept for.
inline constexpr uid_t kNobody = 65534;

/// While it lives the calling thread has no CAP_FSETID and allocates as nobody: what it registers
/// with the kernel for writing loses its set-ID bits, and takes nothing that is kept for root,
/// whoever writes. Does nothing in a daemon that isn't root.
class StrangersRights {
 public:
  /// `local`: as for AllocatesAs.
  explicit StrangersRights(bool local) noexcept;
  StrangersRights(const StrangersRights&) = delete;
  StrangersRights& operator=(const StrangersRights&) = delete;
  ~StrangersRights();

  /// 0, or the errno with which the rights could not be given up.
  [[nodiscard]] int error() const noexcept { return error_; }

 private:
  const AllocatesAs nobody_;
  int error_;
};

}  // namespace lockfs
