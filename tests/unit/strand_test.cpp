// Tasks of a strand: one at a time, in order, none lost, from many threads and from within a task.
// ctest: links=lockfs_base
#include "fs/base/strand.h"

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <functional>
#include <thread>
#include <vector>

namespace lockfs {
namespace {

TEST(StrandTest, RunsATaskAtOnceWhenIdle) {
  Strand strand;
  int ran = 0;
  strand.run([&] { ++ran; });
  EXPECT_EQ(ran, 1);
  EXPECT_TRUE(strand.run_if_idle([&] { ++ran; }));
  EXPECT_EQ(ran, 2);
}

TEST(StrandTest, ATaskWithinATaskComesAfterIt) {
  Strand strand;
  std::vector<int> order;
  strand.run([&] {
    strand.run([&] { order.push_back(2); });
    strand.run([&] { order.push_back(3); });
    EXPECT_FALSE(strand.run_if_idle([&] { order.push_back(9); }));
    order.push_back(1);
  });
  EXPECT_EQ(order, (std::vector<int>{1, 2, 3}));
  EXPECT_TRUE(strand.run_if_idle([&] { order.push_back(4); }));
  EXPECT_EQ(order, (std::vector<int>{1, 2, 3, 4}));
}

// The counters are plain ones: they come out wrong when two tasks run at once.
TEST(StrandTest, ManyThreads) {
  constexpr int kThreads = 4;
  constexpr int kRounds = 20000;
  Strand strand;
  int total = 0;
  int running = 0;
  bool overlapped = false;
  bool disordered = false;
  std::array<int, kThreads> last{};  // by thread: the number of its last task that ran
  std::atomic<int> at_once{0};       // run by run_if_idle()
  const auto task = [&](std::size_t thread, int round) {
    overlapped = overlapped || ++running != 1;
    // Those of one thread enter one after the other.
    disordered = disordered || last[thread] >= round;
    last[thread] = round;
    ++total;
    --running;
  };
  std::vector<std::thread> threads;
  for (std::size_t thread = 0; thread < kThreads; ++thread) {
    threads.emplace_back([&, thread] {
      for (int round = 1; round <= kRounds; ++round) {
        if (round % 2 == 0 && strand.run_if_idle([&] { task(thread, round); })) {
          at_once.fetch_add(1);
          continue;
        }
        strand.run([&task, thread, round] { task(thread, round); });
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(total, kThreads * kRounds);
  EXPECT_FALSE(overlapped);
  EXPECT_FALSE(disordered);
  EXPECT_GT(at_once.load(), 0);
  // Nothing was left behind.
  EXPECT_TRUE(strand.run_if_idle([] {}));
}

}  // namespace
}  // namespace lockfs
