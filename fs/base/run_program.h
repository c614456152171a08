/// Runs a short program and reads what it says.
///
/// Thread safety: a function without state.
#pragma once

#include <chrono>
#include <string>
#include <vector>

namespace lockfs {

struct ProgramRun {
  int error = 0;       ///< errno: it could not be started
  bool ended = false;  ///< in time; else it was killed
  int status = 0;      ///< as waitpid(2) has it
  std::string said;    ///< what it wrote, some thousand bytes at most, without the last newlines
};

/// `words`: the program's path and its arguments. `descriptor`: which of its output is read, for
/// example STDERR_FILENO; for the rest it has what this process has. Blocks until it has closed
/// that, or for so long. May throw std::bad_alloc.
[[nodiscard]] ProgramRun run_program(std::vector<std::string> words, int descriptor,
                                     std::chrono::milliseconds patience);

}  // namespace lockfs
