#include "mount-helpers/lockfsctl/wait_picture.h"

#include <fmt/format.h>

#include <algorithm>

#include "mount-helpers/lockfsctl/text.h"

namespace lockfs::ctl {

namespace {

std::string escaped(const std::string& text, const std::vector<std::pair<char, const char*>>& map) {
  std::string out;
  for (const char c : printable(text)) {
    const auto it =
        std::find_if(map.begin(), map.end(), [c](const auto& e) { return e.first == c; });
    if (it != map.end()) {
      out += it->second;
    } else {
      out += c;
    }
  }
  return out;
}

std::string for_dot(const std::string& text) {
  return escaped(text, {{'"', "\\\""}, {'\\', "\\\\"}});
}

std::string for_xml(const std::string& text) {
  return escaped(text, {{'&', "&amp;"}, {'<', "&lt;"}, {'>', "&gt;"}, {'"', "&quot;"}});
}

std::string what_of(const Record& wait) {
  return fmt::format("{} {} {}", wait.exclusive ? "exclusive" : "shared", wait.type,
                     range_text(wait));
}

std::string time_of(const Record& wait) {
  return wait.seconds ? duration_text(*wait.seconds) : std::string("?");
}

}  // namespace

std::size_t WaitPicture::node_of(const Record& r, const Snapshot& s) {
  // A process is one node, whichever of its open files it locks through.
  std::string key = r.pid > 0 ? fmt::format("pid {}", r.pid) : s.mount.mountpoint + r.owner;
  if (r.pid <= 0 && r.outside) key = fmt::format("outside {} {}", s.mount.mountpoint, r.file);
  const auto it =
      std::find_if(nodes_.begin(), nodes_.end(), [&](const Node& n) { return n.key == key; });
  if (it != nodes_.end()) return static_cast<std::size_t>(it - nodes_.begin());
  std::string name = r.outside ? "somebody outside" : "unknown";
  if (r.pid > 0) name = fmt::format("{} (pid {})", r.command.empty() ? "gone" : r.command, r.pid);
  if (!r.client.empty()) name = "NFS client " + r.client;
  nodes_.push_back({std::move(key), std::move(name), r.outside});
  return nodes_.size() - 1;
}

void WaitPicture::connect(const Snapshot& s, const Record& wait, const Record& holder,
                          bool queued) {
  const std::size_t from = node_of(wait, s);
  Edge edge{from,          node_of(holder, s),      what_of(wait),
            time_of(wait), s.files[wait.file].path, queued};
  const bool known = std::any_of(edges_.begin(), edges_.end(), [&](const Edge& e) {
    return e.waiter == edge.waiter && e.holder == edge.holder && e.what == edge.what &&
           e.path == edge.path;
  });
  if (!known) edges_.push_back(std::move(edge));
}

void WaitPicture::add(const Snapshot& s) {
  for (const Record& wait : s.waits) {
    bool connected = false;
    for (const Record& lock : s.locks) {
      if (!s.stands_in_the_way(lock, wait)) continue;
      connect(s, wait, lock, false);
      connected = true;
    }
    for (const Record& other : s.waits) {
      if (connected) break;  // the queue matters once no lock is in the way
      if (wait.ahead == 0 || other.ticket != wait.ahead) continue;
      connect(s, wait, other, true);
      connected = true;
    }
    if (!connected) node_of(wait, s);
  }
}

// -- text -----------------------------------------------------------------------------------------

void WaitPicture::print_tree(std::size_t node, const std::string& indent, std::vector<bool>& path,
                             std::vector<bool>& seen, std::string& out) const {
  seen[node] = true;
  path[node] = true;
  std::vector<const Edge*> waiters;
  for (const Edge& e : edges_) {
    if (e.holder == node) waiters.push_back(&e);
  }
  for (const Edge* e : waiters) {
    const bool last = e == waiters.back();
    out += fmt::format("{}{}{} waits {} for {} of {}{}{}\n", indent, last ? "`-- " : "|-- ",
                       nodes_[e->waiter].name, e->time, e->what, printable(e->path),
                       e->queued ? " (queued)" : "", path[e->waiter] ? " (a cycle)" : "");
    if (!path[e->waiter]) {
      print_tree(e->waiter, indent + (last ? "    " : "|   "), path, seen, out);
    }
  }
  path[node] = false;
}

std::string WaitPicture::text() const {
  std::string out;
  std::vector<bool> seen(nodes_.size());
  std::vector<bool> path(nodes_.size());
  const auto print = [&](std::size_t node) {
    out += printable(nodes_[node].name) + (nodes_[node].outside ? ", outside\n" : "\n");
    print_tree(node, "", path, seen, out);
  };
  for (std::size_t i = 0; i < nodes_.size(); ++i) {
    if (std::none_of(edges_.begin(), edges_.end(), [i](const Edge& e) { return e.waiter == i; })) {
      print(i);
    }
  }
  // What is left waits in a circle.
  for (std::size_t i = 0; i < nodes_.size(); ++i) {
    if (!seen[i]) print(i);
  }
  return out;
}

// -- pictures -------------------------------------------------------------------------------------

std::string WaitPicture::dot() const {
  std::string out = "digraph locks {\n  rankdir=LR;\n  node [shape=box];\n";
  for (std::size_t i = 0; i < nodes_.size(); ++i) {
    out += fmt::format("  n{} [label=\"{}\"{}];\n", i, for_dot(nodes_[i].name),
                       nodes_[i].outside ? ", style=dashed" : "");
  }
  for (const Edge& e : edges_) {
    out += fmt::format("  n{} -> n{} [label=\"{}\\n{}\"{}];\n", e.waiter, e.holder, for_dot(e.what),
                       for_dot(e.path), e.queued ? ", style=dotted" : "");
  }
  return out + "}\n";
}

/// How many waits away from one who waits for nobody; within cycles some order.
std::vector<std::size_t> WaitPicture::layers() const {
  std::vector<std::size_t> layer(nodes_.size());
  for (std::size_t round = 0; round < nodes_.size(); ++round) {
    bool changed = false;
    for (const Edge& e : edges_) {
      const std::size_t wanted = std::min(layer[e.holder] + 1, nodes_.size() - 1);
      if (e.waiter == e.holder || layer[e.waiter] >= wanted) continue;
      layer[e.waiter] = wanted;
      changed = true;
    }
    if (!changed) break;
  }
  // A cycle drives its nodes up; take out the empty layers.
  std::vector<std::size_t> used = layer;
  std::sort(used.begin(), used.end());
  used.erase(std::unique(used.begin(), used.end()), used.end());
  for (std::size_t& l : layer) {
    l = static_cast<std::size_t>(std::lower_bound(used.begin(), used.end(), l) - used.begin());
  }
  return layer;
}

std::string WaitPicture::svg() const {
  constexpr int kBoxWidth = 200;
  constexpr int kBoxHeight = 36;
  constexpr int kStepX = 500;
  constexpr int kStepY = 80;
  constexpr int kMargin = 20;
  const std::vector<std::size_t> layer = layers();
  std::vector<int> filled(nodes_.size() + 1);
  std::vector<std::pair<int, int>> at(nodes_.size());
  int width = kBoxWidth;
  int height = kBoxHeight;
  for (std::size_t i = 0; i < nodes_.size(); ++i) {
    at[i] = {kMargin + static_cast<int>(layer[i]) * kStepX, kMargin + filled[layer[i]]++ * kStepY};
    width = std::max(width, at[i].first + kBoxWidth);
    height = std::max(height, at[i].second + kBoxHeight);
  }
  std::string out = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0}\" height=\"{1}\" viewBox=\"0 0 {0} "
      "{1}\" font-family=\"sans-serif\" font-size=\"12\">\n"
      "<defs><marker id=\"tip\" markerWidth=\"10\" markerHeight=\"8\" refX=\"10\" refY=\"4\" "
      "orient=\"auto\"><path d=\"M0,0 L10,4 L0,8 z\"/></marker></defs>\n"
      "<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n",
      width + kMargin, height + kMargin);
  for (const Edge& e : edges_) {
    const auto [x1, y1] = at[e.waiter];
    const auto [x2, y2] = at[e.holder];
    // From the side that looks at the holder to the side that looks at the waiter.
    const bool leftwards = x2 < x1;
    const int from_x = leftwards ? x1 : x1 + kBoxWidth;
    const int to_x = leftwards ? x2 + kBoxWidth : x2 + (x1 == x2 ? kBoxWidth : 0);
    const int from_y = y1 + kBoxHeight / 2;
    const int to_y = y2 + kBoxHeight / 2;
    out += fmt::format(
        "<path d=\"M{},{} L{},{}\" stroke=\"black\"{} fill=\"none\" marker-end=\"url(#tip)\"/>\n",
        from_x, from_y, to_x, to_y, e.queued ? " stroke-dasharray=\"4\"" : "");
    out += fmt::format(
        "<text x=\"{0}\" y=\"{1}\" text-anchor=\"middle\">{2}</text>\n"
        "<text x=\"{0}\" y=\"{3}\" text-anchor=\"middle\" fill=\"#555\">{4}</text>\n",
        (from_x + to_x) / 2, (from_y + to_y) / 2 - 5, for_xml(e.what + ", " + e.time),
        (from_y + to_y) / 2 + 13, for_xml(e.path));
  }
  for (std::size_t i = 0; i < nodes_.size(); ++i) {
    out += fmt::format(
        "<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" rx=\"4\" fill=\"{}\" "
        "stroke=\"black\"/>\n<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n",
        at[i].first, at[i].second, kBoxWidth, kBoxHeight,
        nodes_[i].outside ? "#fde8c8" : (layer[i] == 0 ? "#d6ecd2" : "#f6f6f6"),
        at[i].first + kBoxWidth / 2, at[i].second + kBoxHeight / 2 + 4, for_xml(nodes_[i].name));
  }
  return out + "</svg>\n";
}

}  // namespace lockfs::ctl
