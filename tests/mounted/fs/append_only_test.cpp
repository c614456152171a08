// Append-only files (chattr +a), of which the kernel does not know: nothing that is in them is
// written over, passed through or not.
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>

#include "tests/mounted/fs/fs_support.h"

namespace lockfs::fstest {
namespace {

using test::UniqueFd;

class AppendOnlyTest : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    ASSERT_TRUE(test::write_file(fs_.in_source("log"), "first line\n"));
    ASSERT_EQ(fs_.start({std::string("passthrough=") + GetParam()}), "");
    set_append_only(true);
  }
  void TearDown() override {
    set_append_only(false);
    EXPECT_EQ(fs_.stop(), "");
  }
  void set_append_only(bool wanted) {
    const UniqueFd fd(::open(fs_.in_source("log").c_str(), O_RDONLY | O_CLOEXEC));
    int flags = 0;
    ASSERT_EQ(::ioctl(fd.get(), FS_IOC_GETFLAGS, &flags), 0) << std::strerror(errno);
    flags = wanted ? flags | FS_APPEND_FL : flags & ~FS_APPEND_FL;
    ASSERT_EQ(::ioctl(fd.get(), FS_IOC_SETFLAGS, &flags), 0) << std::strerror(errno);
  }
  [[nodiscard]] int open_log(int flags) const {
    return ::open(fs_.in_mount("log").c_str(), flags | O_CLOEXEC);
  }
  [[nodiscard]] std::string contents() const { return test::read_file(fs_.in_source("log")); }

  test::Mount fs_;
};

TEST_P(AppendOnlyTest, IsOpenedForAppendingOnly) {
  EXPECT_EQ(open_log(O_RDWR), -1);
  EXPECT_EQ(errno, EPERM);
  EXPECT_EQ(open_log(O_WRONLY | O_APPEND | O_TRUNC), -1);
  EXPECT_EQ(errno, EPERM);
  const UniqueFd fd(open_log(O_RDWR | O_APPEND));
  ASSERT_TRUE(fd.valid()) << std::strerror(errno);
  EXPECT_EQ(::write(fd.get(), "second\n", 7), 7);
  EXPECT_EQ(::ftruncate(fd.get(), 3), -1);
  EXPECT_EQ(contents(), "first line\nsecond\n");
  std::string seen(18, ' ');
  EXPECT_EQ(::pread(fd.get(), seen.data(), seen.size(), 0), 18);
  EXPECT_EQ(seen, contents());
}

TEST_P(AppendOnlyTest, WithoutItsFlagAWriteStillAppends) {
  const UniqueFd fd(open_log(O_RDWR | O_APPEND));
  ASSERT_TRUE(fd.valid()) << std::strerror(errno);
  ::fcntl(fd.get(), F_SETFL, 0);
  EXPECT_EQ(::pwrite(fd.get(), "OVER", 4, 0), 4);
  EXPECT_EQ(contents(), "first line\nOVER");
}

TEST_P(AppendOnlyTest, IsNotMappedForWriting) {
  const UniqueFd reader(open_log(O_RDONLY));
  void* const seen = ::mmap(nullptr, 11, PROT_READ, MAP_SHARED, reader.get(), 0);
  ASSERT_NE(seen, MAP_FAILED);
  EXPECT_EQ(std::string(static_cast<const char*>(seen), 11), "first line\n");
  ::munmap(seen, 11);
  const UniqueFd fd(open_log(O_RDWR | O_APPEND));
  ASSERT_TRUE(fd.valid()) << std::strerror(errno);
  void* const at = ::mmap(nullptr, 11, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
  EXPECT_EQ(at, MAP_FAILED);
  if (at != MAP_FAILED) {
    static_cast<char*>(at)[0] = 'X';
    ::msync(at, 11, MS_SYNC);
    ::munmap(at, 11);
  }
  EXPECT_EQ(contents(), "first line\n");
}

// The first open after chattr decides anew.
TEST_P(AppendOnlyTest, AlsoWhereItWasOpenBefore) {
  set_append_only(false);
  { const UniqueFd fd(open_log(O_RDWR)); }
  set_append_only(true);
  ASSERT_TRUE(test::eventually([&] {
    // The kernel lets go of what was closed a moment later.
    const UniqueFd fd(open_log(O_RDWR | O_APPEND));
    if (!fd.valid()) return false;
    void* const at = ::mmap(nullptr, 11, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
    if (at != MAP_FAILED) ::munmap(at, 11);
    return at == MAP_FAILED;
  }));
}

// Where somebody has had it open since before, it is passed through; then it is not opened so that
// it could be mapped.
TEST_P(AppendOnlyTest, AlsoWhileItIsOpenSinceBefore) {
  set_append_only(false);
  const UniqueFd reader(open_log(O_RDONLY));
  set_append_only(true);
  const UniqueFd both(open_log(O_RDWR | O_APPEND));
  if (both.valid()) {
    EXPECT_EQ(::mmap(nullptr, 11, PROT_READ | PROT_WRITE, MAP_SHARED, both.get(), 0), MAP_FAILED);
  } else {
    EXPECT_EQ(errno, EPERM);
  }
  const UniqueFd writer(open_log(O_WRONLY | O_APPEND));
  ASSERT_TRUE(writer.valid()) << std::strerror(errno);
  EXPECT_EQ(::write(writer.get(), "second\n", 7), 7);
  EXPECT_EQ(contents(), "first line\nsecond\n");
}

INSTANTIATE_TEST_SUITE_P(Passthrough, AppendOnlyTest, ::testing::Values("auto", "off"),
                         [](const ::testing::TestParamInfo<const char*>& value) {
                           return std::string(value.param);
                         });

}  // namespace
}  // namespace lockfs::fstest
