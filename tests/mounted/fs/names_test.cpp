// Operations on names: lookup, link, unlink, mkdir, rmdir, symlink, readlink, mknod, rename. Each
// runs on the mount and on a plain directory and must give the same in both.
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <unistd.h>

#include <climits>
#include <cstdio>
#include <string>
#include <vector>

#include "tests/mounted/fs/fs_support.h"

namespace lockfs::fstest {
namespace {

constexpr unsigned kWhiteout = 1U << 2;  // RENAME_WHITEOUT of <linux/fs.h>

Outcome stat_call(const Dir& dir, const std::string& name, int flags = AT_SYMLINK_NOFOLLOW) {
  struct statx stat {};
  Outcome outcome =
      call(::statx(dir.fd, name.c_str(), flags | AT_STATX_FORCE_SYNC, STATX_BASIC_STATS, &stat));
  if (outcome.error == 0) outcome.data = describe(stat, false, false);
  return outcome;
}

Outcome make_file(const Dir& dir, const std::string& name, mode_t mode = 0644) {
  return call_fd(::openat(dir.fd, name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode));
}

class NamesTest : public FsTest {
 protected:
  void same_file(const std::string& name) {
    same("create " + name, [&](const Dir& dir) { return make_file(dir, name); });
  }
  void same_dir(const std::string& name, mode_t mode = 0755) {
    same("mkdir " + name,
         [&](const Dir& dir) { return call(::mkdirat(dir.fd, name.c_str(), mode)); });
  }
  Outcome same_stat(const std::string& name) {
    return same("stat " + name, [&](const Dir& dir) { return stat_call(dir, name); });
  }
  Outcome same_unlink(const std::string& name, int flags = 0) {
    return same("unlink " + name,
                [&](const Dir& dir) { return call(::unlinkat(dir.fd, name.c_str(), flags)); });
  }
  Outcome same_rename(const std::string& from, const std::string& to, unsigned flags = 0) {
    return same("rename " + from + " to " + to + " with flags " + std::to_string(flags),
                [&](const Dir& dir) {
                  return call(::renameat2(dir.fd, from.c_str(), dir.fd, to.c_str(), flags));
                });
  }
  Outcome same_link(const std::string& from, const std::string& to, int flags = 0) {
    return same("link " + from + " to " + to, [&](const Dir& dir) {
      return call(::linkat(dir.fd, from.c_str(), dir.fd, to.c_str(), flags));
    });
  }
  /// Creates a file whose contents say its name.
  void same_content(const std::string& name) {
    same("write " + name, [&](const Dir& dir) {
      write_file(dir / name, "I am " + name);
      return Outcome{};
    });
  }
};

TEST_F(NamesTest, LookupAnswersLikeTheSource) {
  same_file("file");
  same_dir("dir");
  same_file("dir/inner");
  for (const char* name :
       {"file", "dir", "dir/inner", "missing", "dir/missing", "file/below", ".", "..", "dir/.",
        "dir/..", "dir/../file", "file/", "dir/", "missing/", "./././file", "dir//inner", ""}) {
    same_stat(name);
  }
  EXPECT_EQ(same_stat("file/below").error, ENOTDIR);
  EXPECT_EQ(same_stat("missing").error, ENOENT);
}

TEST_F(NamesTest, AnyByteMayStandInAName) {
  std::vector<std::string> names{"with space",
                                 "new\nline",
                                 "tab\there",
                                 "\xff\xfe not utf8",
                                 "\xc3\xa9\xe2\x82\xac",
                                 "-rf",
                                 "*",
                                 "?",
                                 "\\",
                                 "'",
                                 "\"",
                                 "...",
                                 "....",
                                 " ",
                                 "\x01",
                                 "name.",
                                 "~",
                                 "$HOME",
                                 ".hidden"};
  for (int byte = 1; byte < 256; ++byte) {
    if (byte != '/' && byte != '.') names.push_back("b" + std::string(1, static_cast<char>(byte)));
  }
  for (const std::string& name : names) same_content(name);
  expect_same_trees();
  for (const std::string& name : names) {
    EXPECT_EQ(read_file(mounted_ / name), "I am " + name);
    same_unlink(name);
  }
  expect_same_trees();
}

TEST_F(NamesTest, NamesOf255BytesWorkAnd256AreRefusedByEveryOperation) {
  const std::string longest(255, 'n');
  const std::string longest_other(255, 'o');
  const std::string too_long(256, 'n');
  const std::string far_too_long(1025, 'n');
  same_content(longest);
  same_stat(longest);
  same_link(longest, longest_other);
  same_unlink(longest_other);
  same_rename(longest, longest_other);
  EXPECT_EQ(read_file(mounted_ / longest_other), "I am " + longest);
  same_dir(longest);
  same("symlink", [&](const Dir& dir) {
    return call(::symlinkat(longest.c_str(), dir.fd, (longest + "/" + longest).c_str()));
  });
  expect_same_trees();
  same_file("file");
  same_dir("dir");
  for (const std::string& name : {too_long, far_too_long}) {
    EXPECT_EQ(same_stat(name).error, ENAMETOOLONG);
    EXPECT_EQ(same("create", [&](const Dir& dir) { return make_file(dir, name); }).error,
              ENAMETOOLONG);
    EXPECT_EQ(same("open",
                   [&](const Dir& dir) {
                     return call_fd(::openat(dir.fd, name.c_str(), O_RDONLY | O_CLOEXEC));
                   })
                  .error,
              ENAMETOOLONG);
    EXPECT_EQ(
        same("mkdir", [&](const Dir& dir) { return call(::mkdirat(dir.fd, name.c_str(), 0755)); })
            .error,
        ENAMETOOLONG);
    EXPECT_EQ(same("mknod",
                   [&](const Dir& dir) {
                     return call(::mknodat(dir.fd, name.c_str(), S_IFIFO | 0600, 0));
                   })
                  .error,
              ENAMETOOLONG);
    EXPECT_EQ(same("symlink",
                   [&](const Dir& dir) { return call(::symlinkat("x", dir.fd, name.c_str())); })
                  .error,
              ENAMETOOLONG);
    EXPECT_EQ(same_link("file", name).error, ENAMETOOLONG);
    EXPECT_EQ(same_rename("file", name).error, ENAMETOOLONG);
    EXPECT_EQ(same_rename("dir", name).error, ENAMETOOLONG);
    EXPECT_EQ(same_unlink(name).error, ENAMETOOLONG);
    EXPECT_EQ(same_unlink(name, AT_REMOVEDIR).error, ENAMETOOLONG);
  }
  expect_same_trees();
}

TEST_F(NamesTest, MkdirAndRmdir) {
  const ScopedUmask umask(0);
  for (const mode_t mode : {0755U, 0700U, 0777U, 01777U, 02755U, 0U, 07777U}) {
    same_dir("d" + std::to_string(mode), mode);
    same_stat("d" + std::to_string(mode));
  }
  same_file("file");
  same_dir("a");
  same_dir("a/b");
  same_dir("a/b/c");
  EXPECT_EQ(stat_call(mounted_, "a").data,
            stat_call(plain_, "a").data);  // links count subdirectories
  same_dir("a");                           // EEXIST
  same_dir("file");                        // EEXIST
  same_dir("file/below");                  // ENOTDIR
  same_dir("missing/below");               // ENOENT
  EXPECT_EQ(same_unlink("a", AT_REMOVEDIR).error, ENOTEMPTY);
  EXPECT_EQ(same_unlink("file", AT_REMOVEDIR).error, ENOTDIR);
  EXPECT_EQ(same_unlink("a").error, EISDIR);
  EXPECT_EQ(same_unlink("a/.", AT_REMOVEDIR).error, EINVAL);
  EXPECT_EQ(same_unlink("a/b/..", AT_REMOVEDIR).error, ENOTEMPTY);
  EXPECT_EQ(same_unlink("missing", AT_REMOVEDIR).error, ENOENT);
  EXPECT_EQ(same_unlink("a/b/c", AT_REMOVEDIR).error, 0);
  EXPECT_EQ(same_unlink("a/b", AT_REMOVEDIR).error, 0);
  same_stat("a");
  EXPECT_EQ(same_unlink("a", AT_REMOVEDIR).error, 0);
  expect_same_trees();
}

TEST_F(NamesTest, UnlinkKeepsTheOtherLinks) {
  same_content("one");
  same_link("one", "two");
  same_dir("dir");
  same_link("one", "dir/three");
  EXPECT_EQ(attributes(mounted_ / "two").stx_nlink, 3U);
  same_unlink("one");
  EXPECT_EQ(same_unlink("one").error, ENOENT);
  EXPECT_EQ(attributes(mounted_ / "two").stx_nlink, 2U);
  EXPECT_EQ(read_file(mounted_ / "dir/three"), "I am one");
  same_unlink("two");
  EXPECT_EQ(attributes(mounted_ / "dir/three").stx_nlink, 1U);
  expect_same_trees();
}

TEST_F(NamesTest, HardLinksAreOneFile) {
  same_content("one");
  same_dir("dir");
  same_link("one", "dir/two");
  const auto one = attributes(mounted_ / "one");
  const auto two = attributes(mounted_ / "dir/two");
  EXPECT_EQ(one.stx_ino, two.stx_ino);
  EXPECT_EQ(one.stx_nlink, 2U);
  EXPECT_EQ(two.stx_nlink, 2U);
  EXPECT_EQ(one.stx_ino, attributes(behind_ / "one").stx_ino);

  // A change by one name is there by the other at once, through caches too: plain stat, no sync.
  const Fd by_one(::open((mounted_ / "one").c_str(), O_RDWR | O_CLOEXEC));
  const Fd by_two(::open((mounted_ / "dir/two").c_str(), O_RDWR | O_CLOEXEC));
  ASSERT_TRUE(by_one.ok() && by_two.ok());
  ASSERT_EQ(::pwrite(by_one, "HELLO", 5, 100), 5);
  std::string seen(5, '\0');
  EXPECT_EQ(::pread(by_two, seen.data(), 5, 100), 5);
  EXPECT_EQ(seen, "HELLO");
  struct stat stat {};
  ASSERT_EQ(::stat((mounted_ / "dir/two").c_str(), &stat), 0);
  EXPECT_EQ(stat.st_size, 105);
  ASSERT_EQ(::chmod((mounted_ / "dir/two").c_str(), 0640), 0);
  ASSERT_EQ(::stat((mounted_ / "one").c_str(), &stat), 0);
  EXPECT_EQ(stat.st_mode & 07777U, 0640U);
  ASSERT_EQ(::ftruncate(by_two, 3), 0);
  ASSERT_EQ(::fstat(by_one, &stat), 0);
  EXPECT_EQ(stat.st_size, 3);

  EXPECT_EQ(same_link("one", "dir/two").error, EEXIST);
  EXPECT_EQ(same_link("dir", "dir2").error, EPERM);
  EXPECT_EQ(same_link("missing", "x").error, ENOENT);
  EXPECT_EQ(same_link("one", "missing/x").error, ENOENT);
  EXPECT_EQ(same_link("one", "one/x").error, ENOTDIR);
  same("symlink", [](const Dir& dir) { return call(::symlinkat("one", dir.fd, "sym")); });
  same_link("sym", "link-to-symlink");
  same_link("sym", "link-through-symlink", AT_SYMLINK_FOLLOW);
  EXPECT_EQ(attributes(mounted_ / "link-through-symlink").stx_ino, one.stx_ino);
  same("mkfifo", [](const Dir& dir) { return call(::mkfifoat(dir.fd, "fifo", 0600)); });
  same_link("fifo", "fifo2");
}

TEST_F(NamesTest, LinkFromADescriptor) {
  same_content("file");
  same("linkat through /proc", [](const Dir& dir) {
    const Fd fd(::openat(dir.fd, "file", O_RDONLY | O_CLOEXEC));
    const std::string link = "/proc/self/fd/" + std::to_string(fd);
    return call(::linkat(AT_FDCWD, link.c_str(), dir.fd, "linked", AT_SYMLINK_FOLLOW));
  });
  same("linkat with AT_EMPTY_PATH", [](const Dir& dir) {
    const Fd fd(::openat(dir.fd, "file", O_PATH | O_CLOEXEC));
    return call(::linkat(fd, "", dir.fd, "linked-too", AT_EMPTY_PATH));
  });
  same("linkat of an unlinked file", [](const Dir& dir) {
    const Fd fd(::openat(dir.fd, "gone", O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    ::unlinkat(dir.fd, "gone", 0);
    return call(::linkat(fd, "", dir.fd, "back", AT_EMPTY_PATH));
  });
  expect_same_trees();
}

TEST_F(NamesTest, SymlinksKeepTheirTextWhateverItSays) {
  const std::string longest(PATH_MAX - 1, 'x');
  const std::vector<std::string> targets{"file",
                                         "/etc/passwd",
                                         "../../../../../../etc/passwd",
                                         ".",
                                         "..",
                                         "missing",
                                         "a//b/./../c",
                                         "\xff\n ",
                                         "self-target",
                                         std::string(255, 't'),
                                         longest,
                                         "/",
                                         mounted_.path,
                                         "trailing/"};
  int number = 0;
  for (const std::string& target : targets) {
    const std::string name = "link" + std::to_string(number++);
    same("symlink",
         [&](const Dir& dir) { return call(::symlinkat(target.c_str(), dir.fd, name.c_str())); });
    const Outcome read = same("readlink", [&](const Dir& dir) {
      std::string text(PATH_MAX + 1, '\0');
      Outcome outcome = call(::readlinkat(dir.fd, name.c_str(), text.data(), text.size()));
      if (outcome.error == 0)
        outcome.data = text.substr(0, static_cast<std::size_t>(outcome.value));
      return outcome;
    });
    EXPECT_EQ(read.data, target);
    same_stat(name);
    same("readlink into a short buffer", [&](const Dir& dir) {
      std::string text(3, '\0');
      Outcome outcome = call(::readlinkat(dir.fd, name.c_str(), text.data(), text.size()));
      outcome.data = text;
      return outcome;
    });
  }
  same("empty target", [](const Dir& dir) { return call(::symlinkat("", dir.fd, "empty")); });
  same("too long a target",
       [&](const Dir& dir) { return call(::symlinkat((longest + "x").c_str(), dir.fd, "long")); });
  same("existing name", [](const Dir& dir) { return call(::symlinkat("x", dir.fd, "link0")); });
  same_file("file");
  same_dir("dir");
  for (const char* name : {"file", "dir", "missing"}) {
    same("readlink of no link", [&](const Dir& dir) {
      std::string text(10, '\0');
      return call(::readlinkat(dir.fd, name, text.data(), text.size()));
    });
  }
  expect_same_trees();
}

TEST_F(NamesTest, SymlinksAreFollowedLikeOnTheSource) {
  same_content("file");
  same_dir("dir");
  same_content("dir/inner");
  const auto link = [&](const std::string& target, const std::string& name) {
    same("symlink",
         [&](const Dir& dir) { return call(::symlinkat(target.c_str(), dir.fd, name.c_str())); });
  };
  link("file", "to-file");
  link("dir", "to-dir");
  link("to-file", "to-link");
  link("loop-b", "loop-a");
  link("loop-a", "loop-b");
  link("new-file", "dangling");
  link("../file", "dir/up");
  std::string previous = "file";
  for (int depth = 0; depth < 45; ++depth) {
    link(previous, "chain" + std::to_string(depth));
    previous = "chain" + std::to_string(depth);
  }
  for (const char* name : {"to-file", "to-dir/inner", "to-link", "loop-a", "dangling", "dir/up",
                           "to-dir/up", "chain30", "chain44", "to-dir/..", "to-file/x"}) {
    same("stat through", [&](const Dir& dir) { return stat_call(dir, name, 0); });
    same("open through", [&](const Dir& dir) {
      const Fd fd(::openat(dir.fd, name, O_RDONLY | O_CLOEXEC));
      Outcome outcome = call(fd.ok() ? 0 : -1);
      std::string text(64, '\0');
      const ssize_t size = fd.ok() ? ::read(fd, text.data(), text.size()) : 0;
      if (size > 0) outcome.data = text.substr(0, static_cast<std::size_t>(size));
      return outcome;
    });
    same("open with O_NOFOLLOW", [&](const Dir& dir) {
      return call_fd(::openat(dir.fd, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC));
    });
  }
  same("O_EXCL sees a dangling link", [](const Dir& dir) {
    return call_fd(::openat(dir.fd, "dangling", O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644));
  });
  same("O_CREAT goes through a dangling link", [](const Dir& dir) {
    return call_fd(::openat(dir.fd, "dangling", O_WRONLY | O_CREAT | O_CLOEXEC, 0644));
  });
  same_stat("new-file");
  same_unlink("to-dir");
  same_stat("dir/inner");
  expect_same_trees();
}

TEST_F(NamesTest, MknodMakesEveryType) {
  const ScopedUmask umask(0);
  struct Node {
    const char* name;
    mode_t mode;
    dev_t device;
  };
  const std::vector<Node> nodes{
      {"regular", S_IFREG | 0640, 0},
      {"untyped", 0604, 0},
      {"fifo", S_IFIFO | 0622, 0},
      {"socket", S_IFSOCK | 0755, 0},
      {"null", S_IFCHR | 0666, makedev(1, 3)},
      {"high", S_IFCHR | 0600, makedev(511, 1048575)},
      {"block", S_IFBLK | 0660, makedev(7, 200)},
      {"suid", S_IFREG | 06755, 0},
      {"directory", S_IFDIR | 0755, 0},
      {"link", S_IFLNK | 0777, 0},
  };
  for (const Node& node : nodes) {
    same(std::string("mknod ") + node.name, [&](const Dir& dir) {
      return call(::mknodat(dir.fd, node.name, node.mode, node.device));
    });
    same_stat(node.name);
  }
  same("existing", [](const Dir& dir) { return call(::mknodat(dir.fd, "fifo", S_IFREG, 0)); });
  expect_same_trees();
}

TEST_F(NamesTest, FifosJoinTwoProcesses) {
  same("fifo", [](const Dir& dir) {
    Outcome outcome = call(::mkfifoat(dir.fd, "fifo", 0600));
    const Fd reader(::openat(dir.fd, "fifo", O_RDONLY | O_NONBLOCK | O_CLOEXEC));
    const Outcome written = in_child([&] {
      const Fd writer(::openat(dir.fd, "fifo", O_WRONLY | O_CLOEXEC));
      return call(::write(writer, "through", 7));
    });
    EXPECT_EQ(written.value, 7);
    std::string text(7, '\0');
    EXPECT_EQ(::read(reader, text.data(), text.size()), 7);
    outcome.data = text;
    return outcome;
  });
  same("no reader", [](const Dir& dir) {
    return call_fd(::openat(dir.fd, "fifo", O_WRONLY | O_NONBLOCK | O_CLOEXEC));
  });
}

TEST_F(NamesTest, SocketsCanBeBoundAndReached) {
  const auto address_of = [](const Dir& dir, sockaddr_un& address) {
    address.sun_family = AF_UNIX;
    // Through /proc, because a socket's path may have 107 bytes only.
    std::snprintf(address.sun_path, sizeof address.sun_path, "/proc/self/fd/%d/socket", dir.fd);
  };
  same("bind and connect", [&](const Dir& dir) {
    sockaddr_un address{};
    address_of(dir, address);
    const Fd server(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    Outcome outcome = call(::bind(server, reinterpret_cast<sockaddr*>(&address), sizeof address));
    EXPECT_EQ(::listen(server, 1), 0);
    const Fd client(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const Outcome connected =
        call(::connect(client, reinterpret_cast<sockaddr*>(&address), sizeof address));
    EXPECT_EQ(connected.error, 0);
    return outcome;
  });
  EXPECT_EQ(
      same("bind again",
           [&](const Dir& dir) {
             sockaddr_un address{};
             address_of(dir, address);
             const Fd server(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
             return call(::bind(server, reinterpret_cast<sockaddr*>(&address), sizeof address));
           })
          .error,
      EADDRINUSE);
  same_stat("socket");
}

TEST_F(NamesTest, RenameOfEveryKindOntoEveryKind) {
  // Every pair of kinds, with every flag; the tree tells afterwards what became of both.
  const std::vector<std::string> kinds{"file", "link", "empty", "full", "fifo", "hard", "missing"};
  const auto make = [](const Dir& dir, const std::string& kind, const std::string& name) {
    if (kind == "file") write_file(dir / name, "I am " + name);
    if (kind == "link") ::symlinkat(("target of " + name).c_str(), dir.fd, name.c_str());
    if (kind == "empty" || kind == "full") ::mkdirat(dir.fd, name.c_str(), 0755);
    if (kind == "full") write_file(dir / (name + "/inner"), "I am in " + name);
    if (kind == "fifo") ::mkfifoat(dir.fd, name.c_str(), 0600);
    if (kind == "hard") {
      if (::linkat(dir.fd, "shared", dir.fd, name.c_str(), 0) != 0) {
        write_file(dir / "shared", "I am shared");
        ::linkat(dir.fd, "shared", dir.fd, name.c_str(), 0);
      }
    }
    return Outcome{};
  };
  int number = 0;
  for (const unsigned flags : {0U, 1U, 2U, 3U}) {
    for (const std::string& from : kinds) {
      for (const std::string& to : kinds) {
        const std::string source = "from" + std::to_string(number);
        const std::string target = "to" + std::to_string(number++);
        same("make", [&](const Dir& dir) { return make(dir, from, source); });
        same("make", [&](const Dir& dir) { return make(dir, to, target); });
        same("rename of " + from + " onto " + to + " with flags " + std::to_string(flags),
             [&](const Dir& dir) {
               return call(::renameat2(dir.fd, source.c_str(), dir.fd, target.c_str(), flags));
             });
      }
    }
  }
  same_rename("from0", "to0", 1U << 20);  // an unknown flag
  expect_same_trees();
}

TEST_F(NamesTest, RenameAcrossDirectories) {
  same_dir("a");
  same_dir("b");
  same_dir("a/sub");
  same_content("a/sub/file");
  EXPECT_EQ(same_rename("a/sub", "b/sub").error, 0);
  EXPECT_EQ(read_file(mounted_ / "b/sub/file"), "I am a/sub/file");
  EXPECT_EQ(attributes(mounted_ / "b/sub/..").stx_ino, attributes(mounted_ / "b").stx_ino);
  same_stat("a");  // one link fewer
  same_stat("b");
  EXPECT_EQ(same_rename("b", "b/sub/b").error, EINVAL);
  EXPECT_EQ(same_rename("b/sub", "b").error, ENOTEMPTY);
  EXPECT_EQ(same_rename("b/sub/file", "a/file").error, 0);
  EXPECT_EQ(same_rename("b/sub/..", "x").error, EBUSY);
  EXPECT_EQ(same_rename("missing", "x").error, ENOENT);
  EXPECT_EQ(same_rename("a/file", "missing/x").error, ENOENT);
  EXPECT_EQ(same_rename("a", "b/sub", RENAME_EXCHANGE).error, 0);
  EXPECT_EQ(same_rename("a", "missing", RENAME_EXCHANGE).error, ENOENT);
  EXPECT_EQ(same_rename("b", "b/sub", RENAME_EXCHANGE).error, EINVAL);
  EXPECT_EQ(same_rename("b", "b/sub/file", RENAME_EXCHANGE).error, EINVAL);
  EXPECT_EQ(same_rename("b/sub", "a", RENAME_NOREPLACE).error, EEXIST);
  EXPECT_EQ(same_rename("b/sub", "fresh", RENAME_NOREPLACE).error, 0);
  expect_same_trees();
}

TEST_F(NamesTest, RenameOfTwoNamesOfOneFileDoesNothing) {
  same_content("one");
  same_link("one", "two");
  EXPECT_EQ(same_rename("one", "two").error, 0);
  same_stat("one");
  same_stat("two");
  EXPECT_EQ(same_rename("one", "one").error, 0);
  EXPECT_EQ(same_rename("one", "two", RENAME_EXCHANGE).error, 0);
  expect_same_trees();
}

TEST_F(NamesTest, RenameKeepsOpenFilesAndReplacedOnes) {
  same_content("from");
  same_content("to");
  same("open descriptors follow their files", [](const Dir& dir) {
    const Fd from(::openat(dir.fd, "from", O_RDWR | O_CLOEXEC));
    const Fd to(::openat(dir.fd, "to", O_RDWR | O_CLOEXEC));
    Outcome outcome = call(::renameat(dir.fd, "from", dir.fd, "to"));
    for (const Fd* fd : {&from, &to}) {
      std::string text(64, '\0');
      const ssize_t size = ::pread(*fd, text.data(), text.size(), 0);
      outcome.data += text.substr(0, size > 0 ? static_cast<std::size_t>(size) : 0) + ";";
      struct stat stat {};
      EXPECT_EQ(::fstat(*fd, &stat), 0);
      outcome.data += std::to_string(stat.st_nlink) + ";";
    }
    EXPECT_EQ(::pwrite(from, "now to", 6, 0), 6);
    return outcome;
  });
  expect_same_trees();
}

TEST_F(NamesTest, RenameWithWhiteout) {
  same_content("file");
  same_rename("file", "moved", kWhiteout);
  expect_same_trees();
}

TEST_F(NamesTest, NothingCanBeMadeInARemovedDirectory) {
  same("work in a removed directory", [](const Dir& dir) {
    ::mkdirat(dir.fd, "gone", 0755);
    const Fd gone(::openat(dir.fd, "gone", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    EXPECT_EQ(::unlinkat(dir.fd, "gone", AT_REMOVEDIR), 0);
    Outcome outcome;
    const Dir inside{gone, ""};
    for (const Outcome& step :
         {make_file(inside, "f"), call(::mkdirat(gone, "d", 0755)),
          call(::symlinkat("x", gone, "l")), call(::mkfifoat(gone, "p", 0600)),
          call(::linkat(dir.fd, ".", gone, "h", 0)), call(::renameat(gone, "x", gone, "y")),
          stat_call(inside, "x"), call(::faccessat(gone, ".", R_OK, 0))}) {
      outcome.data += std::to_string(step.error) + " ";
    }
    struct stat stat {};
    EXPECT_EQ(::fstat(gone, &stat), 0);
    outcome.data += std::to_string(stat.st_nlink);
    return outcome;
  });
}

TEST_F(NamesTest, PathsHundredsDeep) {
  // Far longer than PATH_MAX: only steps of one component at a time lead there.
  constexpr int kDepth = 400;
  const std::string component(100, 'd');
  same("walk down and up", [&](const Dir& dir) {
    Outcome outcome;
    Fd at(::openat(dir.fd, ".", O_PATH | O_DIRECTORY | O_CLOEXEC));
    for (int depth = 0; depth < kDepth; ++depth) {
      if (::mkdirat(at, component.c_str(), 0755) != 0) return call(-1);
      Fd next(::openat(at, component.c_str(), O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
      if (!next.ok()) return call(-1);
      at = std::move(next);
    }
    {
      const Fd file(::openat(at, "bottom", O_RDWR | O_CREAT | O_CLOEXEC, 0644));
      if (::pwrite(file, "deep", 4, 0) != 4) return call(-1);
    }
    outcome.data += std::to_string(attributes(at, "bottom").stx_size) + " ";
    // A path of 40 components and 4 kB from the middle, and the way back up.
    for (int depth = 0; depth < kDepth; ++depth) {
      Fd next(::openat(at, "..", O_PATH | O_DIRECTORY | O_CLOEXEC));
      if (!next.ok()) return call(-1);
      at = std::move(next);
    }
    EXPECT_EQ(attributes(at, "").stx_ino, attributes(dir.fd, "").stx_ino);
    outcome.data += "up";
    return outcome;
  });
  same("the whole path at once", [&](const Dir& dir) {
    std::string path = component;
    for (int depth = 1; depth < kDepth; ++depth) path += "/" + component;
    return stat_call(dir, path);
  });
  same("move a deep tree", [&](const Dir& dir) {
    return call(::renameat(dir.fd, (component + "/" + component).c_str(), dir.fd, "moved"));
  });
  same_stat("moved/" + component + "/" + component);
}

}  // namespace
}  // namespace lockfs::fstest
