/// What the tests of the parts of a file share: a Granted with a ledger, and short ways to change
/// it without a FileLocks.
///
/// Thread safety: none; one thread uses it.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "lockmgr/accounting.h"
#include "lockmgr/context.h"
#include "lockmgr/granted.h"
#include "lockmgr/queue.h"
#include "lockmgr/waiter.h"
#include "tests/unit/world.h"

namespace lockmgr::testing {

/// What is granted on a file that nobody conducts.
class GrantedAlone {
 public:
  explicit GrantedAlone(const Policy& policy = {}) : granted(policy) {}
  ~GrantedAlone() {
    while (Owner* owner = Granted::any_owner(opened)) {
      set(*owner, kWholeFile, kU);
      granted.part_from_opened(*owner);
    }
  }
  GrantedAlone(const GrantedAlone&) = delete;
  GrantedAlone& operator=(const GrantedAlone&) = delete;

  Owner& owner(const OwnerId& id) { return granted.get_owner(opened, id, {1, 1, 0}, ledger()); }
  /// Makes what `owner` holds on `range` exactly `mode`.
  void set(Owner& owner, const Range& range, Mode mode) {
    ASSERT_EQ(granted.reserve(owner, range, mode), 0);
    granted.commit(owner, range, mode, 1);
  }
  void set(const OwnerId& id, const Range& range, Mode mode) {
    Owner& owner = this->owner(id);
    set(owner, range, mode);
    granted.drop_if_idle(owner);
  }
  Ledger& ledger() { return context.ledger; }

  Context context{{}, {}, nullptr};
  Granted granted;
  Opened opened{true, true};
};

/// Parked requests that no FileLocks has.
class WaitersAlone {
 public:
  explicit WaitersAlone(GrantedAlone& file) : file_(file) {}
  WaitersAlone(const WaitersAlone&) = delete;
  WaitersAlone& operator=(const WaitersAlone&) = delete;

  /// One that has entered the queue and is nowhere.
  Waiter& enter(Queue& queue, const OwnerId& id, const Range& range, Mode mode, pid_t tid = 0) {
    const Request request{id, {1, tid, 0}, range, mode, true};
    auto waiter = std::make_shared<Waiter>(nullptr, request, waiters_.size() + 1,
                                           Clock::time_point{}, nullptr, file_.ledger());
    waiter->owner = &file_.owner(id);
    waiter->opened = &file_.opened;
    queue.enter(file_.granted.policy(), *waiter);
    waiters_.push_back(waiter);
    return *waiter;
  }

 private:
  GrantedAlone& file_;
  std::vector<std::shared_ptr<Waiter>> waiters_;
};

}  // namespace lockmgr::testing
