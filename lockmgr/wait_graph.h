/// A search for cycles in the wait-for graph: nodes are owners, an edge leads from an owner that
/// waits to an owner whose lock it waits for. The graph is not stored; a Source produces the edges
/// of a node on demand, so nothing has to be kept up to date while locks come and go.
///
/// Thread safety: stateless. A path is certain where the Source presents one unchanging graph
/// during a search; else its edges were there at different moments.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace lockmgr {

class WaitGraph {
 public:
  using Node = std::uint64_t;
  using Nodes = std::vector<Node>;

  class Source {
   public:
    virtual ~Source() = default;
    /// Appends to `out` the nodes that `node` waits for, but for some that were handed out before;
    /// nothing when it does not wait. Repeats are harmless. May throw std::bad_alloc.
    virtual void waits_for(Node node, std::vector<Node>& out) = 0;
  };

  /// Whether one of `goals` can be reached from any of `starts`, over any number of edges (zero
  /// included). Asks the source about each node at most once. Returns the path from a start to the
  /// goal, or an empty vector. May throw std::bad_alloc.
  static std::vector<Node> find_path(Source& source, const std::vector<Node>& starts,
                                     std::span<const Node> goals);
  static std::vector<Node> find_path(Source& source, const std::vector<Node>& starts, Node goal) {
    return find_path(source, starts, {&goal, 1});
  }
};

}  // namespace lockmgr
