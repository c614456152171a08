/// NFSv4.0 clients that may be waiting for a lock where nobody can see them.
///
/// Such a client asks again every 1 to 30 s until it finds the lock free
/// (nfs4_retry_setlk_simple()); in between the server knows nothing of it, and /proc/locks has no
/// line. Where local programs hand a lock to each other without a gap it would find it taken for
/// ever. What the server does tell is which files such a client has open (/proc/fs/nfsd/clients),
/// and one that waits has.
///
/// Thread safety: as BackingFile, which owns it.
#pragma once

#include <sys/types.h>

#include <chrono>

namespace lockfs {

class NfsPollers {
 public:
  using Clock = std::chrono::steady_clock;

  /// `clients`: the folder where the server tells what its clients have open.
  explicit NfsPollers(ino_t ino, const char* clients = "/proc/fs/nfsd/clients") noexcept
      : ino_(ino), clients_(clients) {}

  /// Called when a lock of the file goes from one local program to the next, at `now`. True: it
  /// should be left free for a moment first. That is so half of the time, once local programs have
  /// had the file for kPatience.
  bool due(Clock::time_point now) noexcept;

 private:
  const ino_t ino_;
  const char* const clients_;
  bool may_poll_ = false;  ///< as last seen
  Clock::time_point next_look_;
  Clock::time_point last_call_;
  Clock::time_point next_turn_;
};

}  // namespace lockfs
