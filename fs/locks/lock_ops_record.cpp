// What a recording is told of the lock operations.
#include <new>
#include <utility>

#include "fs/locks/lock_ops.h"

namespace lockfs {

namespace {

/// An item about an open file on which locks were asked for.
TapeItem item_of(TapeItem::Kind kind, const Handle& handle) {
  TapeItem item;
  item.kind = kind;
  item.file = HandleLocks::of(handle)->file->locks;
  item.open = &HandleLocks::of(handle)->opened;
  item.readable = handle.readable();
  item.writable = handle.writable();
  return item;
}

}  // namespace

/// Tells a new recording what was granted on this file before it, and who waited: at a time of its
/// own, before that of what happens now.
void LockOps::describe(LockedFile& file) noexcept {
  const std::uint32_t recording = tape_.recording();
  if (file.described == recording || recording == 0) return;
  file.described = recording;
  const auto put = [&](TapeItem::Kind kind, const lockmgr::Opened* opened,
                       const lockmgr::Request& request, lockmgr::Ticket ticket) {
    TapeItem item;
    item.kind = kind;
    item.file = file.locks;
    item.open = opened;
    // Open files of this file close within its strand only, where this call is.
    item.readable = opened == nullptr || opened->readable();
    item.writable = opened == nullptr || opened->writable();
    item.request = request;
    item.ticket = ticket;
    tape_.put(std::move(item));
  };
  try {
    for (const lockmgr::LockView& lock : file.locks->locks()) {
      put(TapeItem::Kind::kHeld, lock.opened,
          {lock.owner, lock.caller, lock.range, lock.mode, false}, 0);
    }
    for (const lockmgr::WaitView& wait : file.locks->waiters()) {
      put(TapeItem::Kind::kWaiting, wait.opened, wait.request, wait.ticket);
    }
  } catch (const std::bad_alloc&) {
    return;  // the recording then lacks them
  }
}

std::uint64_t LockOps::tape_ask(const Handle& handle, const lockmgr::Request& request) noexcept {
  if (!tape_.is_open()) return 0;
  TapeItem item = item_of(TapeItem::Kind::kAsk, handle);
  item.request = request;
  return tape_.put(std::move(item));
}

void LockOps::tape_answer(const Asked& asked, int error) noexcept {
  if ((asked.taped == 0 && asked.ticket == 0) || !tape_.is_open()) return;
  TapeItem item;
  item.kind = TapeItem::Kind::kAnswer;
  item.ask = asked.taped;
  item.ticket = asked.ticket;
  item.error = error;
  tape_.put(std::move(item));
}

/// `handle` need not be one on which locks were asked for: any close by the process counts.
void LockOps::tape_flush(const Handle& handle, LockedFile& file, std::uint64_t cookie,
                         const fuse_ctx& caller) noexcept {
  if (!tape_.is_open()) return;
  TapeItem item;
  if (handle.locks != nullptr) item = item_of(TapeItem::Kind::kFlush, handle);
  item.kind = TapeItem::Kind::kFlush;
  item.file = file.locks;
  item.request.owner = {lockmgr::OwnerType::kProcess, cookie};
  // The kernel names the thread only.
  item.request.caller = {0, caller.pid, caller.uid};
  tape_.put(std::move(item));
}

void LockOps::tape_close(const Handle& handle) noexcept {
  if (!tape_.is_open()) return;
  tape_.put(item_of(TapeItem::Kind::kClose, handle));
}

/// Lets the manager know that time passes, and the recording that it was told.
void LockOps::tape_tick() noexcept {
  const Tape::Cause cause(tape_);
  if (tape_.is_open()) {
    TapeItem item;
    item.kind = TapeItem::Kind::kTick;
    tape_.put(std::move(item));
  }
  manager_.relent(manager_.now());
}

lockmgr::PolicySwitch LockOps::switch_policy(const lockmgr::Policy& to) {
  const Tape::Cause cause(tape_);
  TapeItem item;
  item.kind = TapeItem::Kind::kPolicy;
  item.policy = to;
  tape_.put(std::move(item));
  return manager_.switch_policy(to);
}

int LockOps::revoke(lockmgr::FileLocks& file, const lockmgr::OwnerId& owner,
                    const lockmgr::Range& range, lockmgr::Range& taken) noexcept {
  const Tape::Cause cause(tape_);
  TapeItem item;
  item.kind = TapeItem::Kind::kRevoke;
  item.key = file.key();
  item.request.owner = owner;
  item.request.range = range;
  tape_.put(std::move(item));
  return file.revoke(owner, range, taken);
}

}  // namespace lockfs
