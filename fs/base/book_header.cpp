#include "fs/base/book_header.h"

#include <fmt/format.h>
#include <sys/wait.h>

#include <cstring>

namespace lockfs {

std::string describe_death(int status) {
  if (!WIFSIGNALED(status)) return fmt::format("exit status {}", WEXITSTATUS(status));
  const char* const name = ::sigdescr_np(WTERMSIG(status));
  return fmt::format("killed by signal {} ({})", WTERMSIG(status),
                     name != nullptr ? name : "unknown");
}

}  // namespace lockfs
