/// Whom parked requests wait for, over all files: the edges of the wait-for graph.
///
/// Thread safety: used by one thread, which holds Context::parking and the mutex of its own file.
/// Each other file that was looked at stays locked while the object lives, so that the graph stands
/// still during a search.
#pragma once

#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "lockmgr/granted.h"
#include "lockmgr/owner.h"
#include "lockmgr/registry.h"
#include "lockmgr/wait_graph.h"

namespace lockmgr {

class FileLocks;

class WaitingOwners final : public WaitGraph::Source {
 public:
  /// `home` is the file that the caller has locked.
  WaitingOwners(const FileLocks& home, const Registry& registry)
      : home_(home), registry_(registry) {}

  /// The cycle that `owner`'s request would close by waiting: the nodes from the blocker on; empty:
  /// none. May throw std::bad_alloc.
  std::vector<WaitGraph::Node> find_cycle(const Granted& granted, const Owner& owner,
                                          const Request& request);

  void waits_for(WaitGraph::Node node, std::vector<WaitGraph::Node>& out) override;

 private:
  void hold(const std::shared_ptr<FileLocks>& file);

  const FileLocks& home_;
  const Registry& registry_;
  // Destroyed last to first: a pair unlocks (second) before it lets go of the file (first).
  std::vector<std::pair<std::shared_ptr<FileLocks>, std::unique_lock<std::mutex>>> held_;
};

}  // namespace lockmgr
