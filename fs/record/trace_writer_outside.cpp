// Outsiders in a trace, twice: what the backing said, for a replay under the same policy; and,
// since a mount learns of them only when one is in its way, each as somebody who locks the file on
// the backing for as long as that was so, for other policies.
#include <algorithm>

#include "fs/record/trace_writer.h"

namespace lockfs {

namespace {

using lockmgr::trace::EventType;
using lockmgr::trace::Nanoseconds;
using lockmgr::trace::TraceEvent;

/// An outsider is there before what meets it, and goes after that.
constexpr Nanoseconds kMoment(1);

}  // namespace

void TraceWriter::write_outside(const TapeItem& item) {
  const auto file = files_.find({item.key.device, item.key.inode});
  if (file == files_.end()) return;  // nothing is known of it
  if (item.request.mode != lockmgr::Mode::kNone) meet(item);
  TraceEvent event;
  event.type = EventType::kOutside;
  event.time = time_of(item);
  event.file = file->second;
  event.call = item.call;
  event.said = item.said;
  event.error = item.error;
  if (item.said == lockmgr::trace::OutsideSaid::kWait) wait_numbers_[item.wait] = next_wait_++;
  encoder_.add(event);
}

void TraceWriter::write_outside_end(const TapeItem& item) {
  part(item.wait, time_of(item));
  const auto number = wait_numbers_.find(item.wait);
  if (number == wait_numbers_.end()) return;  // begun before the recording
  TraceEvent event;
  event.type = EventType::kOutsideEnd;
  event.time = time_of(item);
  event.wait_number = number->second;
  event.error = item.error;
  wait_numbers_.erase(number);
  encoder_.add(event);
}

/// An outsider is met by a request that was refused by it, or by one that begins to wait for it,
/// which has been refused just before.
void TraceWriter::meet(const TapeItem& item) {
  const bool refused = glance_ && glance_->time == item.time &&
                       glance_->key.device == item.key.device &&
                       glance_->key.inode == item.key.inode;
  if (item.wait == 0) {
    if (refused) return;  // twice by one call: when it was tried, and before it was parked
    settle_glance();
    glance_ = item;
    return;
  }
  // The refusal that led to this wait tells nothing more.
  if (refused) glance_.reset();
  settle_glance();
  const auto file = files_.find({item.key.device, item.key.inode});
  if (file == files_.end()) return;
  const lockmgr::Range& range = item.request.range;
  const lockmgr::Mode mode = item.request.mode;
  std::size_t met = outsiders_.size();
  for (std::size_t i = 0; i < outsiders_.size(); ++i) {
    const Outsider& o = outsiders_[i];
    if (o.present && o.file == file->second && o.range == range && o.mode == mode) met = i;
  }
  if (met == outsiders_.size()) {
    // One whom a request meets was there before it. Else it was one who waited outside, and the
    // lock became his when the mount let go of it.
    const Nanoseconds now = time_of(item);
    met = enter(file->second, range, mode, now - kMoment,
                refused && now == last_request_ ? now - kMoment : now);
  }
  ++outsiders_[met].waits;
  outside_waits_[item.wait] = met;
}

void TraceWriter::part(std::uint64_t wait, Nanoseconds time) {
  const auto it = outside_waits_.find(wait);
  if (it == outside_waits_.end()) return;
  const std::size_t outsider = it->second;
  outside_waits_.erase(it);
  if (--outsiders_[outsider].waits == 0) leave(outsider, time);
}

/// Writes down an outsider who was in the way of a request that did not wait, unless it is one that
/// others wait for.
void TraceWriter::settle_glance() {
  if (!glance_) return;
  const TapeItem item = *glance_;
  glance_.reset();
  const auto file = files_.find({item.key.device, item.key.inode});
  if (file == files_.end()) return;
  for (const Outsider& o : outsiders_) {
    if (o.present && o.file == file->second && o.range.overlaps(item.request.range)) return;
  }
  const Nanoseconds time = time_of(item);
  leave(enter(file->second, item.request.range, item.request.mode, time - kMoment, time - kMoment),
        time + kMoment);
}

std::size_t TraceWriter::enter(Index file, const lockmgr::Range& range, lockmgr::Mode mode,
                               Nanoseconds asked, Nanoseconds granted) {
  std::size_t i = 0;
  while (i < outsiders_.size() && (outsiders_[i].present || outsiders_[i].file != file)) ++i;
  if (i == outsiders_.size()) {
    Outsider fresh;
    fresh.file = file;
    fresh.actor = encoder_.define(lockmgr::trace::Actor{0, 0, 0, "outsider"});
    fresh.owner = encoder_.define(
        lockmgr::trace::TraceOwner{lockmgr::OwnerType::kProcess, true, next_identity_++});
    fresh.open = encoder_.define(lockmgr::trace::Open{file, true, true});
    outsiders_.push_back(fresh);
  }
  Outsider& outsider = outsiders_[i];
  outsider.range = range;
  outsider.mode = mode;
  outsider.present = true;
  TraceEvent event;
  event.type = EventType::kAsk;
  event.time = std::max(asked, Nanoseconds(0));
  event.actor = outsider.actor;
  event.open = outsider.open;
  event.owner = outsider.owner;
  event.range = range;
  event.mode = mode;
  event.wait = true;
  const std::uint64_t number = encoder_.add(event);
  event.type = EventType::kAnswer;
  event.time = std::max(granted, Nanoseconds(0));
  event.ask = number;
  event.error = 0;
  encoder_.add(event);
  return i;
}

void TraceWriter::leave(std::size_t i, Nanoseconds time) {
  Outsider& outsider = outsiders_[i];
  outsider.present = false;
  TraceEvent event;
  event.type = EventType::kFlush;
  event.time = time;
  event.actor = outsider.actor;
  event.open = outsider.open;
  event.owner = outsider.owner;
  encoder_.add(event);
}

}  // namespace lockfs
