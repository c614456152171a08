// noatime and nodiratime: what is read, run or listed through the mount leaves access times alone,
// whoever reads the backing file.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "tests/mounted/fs/fs_support.h"

namespace lockfs::fstest {
namespace {

using test::Mount;

/// Long enough ago that relatime moves it with the first access.
constexpr time_t kLongAgo = 1'000'000'000;

class AccessTimesTest : public ::testing::TestWithParam<const char*> {
 protected:
  void start(const std::string& options) {
    std::filesystem::create_directory(fs_.in_source("dir"));
    ASSERT_TRUE(test::write_file(fs_.in_source("dir/entry"), ""));
    ASSERT_TRUE(test::write_file(fs_.in_source("file"), "contents"));
    std::filesystem::copy_file("/bin/true", fs_.in_source("program"));
    std::vector<std::string> all{std::string("passthrough=") + GetParam()};
    if (!options.empty()) all.push_back(options);
    ASSERT_EQ(fs_.start(all), "");
  }
  void TearDown() override { EXPECT_EQ(fs_.stop(), ""); }

  /// Whether `use` moves the access time of what is called `name`.
  bool moves(const std::string& name, const std::function<void(const std::string& path)>& use) {
    const std::string backing = fs_.in_source(name);
    const std::array<timespec, 2> times{timespec{kLongAgo, 0}, timespec{kLongAgo, 0}};
    EXPECT_EQ(::utimensat(AT_FDCWD, backing.c_str(), times.data(), 0), 0);
    use(fs_.in_mount(name));
    struct stat st {};
    EXPECT_EQ(::stat(backing.c_str(), &st), 0);
    return st.st_atim.tv_sec != kLongAgo;
  }
  bool reading_moves() {
    return moves("file",
                 [](const std::string& path) { EXPECT_EQ(test::read_file(path), "contents"); });
  }
  bool mapping_moves() {
    return moves("file", [](const std::string& path) {
      const test::UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
      void* const data = ::mmap(nullptr, 8, PROT_READ, MAP_SHARED, fd.get(), 0);
      ASSERT_NE(data, MAP_FAILED);
      EXPECT_EQ(std::string(static_cast<const char*>(data), 8), "contents");
      ::munmap(data, 8);
    });
  }
  bool running_moves() {
    return moves("program", [](const std::string& path) {
      EXPECT_EQ(::system(path.c_str()), 0);  // NOLINT(cert-env33-c): a path of the test's own
    });
  }
  bool listing_moves() {
    return moves("dir",
                 [](const std::string& path) { EXPECT_FALSE(std::filesystem::is_empty(path)); });
  }

  Mount fs_;
};

TEST_P(AccessTimesTest, MoveUnlessToldOtherwise) {
  start("");
  EXPECT_TRUE(reading_moves());
  EXPECT_TRUE(running_moves());
  EXPECT_TRUE(listing_moves());
}

TEST_P(AccessTimesTest, StayWithNoatime) {
  start("noatime");
  EXPECT_FALSE(reading_moves());
  EXPECT_FALSE(mapping_moves());
  EXPECT_FALSE(running_moves());
  EXPECT_FALSE(listing_moves());
}

TEST_P(AccessTimesTest, OfDirectoriesStayWithNodiratime) {
  start("nodiratime");
  EXPECT_TRUE(reading_moves());
  EXPECT_FALSE(listing_moves());
}

INSTANTIATE_TEST_SUITE_P(Passthrough, AccessTimesTest, ::testing::Values("auto", "off"),
                         [](const ::testing::TestParamInfo<const char*>& value) {
                           return std::string(value.param);
                         });

}  // namespace
}  // namespace lockfs::fstest
