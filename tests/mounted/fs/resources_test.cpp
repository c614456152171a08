// What the daemon holds: descriptors and memory stay bounded however many files are visited, and go
// back when the kernel forgets. The table of files works the same when descriptors are scarce.
// ctest: serial timeout=600
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <string>
#include <vector>

#include "tests/mounted/fs/fs_support.h"

namespace lockfs::fstest {
namespace {

class ResourcesTest : public FsTest {
 protected:
  long descriptors() const {
    const std::string path = "/proc/" + std::to_string(fs().pid()) + "/fd";
    long count = 0;
    DIR* stream = ::opendir(path.c_str());
    if (stream == nullptr) {
      ADD_FAILURE() << path;
      return 0;
    }
    while (::readdir(stream) != nullptr) ++count;  // NOLINT(concurrency-mt-unsafe)
    ::closedir(stream);
    return count - 2;
  }
  long descriptor_limit() const {
    std::ifstream limits("/proc/" + std::to_string(fs().pid()) + "/limits");
    std::string line;
    while (std::getline(limits, line)) {
      long soft = 0;
      if (std::sscanf(line.c_str(), "Max open files %ld", &soft) == 1) return soft;
    }
    ADD_FAILURE() << "no limit of open files";
    return 0;
  }
  /// A number of the daemon's /proc/<pid>/status.
  long status(const std::string& field) const {
    std::ifstream status("/proc/" + std::to_string(fs().pid()) + "/status");
    std::string line;
    while (std::getline(status, line)) {
      if (line.starts_with(field + ":")) return std::stol(line.substr(field.size() + 1));
    }
    ADD_FAILURE() << "no " << field;
    return 0;
  }
  long resident_kilobytes() const { return status("VmRSS"); }
  /// Sanitizers keep memory that was freed.
  bool sanitized() const {
    std::ifstream maps("/proc/" + std::to_string(fs().pid()) + "/maps");
    const std::string text{std::istreambuf_iterator<char>(maps), {}};
    return text.find("libasan") != std::string::npos || text.find("libtsan") != std::string::npos;
  }
  /// Makes the kernel forget what it need not remember, and waits until the daemon has heard of it.
  void forget(long expected_descriptors) {
    const auto end = std::chrono::steady_clock::now() + test::deadline();
    do {
      // More than once: entries are let go of before inodes, and FORGETs travel in the background.
      write_file("/proc/sys/vm/drop_caches", "2");
      fs().settle();
    } while (descriptors() > expected_descriptors && std::chrono::steady_clock::now() < end);
  }
  void make_files(int count, int per_directory) {
    for (int number = 0; number < count; ++number) {
      const std::string directory = "d" + std::to_string(number / per_directory);
      if (number % per_directory == 0) {
        ASSERT_EQ(::mkdirat(behind_.fd, directory.c_str(), 0755), 0);
      }
      ASSERT_EQ(::mknodat(behind_.fd, (directory + "/f" + std::to_string(number)).c_str(),
                          S_IFREG | 0644, 0),
                0);
    }
  }
  std::string file(int number, int per_directory) const {
    return "d" + std::to_string(number / per_directory) + "/f" + std::to_string(number);
  }
};

TEST_F(ResourcesTest, ManyFilesVisitedAndForgotten) {
  LOCKFS_NOT_PLAIN();
  const int count = scaled(200000, 2000);
  constexpr int kPerDirectory = 1000;
  make_files(count, kPerDirectory);
  const long few = descriptors();
  const long memory_empty = resident_kilobytes();
  const long limit = descriptor_limit();
  long most = 0;
  for (int number = 0; number < count; ++number) {
    struct stat stat {};
    ASSERT_EQ(::fstatat(mounted_.fd, file(number, kPerDirectory).c_str(), &stat, 0), 0)
        << number << ": " << ::strerrorname_np(errno);
    if (number % 20000 == 0) most = std::max(most, descriptors());
  }
  most = std::max(most, descriptors());
  const long memory_full = resident_kilobytes();
  // Half the limit may pin files; the rest is for open files.
  EXPECT_LE(most, limit / 2 + few + 64);
  std::printf("%d files: %ld descriptors at most (limit %ld), %ld kB resident\n", count, most,
              limit, memory_full);
  // Each is still itself, whether its descriptor was kept or not.
  auto random = make_random(20);
  for (int round = 0; round < scaled(2000); ++round) {
    const std::string name =
        file(static_cast<int>(below(random, static_cast<std::uint64_t>(count))), kPerDirectory);
    const Fd fd(::openat(mounted_.fd, name.c_str(), O_RDWR | O_CLOEXEC));
    ASSERT_TRUE(fd.ok()) << name;
    struct stat here {};
    struct stat behind {};
    ASSERT_EQ(::fstat(fd, &here), 0);
    ASSERT_EQ(::fstatat(behind_.fd, name.c_str(), &behind, 0), 0);
    ASSERT_EQ(here.st_ino, behind.st_ino) << name;
  }
  forget(few + 100);
  EXPECT_LE(descriptors(), few + 100);
  std::printf("forgotten: %ld descriptors, %ld kB resident\n", descriptors(), resident_kilobytes());
  // More tours would show what the first did not give back. How much each file takes is bounded;
  // how many are known at one time is the kernel's to decide.
  for (int tour = 0; tour < 3; ++tour) {
    for (int number = 0; number < count / 4; ++number) {
      struct stat stat {};
      ASSERT_EQ(::fstatat(mounted_.fd, file(number, kPerDirectory).c_str(), &stat, 0), 0)
          << number << ": " << ::strerrorname_np(errno);
    }
    forget(few + 100);
  }
  constexpr long kBytesEach = 768;
  std::printf("three tours more: %ld kB resident\n", resident_kilobytes());
  if (!sanitized()) {
    EXPECT_LE(resident_kilobytes(), memory_empty + count * kBytesEach / 1024 + 4096);
  }
  EXPECT_LE(descriptors(), few + 100);
}

/// To enlarge the table of descriptors makes a process with threads wait for milliseconds.
TEST_F(ResourcesTest, TheTableOfDescriptorsNeedNotGrow) {
  EXPECT_GE(status("FDSize"), std::min(descriptor_limit(), 60'000L));
}

TEST_F(ResourcesTest, OpenFilesGiveTheirDescriptorsBack) {
  LOCKFS_NOT_PLAIN();
  write_file(mounted_ / "file", "contents");
  const auto round_trip = [&] {
    std::vector<Fd> fds;
    for (int number = 0; number < 300; ++number) {
      fds.emplace_back(::openat(mounted_.fd, "file", O_RDWR | O_CLOEXEC));
      ASSERT_TRUE(fds.back().ok());
      fds.emplace_back(::openat(mounted_.fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
      ASSERT_TRUE(fds.back().ok());
      const std::string name = "gone" + std::to_string(number);
      fds.emplace_back(::openat(mounted_.fd, name.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644));
      ASSERT_TRUE(fds.back().ok());
      ASSERT_EQ(::unlinkat(mounted_.fd, name.c_str(), 0), 0);
    }
  };
  const long few = descriptors() + 20;
  round_trip();
  forget(few);
  const long before = descriptors();
  for (int round = 0; round < scaled(10, 2); ++round) round_trip();
  forget(before + 8);
  EXPECT_LE(descriptors(), before + 8);
}

/// Nothing that the daemon keeps for the next open keeps a removed file's space.
TEST_F(ResourcesTest, RemovedFileIsFreed) {
  LOCKFS_NOT_PLAIN();
  union {
    file_handle header;
    char bytes[sizeof(file_handle) + MAX_HANDLE_SZ];
  } handle{};
  file_handle* const id = &handle.header;
  id->handle_bytes = MAX_HANDLE_SZ;
  write_file(mounted_ / "file", "contents");
  int mount_id = 0;
  if (::name_to_handle_at(behind_.fd, "file", id, &mount_id, 0) != 0) {
    GTEST_SKIP() << "this filesystem has no file handles";
  }
  const Fd beside(::openat(behind_.fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  ASSERT_TRUE(beside.ok());
  const auto exists = [&beside, id] {
    return Fd(::open_by_handle_at(beside, id, O_RDONLY | O_CLOEXEC)).ok();
  };
  ASSERT_TRUE(exists());
  ASSERT_EQ(::unlinkat(mounted_.fd, "file", 0), 0);
  const auto end = std::chrono::steady_clock::now() + test::deadline();
  while (exists() && std::chrono::steady_clock::now() < end) fs().settle();
  EXPECT_FALSE(exists());
}

TEST_F(ResourcesTest, ErrorsLeaveNothingBehind) {
  LOCKFS_NOT_PLAIN();
  write_file(mounted_ / "file", "contents");
  const auto fail = [&] {
    const std::string too_long(256, 'x');
    ::openat(mounted_.fd, "missing", O_RDONLY | O_CLOEXEC);
    ::openat(mounted_.fd, "file", O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    ::openat(mounted_.fd, too_long.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    ::openat(mounted_.fd, "file/x", O_RDONLY | O_CLOEXEC);
    ::mkdirat(mounted_.fd, "file", 0755);
    ::unlinkat(mounted_.fd, "missing", 0);
    ::renameat(mounted_.fd, "missing", mounted_.fd, "file");
    ::linkat(mounted_.fd, "file", mounted_.fd, too_long.c_str(), 0);
    ::symlinkat("x", mounted_.fd, too_long.c_str());
    ::mknodat(mounted_.fd, "file", S_IFREG, 0);
    const Fd dir(::openat(mounted_.fd, "file", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  };
  const long few = descriptors() + 20;
  fail();
  forget(few);
  const long before = descriptors();
  for (int round = 0; round < scaled(500, 50); ++round) fail();
  forget(before + 4);
  EXPECT_LE(descriptors(), before + 4);
}

/// The daemon with room for few descriptors, so that most files have to be found again by handle.
class FewDescriptorsTest : public ResourcesTest {
 protected:
  static constexpr int kLimit = 300;

  void SetUp() override {
    if (!plain_mode()) {
      program_ = test::lockfs_program();
      // A script in the daemon's place: this process may not raise a hard limit again.
      wrapper_ = ::testing::TempDir() + "lockfs-few-" + std::to_string(::getpid());
      write_file(
          wrapper_,
          "#!/bin/sh\nulimit -n " + std::to_string(kLimit) + "\nexec '" + program_ + "' \"$@\"\n",
          0755);
      const char* before = std::getenv("LOCKFS_BIN");  // NOLINT(concurrency-mt-unsafe)
      had_variable_ = before != nullptr;
      ::setenv("LOCKFS_BIN", wrapper_.c_str(), 1);  // NOLINT(concurrency-mt-unsafe)
    }
    ResourcesTest::SetUp();
    if (!plain_mode()) {
      if (had_variable_) {
        ::setenv("LOCKFS_BIN", program_.c_str(), 1);  // NOLINT(concurrency-mt-unsafe)
      } else {
        ::unsetenv("LOCKFS_BIN");  // NOLINT(concurrency-mt-unsafe)
      }
      ::unlink(wrapper_.c_str());
    }
  }

 private:
  std::string program_;
  std::string wrapper_;
  bool had_variable_ = false;
};

TEST_F(FewDescriptorsTest, ManyMoreFilesThanDescriptors) {
  const int count = scaled(5000, 1000);
  constexpr int kPerDirectory = 50;
  make_files(count, kPerDirectory);
  for (int number = 0; number < count; ++number) {
    write_file(behind_ / file(number, kPerDirectory), "contents of " + std::to_string(number));
  }
  // All known to the kernel at once, by descriptors that the daemon knows nothing of.
  std::vector<Fd> paths;
  for (int number = 0; number < count; ++number) {
    paths.emplace_back(
        ::openat(mounted_.fd, file(number, kPerDirectory).c_str(), O_PATH | O_CLOEXEC));
    ASSERT_TRUE(paths.back().ok()) << number << " " << errno;
  }
  if (!plain_mode()) {
    EXPECT_LE(descriptors(), kLimit);
    EXPECT_EQ(descriptor_limit(), kLimit);
  }
  auto random = make_random(21);
  for (int round = 0; round < scaled(5000, 500); ++round) {
    const auto number = below(random, static_cast<std::uint64_t>(count));
    const std::string link = "/proc/self/fd/" + std::to_string(paths[number]);
    switch (below(random, 5)) {
      case 0: {
        struct stat here {};
        struct stat behind {};
        ASSERT_EQ(::stat(link.c_str(), &here), 0) << number;
        ASSERT_EQ(::fstatat(behind_.fd, file(static_cast<int>(number), kPerDirectory).c_str(),
                            &behind, 0),
                  0);
        ASSERT_EQ(here.st_ino, behind.st_ino);
        break;
      }
      case 1:
        ASSERT_EQ(read_file(link), "contents of " + std::to_string(number));
        break;
      case 2:
        ASSERT_EQ(::chmod(link.c_str(), 0600 + static_cast<mode_t>(round % 64)), 0);
        break;
      case 3:
        ASSERT_EQ(::truncate(link.c_str(), static_cast<off_t>(12 + std::to_string(number).size())),
                  0);
        break;
      default: {
        // Directories are found again as well: a name looked up below one long not used.
        const std::string name = file(static_cast<int>(number), kPerDirectory);
        ASSERT_EQ(::linkat(mounted_.fd, name.c_str(), mounted_.fd, (name + "h").c_str(), 0), 0);
        ASSERT_EQ(attributes(mounted_.fd, name + "h").stx_nlink, 2U);
        ASSERT_EQ(::unlinkat(mounted_.fd, (name + "h").c_str(), 0), 0);
        break;
      }
    }
  }
  expect_alike(portrait(mounted_.path, Detail::kExact), portrait(behind_.path, Detail::kExact),
               "mount against source");
  // Deleted behind the mount's back and the numbers used again: what the kernel still holds may be
  // gone, but is never the new file.
  for (int number = 0; number < count; number += 2) {
    ASSERT_EQ(::unlinkat(behind_.fd, file(number, kPerDirectory).c_str(), 0), 0);
  }
  std::map<std::uint64_t, std::string> fresh;
  for (int number = 0; number < count; number += 2) {
    const std::string name =
        "d" + std::to_string(number / kPerDirectory) + "/new" + std::to_string(number);
    write_file(behind_ / name, "another " + name);
    fresh[attributes(behind_ / name).stx_ino] = name;
  }
  int gone = 0;
  for (int number = 0; number < count; ++number) {
    const Fd fd(
        ::open(("/proc/self/fd/" + std::to_string(paths[static_cast<std::size_t>(number)])).c_str(),
               O_RDONLY | O_CLOEXEC));
    if (!fd.ok()) {
      EXPECT_TRUE(errno == ENOENT || errno == ESTALE) << errno;
      EXPECT_EQ(number % 2, 0) << number;
      ++gone;
      continue;
    }
    std::string text(100, '\0');
    const ssize_t size = ::pread(fd, text.data(), text.size(), 0);
    ASSERT_GE(size, 0) << errno;
    text.resize(static_cast<std::size_t>(size));
    EXPECT_EQ(text, "contents of " + std::to_string(number));
  }
  if (!plain_mode()) {
    // Only few can have been held open for the deleted to live on.
    EXPECT_GT(gone, count / 2 - kLimit);
  }
  for (const auto& [inode, name] : fresh) {
    EXPECT_EQ(read_file(mounted_ / name), "another " + name);
    EXPECT_EQ(attributes(mounted_ / name).stx_ino, inode);
  }
}

/// Likewise, and every name is looked up anew.
class FewDescriptorsUncachedTest : public FewDescriptorsTest {
 protected:
  std::vector<std::string> options() const override {
    return {"attr_timeout=0", "entry_timeout=0"};
  }
};

TEST_F(FewDescriptorsUncachedTest, KnownFilesThatChangePlacesBehindTheMount) {
  const int count = scaled(1000, 600);
  constexpr int kPerDirectory = 50;
  make_files(count, kPerDirectory);
  const auto name_of = [this](std::uint64_t number) {
    return file(static_cast<int>(number), kPerDirectory);
  };
  // Known to the daemon as long as these are open, most of them without a descriptor of its own.
  std::vector<Fd> paths;
  for (int number = 0; number < count; ++number) {
    paths.emplace_back(
        ::openat(mounted_.fd, file(number, kPerDirectory).c_str(), O_PATH | O_CLOEXEC));
    ASSERT_TRUE(paths.back().ok()) << number << " " << errno;
  }
  auto random = make_random(22);
  std::map<std::uint64_t, int> numbers;
  int reused = 0;
  for (int round = 0; round < scaled(10'000, 1000) && !HasFailure(); ++round) {
    const std::string name = name_of(below(random, static_cast<std::uint64_t>(count)));
    const std::string other = name_of(below(random, static_cast<std::uint64_t>(count)));
    const std::string text = "round " + std::to_string(round);
    switch (below(random, 4)) {
      case 0:
        ASSERT_EQ(::renameat2(behind_.fd, name.c_str(), behind_.fd, other.c_str(), RENAME_EXCHANGE),
                  0);
        break;
      case 1:
        write_file(behind_ / name, text, 0600);
        break;
      case 2: {
        // The number of a removed file goes to the next one.
        ASSERT_EQ(::unlinkat(behind_.fd, name.c_str(), 0), 0);
        ASSERT_EQ(::symlinkat(text.c_str(), behind_.fd, name.c_str()), 0);
        ASSERT_EQ(attributes(mounted_ / name).stx_size, text.size());
        ASSERT_EQ(::unlinkat(behind_.fd, name.c_str(), 0), 0);
        write_file(behind_ / name, text);
        reused += numbers[attributes(behind_ / name).stx_ino]++ > 0 ? 1 : 0;
        break;
      }
      default:
        ASSERT_EQ(::fchmodat(behind_.fd, name.c_str(), 0600 + static_cast<mode_t>(round % 64), 0),
                  0);
        break;
    }
    for (const std::string& each : {name, other}) {
      struct stat here {};
      struct stat truth {};
      ASSERT_EQ(::fstatat(mounted_.fd, each.c_str(), &here, AT_SYMLINK_NOFOLLOW), 0) << errno;
      ASSERT_EQ(::fstatat(behind_.fd, each.c_str(), &truth, AT_SYMLINK_NOFOLLOW), 0);
      ASSERT_EQ(here.st_ino, truth.st_ino) << each;
      ASSERT_EQ(here.st_mode, truth.st_mode) << each;
      ASSERT_EQ(here.st_size, truth.st_size) << each;
      ASSERT_EQ(here.st_mtim.tv_nsec, truth.st_mtim.tv_nsec) << each;
      ASSERT_EQ(read_file(mounted_ / each), read_file(behind_ / each)) << each;
    }
  }
  EXPECT_GT(reused, 0) << "the test needs inode numbers that come back";
}

TEST_F(FewDescriptorsTest, OneUserDoesNotUseThemUp) {
  LOCKFS_NOT_PLAIN();
  constexpr uid_t kGreedy = 54321;
  constexpr uid_t kOther = 54322;
  write_file(mounted_ / "file", "contents");
  ASSERT_EQ(::chmod((behind_ / "file").c_str(), 0666), 0);
  const auto open_as = [&](uid_t uid, int most, std::vector<Fd>& fds) {
    // The mount goes by whom the calling thread acts as.
    EXPECT_EQ(::setresuid(static_cast<uid_t>(-1), uid, static_cast<uid_t>(-1)), 0);
    int error = 0;
    for (int i = 0; i < most && error == 0; ++i) {
      Fd fd(::openat(mounted_.fd, "file", O_RDWR | O_CLOEXEC));
      if (fd.ok()) {
        fds.push_back(std::move(fd));
      } else {
        error = errno;
      }
    }
    EXPECT_EQ(::setresuid(static_cast<uid_t>(-1), 0, static_cast<uid_t>(-1)), 0);
    return error;
  };
  std::vector<Fd> greedy;
  std::vector<Fd> others;
  EXPECT_EQ(open_as(kGreedy, kLimit, greedy), ENFILE);
  EXPECT_GT(greedy.size(), 40U);
  EXPECT_EQ(open_as(kOther, 5, others), 0);
  EXPECT_EQ(open_as(0, 20, others), 0);
  // What he lets go of he gets again.
  const std::size_t had = greedy.size();
  greedy.clear();
  others.clear();
  EXPECT_TRUE(test::eventually([&] {
    greedy.clear();
    return open_as(kGreedy, kLimit, greedy) == ENFILE && greedy.size() == had;
  }));
}

TEST_F(FewDescriptorsTest, RunningOutIsReportedAndPasses) {
  LOCKFS_NOT_PLAIN();
  write_file(mounted_ / "file", "contents");
  std::vector<Fd> fds;
  int error = 0;
  for (int number = 0; number < 2 * kLimit; ++number) {
    Fd fd(::openat(mounted_.fd, "file", O_RDWR | O_CLOEXEC));
    if (!fd.ok()) {
      error = errno;
      break;
    }
    fds.push_back(std::move(fd));
  }
  // Too many open files at once: the opener hears of it, everybody else is served on.
  EXPECT_TRUE(error == EMFILE || error == ENFILE) << error;
  EXPECT_GT(fds.size(), 50U);
  ASSERT_EQ(::pwrite(fds.front(), "CON", 3, 0), 3);
  struct stat stat {};
  EXPECT_EQ(::fstat(fds.front(), &stat), 0);
  fds.clear();
  EXPECT_EQ(read_file(mounted_ / "file"), "CONtents");
  EXPECT_EQ(call_fd(::openat(mounted_.fd, "new", O_WRONLY | O_CREAT | O_CLOEXEC, 0644)).error, 0);
}

}  // namespace
}  // namespace lockfs::fstest
