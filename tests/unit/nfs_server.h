// What the kernel tells of its NFS server, in a folder of the test's, with a process that passes
// for one of the server's threads.
#pragma once

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <thread>

#include "fs/nfs/server_grace.h"

namespace lockfs::testing {

using namespace std::chrono_literals;

constexpr auto kNever = 100s;  // longer than a test takes

inline bool eventually(const std::function<bool()>& condition) {
  const auto end = std::chrono::steady_clock::now() + 60s;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::sleep_for(1ms);
  }
  return true;
}

class NfsServer : public ::testing::Test {
 protected:
  NfsServer() {
    std::filesystem::create_directories(folder_ + "/nfsd");
    std::filesystem::create_directories(folder_ + "/lockd");
  }
  ~NfsServer() override {
    end_thread();
    std::filesystem::remove_all(folder_);
  }

  /// A process that passes for a thread of the server.
  void begin_thread() {
    thread_ = ::fork();
    ASSERT_GE(thread_, 0);
    if (thread_ == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      ::prctl(PR_SET_NAME, "nfsd");
      while (true) ::pause();
    }
    const std::string comm = "/proc/" + std::to_string(thread_) + "/comm";
    EXPECT_TRUE(eventually([&] {
      std::string name;
      std::ifstream(comm) >> name;
      return name == "nfsd";
    }));
  }
  void end_thread() {
    if (thread_ <= 0) return;
    ::kill(thread_, SIGKILL);
    ::waitpid(thread_, nullptr, 0);
    thread_ = 0;
  }
  void put(const std::string& name, const std::string& text) {
    std::ofstream(folder_ + "/new") << text << "\n";
    std::filesystem::rename(folder_ + "/new", folder_ + "/" + name);
  }
  void serve(bool grace = false) {
    put("nfsd/v4_end_grace", grace ? "N" : "Y");
    put("nfsd/threads", "8");
  }
  ServerGrace::Settings settings(ServerGrace::Clock::duration absence = kNever,
                                 bool awaited = false) {
    return {absence, awaited, folder_};
  }

  const std::string folder_ = "server." + std::to_string(::getpid());
  std::atomic<int> told_{0};  ///< calls of on_settled
  const std::function<void()> tell_ = [this] { ++told_; };
  pid_t thread_ = 0;
};

}  // namespace lockfs::testing
