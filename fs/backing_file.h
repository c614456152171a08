/// The backing file's own record locks as the manager's Backing: one open file description that
/// holds, as OFD locks, the union of what is granted through the mount.
///
/// The descriptor is opened when the first lock comes: read-write, or read-only where that is
/// refused (a read-only filesystem, a running program). Should an exclusive lock come then and be
/// possible, a read-write one takes its place without a gap: it takes the same shared locks before
/// the old one goes. It is never the descriptor of a caller's open file: those are registered with
/// the kernel for data passthrough, which pins them, and locks on them would outlive their close.
///
/// Thread safety: as lockmgr::Backing demands.
///
/// Invariants:
///  1. While `writable_` is false, the descriptor holds shared locks only.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "fs/backing_flock.h"
#include "fs/inode.h"
#include "fs/nfs_pollers.h"
#include "fs/proc_locks.h"
#include "fs/unique_fd.h"
#include "fs/wait_threads.h"
#include "lockmgr/backing.h"

namespace lockfs {

class BackingFile final : public lockmgr::Backing {
 public:
  /// All but `inode` must outlive the object.
  BackingFile(InodePtr inode, WaitThreads& threads);

  int set(const lockmgr::Range& range, lockmgr::Mode mode,
          const Carried& carried) noexcept override;
  int test(const lockmgr::Range& range, lockmgr::Mode mode,
           std::optional<lockmgr::OutsideLock>& found) noexcept override;
  int wait(WaitId id, const lockmgr::Range& range, lockmgr::Mode mode, bool yield_first,
           WaitDone done) noexcept override;
  void recall(WaitId id) noexcept override;
  bool outsiders_waiting() noexcept override;
  Inspector inspector() override;
  lockmgr::Backing& flocks() noexcept override { return flocks_; }
  std::string name() const override;

 private:
  int open(bool writable, std::shared_ptr<const UniqueFd>& fd) const;
  int provide(lockmgr::Mode mode, const Carried& carried);

  const InodePtr inode_;
  WaitThreads& threads_;
  std::shared_ptr<const UniqueFd> fd_;  ///< null until the first lock
  bool writable_ = false;
  OutsiderLook look_;
  NfsPollers pollers_;
  BackingFlock flocks_;
};

}  // namespace lockfs
