/// The backing file's own record locks as the manager's Backing: OFD locks of several open file
/// descriptions (LockDescriptions), whose sum is what is granted through the mount.
///
/// Where the filesystem may stall, set() and test() go by way of RemoteCalls and have no answer
/// while it does.
///
/// Thread safety: as lockmgr::Backing demands.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "fs/base/unique_fd.h"
#include "fs/mirror/backing_flock.h"
#include "fs/mirror/descriptor_log.h"
#include "fs/mirror/lock_descriptions.h"
#include "fs/mirror/nfs_pollers.h"
#include "fs/mirror/outsider_watch.h"
#include "fs/mirror/remote_calls.h"
#include "fs/mirror/wait_threads.h"
#include "fs/tree/inode.h"
#include "lockmgr/backing.h"

namespace lockfs {

class BackingFile final : public lockmgr::Backing {
 public:
  /// `threads` and `watch` must outlive the object. `remote` is null where calls return at once.
  /// `log`, null where descriptors need not be found again, must outlive the object and every call.
  BackingFile(InodePtr inode, WaitThreads& threads, OutsiderWatch& watch,
              std::shared_ptr<RemoteCalls> remote, DescriptorLog* log);
  ~BackingFile() override;

  /// Takes over what an earlier daemon left of this file (DescriptorLog::take_over()), with all
  /// that is locked through it. `few_locks`: less work is to set them again than to read what is
  /// locked. Does not block. Returns 0, or ENOLCK where there is no memory: the locks stay, for the
  /// next daemon to find. REQUIRES: nothing was done with the object yet. The next thing to call is
  /// FileLocks::restored().
  int adopt(std::vector<LoggedFd> left, bool few_locks) noexcept;

  lockmgr::Reply set(const lockmgr::Range& range, lockmgr::Mode mode,
                     const Carried& carried) noexcept override;
  lockmgr::Reply test(const lockmgr::Range& range, lockmgr::Mode mode,
                      std::optional<lockmgr::OutsideLock>& found) noexcept override;
  int wait(WaitId id, const lockmgr::Range& range, lockmgr::Mode mode, const Carried& carried,
           bool yield_first, WaitDone done) noexcept override;
  void recall(WaitId id) noexcept override;
  void expect_release() noexcept override { look_.expect(); }
  bool outsiders_waiting() noexcept override;
  Inspector inspector() override;
  lockmgr::Backing& flocks() noexcept override { return flocks_; }
  std::string name() const override;

  const std::shared_ptr<LockDescriptions>& descriptions() const { return descriptions_; }

 private:
  [[nodiscard]] std::shared_ptr<const UniqueFd> path_for_call() const;
  int call(std::function<int()> call);

  const InodePtr inode_;
  WaitThreads& threads_;
  const std::shared_ptr<RemoteCalls> remote_;
  const std::shared_ptr<LockDescriptions> descriptions_;
  OutsiderLook look_;
  NfsPollers pollers_;
  BackingFlock flocks_;
};

}  // namespace lockfs
