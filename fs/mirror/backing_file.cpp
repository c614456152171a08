#include "fs/mirror/backing_file.h"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <new>
#include <utility>

#include "fs/mirror/replies.h"
#include "fs/tree/device.h"

namespace lockfs {

BackingFile::BackingFile(InodePtr inode, WaitThreads& threads, OutsiderWatch& watch,
                         std::shared_ptr<RemoteCalls> remote, DescriptorLog* log)
    : inode_(inode),
      threads_(threads),
      remote_(std::move(remote)),
      descriptions_(std::make_shared<LockDescriptions>(
          threads, remote_ == nullptr ? &inode_->writers : nullptr, log, inode_->nodeid())),
      look_(watch, inode_->id().ino),
      pollers_(inode_->id().ino),
      flocks_(std::move(inode), threads, watch, remote_, log) {}

BackingFile::~BackingFile() = default;

int BackingFile::adopt(std::vector<LoggedFd> left, bool few_locks) noexcept {
  const auto flocks = std::partition(left.begin(), left.end(), [](const LoggedFd& each) {
    return each.use() != DescriptorUse::kFlock;
  });
  // A call that could stall is not made where nothing need be set.
  const bool read = inode_->device().lists_locks() && (!few_locks || remote_ != nullptr);
  const int error = descriptions_->adopt({left.begin(), flocks}, read);
  std::for_each(flocks, left.end(), [&](LoggedFd& each) {
    if (error != 0) {
      each.leave();
    } else {
      flocks_.adopt(std::move(each));
    }
  });
  return error;
}

lockmgr::Reply BackingFile::set(const lockmgr::Range& range, lockmgr::Mode mode,
                                const Carried& /*carried*/) noexcept {
  if (remote_ != nullptr && remote_->busy()) return lockmgr::Reply::no_answer();
  if (mode == lockmgr::Mode::kNone && descriptions_->untouched()) return lockmgr::Reply::done();
  if (remote_ == nullptr) return reply_of(descriptions_->set(inode_->fd(), range, mode));
  try {
    return reply_of(call([descriptions = descriptions_, path = path_for_call(), range, mode] {
      return descriptions->set(path->get(), range, mode);
    }));
  } catch (const std::bad_alloc&) {
    return lockmgr::Reply::failed(ENOLCK);
  }
}

lockmgr::Reply BackingFile::test(const lockmgr::Range& range, lockmgr::Mode mode,
                                 std::optional<lockmgr::OutsideLock>& found) noexcept {
  found.reset();
  if (remote_ != nullptr && remote_->busy()) return lockmgr::Reply::no_answer();
  if (remote_ == nullptr) return reply_of(descriptions_->test(inode_->fd(), range, mode, found));
  try {
    const auto seen = std::make_shared<std::optional<lockmgr::OutsideLock>>();
    const int error = call([descriptions = descriptions_, path = path_for_call(), range, mode,
                            seen] { return descriptions->test(path->get(), range, mode, *seen); });
    if (error == 0) found = *seen;
    return reply_of(error);
  } catch (const std::bad_alloc&) {
    return lockmgr::Reply::failed(ENOLCK);
  }
}

/// A call may outlast the object and the inode, so it has a descriptor of its own to open.
std::shared_ptr<const UniqueFd> BackingFile::path_for_call() const {
  return std::make_shared<const UniqueFd>(fcntl(inode_->fd(), F_DUPFD_CLOEXEC, 0));
}

int BackingFile::call(std::function<int()> call) {
  return remote_->run(std::move(call), [this] { return inode_->path(); });
}

int BackingFile::wait(WaitId id, const lockmgr::Range& range, lockmgr::Mode mode,
                      const Carried& /*carried*/, bool yield_first, WaitDone done) noexcept {
  try {
    WaitThreads::Wait wait;
    wait.id = id;
    if (remote_ != nullptr && remote_->busy()) {
      // The wait for an answer comes first; then the manager tries again.
      wait.sit = [remote = remote_](const std::atomic<bool>& recalled) {
        return remote->wait_until_idle(recalled);
      };
    } else {
      // `done` keeps this object, and so the inode.
      wait.sit = [descriptions = descriptions_, path_fd = inode_->fd(), id, range, mode,
                  yield_first](const std::atomic<bool>& recalled) {
        return descriptions->wait(id, path_fd, range, mode, yield_first, recalled);
      };
    }
    wait.done = told_of_end(std::move(done));
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
  return [descriptions = descriptions_](std::vector<lockmgr::CarriedLock>& found) {
    return descriptions->inspect(found);
  };
}

std::string BackingFile::name() const { return inode_->path(); }

bool BackingFile::outsiders_waiting() noexcept {
  return look_.anybody_waits() || pollers_.due(NfsPollers::Clock::now());
}

}  // namespace lockfs
