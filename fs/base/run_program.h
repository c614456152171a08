/// Runs a short program and reads what it says.
///
/// Thread safety: a function without state.
#pragma once

#include <chrono>
#include <string>
#include <vector>

namespace lockfs {

struct ProgramRun {
  int error = 0;     ///< errno: it could not be started; ETIMEDOUT: it did not end in time
  int status = 0;    ///< as waitpid(2) has it
  std::string said;  ///< what it wrote, some thousand bytes at most, without the last newlines
};

/// `words`: the program's path and its arguments. What it writes to STDERR_FILENO is read; besides
/// the standard descriptors it gets `inherited`, if that is not -1. Blocks until it has closed
/// STDERR_FILENO, or for so long, when it is killed. May throw std::bad_alloc.
[[nodiscard]] ProgramRun run_program(std::vector<std::string> words,
                                     std::chrono::milliseconds patience, int inherited = -1);

}  // namespace lockfs
