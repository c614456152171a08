// The table of inodes: which attributes the kernel may be told when others change the file at the
// same time, and which inodes were there at a moment.
// ctest: links=lockfs_tree
#include "fs/tree/inode_table.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

namespace lockfs {
namespace {

class InodeTableTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = ::testing::TempDir() + "inode_table.XXXXXX";
    ASSERT_NE(::mkdtemp(folder_.data()), nullptr);
    table_.emplace(book_, UniqueFd(::open(folder_.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC)), 100);
  }
  void TearDown() override {
    table_.reset();
    ::unlink(file().c_str());
    ::rmdir(folder_.c_str());
  }

  std::string file() const { return folder_ + "/file"; }
  InodePtr add_file() {
    const UniqueFd made(::open(file().c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0644));
    UniqueFd fd(::open(file().c_str(), O_PATH | O_CLOEXEC));
    struct stat st {};
    EXPECT_EQ(::fstat(fd.get(), &st), 0);
    return table_->intern(std::move(fd), st);
  }

  std::string folder_;
  Book book_{{kInodeShape, kNameShape, kHandleShape}, 1, false};
  std::optional<InodeTable> table_;
};

/// What the kernel believes of a file, as fuse_change_attributes() and fuse_reverse_inval_inode()
/// keep it: an answer to a request sent before a notification is dropped.
class Kernel {
 public:
  std::uint64_t send_request() {
    const std::lock_guard lock(mutex_);
    return version_;
  }
  void take_answer(std::uint64_t sent, int value) {
    const std::lock_guard lock(mutex_);
    if (sent == version_) believed_ = value;
  }
  void notify() {
    const std::lock_guard lock(mutex_);
    ++version_;
    believed_.reset();
  }
  std::optional<int> believed() {
    const std::lock_guard lock(mutex_);
    return believed_;
  }

 private:
  std::mutex mutex_;
  std::uint64_t version_ = 0;
  std::optional<int> believed_;
};

TEST_F(InodeTableTest, TheKernelBelievesNothingOlderThanAGrant) {
  const InodePtr inode = add_file();
  Kernel kernel;
  std::atomic<int> content{0};
  std::atomic<bool> ended{false};
  std::thread looker([&] {
    while (!ended) {
      if (kernel.believed()) continue;
      const std::uint64_t sent = kernel.send_request();
      const std::uint64_t looks = table_->attribute_looks();
      int value = content;
      if (!table_->set_attr_cached(*inode, looks)) value = content;
      kernel.take_answer(sent, value);
    }
  });
  constexpr int kRounds = 200'000;
  for (int round = 1; round <= kRounds && !HasFailure(); ++round) {
    content = round;
    if (table_->clear_attr_cached(*inode)) kernel.notify();
    // Two grants in a row: the second mostly finds nothing to notify the kernel of.
    if (round % 2 == 1) continue;
    std::optional<int> believed;
    while (!(believed = kernel.believed())) {
    }
    EXPECT_EQ(*believed, round);
  }
  ended = true;
  looker.join();
}

TEST_F(InodeTableTest, TellsWhoWasThereBefore) {
  const std::uint32_t before = table_->added();
  const InodePtr inode = add_file();
  EXPECT_FALSE(InodeTable::is_among(before, *inode));
  EXPECT_TRUE(InodeTable::is_among(table_->added(), *inode));
  EXPECT_TRUE(InodeTable::is_among(before, *table_->root()));
}

TEST_F(InodeTableTest, KnowsItsFileByNameWithoutADescriptor) {
  const InodePtr inode = add_file();
  if (inode->device().can_reopen()) {
    EXPECT_TRUE(inode->is_at(AT_FDCWD, file().c_str()));
  }
  ASSERT_EQ(::unlink(file().c_str()), 0);
  EXPECT_FALSE(inode->is_at(AT_FDCWD, file().c_str()));
  const UniqueFd other(::open(file().c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0644));
  EXPECT_FALSE(inode->is_at(AT_FDCWD, file().c_str()));
}

TEST_F(InodeTableTest, FindsByNumberAndTellsWhetherADescriptorIsOpen) {
  const InodePtr inode = add_file();
  bool pinned = false;
  EXPECT_EQ(table_->find(inode->id(), &pinned), inode);
  EXPECT_TRUE(pinned);
  EXPECT_FALSE(table_->find({inode->id().dev, 0}));
}

TEST_F(InodeTableTest, AttributesReadBeforeAGrantAreRefusedAfterIt) {
  const InodePtr inode = add_file();
  const std::uint64_t before = table_->attribute_looks();
  EXPECT_FALSE(table_->clear_attr_cached(*inode));
  EXPECT_FALSE(table_->set_attr_cached(*inode, before));
  EXPECT_TRUE(table_->clear_attr_cached(*inode)) << "the kernel may have got them nevertheless";
  EXPECT_TRUE(table_->set_attr_cached(*inode, table_->attribute_looks()));
  EXPECT_TRUE(table_->clear_attr_cached(*inode));
}

}  // namespace
}  // namespace lockfs
