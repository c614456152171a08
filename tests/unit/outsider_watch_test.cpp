/// The look at who waits for locks outside the mount: what it sees, and that a look gives one turn.
// ctest: links=lockfs_mirror

#include "fs/mirror/outsider_watch.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstddef>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include "fs/base/proc_locks.h"
#include "fs/base/unique_fd.h"

namespace lockfs {
namespace {

/// A file that this process has locked.
class OutsiderWatchTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string path = ::testing::TempDir() + "outsider_watch.XXXXXX";
    held_.reset(::mkostemp(path.data(), O_CLOEXEC));
    ASSERT_TRUE(held_);
    path_ = path;
    struct stat st = {};
    ASSERT_EQ(::fstat(held_.get(), &st), 0);
    ino_ = st.st_ino;
    ASSERT_EQ(::flock(held_.get(), LOCK_EX), 0);
  }
  void TearDown() override {
    end_waiter();
    ::unlink(path_.c_str());
  }

  /// Another process begins to wait for the file.
  void begin_waiter() {
    waiter_ = ::fork();
    ASSERT_GE(waiter_, 0);
    if (waiter_ == 0) {
      const int fd = ::open(path_.c_str(), O_RDWR);
      ::flock(fd, LOCK_EX);
      ::_exit(0);
    }
    while (times_listed() == 0) std::this_thread::yield();
  }
  [[nodiscard]] std::ptrdiff_t times_listed() const {
    const std::vector<ino_t> all = inodes_waited_for();
    return std::count(all.begin(), all.end(), ino_);
  }
  void end_waiter() {
    if (waiter_ <= 0) return;
    ::kill(waiter_, SIGKILL);
    ::waitpid(waiter_, nullptr, 0);
    waiter_ = 0;
  }

  /// What a look says that begins now.
  bool waits_now(ino_t ino) {
    const OutsiderWatch::Look wanted = watch_.begin();
    EXPECT_NE(wanted, 0U);
    while (true) {
      const OutsiderWatch::Result result = watch_.answer(ino, wanted);
      if (result.look >= wanted) return result.waits;
      std::this_thread::yield();
    }
  }

  OutsiderWatch watch_;
  UniqueFd held_;
  std::string path_;
  ino_t ino_ = 0;
  pid_t waiter_ = 0;
};

TEST_F(OutsiderWatchTest, KnowsNothingBeforeTheFirstLook) {
  const OutsiderWatch::Result result = watch_.answer(ino_, 0);
  EXPECT_EQ(result.look, 0U);
  EXPECT_FALSE(result.waits);
}

TEST_F(OutsiderWatchTest, SeesWhoWaitsAndWhere) {
  EXPECT_FALSE(waits_now(ino_));
  begin_waiter();
  EXPECT_TRUE(waits_now(ino_));
  EXPECT_FALSE(waits_now(ino_ + 1));
  EXPECT_EQ(times_listed(), 1);
  end_waiter();
  EXPECT_FALSE(waits_now(ino_));
}

TEST_F(OutsiderWatchTest, ALookGivesEachFileOneTurn) {
  begin_waiter();
  OutsiderLook one(watch_, ino_);
  OutsiderLook other(watch_, ino_);
  one.expect();
  other.expect();
  ASSERT_TRUE(waits_now(ino_));
  OutsiderWatch::Look turns_of_one = 0;
  OutsiderWatch::Look turns_of_other = 0;
  for (int i = 0; i < 1000; ++i) {
    turns_of_one += one.anybody_waits() ? 1 : 0;
    turns_of_other += other.anybody_waits() ? 1 : 0;
  }
  EXPECT_GE(turns_of_one, 1U);
  EXPECT_GE(turns_of_other, 1U);
  const OutsiderWatch::Look looks = watch_.answer(ino_, 0).look;
  EXPECT_LE(turns_of_one, looks);
  EXPECT_LE(turns_of_other, looks);
}

TEST_F(OutsiderWatchTest, MayEndWhileItLooks) {
  for (int i = 0; i < 20; ++i) {
    OutsiderWatch watch;
    watch.begin();
    if (i % 2 == 0) watch.answer(ino_, 1);
  }
}

}  // namespace
}  // namespace lockfs
