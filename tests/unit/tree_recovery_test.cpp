// Inodes and open files of a process that died, found again by the next one: both use one book, and
// the descriptors stay open. The first is left as it stands, as by a signal.
// ctest: links=lockfs_tree
#include <dirent.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "fs/base/book.h"
#include "fs/options/options.h"
#include "fs/tree/filesystem.h"
#include "fs/tree/handle_set.h"
#include "fs/tree/inode_table.h"
#include "fs/tree/records.h"

namespace lockfs {
namespace {

constexpr int kMostDescriptors = 400;

/// What the dead left behind: reachable, for leak checkers.
template <typename T>
void abandon(std::unique_ptr<T> dead) {
  static auto& graveyard = *new std::vector<T*>;
  if (dead != nullptr) graveyard.push_back(dead.release());
}

UniqueFd open_path(const std::string& path) {
  return UniqueFd(::open(path.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
}

struct stat stat_of(int fd) {
  struct stat st {};
  EXPECT_EQ(::fstat(fd, &st), 0);
  return st;
}

/// A process: what it has in its own memory.
struct Life {
  Life(Book& book, const std::string& root)
      : inodes(std::make_unique<InodeTable>(book, open_path(root), 100)),
        files(std::make_unique<HandleSet<Handle>>(book)),
        directories(std::make_unique<HandleSet<DirHandle>>(book)) {}

  InodePtr intern(const std::string& path) const {
    UniqueFd fd = open_path(path);
    const struct stat st = stat_of(fd.get());
    return inodes->intern(std::move(fd), st);
  }
  /// As a LOOKUP that was answered; returns the nodeid.
  std::uint64_t lookup(const std::string& path) const {
    const InodePtr inode = intern(path);
    inodes->add_lookup(*inode);
    return inode->nodeid();
  }
  /// As an OPEN that was answered; returns the number.
  std::uint64_t open(const std::string& path, int flags) const {
    InodePtr inode;
    EXPECT_EQ(inodes->acquire(lookup(path), inode), 0);
    UniqueFd fd(inode->reopen(flags));
    return files
        ->add(std::make_unique<Handle>(DescriptorShares::Share(), std::move(inode), std::move(fd),
                                       flags))
        .fh;
  }
  std::uint64_t open_directory(const std::string& path) const {
    InodePtr inode;
    EXPECT_EQ(inodes->acquire(lookup(path), inode), 0);
    UniqueFd fd(::openat(inode->fd(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    return directories
        ->add(
            std::make_unique<DirHandle>(DescriptorShares::Share(), std::move(inode), std::move(fd)))
        .fh;
  }

  std::unique_ptr<InodeTable> inodes;
  std::unique_ptr<HandleSet<Handle>> files;
  std::unique_ptr<HandleSet<DirHandle>> directories;
};

class TreeRecoveryTest : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    folder_ = std::string(GetParam()) + "/tree_recovery.XXXXXX";
    ASSERT_NE(::mkdtemp(folder_.data()), nullptr);
    const UniqueFd first(reopen(open_path(folder_).get(), O_RDONLY));  // what stays open for good
    first_descriptor_ = first.get();
    write("file", "content");
    life_ = std::make_unique<Life>(book_, folder_);
  }
  void TearDown() override {
    filesystem_.reset();
    life_.reset();
    const std::string command = "rm -rf '" + folder_ + "'";
    EXPECT_EQ(std::system(command.c_str()), 0);
  }

  std::string path(const std::string& name) const { return folder_ + "/" + name; }
  void write(const std::string& name, const std::string& content) const {
    const UniqueFd fd(::open(path(name).c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
    ASSERT_EQ(::write(fd.get(), content.data(), content.size()),
              static_cast<ssize_t>(content.size()));
  }

  /// The process dies: its descriptors stay, and those that the book does not have are closed.
  void die() {
    if (life_ != nullptr) {
      abandon(std::move(life_->directories));
      abandon(std::move(life_->files));
      abandon(std::move(life_->inodes));
    }
    std::vector<int> known;
    Filesystem::leave_idle_descriptors(book_);
    Filesystem::known_descriptors(book_, known);
    for (int fd = first_descriptor_; fd < kMostDescriptors; ++fd) {
      if (std::find(known.begin(), known.end(), fd) == known.end()) ::close(fd);
    }
    for (const int fd : known) EXPECT_TRUE(fd >= kMostDescriptors || ::fcntl(fd, F_GETFD) >= 0);
  }
  /// The next process.
  void revive(const std::string& root = {}) {
    die();
    life_ = std::make_unique<Life>(book_, root.empty() ? folder_ : root);
    life_->inodes->recover_known(true);
    life_->inodes->finish_recovery([](std::int32_t) { FAIL(); });
  }
  /// The same with all of the tree.
  Filesystem& revive_filesystem() {
    die();
    life_.reset();
    options_.source_path = folder_;
    options_.mountpoint_path = folder_;
    filesystem_ = std::make_unique<Filesystem>(options_, book_);
    filesystem_->recover();
    return *filesystem_;
  }
  InodeTable& inodes() const { return *life_->inodes; }

  template <typename Change>
  void change_record(std::uint64_t nodeid, const Change& change) {
    InodeRecords(book_).for_each([&](std::uint32_t, InodeRecord& record) {
      if (record.nodeid == nodeid) change(record);
    });
  }
  std::size_t known_descriptors() const {
    std::vector<int> known;
    Filesystem::known_descriptors(book_, known);
    return known.size();
  }
  HandleRecord& record_of(std::uint64_t fh) {
    return HandleRecords(book_)[static_cast<std::uint32_t>(fh)];
  }

  std::string folder_;
  int first_descriptor_ = 0;
  Book book_{{kInodeShape, kNameShape, kHandleShape}, 1, false};
  Options options_;
  std::unique_ptr<Life> life_;
  std::unique_ptr<Filesystem> filesystem_;
};

// -- inodes --------------------------------------------------------------------------------------

TEST_P(TreeRecoveryTest, AnInodeIsFoundByItsNodeid) {
  const std::uint64_t nodeid = life_->lookup(path("file"));
  const InodePtr before = life_->intern(path("file"));
  const FileId id = before->id();
  const std::uint32_t generation = before->generation();
  revive();
  EXPECT_EQ(inodes().counts().inodes, 1U);
  InodePtr inode;
  ASSERT_EQ(inodes().acquire(nodeid, inode), 0);
  EXPECT_EQ(inodes().counts().inodes, 1U);
  EXPECT_EQ(inode->nodeid(), nodeid);
  EXPECT_EQ(inode->generation(), generation);
  EXPECT_EQ(inode->id(), id);
  EXPECT_EQ(stat_of(inode->fd()).st_size, 7);
  EXPECT_TRUE(inode->attr_cached);
  EXPECT_TRUE(inode->data_cached);
  EXPECT_EQ(inode->mapped, 1U);
  EXPECT_NE(inode->granted_at, 0);
  EXPECT_EQ(life_->intern(path("file")), inode);
  EXPECT_EQ(inodes().acquire(nodeid + 1, inode), ESTALE);
}

TEST_P(TreeRecoveryTest, TheKernelsReferencesAreCountedOn) {
  const std::uint64_t nodeid = life_->lookup(path("file"));
  EXPECT_EQ(life_->lookup(path("file")), nodeid);
  revive();
  EXPECT_EQ(inodes().lookups(nodeid), 2U);
  inodes().forget(nodeid, 1);  // before there is an Inode
  revive();
  EXPECT_EQ(inodes().lookups(nodeid), 1U);
  EXPECT_EQ(life_->lookup(path("file")), nodeid);
  EXPECT_EQ(inodes().lookups(nodeid), 2U);
  inodes().forget(nodeid, 2);
  EXPECT_EQ(inodes().lookups(nodeid), 0U);
  EXPECT_EQ(inodes().counts().inodes, 0U);
  InodePtr inode;
  EXPECT_EQ(inodes().acquire(nodeid, inode), ESTALE);
  revive();
  EXPECT_EQ(inodes().counts().inodes, 0U);
}

TEST_P(TreeRecoveryTest, ForgottenBeforeThereIsAnInode) {
  const std::uint64_t nodeid = life_->lookup(path("file"));
  revive();
  inodes().forget(nodeid, 1);
  inodes().forget(nodeid, 1);
  EXPECT_EQ(inodes().counts().inodes, 0U);
  InodePtr inode;
  EXPECT_EQ(inodes().acquire(nodeid, inode), ESTALE);
  EXPECT_EQ(life_->lookup(path("file")), nodeid);
  EXPECT_EQ(inodes().lookups(nodeid), 1U);
}

TEST_P(TreeRecoveryTest, WhatTheKernelWasNeverToldGoes) {
  const std::uint64_t nodeid = life_->intern(path("file"))->nodeid();
  EXPECT_EQ(inodes().counts().inodes, 0U);
  const InodePtr* const held = new InodePtr(life_->intern(path("file")));  // by a request under way
  EXPECT_EQ((*held)->nodeid(), nodeid);
  revive();
  EXPECT_EQ(inodes().counts().inodes, 0U);
  static auto& graveyard = *new std::vector<const InodePtr*>;
  graveyard.push_back(held);
}

TEST_P(TreeRecoveryTest, ANumberThatAnotherFileHasNowIsStale) {
  const std::uint64_t nodeid = life_->lookup(path("file"));
  change_record(nodeid, [](InodeRecord& record) { record.generation ^= 1; });
  revive();
  InodePtr inode;
  EXPECT_EQ(inodes().acquire(nodeid, inode), ESTALE);
  const std::uint64_t other = life_->lookup(path("file"));
  EXPECT_NE(other, nodeid);
  EXPECT_EQ(inodes().acquire(nodeid, inode), ESTALE);
  EXPECT_EQ(inodes().acquire(other, inode), 0);
  EXPECT_EQ(inodes().lookups(nodeid), 1U);
  inodes().forget(nodeid, 1);
  EXPECT_EQ(inodes().lookups(nodeid), 0U);
}

TEST_P(TreeRecoveryTest, AFileThatIsRemovedMeanwhileIsStale) {
  const std::uint64_t nodeid = life_->lookup(path("file"));
  die();
  ASSERT_EQ(::unlink(path("file").c_str()), 0);
  revive();
  InodePtr inode;
  EXPECT_EQ(inodes().acquire(nodeid, inode), ESTALE);
  inodes().forget(nodeid, 1);
  EXPECT_EQ(inodes().counts().inodes, 0U);
}

TEST_P(TreeRecoveryTest, ACountedNodeidIsKeptAndNotGivenTwice) {
  // The file gets one because another one has its number.
  const std::uint64_t nodeid = life_->lookup(path("file"));
  change_record(nodeid, [](InodeRecord& record) { record.generation ^= 1; });
  revive();
  const std::uint64_t counted = life_->lookup(path("file"));
  EXPECT_EQ(counted >> 63, 1U);
  revive();
  InodePtr inode;
  ASSERT_EQ(inodes().acquire(counted, inode), 0);
  EXPECT_EQ(stat_of(inode->fd()).st_size, 7);
  EXPECT_EQ(life_->intern(path("file")), inode);
  inode = {};
  revive();
  EXPECT_EQ(life_->lookup(path("file")), counted);
  inodes().forget(counted, 2);
  const std::uint64_t next = life_->lookup(path("file"));
  EXPECT_EQ(next >> 63, 1U);
  EXPECT_NE(next, counted);
}

TEST_P(TreeRecoveryTest, AFileOfAnotherFilesystemIsFoundByItsHandle) {
  std::string other = std::string(GetParam()) == "/tmp" ? "/dev/shm" : "/tmp";
  other += "/tree_recovery_file.XXXXXX";
  const UniqueFd made(::mkstemp(other.data()));
  const ino_t ino = stat_of(made.get()).st_ino;
  first_descriptor_ = made.get() + 1;
  life_.reset();
  life_ = std::make_unique<Life>(book_, folder_);
  const std::uint64_t nodeid = life_->lookup(other);
  const FileId id = life_->intern(other)->id();
  const ino_t shown = inodes().shown_ino(id);
  EXPECT_NE(shown, ino);
  for (int round = 0; round < 3; ++round) {
    revive();
    InodePtr inode;
    ASSERT_EQ(inodes().acquire(nodeid, inode), 0);
    EXPECT_EQ(stat_of(inode->fd()).st_ino, ino);
    EXPECT_EQ(inodes().shown_ino(id), shown);
    EXPECT_EQ(life_->intern(other), inode);
    EXPECT_EQ(known_descriptors(), 2U) << "its own and one for the filesystem";
  }
  ASSERT_EQ(::unlink(other.c_str()), 0);
}

TEST_P(TreeRecoveryTest, AFileThatCannotBeOpenedAnewKeepsItsDescriptor) {
  life_ = std::make_unique<Life>(book_, "/proc/self");
  const std::uint64_t nodeid = life_->lookup("/proc/self/status");
  const int fd = life_->intern("/proc/self/status")->fd();
  EXPECT_EQ(known_descriptors(), 1U);
  revive("/proc/self");
  EXPECT_EQ(life_->lookup("/proc/self/status"), nodeid);
  InodePtr inode;
  ASSERT_EQ(inodes().acquire(nodeid, inode), 0);
  EXPECT_EQ(inode->fd(), fd);
  inode = {};
  revive("/proc/self");
  ASSERT_EQ(inodes().acquire(nodeid, inode), 0);
  EXPECT_EQ(inode->fd(), fd);
  inode = {};
  revive("/proc/self");
  inodes().forget(nodeid, 2);
  EXPECT_EQ(known_descriptors(), 0U);
  EXPECT_EQ(::fcntl(fd, F_GETFD), -1);
}

TEST_P(TreeRecoveryTest, ManyThreadsMeetTheSameRecords) {
  constexpr int kFiles = 100;
  constexpr int kThreads = 4;
  std::vector<std::uint64_t> nodeids;
  for (int i = 0; i < kFiles; ++i) {
    write("name" + std::to_string(i), "");
    nodeids.push_back(life_->lookup(path("name" + std::to_string(i))));
  }
  revive();
  std::vector<std::thread> threads;
  for (int thread = 0; thread < kThreads; ++thread) {
    threads.emplace_back([&, thread] {
      for (int i = 0; i < kFiles; ++i) {
        const int file = thread % 2 == 0 ? i : kFiles - 1 - i;
        InodePtr inode;
        EXPECT_EQ(inodes().acquire(nodeids[file], inode), 0);
        EXPECT_EQ(life_->lookup(path("name" + std::to_string(file))), nodeids[file]);
        EXPECT_EQ(life_->intern(path("name" + std::to_string(file))), inode);
        inode = {};
        inodes().forget(nodeids[file], 1);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(inodes().counts().inodes, std::size_t{kFiles});
  for (const std::uint64_t nodeid : nodeids) {
    EXPECT_EQ(inodes().lookups(nodeid), 1U);
    inodes().forget(nodeid, 1);
  }
  EXPECT_EQ(inodes().counts().inodes, 0U);
}

TEST_P(TreeRecoveryTest, AMillionRecords) {
  constexpr std::uint32_t kMany = 1'000'000;
  constexpr std::uint64_t kFirst = 1000;
  const InodeRecords records(book_);
  const std::uint32_t first = book_.extend(Kind::kInodes, kMany);
  for (std::uint32_t i = 0; i < kMany; ++i) {
    InodeRecord& record = records[first + i];
    record.nlookup = 1 + i % 3;
    record.generation = 1;
    record.fd = -1;
    record.nodeid = i % 8 == 7 ? 0 : kFirst + i;
  }
  revive();
  EXPECT_EQ(inodes().counts().inodes, std::size_t{kMany} / 8 * 7);
  for (std::uint32_t i = 0; i < kMany; i += 997) {
    EXPECT_EQ(inodes().lookups(kFirst + i), i % 8 == 7 ? 0 : 1 + i % 3);
  }
  for (std::uint32_t i = 0; i < kMany; ++i) inodes().forget(kFirst + i, 3);
  EXPECT_EQ(inodes().counts().inodes, 0U);
  const std::uint32_t high = book_.high(Kind::kInodes);
  for (int i = 0; i < 1000; ++i) life_->intern(path("file"));
  EXPECT_EQ(book_.high(Kind::kInodes), high) << "records are used again";
}

// -- open files ----------------------------------------------------------------------------------

TEST_P(TreeRecoveryTest, AnOpenFileIsFoundByItsNumber) {
  const std::uint64_t fh = life_->open(path("file"), O_RDWR);
  const std::uint64_t second = life_->open(path("file"), O_RDONLY);
  const int fd = life_->files->find(fh)->fd.get();
  Filesystem& filesystem = revive_filesystem();
  Handle* const handle = filesystem.find_handle(fh);
  ASSERT_NE(handle, nullptr);
  EXPECT_EQ(handle->fh, fh);
  EXPECT_EQ(handle->fd.get(), fd);
  EXPECT_EQ(handle->flags, O_RDWR);
  EXPECT_FALSE(handle->passthrough);
  EXPECT_EQ(handle->inode->writers, 1U);
  EXPECT_EQ(handle->inode->data_mode.opens, 2U);
  ASSERT_NE(filesystem.find_handle(second), nullptr);
  EXPECT_EQ(filesystem.find_handle(second)->inode, handle->inode);
  const std::uint64_t nodeid = handle->inode->nodeid();
  EXPECT_EQ(filesystem.inodes().lookups(nodeid), 2U);

  filesystem.close_handle(handle);
  EXPECT_EQ(filesystem.find_handle(fh), nullptr) << "the RELEASE may come again";
  EXPECT_EQ(::fcntl(fd, F_GETFD), -1);
  EXPECT_NE(filesystem.find_handle(second), nullptr);
  EXPECT_EQ(known_descriptors(), 2U);
}

TEST_P(TreeRecoveryTest, DescriptorsOfFilesThatAreNotOpenAreClosed) {
  const std::uint64_t fh = life_->open(path("file"), O_RDWR);
  const int kept = life_->files->find(fh)->inode->fd();
  write("idle", "");
  const std::uint64_t nodeid = life_->lookup(path("idle"));
  const int idle = life_->intern(path("idle"))->fd();
  ASSERT_NE(idle, kept);
  EXPECT_EQ(known_descriptors(), 3U);
  Filesystem& filesystem = revive_filesystem();
  EXPECT_EQ(filesystem.find_handle(fh)->inode->fd(), kept);
  EXPECT_EQ(known_descriptors(), 2U);
  InodePtr inode;
  ASSERT_EQ(filesystem.inodes().acquire(nodeid, inode), 0);
  EXPECT_EQ(stat_of(inode->fd()).st_ino, inode->id().ino);
  EXPECT_EQ(known_descriptors(), 3U);
}

// What has no name and is not open here may be so in the kernel: a device, a working folder.
TEST_P(TreeRecoveryTest, ARemovedFileThatTheKernelKnowsStays) {
  write("removed", "data");
  const std::uint64_t nodeid = life_->lookup(path("removed"));
  const int fd = life_->intern(path("removed"))->fd();
  ASSERT_EQ(::unlink(path("removed").c_str()), 0);
  Filesystem& filesystem = revive_filesystem();
  InodePtr inode;
  ASSERT_EQ(filesystem.inodes().acquire(nodeid, inode), 0);
  EXPECT_EQ(inode->fd(), fd);
  EXPECT_EQ(stat_of(fd).st_size, 4);
  EXPECT_EQ(known_descriptors(), 1U);
  EXPECT_EQ(filesystem.inodes().counts().pinned, 1U);
  inode = {};
  filesystem.inodes().forget(nodeid, 1);
  EXPECT_EQ(known_descriptors(), 0U);
  EXPECT_EQ(::fcntl(fd, F_GETFD), -1);
}

TEST_P(TreeRecoveryTest, ADeletedFileStaysOpen) {
  const std::uint64_t fh = life_->open(path("file"), O_RDWR);
  const InodePtr before = life_->files->find(fh)->inode;
  const std::uint64_t nodeid = before->nodeid();
  const std::uint32_t generation = before->generation();
  ASSERT_EQ(::unlink(path("file").c_str()), 0);
  write("other", "something else");
  Filesystem& filesystem = revive_filesystem();
  Handle* const handle = filesystem.find_handle(fh);
  ASSERT_NE(handle, nullptr);
  EXPECT_EQ(handle->inode->nodeid(), nodeid);
  EXPECT_EQ(handle->inode->generation(), generation);
  EXPECT_EQ(stat_of(handle->inode->fd()).st_nlink, 0U);
  EXPECT_EQ(stat_of(handle->inode->fd()).st_size, 7);
  InodePtr inode;
  ASSERT_EQ(filesystem.inodes().acquire(nodeid, inode), 0);
  EXPECT_EQ(inode, handle->inode);
}

TEST_P(TreeRecoveryTest, AnOpenFileThatIsLostIsGone) {
  const std::uint64_t lost = life_->open(path("file"), O_RDONLY);
  const std::uint64_t fh = life_->open(path("file"), O_RDONLY);
  record_of(lost).fd = kMostDescriptors;  // which is not open
  Filesystem& filesystem = revive_filesystem();
  EXPECT_EQ(filesystem.find_handle(lost), nullptr);
  EXPECT_NE(filesystem.find_handle(fh), nullptr);
  EXPECT_EQ(known_descriptors(), 2U);
}

TEST_P(TreeRecoveryTest, ANumberIsNotGivenTwice) {
  const auto reopened = [&] {
    const std::uint64_t fh = life_->open(path("file"), O_RDONLY);
    EXPECT_NE(life_->files->remove(fh), nullptr);
    EXPECT_EQ(life_->files->find(fh), nullptr);
    EXPECT_EQ(life_->files->remove(fh), nullptr) << "the same RELEASE once more";
    return fh;
  };
  std::set<std::uint64_t> numbers;
  for (int i = 0; i < 200; ++i) EXPECT_TRUE(numbers.insert(reopened()).second);
  die();
  life_ = std::make_unique<Life>(book_, folder_);
  HandleRecords(book_).for_each([&](std::uint32_t index, const HandleRecord& record) {
    EXPECT_EQ(record.fh, 0U);
    life_->files->provide(index);
  });
  const std::uint32_t high = book_.high(Kind::kHandles);
  for (int i = 0; i < 200; ++i) EXPECT_TRUE(numbers.insert(reopened()).second);
  EXPECT_EQ(book_.high(Kind::kHandles), high) << "records are used again";
  for (const std::uint64_t fh : numbers) EXPECT_EQ(life_->files->find(fh), nullptr);
  for (const std::uint64_t odd : {std::uint64_t{0}, ~std::uint64_t{0}, std::uint64_t{1} << 32}) {
    EXPECT_EQ(life_->files->find(odd), nullptr);
    EXPECT_EQ(life_->directories->find(odd), nullptr);
  }
}

TEST_P(TreeRecoveryTest, FilesAndDirectoriesAreToldApart) {
  const std::uint64_t file = life_->open(path("file"), O_RDONLY);
  const std::uint64_t directory = life_->open_directory(folder_);
  EXPECT_NE(life_->files->find(file), nullptr);
  EXPECT_EQ(life_->directories->find(file), nullptr);
  EXPECT_EQ(life_->files->find(directory), nullptr);
  EXPECT_NE(life_->directories->find(directory), nullptr);
  Filesystem& filesystem = revive_filesystem();
  EXPECT_NE(filesystem.find_handle(file), nullptr);
  EXPECT_EQ(filesystem.find_handle(directory), nullptr);
  EXPECT_EQ(known_descriptors(), 3U);
}

TEST_P(TreeRecoveryTest, ADirectoryIsFoundThatStandsAnywhere) {
  for (int i = 0; i < 50; ++i) write("name" + std::to_string(i), "");
  const std::uint64_t fh = life_->open_directory(folder_);
  // Its position is in the open file description, where the dead had read ahead.
  std::vector<std::byte> entries(32768);
  EXPECT_GT(::getdents64(life_->directories->find(fh)->fd.get(), entries.data(), entries.size()),
            0);
  die();
  life_ = std::make_unique<Life>(book_, folder_);
  life_->inodes->recover_known(false);
  InodePtr inode;
  const HandleRecord& record = record_of(fh);
  ASSERT_EQ(life_->inodes->acquire_open(record.nodeid, record.fd, inode), 0);
  EXPECT_EQ(inode, life_->inodes->root());
  auto made =
      std::make_unique<DirHandle>(DescriptorShares::Share(), std::move(inode), UniqueFd(record.fd));
  made->offset = DirHandle::kUnknown;
  const DirHandle& restored = life_->directories->restore(record, std::move(made));
  EXPECT_EQ(&restored, life_->directories->find(fh));
  EXPECT_EQ(restored.fh, fh);
  EXPECT_GT(::lseek(restored.fd.get(), 0, SEEK_CUR), 0)
      << "so no offset asked for may be taken for "
         "where it stands";
  EXPECT_LT(restored.offset, 0);
}

TEST_P(TreeRecoveryTest, WhatWasOpenedForARequestWithoutAnAnswerIsClosed) {
  const std::uint64_t answered = life_->open(path("file"), O_RDWR);
  const std::uint64_t unanswered = life_->open(path("file"), O_RDWR);
  const std::uint64_t directory = life_->open_directory(folder_);
  record_of(answered).unique = 10;
  record_of(unanswered).unique = 12;
  record_of(directory).unique = 14;
  Filesystem& filesystem = revive_filesystem();
  EXPECT_EQ(known_descriptors(), 4U);
  filesystem.discard_unanswered(0);
  filesystem.discard_unanswered(11);
  EXPECT_EQ(known_descriptors(), 4U);
  filesystem.discard_unanswered(12);
  EXPECT_EQ(filesystem.find_handle(unanswered), nullptr);
  ASSERT_NE(filesystem.find_handle(answered), nullptr);
  EXPECT_EQ(filesystem.find_handle(answered)->inode->data_mode.opens, 1U);
  EXPECT_EQ(filesystem.find_handle(answered)->inode->writers, 1U);
  filesystem.discard_unanswered(14);
  EXPECT_EQ(known_descriptors(), 2U);
}

TEST_P(TreeRecoveryTest, ARegistrationIsKeptWhileTheFileIsOpen) {
  const std::uint64_t fh = life_->open(path("file"), O_RDWR);
  const std::uint64_t nodeid = life_->files->find(fh)->inode->nodeid();
  write("second", "");
  const std::uint64_t closed = life_->lookup(path("second"));
  change_record(nodeid, [](InodeRecord& record) { record.backing_id = -7; });
  change_record(closed, [](InodeRecord& record) { record.backing_id = 8; });
  Filesystem& filesystem = revive_filesystem();
  const Handle* const handle = filesystem.find_handle(fh);
  ASSERT_NE(handle, nullptr);
  EXPECT_TRUE(handle->passthrough);
  EXPECT_EQ(handle->inode->data_mode.backing.value(), 7);
  EXPECT_TRUE(handle->inode->data_mode.reads_backing);
  EXPECT_EQ(handle->inode->mappers, 1U);
  change_record(nodeid, [](InodeRecord& record) { EXPECT_EQ(record.backing_id, -7); });
  change_record(closed, [](InodeRecord& record) { EXPECT_EQ(record.backing_id, 0); });
  filesystem.close_handle(filesystem.find_handle(fh));
  change_record(nodeid, [](InodeRecord& record) { EXPECT_EQ(record.backing_id, 0); });
}

INSTANTIATE_TEST_SUITE_P(Filesystems, TreeRecoveryTest, ::testing::Values("/tmp", "/dev/shm"));

}  // namespace
}  // namespace lockfs
