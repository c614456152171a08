/// Traces in files.
#pragma once

#include <string>

#include "lockmgr/trace/trace.h"

namespace replay {

/// Reads a trace ("-": standard input) into `trace`. `partial`: what precedes damage is enough.
/// Returns an empty string, or one line that names the file and what is wrong; with `partial` a
/// line that begins with "note:" is only a warning.
std::string read_trace(const std::string& path, bool partial, lockmgr::trace::Trace& trace);

/// Writes `bytes` to a new or emptied file ("-": standard output). Returns an empty string, or one
/// line that says what failed.
std::string write_whole_file(const std::string& path, const std::string& bytes);

}  // namespace replay
