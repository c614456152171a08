// File handles, as an NFS server that exports the mount uses them: they lead to the same file after
// the kernel has forgotten it and after the daemon was started anew, and to no other file ever.
#include <dirent.h>
#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <memory>
#include <string>

#include "tests/mounted/fs/fs_support.h"

namespace lockfs::fstest {
namespace {

using test::Mount;

union Handle {
  std::array<char, sizeof(file_handle) + MAX_HANDLE_SZ> bytes{};
  file_handle header;
};

Handle handle_of(const std::string& path) {
  Handle handle;
  handle.header.handle_bytes = MAX_HANDLE_SZ;
  int mount_id = 0;
  EXPECT_EQ(::name_to_handle_at(AT_FDCWD, path.c_str(), &handle.header, &mount_id, 0), 0)
      << path << ": " << std::strerror(errno);
  return handle;
}

/// What is read through a handle, or the name of the error.
std::string read_by_handle(const std::string& mount, Handle handle) {
  const Fd root(::open(mount.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  const Fd file(::open_by_handle_at(root, &handle.header, O_RDONLY | O_CLOEXEC));
  if (!file.ok()) return ::strerrorname_np(errno);
  std::array<char, 100> text{};
  const ssize_t got = ::read(file, text.data(), text.size());
  if (got < 0) return ::strerrorname_np(errno);
  return {text.data(), static_cast<std::size_t>(got)};
}

/// One filesystem for the source, mounted for the test: the one of the scratch directory where
/// `type` is empty.
class FileHandlesTest : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    LOCKFS_NOT_PLAIN();
    if (::geteuid() != 0) GTEST_SKIP() << "handles of the source are for root";
    fs_ = std::make_unique<Mount>();
    const std::string& type = GetParam();
    if (type == "tmpfs") {
      ASSERT_EQ(::mount("tmpfs", fs_->source().c_str(), "tmpfs", 0, nullptr), 0);
      mounted_ = true;
    } else if (!type.empty()) {
      const std::string image = fs_->scratch() + "/image";
      must_run("/", {"truncate", "-s", "512M", image});
      must_run("/", {"mkfs." + type, "-q", image});
      const auto result = run_in("/", {"mount", "-o", "loop", image, fs_->source()});
      if (result.status != 0) GTEST_SKIP() << "no loop device: " << result.output;
      mounted_ = true;
    }
    ASSERT_EQ(fs_->start({}), "");
  }
  void TearDown() override {
    if (fs_ == nullptr) return;
    EXPECT_EQ(fs_->stop(), "");
    if (mounted_) ::umount2(fs_->source().c_str(), MNT_DETACH);
  }

  void restart() {
    ASSERT_EQ(fs_->stop(), "");
    ASSERT_EQ(fs_->start({}), "");
  }
  /// Makes the kernel forget what it need not remember.
  void forget() {
    for (int i = 0; i < 3; ++i) {
      write_file("/proc/sys/vm/drop_caches", "2");
      fs_->settle();
    }
  }

  std::unique_ptr<Mount> fs_;
  bool mounted_ = false;
};

TEST_P(FileHandlesTest, LeadsToTheSameFileForgottenOrAfterARestart) {
  ASSERT_EQ(::mkdir(fs_->in_source("d").c_str(), 0755), 0);
  write_file(fs_->in_source("d/one"), "one");
  write_file(fs_->in_source("two"), "two");
  const Handle one = handle_of(fs_->in_mount("d/one"));
  const Handle two = handle_of(fs_->in_mount("two"));
  const Handle directory = handle_of(fs_->in_mount("d"));
  EXPECT_EQ(read_by_handle(fs_->mount(), one), "one");
  forget();
  EXPECT_EQ(read_by_handle(fs_->mount(), one), "one");
  EXPECT_EQ(read_by_handle(fs_->mount(), two), "two");
  restart();
  EXPECT_EQ(read_by_handle(fs_->mount(), one), "one");
  EXPECT_EQ(read_by_handle(fs_->mount(), two), "two");
  EXPECT_EQ(read_by_handle(fs_->mount(), directory), "EISDIR");
  // Found both ways it is one file, with one handle.
  const Handle again = handle_of(fs_->in_mount("d/one"));
  EXPECT_EQ(again.bytes, one.bytes);
  // Also when the name was seen first.
  restart();
  EXPECT_EQ(handle_of(fs_->in_mount("d/one")).bytes, one.bytes);
  EXPECT_EQ(read_by_handle(fs_->mount(), one), "one");
}

TEST_P(FileHandlesTest, NeverLeadsToAnotherFile) {
  write_file(fs_->in_source("file"), "old");
  const Handle old = handle_of(fs_->in_mount("file"));
  struct stat before {};
  struct stat after {};
  ASSERT_EQ(::stat(fs_->in_source("file").c_str(), &before), 0);
  ASSERT_EQ(fs_->stop(), "");
  ASSERT_EQ(::unlink(fs_->in_source("file").c_str()), 0);
  write_file(fs_->in_source("file"), "new");
  ASSERT_EQ(::stat(fs_->in_source("file").c_str(), &after), 0);
  RecordProperty("inode_number_reused", before.st_ino == after.st_ino ? 1 : 0);
  ASSERT_EQ(fs_->start({}), "");
  EXPECT_EQ(read_by_handle(fs_->mount(), old), "ESTALE");
  forget();
  EXPECT_EQ(read_by_handle(fs_->mount(), old), "ESTALE");
}

TEST_P(FileHandlesTest, ARemovedFileIsStale) {
  write_file(fs_->in_source("file"), "old");
  const Handle old = handle_of(fs_->in_mount("file"));
  ASSERT_EQ(::unlink(fs_->in_mount("file").c_str()), 0);
  forget();
  // A request may be served before the FORGET that came before it.
  const auto end = std::chrono::steady_clock::now() + test::deadline();
  while (read_by_handle(fs_->mount(), old) != "ESTALE") {
    ASSERT_LT(std::chrono::steady_clock::now(), end) << "the removed file is still there";
  }
  restart();
  EXPECT_EQ(read_by_handle(fs_->mount(), old), "ESTALE");
}

TEST_P(FileHandlesTest, ADirectoryOutsideTheSourceIsNotReached) {
  if (!GetParam().empty()) GTEST_SKIP() << "the source is the root of its filesystem";
  // The handle of the file, with the inode number of the directory above the source in it and
  // generation 0, which the kernel takes for any.
  write_file(fs_->in_source("file"), "text");
  Handle forged = handle_of(fs_->in_mount("file"));
  struct stat outside {};
  ASSERT_EQ(::stat(fs_->scratch().c_str(), &outside), 0);
  // nodeid high and low, generation (fuse_encode_fh())
  const std::array<std::uint32_t, 3> id{static_cast<std::uint32_t>(outside.st_ino >> 32),
                                        static_cast<std::uint32_t>(outside.st_ino), 0};
  ASSERT_EQ(forged.header.handle_bytes, sizeof id);
  std::memcpy(forged.header.f_handle, id.data(), sizeof id);
  EXPECT_EQ(read_by_handle(fs_->mount(), forged), "ESTALE");
}

INSTANTIATE_TEST_SUITE_P(Filesystems, FileHandlesTest,
                         ::testing::Values("", "tmpfs", "ext4", "xfs", "btrfs"),
                         [](const auto& one) { return one.param.empty() ? "scratch" : one.param; });

}  // namespace
}  // namespace lockfs::fstest
