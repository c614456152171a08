/// A backing file that exists in a simulation only: the mirror's locks and those of outsiders (NFS
/// clients, programs on the source) meet here as record locks do in the kernel. Whoever has to wait
/// stands in one queue; the first whom nothing stands in the way of is served first.
///
/// Thread safety: none; a simulation is one thread.
#pragma once

#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "lockmgr/backing.h"
#include "mount-helpers/replay/range_map.h"

namespace replay {

class SimulatedFile {
 public:
  /// Names an outsider.
  using Outsider = std::uint64_t;

  /// A backing for a lock manager; the file must outlive it.
  std::unique_ptr<lockmgr::Backing> backing();

  /// An outsider's request: 0 or EAGAIN; nothing: it waits, and `done` will be called by settle()
  /// unless forget() comes first.
  std::optional<int> ask(Outsider who, const lockmgr::Range& range, lockmgr::Mode mode, bool wait,
                         std::function<void()> done);
  /// The outsider waits no longer.
  void forget(Outsider who);
  void release_all(Outsider who);

  /// Serves those who wait as far as possible. To be called after whatever may have changed
  /// something, and not from within a call of the manager. Returns whether anybody was served.
  bool settle();

 private:
  class Mirror;
  struct Waiting {
    std::optional<Outsider> outsider;  ///< nothing: the mirror
    lockmgr::Backing::WaitId id = 0;
    lockmgr::Range range;
    lockmgr::Mode mode = lockmgr::Mode::kNone;
    bool recalled = false;
    std::function<void(int)> done;
  };

  [[nodiscard]] bool refuses_outsider(Outsider who, const lockmgr::Range& range,
                                      lockmgr::Mode mode) const;
  [[nodiscard]] bool refuses_mirror(const lockmgr::Range& range, lockmgr::Mode mode) const;

  RangeMap mirror_;
  std::map<Outsider, RangeMap> outsiders_;
  std::list<Waiting> queue_;
};

}  // namespace replay
