/// Lives through a trace again, in simulated time and under a policy of choice, with the real lock
/// manager. The same trace and policy always give the same outcome.
///
/// What a thread did next it does again, as long after its last answer as it did in the trace:
/// think times and the times for which locks are held are kept, waiting times are what the policy
/// makes of them. A thread begins when it began in the trace. Where the policy refuses what was
/// granted in the trace, the thread goes on at once if its next step is to unlock or to close:
/// there is nothing that it could hold. A wait that ended by a signal is given up after as long as
/// then.
///
/// As long as the policy is the one that the trace was recorded under, and every answer the
/// recorded one, whatever was decided outside of the manager is taken from the trace; from the
/// first difference on, and under other policies, outsiders are simulated as far as the mount has
/// met them.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "lockmgr/policy.h"
#include "mount-helpers/replay/holders.h"
#include "mount-helpers/replay/script.h"

namespace replay {

/// What an actor had of a replay.
struct ActorOutcome {
  Nanoseconds begin{0};
  Nanoseconds end{0};      ///< of its last step
  Nanoseconds waiting{0};  ///< of that, in parked requests
  std::uint64_t grants = 0;
};

/// How many requests were parked, over time.
struct QueueLength {
  std::uint64_t most = 0;          ///< on all files
  std::uint64_t most_on_file = 0;  ///< on the file with the longest queue
  double mean = 0;                 ///< on all files, over time
};

/// What came of a trace under a policy.
struct Outcome {
  std::string policy;
  std::vector<std::optional<Answer>> answers;  ///< by ask; nothing: still waiting at the end, or
                                               ///< never asked as its thread was
  std::uint64_t asked = 0;                     ///< locks, not unlocks
  std::uint64_t grants = 0;
  std::uint64_t refusals = 0;      ///< EAGAIN
  std::uint64_t deadlocks = 0;     ///< EDEADLK
  std::uint64_t given_up = 0;      ///< EINTR
  std::uint64_t errors = 0;        ///< EBADF, ENOLCK and so on
  std::uint64_t stuck = 0;         ///< waiting when nothing could happen any more
  std::uint64_t as_recorded = 0;   ///< asks, unlocks too, with the recorded answer and wait
  std::vector<Nanoseconds> waits;  ///< of requests granted after they were parked; sorted
  std::vector<ActorOutcome> actors;
  QueueLength queue;
  Nanoseconds length{0};  ///< when the last thing happened
  std::uint64_t hazard_count = 0;
  std::vector<Hazard> hazards;  ///< the first of them
  std::vector<Stay> stays;
};

/// A policy to replay under.
struct Choice {
  std::string name;
  lockmgr::Policy policy;  ///< at the beginning
  bool switches = false;   ///< to others when the mount did
};

/// Reads a policy as `lockfs -o policy=` takes it, or "recorded": that of the trace, switches
/// included. Returns "", or what is wrong in one line.
std::string choose(const Trace& trace, const std::string& name, Choice& choice);

/// Replays `trace`, whose `scripts` are given too. May throw std::bad_alloc.
Outcome simulate(const Trace& trace, const Scripts& scripts, const Choice& choice);

}  // namespace replay
