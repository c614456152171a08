/// The keeper: a small process that outlives its daemon. It clones the daemon with its own table
/// of descriptors (CLONE_FILES), so that the connection to the kernel, open files and the locks on
/// the source stay when the daemon dies, however it dies; and it clones the next one, which goes on
/// with what is in the book.
///
/// The keeper is itself looked after: the first process of the mount, the standby, is its parent
/// and has nothing else to do than to clone another keeper. If the standby dies the keeper takes
/// its place, and clones a keeper in turn. Daemons of a keeper that died die with it.
///
///   standby (the process that was started) -> keeper -> daemon
///
/// Not thread-safe: called once, from a process without other threads, which opens no descriptors
/// meanwhile: the new daemon closes all that it does not know, for all of them.
///
/// Invariants:
///  1. One daemon serves at a time: the next is cloned when the last one has died, but for threads
///     that are stuck in the backing filesystem, which never reach user mode again.
///  2. A daemon that ends by itself ends them all, with its exit status; so does one that dies
///     before the mount was ready.
///  3. Daemons that die again and again at once are not tried for ever (kMostDeaths).
#pragma once

#include <functional>
#include <string>

#include "fs/base/book.h"
#include "fs/options/options.h"

namespace lockfs {

/// After so many daemons in a row that died before they had answered all that was left by the last,
/// the keeper unmounts: what kills them comes again and again. With the pauses that takes 3 s.
inline constexpr int kMostDeaths = 10;

/// Calls `serve`, which mounts (the first time) or goes on, in a process of its own for as long as
/// one is needed. `on_failed`: told in one line why the start failed, if the daemon could not.
/// SIGTERM, SIGINT, SIGHUP and SIGQUIT are passed on. SIGUSR2 to the first process: the program at
/// BookHeader::program takes over, with Options::arguments (BookHeader::upgrading was set); if that
/// cannot be run, or ends before it has a keeper, this one goes on. Returns the exit status.
int keep_daemon(Book& book, const Options& options, const std::function<int()>& serve,
                const std::function<void(const std::string& error)>& on_failed);

/// Ends the mount when no libfuse session of this process has made it.
void end_mount(const Options& options, int fuse_fd) noexcept;

}  // namespace lockfs
