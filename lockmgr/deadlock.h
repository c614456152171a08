/// Whom parked requests wait for, over all files: the edges of the wait-for graph, as one search
/// needs them. A lock is looked at once for all who wait for its bytes (twice where some wait in
/// one mode and some in the other): where thousands hold a file and thousands wait for it, a search
/// takes their sum, not their product. Owners whom others pass by are looked at for each that
/// waits.
///
/// Example: 1 to 3,000 share file A, and each waits to have file B alone, which 3,001 to 6,000
/// share. Whoever asks for A is in the way of 3,000; the first of them leads to all holders of B,
/// the others to nobody that is not known by then.
///
/// A short search is made before the request is parked, while the graph stands still: the thread
/// holds Context::parking and its own file, and each other file stays locked once it was looked at.
/// One that takes longer is given up (exhausted()); the request is parked, and a further search
/// made for it (Searches), each file locked only while one waiter's edges are collected. A cycle is
/// there to stay until somebody in it gives up, so that search finds it if there is one; what it
/// finds may have been pieced together from different moments, and those in it are looked at again
/// while all stands still.
///
/// Thread safety: used by one thread.
///
/// Invariants:
///  1. The node that holds a lock on a byte of a Seen set was handed out as an edge or left before,
///     or the lock's owner is in `passed_by`.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "lockmgr/granted.h"
#include "lockmgr/owner.h"
#include "lockmgr/registry.h"
#include "lockmgr/wait_graph.h"

namespace lockmgr {

class FileLocks;
class Outsiders;

class WaitingOwners final : public WaitGraph::Source {
 public:
  using Nodes = WaitGraph::Nodes;

  /// What a search leaves out.
  struct Scope {
    std::uint64_t most = UINT64_MAX;    ///< waiters and locks to look at
    std::uint64_t before = UINT64_MAX;  ///< Waiter::enrolled from here on: they were not there yet
    const Nodes* only = nullptr;        ///< only these, sorted, are asked whom they wait for
    const Outsiders* outsiders = nullptr;  ///< null: nobody is seen outside
  };

  /// For one search. `home`: the file that the caller has locked, and others are to stay locked;
  /// null: none is locked.
  WaitingOwners(const FileLocks* home, const Registry& registry, const Scope& scope)
      : home_(home), registry_(registry), scope_(scope) {}

  /// The cycle that `owner`'s request would close by waiting, or closes: the nodes from the blocker
  /// on; empty: none, if not exhausted(). May throw std::bad_alloc.
  Nodes find_cycle(const FileLocks& file, const Owner& owner, const Request& request);
  /// Of a parked request. REQUIRES: no file is locked.
  Nodes find_cycle(const Waiter& waiter);

  /// That the process outside is in. REQUIRES: no file is locked.
  Nodes find_cycle(pid_t outsider);

  void waits_for(WaitGraph::Node node, Nodes& out) override;

  /// The search has looked at all that it may, and found nothing so far.
  bool exhausted() const { return exhausted_; }
  /// Waiters and locks looked at so far, of those that it may.
  std::uint64_t spent() const { return spent_; }
  /// Locks looked at so far.
  std::uint64_t looks() const { return looks_; }

 private:
  /// Bytes, as disjoint ranges: the last of each by its first.
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
    std::unordered_set<OwnerId, OwnerIdHash> passed_by;  ///< were in nobody's way so far
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
  bool holds_against(const Owner& owner, const Range& range, Mode mode);
  void add_edges(const FileLocks& locks, File& file, const Leaves& leaves, Nodes& out);
  void leave_outsider(pid_t process, Nodes& out);
  Nodes path_from(const Nodes& blockers, const Policy& policy, const Party& party,
                  const Caller& caller);
  bool spend() {
    exhausted_ = exhausted_ || spent_ == scope_.most;
    if (!exhausted_) ++spent_;
    return !exhausted_;
  }

  const FileLocks* const home_;
  const Registry& registry_;
  const Scope scope_;
  std::vector<std::shared_ptr<Waiter>> waiters_;  ///< of the node that is being left
  std::unordered_map<const FileLocks*, File> files_;
  std::uint64_t spent_ = 0;
  std::uint64_t looks_ = 0;
  bool exhausted_ = false;
};

}  // namespace lockmgr
