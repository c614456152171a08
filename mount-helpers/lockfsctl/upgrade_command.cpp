// lockfsctl upgrade: the installed program takes over running mounts.
#include <fmt/format.h>

#include <chrono>
#include <iostream>
#include <thread>

#include "mount-helpers/lockfsctl/client.h"

namespace lockfs::ctl {

namespace {

/// The mount as the next daemon has it. Throws Error when none comes.
MountInfo wait_for_next(const MountInfo& before) {
  constexpr auto kPause = std::chrono::milliseconds(10);
  constexpr auto kPatience = std::chrono::seconds(30);
  const auto end = std::chrono::steady_clock::now() + kPatience;
  while (std::chrono::steady_clock::now() < end) {
    try {
      const Client client(before.socket);
      if (client.mount().generation > before.generation) return client.mount();
    } catch (const Error&) {
      // It was the old one that listened, or the new one has not got so far.
    }
    std::this_thread::sleep_for(kPause);
  }
  throw Error(fmt::format("{}: no daemon answers after {} s; see its log", before.mountpoint,
                          kPatience.count()));
}

int upgrade(const Globals& globals, const std::string& path) {
  int status = 0;
  for (Target& target : find_targets(globals, path)) {
    const MountInfo before = target.client.mount();
    try {
      try {
        target.client.call("upgrade");
      } catch (const Closed&) {
        // The old daemon was ended before it could answer.
      }
      const MountInfo now = wait_for_next(before);
      if (now.program_since <= before.generation) {
        throw Error(
            "the installed program could not take over, and the old one goes on; see the log");
      }
      std::cout << fmt::format("{}: lockfs {} has taken over from {} after {:.1f} ms\n",
                               now.mountpoint, now.version, before.version, now.last_gap_ms);
    } catch (const Error& error) {
      std::cerr << fmt::format("lockfsctl: {}: {}\n", before.mountpoint, error.what());
      status = 1;
    }
  }
  return status;
}

}  // namespace

void add_upgrade(CLI::App& app, const Globals& globals, Run& run) {
  auto* sub = app.add_subcommand("upgrade",
                                 "Have the program that is installed now take over running mounts");
  auto path = std::make_shared<std::string>();
  sub->add_option("MOUNT", *path, "A mount point or source (default: all mounts)");
  sub->callback(
      [&globals, &run, path] { run = [&globals, path] { return upgrade(globals, *path); }; });
}

}  // namespace lockfs::ctl
