/// Who holds locks at the moment, as events tell it, and whom an NFS client would have kept apart.
/// A reference beside the lock manager, which is what is judged.
///
/// Thread safety: none.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <utility>
#include <vector>

#include "lockmgr/policy.h"
#include "mount-helpers/replay/range_map.h"
#include "mount-helpers/replay/script.h"

namespace replay {

/// A stretch of time in which somebody held something on a file, or waited for it.
struct Stay {
  Index file = 0;
  Index actor = 0;
  bool holds = false;  ///< else waits
  lockmgr::Mode mode = lockmgr::Mode::kNone;
  Nanoseconds begin{0};
  Nanoseconds end{0};
};

/// Two programs held locks at one time that exclude each other on an NFS client.
struct Hazard {
  Index file = 0;
  Index holder = 0;  ///< actor
  Index intruder = 0;
  Nanoseconds time{0};
};

class Holders {
 public:
  struct Who {
    lockmgr::OwnerId id;
    bool remote = false;
    pid_t pid = 0;
    Index actor = 0;
  };

  void grant(Index file, const Who& who, const lockmgr::Range& range, lockmgr::Mode mode,
             Nanoseconds now);
  /// Takes what `id` holds within `range` away.
  void release(Index file, const lockmgr::OwnerId& id, bool remote, const lockmgr::Range& range,
               Nanoseconds now);

  /// The end of everything: what is held still is held until `now`.
  void end(Nanoseconds now);

  [[nodiscard]] std::uint64_t hazard_count() const { return hazard_count_; }
  /// The first of them.
  [[nodiscard]] const std::vector<Hazard>& hazards() const { return hazards_; }
  /// Those that have ended.
  [[nodiscard]] const std::vector<Stay>& stays() const { return stays_; }

 private:
  static constexpr std::size_t kMostHazards = 20;
  static constexpr std::size_t kMostStays = 100'000;

  /// An owner on a file. The OwnerId of a remote one could be that of a local one.
  struct Key {
    Index file = 0;
    bool remote = false;
    int type = 0;
    std::uint64_t cookie = 0;
    // clang-tidy 14 takes the comparison with 0 for one with a pointer.
    // NOLINTNEXTLINE(modernize-use-nullptr)
    friend auto operator<=>(const Key&, const Key&) = default;
  };
  struct Held {
    Who who;
    RangeMap locks;
    lockmgr::Mode mode = lockmgr::Mode::kNone;  ///< the strongest since `since`
    Nanoseconds since{0};
  };

  static Key key_of(Index file, const lockmgr::OwnerId& id, bool remote) {
    return {file, remote, static_cast<int>(id.type), id.cookie};
  }
  void look_for_hazards(Index file, const Held& intruder, const lockmgr::Range& range,
                        lockmgr::Mode mode, Nanoseconds now);
  void end_stay(const Key& key, Held& held, Nanoseconds now);

  const lockmgr::Policy nfs_{};
  std::map<Key, Held> held_;
  std::vector<Hazard> hazards_;
  std::vector<Stay> stays_;
  std::uint64_t hazard_count_ = 0;
};

}  // namespace replay
