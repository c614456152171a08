/// A backing whose answers are taped as far as they are decided outside of the manager: a replay
/// under the same policy gives them again.
///
/// Thread safety: as lockmgr::Backing demands.
#pragma once

#include <memory>
#include <optional>

#include "fs/record/tape.h"
#include "lockmgr/backing.h"
#include "lockmgr/forwarding_backing.h"
#include "lockmgr/lock_manager.h"

namespace lockfs {

/// One kind of lock of a backing.
class TapedLocks : public lockmgr::ForwardingBacking {
 public:
  /// Counts the calls for a file within one Tape::Cause.
  struct Calls {
    std::optional<TapeItem::Clock::time_point> cause;
    std::uint32_t count = 0;
  };

  /// `shown`: outsiders are told of by name as well, for replays under other policies. All
  /// references must outlive the object.
  TapedLocks(lockmgr::Backing& inner, Tape& tape, const lockmgr::FileKey& key, Calls& calls,
             bool shown)
      : ForwardingBacking(inner), tape_(tape), key_(key), calls_(calls), shown_(shown) {}

  lockmgr::Reply set(const lockmgr::Range& range, lockmgr::Mode mode,
                     const Carried& carried) noexcept override;
  lockmgr::Reply test(const lockmgr::Range& range, lockmgr::Mode mode,
                      std::optional<lockmgr::OutsideLock>& found) noexcept override;
  int wait(WaitId id, const lockmgr::Range& range, lockmgr::Mode mode, const Carried& carried,
           bool yield_first, WaitDone done) noexcept override;
  bool outsiders_waiting() noexcept override;
  lockmgr::Backing& flocks() noexcept override { return *this; }

 private:
  using Said = lockmgr::trace::OutsideSaid;

  std::uint32_t next_call() noexcept;
  [[nodiscard]] TapeItem item_of(std::uint32_t call, Said said) const;
  void show(TapeItem& item, const lockmgr::Range& range, lockmgr::Mode mode) noexcept;

  Tape& tape_;
  const lockmgr::FileKey key_;
  Calls& calls_;
  const bool shown_;
};

class TapedBacking final : public TapedLocks {
 public:
  TapedBacking(std::unique_ptr<lockmgr::Backing> inner, Tape& tape, const lockmgr::FileKey& key)
      : TapedLocks(*inner, tape, key, calls_, true),
        flocks_(inner->flocks(), tape, key, calls_, false),
        inner_(std::move(inner)) {}

  lockmgr::Backing& flocks() noexcept override { return flocks_; }

 private:
  Calls calls_;
  TapedLocks flocks_;
  const std::unique_ptr<lockmgr::Backing> inner_;
};

}  // namespace lockfs
