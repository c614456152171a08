// File contents: open flags, every way to read and write, holes, allocation, mappings, direct I/O,
// unlinked and huge files; with the data going through the kernel and through the daemon.
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "tests/mounted/fs/fs_support.h"

namespace lockfs::fstest {
namespace {

constexpr uid_t kUser = 54321;
constexpr gid_t kGroup = 54321;
constexpr std::size_t kPage = 4096;

/// The parameter is the mount option that says how data travels.
class DataTest : public FsTest, public ::testing::WithParamInterface<std::string> {
 protected:
  std::vector<std::string> options() const override { return {GetParam()}; }

  void make(const std::string& name, const std::string& contents = "contents") {
    same("make " + name, [&](const Dir& dir) {
      write_file(dir / name, contents);
      return Outcome{};
    });
  }
};

INSTANTIATE_TEST_SUITE_P(Passthrough, DataTest,
                         ::testing::Values("passthrough=auto", "passthrough=off"),
                         [](const auto& test) {
                           return test.param.substr(test.param.find('=') + 1);
                         });

Fd open_in(const Dir& dir, const std::string& name, int flags, mode_t mode = 0644) {
  return Fd(::openat(dir.fd, name.c_str(), flags | O_CLOEXEC, mode));
}

std::string read_at(int fd, off_t offset, std::size_t size) {
  std::string bytes(size, '\0');
  const ssize_t count = ::pread(fd, bytes.data(), size, offset);
  bytes.resize(count > 0 ? static_cast<std::size_t>(count) : 0);
  return count < 0 ? "error " + std::to_string(errno) : bytes;
}

/// A mapping that unmaps itself.
class Mapping {
 public:
  Mapping(int fd, std::size_t size, int protection, int flags, off_t offset = 0)
      : data_(static_cast<char*>(::mmap(nullptr, size, protection, flags, fd, offset))),
        size_(size) {}
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  ~Mapping() {
    if (ok()) ::munmap(data_, size_);
  }
  bool ok() const { return data_ != MAP_FAILED; }
  char* data() const { return data_; }
  std::size_t size() const { return size_; }

 private:
  char* data_;
  std::size_t size_;
};

TEST_P(DataTest, OpenFlagsInEveryCombination) {
  make("file");
  same("prepare", [](const Dir& dir) {
    EXPECT_EQ(::mkdirat(dir.fd, "dir", 0755), 0);
    EXPECT_EQ(::symlinkat("file", dir.fd, "link"), 0);
    return Outcome{};
  });
  for (const std::string name : {"file", "dir", "link", "missing"}) {
    for (const int access : {O_RDONLY, O_WRONLY, O_RDWR, 3}) {
      for (const int extra :
           {0, O_CREAT, O_CREAT | O_EXCL, O_TRUNC, O_CREAT | O_TRUNC, O_APPEND, O_DIRECTORY,
            O_DIRECTORY | O_CREAT, O_NOFOLLOW, O_PATH, O_NONBLOCK, O_SYNC, O_DSYNC, O_NOATIME,
            O_EXCL, O_CREAT | O_APPEND | O_NONBLOCK, O_NOCTTY}) {
        same("open " + name + " with " + std::to_string(access | extra), [&](const Dir& dir) {
          const Fd fd = open_in(dir, name, access | extra);
          Outcome outcome = call(fd.ok() ? 0 : -1);
          if (fd.ok()) {
            // The flags kept, and which directions they allow.
            outcome.data = std::to_string(::fcntl(fd, F_GETFL));
            char byte = 'x';
            const Outcome read = call(::read(fd, &byte, 1));
            const Outcome written = call(::write(fd, "w", 1));
            outcome.data += " " + std::to_string(read.error) + " " + std::to_string(written.error);
          }
          if (name == "missing") ::unlinkat(dir.fd, "missing", 0);
          return outcome;
        });
      }
    }
  }
  expect_same_trees();
}

TEST_P(DataTest, CreateWithEveryMode) {
  const ScopedUmask umask(027);
  for (const mode_t mode : {0U, 0400U, 0644U, 0777U, 04755U, 02755U, 01777U, 07777U}) {
    same("create with mode " + std::to_string(mode), [&](const Dir& dir) {
      const std::string name = "f" + std::to_string(mode);
      const Fd fd = open_in(dir, name, O_RDWR | O_CREAT | O_EXCL, mode);
      // A new file is open as asked, whatever its mode forbids from now on.
      Outcome outcome = call(::write(fd, "new", 3));
      outcome.data = read_at(fd, 0, 3);
      return outcome;
    });
  }
  expect_same_trees();
}

TEST_P(DataTest, AppendGoesToTheEndWhoeverMovedIt) {
  make("log", "start;");
  same("append", [](const Dir& dir) {
    const Fd one = open_in(dir, "log", O_WRONLY | O_APPEND);
    const Fd two = open_in(dir, "log", O_RDWR | O_APPEND);
    const Fd plain = open_in(dir, "log", O_RDWR);
    EXPECT_EQ(::write(one, "one;", 4), 4);
    EXPECT_EQ(::write(two, "two;", 4), 4);
    EXPECT_EQ(::pwrite(plain, "plain;", 6, 20), 6);
    EXPECT_EQ(::write(one, "more;", 5), 5);
    EXPECT_EQ(::lseek(two, 0, SEEK_SET), 0);
    EXPECT_EQ(::write(two, "end;", 4), 4);
    EXPECT_EQ(::lseek(two, 0, SEEK_CUR), 35);
    EXPECT_EQ(::pwrite(two, "pw;", 3, 0), 3);  // Linux appends here as well
    // Append switched on and off on an open file.
    EXPECT_EQ(::fcntl(plain, F_SETFL, O_APPEND), 0);
    EXPECT_EQ(::write(plain, "switched;", 9), 9);
    EXPECT_EQ(::fcntl(plain, F_SETFL, 0), 0);
    EXPECT_EQ(::pwrite(plain, "S", 1, 0), 1);
    Outcome outcome;
    outcome.data = read_at(plain, 0, 1000);
    return outcome;
  });
  expect_same_trees();
}

TEST_P(DataTest, AppendingCanBeSwitchedOff) {
  // Where the kernel passes data through, it keeps an open file of its own with the flags of the
  // first moment (fuse_passthrough_open), so the switch has no effect there. Through the daemon it
  // must have.
  make("log", "start;");
  const Operation operation = [](const Dir& dir) {
    const Fd fd = open_in(dir, "log", O_RDWR | O_APPEND);
    EXPECT_EQ(::fcntl(fd, F_SETFL, 0), 0);
    EXPECT_EQ(::pwrite(fd, "S", 1, 0), 1);
    Outcome outcome;
    outcome.data = read_at(fd, 0, 100);
    return outcome;
  };
  if (GetParam() == "passthrough=off") {
    EXPECT_EQ(same("switch off", operation).data, "Start;");
  } else {
    const std::string result = operation(mounted_).data;
    EXPECT_TRUE(result == "Start;" || result == "start;S") << result;
  }
}

TEST_P(DataTest, MappedWritesBesideAnAppenderStayInPlace) {
  // Dirty pages go out through any handle open for writing; through one that appends they must
  // still go where they belong.
  make("log", std::string(3 * kPage, '.'));
  same("map and append", [](const Dir& dir) {
    const Fd appender = open_in(dir, "log", O_RDWR | O_APPEND);
    {
      const Mapping map(appender, 3 * kPage, PROT_READ | PROT_WRITE, MAP_SHARED);
      if (!map.ok()) return call(-1);
      std::memcpy(map.data() + kPage, "mapped", 6);
      EXPECT_EQ(::msync(map.data(), map.size(), MS_SYNC), 0);
      EXPECT_EQ(::write(appender, "appended", 8), 8);
      std::memcpy(map.data(), "again", 5);
      EXPECT_EQ(::fsync(appender), 0);
    }
    Outcome outcome;
    outcome.data =
        std::to_string(attributes(appender, "").stx_size) + read_at(appender, 0, 5 * kPage);
    return outcome;
  });
  expect_same_trees();
}

TEST_P(DataTest, ProcessesAppendingTogetherLoseNothing) {
  constexpr int kWriters = 4;
  const int lines = scaled(300, 20);
  make("log", "");
  std::vector<std::unique_ptr<test::Process>> writers;
  for (int writer = 0; writer < kWriters; ++writer) {
    writers.push_back(std::make_unique<test::Process>([&, writer] {
      const Fd fd = open_in(mounted_, "log", O_WRONLY | O_APPEND);
      for (int line = 0; line < lines; ++line) {
        std::string text = std::to_string(writer) + " " + std::to_string(line) + " ";
        text += std::string(50, static_cast<char>('a' + writer)) + "\n";
        if (::write(fd, text.data(), text.size()) != static_cast<ssize_t>(text.size())) return 1;
      }
      return 0;
    }));
  }
  for (const auto& writer : writers) EXPECT_EQ(writer->wait(), 0);
  std::vector<int> next(kWriters, 0);
  const std::string log = read_file(mounted_ / "log");
  EXPECT_EQ(log, read_file(behind_ / "log"));
  std::size_t at = 0;
  while (at < log.size()) {
    const std::size_t end = log.find('\n', at);
    ASSERT_NE(end, std::string::npos);
    int writer = -1;
    int line = -1;
    ASSERT_EQ(std::sscanf(log.c_str() + at, "%d %d", &writer, &line), 2);
    ASSERT_TRUE(writer >= 0 && writer < kWriters);
    EXPECT_EQ(line, next[static_cast<std::size_t>(writer)]++);
    at = end + 1;
  }
  for (const int count : next) EXPECT_EQ(count, lines);
}

TEST_P(DataTest, EveryWayToReadAndWrite) {
  make("file", pattern(1, 20000));
  same("reads and writes", [](const Dir& dir) {
    Outcome outcome;
    const Fd fd = open_in(dir, "file", O_RDWR);
    const auto note = [&](const Outcome& step) {
      outcome.data += std::to_string(step.value) + "/" + std::to_string(step.error) + " ";
    };
    std::array<char, 100> one{};
    std::array<char, 200> two{};
    std::array<iovec, 3> vectors{iovec{one.data(), one.size()}, iovec{nullptr, 0},
                                 iovec{two.data(), two.size()}};
    const auto note_buffers = [&] {
      outcome.data +=
          std::string(one.data(), one.size()) + std::string(two.data(), two.size()) + " ";
    };
    note(call(::read(fd, one.data(), one.size())));
    note(call(::readv(fd, vectors.data(), 3)));
    note_buffers();
    note(call(::preadv(fd, vectors.data(), 3, 19900)));
    note_buffers();
    note(call(::preadv2(fd, vectors.data(), 3, -1, 0)));
    note_buffers();
    note(call(::lseek(fd, 0, SEEK_CUR)));
    note(call(::writev(fd, vectors.data(), 3)));
    note(call(::pwritev(fd, vectors.data(), 3, 25000)));
    note(call(::pwritev2(fd, vectors.data(), 3, 5, RWF_APPEND)));
    note(call(::pwritev2(fd, vectors.data(), 3, 5, RWF_DSYNC)));
    note(call(::lseek(fd, 0, SEEK_END)));
    note(call(::read(fd, one.data(), one.size())));             // end of file
    note(call(::pread(fd, one.data(), one.size(), 1L << 40)));  // far behind it
    note(call(::pread(fd, one.data(), 0, 0)));
    note(call(::pread(fd, one.data(), 1, -1)));
    note(call(::pwrite(fd, one.data(), 1, -1)));
    note(call(::pwrite(fd, one.data(), 0, 90000)));  // does not extend
    note(call(::lseek(fd, 0, SEEK_END)));
    note(call(::lseek(fd, -1, SEEK_SET)));
    note(call(::lseek(fd, 10, SEEK_SET)));
    note(call(::lseek(fd, -5, SEEK_CUR)));
    note(call(::lseek(fd, 0, 99)));
    note(call(::syscall(SYS_pread64, int{fd}, 16L, 10L, 0L)));   // EFAULT
    note(call(::syscall(SYS_pwrite64, int{fd}, 16L, 10L, 0L)));  // EFAULT
    note(call(::ftruncate(fd, 30000)));
    note(call(::fsync(fd)));
    note(call(::fdatasync(fd)));
    note(call(::sync_file_range(fd, 0, 0, SYNC_FILE_RANGE_WRITE)));
    note(call(::posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED)));
    note(call(::readahead(fd, 0, 10000)));
    outcome.data += read_at(fd, 0, 100000);
    return outcome;
  });
  same("fsync of a directory", [](const Dir& dir) {
    const Fd fd = open_in(dir, ".", O_RDONLY | O_DIRECTORY);
    Outcome outcome = call(::fsync(fd));
    outcome.data = std::to_string(call(::fdatasync(fd)).error) +
                   std::to_string(call(::syncfs(fd)).error) + " " +
                   std::to_string(call(::read(fd, &outcome.value, 1)).error);
    return outcome;
  });
  expect_same_trees();
}

TEST_P(DataTest, LargeTransfers) {
  const std::string bytes = pattern(3, 9 * 1024 * 1024 + 777);
  make("file", bytes);
  same("in one call", [&](const Dir& dir) {
    const Fd fd = open_in(dir, "file", O_RDWR);
    std::string back(bytes.size() + 100, '\0');
    Outcome outcome = call(::pread(fd, back.data(), back.size(), 0));
    back.resize(bytes.size());
    EXPECT_TRUE(back == bytes);
    outcome.data = std::to_string(::pwrite(fd, bytes.data(), bytes.size(), 12345));
    return outcome;
  });
  same("sendfile", [&](const Dir& dir) {
    const Fd from = open_in(dir, "file", O_RDONLY);
    const Fd to = open_in(dir, "sent", O_WRONLY | O_CREAT);
    off_t offset = 1000;
    Outcome outcome;
    while (true) {
      const ssize_t count = ::sendfile(to, from, &offset, 1 << 20);
      if (count <= 0) {
        outcome = call(count);
        break;
      }
    }
    outcome.data = std::to_string(offset);
    return outcome;
  });
  same("splice", [&](const Dir& dir) {
    std::array<int, 2> ends{};
    EXPECT_EQ(::pipe2(ends.data(), O_CLOEXEC), 0);
    const Fd reader(ends[0]);
    const Fd writer(ends[1]);
    const Fd from = open_in(dir, "file", O_RDONLY);
    const Fd to = open_in(dir, "spliced", O_WRONLY | O_CREAT);
    off_t in = 0;
    off_t out = 0;
    while (true) {
      const ssize_t count = ::splice(from, &in, writer, nullptr, 1 << 16, 0);
      if (count <= 0) break;
      ssize_t left = count;
      while (left > 0) {
        const ssize_t moved =
            ::splice(reader, nullptr, to, &out, static_cast<std::size_t>(left), 0);
        if (moved <= 0) return call(moved);
        left -= moved;
      }
    }
    return call(out);
  });
  expect_same_trees();
}

TEST_P(DataTest, CopyFileRange) {
  make("from", pattern(4, 300000));
  make("to", "short");
  struct Case {
    off_t from, to;
    std::size_t size;
    const char* target;
  };
  for (const Case& each :
       {Case{0, 0, 100000, "to"}, Case{12345, 777, 54321, "to"}, Case{299990, 0, 100, "to"},
        Case{400000, 0, 100, "to"}, Case{0, 1 << 20, 4096, "to"}, Case{0, 400000, 8192, "from"},
        Case{0, 100, 1000, "from"}, Case{1000, 100, 900, "from"}, Case{0, 0, 0, "to"},
        Case{-1, 0, 10, "to"}}) {
    same("copy " + std::to_string(each.size) + " from " + std::to_string(each.from),
         [&](const Dir& dir) {
           const Fd from = open_in(dir, "from", O_RDONLY);
           const Fd to = open_in(dir, each.target, O_WRONLY);
           off_t in = each.from;
           off_t out = each.to;
           std::size_t left = each.size;
           Outcome outcome;
           // One call may copy less than asked; the sum must be the same.
           do {
             outcome = call(::copy_file_range(from, &in, to, &out, left, 0));
             if (outcome.error != 0) break;
             left -= static_cast<std::size_t>(outcome.value);
           } while (outcome.value > 0 && left > 0);
           outcome.value = 0;
           outcome.data = std::to_string(in) + " " + std::to_string(out);
           return outcome;
         });
  }
  same("file positions move", [](const Dir& dir) {
    const Fd from = open_in(dir, "from", O_RDONLY);
    const Fd to = open_in(dir, "to", O_RDWR);
    EXPECT_EQ(::lseek(from, 100, SEEK_SET), 100);
    Outcome outcome = call(::copy_file_range(from, nullptr, to, nullptr, 1000, 0));
    outcome.data = std::to_string(::lseek(from, 0, SEEK_CUR) - ::lseek(to, 0, SEEK_CUR));
    return outcome;
  });
  same("wrong descriptors", [](const Dir& dir) {
    const Fd from = open_in(dir, "from", O_RDONLY);
    const Fd append = open_in(dir, "to", O_WRONLY | O_APPEND);
    const Fd directory = open_in(dir, ".", O_RDONLY | O_DIRECTORY);
    Outcome outcome;
    for (const auto& [in, out] :
         {std::pair<int, int>{from, from}, {from, append}, {directory, append}, {append, append}}) {
      outcome.data +=
          std::to_string(call(::copy_file_range(in, nullptr, out, nullptr, 10, 0)).error) + " ";
    }
    return outcome;
  });
  same("reflinks", [](const Dir& dir) {
    const Fd from = open_in(dir, "from", O_RDONLY);
    const Fd to = open_in(dir, "to", O_RDWR);
    return call(::ioctl(to, FICLONE, static_cast<int>(from)));
  });
  expect_same_trees();
}

/// Where data begins and ends, as lseek tells it.
std::string extent_map(int fd) {
  std::string map;
  const off_t end = ::lseek(fd, 0, SEEK_END);
  off_t at = 0;
  while (at < end) {
    const off_t data = ::lseek(fd, at, SEEK_DATA);
    if (data < 0) {
      map += "no data from " + std::to_string(at) + " (" + std::to_string(errno) + ")";
      break;
    }
    const off_t hole = ::lseek(fd, data, SEEK_HOLE);
    map += std::to_string(data) + "-" + std::to_string(hole) + " ";
    at = hole;
  }
  return map + "end " + std::to_string(end);
}

TEST_P(DataTest, HolesAndData) {
  same("sparse file", [](const Dir& dir) {
    const Fd fd = open_in(dir, "sparse", O_RDWR | O_CREAT);
    for (const off_t at : {1L << 20, 5L << 20, (5L << 20) + 4096, 9L << 20}) {
      EXPECT_EQ(::pwrite(fd, std::string(kPage, 'd').data(), kPage, at), ssize_t{kPage});
    }
    EXPECT_EQ(::ftruncate(fd, 20L << 20), 0);
    EXPECT_EQ(::fsync(fd), 0);
    Outcome outcome;
    outcome.data = extent_map(fd);
    for (const auto& [offset, whence] : {std::pair<off_t, int>{0, SEEK_DATA},
                                         {0, SEEK_HOLE},
                                         {20L << 20, SEEK_DATA},
                                         {20L << 20, SEEK_HOLE},
                                         {(20L << 20) - 1, SEEK_HOLE},
                                         {(20L << 20) - 1, SEEK_DATA},
                                         {-1, SEEK_DATA},
                                         {-1, SEEK_HOLE},
                                         {(1L << 20) + 1, SEEK_DATA},
                                         {1L << 40, SEEK_HOLE}}) {
      const Outcome step = call(::lseek(fd, offset, whence));
      outcome.data += " " + std::to_string(step.value) + "/" + std::to_string(step.error);
    }
    // A failed seek moves nothing.
    EXPECT_EQ(::lseek(fd, 42, SEEK_SET), 42);
    EXPECT_LT(::lseek(fd, 1L << 40, SEEK_DATA), 0);
    EXPECT_EQ(::lseek(fd, 0, SEEK_CUR), 42);
    return outcome;
  });
  EXPECT_EQ(attributes(mounted_ / "sparse").stx_blocks, attributes(plain_ / "sparse").stx_blocks);
}

TEST_P(DataTest, FallocateAllocatesPunchesAndZeroes) {
  struct Case {
    int mode;
    off_t offset, size;
  };
  const std::vector<Case> cases{
      {0, 0, 100000},
      {0, 200000, 50000},
      {FALLOC_FL_KEEP_SIZE, 300000, 100000},
      {FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 8192, 16384},
      {FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 30001, 5003},
      {FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 240000, 1 << 20},
      {FALLOC_FL_PUNCH_HOLE, 0, 4096},
      {FALLOC_FL_ZERO_RANGE, 100, 10000},
      {FALLOC_FL_ZERO_RANGE, 245000, 20000},
      {FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, 260000, 100000},
      {0, 0, 0},
      {0, -1, 10},
      {0, 0, -1},
      {0, 1L << 62, 1L << 62},
      {0x4000, 0, 10},
  };
  make("file", pattern(5, 150000));
  for (const Case& each : cases) {
    same("fallocate mode " + std::to_string(each.mode) + " at " + std::to_string(each.offset) +
             " size " + std::to_string(each.size),
         [&](const Dir& dir) {
           const Fd fd = open_in(dir, "file", O_RDWR);
           Outcome outcome = call(::fallocate(fd, each.mode, each.offset, each.size));
           struct stat stat {};
           EXPECT_EQ(::fstat(fd, &stat), 0);
           outcome.data = std::to_string(stat.st_size) + " " + read_at(fd, 0, 1 << 20);
           return outcome;
         });
  }
  same("what is punched is a hole", [](const Dir& dir) {
    const Fd fd = open_in(dir, "file", O_RDWR);
    EXPECT_EQ(::fsync(fd), 0);
    Outcome outcome;
    outcome.data = extent_map(fd);
    return outcome;
  });
  same("read-only descriptor", [](const Dir& dir) {
    const Fd fd = open_in(dir, "file", O_RDONLY);
    return call(::fallocate(fd, 0, 0, 10));
  });
  same("posix_fallocate", [](const Dir& dir) {
    const Fd fd = open_in(dir, "file", O_RDWR);
    return Outcome{::posix_fallocate(fd, 300000, 5000), 0, ""};
  });
  expect_same_trees();
  // The kernel's FUSE client lets these two through to no daemon.
  for (const int mode : {FALLOC_FL_COLLAPSE_RANGE, FALLOC_FL_INSERT_RANGE}) {
    const Fd fd = open_in(mounted_, "file", O_RDWR);
    const std::string before = read_at(fd, 0, 1 << 20);
    const Outcome outcome = call(::fallocate(fd, mode, 4096, 4096));
    if (!plain_mode()) {
      EXPECT_EQ(outcome.error, EOPNOTSUPP);
      EXPECT_EQ(read_at(fd, 0, 1 << 20), before);
    } else {
      EXPECT_EQ(outcome.error, 0);
    }
  }
}

TEST_P(DataTest, FilesOverFourGigabytes) {
  same("write far out", [](const Dir& dir) {
    const Fd fd = open_in(dir, "huge", O_RDWR | O_CREAT);
    Outcome outcome;
    for (const off_t at : {(1L << 31) - 3, (1L << 32) - 3, (5L << 30) + 1, (1L << 40) + 7}) {
      EXPECT_EQ(::pwrite(fd, ("at" + std::to_string(at)).data(), 8, at), 8);
    }
    for (const off_t at : {(1L << 31) - 3, (1L << 32) - 3, (5L << 30) + 1, (1L << 40) + 7}) {
      outcome.data += read_at(fd, at - 4, 16) + ";";
    }
    outcome.data += std::to_string(attributes(fd, "").stx_size);
    EXPECT_EQ(::lseek(fd, -8, SEEK_END), (1L << 40) + 7);
    EXPECT_EQ(::ftruncate(fd, (5L << 30) + 4), 0);
    EXPECT_EQ(::fsync(fd), 0);
    outcome.data += extent_map(fd);
    const off_t page = (5L << 30) & ~static_cast<off_t>(kPage - 1);
    const Mapping map(fd, kPage, PROT_READ | PROT_WRITE, MAP_SHARED, page);
    EXPECT_TRUE(map.ok());
    if (map.ok()) {
      outcome.data += std::string(map.data() + ((5L << 30) + 1 - page), 3);
      map.data()[0] = 'M';
    }
    outcome.data += read_at(fd, page, 1);
    return outcome;
  });
  same("the largest size", [](const Dir& dir) {
    const Fd fd = open_in(dir, "huge", O_RDWR);
    Outcome outcome;
    for (const off_t at : {17L << 40, (1L << 62), INT64_MAX - 1}) {
      outcome.data += std::to_string(call(::pwrite(fd, "x", 1, at)).error) + " ";
    }
    return outcome;
  });
  expect_same_trees();
}

TEST_P(DataTest, FileSizeLimitsHold) {
  same("limit", [](const Dir& dir) {
    return in_child([&] {
      ::signal(SIGXFSZ, SIG_IGN);
      const rlimit limit{10000, 10000};
      ::setrlimit(RLIMIT_FSIZE, &limit);
      const Fd fd = open_in(dir, "limited", O_RDWR | O_CREAT);
      Outcome outcome;
      const std::string bytes(8000, 'l');
      for (int round = 0; round < 3; ++round) {
        const Outcome step = call(::write(fd, bytes.data(), bytes.size()));
        outcome.data += std::to_string(step.value) + "/" + std::to_string(step.error) + " ";
      }
      for (const long result : {long{::ftruncate(fd, 20000)}, long{::fallocate(fd, 0, 0, 20000)}}) {
        outcome.data += std::to_string(call(result).error) + " ";
      }
      return outcome;
    });
  });
  expect_same_trees();
}

TEST_P(DataTest, TwoHandlesSeeEachOtherAtOnce) {
  make("file", pattern(6, 50000));
  same("two handles", [](const Dir& dir) {
    const Fd one = open_in(dir, "file", O_RDWR);
    const Fd two = open_in(dir, "file", O_RDWR);
    const Fd reader = open_in(dir, "file", O_RDONLY);
    Outcome outcome;
    for (int round = 0; round < 50; ++round) {
      const std::string text = "round " + std::to_string(round);
      const off_t at = round * 997;
      EXPECT_EQ(::pwrite(round % 2 == 0 ? one : two, text.data(), text.size(), at),
                static_cast<ssize_t>(text.size()));
      EXPECT_EQ(read_at(round % 2 == 0 ? two : one, at, text.size()), text);
      EXPECT_EQ(read_at(reader, at, text.size()), text);
      if (round % 10 == 9) {
        EXPECT_EQ(::ftruncate(one, 20000 + round * 100), 0);
        EXPECT_EQ(::lseek(two, 0, SEEK_END), 20000 + round * 100);
      }
    }
    outcome.data = read_at(reader, 0, 100000);
    return outcome;
  });
  EXPECT_EQ(read_file(mounted_ / "file"), read_file(behind_ / "file"));
}

TEST_P(DataTest, SharedMappingsAreTheFile) {
  make("file", pattern(7, 3 * kPage + 100));
  same("map", [](const Dir& dir) {
    const Fd fd = open_in(dir, "file", O_RDWR);
    const Fd other = open_in(dir, "file", O_RDWR);
    const Mapping map(fd, 4 * kPage, PROT_READ | PROT_WRITE, MAP_SHARED);
    EXPECT_TRUE(map.ok());
    if (!map.ok()) return call(-1);
    Outcome outcome;
    outcome.data = std::string(map.data() + kPage, 50);
    // Each way sees the other: mapping to read, write to mapping, mapping to mapping.
    std::memcpy(map.data() + 10, "mapped", 6);
    EXPECT_EQ(read_at(fd, 10, 6), "mapped");
    EXPECT_EQ(read_at(other, 10, 6), "mapped");
    EXPECT_EQ(::pwrite(other, "written", 7, 2 * kPage), 7);
    EXPECT_EQ(std::string(map.data() + 2 * kPage, 7), "written");
    const Mapping again(other, 4 * kPage, PROT_READ | PROT_WRITE, MAP_SHARED);
    EXPECT_EQ(std::string(again.data() + 10, 6), "mapped");
    std::memcpy(again.data() + 20, "both", 4);
    EXPECT_EQ(std::string(map.data() + 20, 4), "both");
    EXPECT_EQ(::msync(map.data(), map.size(), MS_SYNC), 0);
    // Behind the end of the file, within the page: zeros that never reach the file.
    outcome.data += std::to_string(map.data()[3 * kPage + 200]);
    map.data()[3 * kPage + 200] = 'z';
    EXPECT_EQ(::ftruncate(fd, 3 * kPage + 300), 0);
    outcome.data += std::to_string(attributes(fd, "").stx_size);
    return outcome;
  });
  EXPECT_EQ(read_file(mounted_ / "file"), read_file(behind_ / "file"));
  same("the mapping outlives its descriptor and its name", [](const Dir& dir) {
    Fd fd = open_in(dir, "file", O_RDWR);
    const Mapping map(fd, kPage, PROT_READ | PROT_WRITE, MAP_SHARED);
    const Fd other = open_in(dir, "file", O_RDONLY);
    fd.reset();
    EXPECT_EQ(::unlinkat(dir.fd, "file", 0), 0);
    std::memcpy(map.data(), "later", 5);
    EXPECT_EQ(::msync(map.data(), kPage, MS_SYNC), 0);
    Outcome outcome;
    outcome.data = read_at(other, 0, 5);
    return outcome;
  });
  expect_same_trees();
}

TEST_P(DataTest, MappedWritesReachTheSource) {
  make("file", std::string(10 * kPage, '.'));
  {
    const Fd fd = open_in(mounted_, "file", O_RDWR);
    const Mapping map(fd, 10 * kPage, PROT_READ | PROT_WRITE, MAP_SHARED);
    ASSERT_TRUE(map.ok());
    for (std::size_t page = 0; page < 10; ++page) {
      std::memcpy(map.data() + page * kPage, pattern(page, 100).data(), 100);
    }
    ASSERT_EQ(::msync(map.data(), 5 * kPage, MS_SYNC), 0);
    const std::string behind = read_file(behind_ / "file");
    for (std::size_t page = 0; page < 5; ++page) {
      EXPECT_EQ(behind.substr(page * kPage, 100), pattern(page, 100));
    }
  }
  // The rest gets there by fsync of any descriptor.
  const Fd fd = open_in(mounted_, "file", O_RDWR);
  ASSERT_EQ(::fsync(fd), 0);
  const std::string behind = read_file(behind_ / "file");
  for (std::size_t page = 0; page < 10; ++page) {
    EXPECT_EQ(behind.substr(page * kPage, 100), pattern(page, 100));
  }
}

TEST_P(DataTest, PrivateMappingsStayPrivate) {
  make("file", pattern(8, 2 * kPage));
  same("map privately", [](const Dir& dir) {
    const Fd fd = open_in(dir, "file", O_RDONLY);
    const Mapping map(fd, 2 * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE);
    EXPECT_TRUE(map.ok());
    if (!map.ok()) return call(-1);
    Outcome outcome;
    outcome.data = std::string(map.data(), 2 * kPage);
    std::memcpy(map.data() + 100, "private", 7);
    EXPECT_EQ(std::string(map.data() + 100, 7), "private");
    EXPECT_NE(read_at(fd, 100, 7), "private");
    return outcome;
  });
  same("protections", [](const Dir& dir) {
    Outcome outcome;
    for (const int flags : {O_RDONLY, O_WRONLY, O_RDWR}) {
      const Fd fd = open_in(dir, "file", flags);
      for (const int protection :
           {PROT_READ, PROT_WRITE, PROT_READ | PROT_WRITE, PROT_READ | PROT_EXEC}) {
        for (const int type : {MAP_SHARED, MAP_PRIVATE}) {
          const Mapping map(fd, kPage, protection, type);
          outcome.data += map.ok() ? "ok " : std::to_string(errno) + " ";
        }
      }
    }
    const Fd directory = open_in(dir, ".", O_RDONLY | O_DIRECTORY);
    const Mapping map(directory, kPage, PROT_READ, MAP_SHARED);
    outcome.data += map.ok() ? "ok " : std::to_string(errno) + " ";
    return outcome;
  });
  expect_same_trees();
}

TEST_P(DataTest, MappingBehindTheEndGivesSigbus) {
  make("file", pattern(9, 2 * kPage));
  const Outcome outcome = same("touch a page that is gone", [](const Dir& dir) {
    return in_child([&] {
      const Fd fd = open_in(dir, "file", O_RDWR);
      const Mapping map(fd, 2 * kPage, PROT_READ, MAP_SHARED);
      Outcome result;
      result.data = std::string(map.data() + kPage, 1);
      if (::ftruncate(fd, 100) != 0) return call(-1);
      ::signal(SIGBUS, SIG_DFL);
      // Sanitizers turn the signal into a report and an exit status; the test is about the signal.
      const volatile char* page = map.data() + kPage;
      result.data += *page;
      return result;
    });
  });
  EXPECT_EQ(outcome.error, 255);
  EXPECT_EQ(outcome.value, SIGBUS);
}

TEST_P(DataTest, DirectIo) {
  struct Free {
    void operator()(void* memory) const { std::free(memory); }
  };
  constexpr std::size_t kSize = 64 * 1024;
  const std::unique_ptr<char, Free> buffer(static_cast<char*>(std::aligned_alloc(kPage, kSize)));
  ASSERT_NE(buffer, nullptr);
  same("direct", [&](const Dir& dir) {
    const Fd direct = open_in(dir, "file", O_RDWR | O_CREAT | O_DIRECT);
    if (!direct.ok()) return call(-1);
    const Fd buffered = open_in(dir, "file", O_RDWR);
    Outcome outcome;
    const std::string bytes = pattern(10, kSize);
    std::memcpy(buffer.get(), bytes.data(), kSize);
    outcome.data += std::to_string(::pwrite(direct, buffer.get(), kSize, 0)) + " ";
    EXPECT_EQ(read_at(buffered, 0, kSize), bytes);
    EXPECT_EQ(::pwrite(buffered, "buffered", 8, 5000), 8);
    std::memset(buffer.get(), 0, kSize);
    outcome.data += std::to_string(::pread(direct, buffer.get(), kSize, 0)) + " ";
    EXPECT_EQ(std::string(buffer.get() + 5000, 8), "buffered");
    EXPECT_EQ(std::string(buffer.get(), 5000), bytes.substr(0, 5000));
    // Short reads at the end, reads behind it, writes that leave a hole.
    EXPECT_EQ(::ftruncate(buffered, 6000), 0);
    outcome.data += std::to_string(::pread(direct, buffer.get(), kSize, 4096)) + " ";
    outcome.data += std::to_string(::pread(direct, buffer.get(), kSize, 65536)) + " ";
    std::memcpy(buffer.get(), bytes.data(), kPage);
    outcome.data += std::to_string(::pwrite(direct, buffer.get(), kPage, 1 << 20)) + " ";
    outcome.data += read_at(buffered, 0, 2 << 20);
    return outcome;
  });
  same("direct append", [&](const Dir& dir) {
    const Fd fd = open_in(dir, "log", O_WRONLY | O_CREAT | O_APPEND | O_DIRECT);
    Outcome outcome = call(::write(fd, buffer.get(), kPage));
    outcome.data = std::to_string(::write(fd, buffer.get(), kPage));
    return outcome;
  });
  expect_same_trees();
}

TEST_P(DataTest, UnlinkedFilesLiveUntilTheLastClose) {
  make("file", pattern(11, 10000));
  same("unlinked", [](const Dir& dir) {
    const Fd fd = open_in(dir, "file", O_RDWR);
    const Fd reader = open_in(dir, "file", O_RDONLY);
    const Fd path = open_in(dir, "file", O_PATH);
    EXPECT_EQ(::unlinkat(dir.fd, "file", 0), 0);
    Outcome outcome;
    const auto note = [&](const Outcome& step) {
      outcome.data += std::to_string(step.value) + "/" + std::to_string(step.error) + " ";
    };
    note(call(::pwrite(fd, "still here", 10, 50)));
    outcome.data += read_at(reader, 0, 100) + " ";
    note(call(::ftruncate(fd, 5000)));
    note(call(::fchmod(fd, 0601)));
    note(call(::fchown(fd, 3, 4)));
    const std::array<timespec, 2> times{timespec{1, 1}, timespec{2, 2}};
    note(call(::futimens(fd, times.data())));
    note(call(::fsetxattr(fd, "user.gone", "1", 1, 0)));
    std::string value(10, '\0');
    note(call(::fgetxattr(reader, "user.gone", value.data(), value.size())));
    note(call(::fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096)));
    note(call(::fsync(fd)));
    outcome.data += describe(attributes(fd, ""), false, false) + " ";
    outcome.data += describe(attributes(path, ""), false, false) + " ";
    // A new file by the old name is another file.
    write_file(dir / "file", "successor");
    outcome.data += read_at(reader, 4096, 20) + " " + read_file(dir / "file") + " ";
    // By way of /proc it can be opened again.
    const Fd again(::open(("/proc/self/fd/" + std::to_string(reader)).c_str(), O_RDWR | O_CLOEXEC));
    note(call(again.ok() ? 0 : -1));
    if (again.ok()) {
      note(call(::pwrite(again, "again", 5, 0)));
      outcome.data += read_at(reader, 0, 5) + " ";
    }
    note(call(::linkat(AT_FDCWD, ("/proc/self/fd/" + std::to_string(reader)).c_str(), dir.fd,
                       "back", AT_SYMLINK_FOLLOW)));
    const Mapping map(reader, kPage, PROT_READ, MAP_SHARED);
    EXPECT_TRUE(map.ok());
    if (map.ok()) outcome.data += std::string(map.data(), 5);
    return outcome;
  });
  expect_same_trees();  // and nothing hidden was left behind
}

TEST_P(DataTest, ReplacedAndUnlinkedByAnotherProcessWhileOpen) {
  make("file", "first");
  same("replace", [](const Dir& dir) {
    const Fd old = open_in(dir, "file", O_RDWR);
    const Outcome child = in_child([&] {
      write_file(dir / "next", "second");
      return call(::renameat(dir.fd, "next", dir.fd, "file"));
    });
    EXPECT_EQ(child.error, 0);
    EXPECT_EQ(::pwrite(old, "FIRST", 5, 0), 5);
    Outcome outcome;
    outcome.data = read_at(old, 0, 100) + " " + read_file(dir / "file");
    return outcome;
  });
  expect_same_trees();
}

TEST_P(DataTest, TemporaryFiles) {
  const Fd fd = open_in(mounted_, ".", O_TMPFILE | O_RDWR, 0640);
  if (!fd.ok()) {
    // libfuse before 3.15 has no call for it; the kernel then says so, in these words.
    EXPECT_EQ(errno, EOPNOTSUPP);
    EXPECT_FALSE(plain_mode());
    expect_alike(portrait(mounted_.path, Detail::kPortable),
                 portrait(plain_.path, Detail::kPortable), "mount against source");
    return;
  }
  same("temporary file", [](const Dir& dir) {
    const Fd file = open_in(dir, ".", O_TMPFILE | O_RDWR, 0640);
    Outcome outcome = call(::write(file, "temporary", 9));
    outcome.data = describe(attributes(file, ""), false, false);
    EXPECT_EQ(::linkat(AT_FDCWD, ("/proc/self/fd/" + std::to_string(file)).c_str(), dir.fd, "kept",
                       AT_SYMLINK_FOLLOW),
              0);
    return outcome;
  });
  expect_same_trees();
}

TEST_P(DataTest, PollIsAlwaysReady) {
  make("file");
  same("poll", [](const Dir& dir) {
    const Fd file = open_in(dir, "file", O_RDWR);
    const Fd directory = open_in(dir, ".", O_RDONLY | O_DIRECTORY);
    std::array<pollfd, 2> entries{pollfd{file, POLLIN | POLLOUT | POLLPRI | POLLRDHUP, 0},
                                  pollfd{directory, POLLIN | POLLOUT, 0}};
    Outcome outcome = call(::poll(entries.data(), entries.size(), 0));
    outcome.data = std::to_string(entries[0].revents) + " " + std::to_string(entries[1].revents);
    return outcome;
  });
}

TEST_P(DataTest, WritingTakesSetIdBitsAway) {
  // Each way to change the contents, as the owner and as root, with bits that must go and bits that
  // must stay (setgid without group execution marks mandatory locking).
  struct Way {
    const char* name;
    std::function<Outcome(const Dir&, const std::string&)> change;
  };
  const auto with_fd = [](int flags, const std::function<long(int)>& work) {
    return [=](const Dir& dir, const std::string& name) {
      const Fd fd = open_in(dir, name, flags);
      return fd.ok() ? call(work(fd)) : call(-1);
    };
  };
  const std::vector<Way> ways{
      {"write", with_fd(O_WRONLY, [](int fd) { return ::write(fd, "x", 1); })},
      {"empty write", with_fd(O_WRONLY, [](int fd) { return ::write(fd, "", 0); })},
      {"pwritev", with_fd(O_RDWR,
                          [](int fd) {
                            const iovec vector{const_cast<char*>("xy"), 2};
                            return ::pwritev(fd, &vector, 1, 1);
                          })},
      {"append", with_fd(O_WRONLY | O_APPEND, [](int fd) { return ::write(fd, "x", 1); })},
      {"ftruncate", with_fd(O_WRONLY, [](int fd) { return ::ftruncate(fd, 2); })},
      {"ftruncate longer", with_fd(O_WRONLY, [](int fd) { return ::ftruncate(fd, 100); })},
      {"truncate",
       [](const Dir& dir, const std::string& name) {
         return call(::truncate((dir / name).c_str(), 1));
       }},
      {"O_TRUNC", with_fd(O_WRONLY | O_TRUNC, [](int) { return 0; })},
      {"fallocate", with_fd(O_WRONLY, [](int fd) { return ::fallocate(fd, 0, 0, 1000); })},
      {"punch", with_fd(O_WRONLY,
                        [](int fd) {
                          return ::fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 2);
                        })},
      {"copy_file_range",
       [](const Dir& dir, const std::string& name) {
         const Fd from = open_in(dir, "from", O_RDONLY);
         const Fd to = open_in(dir, name, O_WRONLY);
         return call(::copy_file_range(from, nullptr, to, nullptr, 4, 0));
       }},
      {"sendfile",
       [](const Dir& dir, const std::string& name) {
         const Fd from = open_in(dir, "from", O_RDONLY);
         const Fd to = open_in(dir, name, O_WRONLY);
         return call(::sendfile(to, from, nullptr, 4));
       }},
      {"direct write",
       [](const Dir& dir, const std::string& name) {
         const Fd fd = open_in(dir, name, O_WRONLY | O_DIRECT);
         alignas(kPage) static std::array<char, kPage> page{};
         return call(::write(fd, page.data(), page.size()));
       }},
      {"write of a mapping",
       [](const Dir& dir, const std::string& name) {
         const Fd fd = open_in(dir, name, O_RDWR);
         const Mapping map(fd, kPage, PROT_READ | PROT_WRITE, MAP_SHARED);
         if (!map.ok()) return call(-1);
         map.data()[0] = 'm';
         return call(::msync(map.data(), kPage, MS_SYNC));
       }},
      {"read", with_fd(O_RDONLY,
                       [](int fd) {
                         char byte = 0;
                         return ::read(fd, &byte, 1);
                       })},
      {"chmod to the same",
       [](const Dir& dir, const std::string& name) {
         return call(
             ::fchmodat(dir.fd, name.c_str(), attributes(dir.fd, name).stx_mode & 07777U, 0));
       }},
  };
  make("from", "some bytes");
  int number = 0;
  for (const Way& way : ways) {
    for (const mode_t mode : {06777U, 04755U, 02755U, 02746U, 06666U}) {
      for (const uid_t uid : {kUser, kUser + 1, uid_t{0}}) {
        const std::string name = "f" + std::to_string(number++);
        same("prepare", [&](const Dir& dir) {
          write_file(dir / name, "12345");
          EXPECT_EQ(::fchownat(dir.fd, name.c_str(), kUser, kGroup, 0), 0);
          return call(::fchmodat(dir.fd, name.c_str(), mode, 0));
        });
        same_as(uid, uid, {},
                std::string(way.name) + " of mode " + std::to_string(mode) + " " + name,
                [&](const Dir& dir) {
                  Outcome outcome = way.change(dir, name);
                  outcome.data = describe(attributes(dir.fd, name), false, false);
                  return outcome;
                });
        EXPECT_EQ(describe(attributes(mounted_ / name), true, true),
                  describe(attributes(behind_ / name), true, true));
      }
    }
  }
  expect_same_trees();
}

}  // namespace
}  // namespace lockfs::fstest
