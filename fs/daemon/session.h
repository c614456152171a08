/// Mounts, serves and unmounts.
#pragma once

#include <functional>
#include <string>

#include "fs/base/book.h"
#include "fs/options/options.h"

namespace lockfs {

/// Mounts `options.source_path` on `options.mountpoint_path`, or goes on where a daemon that was
/// serving with the same book has died; serves until the mount is ended from outside or SIGTERM or
/// SIGINT arrives, and unmounts; SIGHUP has it reload(). Blocks meanwhile; call it once, from a
/// process without other threads. `on_ready(error)` is called exactly once unless it goes on: with
/// an empty string when the kernel's INIT was answered and the mount is usable, else with one line
/// that says why not. Returns the process's exit status, 0 or 1.
int run_session(const Options& options, Book& book,
                const std::function<void(const std::string& error)>& on_ready);

}  // namespace lockfs
