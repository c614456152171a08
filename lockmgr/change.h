/// A change of a file under way: holds the mutex; in the end it looks again at whom the change may
/// move, releases the mutex and calls the completions that are due, or leaves that to its maker.
///
/// Thread safety: used by the thread that made it.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>

#include "lockmgr/file_locks.h"
#include "lockmgr/outcomes.h"

namespace lockmgr {

class FileLocks::Change {
 public:
  /// `due`: where to put those whose completions are due, for a caller that holds a mutex of which
  /// they may have need; null: they are called.
  explicit Change(FileLocks& file, Waiter::PeerList* due = nullptr)
      : file_(file), due_(due), lock_(file.mutex_), queued_before_(file.queued()) {}
  ~Change() {
    file_.settle(out);
    if (const std::uint64_t queued = file_.queued(); queued != queued_before_) {
      // Unsigned arithmetic wraps, so adding the difference also takes away.
      file_.context().queued.fetch_add(queued - queued_before_, std::memory_order_relaxed);
    }
    file_.verify();
    lock_.unlock();
    if (parking_.owns_lock()) parking_.unlock();
    if (due_ != nullptr) {
      due_->splice(due_->end(), out.finished);
    } else {
      announce(out.finished);
    }
  }
  Change(const Change&) = delete;
  Change& operator=(const Change&) = delete;

  /// Waits until nobody else parks a request that takes part in deadlock detection. REQUIRES:
  /// nothing was changed yet.
  void serialise_parking() {
    lock_.unlock();
    parking_ = std::unique_lock(file_.context().parking);
    lock_.lock();
    queued_before_ = file_.queued();
  }

  Outcomes out;

 private:
  FileLocks& file_;
  Waiter::PeerList* const due_;
  std::unique_lock<std::mutex> parking_;
  std::unique_lock<std::mutex> lock_;
  std::uint64_t queued_before_;
};

}  // namespace lockmgr
