#include "fs/record/trace_writer.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/random.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <system_error>

#include "fs/base/unique_fd.h"
#include "fs/record/keyed_hash.h"

namespace lockfs {

namespace {

using lockmgr::trace::EventType;
using lockmgr::trace::Nanoseconds;
using lockmgr::trace::TraceEvent;

/// The command of a process as ps(1) shows it; empty when it has gone.
std::string command_of(pid_t pid) {
  const UniqueFd fd(::open(fmt::format("/proc/{}/comm", pid).c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return {};
  std::array<char, 32> text{};
  const ssize_t got = read(fd.get(), text.data(), text.size());
  std::string command(text.data(), got > 0 ? static_cast<std::size_t>(got) : 0);
  if (!command.empty() && command.back() == '\n') command.pop_back();
  return command;
}

/// Leases count whole seconds of the steady clock.
lockmgr::trace::Head with_phase(lockmgr::trace::Head head, TapeItem::Clock::time_point began) {
  head.phase = began - std::chrono::floor<std::chrono::seconds>(began);
  return head;
}

}  // namespace

TraceWriter::TraceWriter(const lockmgr::trace::Head& head, bool hash_paths)
    : hash_paths_(hash_paths), encoder_(with_phase(head, began_)) {
  if (!hash_paths) return;
  if (getrandom(key_.data(), sizeof key_, 0) != sizeof key_) {
    throw std::system_error(errno, std::generic_category(), "getrandom");
  }
}

Nanoseconds TraceWriter::time_of(const TapeItem& item) const {
  return std::max(std::chrono::duration_cast<Nanoseconds>(item.time - began_), Nanoseconds(0));
}

std::string TraceWriter::name_of(const lockmgr::FileLocks& file) const {
  std::string name = file.backing().name();
  if (!hash_paths_) return name;
  return fmt::format("file-{:016x}", keyed_hash(key_[0], key_[1], name));
}

TraceWriter::Index TraceWriter::file_of(const TapeItem& item) {
  const lockmgr::FileKey& key = item.file->key();
  const auto known = files_.find({key.device, key.inode});
  if (known != files_.end()) return known->second;
  const Index index = encoder_.define(lockmgr::trace::File{
      hash_paths_ ? 0 : key.device, hash_paths_ ? 0 : key.inode, name_of(*item.file)});
  files_[{key.device, key.inode}] = index;
  return index;
}

TraceWriter::Index TraceWriter::actor_of(const lockmgr::Caller& caller) {
  const auto [it, fresh] = threads_.try_emplace(caller.tid);
  Thread& thread = it->second;
  // A close names the thread only. Ids are used again, by another process as a rule.
  if (!fresh && (caller.pid == 0 || caller.pid == thread.pid)) return thread.index;
  thread.pid = caller.pid;
  const pid_t pid = caller.pid != 0 ? caller.pid : caller.tid;
  thread.index = encoder_.define(lockmgr::trace::Actor{
      pid, caller.tid, caller.uid, hash_paths_ ? std::string() : command_of(pid)});
  return thread.index;
}

TraceWriter::Index TraceWriter::owner_of(const lockmgr::OwnerId& id) {
  const auto [it, fresh] = owners_.try_emplace({id.cookie, static_cast<int>(id.type)}, 0);
  if (fresh) {
    const auto [identity, unknown] = identities_.try_emplace(id.cookie, next_identity_);
    if (unknown) ++next_identity_;
    it->second = encoder_.define(lockmgr::trace::TraceOwner{id.type, false, identity->second});
  }
  return it->second;
}

TraceWriter::Index TraceWriter::open_of(const TapeItem& item) {
  const Index file = file_of(item);
  const Index actor = actor_of(item.request.caller);
  const auto [it, fresh] = opens_.try_emplace({file, item.open});
  if (fresh) {
    it->second.index = encoder_.define(lockmgr::trace::Open{file, item.readable, item.writable});
  }
  it->second.last_actor = actor;
  return it->second.index;
}

void TraceWriter::write_ask(const TapeItem& item) {
  TraceEvent event;
  event.type = EventType::kAsk;
  event.time = time_of(item);
  event.actor = actor_of(item.request.caller);
  event.open = open_of(item);
  event.owner = owner_of(item.request.owner);
  event.range = item.request.range;
  event.mode = item.request.mode;
  event.wait = item.request.wait;
  if (event.mode != lockmgr::Mode::kNone) last_request_ = event.time;
  const std::uint64_t number = encoder_.add(event);
  if (item.kind != TapeItem::Kind::kHeld) {
    (item.kind == TapeItem::Kind::kAsk ? asks_[item.ask] : waiting_[item.ticket]) = number;
    return;
  }
  event = {};
  event.type = EventType::kAnswer;
  event.time = time_of(item);
  event.ask = number;
  encoder_.add(event);
}

void TraceWriter::write(const TapeItem& item) {
  if (item.kind == TapeItem::Kind::kOutside) {
    write_outside(item);
    return;
  }
  settle_glance();
  TraceEvent event;
  event.time = time_of(item);
  switch (item.kind) {
    case TapeItem::Kind::kAsk:
    case TapeItem::Kind::kHeld:
    case TapeItem::Kind::kWaiting:
      write_ask(item);
      return;
    case TapeItem::Kind::kAnswer: {
      auto& known = item.ask != 0 ? asks_ : waiting_;
      const auto asked = known.find(item.ask != 0 ? item.ask : item.ticket);
      if (asked == known.end()) return;  // lost, or asked for before this recording
      event.type = EventType::kAnswer;
      event.ask = asked->second;
      event.error = item.error;
      known.erase(asked);
      break;
    }
    case TapeItem::Kind::kFlush:
      // A close by a process that never took POSIX locks here, such as a child that lets go of what
      // it inherited, drops nothing.
      if (owners_.find({item.request.owner.cookie, static_cast<int>(item.request.owner.type)}) ==
          owners_.end()) {
        return;
      }
      event.type = EventType::kFlush;
      event.actor = actor_of(item.request.caller);
      event.open = open_of(item);
      event.owner = owner_of(item.request.owner);
      break;
    case TapeItem::Kind::kClose: {
      const auto open = opens_.find({file_of(item), item.open});
      if (open == opens_.end()) return;  // nothing is known of it
      // The kernel does not say who closes; who used it last, most often for a close, is next to
      // it.
      event.type = EventType::kClose;
      event.actor = open->second.last_actor;
      event.open = open->second.index;
      opens_.erase(open);
      break;
    }
    case TapeItem::Kind::kTick:
      event.type = EventType::kTick;
      break;
    case TapeItem::Kind::kOutsideEnd:
      write_outside_end(item);
      return;
    case TapeItem::Kind::kPolicy:
      event.type = EventType::kPolicy;
      event.policy = encoder_.define(item.policy.text());
      break;
    case TapeItem::Kind::kRevoke: {
      const auto file = files_.find({item.key.device, item.key.inode});
      if (file == files_.end()) return;  // nothing is known of it
      event.type = EventType::kRevoke;
      event.file = file->second;
      event.owner = owner_of(item.request.owner);
      event.range = item.request.range;
      break;
    }
    case TapeItem::Kind::kOutside:
      return;
  }
  encoder_.add(event);
}

void TraceWriter::finish() {
  settle_glance();
  encoder_.finish();
}

void TraceWriter::write(std::span<const TapeItem> items) {
  for (const TapeItem& item : items) write(item);
}

void TraceWriter::write_lost(std::span<const TapeItem> items, std::uint64_t lost) {
  TraceEvent event;
  event.type = EventType::kLost;
  event.time = items.empty() ? Nanoseconds(0) : time_of(items.back());
  event.lost = lost;
  encoder_.add(event);
  forget(event.time);
}

/// Closes were lost too, perhaps: what comes next may be somebody else under an old number.
void TraceWriter::forget(Nanoseconds now) {
  opens_.clear();
  asks_.clear();
  waiting_.clear();
  glance_.reset();
  outside_waits_.clear();
  wait_numbers_.clear();
  for (std::size_t i = 0; i < outsiders_.size(); ++i) {
    outsiders_[i].waits = 0;
    if (outsiders_[i].present) leave(i, now);
  }
}

}  // namespace lockfs
