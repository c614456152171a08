/// What one change of a file has decided: it crosses all parts of the file as an argument and is
/// announced when the mutex of the file is released.
///
/// Thread safety: guarded by the mutex of the file.
#pragma once

#include <array>

#include "lockmgr/policy.h"
#include "lockmgr/range.h"
#include "lockmgr/waiter.h"

namespace lockmgr {

struct Outcomes {
  /// Has the waiter looked at again before the change is over.
  void look_again(Waiter& waiter) noexcept {
    if (!waiter.work_hook.is_linked()) again.insert(waiter);
  }
  void forget(Waiter& waiter) noexcept {
    if (waiter.work_hook.is_linked()) again.erase(again.iterator_to(waiter));
  }

  Worklist again;             ///< waiters whose situation may have changed
  Waiter::PeerList finished;  ///< waiters whose completion is due
  bool yields = false;        ///< outsiders were waiting for what was released: they come first
  /// Where the backing carries more than what is granted, by space.
  std::array<Bounds, kSpaces.size()> lowered;
};

}  // namespace lockmgr
