// Many processes at work in one directory at once: whatever the order, what each is told must fit
// what can have happened, and what is left must be whole.
// ctest: timeout=600
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cctype>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "tests/mounted/fs/fs_support.h"

namespace lockfs::fstest {
namespace {

class ConcurrencyTest : public FsTest, public ::testing::WithParamInterface<std::string> {
 protected:
  std::vector<std::string> options() const override { return {GetParam()}; }

  /// Runs `work(worker, random)` in that many processes at once; each returns "" or what was wrong.
  void in_processes(int count,
                    const std::function<std::string(int worker, std::mt19937_64& random)>& work) {
    test_seed();  // printed here, once
    std::vector<std::unique_ptr<test::Process>> processes;
    for (int worker = 0; worker < count; ++worker) {
      processes.push_back(std::make_unique<test::Process>([&, worker] {
        auto random = make_random(static_cast<std::uint64_t>(worker) + 100);
        const std::string wrong = work(worker, random);
        if (wrong.empty()) return 0;
        write_file(source() + "/wrong" + std::to_string(worker), wrong);
        return 1;
      }));
    }
    for (int worker = 0; worker < count; ++worker) {
      const int status = processes[static_cast<std::size_t>(worker)]->wait();
      if (status == 0) continue;
      const std::string wrong = source() + "/wrong" + std::to_string(worker);
      ADD_FAILURE() << "worker " << worker << " ended with " << status << ": "
                    << (::access(wrong.c_str(), F_OK) == 0 ? read_file(wrong) : std::string());
    }
  }
};

INSTANTIATE_TEST_SUITE_P(Options, ConcurrencyTest,
                         ::testing::Values("passthrough=auto", "passthrough=off,workers=2"),
                         [](const auto& test) {
                           std::string name = test.param;
                           std::erase_if(name, [](char c) { return std::isalnum(c) == 0; });
                           return name;
                         });

std::string complaint(const std::string& what, int error) {
  return what + ": " +
         std::string(::strerrorname_np(error) != nullptr ? ::strerrorname_np(error) : "?");
}

TEST_P(ConcurrencyTest, RandomWorkOnFewNames) {
  constexpr int kWorkers = 6;
  constexpr std::uint64_t kNames = 10;
  const int rounds = scaled(2500, 100);
  in_processes(kWorkers, [&](int worker, std::mt19937_64& random) -> std::string {
    const int at = mounted_.fd;
    // Errors that another worker's doings explain.
    const std::set<int> fine{0, ENOENT, EEXIST, ENOTEMPTY, ENOTDIR, EISDIR, ESTALE};
    for (int round = 0; round < rounds; ++round) {
      const std::string name = "n" + std::to_string(below(random, kNames));
      const std::string other = "n" + std::to_string(below(random, kNames));
      int error = 0;
      std::string what;
      switch (below(random, 9)) {
        case 0: {
          // A file always says its maker and size, so that any reader can check it.
          what = "create " + name;
          const Fd fd(::openat(at, name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644));
          error = fd.ok() ? 0 : errno;
          if (fd.ok()) {
            const std::string text(200, static_cast<char>('a' + worker));
            if (::write(fd, text.data(), text.size()) != 200) return complaint("write", errno);
          }
          break;
        }
        case 1: {
          what = "read " + name;
          const Fd fd(::openat(at, name.c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC));
          error = fd.ok() ? 0 : errno;
          struct stat stat {};
          if (fd.ok() && ::fstat(fd, &stat) == 0 && S_ISREG(stat.st_mode)) {
            std::string text(300, '\0');
            const ssize_t count = ::read(fd, text.data(), text.size());
            if (count < 0) return complaint("read", errno);
            if (count != 0 && count != 200) return "a torn file of " + std::to_string(count);
            text.resize(static_cast<std::size_t>(count));
            if (text != std::string(text.size(), count > 0 ? text[0] : 'a')) {
              return "a file of two makers: " + text;
            }
          }
          if (error == ELOOP) error = 0;
          break;
        }
        case 2:
          what = "unlink " + name;
          error = call(::unlinkat(at, name.c_str(), 0)).error;
          break;
        case 3:
          what = "rename " + name + " " + other;
          error = call(::renameat(at, name.c_str(), at, other.c_str())).error;
          break;
        case 4:
          what = "exchange " + name + " " + other;
          error = call(::renameat2(at, name.c_str(), at, other.c_str(), RENAME_EXCHANGE)).error;
          break;
        case 5:
          what = "link " + name + " " + other;
          error = call(::linkat(at, name.c_str(), at, other.c_str(), 0)).error;
          if (error == EPERM) error = 0;  // of a directory
          break;
        case 6: {
          what = "stat " + name;
          struct stat stat {};
          error = call(::fstatat(at, name.c_str(), &stat, AT_SYMLINK_NOFOLLOW)).error;
          if (error == 0 && S_ISREG(stat.st_mode) && stat.st_size != 0 && stat.st_size != 200) {
            return "a size of " + std::to_string(stat.st_size);
          }
          break;
        }
        case 7:
          what = "mkdir " + name;
          error = call(::mkdirat(at, name.c_str(), 0755)).error;
          if (error == 0) {
            ::mkdirat(at, (name + "/inner").c_str(), 0755);
            ::unlinkat(at, (name + "/inner").c_str(), AT_REMOVEDIR);
          }
          break;
        default:
          what = "rmdir " + name;
          error = call(::unlinkat(at, name.c_str(), AT_REMOVEDIR)).error;
          break;
      }
      if (fine.count(error) == 0) return complaint(what, error);
    }
    return {};
  });
  // What is left, the mount and the source tell alike, and the contents are whole.
  expect_alike(portrait(mounted_.path, Detail::kExact), portrait(behind_.path, Detail::kExact),
               "mount against source");
}

TEST_P(ConcurrencyTest, OneOfManyWins) {
  // O_EXCL, mkdir, link, symlink and RENAME_NOREPLACE: for every name exactly one may succeed.
  constexpr int kWorkers = 4;
  const int rounds = scaled(400, 20);
  in_processes(kWorkers, [&](int worker, std::mt19937_64&) -> std::string {
    const int at = mounted_.fd;
    const std::string own = "own" + std::to_string(worker);
    std::string won;
    for (int round = 0; round < rounds; ++round) {
      const std::string name = "prize" + std::to_string(round);
      Outcome outcome;
      switch (round % 5) {
        case 0:
          outcome =
              call_fd(::openat(at, name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644));
          break;
        case 1:
          outcome = call(::mkdirat(at, name.c_str(), 0755));
          break;
        case 2:
          if (::mknodat(at, own.c_str(), S_IFREG | 0644, 0) != 0) return complaint("mknod", errno);
          outcome = call(::linkat(at, own.c_str(), at, name.c_str(), 0));
          ::unlinkat(at, own.c_str(), 0);
          break;
        case 3:
          outcome = call(::symlinkat(own.c_str(), at, name.c_str()));
          break;
        default:
          if (::mknodat(at, own.c_str(), S_IFREG | 0644, 0) != 0) return complaint("mknod", errno);
          outcome = call(::renameat2(at, own.c_str(), at, name.c_str(), RENAME_NOREPLACE));
          if (outcome.error != 0) ::unlinkat(at, own.c_str(), 0);
          break;
      }
      if (outcome.error == 0) {
        won += name + "\n";
      } else if (outcome.error != EEXIST) {
        return complaint(name, outcome.error);
      }
    }
    write_file(source() + "/won" + std::to_string(worker), won);
    return {};
  });
  std::multiset<std::string> winners;
  for (int worker = 0; worker < kWorkers; ++worker) {
    const std::string won = read_file(source() + "/won" + std::to_string(worker));
    for (std::size_t at = 0; at < won.size();) {
      const std::size_t end = won.find('\n', at);
      winners.insert(won.substr(at, end - at));
      at = end + 1;
    }
  }
  for (int round = 0; round < rounds; ++round) {
    EXPECT_EQ(winners.count("prize" + std::to_string(round)), 1U) << round;
  }
}

TEST_P(ConcurrencyTest, AFileMovedAroundIsNeverLostOrDoubled) {
  // One mover renames a file between two names and directories; readers of both must always find it
  // whole under at least one of the two when they look twice around a single move.
  ASSERT_EQ(::mkdirat(mounted_.fd, "left", 0755), 0);
  ASSERT_EQ(::mkdirat(mounted_.fd, "right", 0755), 0);
  write_file(mounted_ / "left/token", "the token");
  const int rounds = scaled(2000, 100);
  in_processes(3, [&](int worker, std::mt19937_64&) -> std::string {
    for (int round = 0; round < rounds; ++round) {
      if (worker == 0) {
        const bool there = round % 2 == 0;
        if (::renameat(mounted_.fd, there ? "left/token" : "right/token", mounted_.fd,
                       there ? "right/token" : "left/token") != 0) {
          return complaint("rename", errno);
        }
        continue;
      }
      for (const char* name : {"left/token", "right/token"}) {
        const Fd fd(::openat(mounted_.fd, name, O_RDONLY | O_CLOEXEC));
        if (!fd.ok()) {
          if (errno != ENOENT) return complaint("open", errno);
          continue;
        }
        std::string text(9, '\0');
        if (::pread(fd, text.data(), 9, 0) != 9 || text != "the token") return "read " + text;
        struct stat stat {};
        if (::fstat(fd, &stat) != 0 || stat.st_nlink != 1)
          return "links " + std::to_string(stat.st_nlink);
      }
    }
    return {};
  });
  const bool left = ::faccessat(behind_.fd, "left/token", F_OK, 0) == 0;
  const bool right = ::faccessat(behind_.fd, "right/token", F_OK, 0) == 0;
  EXPECT_NE(left, right);
  EXPECT_EQ(read_file(mounted_ / (left ? "left/token" : "right/token")), "the token");
}

TEST_P(ConcurrencyTest, OpenCloseAndUnlinkOfOneFileAtOnce) {
  // The same file opened, read and closed by many while it is replaced again and again: handles,
  // kernel references and backing registrations come and go for one inode at the highest rate.
  write_file(mounted_ / "file", std::string(5000, '0'));
  const int rounds = scaled(1500, 100);
  in_processes(5, [&](int worker, std::mt19937_64&) -> std::string {
    for (int round = 0; round < rounds; ++round) {
      if (worker == 0) {
        const std::string text(5000, static_cast<char>('0' + round % 10));
        const Fd fd(::openat(mounted_.fd, "next", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
        if (!fd.ok()) return complaint("create", errno);
        if (::write(fd, text.data(), text.size()) != 5000) return complaint("write", errno);
        if (::renameat(mounted_.fd, "next", mounted_.fd, "file") != 0)
          return complaint("rename", errno);
        continue;
      }
      const Fd fd(::openat(mounted_.fd, "file", (worker % 2 == 0 ? O_RDONLY : O_RDWR) | O_CLOEXEC));
      if (!fd.ok()) {
        // A path that is replaced all the time is still always there.
        return complaint("open", errno);
      }
      std::string text(6000, '\0');
      const ssize_t count = ::read(fd, text.data(), text.size());
      if (count != 5000) return "read " + std::to_string(count) + " " + complaint("", errno);
      text.resize(5000);
      if (text != std::string(5000, text[0])) return "a mixture of two files";
    }
    return {};
  });
}

TEST_P(ConcurrencyTest, DeepTreesMovedUnderWalkers) {
  // Walkers go down and up while directories above them move: no walk may end anywhere but in a
  // directory of the tree.
  std::string path = "top";
  ASSERT_EQ(::mkdirat(mounted_.fd, "top", 0755), 0);
  ASSERT_EQ(::mkdirat(mounted_.fd, "side", 0755), 0);
  for (int depth = 0; depth < 8; ++depth) {
    path += "/d" + std::to_string(depth);
    ASSERT_EQ(::mkdirat(mounted_.fd, path.c_str(), 0755), 0);
    write_file(mounted_ / (path + "/level"), std::to_string(depth));
  }
  const int rounds = scaled(800, 50);
  in_processes(4, [&](int worker, std::mt19937_64&) -> std::string {
    for (int round = 0; round < rounds; ++round) {
      if (worker == 0) {
        // The subtree at d3 goes to the side and comes back.
        const char* home = "top/d0/d1/d2/d3";
        const char* away = "side/d3";
        if (::renameat(mounted_.fd, round % 2 == 0 ? home : away, mounted_.fd,
                       round % 2 == 0 ? away : home) != 0) {
          return complaint("rename", errno);
        }
        continue;
      }
      Fd at(::openat(mounted_.fd, "top", O_PATH | O_DIRECTORY | O_CLOEXEC));
      for (int depth = 0; depth < 8; ++depth) {
        Fd next(
            ::openat(at, ("d" + std::to_string(depth)).c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
        if (!next.ok()) {
          if (errno != ENOENT && errno != ESTALE) return complaint("walk", errno);
          break;
        }
        at = std::move(next);
        const Fd level(::openat(at, "level", O_RDONLY | O_CLOEXEC));
        char digit = 0;
        if (!level.ok()) return complaint("level", errno);
        if (::read(level, &digit, 1) != 1 || digit != '0' + depth) {
          return "found level " + std::string(1, digit) + " at depth " + std::to_string(depth);
        }
      }
      const Fd up(::openat(at, "..", O_PATH | O_DIRECTORY | O_CLOEXEC));
      if (!up.ok()) return complaint("up", errno);
    }
    return {};
  });
}

TEST_P(ConcurrencyTest, ThreadsOfOneProcess) {
  constexpr int kThreads = 8;
  const int rounds = scaled(500, 30);
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  threads.reserve(kThreads);
  for (int thread = 0; thread < kThreads; ++thread) {
    threads.emplace_back([&, thread] {
      for (int round = 0; round < rounds; ++round) {
        const std::string name = std::to_string(thread) + "-" + std::to_string(round);
        const std::string path = mounted_ / name;
        const Fd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
        std::string back(name.size(), '\0');
        const auto size = static_cast<ssize_t>(name.size());
        struct stat stat {};
        const bool good = fd.ok() && ::write(fd, name.data(), name.size()) == size &&
                          ::pread(fd, back.data(), back.size(), 0) == size && back == name &&
                          ::fsetxattr(fd, "user.name", name.data(), name.size(), 0) == 0 &&
                          ::stat(path.c_str(), &stat) == 0 && stat.st_size == size &&
                          ::rename(path.c_str(), (path + "r").c_str()) == 0 &&
                          ::unlink((path + "r").c_str()) == 0 && ::fstat(fd, &stat) == 0 &&
                          stat.st_nlink == 0;
        if (!good) ++wrong;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong.load(), 0);
  EXPECT_EQ(must_run(behind_.path, {"ls", "-A"}), "");
}

// A process in execve(2) may not be looked at in every way while it waits for the answer to the
// FLUSH of a close-on-exec file: /proc/<pid>/stat comes after that answer. Several in a row, on a
// machine that does nothing else, make the request loop look for the process's CPU.
TEST_P(ConcurrencyTest, ExecWithManyFilesToClose) {
  constexpr int kFiles = 32;
  const int rounds = scaled(200, 20);
  write_file(behind_ / "file", "");
  for (int round = 0; round < rounds; ++round) {
    test::Process program([&] {
      for (int i = 0; i < kFiles; ++i) {
        if (::open((mounted_ / "file").c_str(), O_RDONLY | O_CLOEXEC) < 0) return 2;
      }
      ::execl("/bin/true", "true", nullptr);
      return 3;
    });
    ASSERT_EQ(program.wait(), 0) << "round " << round;
  }
}

}  // namespace
}  // namespace lockfs::fstest
