#include "fs/backing_file.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <utility>

#include "fs/device.h"
#include "fs/record_lock.h"

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

/// The kernel lists the locks of an open file description in fdinfo:
/// "lock:\t1: OFDLCK ADVISORY  WRITE -1 fe:00:131 0 EOF". A wait shows as "-> OFDLCK".
bool read_locks_of(int fd, std::vector<lockmgr::CarriedLock>& found) {
  char path[40];
  std::snprintf(path, sizeof path, "/proc/self/fdinfo/%d", fd);
  const std::unique_ptr<FILE, int (*)(FILE*)> file(std::fopen(path, "re"), std::fclose);
  if (file == nullptr) return false;
  char line[256];
  while (std::fgets(line, sizeof line, file.get()) != nullptr) {
    char mode[8];
    char last[24];
    lockmgr::CarriedLock lock;
    if (std::sscanf(line, "lock: %*d: OFDLCK %*s %7s %*d %*s %" SCNd64 " %23s", mode,
                    &lock.range.first, last) != 3) {
      continue;
    }
    lock.range.last = last[0] == 'E' ? lockmgr::kEof : std::strtoll(last, nullptr, 10);
    lock.mode = mode[0] == 'W' ? lockmgr::Mode::kExclusive : lockmgr::Mode::kShared;
    found.push_back(lock);
  }
  return std::ferror(file.get()) == 0;
}

}  // namespace

BackingFile::BackingFile(InodePtr inode, WaitThreads& threads)
    : inode_(inode),
      threads_(threads),
      pollers_(inode_->id().ino),
      flocks_(std::move(inode), threads) {}

/// Returns 0 or the errno of the open.
int BackingFile::open(bool writable, std::shared_ptr<const UniqueFd>& fd) const {
  const int flags = writable ? O_RDWR : O_RDONLY;
  // Whoever asked has the file open in that mode already, so a delegation or lease that would make
  // the open wait has been given back; O_NONBLOCK is for the odd one that has not.
  int opened = inode_->reopen(flags | O_NONBLOCK);
  if (opened == -EWOULDBLOCK) opened = inode_->reopen(flags);
  if (opened < 0) return -opened;
  fd = std::make_shared<const UniqueFd>(opened);
  return 0;
}

/// Makes sure that the descriptor can carry `mode`.
int BackingFile::provide(lockmgr::Mode mode, const Carried& carried) {
  const bool writable = mode == lockmgr::Mode::kExclusive;
  if (fd_ != nullptr && (writable_ || !writable)) return 0;
  std::shared_ptr<const UniqueFd> fd;
  int error = open(true, fd);
  // Refused on a read-only filesystem or for a running program: shared locks do without.
  if (error != 0 && !writable) error = open(false, fd);
  if (error != 0) return error;
  if (fd_ != nullptr) {
    carried.for_each([&](const lockmgr::Range& range, lockmgr::Mode held) {
      error = take(fd->get(), range, held);
      return error == 0;
    });
    if (error != 0) return error;
  }
  fd_ = std::move(fd);
  writable_ = (fcntl(fd_->get(), F_GETFL) & O_ACCMODE) == O_RDWR;
  return 0;
}

int BackingFile::set(const lockmgr::Range& range, lockmgr::Mode mode,
                     const Carried& carried) noexcept {
  try {
    if (mode == lockmgr::Mode::kNone && fd_ == nullptr) return 0;
    if (const int error = provide(mode, carried); error != 0) return error;
    return take(fd_->get(), range, mode);
  } catch (const std::bad_alloc&) {
    return ENOLCK;
  }
}

int BackingFile::test(const lockmgr::Range& range, lockmgr::Mode mode,
                      std::optional<lockmgr::OutsideLock>& found) noexcept {
  found.reset();
  try {
    std::shared_ptr<const UniqueFd> fd = fd_;
    // A descriptor that holds nothing may come and go.
    if (fd == nullptr) {
      int error = open(false, fd);
      if (error == EACCES) error = open(true, fd);
      if (error != 0) return error;
    }
    struct flock request = record_lock(range, mode);
    if (fcntl(fd->get(), F_OFD_GETLK, &request) != 0) return errno;
    if (request.l_type != F_UNLCK) {
      found = lockmgr::OutsideLock{range_of(request), mode_of(request.l_type), request.l_pid};
    }
    return 0;
  } catch (const std::bad_alloc&) {
    return ENOLCK;
  }
}

int BackingFile::wait(WaitId id, const lockmgr::Range& range, lockmgr::Mode mode, bool yield_first,
                      WaitDone done) noexcept {
  return threads_.start({id, fd_, range, mode, yield_first, std::move(done)});
}

void BackingFile::recall(WaitId id) noexcept { threads_.recall(id); }

lockmgr::Backing::Inspector BackingFile::inspector() {
  if (!inode_->device().lists_locks()) return {};
  return [fd = fd_](std::vector<lockmgr::CarriedLock>& found) {
    return fd == nullptr || read_locks_of(fd->get(), found);
  };
}

std::string BackingFile::name() const { return inode_->path(); }

bool BackingFile::outsiders_waiting() noexcept {
  return look_.anybody_waits(inode_->id().ino) || pollers_.due();
}

}  // namespace lockfs
