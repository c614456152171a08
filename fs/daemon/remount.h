/// Changes a mount that is there, from outside: what `lockfs -o remount` does. The daemon, asked
/// over its control socket, changes what is its own; the kernel changes ro, nosuid and the like.
///
/// Not thread-safe. Invariant: everything asked for is checked before the first change, so that a
/// refused remount has changed nothing.
#pragma once

#include <string>

#include "fs/options/options.h"

namespace lockfs {

/// `command`: an Action::kRemount without error. Returns an empty string, or one line: what is in
/// the way and how to cure it. Blocks for seconds at most when the daemon does not answer.
std::string remount(const CommandLine& command);

}  // namespace lockfs
