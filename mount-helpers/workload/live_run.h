/// Carries a plan out: real processes, real lock calls, in real time.
#pragma once

#include <cstdint>
#include <string>

#include "mount-helpers/workload/plan.h"

namespace workload {

/// What the programs met with; unlocks are not counted.
struct Counts {
  std::uint64_t asked = 0;
  std::uint64_t granted = 0;
  std::uint64_t refused = 0;
  std::uint64_t deadlocks = 0;
  std::uint64_t given_up = 0;
  std::uint64_t errors = 0;  ///< other errno than these
  std::uint64_t waited_ns = 0;
  std::uint64_t longest_ns = 0;
};

/// Runs the plan's programs on files in `directory`, which are made if they are missing; remote
/// programs use `source` instead, the directory below the mount, as the NFS server does. Blocks
/// until the last has ended. Returns an empty string, or one line that says what failed.
std::string run_live(const Plan& plan, const std::string& directory, const std::string& source,
                     Counts& counts);

}  // namespace workload
