/// Other programs that a benchmark runs.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

namespace lockfs::bench {

/// Starts a program, looked for along PATH. With `output`, its standard output is a pipe whose read
/// end is stored there. Throws std::runtime_error when it cannot be started.
pid_t spawn(const std::vector<std::string>& command, int* output = nullptr);

/// Reads a descriptor to its end and closes it.
std::string read_all(int fd);

/// Waits for the end of a child; returns its wait status.
int wait_for(pid_t pid);

/// Runs a program with its output thrown away, that to standard error too if `silent`. Throws
/// std::runtime_error naming it unless it ends with status 0.
void run_program(const std::vector<std::string>& command, bool silent = false);

/// The process that serves a mount, with this argument on its command line: those that look after
/// it have the same, and a child. Throws std::runtime_error: there is none.
pid_t find_daemon(const std::string& argument);

/// Whether PATH leads to a program of this name.
bool has_program(const std::string& name);

}  // namespace lockfs::bench
