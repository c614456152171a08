#include "lockmgr/wait_graph.h"

#include <algorithm>
#include <unordered_map>

namespace lockmgr {

std::vector<WaitGraph::Node> WaitGraph::find_path(Source& source, const std::vector<Node>& starts,
                                                  std::span<const Node> goals) {
  // Breadth first, remembering where each node was reached from; a start was reached from itself.
  std::unordered_map<Node, Node> reached_from;
  std::vector<Node> frontier;
  const auto reach = [&](Node node, Node from) {
    if (reached_from.emplace(node, from).second) frontier.push_back(node);
  };
  for (const Node start : starts) reach(start, start);

  std::vector<Node> edges;
  std::size_t next = 0;
  while (next < frontier.size()) {
    const Node node = frontier[next++];
    if (std::find(goals.begin(), goals.end(), node) != goals.end()) {
      std::vector<Node> path{node};
      for (Node at = node; reached_from.at(at) != at;) path.push_back(at = reached_from.at(at));
      std::reverse(path.begin(), path.end());
      return path;
    }
    edges.clear();
    source.waits_for(node, edges);
    for (const Node to : edges) reach(to, node);
  }
  return {};
}

}  // namespace lockmgr
