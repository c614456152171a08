/// What ends a lock: close, dup, fork, exec, exit, a kill, hard links, unlink, rename, descriptors
/// passed to other processes. The same for the three kinds, whose owners differ: a process (POSIX)
/// or an open file (flock, OFD).

#include <signal.h>
#include <unistd.h>

#include "tests/mounted/locks/lock_test.h"

namespace lockfs::test {
namespace {

class ReleaseTest : public SharedMountTest, public ::testing::WithParamInterface<Kind> {
 protected:
  static Kind kind() { return GetParam(); }
  /// Locks of a process end with any close by it; others with the last close of the open file.
  static bool of_process() { return kind() == kPosix; }
  void SetUp() override {
    SharedMountTest::SetUp();
    if (plain_mode() && kind() == kFlock) GTEST_SKIP() << "a plain flock is not seen by OFD probes";
  }
  static ::testing::AssertionResult held_if(bool held, Watcher& watcher) {
    return held ? watcher.exclusively_locked() : watcher.is_free();
  }
};

TEST_P(ReleaseTest, Unlock) {
  const std::string name = new_file();
  Watcher watcher(fs(), name);
  Locker holder(in_mount(name));
  ASSERT_EQ(holder.try_lock(kind(), kExclusive), 0);
  EXPECT_TRUE(watcher.exclusively_locked());
  EXPECT_EQ(holder.unlock(kind()), 0);
  EXPECT_TRUE(watcher.is_free());
}

TEST_P(ReleaseTest, Close) {
  const std::string name = new_file();
  Watcher watcher(fs(), name);
  Locker holder(in_mount(name));
  ASSERT_EQ(holder.try_lock(kind(), kExclusive), 0);
  EXPECT_TRUE(watcher.exclusively_locked());
  EXPECT_EQ(holder.close(), 0);
  EXPECT_TRUE(watcher.is_free());
}

TEST_P(ReleaseTest, CloseOfADuplicate) {
  const std::string name = new_file();
  Watcher watcher(fs(), name);
  Locker holder(in_mount(name));
  const int copy = holder.dup(holder.fd());
  ASSERT_GE(copy, 0);
  ASSERT_EQ(holder.try_lock(kind(), kExclusive), 0);
  EXPECT_EQ(holder.close(copy), 0);
  EXPECT_TRUE(held_if(!of_process(), watcher));
  EXPECT_EQ(holder.close(), 0);
  EXPECT_TRUE(watcher.is_free());
}

TEST_P(ReleaseTest, CloseOfTheOriginalWhileADuplicateStays) {
  const std::string name = new_file();
  Watcher watcher(fs(), name);
  Locker holder(in_mount(name));
  const int copy = holder.dup(holder.fd());
  ASSERT_EQ(holder.try_lock(kind(), kExclusive), 0);
  EXPECT_EQ(holder.close(), 0);
  EXPECT_TRUE(held_if(!of_process(), watcher));
  EXPECT_EQ(holder.unlock(copy, kind()), 0);
  EXPECT_TRUE(watcher.is_free());
}

TEST_P(ReleaseTest, Dup2OverTheDescriptor) {
  const std::string name = new_file();
  const std::string other = new_file();
  Watcher watcher(fs(), name);
  Locker holder(in_mount(name));
  const int another = holder.open(in_mount(other), O_RDWR);
  ASSERT_EQ(holder.try_lock(kind(), kExclusive), 0);
  EXPECT_EQ(holder.dup2(another, holder.fd()), holder.fd());
  EXPECT_TRUE(watcher.is_free());
}

TEST_P(ReleaseTest, CloseOfAnotherOpenFile) {
  const std::string name = new_file();
  Watcher watcher(fs(), name);
  Locker holder(in_mount(name));
  ASSERT_EQ(holder.try_lock(kind(), kExclusive), 0);
  const int second = holder.open(in_mount(name), O_RDONLY);
  ASSERT_GE(second, 0);
  EXPECT_EQ(holder.close(second), 0);
  EXPECT_TRUE(held_if(!of_process(), watcher));
}

TEST_P(ReleaseTest, CloseThroughAnotherHardLink) {
  const std::string name = new_file();
  Watcher watcher(fs(), name);
  Locker holder(in_mount(name));
  ASSERT_EQ(holder.link(in_mount(name), in_mount(name + "-link")), 0);
  ASSERT_EQ(holder.try_lock(kind(), kExclusive), 0);
  const int second = holder.open(in_mount(name + "-link"), O_RDWR);
  ASSERT_GE(second, 0);
  EXPECT_TRUE(watcher.exclusively_locked());
  EXPECT_EQ(holder.close(second), 0);
  EXPECT_TRUE(held_if(!of_process(), watcher));
}

TEST_P(ReleaseTest, LockThroughOneHardLinkConflictsThroughTheOther) {
  const std::string name = new_file();
  Locker holder(in_mount(name));
  // Made behind the mount's back.
  ASSERT_EQ(::link(in_source(name).c_str(), in_source(name + "-link").c_str()), 0);
  Locker other(in_mount(name + "-link"));
  ASSERT_EQ(holder.try_lock(kind(), kExclusive), 0);
  EXPECT_EQ(other.try_lock(kind(), kShared), EAGAIN);
  EXPECT_EQ(holder.close(), 0);
  EXPECT_EQ(other.try_lock(kind(), kExclusive), 0);
}

TEST_P(ReleaseTest, CloseByAnotherProcessChangesNothing) {
  const std::string name = new_file();
  Watcher watcher(fs(), name);
  Locker holder(in_mount(name));
  Locker bystander(in_mount(name));
  ASSERT_EQ(holder.try_lock(kind(), kExclusive), 0);
  EXPECT_EQ(bystander.unlock(kind()), 0);
  EXPECT_EQ(bystander.close(), 0);
  EXPECT_TRUE(watcher.exclusively_locked());
}

TEST_P(ReleaseTest, ForkedChildKeepsTheOpenFile) {
  const std::string name = new_file();
  Watcher watcher(fs(), name);
  Locker holder(in_mount(name));
  ASSERT_EQ(holder.try_lock(kind(), kExclusive), 0);
  Actor child = holder.fork();
  EXPECT_TRUE(watcher.exclusively_locked());
  EXPECT_EQ(holder.close(), 0);
  EXPECT_TRUE(held_if(!of_process(), watcher));
  EXPECT_EQ(child.close(holder.fd()), 0);
  EXPECT_TRUE(watcher.is_free());
}

TEST_P(ReleaseTest, ForkedChildOutlivesTheParent) {
  const std::string name = new_file();
  Watcher watcher(fs(), name);
  Locker holder(in_mount(name));
  ASSERT_EQ(holder.try_lock(kind(), kExclusive), 0);
  Actor child = holder.fork();
  EXPECT_EQ(holder.exit(), 0);
  EXPECT_TRUE(held_if(!of_process(), watcher));
  child.kill(SIGKILL);
  EXPECT_EQ(child.wait(), 0);
  EXPECT_TRUE(watcher.is_free());
}

TEST_P(ReleaseTest, ForkedChildsUnlockAndClose) {
  const std::string name = new_file();
  Watcher watcher(fs(), name);
  Locker holder(in_mount(name));
  ASSERT_EQ(holder.try_lock(kind(), kExclusive), 0);
  Actor child = holder.fork();
  // The child is another process, but has the same open file.
  EXPECT_EQ(child.try_lock(holder.fd(), kind(), kExclusive), of_process() ? EAGAIN : 0);
  EXPECT_EQ(child.close(holder.fd()), 0);
  EXPECT_TRUE(watcher.exclusively_locked());

  Actor second = holder.fork();
  EXPECT_EQ(second.unlock(holder.fd(), kind()), 0);
  EXPECT_TRUE(held_if(of_process(), watcher));
  EXPECT_EQ(holder.unlock(kind()), 0);
  EXPECT_TRUE(watcher.is_free());
}

TEST_P(ReleaseTest, ChildsExitAfterWaitpid) {
  const std::string name = new_file();
  Watcher watcher(fs(), name);
  Actor parent;
  Actor child = parent.fork();
  const int fd = child.open(in_mount(name), O_RDWR);
  ASSERT_GE(fd, 0);
  ASSERT_EQ(child.try_lock(fd, kind(), kExclusive), 0);
  EXPECT_TRUE(watcher.exclusively_locked());
  child.start_exit(7);
  EXPECT_EQ(parent.wait_for(child.pid()), 7);
  EXPECT_TRUE(watcher.is_free());
}

TEST_P(ReleaseTest, ExecWithCloseOnExec) {
  const std::string name = new_file();
  Watcher watcher(fs(), name);
  Locker holder(in_mount(name), O_RDWR | O_CLOEXEC);
  ASSERT_EQ(holder.try_lock(kind(), kExclusive), 0);
  ASSERT_EQ(holder.exec(), 0);
  EXPECT_TRUE(watcher.is_free());
  EXPECT_EQ(holder.close(), -EBADF);
}

TEST_P(ReleaseTest, ExecWithoutCloseOnExec) {
  const std::string name = new_file();
  Watcher watcher(fs(), name);
  Locker holder(in_mount(name), O_RDWR);
  ASSERT_EQ(holder.try_lock(kind(), kExclusive), 0);
  ASSERT_EQ(holder.exec(), 0);
  EXPECT_TRUE(watcher.exclusively_locked());
  EXPECT_EQ(holder.close(), 0);
  EXPECT_TRUE(watcher.is_free());
}

TEST_P(ReleaseTest, Exit) {
  const std::string name = new_file();
  Watcher watcher(fs(), name);
  Locker holder(in_mount(name));
  ASSERT_EQ(holder.try_lock(kind(), kExclusive), 0);
  EXPECT_EQ(holder.exit(3), 3);
  EXPECT_TRUE(watcher.is_free());
}

TEST_P(ReleaseTest, Kill) {
  const std::string name = new_file();
  Watcher watcher(fs(), name);
  Locker holder(in_mount(name));
  ASSERT_EQ(holder.try_lock(kind(), kExclusive), 0);
  holder.kill(SIGKILL);
  EXPECT_EQ(holder.wait(), 128 + SIGKILL);
  EXPECT_TRUE(watcher.is_free());
}

TEST_P(ReleaseTest, UnlinkedFileKeepsItsLock) {
  const std::string name = new_file();
  Watcher watcher(fs(), name);
  Locker holder(in_mount(name));
  ASSERT_EQ(holder.try_lock(kind(), kExclusive), 0);
  ASSERT_EQ(holder.unlink(in_mount(name)), 0);
  EXPECT_TRUE(watcher.exclusively_locked());
  // A new file of that name is another file.
  ASSERT_TRUE(write_file(in_source(name), ""));
  Watcher new_watcher(fs(), name);
  EXPECT_TRUE(new_watcher.is_free());
  EXPECT_EQ(holder.close(), 0);
  EXPECT_TRUE(watcher.is_free());
}

TEST_P(ReleaseTest, RenamedFileKeepsItsLock) {
  const std::string name = new_file();
  const std::string victim = new_file();
  Locker on_victim(in_mount(victim));
  Watcher victim_watcher(fs(), victim);
  ASSERT_EQ(on_victim.try_lock(kind(), kExclusive), 0);
  Locker holder(in_mount(name));
  ASSERT_EQ(holder.try_lock(kind(), kExclusive), 0);
  ASSERT_EQ(holder.rename(in_mount(name), in_mount(victim)), 0);
  Watcher watcher(fs(), victim);
  EXPECT_TRUE(watcher.exclusively_locked());
  EXPECT_EQ(holder.unlock(kind()), 0);
  EXPECT_TRUE(watcher.is_free());
  EXPECT_TRUE(victim_watcher.exclusively_locked());
  EXPECT_EQ(on_victim.close(), 0);
  EXPECT_TRUE(victim_watcher.is_free());
}

TEST_P(ReleaseTest, DescriptorPassedToAnotherProcess) {
  const std::string name = new_file();
  Watcher watcher(fs(), name);
  Locker sender(in_mount(name));
  Actor receiver;
  const auto [from, to] = Actor::connect(sender, receiver);
  ASSERT_EQ(sender.try_lock(kind(), kExclusive), 0);
  ASSERT_EQ(sender.send_fd(from, sender.fd()), 0);
  EXPECT_EQ(sender.close(), 0);
  // Nobody has the descriptor now; it is on its way.
  EXPECT_TRUE(held_if(!of_process(), watcher));
  const int received = receiver.receive_fd(to);
  ASSERT_GE(received, 0);
  EXPECT_TRUE(held_if(!of_process(), watcher));
  EXPECT_EQ(receiver.try_lock(received, kind(), kExclusive), 0);
  EXPECT_EQ(sender.exit(), 0);
  EXPECT_TRUE(watcher.exclusively_locked());
  EXPECT_EQ(receiver.close(received), 0);
  EXPECT_TRUE(watcher.is_free());
}

TEST_P(ReleaseTest, DescriptorLostOnItsWay) {
  const std::string name = new_file();
  Watcher watcher(fs(), name);
  Locker sender(in_mount(name));
  Actor receiver;
  const auto [from, to] = Actor::connect(sender, receiver);
  ASSERT_EQ(sender.try_lock(kind(), kExclusive), 0);
  ASSERT_EQ(sender.send_fd(from, sender.fd()), 0);
  EXPECT_EQ(sender.close(), 0);
  EXPECT_TRUE(held_if(!of_process(), watcher));
  EXPECT_EQ(receiver.close(to), 0);
  EXPECT_TRUE(watcher.is_free());
}

TEST_P(ReleaseTest, NextUserOfAReusedOpenFileInheritsNothing) {
  // The kernel's owner cookies are scrambled pointers: memory of a closed file or an ended process
  // is soon used again.
  const std::string name = new_file();
  Watcher watcher(fs(), name);
  for (int round = 0; round < scaled(200); ++round) {
    Locker holder(in_mount(name));
    ASSERT_EQ(holder.try_lock(kind(), kExclusive, {round, 1}), 0);
    EXPECT_EQ(holder.close(), 0);
    const int next = holder.open(in_mount(name), O_RDWR);
    ASSERT_TRUE(watcher.is_free()) << "round " << round;
    ASSERT_EQ(holder.try_lock(next, kind(), kExclusive, {round, 1}), 0);
    EXPECT_EQ(holder.exit(), 0);
    ASSERT_TRUE(watcher.is_free()) << "round " << round;
  }
}

INSTANTIATE_TEST_SUITE_P(Every, ReleaseTest, ::testing::Values(kFlock, kPosix, kOfd), kind_name);

// -- several kinds in one process
// -------------------------------------------------------------------

class MixedReleaseTest : public SharedMountTest {};

TEST_F(MixedReleaseTest, CloseOfADuplicateDropsOnlyThePosixLocks) {
  LOCKFS_NOT_PLAIN();
  const std::string name = new_file();
  Locker process(in_mount(name));
  ASSERT_EQ(process.try_lock(kFlock, kShared), 0);
  ASSERT_EQ(process.try_lock(kOfd, kExclusive, {0, 10}), 0);
  ASSERT_EQ(process.try_lock(kPosix, kShared, {50, 10}), 0);
  EXPECT_TRUE(mirror_is(fs().pid(), in_source(name), {exclusive_bytes(0, 9), shared_bytes(10)}));
  EXPECT_EQ(process.close(process.dup(process.fd())), 0);
  EXPECT_TRUE(mirror_is(fs().pid(), in_source(name), {exclusive_bytes(0, 9), shared_bytes(10)}));
  EXPECT_EQ(process.unlock(kFlock), 0);
  EXPECT_TRUE(mirror_is(fs().pid(), in_source(name), {exclusive_bytes(0, 9)}));
  EXPECT_EQ(process.close(), 0);
  fs().settle(name);
  EXPECT_TRUE(mirror_is(fs().pid(), in_source(name), {}));
}

TEST_F(MixedReleaseTest, OpenFilesOfOneProcessEndOneByOne) {
  const std::string name = new_file();
  Actor process;
  std::vector<int> files;
  for (int i = 0; i < 20; ++i) {
    files.push_back(process.open(in_mount(name), O_RDWR));
    ASSERT_EQ(process.try_lock(files.back(), kOfd, kExclusive, {i * 10, 5}), 0);
  }
  Locker other(in_mount(name));
  for (int i = 0; i < 20; ++i) {
    EXPECT_EQ(other.try_lock(kOfd, kShared, {i * 10, 5}), EAGAIN);
    EXPECT_EQ(process.close(files[static_cast<std::size_t>(i)]), 0);
    EXPECT_EQ(other.try_lock(kOfd, kShared, {i * 10, 5}), 0);
  }
}

}  // namespace
}  // namespace lockfs::test
