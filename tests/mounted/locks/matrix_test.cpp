/// Who conflicts with whom: every holder against every requester, trying, asking and waiting.
///
/// The expected outcome is written down here from the rules, apart from any code of lockfs: two
/// requests of different owners conflict when their ranges overlap and one is exclusive, whatever
/// call made them and wherever they were made; only flock() straight on the source is not seen.

#include <cctype>
#include <tuple>

#include "tests/mounted/locks/lock_test.h"

namespace lockfs::test {
namespace {

enum class Place { kMount, kSource };

/// A kind of lock and where it is taken.
struct Party {
  Kind kind;
  Place place;
};

constexpr Party kParties[] = {{kFlock, Place::kMount},
                              {kPosix, Place::kMount},
                              {kOfd, Place::kMount},
                              {kPosix, Place::kSource},
                              {kOfd, Place::kSource}};

std::string name_of(const Party& party) {
  return std::string(test::name_of(party.kind)) +
         (party.place == Place::kMount ? "InMount" : "OnSource");
}

/// Ranges a holder of bytes 100..199 and a requester are tried with.
struct Ranges {
  const char* relation;
  Range held;
  Range wanted;
};
constexpr Ranges kRanges[] = {
    {"the same bytes", {100, 100}, {100, 100}},
    {"inside", {100, 100}, {120, 20}},
    {"around", {100, 100}, {50, 250}},
    {"over the left end", {100, 100}, {50, 51}},
    {"over the right end", {100, 100}, {199, 51}},
    {"touching on the left", {100, 100}, {50, 50}},
    {"touching on the right", {100, 100}, {200, 50}},
    {"far away", {100, 100}, {100000, 10}},
    {"everything against some bytes", {100, 100}, {0, 0}},
    {"some bytes against everything", {0, 0}, {100, 100}},
    {"everything against everything", {0, 0}, {0, 0}},
    {"before a tail", {200, 0}, {0, 200}},
    {"the last byte of all", {kEof, 1}, {kEof, 0}},
    {"a tail against its first byte", {200, 0}, {200, 1}},
};

Range range_of(const Party& party, Range range) {
  return party.kind == kFlock ? kWholeFile : range;
}

bool overlap(Range a, Range b) {
  const auto end = [](Range r) { return r.length == 0 ? kEof : r.start + (r.length - 1); };
  return a.start <= end(b) && b.start <= end(a);
}

bool conflict(const Party& holder, Mode held, Range held_range, const Party& requester, Mode wanted,
              Range wanted_range) {
  if (held == kShared && wanted == kShared) return false;
  if (plain_mode() && (holder.kind == kFlock) != (requester.kind == kFlock)) return false;
  return overlap(range_of(holder, held_range), range_of(requester, wanted_range));
}

/// The l_pid a query shows for a holder in another process.
pid_t pid_shown(const Party& holder, pid_t holder_pid, const Party& requester) {
  if (plain_mode()) return holder.kind == kOfd ? -1 : holder_pid;
  if (requester.kind == kOfd) return -1;
  if (requester.place == Place::kSource) return -1;  // it sees the daemon's OFD lock
  if (holder.kind == kOfd) return 0;
  return holder_pid;
}

using Cell = std::tuple<Party, Mode, Party, Mode>;

class MatrixTest : public SharedMountTest, public ::testing::WithParamInterface<Cell> {};

std::string cell_name(const ::testing::TestParamInfo<Cell>& info) {
  const auto& [holder, held, requester, wanted] = info.param;
  return std::string(test::name_of(held)) + name_of(holder) + "_against_" + test::name_of(wanted) +
         name_of(requester);
}

TEST_P(MatrixTest, TryQueryAndWait) {
  const auto& [holder, held, requester, wanted] = GetParam();
  const std::string name = new_file();
  const auto path = [&](const Party& party) {
    return party.place == Place::kMount ? in_mount(name) : in_source(name);
  };
  Locker first(path(holder));
  Locker second(path(requester));

  for (const Ranges& ranges : kRanges) {
    const bool fixed = holder.kind == kFlock && requester.kind == kFlock;
    if (fixed && &ranges != &kRanges[0]) break;
    SCOPED_TRACE(std::string("requester ") + ranges.relation);
    const bool refused = conflict(holder, held, ranges.held, requester, wanted, ranges.wanted);
    ASSERT_EQ(first.try_lock(holder.kind, held, ranges.held), 0);

    EXPECT_EQ(second.try_lock(requester.kind, wanted, ranges.wanted), refused ? EAGAIN : 0);
    if (!refused) {
      EXPECT_EQ(second.unlock(requester.kind, ranges.wanted), 0);
    }

    if (requester.kind != kFlock && !(plain_mode() && holder.kind == kFlock)) {
      const QueryResult answer = second.query(requester.kind, wanted, ranges.wanted);
      EXPECT_EQ(answer.error, 0);
      EXPECT_EQ(answer.free, !refused) << answer;
      if (refused && !answer.free) {
        const Range shown = range_of(holder, ranges.held);
        // A length up to the last byte of all is shown as 0.
        const Range expected = shown.length != 0 && shown.start + (shown.length - 1) == kEof
                                   ? Range{shown.start, 0}
                                   : shown;
        EXPECT_EQ(answer.mode, held);
        EXPECT_EQ(answer.range.start, expected.start);
        EXPECT_EQ(answer.range.length, expected.length);
        EXPECT_EQ(answer.pid, pid_shown(holder, first.pid(), requester));
      }
    }

    if (refused) {
      second.start_lock(requester.kind, wanted, ranges.wanted);
      ASSERT_TRUE(second.waits());
      EXPECT_EQ(first.unlock(holder.kind, ranges.held), 0);
      EXPECT_EQ(second.result(), 0);
      // Now the other way round: the former waiter really holds it.
      EXPECT_EQ(first.try_lock(holder.kind, held, ranges.held), EAGAIN);
    } else {
      EXPECT_EQ(second.lock(requester.kind, wanted, ranges.wanted), 0);
      EXPECT_EQ(first.unlock(holder.kind, ranges.held), 0);
    }
    EXPECT_EQ(second.unlock(requester.kind, ranges.wanted), 0);
  }
  EXPECT_EQ(first.close(), 0);
  EXPECT_EQ(second.close(), 0);
  fs().settle(name);
  EXPECT_TRUE(mirror_is(fs().pid(), in_source(name), {}));
}

/// Two parties on the source are the kernel's own business.
std::vector<Cell> cells() {
  std::vector<Cell> all;
  for (const Party& holder : kParties) {
    for (const Party& requester : kParties) {
      if (holder.place == Place::kSource && requester.place == Place::kSource) continue;
      for (const Mode held : {kShared, kExclusive}) {
        for (const Mode wanted : {kShared, kExclusive}) {
          all.emplace_back(holder, held, requester, wanted);
        }
      }
    }
  }
  return all;
}

INSTANTIATE_TEST_SUITE_P(Every, MatrixTest, ::testing::ValuesIn(cells()), cell_name);

// -- within one process
// -----------------------------------------------------------------------------

/// Kind held, kind requested, and whether both go through one open file or through two.
using OwnCell = std::tuple<Kind, Kind, bool>;

class OneProcessTest : public SharedMountTest, public ::testing::WithParamInterface<OwnCell> {
 protected:
  /// Whether the two requests have one owner, or two that an NFS client shows its server as one.
  static bool same_owner(Kind held, Kind wanted, bool same_open_file) {
    if (held == kPosix || wanted == kPosix) return held == wanted;
    return same_open_file;
  }
};

TEST_P(OneProcessTest, Conflict) {
  const auto [held, wanted, same_open_file] = GetParam();
  if (plain_mode() && (held == kFlock) != (wanted == kFlock)) {
    GTEST_SKIP() << "plain Linux lets them pass each other";
  }
  const std::string name = new_file();
  Locker process(in_mount(name));
  const int one = process.fd();
  const int two = same_open_file ? one : process.open(in_mount(name), O_RDWR);
  ASSERT_GE(two, 0);
  ASSERT_EQ(process.try_lock(one, held, kExclusive), 0);
  const bool own = same_owner(held, wanted, same_open_file);
  EXPECT_EQ(process.try_lock(two, wanted, kExclusive), own ? 0 : EAGAIN);
  EXPECT_EQ(process.try_lock(two, wanted, kShared), own ? 0 : EAGAIN);
}

TEST_P(OneProcessTest, UnlockDropsOnlyItsOwnKind) {
  const auto [held, wanted, same_open_file] = GetParam();
  if (held == wanted) return;
  const std::string name = new_file();
  Watcher watcher(fs(), name);
  Locker process(in_mount(name));
  const int one = process.fd();
  const int two = same_open_file ? one : process.open(in_mount(name), O_RDWR);
  ASSERT_EQ(process.try_lock(one, held, kShared), 0);
  ASSERT_EQ(process.try_lock(two, wanted, kShared), 0);
  LOCKFS_NOT_PLAIN();
  EXPECT_TRUE(watcher.share_locked());
  EXPECT_EQ(process.unlock(two, wanted), 0);
  EXPECT_TRUE(watcher.share_locked());
  EXPECT_EQ(process.unlock(two, wanted), 0);  // nothing there any more
  EXPECT_TRUE(watcher.share_locked());
  EXPECT_TRUE(mirror_is(fs().pid(), in_source(name), {shared_bytes(0)}));
  EXPECT_EQ(process.unlock(one, held), 0);
  EXPECT_TRUE(watcher.is_free());
  EXPECT_TRUE(mirror_is(fs().pid(), in_source(name), {}));
}

INSTANTIATE_TEST_SUITE_P(Every, OneProcessTest,
                         ::testing::Combine(::testing::Values(kFlock, kPosix, kOfd),
                                            ::testing::Values(kFlock, kPosix, kOfd),
                                            ::testing::Bool()),
                         [](const ::testing::TestParamInfo<OwnCell>& test) {
                           return std::string(name_of(std::get<0>(test.param))) + "Then" +
                                  name_of(std::get<1>(test.param)) +
                                  (std::get<2>(test.param) ? "SameFile" : "OtherFile");
                         });

// -- what stays outside
// -----------------------------------------------------------------------------

class BypassTest : public SharedMountTest {};

/// flock() straight on the source is a lock of another sort to the kernel: it meets neither the
/// flocks of the mount nor their mirror. Programs that bypass the mount must use fcntl locks.
TEST_F(BypassTest, FlockOnTheSourceIsNotSeen) {
  LOCKFS_NOT_PLAIN();
  const std::string name = new_file();
  Locker inside(in_mount(name));
  Locker outside(in_source(name));
  ASSERT_EQ(inside.try_lock(kFlock, kExclusive), 0);
  EXPECT_EQ(outside.try_lock(kFlock, kExclusive), 0);
  EXPECT_EQ(inside.unlock(kFlock), 0);
  EXPECT_EQ(inside.try_lock(kPosix, kExclusive), 0);
  EXPECT_EQ(outside.unlock(kFlock), 0);
  EXPECT_EQ(outside.try_lock(kFlock, kExclusive), 0);
}

// -- descriptors not open for it
// --------------------------------------------------------------------

struct AccessCase {
  int flags;
  Mode mode;
  bool enough;
};

class AccessModeTest : public SharedMountTest, public ::testing::WithParamInterface<Kind> {};

TEST_P(AccessModeTest, LockNeedsTheMatchingOpenMode) {
  if (plain_mode() && GetParam() == kFlock) GTEST_SKIP() << "plain flock() asks for no mode";
  const std::string name = new_file();
  const AccessCase cases[] = {{O_RDONLY, kShared, true},  {O_RDONLY, kExclusive, false},
                              {O_WRONLY, kShared, false}, {O_WRONLY, kExclusive, true},
                              {O_RDWR, kShared, true},    {O_RDWR, kExclusive, true}};
  for (const AccessCase& c : cases) {
    SCOPED_TRACE(std::to_string(c.flags) + " " + name_of(c.mode));
    Locker process(in_mount(name), c.flags);
    EXPECT_EQ(process.try_lock(GetParam(), c.mode), c.enough ? 0 : EBADF);
    EXPECT_EQ(process.lock(GetParam(), c.mode), c.enough ? 0 : EBADF);
    EXPECT_EQ(process.unlock(GetParam()), 0);
  }
  fs().settle(name);
  EXPECT_TRUE(mirror_is(fs().pid(), in_source(name), {}));
}

INSTANTIATE_TEST_SUITE_P(Every, AccessModeTest, ::testing::Values(kFlock, kPosix, kOfd), kind_name);

}  // namespace
}  // namespace lockfs::test
