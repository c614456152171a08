#include "fs/record/taped_backing.h"

#include <cerrno>
#include <new>
#include <utility>

namespace lockfs {

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
  if (inner_.test(range, mode, found) != 0 || !found) {
    found = lockmgr::OutsideLock{range, lockmgr::Mode::kExclusive, 0};
  }
  item.request.range = found->range;
  item.request.mode = found->mode;
}

int TapedLocks::set(const lockmgr::Range& range, lockmgr::Mode mode,
                    const Carried& carried) noexcept {
  const std::uint32_t call = next_call();
  const int error = inner_.set(range, mode, carried);
  if (call == 0 || error == 0) return error;
  TapeItem item = item_of(call, Said::kRefused);
  item.error = error;
  if (error == EAGAIN) show(item, range, mode);
  tape_.put(std::move(item));
  return error;
}

int TapedLocks::test(const lockmgr::Range& range, lockmgr::Mode mode,
                     std::optional<lockmgr::OutsideLock>& found) noexcept {
  const std::uint32_t call = next_call();
  const int error = inner_.test(range, mode, found);
  if (call != 0 && error == 0 && found) tape_.put(item_of(call, Said::kSeen));
  return error;
}

int TapedLocks::wait(WaitId id, const lockmgr::Range& range, lockmgr::Mode mode, bool yield_first,
                     WaitDone done) noexcept {
  const std::uint32_t call = next_call();
  if (call != 0) {
    TapeItem item = item_of(call, Said::kWait);
    item.wait = id;
    show(item, range, mode);
    tape_.put(std::move(item));
  }
  // A recording may begin while it waits.
  try {
    done = [&tape = tape_, id, done = std::move(done)](int error) {
      const Tape::Cause cause(tape);
      TapeItem item;
      item.kind = TapeItem::Kind::kOutsideEnd;
      item.wait = id;
      item.error = error;
      tape.put(std::move(item));
      done(error);
    };
  } catch (const std::bad_alloc&) {
    return ENOLCK;
  }
  return inner_.wait(id, range, mode, yield_first, std::move(done));
}

bool TapedLocks::outsiders_waiting() noexcept {
  const std::uint32_t call = next_call();
  const bool waiting = inner_.outsiders_waiting();
  if (call != 0 && waiting) tape_.put(item_of(call, Said::kWaiting));
  return waiting;
}

}  // namespace lockfs
