// Threads that wait at the backing: what a wait held is let go before settle() returns.
// ctest: links=lockfs_mirror
#include "fs/mirror/wait_threads.h"

#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <thread>
#include <utility>

namespace lockfs {
namespace {

/// What a wait refers to; it takes its time to go.
struct Held {
  explicit Held(std::atomic<int>& counter) : gone(counter) {}
  Held(const Held&) = delete;
  Held& operator=(const Held&) = delete;
  ~Held() {
    for (int i = 0; i < 100; ++i) std::this_thread::yield();
    ++gone;
  }
  std::atomic<int>& gone;
};

TEST(WaitThreads, NothingIsHeldOnceSettled) {
  constexpr int kRounds = 300;
  constexpr int kWaits = 8;
  std::atomic<int> done{0};
  std::atomic<int> gone{0};
  WaitThreads threads;
  for (int round = 1; round <= kRounds; ++round) {
    for (int i = 0; i < kWaits; ++i) {
      WaitThreads::Wait wait;
      wait.id = WaitThreads::own_id();
      wait.done = [&done, held = std::make_shared<Held>(gone)](int) { ++done; };
      wait.sit = [](const std::atomic<bool>&) { return 0; };
      ASSERT_EQ(threads.start(std::move(wait)), 0);
    }
    threads.settle();
    ASSERT_EQ(done, round * kWaits);
    ASSERT_EQ(gone, round * kWaits);
  }
}

TEST(WaitThreads, SettlesWithoutAWait) {
  WaitThreads threads;
  threads.settle();
}

}  // namespace
}  // namespace lockfs
