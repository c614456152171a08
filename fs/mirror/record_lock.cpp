#include "fs/mirror/record_lock.h"

#include <cerrno>
#include <chrono>
#include <ctime>

#include "fs/base/death_point.h"
#include "fs/base/kick.h"

namespace lockfs {

namespace {

using namespace std::chrono_literals;

/// How often to look whether an outsider has taken the lock.
constexpr auto kLook = 50us;

/// The backing wakes those who wait for a lock when it is released; they take it when they get to
/// run. Waits until one of them has, or none cared to.
void let_others_go_first(int fd, const lockmgr::Range& range, lockmgr::Mode mode,
                         const std::atomic<bool>& recalled) {
  const auto until = std::chrono::steady_clock::now() + kOutsidersTurn;
  while (!recalled && std::chrono::steady_clock::now() < until) {
    struct flock probe = record_lock(range, mode);
    if (fcntl(fd, F_OFD_GETLK, &probe) != 0 || probe.l_type != F_UNLCK) return;
    const timespec pause{0, std::chrono::nanoseconds(kLook).count()};
    nanosleep(&pause, nullptr);
  }
}

}  // namespace

int wait_for_record_lock(int fd, const lockmgr::Range& range, lockmgr::Mode mode, bool yield_first,
                         const std::atomic<bool>& recalled) noexcept {
  if (yield_first) let_others_go_first(fd, range, mode, recalled);
  struct flock request = record_lock(range, mode);
  const KickableLock kickable(&request);
  if (recalled) return EINTR;
  if (fcntl(fd, F_OFD_SETLKW, &request) == 0) {
    death_point("mirror.waited");
    return 0;
  }
  // EINVAL is what a kick just before the call makes of it.
  return recalled ? EINTR : errno;
}

}  // namespace lockfs
