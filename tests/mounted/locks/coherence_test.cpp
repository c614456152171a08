/// A grant is a point of coherence: with attributes that the kernel may believe for an hour,
/// whoever gets a lock sees at once what the last holder left, an outsider included.

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <random>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include "tests/mounted/locks/lock_test.h"

namespace lockfs::test {
namespace {

class CoherenceTest : public SharedMountTest, public ::testing::WithParamInterface<Kind> {
 public:
  static void SetUpTestSuite() {
    start_suite({"attr_timeout=3600", "entry_timeout=3600", "passthrough=auto"});
  }

 protected:
  static Kind kind() { return GetParam(); }

  /// Everything about the file gets into the kernel's caches.
  static void fill_caches(Locker& locker, const std::string& expected) {
    for (int i = 0; i < 3; ++i) {
      ASSERT_EQ(locker.read(locker.fd(), 10000, 0), expected);
      ASSERT_EQ(locker.fstat(locker.fd()).st_size, static_cast<off_t>(expected.size()));
    }
  }

  /// Size, times and data are those of the source.
  static void expect_current(Locker& locker, const std::string& name) {
    struct stat truth {};
    ASSERT_EQ(::stat(in_source(name).c_str(), &truth), 0);
    const struct stat seen = locker.fstat(locker.fd());
    EXPECT_EQ(seen.st_size, truth.st_size);
    EXPECT_EQ(seen.st_mtim.tv_sec, truth.st_mtim.tv_sec);
    EXPECT_EQ(seen.st_mtim.tv_nsec, truth.st_mtim.tv_nsec);
    EXPECT_EQ(seen.st_mode, truth.st_mode);
    EXPECT_EQ(locker.read(locker.fd(), 10000, 0), read_file(in_source(name)));
  }

  static void run(const std::string& before, const std::string& after) {
    SCOPED_TRACE(std::to_string(before.size()) + " to " + std::to_string(after.size()) + " bytes");
    const auto change = [&](Locker& outside) {
      ASSERT_EQ(outside.truncate(outside.fd(), 0), 0);
      if (!after.empty()) {
        ASSERT_EQ(outside.write(outside.fd(), after, 0), static_cast<std::int64_t>(after.size()));
      }
    };
    for (const Mode mode : {kShared, kExclusive}) {
      SCOPED_TRACE(name_of(mode));
      {
        // The outsider has come and gone before the request.
        const std::string name = new_file(before);
        Locker inside(in_mount(name));
        Locker outside(in_source(name));
        fill_caches(inside, before);
        ASSERT_EQ(outside.try_lock(kPosix, kExclusive), 0);
        change(outside);
        ASSERT_EQ(outside.unlock(kPosix), 0);
        ASSERT_EQ(inside.try_lock(kind(), mode), 0);
        expect_current(inside, name);
      }
      {
        // The request waits for the outsider.
        const std::string name = new_file(before);
        Locker inside(in_mount(name));
        Locker outside(in_source(name));
        fill_caches(inside, before);
        ASSERT_EQ(outside.try_lock(kOfd, kExclusive), 0);
        inside.start_lock(kind(), mode);
        ASSERT_TRUE(inside.waits());
        change(outside);
        ASSERT_EQ(outside.unlock(kOfd), 0);
        ASSERT_EQ(inside.result(), 0);
        expect_current(inside, name);
      }
    }
  }

  static void run_all() {
    if (plain_mode() && kind() == kFlock) GTEST_SKIP() << "a plain flock waits for no OFD lock";
    run("short", "something longer");
    run("something longer", "short");
    run("same size", "SAME SIZE");
    run("", "no longer empty");
    run("gone soon", "");
    run(std::string(9000, 'a'), std::string(9000, 'b'));
  }

  /// What an outsider appended under his lock can be used through a mapping, by whoever is granted
  /// the lock next, without asking for the size.
  static void use_mappings() {
    constexpr std::size_t kPage = 4096;
    for (const std::size_t grown : {kPage + 1, 2 * kPage, 3 * kPage - 1}) {
      for (const int how : {O_RDWR, O_RDONLY}) {
        SCOPED_TRACE(std::to_string(grown) + (how == O_RDWR ? " by a writer" : " by a reader"));
        const std::string name = new_file(std::string(kPage, 'a'));
        Locker outside(in_source(name));
        Locker inside(in_mount(name), how | O_CLOEXEC);
        const UniqueFd fd(::open(in_mount(name).c_str(), O_RDONLY | O_CLOEXEC));
        void* const at = ::mmap(nullptr, 3 * kPage, PROT_READ, MAP_SHARED, fd.get(), 0);
        ASSERT_NE(at, MAP_FAILED);
        const volatile char* const data = static_cast<const char*>(at);
        EXPECT_EQ(data[0], 'a');
        ASSERT_EQ(outside.try_lock(kPosix, kExclusive), 0);
        ASSERT_EQ(outside.truncate(outside.fd(), static_cast<std::int64_t>(grown) - 1), 0);
        ASSERT_EQ(outside.write(outside.fd(), "b", static_cast<std::int64_t>(grown) - 1), 1);
        ASSERT_EQ(outside.unlock(kPosix), 0);
        ASSERT_EQ(inside.try_lock(kind(), kShared), 0);
        const pid_t child = ::fork();
        if (child == 0) ::_exit(data[grown - 1] == 'b' && data[kPage] != 'a' ? 0 : 1);
        int status = 0;
        ASSERT_EQ(::waitpid(child, &status, 0), child);
        EXPECT_TRUE(WIFEXITED(status)) << "signal " << WTERMSIG(status);
        EXPECT_EQ(WEXITSTATUS(status), 0);
        ::munmap(at, 3 * kPage);
      }
    }
  }

  /// Rounds in which both sides take turns to append under their locks.
  static void take_turns() {
    const std::string name = new_file();
    Locker inside(in_mount(name));
    Locker outside(in_source(name));
    std::string expected;
    for (int round = 0; round < scaled(100, 20); ++round) {
      Locker& writer = round % 2 == 0 ? outside : inside;
      const Kind writer_kind = round % 2 == 0 ? kPosix : kind();
      ASSERT_EQ(writer.lock(writer_kind, kExclusive), 0);
      ASSERT_EQ(writer.fstat(writer.fd()).st_size, static_cast<off_t>(expected.size()));
      ASSERT_EQ(writer.read(writer.fd(), 10000, 0), expected);
      const std::string line = "round " + std::to_string(round) + "\n";
      ASSERT_EQ(writer.write(writer.fd(), line, static_cast<std::int64_t>(expected.size())),
                static_cast<std::int64_t>(line.size()));
      expected += line;
      ASSERT_EQ(writer.unlock(writer_kind), 0);
    }
    EXPECT_EQ(read_file(in_source(name)), expected);
  }

  /// A write that the file's times don't tell: kernels before 6.13 let them stand still for some
  /// milliseconds.
  static void write_unnoticed(Locker& writer, const std::string& name, const std::string& text,
                              std::int64_t offset) {
    ASSERT_EQ(writer.write(writer.fd(), text, offset), static_cast<std::int64_t>(text.size()));
    const timespec times[2] = {{1000000000, 0}, {1000000000, 0}};
    ASSERT_EQ(::utimensat(AT_FDCWD, in_source(name).c_str(), times, 0), 0);
  }

  /// Pages that were written and never read lie in the kernel's cache, too.
  static void replace_what_was_written() {
    const std::string name = new_file();
    Locker inside(in_mount(name));
    Locker outside(in_source(name));
    for (char round = 'a'; round < 'f'; ++round) {
      const std::string mine(3 * 4096, round);
      const std::string theirs(3 * 4096, static_cast<char>(round - 'a' + 'A'));
      ASSERT_EQ(inside.lock(kind(), kExclusive), 0);
      write_unnoticed(inside, name, mine, 0);
      inside.fstat(inside.fd());
      ASSERT_EQ(inside.unlock(kind()), 0);
      ASSERT_EQ(outside.lock(kPosix, kExclusive), 0);
      write_unnoticed(outside, name, theirs, 0);
      ASSERT_EQ(outside.unlock(kPosix), 0);
      ASSERT_EQ(inside.lock(kind(), kShared), 0);
      ASSERT_EQ(inside.read(inside.fd(), 3 * 4096, 0), theirs);
      ASSERT_EQ(inside.unlock(kind()), 0);
    }
  }

  /// Two local programs and an outsider write and read pages at random, each under its lock; every
  /// page that is read is as it was written last.
  static void write_and_read_pages() {
    constexpr int kPages = 4;
    const std::string name = new_file(std::string(kPages * 4096, '0'));
    std::string expected = read_file(in_source(name));
    Locker first(in_mount(name));
    Locker second(in_mount(name));
    Locker outside(in_source(name));
    std::mt19937 engine(static_cast<unsigned>(kind()));
    const auto below = [&engine](unsigned limit) { return static_cast<int>(engine() % limit); };
    for (int round = 0; round < scaled(3000, 300); ++round) {
      const int who = below(3);
      Locker& locker = who == 0 ? first : who == 1 ? second : outside;
      const Kind mine = who == 2 ? kPosix : kind();
      ASSERT_EQ(locker.lock(mine, kExclusive), 0);
      for (int step = 1 + below(3); step > 0; --step) {
        const int page = below(kPages);
        // A whole page, or a part that begins or ends in the middle of it.
        const int offset = page * 4096 + below(2) * 100;
        const auto size = static_cast<std::size_t>((page + 1) * 4096 - offset - below(2) * 50);
        if (below(2) == 0) {
          const std::string text(size, static_cast<char>('a' + below(26)));
          write_unnoticed(locker, name, text, offset);
          expected.replace(static_cast<std::size_t>(offset), size, text);
        } else {
          ASSERT_EQ(locker.read(locker.fd(), size, offset),
                    expected.substr(static_cast<std::size_t>(offset), size))
              << "round " << round;
        }
      }
      if (who != 2) locker.fstat(locker.fd());
      ASSERT_EQ(locker.unlock(mine), 0);
    }
  }
};

TEST_P(CoherenceTest, GrantShowsWhatReplacedOwnWrites) { replace_what_was_written(); }
TEST_P(CoherenceTest, PagesAreWhatWasWrittenLast) { write_and_read_pages(); }
TEST_P(CoherenceTest, GrantShowsWhatAnOutsiderLeft) { run_all(); }
TEST_P(CoherenceTest, BothSidesTakeTurns) { take_turns(); }

TEST_P(CoherenceTest, MappingsGrowWithTheFile) { use_mappings(); }

TEST_P(CoherenceTest, GrantShowsChangedTimesAndMode) {
  const std::string name = new_file("text");
  Locker inside(in_mount(name));
  Locker outside(in_source(name));
  fill_caches(inside, "text");
  ASSERT_EQ(outside.try_lock(kPosix, kExclusive), 0);
  const timespec times[2] = {{1000000000, 1}, {1100000000, 123456789}};
  ASSERT_EQ(::utimensat(AT_FDCWD, in_source(name).c_str(), times, 0), 0);
  ASSERT_EQ(::chmod(in_source(name).c_str(), 0600), 0);
  ASSERT_EQ(outside.unlock(kPosix), 0);
  ASSERT_EQ(inside.lock(kind(), kShared), 0);
  const struct stat seen = inside.fstat(inside.fd());
  EXPECT_EQ(seen.st_mtim.tv_sec, 1100000000);
  EXPECT_EQ(seen.st_mtim.tv_nsec, 123456789);
  EXPECT_EQ(seen.st_mode & 07777U, 0600U);
}

/// A lock that needed no new lock on the source is a grant like any other.
TEST_P(CoherenceTest, SecondLocalHolderSeesItToo) {
  const std::string name = new_file("text");
  Locker first(in_mount(name));
  Locker second(in_mount(name));
  ASSERT_EQ(first.try_lock(kOfd, kShared), 0);
  fill_caches(second, "text");
  // Written without a lock of its own, by somebody who knows of a lock elsewhere.
  ASSERT_TRUE(write_file(in_source(name), "longer text"));
  ASSERT_EQ(second.try_lock(kind(), kShared), 0);
  expect_current(second, name);
}

/// Nothing is cached for a second after a grant.
TEST_P(CoherenceTest, NothingIsBelievedSoonAfterAGrant) {
  const std::string name = new_file();
  Locker inside(in_mount(name));
  std::chrono::steady_clock::duration taken{};
  do {
    ASSERT_TRUE(write_file(in_source(name), "text"));
    const auto begin = std::chrono::steady_clock::now();
    ASSERT_EQ(inside.try_lock(kind(), kShared), 0);
    ASSERT_EQ(inside.unlock(kind()), 0);
    ASSERT_EQ(inside.fstat(inside.fd()).st_size, 4);
    ASSERT_TRUE(write_file(in_source(name), "longer text"));
    const off_t size = inside.fstat(inside.fd()).st_size;
    taken = std::chrono::steady_clock::now() - begin;
    if (taken < std::chrono::milliseconds(900)) {
      EXPECT_EQ(size, 11);
    }
  } while (taken >= std::chrono::milliseconds(900));
}

class FallbackCoherenceTest : public CoherenceTest {
 public:
  static void SetUpTestSuite() {
    start_suite({"attr_timeout=3600", "entry_timeout=3600", "passthrough=off"});
  }
};

TEST_P(FallbackCoherenceTest, GrantShowsWhatAnOutsiderLeft) { run_all(); }
TEST_P(FallbackCoherenceTest, BothSidesTakeTurns) { take_turns(); }
TEST_P(FallbackCoherenceTest, MappingsGrowWithTheFile) { use_mappings(); }
TEST_P(FallbackCoherenceTest, GrantShowsWhatReplacedOwnWrites) { replace_what_was_written(); }
TEST_P(FallbackCoherenceTest, PagesAreWhatWasWrittenLast) { write_and_read_pages(); }

/// Others look the name up all the while: what the daemon read for them before a grant must not be
/// what the kernel believes after it.
class LookupCoherenceTest : public SharedMountTest {
 public:
  static void SetUpTestSuite() { start_suite({"attr_timeout=3600", "entry_timeout=0"}); }
};

TEST_F(LookupCoherenceTest, WhatWasLookedUpBeforeIsNotBelievedAfter) {
  // A new file in each round: for a while after a grant nothing is cached anyway.
  const std::string base = new_file();
  std::atomic<int> round{0};
  const auto name = [&base](int number) { return base + std::to_string(number); };
  // They rest while the size is read: the kernel marks attributes as valid just before it stores
  // the size, so that fstat() may show the old one at the very moment another's look is taken over
  // (fuse_change_attributes_common()).
  constexpr int kLookers = 2;
  std::atomic<bool> ended{false};
  std::atomic<bool> pause{false};
  std::atomic<int> resting{0};
  std::vector<std::thread> lookers;
  lookers.reserve(kLookers);
  for (int i = 0; i < kLookers; ++i) {
    lookers.emplace_back([&] {
      struct stat seen {};
      while (!ended) {
        ::stat(in_mount(name(round)).c_str(), &seen);
        if (!pause) continue;
        ++resting;
        while (pause) std::this_thread::yield();
        --resting;
      }
    });
  }
  const int rounds = scaled(5000, 500);
  for (; round < rounds && !HasFailure(); ++round) {
    const std::string file = name(round);
    const UniqueFd outside(
        ::open(in_source(file).c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644));
    const UniqueFd inside(::open(in_mount(file).c_str(), O_RDWR | O_CLOEXEC));
    struct flock range {};
    const auto set = [&range](const UniqueFd& fd, int type) {
      range.l_type = static_cast<short>(type);
      return ::fcntl(fd.get(), F_OFD_SETLKW, &range);
    };
    EXPECT_EQ(set(outside, F_WRLCK), 0);
    EXPECT_EQ(::pwrite(outside.get(), "x", 1, round), 1);
    EXPECT_EQ(set(outside, F_UNLCK), 0);
    EXPECT_EQ(set(inside, F_RDLCK), 0);
    pause = true;
    while (resting != kLookers) std::this_thread::yield();
    struct stat seen {};
    EXPECT_EQ(::fstat(inside.get(), &seen), 0);
    EXPECT_EQ(seen.st_size, round + 1);
    pause = false;
    while (resting != 0) std::this_thread::yield();
    EXPECT_EQ(::unlink(in_source(file).c_str()), 0);
  }
  ended = true;
  for (std::thread& looker : lookers) looker.join();
}

/// The lookers do not rest: nothing that the kernel believes is taken over while the size is read.
TEST_F(LookupCoherenceTest, SizesAreTrueWhileOthersLook) {
  const std::string name = new_file();
  std::atomic<bool> ended{false};
  std::thread looker([&] {
    struct stat seen {};
    while (!ended) ::stat(in_mount(name).c_str(), &seen);
  });
  Locker inside(in_mount(name));
  Locker outside(in_source(name));
  const int rounds = scaled(20'000, 1000);
  for (off_t size = 1; size <= rounds && !HasFailure(); ++size) {
    EXPECT_EQ(outside.lock(kPosix, kExclusive), 0);
    EXPECT_EQ(outside.write(outside.fd(), "x", size - 1), 1);
    EXPECT_EQ(outside.unlock(kPosix), 0);
    EXPECT_EQ(inside.lock(kOfd, kShared), 0);
    EXPECT_EQ(inside.fstat(inside.fd()).st_size, size);
    EXPECT_EQ(inside.unlock(kOfd), 0);
  }
  ended = true;
  looker.join();
}

INSTANTIATE_TEST_SUITE_P(Every, CoherenceTest, ::testing::Values(kFlock, kPosix, kOfd), kind_name);
INSTANTIATE_TEST_SUITE_P(Every, FallbackCoherenceTest, ::testing::Values(kFlock, kPosix, kOfd),
                         kind_name);

}  // namespace
}  // namespace lockfs::test
