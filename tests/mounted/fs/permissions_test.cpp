// Who may do what: several users, groups, supplementary groups, sticky and setgid directories and
// umask, on the mount and on a plain directory alike.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "tests/mounted/fs/fs_support.h"

namespace lockfs::fstest {
namespace {

struct Caller {
  uid_t uid;
  gid_t gid;
  std::vector<gid_t> groups;
};

constexpr uid_t kOwner = 54321;
constexpr gid_t kTeam = 54330;

const std::vector<Caller> kCallers{
    {0, 0, {}},                     // root
    {kOwner, kOwner, {}},           // the owner
    {kOwner, kOwner, {kTeam}},      // the owner, in the team
    {54322, kTeam, {}},             // the team is the primary group
    {54323, 54323, {1, kTeam, 2}},  // the team is a supplementary group
    {54324, 54324, {}},             // nobody in particular
    {65534, 65534, {}},
};

class PermissionsTest : public FsTest {
 protected:
  void as_each(const std::string& what, const Operation& operation) {
    for (const Caller& caller : kCallers) {
      same_as(caller.uid, caller.gid, caller.groups, what, operation);
    }
  }
};

TEST_F(PermissionsTest, NewFilesBelongToTheirMaker) {
  same("directories", [](const Dir& dir) {
    for (const auto& [name, gid, mode] :
         {std::tuple{"open", gid_t{0}, mode_t{0777}}, std::tuple{"setgid", kTeam, mode_t{02777}},
          std::tuple{"sticky", gid_t{0}, mode_t{01777}}}) {
      EXPECT_EQ(::mkdirat(dir.fd, name, 0777), 0);
      EXPECT_EQ(::fchownat(dir.fd, name, 0, gid, 0), 0);
      EXPECT_EQ(::fchmodat(dir.fd, name, mode, 0), 0);
    }
    return Outcome{};
  });
  int number = 0;
  for (const mode_t mask : {0U, 022U, 027U, 077U, 0777U}) {
    const ScopedUmask umask(mask);
    for (const char* parent : {"open", "setgid", "sticky"}) {
      for (const mode_t mode : {0666U, 0777U, 02777U, 06755U, 0600U}) {
        const std::string stem = std::string(parent) + "/" + std::to_string(number++);
        as_each("create in " + stem, [&](const Dir& dir) {
          const std::string name = stem + "-" + std::to_string(::geteuid());
          Outcome outcome;
          const auto note = [&](const Outcome& step) {
            outcome.data += std::to_string(step.error) + " ";
          };
          note(call_fd(::openat(dir.fd, (name + "f").c_str(),
                                O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode)));
          note(call(::mkdirat(dir.fd, (name + "d").c_str(), mode)));
          note(call(::mkdirat(dir.fd, (name + "d/sub").c_str(), mode)));
          note(call(::mknodat(dir.fd, (name + "p").c_str(), S_IFIFO | mode, 0)));
          note(call(::mknodat(dir.fd, (name + "n").c_str(), S_IFREG | mode, 0)));
          note(call(::symlinkat("x", dir.fd, (name + "l").c_str())));
          note(call(::mknodat(dir.fd, (name + "c").c_str(), S_IFCHR | mode, 0x103)));
          return outcome;
        });
      }
    }
  }
  expect_same_trees();
}

TEST_F(PermissionsTest, EveryModeForEveryCaller) {
  same("files", [](const Dir& dir) {
    for (int mode = 0; mode < 01000; mode += 1) {
      // Owner, group and others with each of the eight sets of rights, varied together.
      if ((mode & 7) != ((mode >> 3) ^ (mode >> 6)) % 8 && mode % 37 != 0) continue;
      const std::string name = "f" + std::to_string(mode);
      write_file(dir / name, "x");
      EXPECT_EQ(::fchownat(dir.fd, name.c_str(), kOwner, kTeam, 0), 0);
      EXPECT_EQ(::fchmodat(dir.fd, name.c_str(), static_cast<mode_t>(mode), 0), 0);
    }
    return Outcome{};
  });
  std::vector<std::string> names;
  for (int mode = 0; mode < 01000; ++mode) {
    const std::string name = "f" + std::to_string(mode);
    if (::faccessat(plain_.fd, name.c_str(), F_OK, 0) == 0) names.push_back(name);
  }
  ASSERT_GT(names.size(), 50U);
  for (const std::string& name : names) {
    as_each("open " + name, [&](const Dir& dir) {
      Outcome outcome;
      for (const int flags : {O_RDONLY, O_WRONLY, O_RDWR}) {
        outcome.data +=
            std::to_string(call_fd(::openat(dir.fd, name.c_str(), flags | O_CLOEXEC)).error) + " ";
      }
      return outcome;
    });
  }
}

TEST_F(PermissionsTest, DirectoriesGuardWhatIsInThem) {
  same("directories", [](const Dir& dir) {
    for (const mode_t mode :
         {0755U, 0711U, 0744U, 0733U, 0700U, 0770U, 01777U, 03777U, 0777U, 0U}) {
      const std::string name = "d" + std::to_string(mode);
      EXPECT_EQ(::mkdirat(dir.fd, name.c_str(), 0755), 0);
      for (const auto& [file, uid] :
           {std::pair{"owner", kOwner}, std::pair{"team", uid_t{54322}},
            std::pair{"other", uid_t{54324}}, std::pair{"root", uid_t{0}}}) {
        write_file(dir / (name + "/" + file), "contents");
        EXPECT_EQ(::fchownat(dir.fd, (name + "/" + file).c_str(), uid, kTeam, 0), 0);
        EXPECT_EQ(::mkdirat(dir.fd, (name + "/dir-" + file).c_str(), 0755), 0);
        EXPECT_EQ(::fchownat(dir.fd, (name + "/dir-" + file).c_str(), uid, kTeam, 0), 0);
      }
      EXPECT_EQ(::fchownat(dir.fd, name.c_str(), kOwner, kTeam, 0), 0);
      EXPECT_EQ(::fchmodat(dir.fd, name.c_str(), mode, 0), 0);
    }
    return Outcome{};
  });
  for (const mode_t mode : {0755U, 0711U, 0744U, 0733U, 0700U, 0770U, 01777U, 03777U, 0777U, 0U}) {
    const std::string name = "d" + std::to_string(mode);
    as_each("work in " + name, [&](const Dir& dir) {
      Outcome outcome;
      const auto note = [&](const char* what, const Outcome& step) {
        outcome.data += std::string(what) + "=" + std::to_string(step.error) + " ";
      };
      const auto in = [&](const char* file) { return name + "/" + file; };
      note("list", call_fd(::openat(dir.fd, name.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)));
      for (const char* file : {"owner", "team", "other", "root"}) {
        struct stat stat {};
        const std::string path = in(file);
        note("stat", call(::fstatat(dir.fd, path.c_str(), &stat, 0)));
        note("read", call_fd(::openat(dir.fd, path.c_str(), O_RDONLY | O_CLOEXEC)));
        note("write", call_fd(::openat(dir.fd, path.c_str(), O_WRONLY | O_CLOEXEC)));
        note("chmod", call(::fchmodat(dir.fd, path.c_str(), 0644, 0)));
        note("chgrp", call(::fchownat(dir.fd, path.c_str(), static_cast<uid_t>(-1), kTeam, 0)));
        note("chown", call(::fchownat(dir.fd, path.c_str(), stat.st_uid, 1, 0)));
        if (::geteuid() == 0) ::fchownat(dir.fd, path.c_str(), static_cast<uid_t>(-1), kTeam, 0);
        const std::array<timespec, 2> times{timespec{1, 1}, timespec{2, 2}};
        note("times", call(::utimensat(dir.fd, path.c_str(), times.data(), 0)));
        note("touch", call(::utimensat(dir.fd, path.c_str(), nullptr, 0)));
        note("truncate", call(::truncate((dir / path).c_str(), 3)));
        note("rename", call(::renameat(dir.fd, path.c_str(), dir.fd, in("moved").c_str())));
        ::renameat(dir.fd, in("moved").c_str(), dir.fd, path.c_str());
        note("link", call(::linkat(dir.fd, path.c_str(), dir.fd, in("linked").c_str(), 0)));
        note("unlink-link", call(::unlinkat(dir.fd, in("linked").c_str(), 0)));
        note("rename-dir", call(::renameat(dir.fd, in((std::string("dir-") + file).c_str()).c_str(),
                                           dir.fd, in("moved-dir").c_str())));
        ::renameat(dir.fd, in("moved-dir").c_str(), dir.fd,
                   in((std::string("dir-") + file).c_str()).c_str());
      }
      note("create",
           call_fd(::openat(dir.fd, in("new").c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0644)));
      note("unlink", call(::unlinkat(dir.fd, in("new").c_str(), 0)));
      note("mkdir", call(::mkdirat(dir.fd, in("newdir").c_str(), 0755)));
      note("rmdir", call(::unlinkat(dir.fd, in("newdir").c_str(), AT_REMOVEDIR)));
      note("symlink", call(::symlinkat("x", dir.fd, in("newlink").c_str())));
      note("unlink", call(::unlinkat(dir.fd, in("newlink").c_str(), 0)));
      return outcome;
    });
  }
  // Then each tries to take away what is left.
  for (const Caller& caller : kCallers) {
    if (caller.uid == 0) continue;
    for (const mode_t mode : {01777U, 03777U, 0770U, 0777U}) {
      for (const char* file : {"owner", "team", "other", "root"}) {
        same_as(
            caller.uid, caller.gid, caller.groups, std::string("unlink ") + file,
            [&](const Dir& dir) {
              return call(::unlinkat(dir.fd, ("d" + std::to_string(mode) + "/" + file).c_str(), 0));
            });
      }
    }
  }
  expect_same_trees();
}

TEST_F(PermissionsTest, SetgidDirectoriesPassTheGroupOn) {
  same("prepare", [](const Dir& dir) {
    EXPECT_EQ(::mkdirat(dir.fd, "shared", 0777), 0);
    EXPECT_EQ(::fchownat(dir.fd, "shared", kOwner, kTeam, 0), 0);
    EXPECT_EQ(::fchmodat(dir.fd, "shared", 02777, 0), 0);
    return Outcome{};
  });
  as_each("below", [](const Dir& dir) {
    const std::string base = "shared/" + std::to_string(::geteuid()) + "-" +
                             std::to_string(::getegid()) + "-" +
                             std::to_string(::getgroups(0, nullptr));
    Outcome outcome = call(::mkdirat(dir.fd, base.c_str(), 0755));
    ::mkdirat(dir.fd, (base + "/deep").c_str(), 0755);
    ::mknodat(dir.fd, (base + "/deep/file").c_str(), S_IFREG | 02775, 0);
    outcome.data = describe(attributes(dir.fd, base + "/deep"), false, false) +
                   describe(attributes(dir.fd, base + "/deep/file"), false, false);
    return outcome;
  });
  expect_same_trees();
}

TEST_F(PermissionsTest, ChangesOfOwnershipAreForThoseWhoMay) {
  as_each("chown", [](const Dir& dir) {
    const std::string name =
        "mine" + std::to_string(::geteuid()) + "-" + std::to_string(::getgroups(0, nullptr));
    EXPECT_EQ(call_fd(::openat(dir.fd, name.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0666)).error,
              0);
    Outcome outcome;
    for (const auto& [uid, gid] :
         std::vector<std::pair<uid_t, gid_t>>{{0, 0},
                                              {1, static_cast<gid_t>(-1)},
                                              {static_cast<uid_t>(-1), kTeam},
                                              {static_cast<uid_t>(-1), 99},
                                              {::geteuid(), ::getegid()}}) {
      outcome.data +=
          std::to_string(call(::fchownat(dir.fd, name.c_str(), uid, gid, 0)).error) + " ";
    }
    outcome.data += std::to_string(call(::fchmodat(dir.fd, name.c_str(), 06777, 0)).error) + " ";
    outcome.data += describe(attributes(dir.fd, name), false, false);
    return outcome;
  });
  expect_same_trees();
}

TEST_F(PermissionsTest, RightsAreCheckedAtOpenNotLater) {
  same("use a descriptor after losing the right", [](const Dir& dir) {
    write_file(dir / "file", "contents");
    EXPECT_EQ(::fchownat(dir.fd, "file", kOwner, kOwner, 0), 0);
    Fd fd;
    {
      const ScopedUser user(kOwner, kOwner);
      fd = Fd(::openat(dir.fd, "file", O_RDWR | O_CLOEXEC));
    }
    EXPECT_TRUE(fd.ok());
    EXPECT_EQ(::fchmodat(dir.fd, "file", 0, 0), 0);
    EXPECT_EQ(::fchownat(dir.fd, "file", 0, 0, 0), 0);
    const ScopedUser user(kOwner, kOwner);
    Outcome outcome = call(::pwrite(fd, "CON", 3, 0));
    std::string text(8, '\0');
    outcome.data = std::to_string(::pread(fd, text.data(), text.size(), 0)) + text;
    outcome.data += std::to_string(call(::ftruncate(fd, 4)).error);
    outcome.data += std::to_string(call(::fchmod(fd, 0777)).error);
    outcome.data += std::to_string(call_fd(::openat(dir.fd, "file", O_RDONLY | O_CLOEXEC)).error);
    return outcome;
  });
  expect_same_trees();
}

TEST_F(PermissionsTest, AnIdentityChangesOnlyWhatItsOwnProcessMakes) {
  // Many users at once: each new file must belong to its own maker.
  const int rounds = scaled(200, 20);
  std::vector<std::unique_ptr<test::Process>> makers;
  for (uid_t uid = 60001; uid <= 60008; ++uid) {
    makers.push_back(std::make_unique<test::Process>([&, uid] {
      const ScopedUmask umask(static_cast<mode_t>(uid % 8) << 3);
      const ScopedUser user(uid, uid + 100, {uid + 200});
      for (int round = 0; round < rounds; ++round) {
        const std::string name = std::to_string(uid) + "-" + std::to_string(round);
        const Fd fd(
            ::openat(mounted_.fd, name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666));
        if (!fd.ok()) return 1;
        if (::mkdirat(mounted_.fd, (name + "d").c_str(), 0777) != 0) return 2;
        struct stat stat {};
        if (::fstat(fd, &stat) != 0 || stat.st_uid != uid || stat.st_gid != uid + 100) return 3;
        if ((stat.st_mode & 0777U) != (0666U & ~((uid % 8U) << 3U))) return 4;
        if (::fstatat(mounted_.fd, (name + "d").c_str(), &stat, 0) != 0) return 5;
        if (stat.st_uid != uid || stat.st_gid != uid + 100) return 6;
        if ((stat.st_mode & 0777U) != (0777U & ~((uid % 8U) << 3U))) return 7;
      }
      return 0;
    }));
  }
  for (const auto& maker : makers) EXPECT_EQ(maker->wait(), 0);
  for (uid_t uid = 60001; uid <= 60008; ++uid) {
    for (int round = 0; round < rounds; ++round) {
      const auto stat = attributes(behind_.fd, std::to_string(uid) + "-" + std::to_string(round));
      ASSERT_EQ(stat.stx_uid, uid);
      ASSERT_EQ(stat.stx_gid, uid + 100);
    }
  }
}

}  // namespace
}  // namespace lockfs::fstest
