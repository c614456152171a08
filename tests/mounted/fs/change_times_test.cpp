// Times that change without a call that the kernel makes through FUSE: a store to a mapping,
// chattr. Whoever asks sees them, however long attributes may be believed.
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <string>
#include <thread>

#include "tests/mounted/fs/fs_support.h"

namespace lockfs::fstest {
namespace {

using test::UniqueFd;

constexpr time_t kLongAgo = 1'000'000'000;
constexpr std::size_t kSize = 8192;

class ChangeTimesTest : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    ASSERT_TRUE(test::write_file(fs_.in_source("file"), std::string(kSize, 'x')));
    ASSERT_EQ(fs_.start({std::string("passthrough=") + GetParam(), "attr_timeout=3600"}), "");
  }
  void TearDown() override { EXPECT_EQ(fs_.stop(), ""); }

  [[nodiscard]] std::string file() const { return fs_.in_mount("file"); }
  static struct stat stat_of(const std::string& path) {
    struct stat st {};
    EXPECT_EQ(::stat(path.c_str(), &st), 0) << std::strerror(errno);
    return st;
  }
  static char* map(int fd) {
    void* const at = ::mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    EXPECT_NE(at, MAP_FAILED) << std::strerror(errno);
    return static_cast<char*>(at);
  }
  /// The file's times lie long ago, and the kernel knows.
  static void make_old(const std::string& path) {
    const std::array<timespec, 2> times{timespec{kLongAgo, 0}, timespec{kLongAgo, 0}};
    EXPECT_EQ(::utimensat(AT_FDCWD, path.c_str(), times.data(), 0), 0);
    EXPECT_EQ(stat_of(path).st_mtim.tv_sec, kLongAgo);
  }
  static bool is_old(const std::string& path) { return stat_of(path).st_mtim.tv_sec == kLongAgo; }

  test::Mount fs_;
};

TEST_P(ChangeTimesTest, OfAStoreToAMapping) {
  stat_of(file());
  UniqueFd fd(::open(file().c_str(), O_RDWR | O_CLOEXEC));
  char* const data = map(fd.get());
  for (const bool by_descriptor : {false, true}) {
    make_old(file());
    data[0] = 'y';
    EXPECT_EQ(::msync(data, kSize, MS_SYNC), 0);
    struct stat st {};
    EXPECT_EQ(by_descriptor ? ::fstat(fd.get(), &st) : ::stat(file().c_str(), &st), 0);
    EXPECT_NE(st.st_mtim.tv_sec, kLongAgo);
  }
  // The mapping outlives the open file.
  fd.reset();
  make_old(file());
  data[1] = 'z';
  EXPECT_EQ(::msync(data, kSize, MS_SYNC), 0);
  EXPECT_FALSE(is_old(file()));
  make_old(file());
  data[2] = 'z';
  ::munmap(data, kSize);
  if (std::string(GetParam()) == "auto") {
    EXPECT_FALSE(is_old(file()));
  }
}

TEST_P(ChangeTimesTest, OfAStoreToAFileJustMade) {
  const std::string path = fs_.in_mount("new");
  const UniqueFd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  ASSERT_EQ(::ftruncate(fd.get(), kSize), 0);
  char* const data = map(fd.get());
  make_old(path);
  data[0] = 'y';
  EXPECT_EQ(::msync(data, kSize, MS_SYNC), 0);
  EXPECT_FALSE(is_old(path));
  ::munmap(data, kSize);
}

// Files that cannot be mapped for writing are not asked for each time: also when they were open for
// both, once that is over.
TEST_P(ChangeTimesTest, AreBelievedOtherwise) {
  const auto believes = [&] {
    make_old(file());
    const std::array<timespec, 2> times{timespec{kLongAgo + 1, 0}, timespec{kLongAgo + 1, 0}};
    EXPECT_EQ(::utimensat(AT_FDCWD, fs_.in_source("file").c_str(), times.data(), 0), 0);
    return is_old(file());
  };
  for (const int how : {O_RDONLY, O_WRONLY}) {
    const UniqueFd fd(::open(file().c_str(), how | O_CLOEXEC));
    EXPECT_TRUE(believes());
  }
  {
    UniqueFd fd(::open(file().c_str(), O_RDWR | O_CLOEXEC));
    char* const data = map(fd.get());
    fd.reset();
    const bool passed_through = std::string(GetParam()) == "auto";
    EXPECT_EQ(believes(), !passed_through) << "it is still mapped";
    ::munmap(data, kSize);
  }
  // The kernel lets go of what was closed a moment later.
  EXPECT_TRUE(test::eventually(believes));
}

TEST_P(ChangeTimesTest, OfChattr) {
  std::filesystem::create_directory(fs_.in_source("dir"));
  for (const std::string& path : {file(), fs_.in_mount("dir")}) {
    const timespec before = stat_of(path).st_ctim;
    const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    int flags = 0;
    ASSERT_EQ(::ioctl(fd.get(), FS_IOC_GETFLAGS, &flags), 0) << std::strerror(errno);
    flags |= FS_NODUMP_FL;
    ASSERT_EQ(::ioctl(fd.get(), FS_IOC_SETFLAGS, &flags), 0) << std::strerror(errno);
    const timespec after = stat_of(path).st_ctim;
    EXPECT_TRUE(after.tv_sec != before.tv_sec || after.tv_nsec != before.tv_nsec) << path;
  }
}

INSTANTIATE_TEST_SUITE_P(Passthrough, ChangeTimesTest, ::testing::Values("auto", "off"),
                         [](const ::testing::TestParamInfo<const char*>& value) {
                           return std::string(value.param);
                         });

}  // namespace
}  // namespace lockfs::fstest
