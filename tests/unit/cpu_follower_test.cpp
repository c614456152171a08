/// The thread that follows a client to its CPU: when it is bound there, and that it is set free
/// again in every way that must.
// ctest: links=lockfs_loop

#include "fs/loop/cpu_follower.h"

#include <gtest/gtest.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <thread>

namespace lockfs {
namespace {

using namespace std::chrono_literals;

bool is_free() {
  cpu_set_t own;
  cpu_set_t all;
  EXPECT_EQ(sched_getaffinity(0, sizeof own, &own), 0);
  EXPECT_EQ(sched_getaffinity(getpid(), sizeof all, &all), 0);
  return sched_getscheduler(0) == SCHED_OTHER && CPU_EQUAL(&own, &all);
}

/// Runs on a thread of its own: the first one of the process is never bound.
class CpuFollowerTest : public ::testing::Test {
 protected:
  template <typename Body>
  static void on_a_thread(const Body& body) {
    std::thread(body).join();
  }

  void SetUp() override { follower_.start(); }

  /// A request of `caller` so long after the one before it, and the look that it may begin.
  bool note(pid_t caller, CpuFollower::Clock::duration after) {
    now_ += after;
    const bool bound = follower_.note(caller, now_);
    while (follower_.looks()) std::this_thread::yield();
    return bound;
  }

  /// Asks as a client does that was on the same CPU and is on another now, at most so often, until
  /// the calling thread is bound.
  bool bind() {
    for (int i = 0; i < 10; ++i) note(caller_, 4us);
    for (int i = 0; i < 10; ++i) {
      if (note(caller_, 60us)) return true;
    }
    return false;
  }

  CpuFollower follower_{+[]() noexcept { return busy; }};
  static inline bool busy = false;
  const pid_t caller_ = getpid();
  CpuFollower::Clock::time_point now_ = CpuFollower::Clock::now();
};

TEST_F(CpuFollowerTest, SlowRequestsOfOneClientBind) {
  on_a_thread([this] {
    EXPECT_TRUE(is_free());
    ASSERT_TRUE(bind());
    EXPECT_TRUE(follower_.binds());
    EXPECT_EQ(sched_getscheduler(0), SCHED_IDLE);
    cpu_set_t own;
    ASSERT_EQ(sched_getaffinity(0, sizeof own, &own), 0);
    EXPECT_EQ(CPU_COUNT(&own), 1);
  });
}

TEST_F(CpuFollowerTest, OthersSeeHowMuchTheBoundThreadHasRun) {
  on_a_thread([this] {
    ASSERT_TRUE(bind());
    const auto own_time = [] {
      timespec time{};
      EXPECT_EQ(clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time), 0);
      return std::chrono::seconds(time.tv_sec) + std::chrono::nanoseconds(time.tv_nsec);
    };
    const auto begun = own_time();
    while (own_time() - begun < 5ms) {
    }
    const auto ran = own_time();
    on_a_thread([&] {
      EXPECT_GE(follower_.cpu_time(), ran);
      EXPECT_LT(follower_.cpu_time(), ran + 5s);
    });
    follower_.set_free();
  });
}

TEST_F(CpuFollowerTest, ASlowOneAmongQuickOnesDoesNot) {
  on_a_thread([this] {
    for (int i = 0; i < 1000; ++i) EXPECT_FALSE(note(caller_, i % 2 == 0 ? 4us : 60us));
    EXPECT_TRUE(is_free());
  });
}

TEST_F(CpuFollowerTest, WhatTakesLongItselfIsNotSlowToCome) {
  for (const auto long_time : {200us, 2000us}) {
    on_a_thread([&] {
      const auto carry_out = [&] {
        now_ += long_time;
        if (follower_.wants_end()) follower_.answered(now_);
      };
      for (int i = 0; i < 1000; ++i) {
        EXPECT_FALSE(note(caller_, 4us));
        carry_out();
      }
      EXPECT_TRUE(is_free());
      // Nor does it hide what is.
      bool bound = false;
      for (int i = 0; i < 10 && !bound; ++i) {
        bound = note(caller_, 60us);
        carry_out();
      }
      EXPECT_TRUE(bound);
      for (int i = 0; i < 1000; ++i) {
        note(caller_, 4us);
        carry_out();
      }
      EXPECT_TRUE(follower_.binds());
      follower_.set_free();
    });
  }
}

/// To answer wakes the client on another CPU, which takes so long that the next request is there at
/// once: every other one looks quick.
TEST_F(CpuFollowerTest, WhatComesWhileAnotherCpuIsWokenIsNotQuick) {
  on_a_thread([this] {
    bool bound = false;
    for (int i = 0; i < 10 && !bound; ++i) {
      bound = note(caller_, i % 2 == 0 ? 60us : 1us);
      now_ += 70us;
      if (follower_.wants_end()) follower_.answered(now_);
    }
    EXPECT_TRUE(bound);
  });
}

/// Among requests that take long themselves, too: many that come at once between hiccups show that
/// it helps.
TEST_F(CpuFollowerTest, NowAndThenASlowOneDoesNotEndIt) {
  for (const auto long_time : {0us, 300us}) {
    on_a_thread([&] {
      ASSERT_TRUE(bind());
      for (int i = 0; i < 1000; ++i) {
        note(caller_, i % 40 == 0 ? 60us : 4us);
        now_ += long_time;
        if (follower_.wants_end()) follower_.answered(now_);
        ASSERT_TRUE(follower_.binds()) << i;
      }
      follower_.set_free();
    });
  }
}

TEST_F(CpuFollowerTest, NoneDoesOnABusyMachine) {
  on_a_thread([this] {
    busy = true;
    EXPECT_FALSE(bind());
    EXPECT_TRUE(is_free());
    busy = false;
    EXPECT_TRUE(bind());
  });
}

TEST_F(CpuFollowerTest, SeesWhetherOthersRun) {
  std::atomic<bool> begun{false};
  std::atomic<bool> end{false};
  std::thread other([&] {
    for (begun = true; !end;) {
    }
  });
  while (!begun) std::this_thread::yield();
  // Both of these can run, on one CPU or two.
  EXPECT_TRUE(CpuFollower::others_run());
  end = true;
  other.join();
}

TEST_F(CpuFollowerTest, SeveralClientsDoNot) {
  on_a_thread([this] {
    for (int i = 0; i < 1000; ++i) {
      EXPECT_FALSE(note(caller_ + i % 2, 60us));
    }
    EXPECT_TRUE(is_free());
  });
}

TEST_F(CpuFollowerTest, AnotherClientEndsIt) {
  on_a_thread([this] {
    ASSERT_TRUE(bind());
    EXPECT_FALSE(note(caller_ + 1, 4us));
    EXPECT_FALSE(follower_.binds());
    EXPECT_TRUE(is_free());
  });
}

TEST_F(CpuFollowerTest, APauseOfTheClientEndsIt) {
  on_a_thread([this] {
    ASSERT_TRUE(bind());
    EXPECT_FALSE(note(caller_, 2ms));
    EXPECT_TRUE(is_free());
  });
}

TEST_F(CpuFollowerTest, WhatDoesNotHelpEnds) {
  on_a_thread([this] {
    ASSERT_TRUE(bind());
    for (int i = 0; i < 20; ++i) note(caller_, 60us);
    EXPECT_TRUE(is_free());
    now_ += 50ms;  // but it is not given up for ever
    EXPECT_TRUE(bind());
  });
}

TEST_F(CpuFollowerTest, WhoLooksAfterItStaysOffItsCpu) {
  std::atomic<bool> looks{false};
  std::atomic<bool> over{false};
  std::thread keeper([&] {
    follower_.look_after();
    looks = true;
    while (!over) std::this_thread::sleep_for(1ms);
    cpu_set_t all;
    cpu_set_t own;
    EXPECT_EQ(sched_getaffinity(getpid(), sizeof all, &all), 0);
    EXPECT_EQ(sched_getaffinity(0, sizeof own, &own), 0);
    EXPECT_EQ(CPU_COUNT(&own), std::max(CPU_COUNT(&all) - 1, 1));
    follower_.rest();
    EXPECT_TRUE(is_free());
  });
  on_a_thread([&] {
    while (!looks) std::this_thread::sleep_for(1ms);
    EXPECT_TRUE(bind());
  });
  over = true;
  keeper.join();
}

TEST_F(CpuFollowerTest, AnotherThreadSetsItFree) {
  on_a_thread([this] {
    ASSERT_TRUE(bind());
    on_a_thread([this] { follower_.set_free(); });
    EXPECT_TRUE(is_free());
  });
}

TEST_F(CpuFollowerTest, NotBoundForSomeTimeAfterARescue) {
  on_a_thread([this] {
    ASSERT_TRUE(bind());
    on_a_thread([this] { follower_.rescue(now_); });
    EXPECT_TRUE(is_free());
    EXPECT_FALSE(bind());
    EXPECT_TRUE(is_free());
    now_ += 50ms;
    EXPECT_TRUE(bind());
  });
}

TEST_F(CpuFollowerTest, AThreadStartedByABoundOneIsFree) {
  on_a_thread([this] {
    ASSERT_TRUE(bind());
    on_a_thread([] {
      EXPECT_FALSE(is_free());
      CpuFollower::start_free();
      EXPECT_TRUE(is_free());
    });
    EXPECT_FALSE(is_free());
  });
}

}  // namespace
}  // namespace lockfs
