#include "fs/mirror/grace_backing.h"

#include <algorithm>
#include <cerrno>
#include <functional>
#include <new>
#include <tuple>
#include <utility>

#include "fs/base/process_look.h"

namespace lockfs {

namespace {

using lockmgr::Backing;
using lockmgr::Mode;
using lockmgr::Range;

/// Calls visit(part, mode) for the parts of `range` in order, with what is carried there, until it
/// returns false.
template <typename Visit>
void for_each_part(const Range& range, const Backing::Carried& carried, const Visit& visit) {
  lockmgr::Offset at = range.first;  // what comes before it was visited
  bool goes_on = true;
  const auto look = [&](const Range& held, Mode mode) {
    if (held.last < at) return true;
    if (held.first > range.last) return false;
    if (held.first > at) goes_on = visit(Range{at, held.first - 1}, Mode::kNone);
    const Range part{std::max(at, held.first), std::min(held.last, range.last)};
    goes_on = goes_on && visit(part, mode) && part.last < range.last;
    if (goes_on) at = part.last + 1;
    return goes_on;
  };
  carried.for_each(std::ref(look));  // a copy might need memory
  if (goes_on) visit(Range{at, range.last}, Mode::kNone);
}

/// Whether all of `range` carries `mode` already, or more.
bool covers(const Backing::Carried& carried, const Range& range, Mode mode) {
  bool all = true;
  for_each_part(range, carried, [&](const Range&, Mode held) { return all = held >= mode; });
  return all;
}

}  // namespace

thread_local pid_t GraceBacking::Asker::caller_ = 0;

bool GraceBacking::may_take() const noexcept {
  return grace_.settled() || (Asker::caller_ != 0 && is_kernel_thread(Asker::caller_, "nfsd"));
}

lockmgr::Reply GraceBacking::set(const Range& range, Mode mode, const Carried& carried) noexcept {
  const auto allowed = [&] {
    return mode == Mode::kNone || may_take() || covers(carried, range, mode);
  };
  if (!allowed()) return lockmgr::Reply::put_off();
  const lockmgr::Reply reply = inner_->set(range, mode, carried);
  if (!reply.is_done() || allowed()) return reply;
  for_each_part(range, carried, [&](const Range& part, Mode held) {
    std::ignore = inner_->set(part, held, carried);  // weakening is never refused
    return true;
  });
  return lockmgr::Reply::put_off();
}

lockmgr::Reply GraceBacking::test(const Range& range, Mode mode,
                                  std::optional<lockmgr::OutsideLock>& found) noexcept {
  found.reset();
  return may_take() ? inner_->test(range, mode, found) : lockmgr::Reply::put_off();
}

int GraceBacking::wait(WaitId id, const Range& range, Mode mode, const Carried& carried,
                       bool yield_first, WaitDone done) noexcept {
  if (!grace_.settled()) return grace_.wait(id, std::move(done));
  try {
    return inner_->wait(id, range, mode, carried, yield_first,
                        [&grace = grace_, done = std::move(done)](lockmgr::WaitEnd end) {
                          // The server itself may have let go of it.
                          const bool doubtful = end.has_lock() && !grace.settled();
                          done(doubtful ? lockmgr::WaitEnd::in_doubt() : end);
                        });
  } catch (const std::bad_alloc&) {
    return ENOLCK;
  }
}

void GraceBacking::recall(WaitId id) noexcept {
  grace_.recall(id);
  inner_->recall(id);
}

}  // namespace lockfs
