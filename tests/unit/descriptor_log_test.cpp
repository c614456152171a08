// The record of which descriptors carry locks: what the next daemon finds of it.
// ctest: links=lockfs_mirror
#include "fs/mirror/descriptor_log.h"

#include <fcntl.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <utility>
#include <vector>

#include "fs/base/book.h"
#include "fs/base/unique_fd.h"

namespace lockfs {
namespace {

class DescriptorLogTest : public ::testing::TestWithParam<bool> {
 protected:
  static constexpr Book::Shapes kShapes = {{}, {}, {}, {sizeof(DescriptorRecord), 128}};

  static UniqueFd open_one() { return UniqueFd(::open("/dev/null", O_RDONLY | O_CLOEXEC)); }
  static bool is_open(int fd) { return ::fcntl(fd, F_GETFD) >= 0; }
  static LoggedFd make(DescriptorLog& log, std::uint64_t nodeid, DescriptorUse use) {
    LoggedFd made;
    EXPECT_EQ(LoggedFd::make(open_one(), use, &log, nodeid, made), 0);
    return made;
  }
  std::vector<int> known() {
    std::vector<int> found;
    DescriptorLog::known_descriptors(book_, found);
    std::sort(found.begin(), found.end());
    return found;
  }

  Book book_{kShapes, 0, GetParam()};
};

TEST_P(DescriptorLogTest, OnRecordWhileOpen) {
  DescriptorLog log(book_);
  int fd = -1;
  {
    LoggedFd one = make(log, 7, DescriptorUse::kShared);
    fd = one.get();
    EXPECT_EQ(known(), std::vector<int>{fd});
    const LoggedFd moved = std::move(one);
    EXPECT_EQ(known(), std::vector<int>{fd});
    EXPECT_TRUE(is_open(fd));
  }
  EXPECT_TRUE(known().empty());
  EXPECT_FALSE(is_open(fd));
}

TEST_P(DescriptorLogTest, TheNextDaemonFindsThemOnce) {
  std::vector<int> left;
  {
    DescriptorLog log(book_);
    std::vector<LoggedFd> of_the_dead;
    of_the_dead.push_back(make(log, 7, DescriptorUse::kShared));
    of_the_dead.push_back(make(log, 9, DescriptorUse::kFlock));
    of_the_dead.push_back(make(log, 7, DescriptorUse::kExclusive));
    of_the_dead.push_back(make(log, 8, DescriptorUse::kShared));
    of_the_dead[3].reset();
    for (LoggedFd& each : of_the_dead) {
      if (each) left.push_back(each.get());
      each.leave();
    }
  }
  DescriptorLog log(book_);
  EXPECT_EQ(known().size(), 3U);
  EXPECT_TRUE(log.take_over(1).empty());
  EXPECT_TRUE(log.take_over(8).empty());
  {
    std::vector<LoggedFd> found = log.take_over(7);
    ASSERT_EQ(found.size(), 2U);
    EXPECT_EQ(found[0].get(), left[0]);
    EXPECT_EQ(found[0].use(), DescriptorUse::kShared);
    EXPECT_EQ(found[1].get(), left[2]);
    EXPECT_EQ(found[1].use(), DescriptorUse::kExclusive);
    EXPECT_TRUE(log.take_over(7).empty());
    // New ones do not get in the way of those that are left.
    const LoggedFd one = make(log, 9, DescriptorUse::kShared);
    EXPECT_EQ(known().size(), 4U);
  }
  EXPECT_EQ(known(), std::vector<int>{left[1]});
  {
    const std::vector<LoggedFd> abandoned = log.abandoned();
    ASSERT_EQ(abandoned.size(), 1U);
    EXPECT_EQ(abandoned[0].get(), left[1]);
    EXPECT_TRUE(log.take_over(9).empty());
  }
  EXPECT_TRUE(known().empty());
  EXPECT_FALSE(is_open(left[1]));
}

TEST_P(DescriptorLogTest, AFullBookRefuses) {
  DescriptorLog log(book_);
  std::vector<LoggedFd> all;
  while (true) {
    UniqueFd fd = open_one();
    const int number = fd.get();
    LoggedFd made;
    if (const int error = LoggedFd::make(std::move(fd), DescriptorUse::kShared, &log, 1, made);
        error != 0) {
      EXPECT_EQ(error, ENOLCK);
      EXPECT_FALSE(made);
      EXPECT_FALSE(is_open(number));
      break;
    }
    all.push_back(std::move(made));
    ASSERT_LT(all.size(), 128U);
  }
  EXPECT_FALSE(all.empty());
  EXPECT_EQ(known().size(), all.size());
  all.pop_back();
  all.push_back(make(log, 1, DescriptorUse::kShared));
}

TEST_P(DescriptorLogTest, NoneIsNeeded) {
  LoggedFd made;
  ASSERT_EQ(LoggedFd::make(open_one(), DescriptorUse::kFlock, nullptr, 1, made), 0);
  EXPECT_TRUE(is_open(made.get()));
  EXPECT_EQ(made.use(), DescriptorUse::kFlock);
  EXPECT_TRUE(known().empty());
}

INSTANTIATE_TEST_SUITE_P(Memory, DescriptorLogTest, ::testing::Bool(),
                         [](const auto& shared) { return shared.param ? "Shared" : "Private"; });

}  // namespace
}  // namespace lockfs
