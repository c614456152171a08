/// A workload written down: which program does what when. One description serves live runs
/// (live_run.h) and traces (plan_trace.h).
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "lockmgr/owner.h"
#include "lockmgr/range.h"

namespace workload {

using Nanoseconds = std::chrono::nanoseconds;

struct Action {
  enum class What : std::uint8_t {
    kOpen,   ///< a file; closed before
    kLock,   ///< through the open file
    kSleep,  ///< works, thinks
    kClose,  ///< which lets go of all its locks
  };
  What what = What::kSleep;
  std::size_t file = 0;                                  ///< in Plan::files; of all but kSleep
  lockmgr::OwnerType type = lockmgr::OwnerType::kFlock;  ///< kLock: which call; a flock covers all
  lockmgr::Range range = lockmgr::kWholeFile;
  lockmgr::Mode mode = lockmgr::Mode::kExclusive;  ///< kNone unlocks
  bool wait = true;
  Nanoseconds patience{0};  ///< gives up a wait after so long; 0: never
  Nanoseconds time{0};      ///< kSleep
};

/// A process with one thread. When a lock is refused or given up, what lies before the next close
/// of that file is not done.
struct Program {
  std::string name;
  bool remote = false;  ///< an NFS client's: takes POSIX locks on the directory below the mount
  Nanoseconds start{0};
  std::vector<Action> actions;
};

struct Plan {
  std::vector<std::string> files;  ///< names without a slash
  std::vector<Program> programs;
};

struct Settings {
  std::uint64_t seed = 1;
  std::chrono::seconds length{10};  ///< programs begin new work for so long
};

struct Workload {
  std::string_view name;
  std::string_view about;
  Plan (*make)(const Settings& settings);
};

/// The workloads there are.
const std::vector<Workload>& workloads();

}  // namespace workload
