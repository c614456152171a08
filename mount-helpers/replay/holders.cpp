#include "mount-helpers/replay/holders.h"

namespace replay {

using lockmgr::Mode;
using lockmgr::OwnerId;
using lockmgr::Range;

void Holders::grant(Index file, const Who& who, const Range& range, Mode mode, Nanoseconds now) {
  const Key key = key_of(file, who.id, who.remote);
  Held& held = held_[key];
  if (held.locks.empty()) held.since = now;
  held.who = who;
  held.locks.set(range, mode);
  // A change of mode begins a stay of its own, so that a plot shows it.
  if (const Mode strongest = held.locks.strongest(); strongest != held.mode) {
    end_stay(key, held, now);
    held.mode = strongest;
    held.since = now;
  }
  look_for_hazards(file, held, range, mode, now);
}

void Holders::release(Index file, const OwnerId& id, bool remote, const Range& range,
                      Nanoseconds now) {
  const auto it = held_.find(key_of(file, id, remote));
  if (it == held_.end()) return;
  it->second.locks.set(range, Mode::kNone);
  if (!it->second.locks.empty()) return;
  end_stay(it->first, it->second, now);
  held_.erase(it);
}

void Holders::end(Nanoseconds now) {
  for (auto& [key, held] : held_) end_stay(key, held, now);
  held_.clear();
}

void Holders::end_stay(const Key& key, Held& held, Nanoseconds now) {
  if (held.mode == Mode::kNone || stays_.size() >= kMostStays) return;
  stays_.push_back({key.file, held.who.actor, true, held.mode, held.since, now});
}

void Holders::look_for_hazards(Index file, const Held& intruder, const Range& range, Mode mode,
                               Nanoseconds now) {
  for (auto it = held_.lower_bound({file, false, 0, 0});
       it != held_.end() && it->first.file == file; ++it) {
    const Who& a = it->second.who;
    const Who& b = intruder.who;
    // What one program does to itself is its own affair: nobody else is let in.
    if (&it->second == &intruder || (a.pid == b.pid && a.remote == b.remote)) continue;
    if (a.remote == b.remote && !nfs_.excludes({a.id, a.pid}, {b.id, b.pid})) continue;
    if (!it->second.locks.conflicts(range, mode)) continue;
    ++hazard_count_;
    if (hazards_.size() < kMostHazards) hazards_.push_back({file, a.actor, b.actor, now});
  }
}

}  // namespace replay
