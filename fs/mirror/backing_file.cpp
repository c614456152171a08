#include "fs/mirror/backing_file.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <new>
#include <utility>

#include "fs/base/proc_locks.h"
#include "fs/mirror/record_lock.h"
#include "fs/mirror/replies.h"
#include "fs/tree/device.h"

namespace lockfs {

namespace {

int take(int fd, const lockmgr::Range& range, lockmgr::Mode mode) {
  struct flock request = record_lock(range, mode);
  while (fcntl(fd, F_OFD_SETLK, &request) != 0) {
    if (errno == EINTR) continue;
    return errno == EACCES ? EAGAIN : errno;  // POSIX lets a conflict be either
  }
  return 0;
}

/// Returns 0 or the errno of the open.
int open_for_locks(int path_fd, bool writable, std::shared_ptr<const UniqueFd>& fd) {
  const int flags = writable ? O_RDWR : O_RDONLY;
  // Whoever asked has the file open in that mode already, so a delegation or lease that would make
  // the open wait has been given back; O_NONBLOCK is for the odd one that has not.
  int opened = reopen(path_fd, flags | O_NONBLOCK);
  if (opened == -EWOULDBLOCK) opened = reopen(path_fd, flags);
  if (opened < 0) return -opened;
  fd = std::make_shared<const UniqueFd>(opened);
  return 0;
}

/// What is carried, for a call that may outlast the one it is made for.
class CarriedCopy final : public lockmgr::Backing::Carried {
 public:
  explicit CarriedCopy(const Carried& carried) {
    carried.for_each([this](const lockmgr::Range& range, lockmgr::Mode mode) {
      locks_.push_back({range, mode});
      return true;
    });
  }
  CarriedCopy() = default;
  void for_each(
      const std::function<bool(const lockmgr::Range&, lockmgr::Mode)>& visit) const override {
    for (const lockmgr::CarriedLock& lock : locks_) {
      if (!visit(lock.range, lock.mode)) return;
    }
  }

 private:
  std::vector<lockmgr::CarriedLock> locks_;
};

}  // namespace

/// The open file description that holds the locks. While `writable` is false, it holds shared ones
/// only.
struct BackingFile::Descriptor {
  std::shared_ptr<const UniqueFd> fd;  ///< null until the first lock
  bool writable = false;

  [[nodiscard]] bool carries(lockmgr::Mode mode) const {
    return fd != nullptr && (writable || mode != lockmgr::Mode::kExclusive);
  }
  int provide(int path_fd, lockmgr::Mode mode, const Carried& carried);
  int set(int path_fd, const lockmgr::Range& range, lockmgr::Mode mode,
          const Carried& carried) noexcept;
  int test(int path_fd, const lockmgr::Range& range, lockmgr::Mode mode,
           std::optional<lockmgr::OutsideLock>& found) const noexcept;
};

/// Makes sure that the descriptor can carry `mode`.
int BackingFile::Descriptor::provide(int path_fd, lockmgr::Mode mode, const Carried& carried) {
  if (carries(mode)) return 0;
  std::shared_ptr<const UniqueFd> fresh;
  int error = open_for_locks(path_fd, true, fresh);
  // Refused on a read-only filesystem or for a running program: shared locks do without.
  if (error != 0 && mode != lockmgr::Mode::kExclusive) {
    error = open_for_locks(path_fd, false, fresh);
  }
  if (error != 0) return error;
  if (fd != nullptr) {
    carried.for_each([&](const lockmgr::Range& range, lockmgr::Mode held) {
      error = take(fresh->get(), range, held);
      return error == 0;
    });
    if (error != 0) return error;
  }
  fd = std::move(fresh);
  writable = (fcntl(fd->get(), F_GETFL) & O_ACCMODE) == O_RDWR;
  return 0;
}

int BackingFile::Descriptor::set(int path_fd, const lockmgr::Range& range, lockmgr::Mode mode,
                                 const Carried& carried) noexcept try {
  if (const int error = provide(path_fd, mode, carried); error != 0) return error;
  return take(fd->get(), range, mode);
} catch (const std::bad_alloc&) {
  return ENOLCK;
}

int BackingFile::Descriptor::test(int path_fd, const lockmgr::Range& range, lockmgr::Mode mode,
                                  std::optional<lockmgr::OutsideLock>& found) const noexcept try {
  std::shared_ptr<const UniqueFd> used = fd;
  // A descriptor that holds nothing may come and go.
  if (used == nullptr) {
    int error = open_for_locks(path_fd, false, used);
    if (error == EACCES) error = open_for_locks(path_fd, true, used);
    if (error != 0) return error;
  }
  struct flock request = record_lock(range, mode);
  if (fcntl(used->get(), F_OFD_GETLK, &request) != 0) return errno;
  if (request.l_type != F_UNLCK) {
    found = lockmgr::OutsideLock{range_of(request), mode_of(request.l_type), request.l_pid};
  }
  return 0;
} catch (const std::bad_alloc&) {
  return ENOLCK;
}

BackingFile::BackingFile(InodePtr inode, WaitThreads& threads, OutsiderWatch& watch,
                         std::shared_ptr<RemoteCalls> remote)
    : inode_(inode),
      threads_(threads),
      remote_(std::move(remote)),
      descriptor_(std::make_shared<Descriptor>()),
      look_(watch, inode_->id().ino),
      pollers_(inode_->id().ino),
      flocks_(std::move(inode), threads, watch, remote_) {}

BackingFile::~BackingFile() = default;

lockmgr::Reply BackingFile::set(const lockmgr::Range& range, lockmgr::Mode mode,
                                const Carried& carried) noexcept {
  if (remote_ == nullptr) {
    if (mode == lockmgr::Mode::kNone && descriptor_->fd == nullptr) return lockmgr::Reply::done();
    return reply_of(descriptor_->set(inode_->fd(), range, mode, carried));
  }
  try {
    return reply_of(set_remote(range, mode, carried));
  } catch (const std::bad_alloc&) {
    return lockmgr::Reply::failed(ENOLCK);
  }
}

lockmgr::Reply BackingFile::test(const lockmgr::Range& range, lockmgr::Mode mode,
                                 std::optional<lockmgr::OutsideLock>& found) noexcept {
  found.reset();
  if (remote_ == nullptr) return reply_of(descriptor_->test(inode_->fd(), range, mode, found));
  try {
    return reply_of(test_remote(range, mode, found));
  } catch (const std::bad_alloc&) {
    return lockmgr::Reply::failed(ENOLCK);
  }
}

/// A call may outlast the object and the inode, so it has a descriptor of its own to open.
std::shared_ptr<const UniqueFd> BackingFile::path_for_call(bool opens) const {
  return std::make_shared<const UniqueFd>(opens ? fcntl(inode_->fd(), F_DUPFD_CLOEXEC, 0) : -1);
}

int BackingFile::call(std::function<int()> call) {
  return remote_->run(std::move(call), [this] { return inode_->path(); });
}

int BackingFile::set_remote(const lockmgr::Range& range, lockmgr::Mode mode,
                            const Carried& carried) {
  if (remote_->busy()) return EINPROGRESS;
  if (mode == lockmgr::Mode::kNone && descriptor_->fd == nullptr) return 0;
  const bool opens = !descriptor_->carries(mode);
  return call([descriptor = descriptor_, path = path_for_call(opens), range, mode,
               copy = opens ? CarriedCopy(carried) : CarriedCopy()] {
    return descriptor->set(path->get(), range, mode, copy);
  });
}

int BackingFile::test_remote(const lockmgr::Range& range, lockmgr::Mode mode,
                             std::optional<lockmgr::OutsideLock>& found) {
  if (remote_->busy()) return EINPROGRESS;
  const auto seen = std::make_shared<std::optional<lockmgr::OutsideLock>>();
  const int error = call([descriptor = descriptor_, range, mode, seen,
                          path = path_for_call(descriptor_->fd == nullptr)] {
    return descriptor->test(path->get(), range, mode, *seen);
  });
  if (error == 0) found = *seen;
  return error;
}

int BackingFile::wait(WaitId id, const lockmgr::Range& range, lockmgr::Mode mode,
                      const Carried& /*carried*/, bool yield_first, WaitDone done) noexcept {
  try {
    WaitThreads::Wait wait{id, nullptr, range, mode, yield_first, told_of_end(std::move(done))};
    if (remote_ != nullptr && (remote_->busy() || !descriptor_->carries(mode))) {
      // The wait for an answer comes first; then the manager tries again.
      wait.sit = [remote = remote_](const std::atomic<bool>& recalled) {
        return remote->wait_until_idle(recalled);
      };
    } else {
      wait.fd = descriptor_->fd;
    }
    return threads_.start(std::move(wait));
  } catch (const std::bad_alloc&) {
    return ENOLCK;
  }
}

void BackingFile::recall(WaitId id) noexcept {
  threads_.recall(id);
  if (remote_ != nullptr) remote_->nudge();
}

lockmgr::Backing::Inspector BackingFile::inspector() {
  if (!inode_->device().lists_locks()) return {};
  if (remote_ != nullptr && remote_->busy())
    return [](std::vector<lockmgr::CarriedLock>&) { return false; };
  return [fd = descriptor_->fd](std::vector<lockmgr::CarriedLock>& found) {
    return fd == nullptr || read_open_file_locks(fd->get(), found);
  };
}

std::string BackingFile::name() const { return inode_->path(); }

bool BackingFile::outsiders_waiting() noexcept {
  return look_.anybody_waits() || pollers_.due(NfsPollers::Clock::now());
}

}  // namespace lockfs
