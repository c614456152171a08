// The open file descriptions that carry the locks of one file: their sum against a model, what
// outsiders see of it, and that no description both carries and waits, on the kernel's own locks.
// ctest: links=lockfs_mirror
#include "fs/mirror/lock_descriptions.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <filesystem>
#include <future>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "fs/base/kick.h"
#include "fs/base/unique_fd.h"
#include "fs/mirror/record_lock.h"
#include "tests/unit/random.h"
#include "tests/unit/waiting_lines.h"

namespace lockfs {
namespace {

using lockmgr::CarriedLock;
using lockmgr::Mode;
using lockmgr::Offset;
using lockmgr::Range;

constexpr Mode kX = Mode::kExclusive;
constexpr Mode kS = Mode::kShared;
constexpr Mode kU = Mode::kNone;

std::string text_of(const std::vector<CarriedLock>& locks) {
  std::string text;
  for (const CarriedLock& lock : locks) {
    text += (lock.mode == kX ? " X" : " S") + std::to_string(lock.range.first) + "-" +
            std::to_string(lock.range.last);
  }
  return text;
}

/// Somebody outside: an open file description of its own.
class Outsider {
 public:
  explicit Outsider(const std::string& path) : fd_(::open(path.c_str(), O_RDWR | O_CLOEXEC)) {
    ++alive;
  }
  ~Outsider() { --alive; }
  Outsider(const Outsider&) = delete;
  Outsider& operator=(const Outsider&) = delete;

  static inline int alive = 0;
  int set(const Range& range, Mode mode) {
    struct flock request = record_lock(range, mode);
    return ::fcntl(fd_.get(), F_OFD_SETLK, &request) == 0 ? 0 : errno;
  }

 private:
  UniqueFd fd_;
};

class LockDescriptionsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    install_kick_handler();
    path_ = ::testing::TempDir() + "lock_descriptions.XXXXXX";
    ASSERT_TRUE(UniqueFd(::mkostemp(path_.data(), O_CLOEXEC)));
    path_fd_.reset(::open(path_.c_str(), O_PATH | O_CLOEXEC));
    ASSERT_TRUE(path_fd_);
    outsider_ = std::make_unique<Outsider>(path_);
    make();
  }
  void TearDown() override {
    threads_.settle();
    ::unlink(path_.c_str());
  }
  void make() { ours_ = std::make_unique<LockDescriptions>(threads_, &writers_); }

  int set(const Range& range, Mode mode) { return ours_->set(path_fd_.get(), range, mode); }
  [[nodiscard]] std::string held() {
    std::vector<CarriedLock> found;
    if (!ours_->inspect(found)) return "?";
    std::sort(found.begin(), found.end(), [](const CarriedLock& a, const CarriedLock& b) {
      return a.range.first < b.range.first;
    });
    // The same bytes in one mode may lie on several descriptions.
    std::vector<CarriedLock> merged;
    for (const CarriedLock& lock : found) {
      if (!merged.empty() && merged.back().mode == lock.mode &&
          merged.back().range.touches(lock.range)) {
        merged.back().range = lockmgr::hull(merged.back().range, lock.range);
      } else {
        merged.push_back(lock);
      }
    }
    return text_of(merged);
  }
  [[nodiscard]] std::optional<lockmgr::OutsideLock> outsider_at(const Range& range, Mode mode) {
    std::optional<lockmgr::OutsideLock> found;
    EXPECT_EQ(ours_->test(path_fd_.get(), range, mode, found), 0);
    return found;
  }
  /// Whether the file is open for writing, other than by outsiders.
  [[nodiscard]] bool open_for_writing() const {
    struct stat wanted {};
    ::stat(path_.c_str(), &wanted);
    int found = 0;
    for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
      const int fd = std::stoi(entry.path().filename());
      struct stat st {};
      const bool same = ::fstat(fd, &st) == 0 && st.st_ino == wanted.st_ino;
      found += same && (::fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDWR ? 1 : 0;
    }
    return found > Outsider::alive;
  }

  struct Wait {
    WaitThreads::WaitId id = WaitThreads::own_id();
    std::promise<int> ended;
    std::future<int> end = ended.get_future();
  };
  std::shared_ptr<Wait> begin(const Range& range, Mode mode) {
    auto wait = std::make_shared<Wait>();
    WaitThreads::Wait job;
    job.id = wait->id;
    job.sit = [this, id = wait->id, range, mode](const std::atomic<bool>& recalled) {
      return ours_->wait(id, path_fd_.get(), range, mode, false, recalled);
    };
    job.done = [wait](int error) { wait->ended.set_value(error); };
    EXPECT_EQ(threads_.start(std::move(job)), 0);
    return wait;
  }
  /// As begin(), and it sits in its call.
  std::shared_ptr<Wait> begin_to_sit(const Range& range, Mode mode) {
    auto wait = begin(range, mode);
    while (waiting_lines(path_) == 0) std::this_thread::yield();
    return wait;
  }

  std::string path_;
  UniqueFd path_fd_;
  std::atomic<std::uint32_t> writers_{0};
  WaitThreads threads_;
  std::unique_ptr<Outsider> outsider_;
  std::unique_ptr<LockDescriptions> ours_;
};

/// One mode per byte.
class Model {
 public:
  static constexpr Offset kBytes = 48;

  [[nodiscard]] bool free_for(const Range& range, Mode mode) const {
    for (Offset at = range.first; at <= last_of(range); ++at) {
      if (lockmgr::modes_conflict(bytes_[static_cast<std::size_t>(at)], mode)) return false;
    }
    return true;
  }
  void set(const Range& range, Mode mode) {
    for (Offset at = range.first; at <= last_of(range); ++at) {
      bytes_[static_cast<std::size_t>(at)] = mode;
    }
  }
  [[nodiscard]] std::string text() const {
    std::vector<CarriedLock> locks;
    for (Offset at = 0; at <= kBytes; ++at) {
      const Mode mode = bytes_[static_cast<std::size_t>(at)];
      if (mode == kU) continue;
      const Offset last = at == kBytes ? lockmgr::kEof : at;
      if (!locks.empty() && locks.back().mode == mode && locks.back().range.last == at - 1) {
        locks.back().range.last = last;
      } else {
        locks.push_back({{at, last}, mode});
      }
    }
    return text_of(locks);
  }

 private:
  /// The last element stands for all bytes from kBytes on.
  static Offset last_of(const Range& range) { return std::min(range.last, kBytes); }
  std::array<Mode, kBytes + 1> bytes_{};
};

TEST_F(LockDescriptionsTest, SumIsWhatWasSet) {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    lockmgr::testing::Random random(seed);
    make();
    outsider_ = std::make_unique<Outsider>(path_);
    writers_ = static_cast<std::uint32_t>(seed % 2);
    Model ours;
    Model outside;
    const auto any_range = [&] {
      const Offset first = random.between(0, Model::kBytes - 1);
      if (random.one_in(8)) return Range{first, lockmgr::kEof};
      return Range{first, std::min<Offset>(Model::kBytes - 1, first + random.between(0, 12))};
    };
    for (int step = 0; step < lockmgr::testing::scaled(600); ++step) {
      const Range range = any_range();
      const Mode mode = std::array{kU, kS, kX}[random.below(3)];
      if (random.one_in(4)) {
        const bool free = mode == kU || ours.free_for(range, mode);
        ASSERT_EQ(outsider_->set(range, mode), free ? 0 : EAGAIN)
            << "seed " << seed << " step " << step << " ours" << ours.text();
        if (free) outside.set(range, mode);
      } else {
        const bool free = mode == kU || outside.free_for(range, mode);
        ASSERT_EQ(set(range, mode), free ? 0 : EAGAIN) << "seed " << seed << " step " << step;
        if (free) ours.set(range, mode);
      }
      ASSERT_EQ(held(), ours.text()) << "seed " << seed << " step " << step;
      const Range asked = any_range();
      const Mode asked_mode = random.one_in(2) ? kS : kX;
      ASSERT_EQ(outsider_at(asked, asked_mode).has_value(), !outside.free_for(asked, asked_mode))
          << "seed " << seed << " step " << step;
    }
  }
}

TEST_F(LockDescriptionsTest, AReaderIsNoWriter) {
  EXPECT_EQ(set({0, 9}, kS), 0);
  EXPECT_FALSE(open_for_writing());
  EXPECT_EQ(set({20, 29}, kX), 0);
  EXPECT_TRUE(open_for_writing());
  EXPECT_EQ(set({25, 40}, kS), 0);
  EXPECT_TRUE(open_for_writing());
  EXPECT_EQ(set({20, 24}, kU), 0);
  EXPECT_FALSE(open_for_writing()) << "it goes with the last exclusive lock";
  EXPECT_EQ(held(), " S0-9 S25-40");
  EXPECT_EQ(set({0, 40}, kX), 0);
  EXPECT_TRUE(open_for_writing());
  EXPECT_EQ(set({0, 40}, kS), 0);
  EXPECT_FALSE(open_for_writing());
  // Refused, it leaves nothing behind.
  EXPECT_EQ(outsider_->set({5, 5}, kS), 0);
  EXPECT_EQ(set({0, 9}, kX), EAGAIN);
  EXPECT_EQ(held(), " S0-40");
}

TEST_F(LockDescriptionsTest, WhileSomebodyMayWriteTheDescriptorStays) {
  writers_ = 1;
  EXPECT_EQ(set({0, 9}, kX), 0);
  EXPECT_EQ(set({0, 9}, kU), 0);
  EXPECT_TRUE(open_for_writing());
  writers_ = 0;
  ours_->close_idle();
  EXPECT_FALSE(open_for_writing());
}

/// X of the mount holds 1, S outside holds 2, Y of the mount waits for 2, S asks for 1: no cycle.
TEST_F(LockDescriptionsTest, AWaitDoesNotMakeTheMirrorWait) {
  for (const Mode mode : {kX, kS}) {
    ASSERT_EQ(set({1, 1}, kX), 0);
    std::array<int, 2> told{};
    ASSERT_EQ(::pipe2(told.data(), O_CLOEXEC), 0);
    const pid_t child = ::fork();
    if (child == 0) {
      const int fd = ::open(path_.c_str(), O_RDWR);
      struct flock two = record_lock({2, 2}, kX);
      if (::fcntl(fd, F_SETLK, &two) != 0) ::_exit(100);
      [[maybe_unused]] auto n = ::write(told[1], "h", 1);
      while (true) {  // Y waits
        struct flock probe = record_lock({3, 3}, kX);
        if (::fcntl(fd, F_GETLK, &probe) == 0 && probe.l_type != F_UNLCK) break;
      }
      struct flock one = record_lock({1, 1}, kX);
      ::_exit(::fcntl(fd, F_SETLKW, &one) == 0 ? 0 : errno);
    }
    char c = 0;
    ASSERT_EQ(::read(told[0], &c, 1), 1);
    auto wait = begin_to_sit({2, 2}, mode);
    ASSERT_EQ(outsider_->set({3, 3}, kX), 0);  // tells the child
    while (waiting_lines(path_) < 2) {
      int status = 0;
      ASSERT_EQ(::waitpid(child, &status, WNOHANG), 0) << "refused: " << WEXITSTATUS(status);
      std::this_thread::yield();
    }
    EXPECT_EQ(set({1, 1}, kU), 0);
    int status = 0;
    EXPECT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_EQ(WEXITSTATUS(status), 0);
    EXPECT_EQ(wait->end.get(), 0);
    EXPECT_EQ(held(), mode == kX ? " X2-2" : " S2-2");
    EXPECT_EQ(set({0, lockmgr::kEof}, kU), 0);
    EXPECT_EQ(outsider_->set({3, 3}, kU), 0);
    ::close(told[0]);
    ::close(told[1]);
  }
}

TEST_F(LockDescriptionsTest, AnUpgradeKeepsWhatItHasWhileItWaits) {
  Outsider other(path_);
  ASSERT_EQ(set({0, 9}, kS), 0);
  ASSERT_EQ(outsider_->set({5, 9}, kS), 0);
  auto wait = begin_to_sit({0, 19}, kX);
  EXPECT_EQ(held(), " S0-9");
  EXPECT_EQ(other.set({0, 0}, kX), EAGAIN);
  EXPECT_EQ(other.set({0, 0}, kS), 0);
  EXPECT_EQ(other.set({0, 0}, kU), 0);
  EXPECT_EQ(outsider_->set({5, 9}, kU), 0);
  EXPECT_EQ(wait->end.get(), 0);
  EXPECT_EQ(held(), " X0-19");
  EXPECT_EQ(set({5, 30}, kS), 0);
  EXPECT_EQ(held(), " X0-4 S5-30");
  EXPECT_EQ(set({0, 30}, kU), 0);
  EXPECT_EQ(held(), "");
  EXPECT_FALSE(open_for_writing());
}

TEST_F(LockDescriptionsTest, ARecalledWaitLeavesAllAsItWas) {
  ASSERT_EQ(set({0, 9}, kS), 0);
  ASSERT_EQ(outsider_->set({5, 9}, kS), 0);
  auto wait = begin_to_sit({0, 19}, kX);
  threads_.recall(wait->id);
  EXPECT_EQ(wait->end.get(), EINTR);
  EXPECT_EQ(held(), " S0-9");
  EXPECT_FALSE(open_for_writing());
  EXPECT_EQ(set({0, 9}, kU), 0);
  EXPECT_EQ(held(), "");
}

TEST_F(LockDescriptionsTest, AWaitEndsWhenItsOwnSideGetsInItsWay) {
  ASSERT_EQ(outsider_->set({9, 9}, kX), 0);
  auto wait = begin_to_sit({0, 9}, kX);
  EXPECT_EQ(set({3, 4}, kS), 0);
  EXPECT_EQ(wait->end.get(), EINTR);
  EXPECT_EQ(held(), " S3-4");
  auto again = begin_to_sit({0, 9}, kX);
  EXPECT_EQ(outsider_->set({9, 9}, kU), 0);
  EXPECT_EQ(again->end.get(), 0);
  EXPECT_EQ(held(), " X0-9");
}

/// What is refused takes shared locks away from a wait of the same owner, and must not leave it
/// waiting for the daemon itself.
TEST_F(LockDescriptionsTest, ARefusalDoesNotLeaveAWaitBehindItsOwnSide) {
  ASSERT_EQ(set({0, 9}, kS), 0);
  ASSERT_EQ(outsider_->set({5, 5}, kS), 0);
  auto wait = begin_to_sit({0, 9}, kX);
  EXPECT_EQ(set({0, 9}, kX), EAGAIN);
  const bool ended = wait->end.wait_for(std::chrono::seconds(20)) == std::future_status::ready;
  EXPECT_TRUE(ended);
  if (!ended) threads_.recall(wait->id);
  EXPECT_EQ(wait->end.get(), EINTR);
  auto again = begin_to_sit({0, 9}, kX);
  EXPECT_EQ(outsider_->set({5, 5}, kU), 0);
  EXPECT_EQ(again->end.get(), 0);
  EXPECT_EQ(held(), " X0-9");
}

TEST_F(LockDescriptionsTest, OfTwoWaitsThatExcludeEachOtherTheLoserEnds) {
  ASSERT_EQ(outsider_->set({0, 19}, kX), 0);
  auto one = begin_to_sit({0, 9}, kX);
  auto two = begin({5, 14}, kX);
  while (waiting_lines(path_) < 2) std::this_thread::yield();
  EXPECT_EQ(outsider_->set({0, 19}, kU), 0);
  const int first = one->end.get();
  const int second = two->end.get();
  EXPECT_TRUE((first == 0 && second == EINTR) || (first == EINTR && second == 0))
      << first << " " << second;
  EXPECT_EQ(held(), first == 0 ? " X0-9" : " X5-14");
}

/// A wait may have its lock and not have said so: who asks meanwhile is not refused by it.
TEST_F(LockDescriptionsTest, AWinnerThatHasNotSpokenIsNoOutsider) {
  for (int round = 0; round < lockmgr::testing::scaled(300); ++round) {
    ASSERT_EQ(outsider_->set({0, 9}, kX), 0);
    auto wait = begin_to_sit({0, 9}, kX);
    ASSERT_EQ(outsider_->set({0, 9}, kU), 0);
    ASSERT_EQ(set({2, 5}, kX), 0) << "round " << round;
    const int end = wait->end.get();
    ASSERT_TRUE(end == 0 || end == EINTR);
    ASSERT_EQ(held(), end == 0 ? " X0-9" : " X2-5");
    ASSERT_EQ(set({0, lockmgr::kEof}, kU), 0);
    ASSERT_EQ(held(), "");
  }
}

TEST_F(LockDescriptionsTest, ManyWinnersAreCarriedTogether) {
  constexpr int kWaits = 40;
  ASSERT_EQ(outsider_->set({0, lockmgr::kEof}, kX), 0);
  std::vector<std::shared_ptr<Wait>> waits;
  for (int i = 0; i < kWaits; ++i) {
    waits.push_back(begin({10 * i, 10 * i + 4}, i % 3 == 0 ? kS : kX));
  }
  while (waiting_lines(path_) < kWaits) std::this_thread::yield();
  ASSERT_EQ(outsider_->set({0, lockmgr::kEof}, kU), 0);
  for (const auto& wait : waits) ASSERT_EQ(wait->end.get(), 0);
  for (int i = 0; i < kWaits; ++i) {
    EXPECT_EQ(outsider_->set({10 * i, 10 * i}, kX), EAGAIN);
    EXPECT_EQ(outsider_at({10 * i, 10 * i + 9}, kX), std::nullopt);
  }
  EXPECT_EQ(outsider_at({0, lockmgr::kEof}, kX), std::nullopt);
  // All of it, whoever holds what.
  EXPECT_EQ(set({0, 10 * kWaits}, kX), 0);
  EXPECT_EQ(held(), " X0-" + std::to_string(10 * kWaits));
  EXPECT_EQ(set({0, 10 * kWaits}, kS), 0);
  EXPECT_EQ(held(), " S0-" + std::to_string(10 * kWaits));
  EXPECT_FALSE(open_for_writing());
  EXPECT_EQ(set({0, lockmgr::kEof}, kU), 0);
  EXPECT_EQ(held(), "");
}

TEST_F(LockDescriptionsTest, AnAppendOnlyFileIsLockedExclusively) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root, for chattr";
  const UniqueFd file(::open(path_.c_str(), O_RDONLY | O_CLOEXEC));
  const auto flag = [&](bool on) {
    int flags = 0;
    if (::ioctl(file.get(), FS_IOC_GETFLAGS, &flags) != 0) return false;
    flags = on ? flags | FS_APPEND_FL : flags & ~FS_APPEND_FL;
    return ::ioctl(file.get(), FS_IOC_SETFLAGS, &flags) == 0;
  };
  if (!flag(true)) GTEST_SKIP() << "no append-only files here";
  EXPECT_EQ(set({0, 9}, kX), 0);
  EXPECT_EQ(set({20, 29}, kS), 0);
  EXPECT_EQ(held(), " X0-9 S20-29");
  EXPECT_TRUE(flag(false));
}

}  // namespace
}  // namespace lockfs
