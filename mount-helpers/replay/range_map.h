/// Which bytes are locked in which mode: the locks of one holder, as a reference to check a lock
/// manager against, so it shares nothing with one.
#pragma once

#include <map>
#include <utility>

#include "lockmgr/range.h"

namespace replay {

class RangeMap {
 public:
  /// Makes `range` exactly `mode`; kNone: free.
  void set(const lockmgr::Range& range, lockmgr::Mode mode);

  /// Whether `mode` on `range`, asked for by another holder, meets a conflict here.
  [[nodiscard]] bool conflicts(const lockmgr::Range& range, lockmgr::Mode mode) const;

  [[nodiscard]] bool empty() const { return spans_.empty(); }
  /// The strongest mode anywhere.
  [[nodiscard]] lockmgr::Mode strongest() const;

 private:
  struct Span {
    lockmgr::Offset last = 0;
    lockmgr::Mode mode = lockmgr::Mode::kNone;
  };
  using Spans = std::map<lockmgr::Offset, Span>;  ///< by first byte; disjoint

  /// The first span that overlaps or follows `at`.
  [[nodiscard]] Spans::const_iterator from(lockmgr::Offset at) const;

  Spans spans_;
};

}  // namespace replay
