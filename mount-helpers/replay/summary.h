/// The figures by which policies are compared.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "mount-helpers/replay/simulation.h"

namespace replay {

struct Summary {
  std::string policy;
  std::uint64_t asked = 0;
  std::uint64_t grants = 0;
  std::uint64_t refusals = 0;
  std::uint64_t deadlocks = 0;
  std::uint64_t given_up = 0;
  std::uint64_t errors = 0;
  std::uint64_t stuck = 0;
  std::uint64_t waited = 0;  ///< grants after a wait; of these:
  Nanoseconds wait_mean{0};
  Nanoseconds wait_p50{0};
  Nanoseconds wait_p99{0};
  Nanoseconds wait_max{0};
  QueueLength queue;
  double fairness = 1;    ///< jain_index() of the actors' progress
  double throughput = 0;  ///< grants a second
  std::uint64_t hazards = 0;
  std::uint64_t requests = 0;     ///< unlocks included
  std::uint64_t as_recorded = 0;  ///< of these
  Nanoseconds length{0};
};

/// (sum x)^2 / (n * sum x^2): 1 when all are equal, 1/n when one has all. 1 for nobody.
double jain_index(const std::vector<double>& shares);

/// The smallest of `sorted` that at least `share` (0 to 1) of all do not exceed; 0 of none.
Nanoseconds percentile(const std::vector<Nanoseconds>& sorted, double share);

/// An actor's progress is the part of its time in which it did not wait.
Summary summarise(const Outcome& outcome);

}  // namespace replay
