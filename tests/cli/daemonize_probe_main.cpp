/// daemonize_probe <how>: goes into the background with a daemon that ends in some way.

#include <fcntl.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string>

#include "fs/daemon/daemonize.h"
#include "fs/options/logging.h"

namespace {

int serve(const std::string& how, const lockfs::ReadyFunction& on_ready) {
  if (how == "ready") {
    on_ready("");
    return 0;
  }
  if (how == "descriptors") {
    // None but the standard ones may still be open; the caller's pipe is number 9.
    on_ready("");
    for (int fd = STDERR_FILENO + 1; fd < 64; ++fd) {
      if (fcntl(fd, F_GETFD) >= 0) abort();
    }
    return 0;
  }
  if (how == "ready twice") {
    on_ready("");
    on_ready("too late");
    return 0;
  }
  if (how == "error") {
    on_ready("it is broken\nbadly");
    return 1;
  }
  if (how == "error with output") {
    std::fputs("some program: not allowed\n", stderr);
    on_ready("it is broken");
    return 1;
  }
  if (how == "long error") {
    on_ready(std::string(200'000, 'x'));
    return 1;
  }
  if (how == "silent") return 0;
  if (how == "silent with output") {
    std::fputs("one\ntwo\n", stderr);
    return 3;
  }
  if (how == "killed") raise(SIGKILL);
  if (how == "throws") throw std::runtime_error("out of luck");
  if (how == "hangs") {
    std::fputs("hanging\n", stdout);
    std::fflush(stdout);
    while (true) pause();
  }
  return 99;
}

}  // namespace

int main(int argc, char* argv[]) {
  if (argc != 2 || !lockfs::settle_process()) return 99;
  const std::string how = argv[1];
  try {
    return lockfs::run_in_background(
        [&how](const lockfs::ReadyFunction& on_ready) { return serve(how, on_ready); }, false);
  } catch (const std::exception& error) {
    lockfs::print_error(error.what());
    return 1;
  }
}
