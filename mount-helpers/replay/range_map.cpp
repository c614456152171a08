#include "mount-helpers/replay/range_map.h"

#include <algorithm>

namespace replay {

using lockmgr::Mode;
using lockmgr::Offset;
using lockmgr::Range;

RangeMap::Spans::const_iterator RangeMap::from(Offset at) const {
  auto it = spans_.upper_bound(at);
  if (it != spans_.begin() && std::prev(it)->second.last >= at) --it;
  return it;
}

void RangeMap::set(const Range& range, Mode mode) {
  for (auto it = from(range.first); it != spans_.end() && it->first <= range.last;) {
    const Offset first = it->first;
    const Span span = it->second;
    it = spans_.erase(it);
    if (first < range.first) spans_[first] = {range.first - 1, span.mode};
    if (span.last > range.last) it = spans_.insert({range.last + 1, span}).first;
  }
  if (mode != Mode::kNone) spans_[range.first] = {range.last, mode};
}

bool RangeMap::conflicts(const Range& range, Mode mode) const {
  for (auto it = from(range.first); it != spans_.end() && it->first <= range.last; ++it) {
    if (lockmgr::modes_conflict(it->second.mode, mode)) return true;
  }
  return false;
}

Mode RangeMap::strongest() const {
  Mode mode = Mode::kNone;
  for (const auto& [first, span] : spans_) mode = std::max(mode, span.mode);
  return mode;
}

}  // namespace replay
