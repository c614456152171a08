#include "tests/mounted/support/played_server.h"

#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <thread>

#include "tests/mounted/support/mounted.h"

namespace lockfs::test {

namespace {

/// Nobody sees it half-written.
void put(const std::string& name, const std::string& text) {
  const std::string path = "/proc/fs/" + name;
  EXPECT_TRUE(write_file(path + ".new", text + "\n"));
  EXPECT_EQ(std::rename((path + ".new").c_str(), path.c_str()), 0);
}

}  // namespace

PlayedServer::~PlayedServer() {
  thread_.reset();
  if (prepared_) ::umount2("/proc/fs", MNT_DETACH);
}

std::string PlayedServer::prepare() {
  if (::unshare(CLONE_NEWNS) != 0 ||
      ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
      ::mount("tmpfs", "/proc/fs", "tmpfs", 0, nullptr) != 0) {
    return std::string("cannot put something in place of /proc/fs: ") + std::strerror(errno);
  }
  prepared_ = true;
  for (const char* folder : {"/proc/fs/nfsd", "/proc/fs/lockd"}) ::mkdir(folder, 0755);
  lockd(false);
  return {};
}

void PlayedServer::start(bool grace) {
  put("nfsd/v4_end_grace", grace ? "N" : "Y");
  restart_thread();
  put("nfsd/threads", "8");
}

void PlayedServer::end_grace() { put("nfsd/v4_end_grace", "Y"); }

void PlayedServer::stop() {
  thread_.reset();
  put("nfsd/threads", "0");
}

void PlayedServer::restart_thread() {
  thread_.reset();
  thread_ = std::make_unique<Process>([]() -> int {
    ::prctl(PR_SET_NAME, "nfsd");
    while (true) ::pause();
  });
  const std::string comm = "/proc/" + std::to_string(thread_->pid()) + "/comm";
  const auto end = std::chrono::steady_clock::now() + deadline();
  while (read_file(comm) != "nfsd\n" && std::chrono::steady_clock::now() < end) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

void PlayedServer::lockd(bool grace) { put("lockd/nlm_end_grace", grace ? "N" : "Y"); }

}  // namespace lockfs::test
