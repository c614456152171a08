/// Gets a thread out of a blocking system call, without the race between looking at a flag and
/// entering the call.
#pragma once

#include <fcntl.h>
#include <sys/types.h>

namespace lockfs {

/// Installs the handler; once, before the threads start that may be kicked.
void install_kick_handler();

/// Lets kicks reach the calling thread, and no other signal that can be blocked.
void accept_only_kicks();

/// Interrupts the system call that thread `tid` of this process is in (EINTR). A call that it has
/// not entered yet isn't affected, except by way of KickableLock.
void kick(pid_t tid);

/// While it lives, a kick that arrives before the calling thread has entered fcntl(F_OFD_SETLKW)
/// makes `request` invalid, so that the call returns at once (EINVAL, flock64_to_posix_lock); one
/// that arrives later interrupts the call. Either way none is lost.
class KickableLock {
 public:
  explicit KickableLock(struct flock* request);
  ~KickableLock();
  KickableLock(const KickableLock&) = delete;
  KickableLock& operator=(const KickableLock&) = delete;
};

}  // namespace lockfs
