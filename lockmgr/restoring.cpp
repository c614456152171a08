// FileLocks where a process before had the file.
#include <mutex>
#include <optional>
#include <utility>

#include "lockmgr/change.h"
#include "lockmgr/file_locks.h"

namespace lockmgr {

int FileLocks::restore(Opened& opened, const Journal::Entry& entry,
                       Journal::Record record) noexcept {
  const std::lock_guard guard(mutex_);
  mirror_.doubt_all();
  const int error = granted_.restore(opened, entry, record, context().ledger);
  verify();
  return error;
}

int FileLocks::finish_change(const OwnerId& owner, const Range& range, Mode mode) noexcept {
  const std::lock_guard guard(mutex_);
  mirror_.doubt_all();
  const int error = granted_.finish_change(owner, range, mode, seconds_of(context().clock.now()));
  verify();
  return error;
}

void FileLocks::restored() noexcept {
  Change change(*this);
  mirror_.doubt_all();
  mirror_.adopt();
}

std::optional<int> FileLocks::park_again(Opened& opened, const Request& request, Ticket ticket,
                                         Completion done, Clock::time_point since) noexcept {
  return park(opened, request, {ticket, std::move(done), Refusal::kNone, since});
}

}  // namespace lockmgr
