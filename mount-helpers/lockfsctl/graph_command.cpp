// lockfsctl graph: who waits for whom.
#include <iostream>

#include "mount-helpers/lockfsctl/wait_picture.h"

namespace lockfs::ctl {

namespace {

struct GraphOptions {
  std::string path;
  bool dot = false;
  bool svg = false;
};

int graph(const Globals& globals, const GraphOptions& options) {
  WaitPicture picture;
  for (Target& target : find_targets(globals, options.path)) picture.add(take_snapshot(target));
  if (options.dot) {
    std::cout << picture.dot();
  } else if (options.svg) {
    std::cout << picture.svg();
  } else if (picture.nodes().empty()) {
    std::cout << "nobody waits\n";
  } else {
    std::cout << picture.text();
  }
  return 0;
}

}  // namespace

void add_graph(CLI::App& app, const Globals& globals, Run& run) {
  auto* sub = app.add_subcommand("graph", "Draw who waits for whom");
  auto o = std::make_shared<GraphOptions>();
  sub->add_option("PATH", o->path, "A mount point, a source or a file (default: all mounts)");
  auto* dot = sub->add_flag("--dot", o->dot, "In Graphviz' language");
  sub->add_flag("--svg", o->svg, "As an SVG picture")->excludes(dot);
  sub->callback([&globals, &run, o] { run = [&globals, o] { return graph(globals, *o); }; });
}

}  // namespace lockfs::ctl
