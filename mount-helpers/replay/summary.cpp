#include "mount-helpers/replay/summary.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace replay {

double jain_index(const std::vector<double>& shares) {
  double sum = 0;
  double squares = 0;
  for (const double share : shares) {
    sum += share;
    squares += share * share;
  }
  return squares == 0 ? 1 : sum * sum / (static_cast<double>(shares.size()) * squares);
}

Nanoseconds percentile(const std::vector<Nanoseconds>& sorted, double share) {
  if (sorted.empty()) return Nanoseconds(0);
  const auto rank = static_cast<std::size_t>(std::ceil(share * static_cast<double>(sorted.size())));
  return sorted[std::min(std::max<std::size_t>(rank, 1), sorted.size()) - 1];
}

Summary summarise(const Outcome& outcome) {
  Summary s;
  s.policy = outcome.policy;
  s.asked = outcome.asked;
  s.grants = outcome.grants;
  s.refusals = outcome.refusals;
  s.deadlocks = outcome.deadlocks;
  s.given_up = outcome.given_up;
  s.errors = outcome.errors;
  s.stuck = outcome.stuck;
  s.queue = outcome.queue;
  s.hazards = outcome.hazard_count;
  s.requests = outcome.answers.size();
  s.as_recorded = outcome.as_recorded;
  s.length = outcome.length;

  s.waited = outcome.waits.size();
  if (s.waited > 0) {
    const auto sum = std::accumulate(outcome.waits.begin(), outcome.waits.end(), Nanoseconds(0));
    s.wait_mean = sum / static_cast<std::int64_t>(s.waited);
    s.wait_p50 = percentile(outcome.waits, 0.50);
    s.wait_p99 = percentile(outcome.waits, 0.99);
    s.wait_max = outcome.waits.back();
  }

  std::vector<double> progress;
  for (const ActorOutcome& actor : outcome.actors) {
    const auto present = static_cast<double>((actor.end - actor.begin).count());
    if (present > 0) {
      progress.push_back(1 - static_cast<double>(actor.waiting.count()) / present);
    }
  }
  s.fairness = jain_index(progress);
  const std::chrono::duration<double> seconds = outcome.length;
  if (seconds.count() > 0) s.throughput = static_cast<double>(s.grants) / seconds.count();
  return s;
}

}  // namespace replay
