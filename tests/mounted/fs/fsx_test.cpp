// One file, a model of it in memory, and random reads, writes, mappings, truncations, holes and
// reopenings that must always agree with the model: through one handle, through several, and with
// changes made on the source between lock-protected steps.
// ctest: timeout=600
#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <deque>
#include <string>
#include <vector>

#include "tests/mounted/fs/fs_support.h"

namespace lockfs::fstest {
namespace {

constexpr std::size_t kMaxSize = 300000;
constexpr std::size_t kMaxIo = 70000;
constexpr std::size_t kHandles = 3;

class FsxTest : public FsTest, public ::testing::WithParamInterface<std::string> {
 protected:
  std::vector<std::string> options() const override { return {GetParam()}; }

  void SetUp() override {
    FsTest::SetUp();
    if (HasFatalFailure()) return;
    write_file(mounted_ / "file", "");
    for (std::size_t handle = 0; handle < kHandles; ++handle) reopen(handle);
  }
  void TearDown() override {
    handles_ = {};
    FsTest::TearDown();
  }

  std::size_t any(std::size_t bound) { return below(random_, bound); }
  int any_handle() { return handles_[any(used_handles_)]; }
  void log(const std::string& words) {
    history_.push_back(words);
    if (history_.size() > 80) history_.pop_front();
  }

  void reopen(std::size_t handle) {
    handles_[handle].reset();
    const int sync = any(50) == 0 ? O_DSYNC : 0;
    handles_[handle] = Fd(::open((mounted_ / "file").c_str(), O_RDWR | O_CLOEXEC | sync));
    ASSERT_TRUE(handles_[handle].ok());
  }

  /// One random operation, on the file and on the model.
  void step();

  /// Compares size and the bytes of [from, from + size) as read() gives them.
  void check(int fd, std::size_t from, std::size_t size);
  /// The same through a fresh mapping.
  void check_mapped(int fd);
  void check_all();

  /// Compares and prints what led here when something is wrong.
  void expect_bytes(const std::string& how, std::size_t from, const std::string& seen,
                    const std::string& expected);

  std::string model_;
  std::size_t used_handles_ = kHandles;
  std::array<Fd, kHandles> handles_;
  std::deque<std::string> history_;
  std::uint64_t tag_ = 0;
  std::mt19937_64 random_ = make_random(std::hash<std::string>{}(GetParam()) + 1);
};

INSTANTIATE_TEST_SUITE_P(Passthrough, FsxTest,
                         ::testing::Values("passthrough=auto", "passthrough=off"),
                         [](const auto& test) {
                           return test.param.substr(test.param.find('=') + 1);
                         });

void FsxTest::expect_bytes(const std::string& how, std::size_t from, const std::string& seen,
                           const std::string& expected) {
  if (seen == expected) return;
  std::string text;
  for (const std::string& line : history_) text += line + "\n";
  const auto [at, unused] =
      std::mismatch(seen.begin(), seen.end(), expected.begin(), expected.end());
  const auto offset = static_cast<std::size_t>(at - seen.begin());
  ADD_FAILURE() << how << ": " << seen.size() << " bytes from " << from << ", expected "
                << expected.size() << "; first difference at " << from + offset << ", seed "
                << test_seed() << "\nseen     " << ::testing::PrintToString(seen.substr(offset, 40))
                << "\nexpected " << ::testing::PrintToString(expected.substr(offset, 40))
                << "\nafter\n"
                << text;
}

void FsxTest::check(int fd, std::size_t from, std::size_t size) {
  std::string bytes(size, '\0');
  const ssize_t count = ::pread(fd, bytes.data(), size, static_cast<off_t>(from));
  ASSERT_GE(count, 0);
  bytes.resize(static_cast<std::size_t>(count));
  const std::string expected = from < model_.size() ? model_.substr(from, size) : std::string();
  expect_bytes("read", from, bytes, expected);
}

void FsxTest::check_mapped(int fd) {
  if (model_.empty()) return;
  void* memory = ::mmap(nullptr, model_.size(), PROT_READ, MAP_SHARED, fd, 0);
  ASSERT_NE(memory, MAP_FAILED);
  struct stat stat {};
  ASSERT_EQ(::fstat(fd, &stat), 0);
  ASSERT_EQ(static_cast<std::size_t>(stat.st_size), model_.size());
  expect_bytes("mapping", 0, std::string(static_cast<char*>(memory), model_.size()), model_);
  ::munmap(memory, model_.size());
}

void FsxTest::check_all() {
  for (const Fd& fd : handles_) {
    struct stat stat {};
    ASSERT_EQ(::fstat(fd, &stat), 0);
    if (static_cast<std::size_t>(stat.st_size) != model_.size()) {
      expect_bytes("size " + std::to_string(stat.st_size), 0, "", model_);
      ADD_FAILURE() << "size " << stat.st_size << ", expected " << model_.size();
    }
    check(fd, 0, kMaxSize * 2);
  }
  check_mapped(handles_[any(kHandles)]);
}

void FsxTest::step() {
  const std::size_t from = any(kMaxSize);
  const std::size_t size = any(any(4) == 0 ? kMaxIo : 5000) + 1;
  const std::size_t inside = model_.empty() ? 0 : any(model_.size());
  const std::size_t length = std::min(size, model_.size() - inside);
  const int fd = any_handle();
  const std::string place =
      std::to_string(from) + "+" + std::to_string(size) + " by " + std::to_string(fd);
  const auto grow = [&](std::size_t to) {
    if (model_.size() < to) model_.resize(to, '\0');
  };
  switch (any(14)) {
    case 0:
    case 1:
    case 2: {
      log("write " + place);
      const std::string bytes = pattern(++tag_, size);
      ASSERT_EQ(::pwrite(fd, bytes.data(), size, static_cast<off_t>(from)),
                static_cast<ssize_t>(size));
      grow(from + size);
      model_.replace(from, size, bytes);
      break;
    }
    case 3:
    case 4:
    case 5:
      log("read " + place);
      check(fd, from, size);
      break;
    case 6: {
      const std::size_t to = any(kMaxSize);
      log("truncate to " + std::to_string(to));
      if (any(2) == 0) {
        ASSERT_EQ(::ftruncate(fd, static_cast<off_t>(to)), 0);
      } else {
        ASSERT_EQ(::truncate((mounted_ / "file").c_str(), static_cast<off_t>(to)), 0);
      }
      model_.resize(to, '\0');
      break;
    }
    case 7:
    case 8: {
      if (length == 0) break;
      const bool writing = any(2) == 0;
      log(std::string("mapped ") + (writing ? "write " : "read ") + std::to_string(inside) + "+" +
          std::to_string(length));
      const std::size_t page = inside & ~std::size_t{4095};
      void* memory = ::mmap(nullptr, inside - page + length, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
                            static_cast<off_t>(page));
      ASSERT_NE(memory, MAP_FAILED);
      char* bytes = static_cast<char*>(memory) + (inside - page);
      if (writing) {
        const std::string fresh = pattern(++tag_, length);
        std::memcpy(bytes, fresh.data(), length);
        model_.replace(inside, length, fresh);
      } else {
        expect_bytes("mapped read", inside, std::string(bytes, length),
                     model_.substr(inside, length));
      }
      ASSERT_EQ(::munmap(memory, inside - page + length), 0);
      break;
    }
    case 9: {
      log("punch " + place);
      ASSERT_EQ(::fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                            static_cast<off_t>(from), static_cast<off_t>(size)),
                0);
      if (from < model_.size()) {
        const std::size_t hole = std::min(size, model_.size() - from);
        model_.replace(from, hole, hole, '\0');
      }
      break;
    }
    case 10: {
      const bool zero = any(2) == 0;
      log((zero ? "zero " : "allocate ") + place);
      ASSERT_EQ(::fallocate(fd, zero ? FALLOC_FL_ZERO_RANGE : 0, static_cast<off_t>(from),
                            static_cast<off_t>(size)),
                0);
      grow(from + size);
      if (zero) model_.replace(from, size, size, '\0');
      break;
    }
    case 11: {
      // Apart from itself: copies that overlap are refused.
      if (length == 0 || (from < inside + length && inside < from + length)) break;
      log("copy " + std::to_string(inside) + "+" + std::to_string(length) + " to " +
          std::to_string(from));
      off_t in = static_cast<off_t>(inside);
      off_t out = static_cast<off_t>(from);
      const ssize_t copied = ::copy_file_range(fd, &in, any_handle(), &out, length, 0);
      ASSERT_GT(copied, 0);
      const auto bytes = static_cast<std::size_t>(copied);
      grow(from + bytes);
      model_.replace(from, bytes, model_.substr(inside, bytes));
      break;
    }
    case 12:
      if (any(8) != 0) break;  // slow on real disks
      log("sync");
      ASSERT_EQ(any(2) == 0 ? ::fsync(fd) : ::fdatasync(fd), 0);
      if (any(2) == 0) ::posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
      break;
    default: {
      const std::size_t handle = any(used_handles_);
      log("reopen " + std::to_string(handle));
      reopen(handle);
      break;
    }
  }
}

TEST_P(FsxTest, OneHandle) {
  used_handles_ = 1;
  const int steps = scaled(10000, 500);
  for (int number = 0; number < steps && !HasFailure(); ++number) {
    step();
    if (number % 500 == 499) check_all();
  }
  check_all();
  ASSERT_EQ(::fsync(handles_[0]), 0);
  EXPECT_TRUE(read_file(behind_ / "file") == model_);
}

TEST_P(FsxTest, SeveralHandles) {
  const int steps = scaled(10000, 500);
  for (int number = 0; number < steps && !HasFailure(); ++number) {
    step();
    if (number % 500 == 499) check_all();
  }
  check_all();
  ASSERT_EQ(::fsync(handles_[0]), 0);
  EXPECT_TRUE(read_file(behind_ / "file") == model_);
}

/// A lock on the whole file by each of the three calls, alternating.
class WholeFileLock {
 public:
  WholeFileLock(int fd, std::size_t kind) : fd_(fd), kind_(kind % 3) {
    EXPECT_EQ(apply(F_WRLCK), 0);
  }
  WholeFileLock(const WholeFileLock&) = delete;
  WholeFileLock& operator=(const WholeFileLock&) = delete;
  ~WholeFileLock() { EXPECT_EQ(apply(F_UNLCK), 0); }

 private:
  int apply(short type) const {
    if (kind_ == 0) return ::flock(fd_, type == F_UNLCK ? LOCK_UN : LOCK_EX);
    struct flock lock {};
    lock.l_type = type;
    lock.l_whence = SEEK_SET;
    return ::fcntl(fd_, kind_ == 1 ? F_SETLKW : F_OFD_SETLKW, &lock);
  }

  int fd_;
  std::size_t kind_;
};

TEST_P(FsxTest, ChangesOnTheSourceAreThereAfterALock) {
  // Two parties take turns under a lock: the test through the mount, and another that works on the
  // source under the lock an NFS client would have there. Whoever gets the lock next must find what
  // the other left, whatever was cached.
  const int rounds = scaled(200, 20);
  const Fd source(::open((behind_ / "file").c_str(), O_RDWR | O_CLOEXEC));
  const Fd locker(::open((mounted_ / "file").c_str(), O_RDWR | O_CLOEXEC));
  ASSERT_TRUE(source.ok() && locker.ok());
  for (int round = 0; round < rounds && !HasFailure(); ++round) {
    {
      const std::size_t handle = any(kHandles);
      const WholeFileLock lock(locker, static_cast<std::size_t>(round));
      // The size first, without a read to refresh it; then the bytes through every handle.
      struct stat stat {};
      ASSERT_EQ(::fstat(handles_[handle], &stat), 0);
      ASSERT_EQ(static_cast<std::size_t>(stat.st_size), model_.size()) << "round " << round;
      struct stat by_name {};
      ASSERT_EQ(::stat((mounted_ / "file").c_str(), &by_name), 0);
      ASSERT_EQ(static_cast<std::size_t>(by_name.st_size), model_.size());
      struct stat behind {};
      ASSERT_EQ(::fstat(source, &behind), 0);
      EXPECT_EQ(stat.st_mtim.tv_nsec, behind.st_mtim.tv_nsec);
      check_all();
      for (int number = 0; number < 8 && !HasFailure(); ++number) step();
      // What was written through a mapping is the writer's to push out before he unlocks. Closing a
      // descriptor (a reopening above) drops a POSIX lock, which a real program would mind.
      ASSERT_EQ(::fsync(handles_[0]), 0);
    }
    {
      const WholeFileLock lock(source, 2);
      const std::size_t from = any(kMaxSize);
      const std::string bytes = pattern(++tag_, any(20000) + 1);
      log("on the source: write " + std::to_string(from) + "+" + std::to_string(bytes.size()));
      ASSERT_EQ(::pwrite(source, bytes.data(), bytes.size(), static_cast<off_t>(from)),
                static_cast<ssize_t>(bytes.size()));
      if (model_.size() < from + bytes.size()) model_.resize(from + bytes.size(), '\0');
      model_.replace(from, bytes.size(), bytes);
      if (any(3) == 0) {
        const std::size_t to = any(kMaxSize);
        log("on the source: truncate to " + std::to_string(to));
        ASSERT_EQ(::ftruncate(source, static_cast<off_t>(to)), 0);
        model_.resize(to, '\0');
      }
    }
  }
}

}  // namespace
}  // namespace lockfs::fstest
