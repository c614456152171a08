/// Outsiders are not taken for part of a cycle that does not exist: what the mount holds for one
/// program and what it waits for on behalf of another are not of one owner at the backing. A wait
/// that is given up leaves nothing in their way. And a reader's lock does not make the daemon a
/// writer of the file.

#include <fcntl.h>
#include <sched.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "tests/mounted/locks/lock_test.h"

namespace lockfs::test {
namespace {

class OutsiderCycleTest : public ::testing::TestWithParam<Kind> {
 protected:
  void SetUp() override {
    ASSERT_TRUE(write_file(fs_.in_source("a"), "text"));
    ASSERT_EQ(fs_.start({}), "");
  }
  void TearDown() override { EXPECT_EQ(fs_.stop(), ""); }
  [[nodiscard]] std::string inside() const { return fs_.in_mount("a"); }
  [[nodiscard]] std::string outside() const { return fs_.in_source("a"); }

  Mount fs_;
};

TEST_P(OutsiderCycleTest, WhoWaitsForNobodyIsNoPartOfACycle) {
  for (const Mode mode : {kExclusive, kShared}) {
    Locker holds(inside());
    Locker outsider(outside());
    Locker waits(inside());
    ASSERT_EQ(holds.lock(GetParam(), kExclusive, {1, 1}), 0);
    ASSERT_EQ(outsider.lock(kPosix, kExclusive, {2, 1}), 0);
    waits.start_lock(GetParam(), mode, {2, 1});
    ASSERT_TRUE(waits.waits());
    outsider.start_lock(kPosix, kExclusive, {1, 1});
    EXPECT_TRUE(outsider.waits()) << "it was refused, though nobody waits in a circle";
    EXPECT_EQ(holds.unlock(GetParam(), {1, 1}), 0);
    EXPECT_EQ(outsider.result(), 0);
    EXPECT_TRUE(waits.waits());
    EXPECT_EQ(outsider.unlock(kPosix), 0);
    EXPECT_EQ(waits.result(), 0);
  }
}

TEST_P(OutsiderCycleTest, NorIsItWithManyWaits) {
  constexpr int kWaits = 12;
  Locker holds(inside());
  ASSERT_EQ(holds.lock(GetParam(), kExclusive, {1, 1}), 0);
  std::vector<std::unique_ptr<Locker>> outsiders;
  std::vector<std::unique_ptr<Locker>> waits;
  for (int i = 0; i < kWaits; ++i) {
    outsiders.push_back(std::make_unique<Locker>(outside()));
    waits.push_back(std::make_unique<Locker>(inside()));
    ASSERT_EQ(outsiders.back()->lock(kPosix, kExclusive, {10 + i, 1}), 0);
    waits.back()->start_lock(GetParam(), kExclusive, {10 + i, 1});
    ASSERT_TRUE(waits.back()->waits());
  }
  for (const auto& outsider : outsiders) {
    outsider->start_lock(kPosix, kShared, {1, 1});
    EXPECT_TRUE(outsider->waits());
  }
  EXPECT_EQ(holds.unlock(GetParam(), {1, 1}), 0);
  for (int i = 0; i < kWaits; ++i) {
    const auto at = static_cast<std::size_t>(i);
    EXPECT_EQ(outsiders[at]->result(), 0);
    EXPECT_EQ(outsiders[at]->unlock(kPosix), 0);
    EXPECT_EQ(waits[at]->result(), 0);
  }
  std::vector<LockedRange> carried;
  carried.push_back(exclusive_bytes(10, 10 + kWaits - 1));
  EXPECT_TRUE(mirror_is(fs_.pid(), outside(), carried));
}

/// What a waiting owner has already stays locked, also where it waits for more of it.
TEST_P(OutsiderCycleTest, AnUpgradeThatWaits) {
  Locker holds(inside());
  Locker upgrades(inside());
  Locker outsider(outside());
  ASSERT_EQ(holds.lock(GetParam(), kExclusive, {30, 1}), 0);
  ASSERT_EQ(upgrades.lock(GetParam(), kShared, {0, 10}), 0);
  ASSERT_EQ(outsider.lock(kPosix, kShared, {5, 10}), 0);
  upgrades.start_lock(GetParam(), kExclusive, {0, 20});
  ASSERT_TRUE(upgrades.waits());
  Locker other(outside());
  EXPECT_EQ(other.try_lock(kOfd, kExclusive, {0, 5}), EAGAIN);
  EXPECT_EQ(other.try_lock(kOfd, kShared, {0, 5}), 0);
  EXPECT_EQ(other.unlock(kOfd, {0, 5}), 0);
  outsider.start_lock(kPosix, kExclusive, {30, 1});
  EXPECT_TRUE(outsider.waits());
  EXPECT_EQ(holds.unlock(GetParam(), {30, 1}), 0);
  EXPECT_EQ(outsider.result(), 0);
  EXPECT_EQ(outsider.unlock(kPosix), 0);
  EXPECT_EQ(upgrades.result(), 0);
  EXPECT_TRUE(mirror_is(fs_.pid(), outside(), {exclusive_bytes(0, 19)}));
}

/// Both share and both want it alone: that is a circle, and whoever asks the kernel last is told.
/// (It tells processes only: were the outsider first there, both would wait.)
TEST_P(OutsiderCycleTest, TwoUpgradesAreACycle) {
  Locker upgrades(inside());
  Locker outsider(outside());
  ASSERT_EQ(upgrades.lock(GetParam(), kShared, {0, 10}), 0);
  ASSERT_EQ(outsider.lock(kPosix, kShared, {0, 10}), 0);
  upgrades.start_lock(GetParam(), kExclusive, {0, 10});
  ASSERT_TRUE(eventually([&] { return waits_at_backing(outside()); }));
  EXPECT_EQ(outsider.lock(kPosix, kExclusive, {0, 10}), EDEADLK);
  EXPECT_EQ(outsider.unlock(kPosix), 0);
  EXPECT_EQ(upgrades.result(), 0);
}

/// Two threads outside with tables of files of their own are two owners, though one process: the
/// one that holds waits for nobody.
TEST_P(OutsiderCycleTest, TwoOwnersInOneProcessOutside) {
  if (GetParam() != kPosix) return;
  Locker holds(inside());
  ASSERT_EQ(holds.lock(kPosix, kExclusive, {1, 1}), 0);
  Process two([path = outside()] {
    const auto lock = [&path](off_t byte) {
      struct flock request {};
      request.l_type = F_WRLCK;
      request.l_start = byte;
      request.l_len = 1;
      return ::fcntl(::open(path.c_str(), O_RDWR), F_SETLKW, &request) == 0;
    };
    if (!lock(2)) return 1;
    std::thread waits([&lock] {
      if (::unshare(CLONE_FILES) == 0) lock(1);
    });
    waits.join();
    return 0;
  });
  ASSERT_TRUE(eventually([&] { return waits_at_backing(outside()); }));
  holds.start_lock(kPosix, kExclusive, {2, 1});
  ASSERT_TRUE(holds.waits());
  std::this_thread::sleep_for(std::chrono::milliseconds(1500));  // some looks
  EXPECT_TRUE(holds.waits()) << "it was refused, though nobody waits in a circle";
  two.kill(SIGKILL);
  EXPECT_EQ(two.wait(), 128 + SIGKILL);
  EXPECT_EQ(holds.result(), 0);
}

// Under the thread sanitizer each process outside has a thread of the sanitizer's, and is in no
// cycle.
#ifndef __SANITIZE_THREAD__

/// A circle through a program outside that waits already: whoever asks here last is told, if he is
/// a process. Open files are in no circle, as among themselves.
TEST_P(OutsiderCycleTest, ACycleThroughAProgramOutside) {
  Locker holds(inside());
  Locker outsider(outside());
  ASSERT_EQ(holds.handle_signal(SIGUSR1), 0);
  ASSERT_EQ(holds.lock(GetParam(), kExclusive, {1, 1}), 0);
  ASSERT_EQ(outsider.lock(kPosix, kExclusive, {2, 1}), 0);
  outsider.start_lock(kPosix, kExclusive, {1, 1});
  ASSERT_TRUE(outsider.waits());
  holds.start_lock(GetParam(), kExclusive, {2, 1});
  if (GetParam() == kPosix) {
    EXPECT_EQ(holds.result(), EDEADLK);
  } else {
    EXPECT_TRUE(holds.waits());
    ASSERT_EQ(holds.interrupt(SIGUSR1), 0);
    EXPECT_EQ(holds.result(), EINTR);
  }
  EXPECT_TRUE(outsider.waits());
  EXPECT_EQ(holds.unlock(GetParam(), {1, 1}), 0);
  EXPECT_EQ(outsider.result(), 0);
}

/// Over two files, two programs here and one outside, who asks last.
TEST_P(OutsiderCycleTest, ALongerCycleThatTheProgramOutsideCloses) {
  if (GetParam() != kPosix) return;
  ASSERT_TRUE(write_file(fs_.in_source("b"), "text"));
  Locker first(inside());
  Locker second(fs_.in_mount("b"));
  Locker outsider(outside());
  const int other = outsider.open(fs_.in_source("b"), O_RDWR);
  ASSERT_GE(other, 0);
  const int beside = first.open(fs_.in_mount("b"), O_RDWR);
  ASSERT_GE(beside, 0);
  ASSERT_EQ(first.lock(kPosix, kExclusive, {1, 1}), 0);
  ASSERT_EQ(second.lock(kPosix, kExclusive, {1, 1}), 0);
  ASSERT_EQ(outsider.lock(other, kPosix, kExclusive, {9, 1}), 0);
  first.start_lock(beside, kPosix, kExclusive, {1, 1});  // the second's
  ASSERT_TRUE(first.waits());
  second.start_lock(kPosix, kExclusive, {9, 1});  // the outsider's
  ASSERT_TRUE(second.waits());
  outsider.start_lock(kPosix, kExclusive, {1, 1});  // the first's
  // The kernel does not know, but those who wait here: the last of them is told.
  EXPECT_EQ(second.result(), EDEADLK);
  EXPECT_TRUE(first.waits());
  EXPECT_TRUE(outsider.waits());
  EXPECT_EQ(second.unlock(kPosix), 0);
  EXPECT_EQ(first.result(), 0);
  EXPECT_EQ(first.unlock(kPosix, {1, 1}), 0);
  EXPECT_EQ(outsider.result(), 0);
}

/// Somebody here stands before the last, too.
TEST_P(OutsiderCycleTest, ACycleBehindSomebodyElse) {
  if (GetParam() != kPosix) return;
  Locker holds(inside());
  Locker outsider(outside());
  Locker ahead(inside());
  ASSERT_EQ(holds.lock(kPosix, kExclusive, {1, 1}), 0);
  ASSERT_EQ(outsider.lock(kPosix, kExclusive, {2, 1}), 0);
  ahead.start_lock(kOfd, kExclusive, {2, 1});
  ASSERT_TRUE(ahead.waits());
  outsider.start_lock(kPosix, kExclusive, {1, 1});
  ASSERT_TRUE(outsider.waits());
  EXPECT_EQ(holds.lock(kPosix, kExclusive, {2, 1}), EDEADLK);
  EXPECT_EQ(holds.unlock(kPosix), 0);
  EXPECT_EQ(outsider.result(), 0);
  EXPECT_EQ(outsider.unlock(kPosix), 0);
  EXPECT_EQ(ahead.result(), 0);
}

#endif

/// The backing may still give the lock to a wait that it is only about to withdraw.
TEST_P(OutsiderCycleTest, WhoGivesUpLeavesNothingBehind) {
  constexpr int kRounds = 60;
  Locker outsider(outside());
  Locker other(outside());
  Locker waits(inside());
  ASSERT_EQ(waits.handle_signal(SIGUSR1), 0);
  for (int i = 0; i < kRounds; ++i) {
    ASSERT_EQ(outsider.lock(kPosix, kExclusive), 0) << "round " << i;
    waits.start_lock(GetParam(), i % 2 == 0 ? kExclusive : kShared);
    ASSERT_TRUE(waits.waits());
    ASSERT_EQ(waits.interrupt(SIGUSR1), 0);
    ASSERT_EQ(waits.result(), EINTR);
    ASSERT_EQ(outsider.unlock(kPosix), 0);
    ASSERT_EQ(other.try_lock(kPosix, kExclusive), 0) << "round " << i;
    ASSERT_EQ(other.unlock(kPosix), 0);
  }
}

TEST_P(OutsiderCycleTest, WhoDiesLeavesNothingBehind) {
  constexpr int kRounds = 20;
  Locker outsider(outside());
  Locker other(outside());
  for (int i = 0; i < kRounds; ++i) {
    Locker waits(inside());
    ASSERT_EQ(outsider.lock(kPosix, kExclusive), 0) << "round " << i;
    waits.start_lock(GetParam(), kExclusive);
    ASSERT_TRUE(waits.waits());
    waits.kill(SIGKILL);
    ASSERT_EQ(waits.wait(), 128 + SIGKILL);
    ASSERT_EQ(outsider.unlock(kPosix), 0);
    ASSERT_EQ(other.try_lock(kPosix, kExclusive), 0) << "round " << i;
    ASSERT_EQ(other.unlock(kPosix), 0);
  }
}

/// A read lease can be had only while nobody has the file open for writing
/// (check_conflicting_open()).
TEST_P(OutsiderCycleTest, AReaderIsNoWriter) {
  Locker reader(inside(), O_RDONLY | O_CLOEXEC);
  ASSERT_EQ(reader.lock(GetParam(), kShared, {0, 10}), 0);
  const UniqueFd file(::open(outside().c_str(), O_RDONLY | O_CLOEXEC));
  const auto take_lease = [&] {
    const int result = ::fcntl(file.get(), F_SETLEASE, F_RDLCK) == 0 ? 0 : errno;
    ::fcntl(file.get(), F_SETLEASE, F_UNLCK);
    return result;
  };
  EXPECT_EQ(take_lease(), 0);
  {
    Locker writer(inside());
    ASSERT_EQ(writer.lock(GetParam(), kExclusive, {20, 10}), 0);
    EXPECT_EQ(take_lease(), EAGAIN);
    ASSERT_EQ(writer.unlock(GetParam(), {20, 10}), 0);
  }
  // The kernel releases what was closed a moment later.
  EXPECT_TRUE(eventually([&] { return take_lease() == 0; }));
  EXPECT_TRUE(mirror_is(fs_.pid(), outside(), {shared_bytes(0, 9)}));
}

INSTANTIATE_TEST_SUITE_P(All, OutsiderCycleTest, ::testing::Values(kPosix, kOfd), kind_name);

}  // namespace
}  // namespace lockfs::test
