/// What the kernel's list of locks says of a file.
#pragma once

#include <sys/stat.h>

#include <fstream>
#include <string>

#include "fs/base/proc_locks.h"

namespace lockfs {

/// How many requests for the file wait in the kernel.
inline int waiting_lines(const std::string& path) {
  struct stat st {};
  ::stat(path.c_str(), &st);
  int found = 0;
  std::ifstream table("/proc/locks");
  for (std::string line; std::getline(table, line);) {
    const auto lock = parse_lock_line(line.c_str());
    found += lock && lock->waiting && lock->ino == st.st_ino ? 1 : 0;
  }
  return found;
}

}  // namespace lockfs
