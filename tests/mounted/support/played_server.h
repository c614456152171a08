/// The kernel's NFS server as far as lockfs sees it: the files in which the kernel tells of it, in
/// an own /proc/fs of this test program, and a process that passes for its thread.
///
/// Thread safety: none; used from the one thread of the test program. Needs root.
#pragma once

#include <memory>
#include <string>

#include "tests/mounted/support/process.h"

namespace lockfs::test {

class PlayedServer {
 public:
  PlayedServer() = default;
  PlayedServer(const PlayedServer&) = delete;
  PlayedServer& operator=(const PlayedServer&) = delete;
  ~PlayedServer();

  /// Gives the test program a mount namespace of its own with another /proc/fs, of which there is
  /// no server yet. To be called before lockfs is started. Returns "" or what went wrong.
  std::string prepare();

  void start(bool grace);
  void end_grace();
  /// As the kernel does it: the threads end first, then clients' locks go.
  void stop();
  /// One thread ends and others go on.
  void restart_thread();
  /// The NLM server's own grace period.
  void lockd(bool grace);

 private:
  bool prepared_ = false;
  std::unique_ptr<Process> thread_;
};

}  // namespace lockfs::test
