/// Blocking requests: the order of the queue, signals, kills, many waiters, threads, outsiders, and
/// the end of the mount.

#include <linux/fs.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <chrono>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "tests/mounted/locks/lock_test.h"

namespace lockfs::test {
namespace {

constexpr Kind kKinds[] = {kFlock, kPosix, kOfd};

class WaitingTest : public SharedMountTest, public ::testing::WithParamInterface<Kind> {
 protected:
  static Kind kind() { return GetParam(); }
};

// -- signals
// ----------------------------------------------------------------------------------------

TEST_P(WaitingTest, SignalEndsTheWait) {
  const std::string name = new_file();
  Locker holder(in_mount(name));
  Locker waiter(in_mount(name));
  ASSERT_EQ(waiter.handle_signal(SIGUSR1), 0);
  ASSERT_EQ(holder.try_lock(kind(), kExclusive), 0);
  for (int round = 0; round < 5; ++round) {
    waiter.start_lock(kind(), kExclusive);
    ASSERT_TRUE(waiter.waits());
    ASSERT_EQ(waiter.interrupt(SIGUSR1), 0);
    EXPECT_EQ(waiter.result(), EINTR);
  }
  // Nothing of the wait is left: nobody else has to queue behind it or finds it holding.
  EXPECT_EQ(holder.unlock(kind()), 0);
  Locker third(in_mount(name));
  EXPECT_EQ(third.lock(kind(), kExclusive), 0);
  EXPECT_EQ(third.unlock(kind()), 0);
  fs().settle(name);
  EXPECT_TRUE(mirror_is(fs().pid(), in_source(name), {}));
}

TEST_P(WaitingTest, SignalWithRestartLeavesItWaiting) {
  const std::string name = new_file();
  Locker holder(in_mount(name));
  Locker waiter(in_mount(name));
  ASSERT_EQ(waiter.handle_signal(SIGUSR1, true), 0);
  ASSERT_EQ(holder.try_lock(kind(), kExclusive), 0);
  waiter.start_lock(kind(), kExclusive);
  for (int round = 0; round < 5; ++round) {
    ASSERT_TRUE(waiter.waits());
    ASSERT_EQ(waiter.interrupt(SIGUSR1), 0);
  }
  ASSERT_TRUE(waiter.waits());
  EXPECT_EQ(holder.unlock(kind()), 0);
  EXPECT_EQ(waiter.result(), 0);
  EXPECT_EQ(holder.try_lock(kind(), kShared), EAGAIN);
}

TEST_P(WaitingTest, SignalDuringAnUpgradeKeepsTheOldLock) {
  LOCKFS_NOT_PLAIN();
  const std::string name = new_file();
  Locker holder(in_mount(name));
  Locker waiter(in_mount(name));
  ASSERT_EQ(waiter.handle_signal(SIGUSR1), 0);
  ASSERT_EQ(holder.try_lock(kind(), kShared), 0);
  ASSERT_EQ(waiter.try_lock(kind(), kShared), 0);
  waiter.start_lock(kind(), kExclusive);
  ASSERT_TRUE(waiter.waits());
  ASSERT_EQ(waiter.interrupt(SIGUSR1), 0);
  EXPECT_EQ(waiter.result(), EINTR);
  EXPECT_EQ(holder.unlock(kind()), 0);
  EXPECT_EQ(holder.try_lock(kind(), kExclusive), EAGAIN);
  EXPECT_TRUE(mirror_is(fs().pid(), in_source(name), {shared_bytes(0)}));
}

TEST_P(WaitingTest, KilledWaiterLeavesNothing) {
  const std::string name = new_file();
  Locker holder(in_mount(name));
  ASSERT_EQ(holder.try_lock(kind(), kExclusive), 0);
  Locker before(in_mount(name));
  Locker after(in_mount(name));
  {
    Locker killed(in_mount(name));
    before.start_lock(kind(), kExclusive);
    ASSERT_TRUE(before.waits());
    killed.start_lock(kind(), kExclusive);
    ASSERT_TRUE(killed.waits());
    after.start_lock(kind(), kExclusive);
    ASSERT_TRUE(after.waits());
    killed.kill(SIGKILL);
    EXPECT_EQ(killed.wait(), 128 + SIGKILL);
  }
  EXPECT_TRUE(before.waits());
  EXPECT_TRUE(after.waits());
  EXPECT_EQ(holder.unlock(kind()), 0);
  EXPECT_EQ(before.result(), 0);
  EXPECT_TRUE(after.waits());
  EXPECT_EQ(before.close(), 0);
  EXPECT_EQ(after.result(), 0);
  EXPECT_EQ(after.close(), 0);
  fs().settle(name);
  EXPECT_TRUE(mirror_is(fs().pid(), in_source(name), {}));
}

TEST_P(WaitingTest, KilledHolderHandsOver) {
  const std::string name = new_file();
  Locker waiter(in_mount(name));
  Locker holder(in_mount(name));
  ASSERT_EQ(holder.try_lock(kind(), kExclusive), 0);
  waiter.start_lock(kind(), kExclusive);
  ASSERT_TRUE(waiter.waits());
  holder.kill(SIGKILL);
  EXPECT_EQ(waiter.result(), 0);
}

// -- threads
// ----------------------------------------------------------------------------------------

TEST_P(WaitingTest, ThreadWaitsWhileItsProcessWorks) {
  const std::string name = new_file("content");
  Locker holder(in_mount(name));
  Locker process(in_mount(name));
  Lane thread = process.thread();
  ASSERT_EQ(holder.try_lock(kind(), kExclusive), 0);
  thread.start_lock(process.fd(), kind(), kExclusive);
  ASSERT_TRUE(thread.waits());
  EXPECT_EQ(process.read(process.fd(), 100, 0), "content");
  EXPECT_EQ(process.try_lock(kind(), kShared), EAGAIN);
  EXPECT_TRUE(thread.waits());
  EXPECT_EQ(holder.unlock(kind()), 0);
  EXPECT_EQ(thread.result(), 0);
  // The lock is the process's or the open file's, not the thread's.
  EXPECT_EQ(process.unlock(kind()), 0);
  EXPECT_EQ(holder.try_lock(kind(), kExclusive), 0);
}

TEST_P(WaitingTest, DescriptorClosedUnderAWaitingThread) {
  const std::string name = new_file();
  Locker holder(in_mount(name));
  Locker process(in_mount(name));
  Lane thread = process.thread();
  ASSERT_EQ(holder.try_lock(kind(), kExclusive), 0);
  thread.start_lock(process.fd(), kind(), kExclusive);
  ASSERT_TRUE(thread.waits());
  EXPECT_EQ(process.close(), 0);
  EXPECT_TRUE(thread.waits());
  EXPECT_EQ(holder.unlock(kind()), 0);
  // The kernel undoes a POSIX lock whose descriptor has gone (fcntl_setlk()); the others end with
  // the open file, which lives as long as the call.
  EXPECT_EQ(thread.result(), kind() == kPosix ? EBADF : 0);
  Locker third(in_mount(name));
  EXPECT_EQ(third.try_lock(kind(), kExclusive), 0);
}

TEST_P(WaitingTest, ManyThreadsOfOneProcess) {
  const std::string name = new_file();
  Locker holder(in_mount(name));
  Actor process;
  ASSERT_EQ(holder.try_lock(kind(), kExclusive), 0);
  std::vector<Lane> threads;
  std::vector<int> files;
  for (int i = 0; i < 30; ++i) {
    threads.push_back(process.thread());
    files.push_back(process.open(in_mount(name), O_RDWR));
  }
  for (std::size_t i = 0; i < threads.size(); ++i) {
    threads[i].start_lock(files[i], kind(), kExclusive);
    ASSERT_TRUE(threads[i].waits());
  }
  EXPECT_EQ(holder.unlock(kind()), 0);
  for (std::size_t i = 0; i < threads.size(); ++i) {
    EXPECT_EQ(threads[i].result(), 0);
    if (kind() != kPosix) {
      if (i + 1 < threads.size()) {
        EXPECT_TRUE(threads[i + 1].waits());
      }
      EXPECT_EQ(process.unlock(files[i], kind()), 0);
    }
  }
}

TEST_P(WaitingTest, SignalToOneThreadEndsOnlyItsWait) {
  const std::string name = new_file();
  Locker holder(in_mount(name));
  Locker process(in_mount(name));
  Lane one = process.thread();
  Lane two = process.thread();
  ASSERT_EQ(process.handle_signal(SIGUSR1), 0);
  ASSERT_EQ(holder.try_lock(kind(), kExclusive), 0);
  one.start_lock(process.fd(), kind(), kShared);
  two.start_lock(process.fd(), kind(), kShared);
  ASSERT_TRUE(one.waits());
  ASSERT_TRUE(two.waits());
  ASSERT_EQ(one.interrupt(SIGUSR1), 0);
  EXPECT_EQ(one.result(), EINTR);
  EXPECT_TRUE(two.waits());
  EXPECT_EQ(holder.unlock(kind()), 0);
  EXPECT_EQ(two.result(), 0);
}

// -- order
// ------------------------------------------------------------------------------------------

TEST_P(WaitingTest, ExclusiveWaitersAreServedInOrder) {
  LOCKFS_NOT_PLAIN();
  const std::string name = new_file();
  Locker holder(in_mount(name));
  ASSERT_EQ(holder.try_lock(kind(), kExclusive), 0);
  std::deque<Locker> waiters;
  for (int i = 0; i < 9; ++i) {
    waiters.emplace_back(in_mount(name));
    // All kinds in one queue.
    waiters.back().start_lock(kKinds[i % 3], kExclusive);
    ASSERT_TRUE(waiters.back().waits());
  }
  EXPECT_EQ(holder.unlock(kind()), 0);
  for (std::size_t i = 0; i < waiters.size(); ++i) {
    EXPECT_EQ(waiters[i].result(), 0);
    for (std::size_t later = i + 1; later < waiters.size(); ++later) {
      ASSERT_TRUE(waiters[later].waits()) << later << " while " << i << " holds";
    }
    if (i % 2 == 0) {
      EXPECT_EQ(waiters[i].unlock(kKinds[i % 3]), 0);
    } else {
      EXPECT_EQ(waiters[i].close(), 0);
    }
  }
}

TEST_P(WaitingTest, SharedWaitersAreServedTogether) {
  const std::string name = new_file();
  Locker holder(in_mount(name));
  ASSERT_EQ(holder.try_lock(kind(), kExclusive), 0);
  std::deque<Locker> waiters;
  for (int i = 0; i < 9; ++i) {
    waiters.emplace_back(in_mount(name));
    waiters.back().start_lock(plain_mode() ? kind() : kKinds[i % 3], kShared);
    ASSERT_TRUE(waiters.back().waits());
  }
  EXPECT_EQ(holder.unlock(kind()), 0);
  for (Locker& waiter : waiters) EXPECT_EQ(waiter.result(), 0);
}

TEST_P(WaitingTest, SharedWaiterComesAfterAnEarlierExclusiveOne) {
  LOCKFS_NOT_PLAIN();
  const std::string name = new_file();
  Locker holder(in_mount(name));
  Locker writer(in_mount(name));
  Locker reader(in_mount(name));
  ASSERT_EQ(holder.try_lock(kind(), kExclusive), 0);
  writer.start_lock(kind(), kExclusive);
  ASSERT_TRUE(writer.waits());
  reader.start_lock(kind(), kShared);
  ASSERT_TRUE(reader.waits());
  EXPECT_EQ(holder.try_lock(kind(), kShared), 0);
  // The reader could share with the holder, but came after the writer. It is let pass when the
  // queue has stood still for a second, so this much can only be seen before that.
  const auto since = std::chrono::steady_clock::now();
  const ::testing::AssertionResult still_waits = reader.waits();
  if (std::chrono::steady_clock::now() - since < std::chrono::milliseconds(200)) {
    EXPECT_TRUE(still_waits);
  }
  EXPECT_EQ(holder.unlock(kind()), 0);
  if (still_waits) {
    EXPECT_EQ(writer.result(), 0);
    EXPECT_TRUE(reader.waits());
    EXPECT_EQ(writer.unlock(kind()), 0);
  }
  EXPECT_EQ(reader.result(), 0);
}

/// The one ahead may depend on those behind it in ways that no lock manager sees, so a queue that
/// stands still lets pass whom no granted lock hinders.
TEST_P(WaitingTest, WaiterHinderedByNoHolderGetsThroughInTheEnd) {
  const std::string name = new_file();
  Locker holder(in_mount(name));
  Locker writer(in_mount(name));
  Locker reader(in_mount(name));
  ASSERT_EQ(holder.try_lock(kind(), kShared), 0);
  writer.start_lock(kind(), kExclusive);
  ASSERT_TRUE(writer.waits());
  EXPECT_EQ(reader.lock(kind(), kShared), 0);
  EXPECT_TRUE(writer.waits());
  EXPECT_EQ(holder.unlock(kind()), 0);
  EXPECT_TRUE(writer.waits());
  EXPECT_EQ(reader.unlock(kind()), 0);
  EXPECT_EQ(writer.result(), 0);
}

INSTANTIATE_TEST_SUITE_P(Every, WaitingTest, ::testing::Values(kFlock, kPosix, kOfd), kind_name);

// -- ranges in the queue
// ----------------------------------------------------------------------------

class QueueTest : public SharedMountTest {};

TEST_F(QueueTest, OnlyConflictingRequestsQueue) {
  const std::string name = new_file();
  Locker holder(in_mount(name));
  Locker waiter(in_mount(name));
  Locker elsewhere(in_mount(name));
  ASSERT_EQ(holder.try_lock(kPosix, kExclusive, {0, 10}), 0);
  waiter.start_lock(kPosix, kExclusive, {0, 20});
  ASSERT_TRUE(waiter.waits());
  EXPECT_EQ(elsewhere.lock(kPosix, kExclusive, {20, 10}), 0);
  EXPECT_EQ(elsewhere.lock(kOfd, kShared, {40, 10}), 0);
  EXPECT_EQ(holder.unlock(kPosix), 0);
  EXPECT_EQ(waiter.result(), 0);
}

TEST_F(QueueTest, PartlyFreedRangeIsNotEnough) {
  const std::string name = new_file();
  Locker one(in_mount(name));
  Locker two(in_mount(name));
  Locker waiter(in_mount(name));
  ASSERT_EQ(one.try_lock(kPosix, kExclusive, {0, 100}), 0);
  ASSERT_EQ(two.try_lock(kOfd, kShared, {200, 100}), 0);
  waiter.start_lock(kOfd, kExclusive, {50, 200});
  ASSERT_TRUE(waiter.waits());
  EXPECT_EQ(one.unlock(kPosix, {60, 0}), 0);
  EXPECT_TRUE(waiter.waits());
  EXPECT_EQ(one.unlock(kPosix, {50, 10}), 0);
  EXPECT_TRUE(waiter.waits());
  EXPECT_EQ(two.unlock(kOfd, {200, 50}), 0);
  EXPECT_EQ(waiter.result(), 0);
  if (!plain_mode()) {
    EXPECT_TRUE(
        mirror_is(fs().pid(), in_source(name), {exclusive_bytes(0, 249), shared_bytes(250, 299)}));
  }
}

TEST_F(QueueTest, TwoHundredWaitersWhileTheMountServesOthers) {
  LOCKFS_NOT_PLAIN();
  const int count = scaled(200, 100);
  const std::string name = new_file();
  const std::string other = new_file();
  Locker holder(in_mount(name));
  ASSERT_EQ(holder.try_lock(kFlock, kExclusive), 0);
  std::deque<Locker> waiters;
  for (int i = 0; i < count; ++i) {
    waiters.emplace_back(in_mount(name));
    waiters.back().start_lock(kKinds[i % 3], kExclusive);
  }
  for (Locker& waiter : waiters) ASSERT_TRUE(waiter.waits());

  Locker busy(in_mount(other));
  for (int i = 0; i < 50; ++i) {
    const std::string text = "round " + std::to_string(i);
    ASSERT_EQ(busy.write(busy.fd(), text, 0), static_cast<std::int64_t>(text.size()));
    ASSERT_EQ(busy.read(busy.fd(), text.size(), 0), text);
    const Kind kind = kKinds[i % 3];
    ASSERT_EQ(busy.lock(kind, kExclusive), 0);
    ASSERT_EQ(busy.unlock(kind), 0);
    const std::string made = in_mount("made-" + std::to_string(i));
    const int fd = busy.open(made, O_CREAT | O_RDWR);
    ASSERT_GE(fd, 0);
    ASSERT_EQ(busy.close(fd), 0);
    ASSERT_EQ(busy.rename(made, made + "-moved"), 0);
    ASSERT_EQ(busy.unlink(made + "-moved"), 0);
  }

  // Every fifth is killed, the rest get their turn.
  std::deque<Locker*> rest;
  for (std::size_t i = 0; i < waiters.size(); ++i) {
    if (i % 5 == 1) {
      waiters[i].kill(SIGKILL);
      EXPECT_EQ(waiters[i].wait(), 128 + SIGKILL);
    } else {
      rest.push_back(&waiters[i]);
    }
  }
  for (Locker* waiter : rest) EXPECT_TRUE(waiter->waits());
  EXPECT_EQ(holder.close(), 0);
  // Their order is not known: they were all started at once.
  for (std::size_t served = 0; served < rest.size(); ++served) {
    Locker* owner = nullptr;
    ASSERT_TRUE(eventually([&] {
      for (Locker* waiter : rest) {
        if (waiter != nullptr && waiter->has_result()) owner = waiter;
      }
      return owner != nullptr;
    }));
    EXPECT_EQ(owner->result(), 0);
    for (Locker*& waiter : rest) {
      if (waiter == owner) {
        waiter = nullptr;
      } else if (waiter != nullptr) {
        ASSERT_FALSE(waiter->has_result()) << "two exclusive locks at once";
      }
    }
    EXPECT_EQ(owner->close(), 0);
  }
  fs().settle(name);
  EXPECT_TRUE(mirror_is(fs().pid(), in_source(name), {}));
}

// -- outsiders
// --------------------------------------------------------------------------------------

/// Sets or clears the immutable flag of a file: while it is set nobody can open it for writing.
void set_immutable(const std::string& path, bool on) {
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  int flags = 0;
  ASSERT_EQ(::ioctl(fd.get(), FS_IOC_GETFLAGS, &flags), 0) << std::strerror(errno);
  flags = on ? flags | FS_IMMUTABLE_FL : flags & ~FS_IMMUTABLE_FL;
  ASSERT_EQ(::ioctl(fd.get(), FS_IOC_SETFLAGS, &flags), 0) << std::strerror(errno);
}

/// The daemon could open the file for reading only, so a request waits for the outsider through
/// that descriptor; an exclusive lock elsewhere then needs one for writing, which takes over.
TEST_F(QueueTest, DescriptorIsExchangedDuringAWaitForAnOutsider) {
  LOCKFS_NOT_PLAIN();
  for (int round = 0; round < scaled(200, 10); ++round) {
    const std::string name = new_file();
    Locker outside(in_source(name));
    ASSERT_EQ(outside.try_lock(kOfd, kExclusive, {0, 10}), 0);
    set_immutable(in_source(name), true);
    Locker reader(in_mount(name), O_RDONLY | O_CLOEXEC);
    reader.start_lock(kOfd, kShared, {0, 10});
    EXPECT_TRUE(reader.waits());
    set_immutable(in_source(name), false);
    Locker writer(in_mount(name));
    // Both at once, so that the wait may end before, during and after the exchange.
    outside.start_lock(kOfd, kShared, {0, 10});
    EXPECT_EQ(writer.try_lock(kOfd, kExclusive, {100, 10}), 0);
    EXPECT_EQ(outside.result(), 0);
    ASSERT_EQ(reader.result(), 0);
    ASSERT_EQ(outside.unlock(kOfd), 0);
    fs().settle(name);
    // The thread that waited lets go of the old descriptor a moment after its waiter was answered.
    ASSERT_TRUE(eventually([&] {
      return bool(
          mirror_is(fs().pid(), in_source(name), {{0, 9, kShared}, {100, 109, kExclusive}}));
    }));
  }
}

/// A reader and an upgrade that came later wait for an outsider each. Who of the two gets its lock
/// must not depend on the other's outsider.
TEST_F(QueueTest, NobodyWaitsForTheOutsiderOfSomebodyElse) {
  LOCKFS_NOT_PLAIN();
  for (const bool reader_first : {true, false}) {
    SCOPED_TRACE(reader_first ? "the reader's outsider leaves" : "that of the upgrade leaves");
    const std::string name = new_file();
    Locker upgrade(in_mount(name));
    Locker holder(in_mount(name));
    Locker reader(in_mount(name));
    Locker writer(in_mount(name));
    Locker on_upgrade(in_source(name));
    Locker on_reader(in_source(name));
    ASSERT_EQ(upgrade.try_lock(kOfd, kShared, {0, 11}), 0);
    ASSERT_EQ(holder.try_lock(kOfd, kExclusive, {15, 1}), 0);
    reader.start_lock(kOfd, kShared, {8, 13});
    ASSERT_TRUE(reader.waits());
    // It waits for the upgrade and stands behind the reader, so that the upgrade passes both.
    writer.start_lock(kOfd, kExclusive, {0, 11});
    ASSERT_TRUE(writer.waits());
    ASSERT_EQ(on_upgrade.try_lock(kOfd, kShared, {5, 1}), 0);
    upgrade.start_lock(kOfd, kExclusive, {0, 11});
    ASSERT_TRUE(upgrade.waits());
    ASSERT_EQ(on_reader.try_lock(kOfd, kExclusive, {18, 1}), 0);
    ASSERT_EQ(holder.unlock(kOfd), 0);
    fs().settle(name);
    Locker& first = reader_first ? reader : upgrade;
    Locker& second = reader_first ? upgrade : reader;
    ASSERT_EQ((reader_first ? on_reader : on_upgrade).unlock(kOfd), 0);
    ASSERT_EQ(first.result(), 0);
    EXPECT_TRUE(second.waits());
    ASSERT_EQ((reader_first ? on_upgrade : on_reader).unlock(kOfd), 0);
    ASSERT_EQ(first.unlock(kOfd), 0);
    ASSERT_EQ(second.result(), 0);
    ASSERT_EQ(second.unlock(kOfd), 0);
    EXPECT_EQ(writer.result(), 0);
  }
}

class OutsiderTest : public SharedMountTest, public ::testing::WithParamInterface<Kind> {
 protected:
  static Kind kind() { return GetParam(); }
  /// What the daemon does after an outsider unlocks is not part of any call of the test's.
  static bool daemon_lets_go(const std::string& name) {
    return eventually([&] { return locks_held_by(fs().pid(), in_source(name)).empty(); });
  }
  void SetUp() override {
    SharedMountTest::SetUp();
    LOCKFS_NOT_PLAIN();
  }
};

TEST_P(OutsiderTest, UnlockGrantsTheWaiter) {
  for (const Kind outside_kind : {kPosix, kOfd}) {
    const std::string name = new_file();
    Locker outside(in_source(name));
    Locker waiter(in_mount(name));
    ASSERT_EQ(outside.try_lock(outside_kind, kExclusive, {10, 10}), 0);
    waiter.start_lock(kind(), kExclusive);
    ASSERT_TRUE(waiter.waits());
    EXPECT_EQ(outside.unlock(outside_kind), 0);
    EXPECT_EQ(waiter.result(), 0);
    EXPECT_EQ(outside.try_lock(outside_kind, kShared, {10, 10}), EAGAIN);
    EXPECT_TRUE(mirror_is(fs().pid(), in_source(name), {exclusive_bytes(0)}));
  }
}

TEST_P(OutsiderTest, DeathGrantsTheWaiter) {
  const std::string name = new_file();
  Locker outside(in_source(name));
  Locker waiter(in_mount(name));
  ASSERT_EQ(outside.try_lock(kPosix, kExclusive), 0);
  waiter.start_lock(kind(), kShared);
  ASSERT_TRUE(waiter.waits());
  outside.kill(SIGKILL);
  EXPECT_EQ(waiter.result(), 0);
  EXPECT_TRUE(mirror_is(fs().pid(), in_source(name), {shared_bytes(0)}));
}

TEST_P(OutsiderTest, SeveralWaitersAreServedInOrder) {
  const std::string name = new_file();
  Locker outside(in_source(name));
  ASSERT_EQ(outside.try_lock(kOfd, kExclusive), 0);
  std::deque<Locker> waiters;
  for (int i = 0; i < 6; ++i) {
    waiters.emplace_back(in_mount(name));
    waiters.back().start_lock(kKinds[i % 3], kExclusive);
    ASSERT_TRUE(waiters.back().waits());
  }
  EXPECT_EQ(outside.unlock(kOfd), 0);
  for (std::size_t i = 0; i < waiters.size(); ++i) {
    EXPECT_EQ(waiters[i].result(), 0);
    for (std::size_t later = i + 1; later < waiters.size(); ++later) {
      ASSERT_TRUE(waiters[later].waits()) << later << " while " << i << " holds";
    }
    EXPECT_EQ(waiters[i].unlock(kKinds[i % 3]), 0);
  }
  EXPECT_TRUE(daemon_lets_go(name));
}

TEST_P(OutsiderTest, SignalEndsTheWait) {
  const std::string name = new_file();
  Locker outside(in_source(name));
  Locker waiter(in_mount(name));
  ASSERT_EQ(waiter.handle_signal(SIGUSR1), 0);
  ASSERT_EQ(outside.try_lock(kPosix, kExclusive), 0);
  for (int round = 0; round < 5; ++round) {
    waiter.start_lock(kind(), kExclusive);
    ASSERT_TRUE(waiter.waits());
    ASSERT_EQ(waiter.interrupt(SIGUSR1), 0);
    EXPECT_EQ(waiter.result(), EINTR);
  }
  EXPECT_EQ(outside.unlock(kPosix), 0);
  EXPECT_TRUE(daemon_lets_go(name));
  EXPECT_EQ(outside.lock(kPosix, kExclusive), 0);
  EXPECT_TRUE(mirror_is(0, in_source(name), {exclusive_bytes(0)}));
}

TEST_P(OutsiderTest, KilledWaiterLeavesNothing) {
  const std::string name = new_file();
  Locker outside(in_source(name));
  ASSERT_EQ(outside.try_lock(kOfd, kExclusive), 0);
  {
    Locker waiter(in_mount(name));
    waiter.start_lock(kind(), kExclusive);
    ASSERT_TRUE(waiter.waits());
    waiter.kill(SIGKILL);
    EXPECT_EQ(waiter.wait(), 128 + SIGKILL);
  }
  EXPECT_EQ(outside.unlock(kOfd), 0);
  EXPECT_TRUE(daemon_lets_go(name));
  Locker next(in_mount(name));
  EXPECT_EQ(next.lock(kind(), kExclusive), 0);
  EXPECT_EQ(next.unlock(kind()), 0);
  EXPECT_EQ(outside.lock(kPosix, kExclusive), 0);
}

TEST_P(OutsiderTest, SharesWithASharedOutsider) {
  const std::string name = new_file();
  Locker outside(in_source(name));
  Locker reader(in_mount(name));
  Locker writer(in_mount(name));
  ASSERT_EQ(outside.try_lock(kPosix, kShared), 0);
  EXPECT_EQ(reader.lock(kind(), kShared), 0);
  writer.start_lock(kind(), kExclusive);
  ASSERT_TRUE(writer.waits());
  EXPECT_EQ(reader.unlock(kind()), 0);
  EXPECT_TRUE(writer.waits());
  EXPECT_EQ(outside.unlock(kPosix), 0);
  EXPECT_EQ(writer.result(), 0);
}

TEST_P(OutsiderTest, OtherFilesAreServedMeanwhile) {
  const std::string name = new_file();
  const std::string other = new_file();
  Locker outside(in_source(name));
  Locker waiter(in_mount(name));
  Locker busy(in_mount(other));
  Locker same_file(in_mount(name));
  ASSERT_EQ(outside.try_lock(kPosix, kExclusive, {0, 10}), 0);
  waiter.start_lock(kind(), kExclusive);
  ASSERT_TRUE(waiter.waits());
  for (const Kind k : kKinds) {
    EXPECT_EQ(busy.lock(k, kExclusive), 0);
    EXPECT_EQ(busy.unlock(k), 0);
  }
  EXPECT_EQ(same_file.try_lock(kPosix, kExclusive, {0, 10}), EAGAIN);
  EXPECT_EQ(same_file.unlock(kPosix), 0);
  EXPECT_EQ(outside.unlock(kPosix), 0);
  EXPECT_EQ(waiter.result(), 0);
}

TEST_P(OutsiderTest, WaitingOutsiderGetsItsTurnWhenTheHolderUnlocks) {
  const std::string name = new_file();
  Locker inside(in_mount(name));
  Locker outside(in_source(name));
  ASSERT_EQ(inside.try_lock(kind(), kExclusive), 0);
  outside.start_lock(kPosix, kExclusive);
  ASSERT_TRUE(outside.waits());
  EXPECT_EQ(inside.unlock(kind()), 0);
  EXPECT_EQ(outside.result(), 0);
  EXPECT_EQ(inside.try_lock(kind(), kShared), EAGAIN);
}

/// Local programs that hand a lock from one to the next must not keep an outsider out for ever.
TEST_P(OutsiderTest, WaitingOutsiderGetsItsTurnAmongLocalOnes) {
  const std::string name = new_file();
  Locker outside(in_source(name));
  std::deque<Locker> local;
  for (int i = 0; i < 3; ++i) local.emplace_back(in_mount(name));
  ASSERT_EQ(local[0].try_lock(kind(), kExclusive), 0);
  outside.start_lock(kPosix, kExclusive);
  ASSERT_TRUE(outside.waits());
  // Two of them always queue, so the lock never falls free by itself.
  for (std::size_t i : {1, 2}) {
    local[i].start_lock(kind(), kExclusive);
    ASSERT_TRUE(local[i].waits());
  }
  std::size_t holder = 0;
  int handed_over = 0;
  constexpr int kMost = 300;
  while (handed_over < kMost && !outside.has_result()) {
    ASSERT_EQ(local[holder].unlock(kind()), 0);
    const std::size_t next = (holder + 1) % local.size();
    ASSERT_TRUE(eventually([&] { return local[next].has_result() || outside.has_result(); }));
    if (outside.has_result()) break;
    ASSERT_EQ(local[next].result(), 0);
    local[holder].start_lock(kind(), kExclusive);
    ASSERT_TRUE(local[holder].waits());
    holder = next;
    ++handed_over;
  }
  ASSERT_LT(handed_over, kMost) << "the outsider never got its turn";
  RecordProperty("handed_over", handed_over);
  EXPECT_EQ(outside.result(), 0);
  // The local ones go on in their order afterwards.
  const std::size_t first = (holder + 1) % local.size();
  const std::size_t second = (holder + 2) % local.size();
  EXPECT_TRUE(local[first].waits());
  EXPECT_EQ(outside.unlock(kPosix), 0);
  EXPECT_EQ(local[first].result(), 0);
  EXPECT_EQ(local[first].unlock(kind()), 0);
  EXPECT_EQ(local[second].result(), 0);
}

INSTANTIATE_TEST_SUITE_P(Every, OutsiderTest, ::testing::Values(kFlock, kPosix, kOfd), kind_name);

// -- the end of the mount
// ---------------------------------------------------------------------------

class EndTest : public ::testing::TestWithParam<int> {};

TEST_P(EndTest, ParkedRequestsAreAnsweredAndNothingStaysLocked) {
  LOCKFS_NOT_PLAIN();
  Mount fs;
  ASSERT_EQ(fs.start({}), "");
  for (const char* name : {"inside", "outside"}) ASSERT_TRUE(write_file(fs.in_source(name), ""));
  {
    Locker holder(fs.in_mount("inside"));
    Locker outsider(fs.in_source("outside"));
    ASSERT_EQ(holder.try_lock(kFlock, kExclusive), 0);
    ASSERT_EQ(outsider.try_lock(kPosix, kExclusive), 0);
    std::deque<Locker> waiters;
    for (int i = 0; i < 30; ++i) {
      waiters.emplace_back(fs.in_mount(i % 2 == 0 ? "inside" : "outside"));
      waiters.back().start_lock(kKinds[i % 3], i % 5 == 0 ? kShared : kExclusive);
      ASSERT_TRUE(waiters.back().waits());
    }
    fs.signal(GetParam());
    for (Locker& waiter : waiters) {
      const int error = waiter.result();
      EXPECT_NE(error, 0);
      EXPECT_NE(error, ETIMEDOUT);
    }
    if (GetParam() == SIGKILL) {
      const std::string wrong = fs.wait_exit();
      EXPECT_NE(wrong.find("status 137"), std::string::npos) << wrong;
      EXPECT_EQ(wrong.find("bad line"), std::string::npos) << wrong;
    } else {
      EXPECT_EQ(fs.wait_exit(), "");
    }
    EXPECT_NE(holder.try_lock(kFlock, kExclusive), 0);
  }
  Locker anyone(fs.in_source("inside"));
  EXPECT_EQ(anyone.try_lock(kPosix, kExclusive), 0);
  EXPECT_TRUE(mirror_is(0, fs.in_source("outside"), {}));
}

TEST_P(EndTest, LocksHeldAtTheEndAreReleased) {
  LOCKFS_NOT_PLAIN();
  Mount fs;
  ASSERT_EQ(fs.start({}), "");
  ASSERT_TRUE(write_file(fs.in_source("file"), ""));
  Locker holder(fs.in_mount("file"));
  Locker outsider(fs.in_source("file"));
  ASSERT_EQ(holder.try_lock(kOfd, kExclusive, {0, 10}), 0);
  outsider.start_lock(kPosix, kExclusive, {0, 10});
  ASSERT_TRUE(outsider.waits());
  fs.signal(GetParam());
  EXPECT_EQ(outsider.result(), 0);
  fs.wait_exit();
}

INSTANTIATE_TEST_SUITE_P(By, EndTest, ::testing::Values(SIGTERM, SIGINT, SIGKILL),
                         [](const ::testing::TestParamInfo<int>& test) {
                           switch (test.param) {
                             case SIGTERM:
                               return "SIGTERM";
                             case SIGINT:
                               return "SIGINT";
                             default:
                               return "SIGKILL";
                           }
                         });

}  // namespace
}  // namespace lockfs::test
