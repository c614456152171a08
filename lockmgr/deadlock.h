/// Whom parked requests wait for, over all files: the edges of the wait-for graph, as one search
/// needs them. A lock is looked at once for all who wait for its bytes: where thousands hold a file
/// and thousands wait for it, a search takes their sum, not their product.
///
/// Example: 1 to 3,000 share file A, and each waits to have file B alone, which 3,001 to 6,000
/// share. Whoever asks for A is in the way of 3,000; the first of them leads to all holders of B,
/// the others to nobody that is not known by then.
///
/// Thread safety: used by one thread, which holds Context::parking and the mutex of its own file.
/// Each other file that was looked at stays locked while the object lives, so that the graph stands
/// still during a search.
///
/// Invariants:
///  1. The node that holds a lock on a byte of a Seen set was handed out as an edge or left before,
///     or the lock's owner is in `passed_by`.
#pragma once

#include <array>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <unordered_map>
#include <vector>

#include "lockmgr/granted.h"
#include "lockmgr/owner.h"
#include "lockmgr/registry.h"
#include "lockmgr/wait_graph.h"

namespace lockmgr {

class FileLocks;

class WaitingOwners final : public WaitGraph::Source {
 public:
  /// For one search. `home` is the file that the caller has locked.
  WaitingOwners(const FileLocks& home, const Registry& registry)
      : home_(home), registry_(registry) {}

  /// The cycle that `owner`'s request would close by waiting: the nodes from the blocker on; empty:
  /// none. May throw std::bad_alloc.
  std::vector<WaitGraph::Node> find_cycle(const Granted& granted, const Owner& owner,
                                          const Request& request);

  void waits_for(WaitGraph::Node node, std::vector<WaitGraph::Node>& out) override;

  /// Locks looked at so far.
  std::uint64_t looks() const { return looks_; }

 private:
  using Nodes = std::vector<WaitGraph::Node>;

  /// Bytes, as disjoint ranges that do not touch: the last of each by its first.
  class Seen {
   public:
    /// Calls visit(part) for each part of `range` that is not in the set, and adds it.
    template <typename Visit>
    void add(const Range& range, const Visit& visit);

   private:
    std::map<Offset, Offset> ranges_;
  };
  struct Looked {
    Seen exclusive;
    Seen shared;
    std::set<const Owner*> passed_by;  ///< were in nobody's way so far
  };
  struct File {
    std::shared_ptr<FileLocks> file;    ///< null: home_
    std::unique_lock<std::mutex> lock;  ///< after `file`, so that it is let go of first
    std::array<Looked, kSpaces.size()> looked;
  };
  /// Who waits: the node that is being left, the party, its owner and its request.
  struct Leaves {
    const WaitGraph::Node* from;  ///< null: the request that the search is for
    Party party;
    const Owner* self;
    const Request& request;
  };

  File& entry(const FileLocks& file);
  void add_edges(const Granted& granted, Looked& looked, const Leaves& leaves, Nodes& out);

  const FileLocks& home_;
  const Registry& registry_;
  std::unordered_map<const FileLocks*, File> files_;
  std::uint64_t looks_ = 0;
};

}  // namespace lockmgr
