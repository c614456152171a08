// What ext4 keeps for root is not for users who write through the mount, passed through or not; and
// a limit that the daemon was started with bounds nobody.
#include <fcntl.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "tests/mounted/fs/fs_support.h"

namespace lockfs::fstest {
namespace {

using test::UniqueFd;

class ReserveTest : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    const std::string image = fs_.scratch() + "/image";
    must_run("/", {"truncate", "-s", "32M", image});
    must_run("/", {"mkfs.ext4", "-q", "-m", "25", image});
    must_run("/", {"mount", "-o", "loop", image, fs_.source()});
    mounted_ = true;
    ASSERT_EQ(::chmod(fs_.source().c_str(), 0777), 0);
    ASSERT_EQ(fs_.start({std::string("passthrough=") + GetParam()}), "");
  }
  void TearDown() override {
    EXPECT_EQ(fs_.stop(), "");
    if (mounted_) {
      EXPECT_EQ(::umount2(fs_.source().c_str(), MNT_DETACH), 0);
    }
  }

  /// How many bytes `uid` can put into a new file, by write() or fallocate().
  long fill(const std::string& folder, uid_t uid, bool by_writing) const {
    const std::string path = folder + "/filled";
    const auto before = free_blocks();
    int result[2];
    EXPECT_EQ(::pipe(result), 0);
    const pid_t child = ::fork();
    if (child == 0) {
      constexpr long kStep = 65536;
      long done = 0;
      if (uid == 0 || (::setresgid(uid, uid, uid) == 0 && ::setresuid(uid, uid, uid) == 0)) {
        const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL, 0600);
        const std::string data(kStep, 'x');
        for (;; done += kStep) {
          const bool full = by_writing ? ::pwrite(fd, data.data(), kStep, done) != kStep
                                       : ::fallocate(fd, 0, done, kStep) != 0;
          if (full) break;
          if (by_writing && ::fdatasync(fd) != 0) break;
        }
      }
      const bool told = ::write(result[1], &done, sizeof done) == sizeof done;
      ::_exit(told ? 0 : 1);
    }
    ::close(result[1]);
    long done = -1;
    EXPECT_EQ(::read(result[0], &done, sizeof done), static_cast<ssize_t>(sizeof done));
    ::close(result[0]);
    int status = 0;
    EXPECT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_EQ(::unlink(path.c_str()), 0) << std::strerror(errno);
    // A file that is gone keeps its blocks for some seconds: the daemon has it open by its number.
    EXPECT_TRUE(test::eventually([&] {
      ::sync();
      return free_blocks() + 8 >= before;
    }));
    return done;
  }
  [[nodiscard]] fsblkcnt_t free_blocks() const {
    struct statvfs status {};
    EXPECT_EQ(::statvfs(fs_.source().c_str(), &status), 0);
    return status.f_bfree;
  }

  test::Mount fs_;
  bool mounted_ = false;
};

TEST_P(ReserveTest, IsForRoot) {
  constexpr uid_t kUser = 54321;
  constexpr long kAbout = 512 * 1024;
  for (const bool by_writing : {true, false}) {
    SCOPED_TRACE(by_writing ? "write" : "fallocate");
    const long on_source = fill(fs_.source(), kUser, by_writing);
    const long of_root = fill(fs_.source(), 0, by_writing);
    ASSERT_GT(of_root, on_source + 4 * kAbout) << "the filesystem keeps nothing";
    const long through_mount = fill(fs_.mount(), kUser, by_writing);
    EXPECT_LT(through_mount, on_source + kAbout);
    EXPECT_GT(through_mount, on_source - kAbout);
  }
}

INSTANTIATE_TEST_SUITE_P(Passthrough, ReserveTest, ::testing::Values("auto", "off"),
                         [](const ::testing::TestParamInfo<const char*>& value) {
                           return std::string(value.param);
                         });

// RLIMIT_FSIZE is the starter's; a user's own holds for him, in the kernel.
TEST(StartersLimits, BoundNobody) {
  constexpr rlim_t kLimit = 65536;
  for (const char* passthrough : {"passthrough=auto", "passthrough=off"}) {
    SCOPED_TRACE(passthrough);
    test::Mount fs;
    struct rlimit before {};
    ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
    const struct rlimit low { kLimit, before.rlim_max };
    ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &low), 0);
    const std::string started = fs.start({passthrough});
    ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
    ASSERT_EQ(started, "");
    const std::string path = fs.in_mount("file");
    EXPECT_TRUE(test::write_file(path, std::string(3 * kLimit, 'x')));
    EXPECT_EQ(::truncate(path.c_str(), 5 * kLimit), 0) << std::strerror(errno);
    {
      const UniqueFd fd(::open(path.c_str(), O_RDWR | O_CLOEXEC));
      EXPECT_EQ(::fallocate(fd.get(), 0, 0, 7 * kLimit), 0) << std::strerror(errno);
    }
    EXPECT_EQ(fs.stop(), "");
  }
}

}  // namespace
}  // namespace lockfs::fstest
