/// The daemon is killed since memory ran out, in a control group of its own: its keepers are
/// spared, and nobody notices.

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>

#include "tests/mounted/support/actor.h"
#include "tests/mounted/support/mounted.h"

namespace lockfs::test {
namespace {

/// A control group whose memory is limited; removed at the end, when nobody is in it any more.
class MemoryGroup {
 public:
  /// The reason why there is none, or an empty string.
  std::string make() {
    for (const auto& [parent, limit] : {std::pair{"/sys/fs/cgroup/memory", "memory.limit_in_bytes"},
                                        std::pair{"/sys/fs/cgroup", "memory.max"}}) {
      folder_ = std::string(parent) + "/lockfs-test-" + std::to_string(::getpid());
      limit_ = folder_ + "/" + limit;
      if (::mkdir(folder_.c_str(), 0755) != 0) continue;
      if (::access(limit_.c_str(), W_OK) == 0) return "";
      ::rmdir(folder_.c_str());
    }
    folder_.clear();
    return "this machine has no control groups that limit memory";
  }
  MemoryGroup() = default;
  MemoryGroup(const MemoryGroup&) = delete;
  MemoryGroup& operator=(const MemoryGroup&) = delete;
  ~MemoryGroup() {
    if (!folder_.empty()) eventually([this] { return ::rmdir(folder_.c_str()) == 0; });
  }
  [[nodiscard]] bool add(pid_t pid) const {
    return write_file(folder_ + "/cgroup.procs", std::to_string(pid));
  }
  [[nodiscard]] bool limit(std::size_t bytes) const {
    return write_file(limit_, std::to_string(bytes));
  }

 private:
  std::string folder_;
  std::string limit_;
};

class OutOfMemoryTest : public ::testing::Test {
 protected:
  static constexpr int kFolders = 100;
  static constexpr int kFiles = 600;  ///< in each

  void SetUp() override {
    LOCKFS_NOT_PLAIN();
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    GTEST_SKIP() << "sanitizers take more memory than this gives";
#endif
    if (const std::string why = group_.make(); !why.empty()) GTEST_SKIP() << why;
    for (int i = 0; i < kFolders; ++i) {
      const std::string folder = fs_.in_source(std::to_string(i));
      ASSERT_EQ(::mkdir(folder.c_str(), 0755), 0);
      for (int k = 0; k < kFiles; ++k) {
        ASSERT_EQ(::mknod((folder + "/" + std::to_string(k)).c_str(), S_IFREG | 0644, 0), 0);
      }
    }
    fs_.allow_log("the daemon was killed by signal 9 .* goes on");
    ASSERT_EQ(fs_.start({"survive=on"}), "");
    for (const pid_t pid : {fs_.standby_pid(), fs_.keeper_pid(), fs_.daemon_pid()}) {
      ASSERT_GT(pid, 0);
      ASSERT_TRUE(group_.add(pid)) << std::strerror(errno);
    }
  }
  void TearDown() override { EXPECT_EQ(fs_.stop(), ""); }

  MemoryGroup group_;
  Mount fs_;
};

TEST_F(OutOfMemoryTest, TheDaemonDiesAndNobodyNotices) {
  const pid_t standby = fs_.standby_pid();
  const pid_t keeper = fs_.keeper_pid();
  const pid_t first = fs_.daemon_pid();
  Actor holder;
  Actor waiter;
  const int held = holder.open(fs_.in_mount("0/0"), O_RDWR);
  const int fd = waiter.open(fs_.in_mount("0/0"), O_RDWR);
  ASSERT_EQ(holder.try_lock(held, Kind::kPosix, Mode::kExclusive), 0);
  waiter.start_lock(fd, Kind::kPosix, Mode::kExclusive);
  ASSERT_TRUE(waiter.waits());
  // More than the daemon needs to go on, and less than it takes for so many files.
  constexpr std::size_t kMemory = std::size_t{14} << 20;
  ASSERT_TRUE(group_.limit(kMemory)) << std::strerror(errno);
  int seen = 0;
  for (int i = 0; i < kFolders; ++i) {
    const std::string folder = fs_.in_mount(std::to_string(i));
    for (int k = 0; k < kFiles; ++k) {
      struct stat st {};
      const std::string file = folder + "/" + std::to_string(k);
      ASSERT_EQ(::stat(file.c_str(), &st), 0) << file << ": " << std::strerror(errno);
      ++seen;
    }
  }
  EXPECT_EQ(seen, kFolders * kFiles);
  EXPECT_NE(fs_.daemon_pid(), first) << "memory did not run out";
  EXPECT_EQ(fs_.standby_pid(), standby);
  EXPECT_EQ(fs_.keeper_pid(), keeper);
  EXPECT_FALSE(waiter.has_result());
  EXPECT_EQ(holder.unlock(held, Kind::kPosix), 0);
  EXPECT_EQ(waiter.result(), 0);
  EXPECT_EQ(waiter.close(fd), 0);
  EXPECT_EQ(holder.close(held), 0);
}

}  // namespace
}  // namespace lockfs::test
