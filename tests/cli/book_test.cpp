/// The book of a mount that is damaged, truncated, foreign or of another version: whoever is to go
/// on with it refuses with one line.

#include "fs/base/book.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstddef>
#include <cstring>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "fs/base/book_header.h"
#include "fs/daemon/survival.h"
#include "fs/locks/lock_records.h"
#include "fs/loop/requests.h"
#include "fs/mirror/descriptor_log.h"
#include "fs/options/options.h"
#include "fs/tree/records.h"
#include "tests/cli/command.h"
#include "tests/mounted/support/actor.h"
#include "tests/mounted/support/mounted.h"

namespace lockfs::test {
namespace {

class BookTest : public MountedTest {
 protected:
  [[nodiscard]] std::vector<std::string> options() const override { return {"survive=on"}; }

  void SetUp() override {
    MountedTest::SetUp();
    if (HasFatalFailure()) return;
    const int held = holder_->open(in_mount("file"), O_RDWR | O_CREAT);
    const int fd = waiter_->open(in_mount("file"), O_RDWR);
    ASSERT_EQ(holder_->try_lock(held, Kind::kPosix, Mode::kExclusive), 0);
    waiter_->start_lock(fd, Kind::kPosix, Mode::kExclusive);
    ASSERT_TRUE(waiter_->waits());
    options_ = parse_command_line({source(), mount()}, true).options;
    book_shapes(options_, shapes_);
  }

  void TearDown() override {
    waiter_.reset();
    holder_.reset();
    MountedTest::TearDown();
  }

  /// That of the daemon, opened through /proc.
  UniqueFd open_book() {
    const std::string folder = "/proc/" + std::to_string(fs().daemon_pid()) + "/fd";
    for (const auto& entry : std::filesystem::directory_iterator(folder)) {
      std::error_code ignored;
      const std::string target = std::filesystem::read_symlink(entry, ignored).string();
      if (target.find("lockfs-book") == std::string::npos) continue;
      return UniqueFd(::open(entry.path().c_str(), O_RDWR | O_CLOEXEC));
    }
    return UniqueFd();
  }

  /// A copy of it in memory of its own, which may be changed. A child inherits it.
  UniqueFd copy() {
    const UniqueFd from = open_book();
    struct stat st {};
    EXPECT_EQ(::fstat(from.get(), &st), 0);
    UniqueFd to(::memfd_create("copy", 0));
    EXPECT_EQ(::ftruncate(to.get(), st.st_size), 0);
    std::vector<char> buffer(1U << 16);
    for (off_t at = 0; (at = ::lseek(from.get(), at, SEEK_DATA)) >= 0;) {
      const off_t end = ::lseek(from.get(), at, SEEK_HOLE);
      while (at < end) {
        const auto part = std::min<std::size_t>(buffer.size(), static_cast<std::size_t>(end - at));
        const ssize_t got = ::pread(from.get(), buffer.data(), part, at);
        if (got <= 0 ||
            ::pwrite(to.get(), buffer.data(), static_cast<std::size_t>(got), at) != got) {
          ADD_FAILURE() << "cannot copy the book";
          return to;
        }
        at += got;
      }
    }
    return to;
  }

  /// The same, mapped.
  std::unique_ptr<Book> copied() {
    return std::make_unique<Book>(lockfs::UniqueFd(copy().release()), shapes_, sizeof(BookHeader));
  }

  Outcome ask(const std::string& option, int fd) {
    return run_command(lockfs_command({option + std::to_string(fd), source(), mount()}));
  }
  /// Both who only looks and who goes on say so in one line, and the mount is as it was.
  void expect_refused(int fd, const std::string& why) {
    for (const char* option : {"--can-adopt=", "--adopt="}) {
      const Outcome outcome = ask(option, fd);
      expect_failure(outcome, 1, {why});
    }
    struct stat st {};
    EXPECT_EQ(::stat(in_mount("file").c_str(), &st), 0) << why;
  }

  std::unique_ptr<Actor> holder_ = std::make_unique<Actor>();
  std::unique_ptr<Actor> waiter_ = std::make_unique<Actor>();
  Options options_;
  Book::Shapes shapes_;
};

TEST_F(BookTest, AProgramThatKnowsItCouldGoOn) {
  const UniqueFd book = copy();
  const Outcome outcome = ask("--can-adopt=", book.get());
  EXPECT_EQ(outcome.status, 0);
  EXPECT_EQ(outcome.errors, "");
  // A process that it is not of could not.
  expect_failure(ask("--adopt=", book.get()), 1,
                 {"the book is that of process", "not of this one"});
  EXPECT_EQ(::access(in_mount("file").c_str(), F_OK), 0);
}

TEST_F(BookTest, WhatIsNoneIsRefused) {
  expect_refused(-1, "Bad file descriptor");
  expect_refused(999, "Bad file descriptor");
  std::array<int, 2> pipe{};
  ASSERT_EQ(::pipe(pipe.data()), 0);
  const UniqueFd from(pipe[0]);
  const UniqueFd to(pipe[1]);
  expect_refused(from.get(), "Illegal seek");
  const UniqueFd empty(::memfd_create("empty", 0));
  expect_refused(empty.get(), "is no book of a mount");
  ASSERT_EQ(::write(empty.get(), std::string(100'000, 'x').data(), 100'000), 100'000);
  expect_refused(empty.get(), "is no book of a mount");
}

TEST_F(BookTest, OneOfAnotherVersionIsRefused) {
  for (const int version : {-1, 1, 1000}) {
    const UniqueFd book = copy();
    const std::uint32_t other = BookHeader::kVersion + static_cast<std::uint32_t>(version);
    ASSERT_EQ(::pwrite(book.get(), &other, sizeof other, offsetof(BookHeader, version)), 4);
    expect_refused(book.get(), "has version " + std::to_string(other) +
                                   ", and this program knows " +
                                   std::to_string(BookHeader::kVersion));
  }
}

TEST_F(BookTest, ATruncatedOneIsRefused) {
  struct stat st {};
  const UniqueFd book = copy();
  ASSERT_EQ(::fstat(book.get(), &st), 0);
  for (const off_t size : {st.st_size - 1, st.st_size / 2, off_t{8192}, off_t{16}}) {
    ASSERT_EQ(::ftruncate(book.get(), size), 0);
    expect_refused(book.get(), "not a book of this program");
  }
  ASSERT_EQ(::ftruncate(book.get(), 4), 0);
  expect_refused(book.get(), "is no book of a mount");
  // That of a mount cannot be: whoever has it mapped would die.
  EXPECT_EQ(::ftruncate(open_book().get(), 4096), -1);
  EXPECT_EQ(errno, EPERM);
}

TEST_F(BookTest, ADamagedHeaderIsRefused) {
  const auto write_over = [&](std::size_t at, std::size_t size, char with) {
    UniqueFd book = copy();
    const std::string text(size, with);
    EXPECT_EQ(::pwrite(book.get(), text.data(), size, static_cast<off_t>(at)),
              static_cast<ssize_t>(size));
    return book;
  };
  const std::string damaged = "the book of the mount is damaged: its header";
  expect_refused(write_over(offsetof(BookHeader, source_path), 4096, 'x').get(), damaged);
  expect_refused(write_over(offsetof(BookHeader, source_path), 4096, '/').get(), damaged);
  expect_refused(write_over(offsetof(BookHeader, program), 1, 0).get(), damaged);
  expect_refused(write_over(offsetof(BookHeader, phase), 4, 9).get(), damaged);
}

// Each kind of record.
TEST_F(BookTest, DamagedRecordsAreFound) {
  const std::unique_ptr<Book> book = copied();
  ASSERT_EQ(damage_in(*book), "");
  /// The first record in use.
  const auto first = [](const auto& records, const auto& in_use) {
    std::remove_reference_t<decltype(records[0])>* found = nullptr;
    records.for_each([&](std::uint32_t, auto& record) {
      if (found == nullptr && in_use(record)) found = &record;
    });
    return found;
  };
  const auto change = [&](const std::string& what, auto* member, auto value) {
    if (member == nullptr) {
      ADD_FAILURE() << "no record of " << what;
      return;
    }
    const auto before = *member;
    *member = value;
    EXPECT_EQ(damage_in(*book),
              "the book of the mount is damaged: the record of " + what + " is none");
    *member = before;
    ASSERT_EQ(damage_in(*book), "");
  };
  InodeRecord* const inode =
      first(InodeRecords(*book), [](const InodeRecord& record) { return record.nodeid != 0; });
  ASSERT_NE(inode, nullptr);
  change("an inode", &inode->name, ~0U);
  change("an inode", &inode->name, book->high(lockfs::Kind::kNames));
  HandleRecord* const handle =
      first(HandleRecords(*book), [](const HandleRecord& record) { return record.fh != 0; });
  ASSERT_NE(handle, nullptr);
  change("an open file", &handle->fd, -7);
  DescriptorRecord* const descriptor =
      first(Records<DescriptorRecord, lockfs::Kind::kDescriptors>(*book),
            [](const DescriptorRecord& record) { return record.nodeid != 0; });
  ASSERT_NE(descriptor, nullptr);
  change("a descriptor that carries locks", &descriptor->use, static_cast<DescriptorUse>(9));
  change("a descriptor that carries locks", &descriptor->fd, -1);
  LockRecord* const lock = first(Records<LockRecord, lockfs::Kind::kLocks>(*book),
                                 [](const LockRecord& record) { return record.opened != 0; });
  ASSERT_NE(lock, nullptr);
  change("a lock", &lock->type, std::uint8_t{3});
  change("a lock", &lock->mode, std::uint8_t{0});
  change("a lock", &lock->first, std::int64_t{-1});
  LockedFileRecord* const file = first(Records<LockedFileRecord, lockfs::Kind::kLockedFiles>(*book),
                                       [](const LockedFileRecord& r) { return r.nodeid != 0; });
  ASSERT_NE(file, nullptr);
  file->changing = 1;
  file->first = 0;
  file->last = 1;
  file->mode = 1;
  change("a file with locks", &file->mode, std::uint8_t{77});
  file->changing = 0;
  KeptRecord* const kept = first(Records<KeptRecord, lockfs::Kind::kKept>(*book),
                                 [](const KeptRecord& record) { return record.state != 0; });
  ASSERT_NE(kept, nullptr);
  change("a request that waits", &kept->size, std::uint32_t{KeptRecord::kRoom + 1});
  change("a request that waits", &kept->size, std::uint32_t{3});
  RequestSlot& slot = Records<RequestSlot, lockfs::Kind::kSlots>(*book)[1];
  slot.state = RequestSlot::kDoing;
  slot.counts_made = 0;
  slot.header().len = sizeof(fuse_in_header);
  change("a request under way", &slot.header().len, std::uint32_t{RequestSlot::kRoom + 1});
  change("a request under way", &slot.header().len, 1U);
  slot.state = RequestSlot::kFree;
}

// Whatever writes over the memory of a mount that serves ends it at once, and cleanly.
TEST_F(BookTest, TheMountEndsWhoseBookIsDamaged) {
  fs().allow_log("critical: .* a new daemon cannot go on: the book of the mount is damaged");
  {
    Book book(lockfs::UniqueFd(open_book().release()), shapes_, sizeof(BookHeader));
    InodeRecords(book).for_each([](std::uint32_t, InodeRecord& record) { record.name = ~0U; });
  }
  const pid_t daemon = fs().daemon_pid();
  ASSERT_GT(daemon, 0);
  ASSERT_EQ(::kill(daemon, SIGKILL), 0);
  EXPECT_EQ(waiter_->result(), ECONNABORTED);
  EXPECT_EQ(fs().wait_exit(), "lockfs ended with status 1\n");
  const std::string log = fs().log();
  const std::string line = "the record of an inode is none; unmounting";
  EXPECT_NE(log.find(line), std::string::npos) << log;
  EXPECT_EQ(log.find(line), log.rfind(line)) << log;
  EXPECT_TRUE(mounts_on(mount()).empty());
}

}  // namespace
}  // namespace lockfs::test
