/// A backing file that exists in a simulation only. While the simulation follows a recording it
/// says what the real one said there. Else: the mirror's locks and those of outsiders (NFS clients,
/// programs on the source) meet here as record locks do in the kernel. Whoever has to wait stands
/// in one queue; the first whom nothing stands in the way of is served first.
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
#include "lockmgr/trace/trace.h"
#include "mount-helpers/replay/range_map.h"

namespace replay {

class SimulatedFile {
 public:
  /// What the file is asked about now: one thing that happens, at this time.
  struct Moment {
    std::uint64_t turn = 0;
    lockmgr::trace::Nanoseconds time{0};
  };
  /// What a backing said in a recording to a call for this file.
  struct Told {
    lockmgr::trace::OutsideSaid said = lockmgr::trace::OutsideSaid::kRefused;
    int error = 0;           ///< kRefused
    std::uint64_t wait = 0;  ///< kWait: its number
  };

  /// Both must outlive the object. `follows`: the recording's answers hold.
  SimulatedFile(const bool& follows, const Moment& now) : follows_(follows), now_(now) {}

  /// Adds what was said at `time` to the `call`-th call.
  void tell(lockmgr::trace::Nanoseconds time, std::uint32_t call, const Told& told) {
    told_[{time, call}] = told;
  }
  /// A wait of the recording has ended.
  void end_wait(std::uint64_t number, int error);

  /// Names an outsider.
  using Outsider = std::uint64_t;

  /// A backing for a lock manager; the file must outlive it.
  std::unique_ptr<lockmgr::Backing> backing();

  /// An outsider's request: 0 or EAGAIN; nothing: it waits, and `done` will be called by settle()
  /// unless forget() comes first.
  std::optional<int> ask(Outsider who, const lockmgr::Range& range, lockmgr::Mode mode, bool wait,
                         std::function<void()> done);
  /// Gives an outsider what he asks for, whoever is in the way.
  void force(Outsider who, const lockmgr::Range& range, lockmgr::Mode mode) {
    outsiders_[who].set(range, mode);
  }
  /// The outsider waits no longer.
  void forget(Outsider who);
  void release_all(Outsider who);

  /// Serves those who wait as far as possible. To be called after whatever may have changed
  /// something, and not from within a call of the manager. Returns whether anybody was served.
  bool settle();

 private:
  class Mirror;
  class Both;
  struct Waiting {
    std::optional<Outsider> outsider;  ///< nothing: the mirror
    lockmgr::Backing::WaitId id = 0;
    lockmgr::Range range;
    lockmgr::Mode mode = lockmgr::Mode::kNone;
    bool recalled = false;
    lockmgr::Backing::WaitDone done;
    bool flock = false;                   ///< nobody outside takes flocks
    std::optional<std::uint64_t> number;  ///< of a wait of the recording: ends when that did
  };

  [[nodiscard]] bool refuses_outsider(Outsider who, const lockmgr::Range& range,
                                      lockmgr::Mode mode) const;
  [[nodiscard]] bool refuses_mirror(const lockmgr::Range& range, lockmgr::Mode mode) const;

  const Told* next_call();

  const bool& follows_;
  const Moment& now_;
  std::map<std::pair<lockmgr::trace::Nanoseconds, std::uint32_t>, Told> told_;
  std::uint64_t turn_ = 0;  ///< in which calls_ were made
  std::uint32_t calls_ = 0;
  RangeMap mirror_;
  std::map<Outsider, RangeMap> outsiders_;
  std::list<Waiting> queue_;
};

}  // namespace replay
