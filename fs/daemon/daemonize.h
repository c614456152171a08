/// Runs the daemon in the foreground or the background and tells the caller how its start went.
///
/// Not thread-safe: called once, from main(), before any thread is started.
///   1. The command returns only when the mount is usable or has failed; a failure is always told
///      with one line, even when the daemon dies without a word.
///   2. Once the mount is usable, the background daemon holds nothing of its caller: no terminal,
///      no working directory, no descriptor.
#pragma once

#include <array>
#include <functional>
#include <string>

namespace lockfs {

/// Called once, or again by a daemon that follows one that died meanwhile: with an empty string
/// when the mount is usable, else with the reason.
using ReadyFunction = std::function<void(const std::string& error)>;
/// Mounts and serves until unmounted; returns the exit status.
using ServeFunction = std::function<int(const ReadyFunction& on_ready)>;

/// Opens /dev/null for those of the descriptors 0 to 2 that are closed, so that no file opened
/// later takes their place, and undoes signal settings a caller may have left behind (a blocked
/// SIGTERM, an ignored SIGCHLD). SIGPIPE, SIGXFSZ, SIGIO and SIGUSR1 are ignored, limits on the
/// size of files and on CPU time lifted as far as allowed. Returns whether that worked.
bool settle_process();

/// Where a process in the background tells the one that started it how the start went.
inline constexpr std::array<int, 2> kReportDescriptors{3, 4};

/// Calls `serve` here. Returns its exit status. A service manager that waits for the mount
/// (sd_notify(3)) is told when it is usable.
int run_in_foreground(const ServeFunction& serve);

/// Forks and calls `serve` in the child; returns in both. In the parent the result is 0 when the
/// child has reported success, else 1 and the reason is on standard error; interrupting the parent
/// ends the child. In the child it's the result of `serve`. `keep_stderr`: leave the child's
/// standard error alone when the mount is ready, for a log that goes there.
int run_in_background(const ServeFunction& serve, bool keep_stderr);

}  // namespace lockfs
