/// Random requests by several processes, step by step the same on the mount and on a plain file,
/// and compared with a model: a map of bytes for every owner. After each step the daemon must hold
/// on the backing file exactly the union of the mount's locks.
///
/// LOCKFS_TEST_SEED repeats a run; the seed of every run is printed.

#include <signal.h>

#include <algorithm>
#include <array>
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

LockedRange shown_range(const QueryResult& answer) {
  return {answer.range.start,
          answer.range.length == 0 ? kEof : answer.range.start + answer.range.length - 1,
          answer.mode};
}

// -- mount against plain file
// -----------------------------------------------------------------------

constexpr int kProcesses = 4;
constexpr int kFiles = 2;

/// A process on the mount and its twin on the plain file.
struct Twin {
  explicit Twin(const std::string& mounted, const std::string& plain) {
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

class DifferentialTest : public SharedMountTest {};

TEST_F(DifferentialTest, SameAnswersAsAPlainFile) {
  const std::string name = new_file();
  const std::string plain = fs().scratch() + "/plain-" + name;
  ASSERT_TRUE(write_file(plain, ""));
  Dice dice(seed_of_run());
  Model model;
  std::vector<std::unique_ptr<Twin>> twins;
  for (int i = 0; i < kProcesses; ++i) {
    twins.push_back(std::make_unique<Twin>(in_mount(name), plain));
  }

  struct Waiting {
    int process;
    OwnerKey owner;
    Mode mode;
    Range range;
  };
  std::optional<Waiting> waiting;
  const int steps = scaled(20000, 500);
  int conflicts = 0;
  int waits = 0;
  for (int step = 0; step < steps; ++step) {
    std::ostringstream what;
    const int process = dice.below(kProcesses);
    const bool busy = waiting && waiting->process == process;
    if (busy && !dice.percent(5)) continue;
    Twin& twin = *twins[static_cast<std::size_t>(process)];
    const std::size_t file = static_cast<std::size_t>(dice.below(kFiles));
    const Kind kind = dice.percent(50) ? kPosix : kOfd;
    const OwnerKey owner{process, kind == kPosix ? kNoFile : static_cast<int>(file), kind};
    const Mode mode = dice.mode();
    const Range range = dice.range();
    const int one = twin.one[file];
    const int two = twin.two[file];
    const int action = busy ? 99 : dice.below(99);
    what << "step " << step << ", process " << process << ", file " << file << ", " << kind << ", "
         << mode << " " << range << ", action " << action;
    SCOPED_TRACE(what.str());

    if (action < 45) {
      const bool refused = model.conflicts(owner, mode, range);
      const int expected = refused ? EAGAIN : 0;
      conflicts += refused ? 1 : 0;
      ASSERT_EQ(twin.on_plain.try_lock(two, kind, mode, range), expected);
      ASSERT_EQ(twin.on_mount.try_lock(one, kind, mode, range), expected);
      if (!refused) model.set(owner, range, cell_of(mode));
    } else if (action < 65) {
      ASSERT_EQ(twin.on_plain.unlock(two, kind, range), 0);
      ASSERT_EQ(twin.on_mount.unlock(one, kind, range), 0);
      model.set(owner, range, Cell::kFree);
    } else if (action < 80) {
      const bool refused = model.conflicts(owner, mode, range);
      const QueryResult a = twin.on_plain.query(two, kind, mode, range);
      const QueryResult b = twin.on_mount.query(one, kind, mode, range);
      ASSERT_EQ(a.error, 0);
      ASSERT_EQ(b.error, 0);
      ASSERT_EQ(a.free, !refused) << a;
      ASSERT_EQ(b.free, !refused) << b;
      if (refused) {
        // Which of several is shown is open; that it is one of them is not.
        ASSERT_TRUE(model.find(owner, mode, range, shown_range(a))) << a;
        const auto holder = model.find(owner, mode, range, shown_range(b));
        ASSERT_TRUE(holder) << b;
        if (kind == kOfd && !plain_mode()) {
          ASSERT_EQ(b.pid, -1);
        }
      }
    } else if (action < 90) {
      const bool blocks = model.conflicts(owner, mode, range);
      // With one waiter there is no queue, whose order differs by design.
      if (waiting) continue;
      twin.on_plain.start_lock(two, kind, mode, range);
      twin.on_mount.start_lock(one, kind, mode, range);
      if (blocks) {
        ASSERT_TRUE(twin.on_plain.waits());
        ASSERT_TRUE(twin.on_mount.waits());
        waiting = Waiting{process, owner, mode, range};
        ++waits;
      } else {
        ASSERT_EQ(twin.on_plain.result(), 0);
        ASSERT_EQ(twin.on_mount.result(), 0);
        model.set(owner, range, cell_of(mode));
      }
    } else if (action < 97) {
      // Close and open again.
      ASSERT_EQ(twin.on_plain.close(two), 0);
      ASSERT_EQ(twin.on_mount.close(one), 0);
      model.drop_if([&](const OwnerKey& key) {
        return key.process == process && (key.kind == kPosix || key.file == static_cast<int>(file));
      });
      twin.two[file] = twin.on_plain.open(plain, O_RDWR);
      twin.one[file] = twin.on_mount.open(in_mount(name), O_RDWR);
      ASSERT_GE(twin.two[file], 0);
      ASSERT_GE(twin.one[file], 0);
    } else {
      // The process ends, waiting or not, and another takes its place.
      twin.on_plain.kill(SIGKILL);
      twin.on_mount.kill(SIGKILL);
      ASSERT_EQ(twin.on_plain.wait(), 128 + SIGKILL);
      ASSERT_EQ(twin.on_mount.wait(), 128 + SIGKILL);
      model.drop_if([&](const OwnerKey& key) { return key.process == process; });
      if (busy) waiting.reset();
      twins[static_cast<std::size_t>(process)] = std::make_unique<Twin>(in_mount(name), plain);
    }

    if (waiting && !model.conflicts(waiting->owner, waiting->mode, waiting->range)) {
      Twin& other = *twins[static_cast<std::size_t>(waiting->process)];
      ASSERT_EQ(other.on_plain.result(), 0);
      ASSERT_EQ(other.on_mount.result(), 0);
      model.set(waiting->owner, waiting->range, cell_of(waiting->mode));
      waiting.reset();
    }

    if (plain_mode()) {
      ASSERT_TRUE(mirror_is(0, in_source(name), model.all()));
    } else {
      fs().settle(name);  // a close is answered before the daemon has seen the open file's end
      const auto expected = model.union_of([](const OwnerKey&) { return true; });
      ASSERT_EQ(locks_held_by(fs().pid(), in_source(name)), expected);
      if (step % 10 == 0) {
        ASSERT_TRUE(mirror_is(fs().pid(), in_source(name), expected));
      }
    }
    if (step % 10 == 0) {
      ASSERT_TRUE(mirror_is(0, plain, model.all()));
    }
  }
  std::printf("%d steps, %d refused, %d waited\n", steps, conflicts, waits);
  EXPECT_GT(conflicts, steps / 50);
  EXPECT_GT(waits, 0);
  twins.clear();
  fs().settle(name);
  EXPECT_TRUE(mirror_is(fs().pid(), in_source(name), {}));
}

// -- all kinds, inside and outside, against the model
// ------------------------------------------------

TEST_F(DifferentialTest, AllKindsWithOutsidersAgainstTheModel) {
  LOCKFS_NOT_PLAIN();
  constexpr int kInside = 3;
  constexpr int kAll = 5;
  const std::string name = new_file();
  Dice dice(seed_of_run());
  Model model;
  struct Party {
    std::unique_ptr<Actor> process;
    std::vector<int> fds;
  };
  std::vector<Party> parties(kAll);
  const auto path_of = [&](int process) {
    return process < kInside ? in_mount(name) : in_source(name);
  };
  const auto begin = [&](int process) {
    Party& party = parties[static_cast<std::size_t>(process)];
    party.process = std::make_unique<Actor>();
    party.fds.clear();
    for (int i = 0; i < kFiles; ++i) {
      party.fds.push_back(party.process->open(path_of(process), O_RDWR));
    }
  };
  for (int i = 0; i < kAll; ++i) begin(i);
  const auto inside = [](const OwnerKey& key) { return key.process < kInside; };

  const int steps = scaled(20000, 500);
  std::array<int, 2> granted{};
  std::array<int, 2> refused_count{};
  for (int step = 0; step < steps; ++step) {
    const int process = dice.below(kAll);
    Party& party = parties[static_cast<std::size_t>(process)];
    const std::size_t file = static_cast<std::size_t>(dice.below(kFiles));
    const int pick = dice.below(process < kInside ? 100 : 80);
    const Kind kind = pick < 40 ? kPosix : pick < 80 ? kOfd : kFlock;
    const OwnerKey owner{process, kind == kPosix ? kNoFile : static_cast<int>(file), kind};
    const Mode mode = dice.mode();
    const Range range = kind == kFlock ? kWholeFile : dice.range();
    const int fd = party.fds[file];
    const int action = dice.below(100);
    std::ostringstream what;
    what << "step " << step << ", " << (process < kInside ? "inside" : "outside") << " process "
         << process << ", file " << file << ", " << kind << ", " << mode << " " << range
         << ", action " << action;
    SCOPED_TRACE(what.str());

    if (action < 50) {
      const bool refused = model.conflicts(owner, mode, range);
      // Granted blocking requests are answered like tries.
      const int got = !refused && dice.percent(30) ? party.process->lock(fd, kind, mode, range)
                                                   : party.process->try_lock(fd, kind, mode, range);
      ASSERT_EQ(got, refused ? EAGAIN : 0);
      if (!refused) model.set(owner, range, cell_of(mode));
      ++(refused ? refused_count : granted)[process < kInside ? 0 : 1];
    } else if (action < 75) {
      ASSERT_EQ(party.process->unlock(fd, kind, range), 0);
      model.set(owner, range, Cell::kFree);
    } else if (action < 87) {
      const Kind asked = kind == kFlock ? kPosix : kind;
      const OwnerKey asker{process, asked == kPosix ? kNoFile : static_cast<int>(file), asked};
      const QueryResult answer = party.process->query(fd, asked, mode, range);
      ASSERT_EQ(answer.error, 0);
      ASSERT_EQ(answer.free, !model.conflicts(asker, mode, range)) << answer;
      if (!answer.free && process < kInside) {
        const auto holder = model.find(asker, mode, range, shown_range(answer));
        ASSERT_TRUE(holder) << answer;
      }
    } else if (action < 97) {
      ASSERT_EQ(party.process->close(fd), 0);
      model.drop_if([&](const OwnerKey& key) {
        return key.process == process && (key.kind == kPosix || key.file == static_cast<int>(file));
      });
      party.fds[file] = party.process->open(path_of(process), O_RDWR);
    } else {
      if (dice.percent(50)) {
        ASSERT_EQ(party.process->exit(), 0);
      } else {
        party.process->kill(SIGKILL);
        ASSERT_EQ(party.process->wait(), 128 + SIGKILL);
      }
      model.drop_if([&](const OwnerKey& key) { return key.process == process; });
      begin(process);
    }
    fs().settle(name);
    ASSERT_EQ(locks_held_by(fs().pid(), in_source(name)), model.union_of(inside));
    if (step % 10 == 0) {
      std::vector<LockedRange> all = model.union_of(inside);
      for (int outside = kInside; outside < kAll; ++outside) {
        for (const int of : {kNoFile, 0, 1}) {
          const OwnerKey key{outside, of, of == kNoFile ? kPosix : kOfd};
          const auto theirs = model.union_of([&](const OwnerKey& k) { return k == key; });
          all.insert(all.end(), theirs.begin(), theirs.end());
        }
      }
      ASSERT_TRUE(mirror_is(0, in_source(name), all));
    }
  }
  std::printf("%d steps; inside %d granted, %d refused; outside %d granted, %d refused\n", steps,
              granted[0], refused_count[0], granted[1], refused_count[1]);
  EXPECT_GT(std::min({granted[0], refused_count[0], granted[1], refused_count[1]}), steps / 100);
  parties.clear();
  fs().settle(name);
  EXPECT_TRUE(mirror_is(fs().pid(), in_source(name), {}));
}

}  // namespace
}  // namespace lockfs::test
