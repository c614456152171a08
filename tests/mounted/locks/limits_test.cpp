/// Configured limits: ENOLCK at the limit and only there, a log line that says which limit, whose
/// and on which file, and counts that come back to zero.

#include <signal.h>
#include <sys/stat.h>

#include <algorithm>
#include <deque>
#include <sstream>
#include <string>

#include "tests/mounted/locks/lock_test.h"

namespace lockfs::test {
namespace {

constexpr uid_t kUser = 12345;

class LimitTest : public ::testing::Test {
 protected:
  void start(const std::vector<std::string>& options) {
    ASSERT_EQ(fs_.start(options), "");
    for (const char* name : {"first", "second"}) {
      ASSERT_TRUE(write_file(fs_.in_source(name), ""));
      ASSERT_EQ(::chmod(fs_.in_source(name).c_str(), 0666), 0);
    }
  }

  void TearDown() override {
    const std::string wrong = fs_.stop();
    EXPECT_EQ(wrong, "");
  }

  std::string path(const std::string& name) const { return fs_.in_mount(name); }

  /// A line of the log that has all of these in it.
  ::testing::AssertionResult logged(const std::vector<std::string>& words) const {
    std::istringstream lines(fs_.log());
    std::string line;
    while (std::getline(lines, line)) {
      const bool all = std::all_of(words.begin(), words.end(), [&](const std::string& word) {
        return line.find(word) != std::string::npos;
      });
      if (all) return ::testing::AssertionSuccess();
    }
    ::testing::AssertionResult result = ::testing::AssertionFailure() << "no log line with";
    for (const std::string& word : words) result << " '" << word << "'";
    return result << " in\n" << fs_.log();
  }

  Mount fs_;
};

TEST_F(LimitTest, LocksPerOwner) {
  LOCKFS_NOT_PLAIN();
  ASSERT_NO_FATAL_FAILURE(start({"max_locks_per_owner=10"}));
  for (const Kind kind : {kPosix, kOfd}) {
    Locker a(path("first"));
    ASSERT_EQ(a.become(kUser, kUser), 0);
    for (int round = 0; round < 3; ++round) {
      for (int i = 0; i < 10; ++i) ASSERT_EQ(a.try_lock(kind, kExclusive, {i * 2, 1}), 0);
      EXPECT_EQ(a.try_lock(kind, kExclusive, {100, 1}), ENOLCK);
      EXPECT_EQ(a.lock(kind, kExclusive, {100, 1}), ENOLCK);
      // Held ranges may grow and change as long as they stay ten.
      EXPECT_EQ(a.try_lock(kind, kShared, {0, 1}), 0);
      EXPECT_EQ(a.try_lock(kind, kExclusive, {18, 50}), 0);
      // Others, and the same process's locks elsewhere, are not concerned.
      Locker b(path("first"));
      EXPECT_EQ(b.try_lock(kind, kExclusive, {100, 1}), 0);
      const int other = a.open(path("second"), O_RDWR);
      EXPECT_EQ(a.try_lock(other, kind, kExclusive), 0);
      EXPECT_EQ(a.close(other), 0);
      // Unlocking works at the limit even where it splits.
      EXPECT_EQ(a.unlock(kind, {30, 10}), 0);
      EXPECT_EQ(a.unlock(kind), 0);
      EXPECT_EQ(a.unlock(kind), 0);
    }
  }
  EXPECT_TRUE(logged({"max_locks_per_owner", "first", std::to_string(kUser)}));
}

TEST_F(LimitTest, LocksPerUser) {
  LOCKFS_NOT_PLAIN();
  ASSERT_NO_FATAL_FAILURE(start({"max_locks_per_user=8"}));
  for (int round = 0; round < 3; ++round) {
    Locker a(path("first"));
    Locker b(path("second"));
    ASSERT_EQ(a.become(kUser, kUser), 0);
    ASSERT_EQ(b.become(kUser, kUser), 0);
    for (int i = 0; i < 4; ++i) {
      ASSERT_EQ(a.try_lock(kPosix, kExclusive, {i * 2, 1}), 0);
      ASSERT_EQ(b.try_lock(kOfd, kExclusive, {i * 2, 1}), 0);
    }
    EXPECT_EQ(a.try_lock(kPosix, kExclusive, {100, 1}), ENOLCK);
    EXPECT_EQ(b.try_lock(kFlock, kShared), ENOLCK);
    Locker root(path("first"));
    EXPECT_EQ(root.try_lock(kPosix, kExclusive, {100, 1}), 0);
    EXPECT_EQ(b.unlock(kOfd, {0, 1}), 0);
    EXPECT_EQ(a.try_lock(kPosix, kExclusive, {200, 1}), 0);
    if (round % 2 == 0) {
      a.kill(SIGKILL);
      a.wait();
    }
  }
  EXPECT_TRUE(logged({"max_locks_per_user", "first", std::to_string(kUser)}));
}

TEST_F(LimitTest, LocksInAll) {
  LOCKFS_NOT_PLAIN();
  ASSERT_NO_FATAL_FAILURE(start({"max_locks=5"}));
  Locker a(path("first"));
  Locker b(path("second"));
  ASSERT_EQ(b.become(kUser, kUser), 0);
  for (int i = 0; i < 4; ++i) ASSERT_EQ(a.try_lock(kPosix, kShared, {i * 2, 1}), 0);
  ASSERT_EQ(b.try_lock(kFlock, kExclusive), 0);
  EXPECT_EQ(b.try_lock(kPosix, kShared, {100, 1}), EAGAIN);  // its own flock stands in the way
  EXPECT_EQ(a.try_lock(kPosix, kShared, {100, 1}), ENOLCK);
  EXPECT_EQ(b.unlock(kFlock), 0);
  EXPECT_EQ(a.try_lock(kPosix, kShared, {100, 1}), 0);
  EXPECT_EQ(b.try_lock(kFlock, kExclusive), ENOLCK);
  EXPECT_EQ(a.close(), 0);
  EXPECT_EQ(b.try_lock(kFlock, kExclusive), 0);
  EXPECT_TRUE(logged({"max_locks", "second", std::to_string(kUser)}));
}

TEST_F(LimitTest, Waiters) {
  LOCKFS_NOT_PLAIN();
  ASSERT_NO_FATAL_FAILURE(start({"max_waiters=3", "max_waiters_per_user=2"}));
  Locker holder(path("first"));
  ASSERT_EQ(holder.try_lock(kFlock, kExclusive), 0);
  std::deque<Locker> waiters;
  const auto add = [&](uid_t uid) -> Locker& {
    Locker& waiter = waiters.emplace_back(path("first"));
    EXPECT_EQ(waiter.become(uid, uid), 0);
    return waiter;
  };
  for (int i = 0; i < 2; ++i) {
    Locker& waiter = add(kUser);
    waiter.start_lock(kFlock, kExclusive);
    ASSERT_TRUE(waiter.waits());
  }
  Locker& third = add(kUser);
  EXPECT_EQ(third.lock(kFlock, kExclusive), ENOLCK);
  EXPECT_EQ(third.try_lock(kFlock, kExclusive), EAGAIN);
  EXPECT_TRUE(logged({"max_waiters_per_user", "first", std::to_string(kUser)}));
  Locker& other = add(kUser + 1);
  other.start_lock(kPosix, kExclusive);
  ASSERT_TRUE(other.waits());
  EXPECT_EQ(add(kUser + 2).lock(kOfd, kExclusive), ENOLCK);
  EXPECT_TRUE(logged({"max_waiters", "first", std::to_string(kUser + 2)}));
  // A killed waiter's place is free again.
  waiters[0].kill(SIGKILL);
  EXPECT_EQ(waiters[0].wait(), 128 + SIGKILL);
  third.start_lock(kFlock, kExclusive);
  ASSERT_TRUE(third.waits());
  EXPECT_EQ(holder.unlock(kFlock), 0);
  EXPECT_EQ(waiters[1].result(), 0);
  EXPECT_EQ(waiters[1].unlock(kFlock), 0);
  EXPECT_EQ(other.result(), 0);
  EXPECT_EQ(other.unlock(kPosix), 0);
  EXPECT_EQ(third.result(), 0);
}

}  // namespace
}  // namespace lockfs::test
