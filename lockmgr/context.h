/// What all files of a manager have in common: limits, counts, times, who is told, and the registry
/// of files and parked requests. Held by the LockManager and known to each of its files.
///
/// Thread safety: each member is for any thread, by itself.
///
/// Order in which mutexes are taken: `parking`, then that of a file (several only by a thread that
/// holds `parking`), then those of the registry, the searches and the ledger, which are never held
/// while another is taken.
///
/// Invariants:
///  1. Requests that take part in deadlock detection are parked under `parking`, so two that would
///     close a cycle cannot both miss it.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>

#include "lockmgr/accounting.h"
#include "lockmgr/backing.h"
#include "lockmgr/clock.h"
#include "lockmgr/counters.h"
#include "lockmgr/histogram.h"
#include "lockmgr/observer.h"
#include "lockmgr/policy.h"
#include "lockmgr/registry.h"
#include "lockmgr/searches.h"

namespace lockmgr {

struct Context {
  Context(const Limits& limits, const Policy& policy, Observer* told)
      : ledger(limits), observer(told), registry(policy) {}
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  Ledger ledger;
  Counters counters;
  Timings timings;
  TimeSource clock;
  Observer* const observer;          ///< may be null
  std::atomic<bool> watched{false};  ///< Observer::event() is wanted
  Registry registry;
  std::mutex parking;
  Searches searches;
  /// Waiters and locks that a request is held up for, to learn whether it closes a cycle.
  std::atomic<std::uint64_t> short_search{1000};
  std::atomic<Backing::WaitId> next_wait{1};  ///< name of the next wait for outsiders
  std::atomic<std::uint64_t> queued{0};       ///< waiters that relent() looks at
};

}  // namespace lockmgr
