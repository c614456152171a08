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

/// The same for calls that take their arguments by value, such as flock(2): a duplicate of a
/// descriptor, for the calling thread only. A kick exchanges it for one that no such call accepts
/// (EBADF for an O_PATH descriptor), so a call that was not entered yet returns at once.
class KickableDescriptor {
 public:
  /// get() is negative when there is no descriptor to be had.
  explicit KickableDescriptor(int fd);
  ~KickableDescriptor();
  KickableDescriptor(const KickableDescriptor&) = delete;
  KickableDescriptor& operator=(const KickableDescriptor&) = delete;
  [[nodiscard]] int get() const { return fd_; }

 private:
  const int fd_;
};

}  // namespace lockfs
