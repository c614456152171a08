/// Policy "linux": random requests of all kinds, flock included, step by step the same on the mount
/// and on a plain file of the kernel's own, and compared with a model. After each step the source
/// carries what is granted: record locks as record locks, flocks as a flock.
///
/// LOCKFS_TEST_SEED repeats a run; the seed of every run is printed.

#include <signal.h>

#include <cstdio>
#include <memory>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include "tests/mounted/locks/lock_model.h"
#include "tests/mounted/locks/lock_test.h"

namespace lockfs::test {
namespace {

constexpr int kProcesses = 4;
constexpr int kFiles = 2;

/// A process on the mount and its twin on the plain file.
struct Pair {
  Pair(const std::string& mounted, const std::string& plain) {
    for (int i = 0; i < kFiles; ++i) {
      one.push_back(on_mount.open(mounted, O_RDWR));
      two.push_back(on_plain.open(plain, O_RDWR));
    }
  }
  Actor on_mount;
  Actor on_plain;
  std::vector<int> one;
  std::vector<int> two;
};

class SeparateTest : public SharedMountTest {
 public:
  static void SetUpTestSuite() { start_suite({"policy=linux"}); }
};

TEST_F(SeparateTest, AnswersAsTheKernelDoesFlockIncluded) {
  LOCKFS_NOT_PLAIN();
  const std::string name = new_file();
  const std::string plain = fs().scratch() + "/plain-" + name;
  ASSERT_TRUE(write_file(plain, ""));
  Dice dice(seed_of_run());
  Model model(true);
  std::vector<std::unique_ptr<Pair>> pairs;
  for (int i = 0; i < kProcesses; ++i) {
    pairs.push_back(std::make_unique<Pair>(in_mount(name), plain));
  }
  Locker outsider(in_source(name));

  struct Waiting {
    int process;
    OwnerKey owner;
    Mode mode;
    Range range;
  };
  std::optional<Waiting> waiting;
  int conflicts = 0;
  int waits = 0;
  int conversions = 0;
  const int steps = scaled(10000, 500);
  for (int step = 0; step < steps; ++step) {
    const int process = dice.below(kProcesses);
    if (waiting && waiting->process == process) continue;
    Pair& pair = *pairs[static_cast<std::size_t>(process)];
    const auto file = static_cast<std::size_t>(dice.below(kFiles));
    const int pick = dice.below(100);
    const Kind kind = pick < 50 ? kFlock : pick < 75 ? kPosix : kOfd;
    const OwnerKey owner{process, kind == kPosix ? kNoFile : static_cast<int>(file), kind};
    const Mode mode = dice.mode();
    const Range range = kind == kFlock ? kWholeFile : dice.range();
    const int one = pair.one[file];
    const int two = pair.two[file];
    const int action = dice.below(100);
    std::ostringstream what;
    what << "step " << step << ", process " << process << ", file " << file << ", " << kind << ", "
         << mode << " " << range << ", action " << action;
    SCOPED_TRACE(what.str());
    // A conversion of a flock that cannot be had costs the old one.
    const auto refuse = [&] {
      if (kind != kFlock) return;
      model.set(owner, kWholeFile, Cell::kFree);
      ++conversions;
    };

    if (action < 50) {
      const bool refused = model.conflicts(owner, mode, range);
      const int expected = refused ? EAGAIN : 0;
      ASSERT_EQ(pair.on_plain.try_lock(two, kind, mode, range), expected);
      ASSERT_EQ(pair.on_mount.try_lock(one, kind, mode, range), expected);
      if (refused) {
        ++conflicts;
        refuse();
      } else {
        model.set(owner, range, cell_of(mode));
      }
    } else if (action < 75) {
      ASSERT_EQ(pair.on_plain.unlock(two, kind, range), 0);
      ASSERT_EQ(pair.on_mount.unlock(one, kind, range), 0);
      model.set(owner, range, Cell::kFree);
    } else if (action < 87) {
      // With one waiter there is no race among those who are woken.
      if (waiting) continue;
      const bool blocks = model.conflicts(owner, mode, range);
      pair.on_plain.start_lock(two, kind, mode, range);
      pair.on_mount.start_lock(one, kind, mode, range);
      if (blocks) {
        ASSERT_TRUE(pair.on_plain.waits());
        ASSERT_TRUE(pair.on_mount.waits());
        refuse();
        waiting = Waiting{process, owner, mode, range};
        ++waits;
      } else {
        ASSERT_EQ(pair.on_plain.result(), 0);
        ASSERT_EQ(pair.on_mount.result(), 0);
        model.set(owner, range, cell_of(mode));
      }
    } else if (action < 98) {
      ASSERT_EQ(pair.on_plain.close(two), 0);
      ASSERT_EQ(pair.on_mount.close(one), 0);
      model.drop_if([&](const OwnerKey& key) {
        return key.process == process && (key.kind == kPosix || key.file == static_cast<int>(file));
      });
      pair.two[file] = pair.on_plain.open(plain, O_RDWR);
      pair.one[file] = pair.on_mount.open(in_mount(name), O_RDWR);
    } else {
      pair.on_plain.kill(SIGKILL);
      pair.on_mount.kill(SIGKILL);
      ASSERT_EQ(pair.on_plain.wait(), 128 + SIGKILL);
      ASSERT_EQ(pair.on_mount.wait(), 128 + SIGKILL);
      model.drop_if([&](const OwnerKey& key) { return key.process == process; });
      pairs[static_cast<std::size_t>(process)] = std::make_unique<Pair>(in_mount(name), plain);
    }
    fs().settle(name);

    if (waiting && !model.conflicts(waiting->owner, waiting->mode, waiting->range)) {
      Pair& other = *pairs[static_cast<std::size_t>(waiting->process)];
      ASSERT_EQ(other.on_plain.result(), 0);
      ASSERT_EQ(other.on_mount.result(), 0);
      model.set(waiting->owner, waiting->range, cell_of(waiting->mode));
      waiting.reset();
    }

    const auto records = model.union_of([](const OwnerKey& key) { return key.kind != kFlock; });
    ASSERT_EQ(locks_held_by(fs().pid(), in_source(name)), records);
    // What a flock straight on the source meets.
    const OwnerKey stranger{kProcesses, 0, kFlock};
    for (const Mode probe : {kShared, kExclusive}) {
      const bool refused = model.conflicts(stranger, probe, kWholeFile);
      ASSERT_EQ(outsider.try_lock(kFlock, probe), refused ? EAGAIN : 0) << probe;
      ASSERT_EQ(outsider.unlock(kFlock), 0);
    }
  }
  std::printf("%d steps, %d refused, %d waited, %d flocks not had\n", steps, conflicts, waits,
              conversions);
  EXPECT_GT(conflicts, steps / 50);
  EXPECT_GT(waits, 0);
  EXPECT_GT(conversions, 0);
}

TEST_F(SeparateTest, AWaitForAFlockOnTheSourceEndsWithIt) {
  LOCKFS_NOT_PLAIN();
  const std::string name = new_file();
  Locker outsider(in_source(name));
  Locker one(in_mount(name));
  for (const Mode mode : {kShared, kExclusive}) {
    ASSERT_EQ(outsider.try_lock(kFlock, kExclusive), 0);
    one.start_lock(kFlock, mode);
    ASSERT_TRUE(one.waits());
    ASSERT_EQ(outsider.unlock(kFlock), 0);
    ASSERT_EQ(one.result(), 0);
    EXPECT_EQ(outsider.try_lock(kFlock, kExclusive), EAGAIN);
    ASSERT_EQ(one.unlock(kFlock), 0);
  }
}

TEST_F(SeparateTest, AWaitForAFlockOnTheSourceCanBeInterrupted) {
  LOCKFS_NOT_PLAIN();
  const std::string name = new_file();
  Locker outsider(in_source(name));
  ASSERT_EQ(outsider.try_lock(kFlock, kExclusive), 0);
  for (int i = 0; i < scaled(100, 10); ++i) {
    Locker one(in_mount(name));
    ASSERT_EQ(one.handle_signal(SIGUSR1), 0);
    one.start_lock(kFlock, kExclusive);
    ASSERT_TRUE(one.waits());
    ASSERT_EQ(one.interrupt(SIGUSR1), 0);
    ASSERT_EQ(one.result(), EINTR);
  }
  ASSERT_EQ(outsider.unlock(kFlock), 0);
  fs().settle(name);
  EXPECT_TRUE(eventually([&] { return outsider.try_lock(kFlock, kExclusive) == 0; }))
      << "an interrupted wait left its flock behind";
}

TEST_F(SeparateTest, AnNfsClientsLockAndAFlockAreBothGranted) {
  LOCKFS_NOT_PLAIN();
  const std::string name = new_file();
  Locker client(in_source(name));
  Locker one(in_mount(name));
  ASSERT_EQ(client.try_lock(kPosix, kExclusive), 0);
  EXPECT_EQ(one.try_lock(kFlock, kExclusive), 0);
  EXPECT_EQ(one.try_lock(kPosix, kShared), EAGAIN);
}

/// With conversion=keep a shared flock stays at the source while its owner waits to upgrade.
TEST(SeparateKeepTest, AWaitingUpgradeKeepsTheFlockOnTheSource) {
  LOCKFS_NOT_PLAIN();
  Mount mount;
  ASSERT_EQ(mount.start({"policy=linux,conversion=keep"}), "");
  ASSERT_TRUE(write_file(mount.in_source("file"), ""));
  {
    Locker outsider(mount.in_source("file"));
    Locker writer(mount.in_source("file"));
    Locker one(mount.in_mount("file"));
    ASSERT_EQ(one.try_lock(kFlock, kShared), 0);
    ASSERT_EQ(outsider.try_lock(kFlock, kShared), 0);
    EXPECT_EQ(one.try_lock(kFlock, kExclusive), EAGAIN);
    one.start_lock(kFlock, kExclusive);
    ASSERT_TRUE(one.waits());
    EXPECT_EQ(writer.try_lock(kFlock, kExclusive), EAGAIN);
    ASSERT_EQ(outsider.unlock(kFlock), 0);
    EXPECT_EQ(one.result(), 0);
    EXPECT_EQ(writer.try_lock(kFlock, kShared), EAGAIN);
  }
  EXPECT_EQ(mount.stop(), "");
}

}  // namespace
}  // namespace lockfs::test
