// Changes made on the source behind the mount's back: they show within the cache time, and whatever
// was deleted, replaced, retyped or moved, the mount never shows one file's contents as another's
// and never touches a file it was not asked for.
// ctest: timeout=600
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cctype>
#include <chrono>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "tests/mounted/fs/fs_support.h"

namespace lockfs::fstest {
namespace {

/// With caches of a fifth of a second, or none.
class SourceChangesTest : public FsTest, public ::testing::WithParamInterface<std::string> {
 protected:
  std::vector<std::string> options() const override { return {GetParam()}; }
  /// Whether changes must show at once.
  static bool uncached() { return GetParam().ends_with("entry_timeout=0"); }

  /// Waits for a change to come through the caches; at once when they are off. Only a failure takes
  /// the deadline.
  template <class Condition>
  bool soon(Condition condition) {
    if (uncached() || plain_mode()) return condition();
    const auto end = std::chrono::steady_clock::now() + test::deadline();
    while (!condition()) {
      if (std::chrono::steady_clock::now() > end) return false;
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
    return true;
  }
  bool exists(const std::string& name) {
    struct stat stat {};
    return ::fstatat(mounted_.fd, name.c_str(), &stat, AT_SYMLINK_NOFOLLOW) == 0;
  }
  off_t size_of(const std::string& name) {
    struct stat stat {};
    return ::fstatat(mounted_.fd, name.c_str(), &stat, AT_SYMLINK_NOFOLLOW) == 0 ? stat.st_size
                                                                                 : -1;
  }
  /// Contents, or "" when it can't be opened; no complaint either way.
  std::string contents(const std::string& name, int* error = nullptr) {
    const Fd fd(::openat(mounted_.fd, name.c_str(), O_RDONLY | O_CLOEXEC));
    if (error != nullptr) *error = fd.ok() ? 0 : errno;
    if (!fd.ok()) return {};
    std::string text(1000, '\0');
    const ssize_t count = ::read(fd, text.data(), text.size());
    if (count < 0 && error != nullptr) *error = errno;
    text.resize(count > 0 ? static_cast<std::size_t>(count) : 0);
    return text;
  }
};

INSTANTIATE_TEST_SUITE_P(Caches, SourceChangesTest,
                         ::testing::Values("attr_timeout=0.2,entry_timeout=0.2",
                                           "attr_timeout=0,entry_timeout=0",
                                           "passthrough=off,attr_timeout=0.2,entry_timeout=0.2",
                                           "passthrough=off,attr_timeout=0,entry_timeout=0"),
                         [](const auto& test) {
                           std::string name = test.param;
                           std::erase_if(name, [](char c) { return std::isalnum(c) == 0; });
                           return name;
                         });

TEST_P(SourceChangesTest, ComeThroughWithinTheCacheTime) {
  write_file(behind_ / "file", "one");
  EXPECT_EQ(size_of("file"), 3);
  EXPECT_EQ(contents("file"), "one");
  write_file(behind_ / "file", "twenty two");
  EXPECT_TRUE(soon([&] { return size_of("file") == 10; }));
  EXPECT_EQ(contents("file"), "twenty two");

  write_file(behind_ / "new", "new");
  EXPECT_TRUE(exists("new"));  // that a name is missing is never remembered
  ASSERT_EQ(::unlinkat(behind_.fd, "new", 0), 0);
  EXPECT_TRUE(soon([&] { return !exists("new"); }));

  ASSERT_EQ(::fchmodat(behind_.fd, "file", 0600, 0), 0);
  EXPECT_TRUE(soon([&] {
    struct stat stat {};
    return ::fstatat(mounted_.fd, "file", &stat, 0) == 0 && (stat.st_mode & 07777U) == 0600;
  }));
  ASSERT_EQ(::renameat(behind_.fd, "file", behind_.fd, "renamed"), 0);
  EXPECT_TRUE(soon([&] { return !exists("file"); }));
  EXPECT_EQ(contents("renamed"), "twenty two");
  ASSERT_EQ(::linkat(behind_.fd, "renamed", behind_.fd, "hard", 0), 0);
  EXPECT_TRUE(soon([&] {
    struct stat stat {};
    return ::fstatat(mounted_.fd, "renamed", &stat, 0) == 0 && stat.st_nlink == 2;
  }));
  EXPECT_EQ(attributes(mounted_ / "hard").stx_ino, attributes(mounted_ / "renamed").stx_ino);
}

/// The kernel believes names and attributes for an hour.
class LongCachesTest : public SourceChangesTest {};
INSTANTIATE_TEST_SUITE_P(Caches, LongCachesTest,
                         ::testing::Values("attr_timeout=3600,entry_timeout=3600"));

/// sqlite3 leaves its journal to be rolled back by whoever finds it: to find one that another host
/// has removed, or to write into one, would ruin the database.
TEST_P(LongCachesTest, OpenFindsNoFileThatWasRemovedOrReplaced) {
  if (plain_mode()) GTEST_SKIP() << "nothing to find out about a plain folder";
  int error = 0;
  write_file(behind_ / "removed", "old");
  EXPECT_EQ(contents("removed"), "old");
  ASSERT_EQ(::unlinkat(behind_.fd, "removed", 0), 0);
  EXPECT_EQ(contents("removed", &error), "");
  EXPECT_EQ(error, ENOENT);

  write_file(behind_ / "replaced", "old");
  EXPECT_EQ(contents("replaced"), "old");
  write_file(behind_ / "new", "new");
  ASSERT_EQ(::renameat(behind_.fd, "new", behind_.fd, "replaced"), 0);
  EXPECT_EQ(contents("replaced"), "new");

  write_file(behind_ / "journal", "old");
  EXPECT_EQ(contents("journal"), "old");
  const Fd kept(::openat(behind_.fd, "journal", O_RDONLY | O_CLOEXEC));
  ASSERT_EQ(::unlinkat(behind_.fd, "journal", 0), 0);
  {
    const Fd made(::openat(mounted_.fd, "journal", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
    ASSERT_TRUE(made.ok());
    ASSERT_EQ(::write(made, "new", 3), 3);
  }
  EXPECT_EQ(read_file(behind_ / "journal"), "new");
  struct stat stat {};
  ASSERT_EQ(::fstat(kept, &stat), 0);
  EXPECT_EQ(stat.st_size, 3) << "the removed file was truncated";
}

TEST_P(LongCachesTest, ADescriptorOfARemovedFileCanBeOpenedAgain) {
  write_file(behind_ / "file", "text");
  const Fd first(::openat(mounted_.fd, "file", O_RDWR | O_CLOEXEC));
  ASSERT_TRUE(first.ok());
  ASSERT_EQ(::unlinkat(mounted_.fd, "file", 0), 0);
  for (int round = 0; round < 3; ++round) {
    const Fd again(::open(("/proc/self/fd/" + std::to_string(first)).c_str(), O_RDWR | O_CLOEXEC));
    ASSERT_TRUE(again.ok()) << "round " << round << ", errno " << errno;
    std::array<char, 10> text{};
    EXPECT_EQ(::pread(again, text.data(), text.size(), 0), 4);
  }
}

/// A thread that was refused a file without a name may have that one only: neither an ioctl on it
/// nor another open after the refusal lets it through a name that leads to a removed file.
TEST_P(LongCachesTest, WhatAThreadWasRefusedOpensNoOtherRemovedFile) {
  if (plain_mode()) GTEST_SKIP() << "nothing to find out about a plain folder";
  write_file(behind_ / "gone", "text");
  const Fd gone(::openat(mounted_.fd, "gone", O_RDWR | O_CLOEXEC));
  ASSERT_TRUE(gone.ok());
  ASSERT_EQ(::unlinkat(mounted_.fd, "gone", 0), 0);
  for (int round = 0; round < 4; ++round) {
    const std::string name = "name" + std::to_string(round);
    write_file(behind_ / name, "old");
    const Fd held(::openat(mounted_.fd, name.c_str(), O_RDONLY | O_CLOEXEC));
    ASSERT_TRUE(held.ok());
    int flags = 0;
    EXPECT_EQ(::ioctl(gone, FS_IOC_GETFLAGS, &flags), 0) << "errno " << errno;
    write_file(behind_ / "new", "new");
    ASSERT_EQ(::renameat(behind_.fd, "new", behind_.fd, name.c_str()), 0);
    EXPECT_EQ(contents(name), "new");
  }
}

/// In a sticky folder the kernel lets the owner of what it believes to be there take the name away;
/// by then it may be somebody else's.
TEST_P(LongCachesTest, ANameInAStickyFolderThatIsAnothersByNowStays) {
  if (plain_mode()) GTEST_SKIP() << "nothing to find out about a plain folder";
  constexpr uid_t kAttacker = 54321;
  constexpr uid_t kVictim = 54322;
  ASSERT_EQ(::mkdirat(behind_.fd, "sticky", 0777), 0);
  ASSERT_EQ(::fchmodat(behind_.fd, "sticky", 01777, 0), 0);
  const auto make = [&](const std::string& name, bool folder, uid_t owner) {
    if (folder) {
      ASSERT_EQ(::mkdirat(behind_.fd, name.c_str(), 0755), 0);
    } else {
      write_file(behind_ / name, "text");
    }
    ASSERT_EQ(::fchownat(behind_.fd, name.c_str(), owner, owner, 0), 0);
  };
  const auto attempt = [&](const std::function<long()>& what) {
    const ScopedUser attacker(kAttacker, kAttacker);
    return call(what()).error;
  };
  for (const bool folder : {false, true}) {
    make("sticky/mine", folder, kAttacker);
    make("sticky/own", folder, kAttacker);
    make("victims", folder, kVictim);
    struct stat stat {};
    ASSERT_EQ(::fstatat(mounted_.fd, "sticky/mine", &stat, 0), 0);  // believed for an hour
    ASSERT_EQ(::renameat(behind_.fd, "sticky/mine", behind_.fd, "old"), 0);
    ASSERT_EQ(::renameat(behind_.fd, "victims", behind_.fd, "sticky/mine"), 0);
    const int flag = folder ? AT_REMOVEDIR : 0;
    EXPECT_EQ(attempt([&] { return ::unlinkat(mounted_.fd, "sticky/mine", flag); }), EPERM);
    EXPECT_EQ(
        attempt([&] { return ::renameat(mounted_.fd, "sticky/mine", mounted_.fd, "sticky/away"); }),
        EPERM);
    EXPECT_EQ(
        attempt([&] { return ::renameat(mounted_.fd, "sticky/own", mounted_.fd, "sticky/mine"); }),
        EPERM);
    ASSERT_EQ(::fstatat(behind_.fd, "sticky/mine", &stat, 0), 0);
    EXPECT_EQ(stat.st_uid, kVictim);
    // What is still one's own goes as ever.
    EXPECT_EQ(
        attempt([&] { return ::renameat(mounted_.fd, "sticky/own", mounted_.fd, "sticky/moved"); }),
        0);
    EXPECT_EQ(attempt([&] { return ::unlinkat(mounted_.fd, "sticky/moved", flag); }), 0);
    ASSERT_EQ(::unlinkat(behind_.fd, "sticky/mine", flag), 0);
    ASSERT_EQ(::unlinkat(behind_.fd, "old", flag), 0);
  }
}

class DefaultCachesTest : public FsTest {};

TEST_F(DefaultCachesTest, ForgetInTheEnd) {
  write_file(behind_ / "file", "one");
  EXPECT_EQ(attributes(mounted_ / "file").stx_size, 3U);
  write_file(behind_ / "file", "twenty two");
  const auto end = std::chrono::steady_clock::now() + test::deadline();
  struct stat stat {};
  while (::fstatat(mounted_.fd, "file", &stat, 0) == 0 && stat.st_size != 10 &&
         std::chrono::steady_clock::now() < end) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  EXPECT_EQ(stat.st_size, 10);
}

TEST_P(SourceChangesTest, AnOpenFileSeesWhatIsWrittenBehind) {
  write_file(behind_ / "file", std::string(10000, 'a'));
  const Fd fd(::open((mounted_ / "file").c_str(), O_RDONLY | O_CLOEXEC));
  std::string text(5, '\0');
  ASSERT_EQ(::pread(fd, text.data(), 5, 5000), 5);
  EXPECT_EQ(text, "aaaaa");
  const Fd behind(::open((behind_ / "file").c_str(), O_WRONLY | O_CLOEXEC));
  ASSERT_EQ(::pwrite(behind, "bbbbb", 5, 5000), 5);
  ASSERT_EQ(::pwrite(behind, "end", 3, 20000), 3);
  EXPECT_TRUE(soon([&] {
    struct stat stat {};
    return ::fstat(fd, &stat) == 0 && stat.st_size == 20003;
  }));
  // A new open drops what was cached of the contents, in whichever way data travels.
  EXPECT_EQ(read_file(mounted_ / "file").substr(5000, 5), "bbbbb");
  EXPECT_TRUE(soon([&] { return ::pread(fd, text.data(), 5, 5000) == 5 && text == "bbbbb"; }));
}

TEST_P(SourceChangesTest, DeletedFiles) {
  write_file(behind_ / "file", "contents");
  ASSERT_EQ(::mkdirat(behind_.fd, "dir", 0755), 0);
  write_file(behind_ / "dir/inner", "inner");
  EXPECT_EQ(contents("dir/inner"), "inner");
  const Fd open_file(::open((mounted_ / "file").c_str(), O_RDWR | O_CLOEXEC));
  const Fd dir(::open((mounted_ / "dir").c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  ASSERT_TRUE(open_file.ok() && dir.ok());
  ASSERT_EQ(::unlinkat(behind_.fd, "file", 0), 0);
  ASSERT_EQ(::unlinkat(behind_.fd, "dir/inner", 0), 0);
  ASSERT_EQ(::unlinkat(behind_.fd, "dir", AT_REMOVEDIR), 0);

  // What is open stays whole.
  std::string text(8, '\0');
  EXPECT_EQ(::pread(open_file, text.data(), 8, 0), 8);
  EXPECT_EQ(text, "contents");
  EXPECT_EQ(::pwrite(open_file, "CON", 3, 0), 3);
  EXPECT_EQ(attributes(open_file, "").stx_nlink, 0U);
  // What is asked for by name is gone: at once where the directory is asked, else after the caches.
  EXPECT_TRUE(soon([&] { return !exists("file") && !exists("dir"); }));
  for (const Outcome& outcome :
       {call_fd(::openat(mounted_.fd, "file", O_RDONLY | O_CLOEXEC)),
        call(::unlinkat(mounted_.fd, "file", 0)),
        call(::renameat(mounted_.fd, "file", mounted_.fd, "x")),
        call(::fchmodat(mounted_.fd, "file", 0600, 0)),
        call(::truncate((mounted_ / "file").c_str(), 0)),
        call(::linkat(mounted_.fd, "file", mounted_.fd, "y", 0)),
        call_fd(::openat(dir, "inner", O_RDONLY | O_CLOEXEC)),
        call_fd(::openat(dir, "fresh", O_WRONLY | O_CREAT | O_CLOEXEC, 0644)),
        call(::mkdirat(dir, "fresh", 0755)), call(::unlinkat(mounted_.fd, "dir", AT_REMOVEDIR))}) {
    EXPECT_EQ(outcome.error, ENOENT);
  }
  EXPECT_EQ(call_fd(::openat(mounted_.fd, "file", O_WRONLY | O_CREAT | O_CLOEXEC, 0644)).error, 0);
}

TEST_P(SourceChangesTest, OperationsOnStaleNamesFailRightAtOnce) {
  // No waiting for the caches: the kernel still believes in the names. Each operation must report
  // that the file is gone and must not reach another.
  for (int number = 0; number < 12; ++number) {
    const std::string name = "f" + std::to_string(number);
    write_file(behind_ / name, "old " + name);
    ASSERT_TRUE(exists(name));
    ASSERT_EQ(::unlinkat(behind_.fd, name.c_str(), 0), 0);
  }
  const auto gone = [](const Outcome& outcome) {
    EXPECT_TRUE(outcome.error == ENOENT || outcome.error == ESTALE) << outcome;
  };
  // Opened by a name the kernel still believes, a file may be found as it was, like one opened a
  // moment before it was deleted.
  const Fd opened(::openat(mounted_.fd, "f0", O_RDWR | O_CLOEXEC));
  if (opened.ok()) {
    EXPECT_FALSE(uncached());
    std::string old(10, '\0');
    ASSERT_EQ(::pread(opened, old.data(), 10, 0), 6);
    EXPECT_EQ(old.substr(0, 6), "old f0");
    EXPECT_EQ(attributes(opened, "").stx_nlink, 0U);
  } else {
    gone(call(-1));
  }
  gone(call(::unlinkat(mounted_.fd, "f2", 0)));
  gone(call(::renameat(mounted_.fd, "f3", mounted_.fd, "other")));
  gone(call(::linkat(mounted_.fd, "f4", mounted_.fd, "other", 0)));
  std::string text(10, '\0');
  // With the name cached, these go to the file that is pinned; without, the name is gone. Neither
  // may reach anything else.
  for (const Outcome& outcome : {call(::fchmodat(mounted_.fd, "f5", 0600, 0)),
                                 call(::truncate((mounted_ / "f6").c_str(), 1)),
                                 call(::setxattr((mounted_ / "f7").c_str(), "user.a", "1", 1, 0)),
                                 call(::fchownat(mounted_.fd, "f8", 1, 1, 0))}) {
    EXPECT_TRUE(outcome.error == 0 || outcome.error == ENOENT || outcome.error == ESTALE)
        << outcome;
  }
  EXPECT_EQ(portrait(behind_.path, Detail::kPortable).find("f"), std::string::npos)
      << portrait(behind_.path, Detail::kPortable);
}

TEST_P(SourceChangesTest, ReplacedFiles) {
  write_file(behind_ / "file", "first");
  const Fd old(::open((mounted_ / "file").c_str(), O_RDWR | O_CLOEXEC));
  EXPECT_EQ(contents("file"), "first");
  write_file(behind_ / "next", "second, longer");
  ASSERT_EQ(::renameat(behind_.fd, "next", behind_.fd, "file"), 0);
  std::string text(20, '\0');
  ASSERT_EQ(::pread(old, text.data(), 20, 0), 5);
  EXPECT_EQ(text.substr(0, 5), "first");
  EXPECT_TRUE(soon([&] { return contents("file") == "second, longer"; }));
  EXPECT_EQ(size_of("file"), 14);
  ASSERT_EQ(::pwrite(old, "FIRST", 5, 0), 5);
  EXPECT_EQ(contents("file"), "second, longer");
  EXPECT_EQ(read_file(behind_ / "file"), "second, longer");
}

TEST_P(SourceChangesTest, ReusedInodeNumbersNeverMixFilesUp) {
  // ext4 gives a freed inode number to the next file made in the directory. The mount knew the
  // number as another file; each name must show its own contents or be missing, and files held open
  // must stay themselves. The kernel may believe a name for the cache time, so what may appear
  // under it is what once stood there.
  auto random = make_random(10);
  std::map<std::string, std::string> current;
  std::map<std::string, std::string> previous;
  struct Held {
    Fd fd;
    std::string text;
  };
  std::vector<Held> held;
  int reused = 0;
  std::map<std::uint64_t, int> numbers;
  const int rounds = scaled(4000, 200);
  for (int round = 0; round < rounds; ++round) {
    const std::string name = "n" + std::to_string(below(random, 20));
    if (below(random, 2) == 0) {
      if (current.count(name) != 0) {
        ASSERT_EQ(::unlinkat(behind_.fd, name.c_str(), 0), 0);
        previous[name] = current[name];
        current.erase(name);
      }
    } else if (current.count(name) == 0) {
      const std::string text = "text " + std::to_string(round) + " of " + name;
      write_file(behind_ / name, text);
      current[name] = text;
      reused += numbers[attributes(behind_ / name).stx_ino]++ > 0 ? 1 : 0;
    }
    const std::string looked = "n" + std::to_string(below(random, 20));
    int error = 0;
    const std::string seen = contents(looked, &error);
    if (error != 0) {
      EXPECT_TRUE(error == ENOENT || error == ESTALE) << looked << ": " << error;
      // A name that exists may look missing only while a stale entry is believed.
      if (uncached()) {
        EXPECT_EQ(current.count(looked), 0U) << looked;
      }
    } else {
      // Never another name's text; without caches exactly what is there.
      EXPECT_EQ(seen.substr(std::min(seen.size(), seen.find(" of "))), " of " + looked)
          << looked << " shows '" << seen << "'";
      if (uncached()) {
        EXPECT_EQ(seen, current[looked]);
      }
    }
    if (below(random, 10) == 0 && error == 0) {
      Fd fd(::openat(mounted_.fd, looked.c_str(), O_RDONLY | O_CLOEXEC));
      if (fd.ok()) {
        std::string text(1000, '\0');
        const ssize_t count = ::pread(fd, text.data(), text.size(), 0);
        ASSERT_GE(count, 0);
        text.resize(static_cast<std::size_t>(count));
        held.push_back({std::move(fd), text});
      }
    }
    if (held.size() > 50) held.erase(held.begin() + static_cast<long>(below(random, held.size())));
    if (!held.empty()) {
      const Held& one = held[below(random, held.size())];
      std::string text(1000, '\0');
      const ssize_t count = ::pread(one.fd, text.data(), text.size(), 0);
      ASSERT_GE(count, 0);
      text.resize(static_cast<std::size_t>(count));
      EXPECT_EQ(text, one.text);
    }
    if (HasFailure()) FAIL() << "in round " << round << ", seed " << test_seed();
  }
  EXPECT_GT(reused, rounds / 50) << "the test needs inode numbers that come back";
  for (const auto& [name, text] : current) {
    EXPECT_TRUE(soon([&, &name = name, &text = text] { return contents(name) == text; })) << name;
  }
}

TEST_P(SourceChangesTest, AReusedNumberOfAForgottenFile) {
  // As above, with the kernel made to forget in between, so that the daemon has to recognise files
  // from the number and its generation alone.
  for (int round = 0; round < scaled(15, 5); ++round) {
    const std::string text = "round " + std::to_string(round);
    write_file(behind_ / "file", text);
    EXPECT_TRUE(soon([&] { return contents("file") == text; })) << round;
    write_file("/proc/sys/vm/drop_caches", "2");
    EXPECT_EQ(contents("file"), text);
    ASSERT_EQ(::unlinkat(behind_.fd, "file", 0), 0);
    write_file("/proc/sys/vm/drop_caches", "2");
  }
}

TEST_P(SourceChangesTest, FilesThatChangeTheirKind) {
  const auto remake = [&](const std::string& kind) {
    remove_tree(behind_ / "x");
    if (kind == "file") write_file(behind_ / "x", "I am a file");
    if (kind == "dir") {
      ASSERT_EQ(::mkdirat(behind_.fd, "x", 0755), 0);
      write_file(behind_ / "x/inner", "inner");
    }
    if (kind == "link") {
      ASSERT_EQ(::symlinkat("target", behind_.fd, "x"), 0);
    }
    if (kind == "fifo") {
      ASSERT_EQ(::mkfifoat(behind_.fd, "x", 0600), 0);
    }
  };
  const std::map<std::string, mode_t> kinds{
      {"file", S_IFREG}, {"dir", S_IFDIR}, {"link", S_IFLNK}, {"fifo", S_IFIFO}};
  for (const auto& [from, from_type] : kinds) {
    for (const auto& [to, to_type] : kinds) {
      remake(from);
      struct stat stat {};
      EXPECT_TRUE(soon([&, &from_type = from_type] {
        return ::fstatat(mounted_.fd, "x", &stat, AT_SYMLINK_NOFOLLOW) == 0 &&
               (stat.st_mode & S_IFMT) == from_type;
      }));
      remake(to);
      // Whatever is asked in between must fail or fit one of the two.
      std::array<char, 100> text{};
      const ssize_t length = ::readlinkat(mounted_.fd, "x", text.data(), text.size());
      EXPECT_TRUE(length < 0 || from == "link" || to == "link");
      int error = 0;
      const std::string inner = contents("x/inner", &error);
      EXPECT_TRUE(error != 0 || from == "dir" || to == "dir");
      EXPECT_TRUE(soon([&, &to_type = to_type] {
        return ::fstatat(mounted_.fd, "x", &stat, AT_SYMLINK_NOFOLLOW) == 0 &&
               (stat.st_mode & S_IFMT) == to_type;
      })) << from
          << " to " << to;
    }
  }
}

TEST_P(SourceChangesTest, MovedDirectoriesTakeTheirContentsAlong) {
  ASSERT_EQ(::mkdirat(behind_.fd, "a", 0755), 0);
  ASSERT_EQ(::mkdirat(behind_.fd, "a/b", 0755), 0);
  write_file(behind_ / "a/b/file", "text");
  EXPECT_EQ(contents("a/b/file"), "text");
  const Fd b(::open((mounted_ / "a/b").c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  ASSERT_EQ(::renameat(behind_.fd, "a/b", behind_.fd, "moved"), 0);
  // A directory that is open is found wherever it went.
  EXPECT_EQ(call_fd(::openat(b, "file", O_RDONLY | O_CLOEXEC)).error, 0);
  EXPECT_EQ(call_fd(::openat(b, "made", O_WRONLY | O_CREAT | O_CLOEXEC, 0644)).error, 0);
  EXPECT_EQ(::faccessat(behind_.fd, "moved/made", F_OK, 0), 0);
  EXPECT_TRUE(soon([&] { return !exists("a/b") && contents("moved/file") == "text"; }));
  // A loop of moves: what the mount believes to be below is now above.
  ASSERT_EQ(::renameat(behind_.fd, "a", behind_.fd, "moved/a"), 0);
  EXPECT_TRUE(soon([&] { return exists("moved/a") && !exists("a"); }));
  const Outcome outcome = call(::renameat(mounted_.fd, "moved", mounted_.fd, "moved/a/x"));
  EXPECT_EQ(outcome.error, EINVAL);
}

TEST_P(SourceChangesTest, SymlinksNeverLeadTheDaemonOut) {
  // Somebody on the source swaps a file for a symlink to a file outside, over and over, while the
  // mount's user, who never follows symlinks, works on it in every way. The daemon may never follow
  // one in the user's stead: the file outside must not change.
  const std::string victim = source() + "/victim";
  const std::string victim_dir = source() + "/victim-dir";
  write_file(victim, "untouched", 0644);
  ASSERT_EQ(::mkdir(victim_dir.c_str(), 0755), 0);
  write_file(victim_dir + "/inner", "untouched");
  ASSERT_EQ(::setxattr(victim.c_str(), "user.a", "old", 3, 0), 0);
  const auto before = describe(attributes(victim), true, true);
  const auto before_dir = portrait(victim_dir, Detail::kExact);

  write_file(behind_ / "as-file", "mine");
  ASSERT_EQ(::symlinkat(victim.c_str(), behind_.fd, "as-link"), 0);
  ASSERT_EQ(::mkdirat(behind_.fd, "as-dir", 0755), 0);
  write_file(behind_ / "as-dir/inner", "mine");
  ASSERT_EQ(::symlinkat(victim_dir.c_str(), behind_.fd, "as-dir-link"), 0);
  std::atomic<bool> stop{false};
  std::thread swapper([&] {
    while (!stop.load()) {
      ::renameat2(behind_.fd, "as-file", behind_.fd, "as-link", RENAME_EXCHANGE);
      ::renameat2(behind_.fd, "as-dir", behind_.fd, "as-dir-link", RENAME_EXCHANGE);
    }
  });
  const std::array<timespec, 2> times{timespec{1, 1}, timespec{2, 2}};
  for (int round = 0; round < scaled(1500, 100); ++round) {
    for (const int flags : {O_WRONLY | O_TRUNC, O_WRONLY | O_CREAT, O_RDWR | O_CREAT | O_TRUNC}) {
      const Fd fd(::openat(mounted_.fd, "as-file", flags | O_NOFOLLOW | O_CLOEXEC, 0600));
      if (fd.ok()) {
        ::fchmod(fd, 0666);
        EXPECT_EQ(::write(fd, "mine", 4), 4);
        ::fsetxattr(fd, "user.a", "new", 3, 0);
      }
    }
    const std::string path = mounted_ / "as-file";
    ::lsetxattr(path.c_str(), "user.a", "new", 3, 0);
    ::lsetxattr(path.c_str(), "trusted.a", "new", 3, 0);
    ::lremovexattr(path.c_str(), "user.a");
    ::fchownat(mounted_.fd, "as-file", 7, 7, AT_SYMLINK_NOFOLLOW);
    ::utimensat(mounted_.fd, "as-file", times.data(), AT_SYMLINK_NOFOLLOW);
    ::linkat(mounted_.fd, "as-file", mounted_.fd, "hard", 0);
    ::unlinkat(mounted_.fd, "hard", 0);
    // O_PATH with O_NOFOLLOW holds whichever of the two it found; by way of it only that is
    // changed.
    const Fd dir(::openat(mounted_.fd, "as-dir", O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    if (dir.ok()) {
      const Fd inner(
          ::openat(dir, "inner", O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600));
      if (inner.ok()) {
        EXPECT_EQ(::write(inner, "mine", 4), 4);
      }
      ::fchmodat(dir, "inner", 0666, 0);
      ::mkdirat(dir, "made", 0755);
      ::unlinkat(dir, "made", AT_REMOVEDIR);
      ::unlinkat(dir, "inner", 0);
    }
  }
  stop.store(true);
  swapper.join();
  EXPECT_EQ(read_file(victim), "untouched");
  EXPECT_EQ(describe(attributes(victim), true, true), before);
  EXPECT_EQ(portrait(victim_dir, Detail::kExact), before_dir);
  std::string value(10, '\0');
  EXPECT_EQ(::getxattr(victim.c_str(), "user.a", value.data(), value.size()), 3);
  EXPECT_EQ(value.substr(0, 3), "old");
}

}  // namespace
}  // namespace lockfs::fstest
