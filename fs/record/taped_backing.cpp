#include "fs/record/taped_backing.h"

#include <cerrno>
#include <new>
#include <utility>

namespace lockfs {

namespace {

// How the trace format spells the two; see lockfs-trace(5).

int errno_of(const lockmgr::Reply& reply) {
  switch (reply.kind) {
    case lockmgr::Reply::Kind::kDone:
      return 0;
    case lockmgr::Reply::Kind::kRefused:
      return EAGAIN;
    case lockmgr::Reply::Kind::kPutOff:
    case lockmgr::Reply::Kind::kNoAnswer:
      return EINPROGRESS;
    case lockmgr::Reply::Kind::kFailed:
      break;
  }
  return reply.error;
}

int errno_of(const lockmgr::WaitEnd& end) {
  switch (end.kind) {
    case lockmgr::WaitEnd::Kind::kHeld:
      return 0;
    case lockmgr::WaitEnd::Kind::kHeldInDoubt:
      return EAGAIN;
    case lockmgr::WaitEnd::Kind::kNotHeld:
      return EINTR;
    case lockmgr::WaitEnd::Kind::kFailed:
      break;
  }
  return end.error;
}

}  // namespace

/// The number of a call, or 0 for one that nothing is told of: what asks without a cause, such as
/// F_GETLK, changes nothing.
std::uint32_t TapedLocks::next_call() noexcept {
  const auto cause = Tape::Cause::time();
  if (!cause || !tape_.is_open()) return 0;
  if (calls_.cause != cause) calls_ = {cause, 0};
  return ++calls_.count;
}

TapeItem TapedLocks::item_of(std::uint32_t call, Said said) const {
  TapeItem item;
  item.kind = TapeItem::Kind::kOutside;
  item.key = key_;
  item.call = call;
  item.said = said;
  return item;
}

/// Adds who is in the way of `mode` on `range`: whoever it is, if nobody can be seen.
void TapedLocks::show(TapeItem& item, const lockmgr::Range& range, lockmgr::Mode mode) noexcept {
  if (!shown_) return;
  std::optional<lockmgr::OutsideLock> found;
  if (!inner().test(range, mode, found).is_done() || !found) {
    found = lockmgr::OutsideLock{range, lockmgr::Mode::kExclusive, 0};
  }
  item.request.range = found->range;
  item.request.mode = found->mode;
}

lockmgr::Reply TapedLocks::set(const lockmgr::Range& range, lockmgr::Mode mode,
                               const Carried& carried) noexcept {
  const std::uint32_t call = next_call();
  const lockmgr::Reply reply = inner().set(range, mode, carried);
  if (call == 0 || reply.is_done()) return reply;
  TapeItem item = item_of(call, Said::kRefused);
  item.error = errno_of(reply);
  if (reply.is_refused()) show(item, range, mode);
  tape_.put(std::move(item));
  return reply;
}

lockmgr::Reply TapedLocks::test(const lockmgr::Range& range, lockmgr::Mode mode,
                                std::optional<lockmgr::OutsideLock>& found) noexcept {
  const std::uint32_t call = next_call();
  const lockmgr::Reply reply = inner().test(range, mode, found);
  if (call != 0 && reply.is_done() && found) tape_.put(item_of(call, Said::kSeen));
  return reply;
}

int TapedLocks::wait(WaitId id, const lockmgr::Range& range, lockmgr::Mode mode,
                     const Carried& carried, bool yield_first, WaitDone done) noexcept {
  const std::uint32_t call = next_call();
  if (call != 0) {
    TapeItem item = item_of(call, Said::kWait);
    item.wait = id;
    show(item, range, mode);
    tape_.put(std::move(item));
  }
  // A recording may begin while it waits.
  try {
    done = [&tape = tape_, id, done = std::move(done)](lockmgr::WaitEnd end) {
      const Tape::Cause cause(tape);
      TapeItem item;
      item.kind = TapeItem::Kind::kOutsideEnd;
      item.wait = id;
      item.error = errno_of(end);
      tape.put(std::move(item));
      done(end);
    };
  } catch (const std::bad_alloc&) {
    return ENOLCK;
  }
  return inner().wait(id, range, mode, carried, yield_first, std::move(done));
}

bool TapedLocks::outsiders_waiting() noexcept {
  const std::uint32_t call = next_call();
  const bool waiting = inner().outsiders_waiting();
  if (call != 0 && waiting) tape_.put(item_of(call, Said::kWaiting));
  return waiting;
}

}  // namespace lockfs
