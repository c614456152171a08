// The watchdog of the request loop, look by look: when it has the leader overtaken, when it sets it
// free, how long it pauses, and when it sleeps.
// ctest: links=lockfs_loop
#include "fs/loop/watchdog.h"

#include <gtest/gtest.h>

#include <vector>

namespace lockfs {
namespace {

using namespace std::chrono_literals;
using Phase = LeadState::Phase;

class PlayedLoop final : public Watchdog::Loop {
 public:
  bool request_waits() const override { return waits; }
  bool binds() const override { return bound; }
  std::chrono::nanoseconds cpu_time() const override { return ran; }
  void overtake(std::uint64_t state) override { overtaken.push_back(state); }
  void set_free() override {
    ++freed;
    bound = false;
  }
  void rescue(Watchdog::Clock::time_point /*now*/) override {
    ++rescued;
    bound = false;
  }

  bool waits = false;
  bool bound = false;
  std::chrono::nanoseconds ran{};
  std::vector<std::uint64_t> overtaken;
  int freed = 0;
  int rescued = 0;
};

class WatchdogTest : public ::testing::Test {
 protected:
  /// Pauses as the watchdog wants and looks.
  void look(std::uint64_t count, Phase phase, bool active = false) {
    now_ += dog_.pause();
    dog_.tick(LeadState::pack(count, phase), active, now_);
  }

  PlayedLoop loop_;
  Watchdog dog_{loop_};
  Watchdog::Clock::time_point now_;
};

TEST_F(WatchdogTest, OvertakesARequestAtItsSecondLook) {
  look(1, Phase::kOvertakable);
  EXPECT_TRUE(loop_.overtaken.empty());
  look(1, Phase::kOvertakable);
  EXPECT_EQ(loop_.overtaken, std::vector{LeadState::pack(1, Phase::kOvertakable)});
}

TEST_F(WatchdogTest, LeavesALeaderAloneThatGoesOn) {
  for (std::uint64_t count = 1; count < 200; ++count) look(count, Phase::kOvertakable);
  EXPECT_TRUE(loop_.overtaken.empty());
}

TEST_F(WatchdogTest, NeverOvertakesWhatMustBeInOrder) {
  for (int i = 0; i < 200; ++i) look(1, Phase::kOrdered, true);
  EXPECT_TRUE(loop_.overtaken.empty());
}

TEST_F(WatchdogTest, SleepsWhenNothingMayBeOvertakenAndWakesAnew) {
  for (int i = 0; i < Watchdog::kIdleTicks; ++i) {
    EXPECT_TRUE(dog_.awake());
    EXPECT_EQ(dog_.pause(), Watchdog::kTick);
    look(1, Phase::kReading);
  }
  EXPECT_FALSE(dog_.awake());
  dog_.wake();
  EXPECT_TRUE(dog_.awake());
  // What it saw before its sleep was another request.
  look(1, Phase::kOvertakable);
  EXPECT_TRUE(loop_.overtaken.empty());
}

TEST_F(WatchdogTest, StaysAwakeForABoundLeaderAtASlowerPace) {
  loop_.bound = true;
  EXPECT_EQ(dog_.pause(), Watchdog::kSlowTick);
  for (std::uint64_t count = 1; count < 200; ++count) look(count, Phase::kReading);
  EXPECT_TRUE(dog_.awake());
  EXPECT_EQ(dog_.pause(), Watchdog::kSlowestTick);
  look(200, Phase::kOvertakable);
  look(201, Phase::kReading);
  EXPECT_EQ(dog_.pause(), Watchdog::kSlowTick);
  EXPECT_EQ(loop_.freed, 0);
  EXPECT_EQ(loop_.rescued, 0);
}

TEST_F(WatchdogTest, RescuesABoundLeaderThatDoesNotGetToRun) {
  loop_.bound = true;
  loop_.waits = true;
  const auto begin = now_;
  while (loop_.rescued == 0 && now_ - begin < 1s) look(1, Phase::kReading);
  EXPECT_EQ(loop_.rescued, 1);
  // The first look sees the request, the second that it waits; from there kHeldUp.
  EXPECT_LE(now_ - begin, 2 * Watchdog::kSlowTick + Watchdog::kHeldUp + Watchdog::kSlowTick);
}

TEST_F(WatchdogTest, LeavesABoundLeaderThatRuns) {
  loop_.bound = true;
  for (int i = 0; i < 20; ++i) {
    loop_.ran += dog_.pause();
    look(1, Phase::kOrdered, true);
  }
  EXPECT_EQ(loop_.rescued, 0);
  EXPECT_TRUE(loop_.bound);
}

TEST_F(WatchdogTest, SetsABoundLeaderFreeWhenNobodyAsks) {
  loop_.bound = true;
  look(1, Phase::kReading);
  for (int i = 0; i < Watchdog::kIdleTicks - 1; ++i) look(1, Phase::kReading);
  EXPECT_EQ(loop_.freed, 0);
  look(1, Phase::kReading);
  EXPECT_EQ(loop_.freed, 1);
}

}  // namespace
}  // namespace lockfs
