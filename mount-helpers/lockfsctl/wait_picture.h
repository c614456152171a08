/// The wait-for graph of one or more mounts as people see it: processes, and who waits for whom.
///
/// Thread safety: none; plain data.
///
/// Invariants:
///  1. Edges name nodes that exist; no two edges are equal.
#pragma once

#include <string>
#include <vector>

#include "mount-helpers/lockfsctl/snapshot.h"

namespace lockfs::ctl {

class WaitPicture {
 public:
  struct Node {
    std::string key;   ///< what makes it the same node
    std::string name;  ///< "cat (pid 12)"
    bool outside = false;
  };
  struct Edge {
    std::size_t waiter;
    std::size_t holder;
    std::string what;  ///< "exclusive flock 0-EOF"
    std::string time;  ///< "3s"
    std::string path;
    bool queued = false;  ///< waits for its turn behind a request, not for a lock
  };

  /// Adds everybody who waits, and those they wait for.
  void add(const Snapshot& snapshot);

  [[nodiscard]] const std::vector<Node>& nodes() const { return nodes_; }
  [[nodiscard]] const std::vector<Edge>& edges() const { return edges_; }

  /// As an indented tree for each node that waits for nobody; cycles are marked.
  [[nodiscard]] std::string text() const;
  [[nodiscard]] std::string dot() const;
  [[nodiscard]] std::string svg() const;

 private:
  std::size_t node_of(const Record& record, const Snapshot& snapshot);
  void connect(const Snapshot& s, const Record& wait, const Record& holder, bool queued);
  void print_tree(std::size_t node, const std::string& indent, std::vector<bool>& path,
                  std::vector<bool>& seen, std::string& out) const;
  [[nodiscard]] std::vector<std::size_t> layers() const;

  std::vector<Node> nodes_;
  std::vector<Edge> edges_;
};

}  // namespace lockfs::ctl
