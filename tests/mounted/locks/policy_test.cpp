/// What each value of each axis of the lock policy makes of system calls through a mount. The
/// values of "nfs" are what the other tests are about.

#include <signal.h>

#include <memory>
#include <string>
#include <vector>

#include "tests/mounted/locks/lock_test.h"

namespace lockfs::test {
namespace {

/// A mount with a policy, and one file.
class PolicyTest : public ::testing::Test {
 protected:
  void SetUp() override { LOCKFS_NOT_PLAIN(); }
  void TearDown() override {
    if (mount_ == nullptr) return;
    EXPECT_EQ(mount_->stop(), "");
  }
  void start(const std::string& policy) {
    mount_ = std::make_unique<Mount>();
    ASSERT_EQ(mount_->start({policy}), "");
    ASSERT_TRUE(write_file(mount_->in_source("file"), ""));
    ASSERT_TRUE(write_file(mount_->in_source("other"), ""));
  }
  [[nodiscard]] std::string inside() const { return mount_->in_mount("file"); }
  [[nodiscard]] std::string source() const { return mount_->in_source("file"); }
  [[nodiscard]] Mount& mount() const { return *mount_; }

 private:
  std::unique_ptr<Mount> mount_;
};

TEST_F(PolicyTest, SameProcessExemptLetsOneProgramTakeBoth) {
  start("policy=nfs,same_process=exempt");
  Locker one(inside());
  Locker two(inside());
  Locker client(source());
  EXPECT_EQ(one.try_lock(kFlock, kExclusive), 0);
  EXPECT_EQ(one.try_lock(kPosix, kExclusive), 0);
  EXPECT_EQ(two.try_lock(kFlock, kShared), EAGAIN);
  EXPECT_EQ(two.try_lock(kPosix, kShared), EAGAIN);
  EXPECT_EQ(one.unlock(kFlock), 0);
  EXPECT_EQ(client.try_lock(kPosix, kShared), EAGAIN) << "its POSIX lock is still carried";
}

TEST_F(PolicyTest, SameProcessConflictBlocksItself) {
  start("same_process=conflict");
  Locker one(inside());
  EXPECT_EQ(one.try_lock(kFlock, kExclusive), 0);
  EXPECT_EQ(one.try_lock(kPosix, kExclusive), EAGAIN);
}

TEST_F(PolicyTest, OpenModeRelaxedIsCarriedAllTheSame) {
  start("open_mode=relaxed");
  Locker reader(inside(), O_RDONLY | O_CLOEXEC);
  Locker client(source());
  EXPECT_EQ(reader.try_lock(kFlock, kExclusive), 0);
  EXPECT_EQ(client.try_lock(kPosix, kShared), EAGAIN);
}

TEST_F(PolicyTest, ReadersPassAWaitingWriter) {
  start("fairness=readers");
  Locker first(inside());
  Locker writer(inside());
  Locker second(inside());
  ASSERT_EQ(first.try_lock(kFlock, kShared), 0);
  writer.start_lock(kFlock, kExclusive);
  ASSERT_TRUE(writer.waits());
  EXPECT_EQ(second.lock(kFlock, kShared), 0);
  EXPECT_EQ(first.unlock(kFlock), 0);
  ASSERT_TRUE(writer.waits());
  EXPECT_EQ(second.unlock(kFlock), 0);
  EXPECT_EQ(writer.result(), 0);
}

TEST_F(PolicyTest, WritersPassAWaitingReader) {
  start("fairness=writers");
  Locker holder(inside());
  Locker reader(inside());
  Locker writer(inside());
  ASSERT_EQ(holder.try_lock(kPosix, kExclusive), 0);
  reader.start_lock(kPosix, kShared);
  ASSERT_TRUE(reader.waits());
  writer.start_lock(kPosix, kExclusive);
  ASSERT_TRUE(writer.waits());
  EXPECT_EQ(holder.unlock(kPosix), 0);
  EXPECT_EQ(writer.result(), 0);
  ASSERT_TRUE(reader.waits());
  EXPECT_EQ(writer.unlock(kPosix), 0);
  EXPECT_EQ(reader.result(), 0);
}

TEST_F(PolicyTest, NewcomersDoNotQueue) {
  start("fairness=newcomers");
  Locker holder(inside());
  Locker waiting(inside());
  Locker newcomer(inside());
  ASSERT_EQ(holder.try_lock(kOfd, kExclusive, {0, 10}), 0);
  waiting.start_lock(kOfd, kExclusive, {0, 100});
  ASSERT_TRUE(waiting.waits());
  EXPECT_EQ(newcomer.lock(kOfd, kExclusive, {50, 10}), 0);
  EXPECT_EQ(holder.unlock(kOfd), 0);
  ASSERT_TRUE(waiting.waits());
  EXPECT_EQ(newcomer.unlock(kOfd), 0);
  EXPECT_EQ(waiting.result(), 0);
}

TEST_F(PolicyTest, HandOverLocalComesBeforeOutsiders) {
  start("handover=local");
  Locker holder(inside());
  Locker next(inside());
  Locker client(source());
  ASSERT_EQ(holder.try_lock(kFlock, kExclusive), 0);
  client.start_lock(kPosix, kExclusive);
  ASSERT_TRUE(client.waits());
  next.start_lock(kFlock, kExclusive);
  ASSERT_TRUE(next.waits());
  EXPECT_EQ(holder.unlock(kFlock), 0);
  EXPECT_EQ(next.result(), 0);
  ASSERT_TRUE(client.waits());
  EXPECT_EQ(next.unlock(kFlock), 0);
  EXPECT_EQ(client.result(), 0);
}

TEST_F(PolicyTest, DeadlockAllRefusesTheFlockThatClosesACycle) {
  start("deadlock=all");
  Locker one(inside());
  Locker two(inside());
  const int one_other = one.open(mount().in_mount("other"), O_RDWR);
  const int two_other = two.open(mount().in_mount("other"), O_RDWR);
  ASSERT_EQ(one.try_lock(kFlock, kExclusive), 0);
  ASSERT_EQ(two.Lane::try_lock(two_other, kFlock, kExclusive), 0);
  one.Lane::start_lock(one_other, kFlock, kExclusive);
  ASSERT_TRUE(one.waits());
  EXPECT_EQ(two.lock(kFlock, kExclusive), EDEADLK);
  EXPECT_EQ(two.Lane::unlock(two_other, kFlock), 0);
  EXPECT_EQ(one.result(), 0);
}

TEST_F(PolicyTest, DeadlockOffLetsPosixWaitInACycle) {
  start("deadlock=off");
  Locker one(inside());
  Locker two(inside());
  ASSERT_EQ(one.try_lock(kPosix, kExclusive, {0, 10}), 0);
  ASSERT_EQ(two.try_lock(kPosix, kExclusive, {10, 10}), 0);
  one.start_lock(kPosix, kExclusive, {10, 10});
  ASSERT_TRUE(one.waits());
  two.start_lock(kPosix, kExclusive, {0, 10});
  ASSERT_TRUE(two.waits());
  one.kill(SIGKILL);
  EXPECT_EQ(two.result(), 0);
}

TEST_F(PolicyTest, ConversionDropLosesTheOldFlock) {
  start("conversion=drop");
  Locker one(inside());
  Locker two(inside());
  ASSERT_EQ(one.try_lock(kFlock, kShared), 0);
  ASSERT_EQ(two.try_lock(kFlock, kShared), 0);
  EXPECT_EQ(one.try_lock(kFlock, kExclusive), EAGAIN);
  EXPECT_EQ(two.try_lock(kFlock, kExclusive), 0);
}

TEST_F(PolicyTest, GuardKeepsFlocksOnTheSourceOut) {
  start("guard=flock");
  Locker one(inside());
  Locker two(inside());
  Locker local(source());
  Locker client(source());
  ASSERT_EQ(one.try_lock(kPosix, kShared, {0, 10}), 0);
  EXPECT_EQ(local.try_lock(kFlock, kExclusive), EAGAIN);
  EXPECT_EQ(local.try_lock(kFlock, kShared), 0);
  EXPECT_EQ(client.try_lock(kPosix, kExclusive, {50, 10}), 0) << "an NFS client does not mind";
  EXPECT_EQ(two.try_lock(kOfd, kExclusive, {20, 10}), EAGAIN);
  // By somebody else: a refused upgrade would cost `local` its flock.
  Locker other(source());
  EXPECT_EQ(other.try_lock(kFlock, kExclusive), EAGAIN) << "the guard is still there";
  two.start_lock(kOfd, kExclusive, {20, 10});
  ASSERT_TRUE(two.waits());
  EXPECT_EQ(local.unlock(kFlock), 0);
  EXPECT_EQ(two.result(), 0);
  EXPECT_EQ(local.try_lock(kFlock, kShared), EAGAIN);
  EXPECT_EQ(two.unlock(kOfd), 0);
  EXPECT_EQ(local.try_lock(kFlock, kShared), 0);
  EXPECT_EQ(local.unlock(kFlock), 0);
  EXPECT_EQ(one.unlock(kPosix), 0);
  EXPECT_EQ(local.try_lock(kFlock, kExclusive), 0);
}

TEST_F(PolicyTest, LeaseBreaksALockThatIsWaitedFor) {
  start("lease=1");
  Locker holder(inside());
  Locker waiting(inside());
  ASSERT_EQ(holder.try_lock(kFlock, kExclusive), 0);
  waiting.start_lock(kPosix, kExclusive);
  EXPECT_EQ(waiting.result(), 0);
  EXPECT_EQ(holder.try_lock(kFlock, kShared), EAGAIN);
  EXPECT_NE(mount().log().find("its lease has ended"), std::string::npos);
}

TEST_F(PolicyTest, LeaseWaitersBreaksALockThatTooManyWaitFor) {
  start("lease_waiters=1");
  Locker holder(inside());
  Locker first(inside());
  Locker second(inside());
  ASSERT_EQ(holder.try_lock(kFlock, kExclusive), 0);
  first.start_lock(kFlock, kExclusive);
  ASSERT_TRUE(first.waits());
  second.start_lock(kFlock, kExclusive);
  EXPECT_EQ(first.result(), 0);
  ASSERT_TRUE(second.waits());
}

}  // namespace
}  // namespace lockfs::test
