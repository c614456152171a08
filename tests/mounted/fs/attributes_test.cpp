// Attributes: stat, every way to change them, extended attributes, POSIX ACLs, inode flags, statfs.
// Each runs on the mount and on a plain directory and must give the same in both.
#include <fcntl.h>
#include <grp.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <functional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "tests/mounted/fs/fs_support.h"

namespace lockfs::fstest {
namespace {

constexpr uid_t kUser = 54321;
constexpr gid_t kGroup = 54321;
constexpr gid_t kOtherGroup = 54322;

std::string times_of(const struct statx& stat) {
  return std::to_string(stat.stx_atime.tv_sec) + "." + std::to_string(stat.stx_atime.tv_nsec) +
         " " + std::to_string(stat.stx_mtime.tv_sec) + "." + std::to_string(stat.stx_mtime.tv_nsec);
}

class AttributesTest : public FsTest {
 protected:
  void make(const std::string& name, const std::string& contents = "contents") {
    same("make " + name, [&](const Dir& dir) {
      write_file(dir / name, contents);
      return Outcome{};
    });
  }
  /// One of every kind of file, by the names file, dir, link (to file), dangling, fifo, null.
  void make_kinds() {
    make("file");
    same("make kinds", [](const Dir& dir) {
      EXPECT_EQ(::mkdirat(dir.fd, "dir", 0755), 0);
      EXPECT_EQ(::symlinkat("file", dir.fd, "link"), 0);
      EXPECT_EQ(::symlinkat("nowhere", dir.fd, "dangling"), 0);
      EXPECT_EQ(::mkfifoat(dir.fd, "fifo", 0644), 0);
      EXPECT_EQ(::mknodat(dir.fd, "null", S_IFCHR | 0644, makedev(1, 3)), 0);
      return Outcome{};
    });
  }
};

const std::vector<std::string> kKinds{"file", "dir", "link", "dangling", "fifo", "null"};

TEST_F(AttributesTest, TheMountShowsTheSourcesAttributes) {
  make_kinds();
  for (const std::string& kind : kKinds) {
    EXPECT_EQ(describe(attributes(mounted_ / kind), true, true),
              describe(attributes(behind_ / kind), true, true))
        << kind;
    // The call without a forced refresh as well.
    struct stat here {};
    struct stat behind {};
    ASSERT_EQ(::lstat((mounted_ / kind).c_str(), &here), 0);
    ASSERT_EQ(::lstat((behind_ / kind).c_str(), &behind), 0);
    EXPECT_EQ(here.st_ino, behind.st_ino);
    EXPECT_EQ(here.st_blksize, behind.st_blksize);
    EXPECT_EQ(here.st_atim.tv_nsec, behind.st_atim.tv_nsec);
  }
  const Fd fd(::open((mounted_ / "file").c_str(), O_RDWR | O_CLOEXEC));
  ASSERT_EQ(::pwrite(fd, std::string(100000, 'x').data(), 100000, 0), 100000);
  ASSERT_EQ(::fsync(fd), 0);
  EXPECT_EQ(attributes(mounted_ / "file").stx_blocks, attributes(behind_ / "file").stx_blocks);
  EXPECT_EQ(attributes(fd, "").stx_blocks, attributes(behind_ / "file").stx_blocks);
}

TEST_F(AttributesTest, DescriptorsAndNamesShowOneFile) {
  make("file");
  const Fd fd(::open((mounted_ / "file").c_str(), O_RDWR | O_CLOEXEC));
  const Fd path(::open((mounted_ / "file").c_str(), O_PATH | O_CLOEXEC));
  ASSERT_EQ(::ftruncate(fd, 12345), 0);
  for (const int each : {static_cast<int>(fd), static_cast<int>(path)}) {
    struct stat stat {};
    ASSERT_EQ(::fstat(each, &stat), 0);
    EXPECT_EQ(stat.st_size, 12345);
    EXPECT_EQ(stat.st_ino, attributes(behind_ / "file").stx_ino);
  }
}

TEST_F(AttributesTest, Chmod) {
  make_kinds();
  for (const std::string& kind : kKinds) {
    for (const mode_t mode : {0U, 0777U, 0644U, 01777U, 02755U, 04755U, 07777U, 0400U}) {
      same("fchmodat " + kind,
           [&](const Dir& dir) { return call(::fchmodat(dir.fd, kind.c_str(), mode, 0)); });
    }
    same("chmod of the link itself " + kind, [&](const Dir& dir) {
      return call(::fchmodat(dir.fd, kind.c_str(), 0600, AT_SYMLINK_NOFOLLOW));
    });
  }
  for (const mode_t mode : {0600U, 06711U}) {
    same("fchmod", [&](const Dir& dir) {
      const Fd fd(::openat(dir.fd, "file", O_RDONLY | O_CLOEXEC));
      return call(::fchmod(fd, mode));
    });
    same("fchmod of a directory", [&](const Dir& dir) {
      const Fd fd(::openat(dir.fd, "dir", O_RDONLY | O_CLOEXEC));
      return call(::fchmod(fd, mode));
    });
    expect_same_trees();
  }
  same("fchmod of an O_PATH descriptor", [](const Dir& dir) {
    const Fd fd(::openat(dir.fd, "file", O_PATH | O_CLOEXEC));
    return call(::fchmod(fd, 0600));
  });
}

TEST_F(AttributesTest, Chown) {
  make_kinds();
  constexpr uid_t kKeep = static_cast<uid_t>(-1);
  for (const std::string& kind : kKinds) {
    for (const auto& [uid, gid] : std::vector<std::pair<uid_t, gid_t>>{{kUser, kGroup},
                                                                       {kKeep, kOtherGroup},
                                                                       {0, kKeep},
                                                                       {kKeep, kKeep},
                                                                       {4294967294U, 65534}}) {
      for (const int flags : {AT_SYMLINK_NOFOLLOW, 0}) {
        same("fchownat " + kind, [&, uid = uid, gid = gid](const Dir& dir) {
          return call(::fchownat(dir.fd, kind.c_str(), uid, gid, flags));
        });
      }
    }
  }
  same("fchown", [](const Dir& dir) {
    const Fd fd(::openat(dir.fd, "file", O_RDONLY | O_CLOEXEC));
    return call(::fchown(fd, 7, 8));
  });
  expect_same_trees();
}

TEST_F(AttributesTest, SetIdBitsGoWithTheOwner) {
  // Both by root and by an owner who gives the file another of his groups.
  int number = 0;
  for (const mode_t mode : {04755U, 02755U, 02745U, 06777U, 06000U, 06644U}) {
    for (const bool by_root : {true, false}) {
      const std::string name = "f" + std::to_string(number++);
      make(name);
      same("prepare", [&](const Dir& dir) {
        EXPECT_EQ(::fchownat(dir.fd, name.c_str(), kUser, kGroup, 0), 0);
        return call(::fchmodat(dir.fd, name.c_str(), mode, 0));
      });
      const Operation chown = [&](const Dir& dir) {
        return call(::fchownat(dir.fd, name.c_str(), static_cast<uid_t>(-1), kOtherGroup, 0));
      };
      if (by_root) {
        same("chown", chown);
      } else {
        same_as(kUser, kGroup, {kOtherGroup}, "chown", chown);
      }
      same("mode after chown of " + std::to_string(mode), [&](const Dir& dir) {
        return Outcome{static_cast<long>(attributes(dir.fd, name).stx_mode), 0, ""};
      });
    }
  }
  expect_same_trees();
}

TEST_F(AttributesTest, ChownToTheSameOwnerTakesSetIdBitsOnlyFromTheOwner) {
  make("f");
  const auto prepare = [&] {
    same("prepare", [&](const Dir& dir) {
      EXPECT_EQ(::fchownat(dir.fd, "f", kUser, kGroup, 0), 0);
      return call(::fchmodat(dir.fd, "f", 06755, 0));
    });
  };
  const Operation chown = [&](const Dir& dir) {
    return call(::fchownat(dir.fd, "f", static_cast<uid_t>(-1), static_cast<gid_t>(-1), 0));
  };
  prepare();
  same_as(kUser, kGroup, {}, "chown by the owner", chown);
  same("mode", [&](const Dir& dir) {
    return Outcome{static_cast<long>(attributes(dir.fd, "f").stx_mode), 0, ""};
  });
  prepare();
  same("chown by root", chown);
  same("mode", [&](const Dir& dir) {
    return Outcome{static_cast<long>(attributes(dir.fd, "f").stx_mode), 0, ""};
  });
  prepare();
  same_as(kUser + 1, kUser + 1, {}, "chown by a stranger", chown);
  EXPECT_EQ(attributes(behind_ / "f").stx_mode & 07777U, 06755U);
  expect_same_trees();
}

// Who may leave the bits, and who the capability, does not depend on the other being there.
TEST_F(AttributesTest, SetIdBitsTogetherWithACapability) {
  const std::string capability{"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 20};
  make("f");
  const auto prepare = [&] {
    same("prepare", [&](const Dir& dir) {
      EXPECT_EQ(::fchownat(dir.fd, "f", kUser, kGroup, 0), 0);
      EXPECT_EQ(::fchmodat(dir.fd, "f", 04777, 0), 0);
      return call(::setxattr((dir / "f").c_str(), "security.capability", capability.data(),
                             capability.size(), 0));
    });
  };
  const auto with_file = [](const Dir& dir, const std::function<int(int fd)>& use) {
    const int fd = ::openat(dir.fd, "f", O_RDWR | O_CLOEXEC);
    const Outcome outcome = call(fd < 0 ? -1 : use(fd));
    if (fd >= 0) ::close(fd);
    return outcome;
  };
  const std::vector<std::pair<std::string, Operation>> changes{
      {"chown",
       [&](const Dir& dir) {
         return call(::fchownat(dir.fd, "f", static_cast<uid_t>(-1), static_cast<gid_t>(-1), 0));
       }},
      {"fchown",
       [&](const Dir& dir) {
         return with_file(dir, [](int fd) {
           return ::fchown(fd, static_cast<uid_t>(-1), static_cast<gid_t>(-1));
         });
       }},
      {"fallocate",
       [&](const Dir& dir) {
         return with_file(dir, [](int fd) { return ::posix_fallocate(fd, 0, 500); });
       }},
      {"write",
       [&](const Dir& dir) {
         return with_file(dir, [](int fd) { return static_cast<int>(::pwrite(fd, "y", 1, 1)); });
       }},
      {"ftruncate",
       [&](const Dir& dir) { return with_file(dir, [](int fd) { return ::ftruncate(fd, 50); }); }},
      {"chmod", [&](const Dir& dir) { return call(::fchmodat(dir.fd, "f", 04755, 0)); }},
  };
  for (const auto& [what, change] : changes) {
    for (const uid_t who : {0U, kUser, kUser + 1}) {
      const std::string by = what + " by " + std::to_string(who);
      prepare();
      if (who == 0) {
        same(by, change);
      } else {
        same_as(who, who, {}, by, change);
      }
      same("what is left after " + by, [](const Dir& dir) {
        const bool left = ::getxattr((dir / "f").c_str(), "security.capability", nullptr, 0) > 0;
        return Outcome{static_cast<long>(attributes(dir.fd, "f").stx_mode), 0, left ? "cap" : ""};
      });
    }
  }
  expect_same_trees();
}

TEST_F(AttributesTest, TimesToTheNanosecond) {
  make_kinds();
  const std::vector<std::array<timespec, 2>> settings{
      {timespec{1, 1}, timespec{2, 999999999}},
      {timespec{0, 0}, timespec{0, 0}},
      {timespec{-1, 500000000}, timespec{-1000000, 7}},
      {timespec{4294967296, 123456789}, timespec{2147483648, 987654321}},
      {timespec{1700000000, 123456789}, timespec{0, UTIME_OMIT}},
      {timespec{0, UTIME_OMIT}, timespec{1600000000, 42}},
      {timespec{0, UTIME_OMIT}, timespec{0, UTIME_OMIT}},
      {timespec{5, 1000000000}, timespec{5, 0}},
  };
  for (const std::string& kind : kKinds) {
    // Links themselves first: following one moves its access time.
    for (const int flags : {AT_SYMLINK_NOFOLLOW, 0}) {
      for (const auto& times : settings) {
        same("utimensat " + kind, [&](const Dir& dir) {
          Outcome outcome = call(::utimensat(dir.fd, kind.c_str(), times.data(), flags));
          if (outcome.error == 0 && flags != 0) outcome.data = times_of(attributes(dir.fd, kind));
          return outcome;
        });
      }
    }
    EXPECT_EQ(times_of(attributes(mounted_ / kind)), times_of(attributes(behind_ / kind))) << kind;
  }
  for (const auto& times : settings) {
    same("futimens", [&](const Dir& dir) {
      const Fd fd(::openat(dir.fd, "file", O_RDONLY | O_CLOEXEC));
      Outcome outcome = call(::futimens(fd, times.data()));
      outcome.data = times_of(attributes(fd, ""));
      return outcome;
    });
  }
}

TEST_F(AttributesTest, UtimeNowIsNow) {
  make("file");
  const std::array<timespec, 2> past{timespec{1000, 1}, timespec{2000, 2}};
  const auto set = [&](const timespec& atime, const timespec& mtime) {
    const std::array<timespec, 2> times{atime, mtime};
    EXPECT_EQ(::utimensat(AT_FDCWD, (mounted_ / "file").c_str(), times.data(), 0), 0);
    return attributes(mounted_ / "file");
  };
  // The kernel stamps with a clock that advances in ticks: the time before may round to later than
  // the stamp by that much.
  const auto now = [] {
    timespec time{};
    ::clock_gettime(CLOCK_REALTIME_COARSE, &time);
    return time.tv_sec;
  };
  const auto before = now();
  set(past[0], past[1]);
  auto stat = set({0, UTIME_NOW}, {0, UTIME_OMIT});
  EXPECT_GE(stat.stx_atime.tv_sec, before);
  EXPECT_EQ(stat.stx_mtime.tv_sec, 2000);
  EXPECT_EQ(stat.stx_mtime.tv_nsec, 2U);
  set(past[0], past[1]);
  stat = set({0, UTIME_OMIT}, {0, UTIME_NOW});
  EXPECT_EQ(stat.stx_atime.tv_sec, 1000);
  EXPECT_EQ(stat.stx_atime.tv_nsec, 1U);
  EXPECT_GE(stat.stx_mtime.tv_sec, before);
  EXPECT_LE(stat.stx_mtime.tv_sec, now());
  set(past[0], past[1]);
  stat = set({0, UTIME_NOW}, {0, UTIME_NOW});
  EXPECT_GE(stat.stx_atime.tv_sec, before);
  EXPECT_GE(stat.stx_mtime.tv_sec, before);
  EXPECT_EQ(describe(stat, true, true), describe(attributes(behind_ / "file"), true, true));
  set(past[0], past[1]);
  ASSERT_EQ(::utimensat(AT_FDCWD, (mounted_ / "file").c_str(), nullptr, 0), 0);
  stat = attributes(mounted_ / "file");
  EXPECT_GE(stat.stx_mtime.tv_sec, before);
}

TEST_F(AttributesTest, WorkOnFilesMovesTheirTimes) {
  make_kinds();
  const std::array<timespec, 2> past{timespec{1000, 1}, timespec{2000, 2}};
  // Which of the three times each operation moves, on the file and on its directory.
  const auto moved_by = [&](const std::string& what, const Operation& operation) {
    return same(what, [&](const Dir& dir) {
      EXPECT_EQ(::utimensat(dir.fd, "file", past.data(), 0), 0);
      EXPECT_EQ(::utimensat(dir.fd, "dir", past.data(), 0), 0);
      const auto file_before = attributes(dir.fd, "file");
      Outcome outcome = operation(dir);
      const auto file = attributes(dir.fd, "file");
      const auto directory = attributes(dir.fd, "dir");
      outcome.data += file.stx_atime.tv_sec > 1000 ? " atime" : "";
      outcome.data += file.stx_mtime.tv_sec > 2000 ? " mtime" : "";
      outcome.data += file.stx_ctime.tv_sec < file_before.stx_ctime.tv_sec ? " ctime-back" : "";
      outcome.data += directory.stx_mtime.tv_sec > 2000 ? " dir-mtime" : "";
      outcome.data += directory.stx_atime.tv_sec > 1000 ? " dir-atime" : "";
      return outcome;
    });
  };
  const auto with_fd = [](int flags, const std::function<long(int)>& work) {
    return [=](const Dir& dir) {
      const Fd fd(::openat(dir.fd, "file", flags | O_CLOEXEC));
      return call(work(fd));
    };
  };
  EXPECT_EQ(moved_by("read", with_fd(O_RDONLY,
                                     [](int fd) {
                                       char byte = 0;
                                       return ::read(fd, &byte, 1);
                                     }))
                .data,
            " atime");
  EXPECT_EQ(moved_by("write", with_fd(O_WRONLY, [](int fd) { return ::write(fd, "x", 1); })).data,
            " mtime");
  moved_by("read with O_NOATIME", with_fd(O_RDONLY | O_NOATIME, [](int fd) {
             char byte = 0;
             return ::read(fd, &byte, 1);
           }));
  moved_by("empty write", with_fd(O_WRONLY, [](int fd) { return ::write(fd, "", 0); }));
  moved_by("truncate to the same size", with_fd(O_WRONLY, [](int fd) {
             struct stat stat {};
             ::fstat(fd, &stat);
             return ::ftruncate(fd, stat.st_size);
           }));
  moved_by("truncate", with_fd(O_WRONLY, [](int fd) { return ::ftruncate(fd, 3); }));
  moved_by("chmod", [](const Dir& dir) { return call(::fchmodat(dir.fd, "file", 0600, 0)); });
  moved_by("create below", [](const Dir& dir) {
    return call_fd(::openat(dir.fd, "dir/new", O_WRONLY | O_CREAT | O_CLOEXEC, 0644));
  });
  moved_by("unlink below", [](const Dir& dir) { return call(::unlinkat(dir.fd, "dir/new", 0)); });
  moved_by("rename into",
           [](const Dir& dir) { return call(::renameat(dir.fd, "fifo", dir.fd, "dir/fifo")); });
  moved_by("link into",
           [](const Dir& dir) { return call(::linkat(dir.fd, "file", dir.fd, "dir/hard", 0)); });
  moved_by("stat below",
           [](const Dir& dir) { return call(::faccessat(dir.fd, "dir/hard", F_OK, 0)); });
  moved_by("open with O_TRUNC", [](const Dir& dir) {
    return call_fd(::openat(dir.fd, "file", O_WRONLY | O_TRUNC | O_CLOEXEC));
  });
  for (const char* name : {"file", "dir"}) {
    EXPECT_EQ(describe(attributes(mounted_ / name), true, true),
              describe(attributes(behind_ / name), true, true))
        << name;
  }
}

TEST_F(AttributesTest, Truncate) {
  make_kinds();
  make("file", pattern(1, 10000));
  for (const off_t size : {5000L, 0L, 1L, 4096L, 1L << 33, 100L, -1L, 1L << 62}) {
    same("truncate to " + std::to_string(size),
         [&](const Dir& dir) { return call(::truncate((dir / "file").c_str(), size)); });
    same("size after", [&](const Dir& dir) {
      return Outcome{static_cast<long>(attributes(dir.fd, "file").stx_size), 0, ""};
    });
    same("truncate by descriptor", [&](const Dir& dir) {
      const Fd fd(::openat(dir.fd, "file", O_RDWR | O_CLOEXEC));
      EXPECT_EQ(::pwrite(fd, "end", 3, 8000), 3);
      Outcome outcome = call(::ftruncate(fd, size));
      struct stat stat {};
      EXPECT_EQ(::fstat(fd, &stat), 0);
      outcome.data = std::to_string(stat.st_size);
      return outcome;
    });
  }
  // What grew again reads as zeros.
  make("file", pattern(2, 10000));
  same("shrink and grow", [](const Dir& dir) {
    const Fd fd(::openat(dir.fd, "file", O_RDWR | O_CLOEXEC));
    EXPECT_EQ(::ftruncate(fd, 777), 0);
    return call(::ftruncate(fd, 9999));
  });
  expect_same_trees();
  for (const std::string& kind : kKinds) {
    if (kind == "fifo") continue;  // truncate() of a FIFO is EINVAL, and so it is here; see below
    same("truncate " + kind,
         [&](const Dir& dir) { return call(::truncate((dir / kind).c_str(), 1)); });
  }
  same("truncate a FIFO",
       [](const Dir& dir) { return call(::truncate((dir / "fifo").c_str(), 1)); });
  same("ftruncate of a read-only descriptor", [](const Dir& dir) {
    const Fd fd(::openat(dir.fd, "file", O_RDONLY | O_CLOEXEC));
    return call(::ftruncate(fd, 1));
  });
  same("by the descriptor of a file nobody may write", [](const Dir& dir) {
    const Fd fd(::openat(dir.fd, "locked-down", O_RDWR | O_CREAT | O_CLOEXEC, 0));
    return call(::ftruncate(fd, 500));
  });
  expect_same_trees();
}

TEST_F(AttributesTest, OwnerCanTruncateByHandleWhatHisModeForbids) {
  same_as(kUser, kGroup, {}, "mode 0 file", [](const Dir& dir) {
    const Fd fd(::openat(dir.fd, "mine", O_RDWR | O_CREAT | O_CLOEXEC, 0));
    Outcome outcome = call(::write(fd, "0123456789", 10));
    EXPECT_EQ(::ftruncate(fd, 4), 0);
    outcome.data = std::to_string(call(::truncate((dir / "mine").c_str(), 1)).error);
    const std::array<timespec, 2> times{timespec{1, 1}, timespec{2, 2}};
    EXPECT_EQ(::futimens(fd, times.data()), 0);
    EXPECT_EQ(::fchmod(fd, 0400), 0);
    return outcome;
  });
  expect_same_trees();
}

TEST_F(AttributesTest, Access) {
  make_kinds();
  same("modes", [](const Dir& dir) {
    EXPECT_EQ(::fchmodat(dir.fd, "file", 0640, 0), 0);
    EXPECT_EQ(::fchownat(dir.fd, "file", kUser, kGroup, 0), 0);
    EXPECT_EQ(::fchmodat(dir.fd, "dir", 0751, 0), 0);
    write_file(dir / "program", "#!/bin/sh\n", 0711);
    return Outcome{};
  });
  struct Caller {
    uid_t uid;
    gid_t gid;
    std::vector<gid_t> groups;
  };
  for (const Caller& caller :
       {Caller{0, 0, {}}, Caller{kUser, kOtherGroup, {}}, Caller{1234, kGroup, {}},
        Caller{1234, 1234, {kGroup}}, Caller{1234, 1234, {}}}) {
    for (const char* name :
         {"file", "dir", "link", "dangling", "fifo", "program", "missing", "dir/x"}) {
      for (int mode = 0; mode <= 7; ++mode) {
        same_as(caller.uid, caller.gid, caller.groups,
                std::string("access ") + name + " " + std::to_string(mode),
                [&](const Dir& dir) { return call(::faccessat(dir.fd, name, mode, AT_EACCESS)); });
      }
    }
  }
}

TEST_F(AttributesTest, Statfs) {
  make("file");
  struct statfs here {};
  struct statfs behind {};
  ASSERT_EQ(::statfs(mounted_.path.c_str(), &here), 0);
  ASSERT_EQ(::statfs(behind_.path.c_str(), &behind), 0);
  EXPECT_EQ(here.f_bsize, behind.f_bsize);
  EXPECT_EQ(here.f_frsize, behind.f_frsize);
  EXPECT_EQ(here.f_blocks, behind.f_blocks);
  EXPECT_EQ(here.f_files, behind.f_files);
  EXPECT_EQ(here.f_namelen, behind.f_namelen);
  const Fd fd(::open((mounted_ / "file").c_str(), O_RDONLY | O_CLOEXEC));
  struct statfs by_fd {};
  ASSERT_EQ(::fstatfs(fd, &by_fd), 0);
  EXPECT_EQ(by_fd.f_blocks, behind.f_blocks);
  EXPECT_GT(here.f_bavail, 0U);
}

TEST_F(AttributesTest, ExtendedAttributes) {
  make_kinds();
  const std::string large(3000, 'v');
  const std::string too_large(65536, 'v');
  const std::string beyond(65537, 'v');
  const std::string long_name = "user." + std::string(250, 'n');
  const std::string too_long_name = "user." + std::string(251, 'n');
  const std::string binary("a\0b\xff\0", 5);
  const auto get = [](const Dir& dir, const std::string& file, const std::string& name,
                      std::size_t size) {
    std::string value(size, '\0');
    Outcome outcome = call(::lgetxattr((dir / file).c_str(), name.c_str(), value.data(), size));
    if (outcome.error == 0 && size != 0) {
      outcome.data = value.substr(0, static_cast<std::size_t>(outcome.value));
    }
    return outcome;
  };
  for (const std::string& kind : kKinds) {
    for (const std::string& name :
         {std::string("user.one"), std::string("trusted.two"), std::string("security.three"),
          std::string("system.four"), std::string("unknown.five"), std::string("user."),
          std::string("noprefix"), std::string("user.\xc3\xa9\n"), long_name, too_long_name}) {
      for (const std::string& value :
           {std::string("value"), std::string(), binary, large, too_large, beyond}) {
        for (const int flags : {0, int{XATTR_REPLACE}, int{XATTR_CREATE}}) {
          const std::string what = kind + " " + name + " of " + std::to_string(value.size()) +
                                   " bytes, flags " + std::to_string(flags);
          same("setxattr " + what, [&](const Dir& dir) {
            return call(
                ::lsetxattr((dir / kind).c_str(), name.c_str(), value.data(), value.size(), flags));
          });
        }
        same("getxattr " + kind + " " + name,
             [&](const Dir& dir) { return get(dir, kind, name, 65536); });
      }
      for (const std::size_t size : {0U, 1U, 5U}) {
        same("getxattr into " + std::to_string(size),
             [&](const Dir& dir) { return get(dir, kind, name, size); });
      }
    }
    for (const std::size_t size : {std::size_t{0}, std::size_t{1}, std::size_t{65536}}) {
      same("listxattr " + kind + " into " + std::to_string(size), [&](const Dir& dir) {
        std::string names(size, '\0');
        Outcome outcome = call(::llistxattr((dir / kind).c_str(), names.data(), size));
        if (outcome.error == 0 && size != 0) {
          // The order is the filesystem's own business.
          std::set<std::string> sorted;
          for (std::size_t at = 0; at < static_cast<std::size_t>(outcome.value);) {
            sorted.emplace(names.c_str() + at);
            at += std::strlen(names.c_str() + at) + 1;
          }
          for (const std::string& each : sorted) outcome.data += each + ",";
        }
        return outcome;
      });
    }
  }
  expect_same_trees();
  for (const std::string& kind : kKinds) {
    for (const char* name : {"user.one", "user.one", "trusted.two", "user.missing", "bad"}) {
      same("removexattr " + kind + " " + name,
           [&](const Dir& dir) { return call(::lremovexattr((dir / kind).c_str(), name)); });
    }
  }
  same("by descriptor", [](const Dir& dir) {
    const Fd fd(::openat(dir.fd, "file", O_RDONLY | O_CLOEXEC));
    Outcome outcome = call(::fsetxattr(fd, "user.fd", "x", 1, 0));
    std::string value(10, '\0');
    outcome.data = std::to_string(::fgetxattr(fd, "user.fd", value.data(), value.size())) + value;
    return outcome;
  });
  same("through a symlink", [](const Dir& dir) {
    Outcome outcome = call(::setxattr((dir / "link").c_str(), "user.through", "x", 1, 0));
    std::string value(10, '\0');
    outcome.data = std::to_string(
        ::getxattr((dir / "file").c_str(), "user.through", value.data(), value.size()));
    return outcome;
  });
  expect_same_trees();
}

TEST_F(AttributesTest, ExtendedAttributesOfOthers) {
  make("file");
  make("mine");
  make("secret");
  same("prepare", [](const Dir& dir) {
    for (const char* name : {"file", "mine", "secret"}) {
      EXPECT_EQ(::setxattr((dir / name).c_str(), "user.a", "1", 1, 0), 0);
      EXPECT_EQ(::setxattr((dir / name).c_str(), "trusted.b", "2", 1, 0), 0);
    }
    EXPECT_EQ(::fchownat(dir.fd, "mine", kUser, kGroup, 0), 0);
    EXPECT_EQ(::mkdirat(dir.fd, "sticky", 0777), 0);
    EXPECT_EQ(::fchmodat(dir.fd, "sticky", 01777, 0), 0);
    return call(::fchmodat(dir.fd, "secret", 0600, 0));
  });
  for (const char* name : {"file", "mine", "secret", "sticky"}) {
    for (const char* attribute : {"user.a", "user.new", "trusted.b", "security.c", "user.a"}) {
      const std::string what = std::string(name) + " " + attribute;
      same_as(kUser, kGroup, {}, "get " + what, [&](const Dir& dir) {
        std::string value(10, '\0');
        Outcome outcome =
            call(::getxattr((dir / name).c_str(), attribute, value.data(), value.size()));
        outcome.data = value;
        return outcome;
      });
      same_as(kUser, kGroup, {}, "set " + what, [&](const Dir& dir) {
        return call(::setxattr((dir / name).c_str(), attribute, "new", 3, 0));
      });
      same_as(kUser, kGroup, {}, "remove " + what,
              [&](const Dir& dir) { return call(::removexattr((dir / name).c_str(), attribute)); });
    }
    same_as(kUser, kGroup, {}, std::string("list ") + name, [&](const Dir& dir) {
      std::string names(1000, '\0');
      Outcome outcome = call(::listxattr((dir / name).c_str(), names.data(), names.size()));
      outcome.data = names.substr(0, static_cast<std::size_t>(std::max(0L, outcome.value)));
      return outcome;
    });
  }
  expect_same_trees();
}

// -- POSIX ACLs ----------------------------------------------------------------------------------

struct AclEntry {
  std::uint16_t tag;
  std::uint16_t permissions;
  std::uint32_t id;
};

/// The kernel's binary form of an ACL (posix_acl_xattr.h): version 2, then the entries.
std::string acl_bytes(const std::vector<AclEntry>& entries) {
  const std::uint32_t version = 2;
  std::string bytes(reinterpret_cast<const char*>(&version), sizeof version);
  for (const AclEntry& entry : entries) {
    bytes.append(reinterpret_cast<const char*>(&entry.tag), sizeof entry.tag);
    bytes.append(reinterpret_cast<const char*>(&entry.permissions), sizeof entry.permissions);
    bytes.append(reinterpret_cast<const char*>(&entry.id), sizeof entry.id);
  }
  return bytes;
}

constexpr std::uint16_t kUserObj = 1;
constexpr std::uint16_t kNamedUser = 2;
constexpr std::uint16_t kGroupObj = 4;
constexpr std::uint16_t kNamedGroup = 8;
constexpr std::uint16_t kMask = 16;
constexpr std::uint16_t kOther = 32;
constexpr std::uint32_t kNoId = 0xffffffffU;

std::string getfacl(const Dir& dir, const std::string& name) {
  return must_run(dir.path, {"getfacl", "--numeric", "--", name});
}

TEST_F(AttributesTest, AclsBySetfaclAndGetfacl) {
  make("file");
  same("chown", [](const Dir& dir) {
    EXPECT_EQ(::mkdirat(dir.fd, "dir", 0755), 0);
    return call(::fchownat(dir.fd, "file", 7, 8, 0));
  });
  for (const std::vector<std::string>& change : std::vector<std::vector<std::string>>{
           {"-m", "u:54321:rw-", "file"},
           {"-m", "g:54322:r--,m::rwx", "file"},
           {"-m", "u:54323:---", "file"},
           {"-x", "u:54321", "file"},
           {"-m", "d:u:54321:rwx,d:g::r-x,d:o::---", "dir"},
           {"-m", "u:54321:rwx", "dir"},
           {"-k", "dir"},
           {"-b", "file"},
           {"-m", "d:u:1:r", "file"},  // no default ACL on a file
           {"-m", "d:u:54321:rwx", "dir"},
       }) {
    std::vector<std::string> command{"setfacl"};
    command.insert(command.end(), change.begin(), change.end());
    same("setfacl " + change[1], [&](const Dir& dir) {
      Outcome outcome;
      outcome.value = run_in(dir.path, command).status;
      outcome.data = getfacl(dir, "file") + getfacl(dir, "dir");
      return outcome;
    });
    expect_same_trees(change[1]);
  }
}

TEST_F(AttributesTest, AclsAsRawAttributes) {
  make("file");
  same("mkdir", [](const Dir& dir) { return call(::mkdirat(dir.fd, "dir", 0755)); });
  const std::vector<std::string> values{
      acl_bytes({{kUserObj, 7, kNoId},
                 {kNamedUser, 6, kUser},
                 {kGroupObj, 5, kNoId},
                 {kNamedGroup, 4, kGroup},
                 {kMask, 7, kNoId},
                 {kOther, 0, kNoId}}),
      acl_bytes({{kUserObj, 6, kNoId}, {kGroupObj, 4, kNoId}, {kOther, 4, kNoId}}),  // mode only
      acl_bytes(
          {{kUserObj, 6, kNoId}, {kNamedUser, 7, 1}, {kGroupObj, 4, kNoId}, {kOther, 4, kNoId}}),
      acl_bytes({}),
      acl_bytes({{kOther, 4, kNoId}, {kUserObj, 6, kNoId}, {kGroupObj, 4, kNoId}}),  // unsorted
      "",
      "garbage",
      std::string(20, '\xff'),
  };
  for (const char* file : {"file", "dir"}) {
    for (const char* name : {"system.posix_acl_access", "system.posix_acl_default"}) {
      for (const std::string& value : values) {
        same(std::string("set ") + name + " on " + file, [&](const Dir& dir) {
          Outcome outcome =
              call(::setxattr((dir / file).c_str(), name, value.data(), value.size(), 0));
          std::string now(1000, '\0');
          const Outcome read = call(::getxattr((dir / file).c_str(), name, now.data(), now.size()));
          outcome.data = std::to_string(read.error) + ":" +
                         now.substr(0, static_cast<std::size_t>(std::max(0L, read.value))) +
                         describe(attributes(dir.fd, file), false, false);
          return outcome;
        });
      }
      same("remove", [&](const Dir& dir) {
        Outcome outcome = call(::removexattr((dir / file).c_str(), name));
        outcome.data = describe(attributes(dir.fd, file), false, false);
        return outcome;
      });
    }
  }
  expect_same_trees();
}

TEST_F(AttributesTest, AclsDecideWhoMayDoWhat) {
  same("prepare", [](const Dir& dir) {
    write_file(dir / "file", "for some", 0600);
    EXPECT_EQ(::mkdirat(dir.fd, "dir", 0700), 0);
    write_file(dir / "dir/inner", "inside", 0644);
    EXPECT_EQ(::chmod((dir / "file").c_str(), 0600), 0);
    must_run(dir.path,
             {"setfacl", "-m", "u:54321:rw,u:54322:-,g:54330:r,g:54331:rw,m::rw", "file"});
    must_run(dir.path, {"setfacl", "-m", "u:54321:rx,g:54330:rwx,m::rwx", "dir"});
    return Outcome{};
  });
  struct Caller {
    uid_t uid;
    gid_t gid;
    std::vector<gid_t> groups;
  };
  const auto try_everything = [&] {
    for (const Caller& caller :
         {Caller{54321, 1, {}}, Caller{54322, 54330, {}}, Caller{3, 54330, {}},
          Caller{3, 3, {54330, 54331}}, Caller{3, 3, {54331}}, Caller{3, 3, {}}}) {
      const auto attempt = [&](const std::string& what, const Operation& operation) {
        same_as(caller.uid, caller.gid, caller.groups, what, operation);
      };
      for (const int flags : {O_RDONLY, O_WRONLY, O_RDWR}) {
        attempt("open file", [&](const Dir& dir) {
          return call_fd(::openat(dir.fd, "file", flags | O_CLOEXEC));
        });
        attempt("open inner", [&](const Dir& dir) {
          return call_fd(::openat(dir.fd, "dir/inner", flags | O_CLOEXEC));
        });
      }
      attempt("list", [](const Dir& dir) {
        return call_fd(::openat(dir.fd, "dir", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
      });
      attempt("create and remove in dir", [](const Dir& dir) {
        Outcome outcome =
            call_fd(::openat(dir.fd, "dir/new", O_WRONLY | O_CREAT | O_CLOEXEC, 0644));
        outcome.data = std::to_string(call(::unlinkat(dir.fd, "dir/new", 0)).error);
        return outcome;
      });
      attempt("change the ACL", [](const Dir& dir) {
        const std::string acl =
            acl_bytes({{kUserObj, 6, kNoId}, {kGroupObj, 4, kNoId}, {kOther, 4, kNoId}});
        return call(::setxattr((dir / "file").c_str(), "system.posix_acl_access", acl.data(),
                               acl.size(), 0));
      });
    }
  };
  try_everything();
  // The mask follows chmod and takes the rights away.
  same("chmod", [](const Dir& dir) { return call(::fchmodat(dir.fd, "file", 0640, 0)); });
  same("chmod", [](const Dir& dir) { return call(::fchmodat(dir.fd, "dir", 0700, 0)); });
  try_everything();
  expect_same_trees();
}

TEST_F(AttributesTest, DefaultAclsAreInherited) {
  same("prepare", [](const Dir& dir) {
    EXPECT_EQ(::mkdirat(dir.fd, "dir", 0777), 0);
    EXPECT_EQ(::fchmodat(dir.fd, "dir", 02777, 0), 0);
    must_run(dir.path, {"setfacl", "-m", "d:u:54321:rwx,d:g:54330:r-x,d:o::r-x,d:m::rwx", "dir"});
    EXPECT_EQ(::mkdirat(dir.fd, "bare", 0777), 0);
    EXPECT_EQ(::fchmodat(dir.fd, "bare", 0777, 0), 0);
    must_run(dir.path, {"setfacl", "-m", "d:u::rw,d:g::r,d:o::-", "bare"});
    return Outcome{};
  });
  for (const mode_t mask : {0U, 022U, 077U, 0777U}) {
    // With a default ACL the umask counts for nothing; without one it does.
    const ScopedUmask umask(mask);
    for (const mode_t mode : {0666U, 0777U, 0600U, 0U}) {
      for (const uid_t uid : {uid_t{0}, kUser}) {
        for (const std::string parent : {"dir", "bare", "."}) {
          const std::string stem = parent + "/" + std::to_string(mask) + "-" +
                                   std::to_string(mode) + "-" + std::to_string(uid) + "-";
          same_as(uid, uid, {}, "create " + stem, [&](const Dir& dir) {
            EXPECT_EQ(call_fd(::openat(dir.fd, (stem + "file").c_str(),
                                       O_WRONLY | O_CREAT | O_CLOEXEC, mode))
                          .error,
                      0);
            EXPECT_EQ(call(::mkdirat(dir.fd, (stem + "dir").c_str(), mode)).error, 0);
            EXPECT_EQ(call(::mknodat(dir.fd, (stem + "fifo").c_str(), S_IFIFO | mode, 0)).error, 0);
            EXPECT_EQ(call(::mknodat(dir.fd, (stem + "node").c_str(), S_IFREG | mode, 0)).error, 0);
            EXPECT_EQ(call(::symlinkat("x", dir.fd, (stem + "link").c_str())).error, 0);
            return Outcome{};
          });
        }
      }
    }
  }
  expect_same_trees();
}

TEST_F(AttributesTest, AnAclTakesTheSetgidBitFromOutsiders) {
  // Setting an access ACL as an owner outside the file's group clears setgid, as chmod does.
  same("prepare", [](const Dir& dir) {
    write_file(dir / "file", "x");
    EXPECT_EQ(::fchownat(dir.fd, "file", kUser, kOtherGroup, 0), 0);
    return call(::fchmodat(dir.fd, "file", 02755, 0));
  });
  const std::string acl = acl_bytes({{kUserObj, 7, kNoId},
                                     {kNamedUser, 6, 1},
                                     {kGroupObj, 5, kNoId},
                                     {kMask, 5, kNoId},
                                     {kOther, 5, kNoId}});
  for (const std::vector<gid_t>& groups : {std::vector<gid_t>{kOtherGroup}, std::vector<gid_t>{}}) {
    same_as(kUser, kGroup, groups, "set ACL", [&](const Dir& dir) {
      Outcome outcome = call(
          ::setxattr((dir / "file").c_str(), "system.posix_acl_access", acl.data(), acl.size(), 0));
      outcome.data = describe(attributes(dir.fd, "file"), false, false);
      return outcome;
    });
  }
  same_as(kUser, kGroup, {}, "chmod g+s of a file of another group", [](const Dir& dir) {
    Outcome outcome = call(::fchmodat(dir.fd, "file", 02777, 0));
    outcome.data = describe(attributes(dir.fd, "file"), false, false);
    return outcome;
  });
  expect_same_trees();
}

// -- inode flags ---------------------------------------------------------------------------------

/// FS_IOC_GETFLAGS and FS_IOC_SETFLAGS are declared for long but move an int.
Outcome get_flags(int fd) {
  int flags = 0;
  Outcome outcome = call(::ioctl(fd, FS_IOC_GETFLAGS, &flags));
  if (outcome.error == 0) outcome.value = flags;
  return outcome;
}

Outcome change_flags(const Dir& dir, const std::string& name, int set, int clear) {
  const Fd fd(::openat(dir.fd, name.c_str(), O_RDONLY | O_CLOEXEC));
  Outcome outcome = get_flags(fd);
  if (outcome.error != 0) return outcome;
  int flags = (static_cast<int>(outcome.value) | set) & ~clear;
  outcome = call(::ioctl(fd, FS_IOC_SETFLAGS, &flags));
  outcome.data = std::to_string(get_flags(fd).value);
  return outcome;
}

TEST_F(AttributesTest, InodeFlags) {
  make("file");
  make("other");
  same("prepare", [](const Dir& dir) {
    EXPECT_EQ(::fchownat(dir.fd, "file", kUser, kGroup, 0), 0);
    return call(::mkdirat(dir.fd, "dir", 0755));
  });
  for (const char* name : {"file", "dir"}) {
    same("get", [&](const Dir& dir) {
      const Fd fd(::openat(dir.fd, name, O_RDONLY | O_CLOEXEC));
      return get_flags(fd);
    });
    for (const int flag :
         {FS_NODUMP_FL, FS_NOATIME_FL, FS_SYNC_FL, FS_APPEND_FL, FS_IMMUTABLE_FL}) {
      EXPECT_EQ(same("set " + std::to_string(flag),
                     [&](const Dir& dir) { return change_flags(dir, name, flag, 0); })
                    .error,
                0);
      same("clear", [&](const Dir& dir) { return change_flags(dir, name, 0, flag); });
    }
  }
  // An open file without a name, more than once.
  same("unlinked", [](const Dir& dir) {
    const Fd fd(::openat(dir.fd, "unlinked", O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    ::unlinkat(dir.fd, "unlinked", 0);
    Outcome outcome;
    for (int round = 0; round < 4; ++round) {
      outcome = get_flags(fd);
      if (outcome.error != 0) break;
      int flags = static_cast<int>(outcome.value) ^ FS_NODUMP_FL;
      outcome = call(::ioctl(fd, FS_IOC_SETFLAGS, &flags));
      if (outcome.error != 0) break;
    }
    return outcome;
  });
  // Who may: the owner the harmless ones, nobody but root the two that stop root as well.
  for (const char* name : {"file", "other"}) {
    for (const int flag : {FS_NODUMP_FL, FS_APPEND_FL, FS_IMMUTABLE_FL}) {
      same_as(kUser, kGroup, {}, std::string("unprivileged change of ") + name,
              [&](const Dir& dir) { return change_flags(dir, name, flag, 0); });
    }
  }
  same("unknown ioctl", [](const Dir& dir) {
    const Fd fd(::openat(dir.fd, "file", O_RDONLY | O_CLOEXEC));
    int value = 0;
    return call(::ioctl(fd, _IOR('f', 0x77, int), &value));
  });
  same("terminal ioctl", [](const Dir& dir) {
    const Fd fd(::openat(dir.fd, "file", O_RDONLY | O_CLOEXEC));
    std::array<char, 256> buffer{};
    return call(::ioctl(fd, 0x5401 /* TCGETS */, buffer.data()));
  });
  same("FIONREAD", [](const Dir& dir) {
    const Fd fd(::openat(dir.fd, "file", O_RDONLY | O_CLOEXEC));
    int value = 0;
    Outcome outcome = call(::ioctl(fd, 0x541B /* FIONREAD */, &value));
    outcome.data = std::to_string(value);
    return outcome;
  });
  expect_same_trees();
}

TEST_F(AttributesTest, ImmutableAndAppendOnlyFilesStaySo) {
  make("fixed");
  make("log");
  same("set", [](const Dir& dir) {
    change_flags(dir, "fixed", FS_IMMUTABLE_FL, 0);
    return change_flags(dir, "log", FS_APPEND_FL, 0);
  });
  for (const char* name : {"fixed", "log"}) {
    const auto attempt = [&](const std::string& what, const Operation& operation) {
      same(what + " " + name, operation);
    };
    attempt("open for writing",
            [&](const Dir& dir) { return call_fd(::openat(dir.fd, name, O_WRONLY | O_CLOEXEC)); });
    attempt("append", [&](const Dir& dir) {
      const Fd fd(::openat(dir.fd, name, O_WRONLY | O_APPEND | O_CLOEXEC));
      if (!fd.ok()) return call(-1);
      return call(::write(fd, "more", 4));
    });
    attempt("O_TRUNC", [&](const Dir& dir) {
      return call_fd(::openat(dir.fd, name, O_WRONLY | O_TRUNC | O_CLOEXEC));
    });
    attempt("chmod", [&](const Dir& dir) { return call(::fchmodat(dir.fd, name, 0600, 0)); });
    attempt("chown", [&](const Dir& dir) { return call(::fchownat(dir.fd, name, 1, 1, 0)); });
    attempt("truncate", [&](const Dir& dir) { return call(::truncate((dir / name).c_str(), 0)); });
    attempt("link", [&](const Dir& dir) { return call(::linkat(dir.fd, name, dir.fd, "l", 0)); });
    attempt("rename", [&](const Dir& dir) { return call(::renameat(dir.fd, name, dir.fd, "r")); });
    attempt("unlink", [&](const Dir& dir) { return call(::unlinkat(dir.fd, name, 0)); });
    attempt("setxattr", [&](const Dir& dir) {
      return call(::setxattr((dir / name).c_str(), "user.x", "1", 1, 0));
    });
    attempt("times", [&](const Dir& dir) {
      const std::array<timespec, 2> times{timespec{1, 1}, timespec{2, 2}};
      return call(::utimensat(dir.fd, name, times.data(), 0));
    });
    attempt("read", [&](const Dir& dir) {
      Outcome outcome;
      outcome.data = read_file(dir / name);
      return outcome;
    });
  }
  expect_same_trees();
  same("clear", [](const Dir& dir) {
    change_flags(dir, "fixed", 0, FS_IMMUTABLE_FL);
    return change_flags(dir, "log", 0, FS_APPEND_FL);
  });
  same("write again", [](const Dir& dir) {
    return call_fd(::openat(dir.fd, "fixed", O_WRONLY | O_TRUNC | O_CLOEXEC));
  });
  expect_same_trees();
}

}  // namespace
}  // namespace lockfs::fstest
