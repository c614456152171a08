#include "fs/mirror/backing_flock.h"

#include <fcntl.h>
#include <sys/file.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <ctime>
#include <new>
#include <utility>

#include "fs/base/kick.h"
#include "fs/base/proc_locks.h"
#include "fs/base/unique_fd.h"
#include "fs/loop/current_request.h"
#include "fs/mirror/replies.h"
#include "fs/tree/device.h"

namespace lockfs {

namespace {

using namespace std::chrono_literals;
using lockmgr::Mode;

/// How often a wait for an upgrade looks.
constexpr auto kUpgradeLook = 20ms;
/// How long an outsider who was woken by a release gets to take the flock, and how often to look.
constexpr auto kTurn = 10ms;
constexpr auto kTurnLook = 500us;

int operation_of(Mode mode) {
  if (mode == Mode::kNone) return LOCK_UN;
  return mode == Mode::kExclusive ? LOCK_EX : LOCK_SH;
}

void pause(std::chrono::nanoseconds time) {
  const timespec request{0, time.count()};
  nanosleep(&request, nullptr);
}

/// Takes `mode` without waiting; a refused upgrade takes back what was held. REQUIRES: held.mutex.
int take(BackingFlock::Held& held, Mode mode) {
  while (flock(held.fd.get(), operation_of(mode) | LOCK_NB) != 0) {
    if (errno == EINTR) continue;
    const int error = errno;
    if (held.mode != Mode::kNone && flock(held.fd.get(), operation_of(held.mode) | LOCK_NB) != 0) {
      held.mode = Mode::kNone;
    }
    return error;  // EWOULDBLOCK is EAGAIN
  }
  held.mode = mode;
  return 0;
}

/// Reading the table may take long, which must not hold up the requests of others.
std::optional<lockmgr::OutsideLock> look_for_foreign_flock(ino_t ino, Mode mode) {
  const CurrentRequest::Blocking blocking;
  return foreign_flock(ino, mode);
}

/// Those who waited in flock() are woken by a release and take it when they get to run. Waits until
/// one of them has, or none cared to.
void let_others_go_first(ino_t ino, Mode mode, const std::atomic<bool>& recalled) {
  const auto until = std::chrono::steady_clock::now() + kTurn;
  while (!recalled && std::chrono::steady_clock::now() < until &&
         !look_for_foreign_flock(ino, mode)) {
    pause(kTurnLook);
  }
}

/// Where a descriptor that is opened goes on record.
struct Place {
  DescriptorLog* log = nullptr;
  std::uint64_t nodeid = 0;
};

/// Takes `mode` without waiting, with a descriptor that is opened when the first comes.
int set_now(BackingFlock::Held& held, int path_fd, bool local, const Place& place, Mode mode) {
  if (!held.fd) {
    if (mode == Mode::kNone) return 0;
    // Network filesystems ask for a writable one for an exclusive flock; elsewhere it would break
    // leases and keep programs from being run.
    int fd = local ? -EBADF : reopen(path_fd, O_RDWR | O_NONBLOCK);
    if (fd < 0) fd = reopen(path_fd, O_RDONLY | O_NONBLOCK);
    if (fd < 0) return -fd;
    const int error =
        LoggedFd::make(UniqueFd(fd), DescriptorUse::kFlock, place.log, place.nodeid, held.fd);
    if (error != 0) return error;
  }
  const std::lock_guard lock(held.mutex);
  return take(held, mode);
}

int wait_for_upgrade(BackingFlock::Held& held, ino_t ino, Mode mode,
                     const std::atomic<bool>& recalled) {
  for (; !recalled; pause(kUpgradeLook)) {
    // A try is not free of risk: it lets go for a moment.
    if (look_for_foreign_flock(ino, mode)) continue;
    const std::lock_guard lock(held.mutex);
    if (const int error = take(held, mode); error != EAGAIN) return error;
  }
  return EINTR;
}

int wait_for_flock(BackingFlock::Held& held, ino_t ino, Mode mode, bool yield_first,
                   const std::atomic<bool>& recalled) {
  if (yield_first) let_others_go_first(ino, mode, recalled);
  bool upgrades = false;
  {
    const std::lock_guard lock(held.mutex);
    upgrades = held.mode != Mode::kNone;
  }
  if (upgrades) return wait_for_upgrade(held, ino, mode, recalled);
  const KickableDescriptor kickable(held.fd.get());
  if (kickable.get() < 0) return ENOLCK;
  if (recalled) return EINTR;
  if (flock(kickable.get(), operation_of(mode)) != 0) return recalled ? EINTR : errno;
  const std::lock_guard lock(held.mutex);
  held.mode = mode;
  return 0;
}

}  // namespace

BackingFlock::BackingFlock(InodePtr inode, WaitThreads& threads, OutsiderWatch& watch,
                           std::shared_ptr<RemoteCalls> remote, DescriptorLog* log)
    : inode_(std::move(inode)),
      threads_(threads),
      remote_(std::move(remote)),
      log_(log),
      held_(std::make_shared<Held>()),
      look_(watch, inode_->id().ino) {}

void BackingFlock::adopt(LoggedFd left) noexcept {
  Mode mode = Mode::kNone;
  const bool known = inode_->device().lists_locks() && read_flock(left.get(), mode);
  const std::lock_guard lock(held_->mutex);
  if (held_->fd && (!known || mode <= held_->mode)) return;
  held_->fd = std::move(left);
  held_->mode = mode;
}

lockmgr::Reply BackingFlock::set(const lockmgr::Range& /*range*/, Mode mode,
                                 const Carried& /*carried*/) noexcept {
  if (remote_ == nullptr) {
    return reply_of(set_now(*held_, inode_->fd(), is_local(), {log_, inode_->nodeid()}, mode));
  }
  try {
    return reply_of(set_remote(mode));
  } catch (const std::bad_alloc&) {
    return lockmgr::Reply::failed(ENOLCK);
  }
}

int BackingFlock::set_remote(Mode mode) {
  if (remote_->busy()) return EINPROGRESS;
  if (mode == Mode::kNone && !held_->fd) return 0;
  // The call may outlast the object and the inode, so it has a descriptor of its own to open.
  const auto path =
      std::make_shared<const UniqueFd>(held_->fd ? -1 : fcntl(inode_->fd(), F_DUPFD_CLOEXEC, 0));
  return remote_->run(
      [held = held_, path, local = is_local(), place = Place{log_, inode_->nodeid()}, mode] {
        return set_now(*held, path->get(), local, place, mode);
      },
      [this] { return inode_->path(); });
}

lockmgr::Reply BackingFlock::test(const lockmgr::Range& /*range*/, Mode mode,
                                  std::optional<lockmgr::OutsideLock>& found) noexcept {
  found = look_for_foreign_flock(inode_->id().ino, mode);
  return lockmgr::Reply::done();
}

int BackingFlock::wait(WaitId id, const lockmgr::Range& /*range*/, Mode mode,
                       const Carried& /*carried*/, bool yield_first, WaitDone done) noexcept {
  try {
    WaitThreads::Wait wait;
    wait.id = id;
    if (remote_ != nullptr && (remote_->busy() || !held_->fd)) {
      // The wait for an answer comes first; then the manager tries again.
      wait.sit = [remote = remote_](const std::atomic<bool>& recalled) {
        return remote->wait_until_idle(recalled);
      };
    } else {
      wait.sit = [held = held_, ino = inode_->id().ino, mode,
                  yield_first](const std::atomic<bool>& recalled) {
        return wait_for_flock(*held, ino, mode, yield_first, recalled);
      };
    }
    wait.done = told_of_end(std::move(done));
    return threads_.start(std::move(wait));
  } catch (const std::bad_alloc&) {
    return ENOLCK;
  }
}

void BackingFlock::recall(WaitId id) noexcept {
  threads_.recall(id);
  if (remote_ != nullptr) remote_->nudge();
}

bool BackingFlock::is_local() const { return inode_->device().is_local(); }

bool BackingFlock::outsiders_waiting() noexcept { return look_.anybody_waits(); }

std::string BackingFlock::name() const { return inode_->path(); }

}  // namespace lockfs
