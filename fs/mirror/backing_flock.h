/// flock(2) on the backing file, for what the policy carries as flocks: one open file description
/// that holds the strongest mode of them.
///
/// flock() converts by dropping first, and nobody can ask who stands in the way. So a refused
/// upgrade takes back what was held before, and a wait for an upgrade does not sit in flock(),
/// where it would hold nothing, but looks at /proc/locks now and then; all other waits sit in
/// flock().
///
/// Where the filesystem may stall, set() goes by way of RemoteCalls and has no answer while
/// it does, as BackingFile's.
///
/// Thread safety: as lockmgr::Backing demands.
///
/// Invariants:
///  1. Held::mode is what the manager was told is held, by set() or by the end of a wait; after
///     adopt(), what was found, until the next set().
///  2. The descriptor is on record (DescriptorLog) while it is open. A wait sits in a duplicate,
///     which is not: what it wins belongs to the open file description.
#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "fs/mirror/descriptor_log.h"
#include "fs/mirror/outsider_watch.h"
#include "fs/mirror/remote_calls.h"
#include "fs/mirror/wait_threads.h"
#include "fs/tree/inode.h"
#include "lockmgr/backing.h"

namespace lockfs {

class BackingFlock final : public lockmgr::Backing {
 public:
  /// The descriptor that holds the flock, shared with waits and calls under way.
  struct Held {
    LoggedFd fd;  ///< set once, by the first set(); while a remote call is under way it may come
    std::mutex mutex;
    lockmgr::Mode mode = lockmgr::Mode::kNone;  ///< guarded by mutex
  };

  /// `threads` and `watch` must outlive the object. `remote`, that of the file, is null where calls
  /// return at once. `log`, null for none, must outlive the object and every call.
  BackingFlock(InodePtr inode, WaitThreads& threads, OutsiderWatch& watch,
               std::shared_ptr<RemoteCalls> remote, DescriptorLog* log);

  /// Takes over a descriptor that an earlier daemon left, with the flock on it. Where the
  /// filesystem lists no locks that is not known: the set() that must come next finds out. Of
  /// several, which there are where a call has outlasted its object, the one that holds most is
  /// kept. Does not block. REQUIRES: nothing else was done with the object yet.
  void adopt(LoggedFd left) noexcept;

  lockmgr::Reply set(const lockmgr::Range& range, lockmgr::Mode mode,
                     const Carried& carried) noexcept override;
  lockmgr::Reply test(const lockmgr::Range& range, lockmgr::Mode mode,
                      std::optional<lockmgr::OutsideLock>& found) noexcept override;
  int wait(WaitId id, const lockmgr::Range& range, lockmgr::Mode mode, const Carried& carried,
           bool yield_first, WaitDone done) noexcept override;
  void recall(WaitId id) noexcept override;
  void expect_release() noexcept override { look_.expect(); }
  bool outsiders_waiting() noexcept override;
  std::string name() const override;

 private:
  int set_remote(lockmgr::Mode mode);
  [[nodiscard]] bool is_local() const;

  const InodePtr inode_;
  WaitThreads& threads_;
  const std::shared_ptr<RemoteCalls> remote_;
  DescriptorLog* const log_;
  const std::shared_ptr<Held> held_;
  OutsiderLook look_;
};

}  // namespace lockfs
