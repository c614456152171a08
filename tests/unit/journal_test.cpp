// What is written down of granted locks, and what a process that comes after makes of it: after a
// death at every point between two calls of the journal, among them.
// ctest: timeout=300
#include "lockmgr/journal.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "lockmgr/file_locks.h"
#include "lockmgr/lock_manager.h"
#include "tests/unit/fake_backing.h"
#include "tests/unit/random.h"
#include "tests/unit/world.h"

namespace lockmgr {
namespace {

using namespace testing;  // NOLINT(google-build-using-namespace): the vocabulary of these tests

using Record = Journal::Record;

/// A change of what one owner holds.
struct Announced {
  OwnerId owner;
  Range range;
  Mode mode = Mode::kNone;
};

/// What outlives a process. Record n is the n-th entry, counted from 1.
struct Book {
  std::vector<std::optional<Journal::Entry>> records;
  std::optional<Announced> announced;

  std::size_t used() const {
    return static_cast<std::size_t>(
        std::count_if(records.begin(), records.end(), [](const auto& r) { return r.has_value(); }));
  }
  /// The records in use, with their names.
  std::vector<std::pair<Record, Journal::Entry>> entries() const {
    std::vector<std::pair<Record, Journal::Entry>> found;
    for (std::size_t i = 0; i < records.size(); ++i) {
      if (records[i]) found.emplace_back(static_cast<Record>(i + 1), *records[i]);
    }
    return found;
  }
};

std::string name_of(const OwnerId& id) {
  return std::string(to_string(id.type)) + std::to_string(id.cookie);
}

/// Writes into a Book, and holds the manager to the rules of journal.h.
class FakeJournal final : public Journal {
 public:
  explicit FakeJournal(Book& book) : book_(book) {}

  /// Called before each call takes effect.
  std::function<void()> before_call;
  /// No call of provide() succeeds.
  bool full = false;
  std::string calls;  ///< what was called, in short

  bool provide(unsigned records) noexcept override {
    EXPECT_GT(records, 0U);
    EXPECT_LE(records, 2U);
    if (full) return false;
    provided_ = std::max(provided_, records);
    return true;
  }
  void begin(const OwnerId& owner, const Range& range, Mode mode) noexcept override {
    note("begin " + name_of(owner) + " " + to_text({{range, mode}}));
    book_.announced = Announced{owner, range, mode};
  }
  Record add(const Entry& entry) noexcept override {
    note("add " + to_text({{entry.range, entry.mode}}));
    EXPECT_GT(provided_, 0U) << "a record that was not provided for";
    EXPECT_NE(entry.opened, 0U) << "a lock of no open file";
    --provided_;
    book_.records.emplace_back(entry);
    return static_cast<Record>(book_.records.size());
  }
  void shorten(Record record, Offset last) noexcept override {
    note("shorten " + describe(record) + "to " + std::to_string(last) + " ");
    Entry& entry = *book_.records.at(record - 1);
    EXPECT_LE(entry.range.first, last);
    EXPECT_LT(last, entry.range.last);
    entry.range.last = last;
  }
  void remove(Record record) noexcept override {
    note("remove " + describe(record));
    book_.records.at(record - 1).reset();
  }
  void end() noexcept override {
    note("end ");
    EXPECT_TRUE(book_.announced.has_value()) << "the end of no change";
    book_.announced.reset();
  }

 private:
  void note(const std::string& call) {
    if (before_call) before_call();
    calls += call;
  }
  std::string describe(Record record) const {
    const auto& entry = book_.records.at(record - 1);
    EXPECT_TRUE(entry.has_value()) << "a record that is gone";
    return entry ? to_text({{entry->range, entry->mode}}) : "";
  }

  Book& book_;
  unsigned provided_ = 0;
};

class NothingCarried final : public Backing::Carried {
 public:
  void for_each(const std::function<bool(const Range&, Mode)>&) const override {}
};

/// "" when the backing carries what is granted under `policy`, and nothing else.
std::string compare_carried(const FileLocks& file, FakeBacking& backing, const Policy& policy) {
  std::array<std::vector<LockView>, kSpaces.size()> granted;
  for (const LockView& lock : file.locks()) {
    granted[static_cast<std::size_t>(policy.space_of(lock.owner.type))].push_back(lock);
  }
  if (policy.guards() && !granted[0].empty()) {
    Mode strongest = Mode::kNone;
    for (const LockView& lock : granted[0]) strongest = std::max(strongest, lock.mode);
    granted[1].push_back({{}, {}, kWholeFile, strongest});
  }
  return backing.compare(granted[0]) + backing.flocks().compare(granted[1]);
}

/// A process that has one file, and a book that outlives it.
class Life {
 public:
  explicit Life(Book& book, const Policy& policy = {}, const Limits& limits = {})
      : manager(limits, policy, nullptr) {
    auto its_backing = std::make_unique<FakeBacking>();
    auto its_journal = std::make_unique<FakeJournal>(book);
    backing = its_backing.get();
    journal = its_journal.get();
    file = manager.open_file({1, 1}, std::move(its_backing), std::move(its_journal));
    // Each life begins a hundred seconds after the last one.
    static std::chrono::seconds begin{10'000};
    begin += std::chrono::seconds(100);
    manager.set_time(Clock::time_point(begin));
  }
  /// Ends in peace: all is closed.
  ~Life() {
    journal->before_call = nullptr;
    for (auto& [name, opened] : opened_) file->close(*opened);
    backing->deliver_all();
    backing->flocks().deliver_all();
    EXPECT_TRUE(file->quiet());
    EXPECT_EQ(manager.ledger().locks(), 0U);
    EXPECT_STREQ(manager.check(), nullptr);
  }
  Life(const Life&) = delete;
  Life& operator=(const Life&) = delete;

  Opened& opened(std::uint64_t name) {
    auto& slot = opened_[name];
    if (slot == nullptr) slot = std::make_unique<Opened>(true, true, name);
    return *slot;
  }
  static Request request(const OwnerId& owner, const Range& range, Mode mode, bool wait) {
    const auto pid = static_cast<pid_t>(owner.cookie % 1000);
    return {owner, {pid, pid, 6}, range, mode, wait};
  }
  int lock(const OwnerId& owner, const Range& range, Mode mode) {
    return file->try_now(opened(owner.cookie), request(owner, range, mode, false)).value_or(-1);
  }
  void carry(const Range& range, Mode mode) {
    EXPECT_TRUE(backing->set(range, mode, NothingCarried()).is_done());
  }

  /// Puts back what the book says, in the order of `entries`. Returns the first error.
  int restore(const std::vector<std::pair<Record, Journal::Entry>>& entries,
              const std::optional<Announced>& announced) {
    for (const auto& [record, entry] : entries) {
      if (const int error = file->restore(opened(entry.opened), entry, record)) return error;
    }
    if (announced) {
      const int error = file->finish_change(announced->owner, announced->range, announced->mode);
      if (error != 0) return error;
    }
    file->restored();
    return 0;
  }
  int restore(const Book& book) { return restore(book.entries(), book.announced); }

  std::string held() const {
    std::string text;
    for (const LockView& lock : file->locks()) {
      text += name_of(lock.owner) + " " + to_text({{lock.range, lock.mode}});
    }
    return text;
  }
  std::string carried_wrongly() { return compare_carried(*file, *backing, manager.policy()); }

  LockManager manager;
  FakeBacking* backing = nullptr;  ///< the file's
  FakeJournal* journal = nullptr;  ///< the file's
  std::shared_ptr<FileLocks> file;

 private:
  std::map<std::uint64_t, std::unique_ptr<Opened>> opened_;
};

// -- what is written -----------------------------------------------------------------------------

TEST(Journal, NewRecordsComeFirst) {
  Book book;
  Life life(book);
  std::string& calls = life.journal->calls;
  ASSERT_EQ(life.lock(ofd(1), {0, 9}, kX), 0);
  EXPECT_EQ(calls, "begin ofd1 X[0,9] add X[0,9] end ");
  ASSERT_EQ(life.lock(ofd(1), {20, 29}, kX), 0);
  calls.clear();
  ASSERT_EQ(life.lock(ofd(1), {10, 99}, kS), 0);
  EXPECT_EQ(calls, "begin ofd1 S[10,99] add S[10,99] remove X[20,29] end ");
  calls.clear();
  ASSERT_EQ(life.lock(ofd(1), {30, 39}, kU), 0);
  // A loss is announced before the backing lets go.
  EXPECT_EQ(calls,
            "begin ofd1 S[30,39] begin ofd1 S[30,39] add S[40,99] shorten S[10,99] to 29 end ");
  calls.clear();
  ASSERT_EQ(life.lock(ofd(1), {20, 50}, kX), 0);
  EXPECT_EQ(calls,
            "begin ofd1 X[20,50] add X[20,50] shorten S[10,29] to 19 add S[51,99] "
            "remove S[40,99] end ");
  calls.clear();
  ASSERT_EQ(life.lock(ofd(1), {10, 30}, kX), 0);
  EXPECT_EQ(calls,
            "begin ofd1 X[10,30] add X[0,50] remove X[0,9] remove S[10,19] remove X[20,50] end ");
  calls.clear();
  life.file->close(life.opened(1));
  EXPECT_EQ(book.used(), 0U);
}

TEST(Journal, WhatChangesNothingIsNotWritten) {
  Book book;
  Life life(book);
  ASSERT_EQ(life.lock(ofd(1), {0, 99}, kX), 0);
  life.journal->calls.clear();
  EXPECT_EQ(life.lock(ofd(1), {0, 99}, kX), 0);
  EXPECT_EQ(life.lock(ofd(1), {10, 19}, kX), 0);
  EXPECT_EQ(life.lock(ofd(1), {200, 299}, kU), 0);
  EXPECT_EQ(life.lock(ofd(1), {100, 100}, kU), 0);
  EXPECT_EQ(life.lock(ofd(2), {0, 9}, kU), 0);
  EXPECT_EQ(life.lock(ofd(2), {0, 9}, kS), EAGAIN);
  EXPECT_EQ(life.journal->calls, "");
}

TEST(Journal, WithoutRoomNothingChanges) {
  Book book;
  Life life(book);
  ASSERT_EQ(life.lock(ofd(1), {0, 99}, kX), 0);
  life.journal->full = true;
  life.journal->calls.clear();
  EXPECT_EQ(life.lock(ofd(1), {200, 299}, kX), ENOLCK);
  EXPECT_EQ(life.lock(ofd(1), {10, 19}, kS), ENOLCK);
  EXPECT_EQ(life.lock(ofd(1), {10, 19}, kU), ENOLCK);
  EXPECT_EQ(life.lock(ofd(2), {200, 299}, kX), ENOLCK);
  EXPECT_EQ(life.journal->calls, "");
  EXPECT_EQ(life.held(), "ofd1 X[0,99] ");
  EXPECT_EQ(life.carried_wrongly(), "");
  EXPECT_STREQ(life.manager.check(), nullptr);
  // What gets less needs none.
  EXPECT_EQ(life.lock(ofd(1), {10, 99}, kU), 0);
  EXPECT_EQ(life.lock(ofd(1), {0, 4}, kU), ENOLCK) << "a rest takes a record for a moment";
  EXPECT_EQ(life.lock(ofd(1), kWholeFile, kU), 0);
  EXPECT_EQ(book.used(), 0U);
}

// A process that has closed the file while a thread of it waits: its lock is written down with the
// open file that the request came through.
TEST(Journal, ALateGrantHasAnOpenFile) {
  Book book;
  Life life(book);
  const OwnerId waiting = process(2);
  ASSERT_EQ(life.lock(ofd(1), {0, 9}, kX), 0);
  ASSERT_EQ(life.lock(waiting, {20, 29}, kX), 0);
  std::optional<int> result;
  ASSERT_FALSE(life.file->park(life.opened(7), Life::request(waiting, {0, 9}, kX, true),
                               life.manager.new_ticket(), [&](int error) { result = error; }));
  life.file->close_by_process(waiting.cookie);
  // Looked at again in vain it still belongs to none.
  ASSERT_EQ(life.lock(ofd(1), {0, 4}, kU), 0);
  ASSERT_FALSE(result.has_value());
  ASSERT_EQ(life.lock(ofd(1), kWholeFile, kU), 0);
  ASSERT_EQ(result, 0);
  ASSERT_EQ(book.used(), 1U);
  EXPECT_EQ(book.entries().front().second.opened, 7U);
  life.file->close(life.opened(7));
  EXPECT_EQ(book.used(), 0U);
}

// -- what is put back ----------------------------------------------------------------------------

TEST(Restoring, KeepsWhatIsKnown) {
  Book book;
  Life first(book);
  Caller caller{77, 78, 79};
  ASSERT_EQ(first.file->try_now(first.opened(3), {process(9), caller, {0, 9}, kX, false}), 0);
  ASSERT_EQ(first.lock(ofd(4), {20, kEof}, kS), 0);
  const Book left = book;

  Book again = left;
  Life second(again);
  ASSERT_EQ(second.restore(left), 0);
  EXPECT_EQ(second.held(), first.held());
  EXPECT_EQ(second.journal->calls, "") << "their records have stayed";
  EXPECT_EQ(second.carried_wrongly(), "");
  EXPECT_STREQ(second.manager.check(), nullptr);
  EXPECT_EQ(second.manager.ledger().locks(), 2U);
  const std::vector<LockView> locks = second.file->locks();
  ASSERT_EQ(locks.size(), 2U);
  EXPECT_EQ(locks[0].caller.pid, 77);
  EXPECT_EQ(locks[0].caller.tid, 78);
  EXPECT_EQ(locks[0].caller.uid, 79U);
  EXPECT_EQ(locks[0].opened, &second.opened(3));
  EXPECT_EQ(locks[0].held_seconds, 100U);
  EXPECT_EQ(locks[1].opened, &second.opened(4));
  // They are in the way of others, go with their open files, and their records with them.
  EXPECT_EQ(second.lock(ofd(5), {9, 9}, kS), EAGAIN);
  second.file->close(second.opened(3));
  EXPECT_EQ(second.held(), "ofd4 S[20,EOF] ");
  EXPECT_EQ(again.used(), 1U);
  second.file->close_by_process(process(9).cookie);
  EXPECT_EQ(second.lock(ofd(5), {9, 9}, kX), 0);
}

// The limits of now are not asked for what is held already; it counts all the same.
TEST(Restoring, IsNotRefusedForALimit) {
  Book book;
  Life first(book);
  ASSERT_EQ(first.lock(ofd(1), {0, 9}, kX), 0);
  ASSERT_EQ(first.lock(ofd(1), {20, 29}, kX), 0);
  const Book left = book;
  Book again = left;
  Life second(again, {}, {.locks = 1});
  ASSERT_EQ(second.restore(left), 0);
  EXPECT_EQ(second.manager.ledger().locks(), 2U);
  EXPECT_EQ(second.lock(ofd(2), {40, 49}, kX), ENOLCK);
}

TEST(Restoring, WithoutMemoryNothingChanges) {
  Book book;
  Life life(book);
  life.journal->full = true;
  const Journal::Entry low{ofd(1), {1, 1, 1}, 1, 1, {0, 20}, kS, 5, 0};
  Journal::Entry high = low;
  high.range = {10, 30};
  Journal::Entry inside = low;
  inside.range = {11, 12};
  Journal::Entry cutting = inside;
  cutting.mode = kX;
  book.records = {low, high, inside, cutting};
  EXPECT_EQ(life.file->restore(life.opened(1), low, 1), 0) << "adopted as it is";
  EXPECT_EQ(life.file->restore(life.opened(1), high, 2), ENOLCK);
  EXPECT_EQ(life.file->restore(life.opened(1), cutting, 4), ENOLCK);
  EXPECT_EQ(life.journal->calls, "");
  EXPECT_EQ(life.held(), "ofd1 S[0,20] ");
  EXPECT_EQ(life.file->restore(life.opened(1), inside, 3), 0);
  EXPECT_EQ(life.journal->calls, "remove S[11,12] ");
  life.journal->full = false;
  EXPECT_EQ(life.file->restore(life.opened(1), high, 2), 0);
  EXPECT_EQ(life.held(), "ofd1 S[0,30] ");
  EXPECT_EQ(life.file->restore(life.opened(1), cutting, 4), 0);
  EXPECT_EQ(life.held(), "ofd1 S[0,10] ofd1 X[11,12] ofd1 S[13,30] ");
  EXPECT_EQ(book.used(), 3U);
  life.file->restored();
  EXPECT_STREQ(life.file->check(), nullptr);
}

TEST(Restoring, AChangeOfWhichNothingWasWrittenOnlyEnds) {
  Book book;
  book.announced = Announced{ofd(1), {0, 9}, kX};
  const Book left = book;
  Life life(book);
  life.carry({0, 9}, kX);
  ASSERT_EQ(life.restore(left), 0);
  EXPECT_EQ(life.journal->calls, "end ");
  EXPECT_EQ(life.held(), "");
  EXPECT_EQ(to_text(life.backing->held()), "nothing");
}

TEST(Restoring, OneProcessDoesNotExcludeItself) {
  const Policy dual = *Policy::named("dual");
  Book book;
  Life first(book, dual);
  ASSERT_EQ(first.file->try_now(first.opened(1), {flock_of(1), {7, 7, 0}, kWholeFile, kX, false}),
            0);
  ASSERT_EQ(first.file->try_now(first.opened(1), {process(1), {7, 8, 0}, {0, 9}, kX, false}), 0);
  // Asked by another process for the same open file, as after fork(): the first one counts.
  ASSERT_EQ(first.file->try_now(first.opened(1), {flock_of(1), {9, 9, 0}, kWholeFile, kS, false}),
            0);
  const Book left = book;
  Book again = left;
  Life second(again, dual);
  ASSERT_EQ(second.restore(left), 0);
  EXPECT_STREQ(second.manager.check(), nullptr);
  EXPECT_EQ(second.carried_wrongly(), "");
  const auto lock = [&](pid_t pid, Mode mode) {
    return second.file->try_now(
        second.opened(1),
        {process(static_cast<std::uint64_t>(pid)), {pid, pid, 0}, {20, 29}, mode, false});
  };
  EXPECT_EQ(lock(8, kX), EAGAIN);
  EXPECT_EQ(lock(7, kX), 0);
}

// Flocks go where the policy in force has them, and the guard is set.
TEST(Restoring, CarriesByThePolicyInForce) {
  for (const char* name : {"nfs", "dual", "guarded", "linux", "bsd"}) {
    SCOPED_TRACE(name);
    const Policy policy = *Policy::named(name);
    Book book;
    Life first(book, policy);
    ASSERT_EQ(first.lock(flock_of(1), kWholeFile, kS), 0);
    ASSERT_EQ(first.lock(ofd(2), {0, 9}, kS), 0);
    const Book left = book;
    for (const bool too_much : {false, true}) {
      Book again = left;
      Life second(again, policy);
      if (too_much) {
        second.carry({5, 500}, kX);
        EXPECT_TRUE(second.backing->flocks().set(kWholeFile, kX, NothingCarried()).is_done());
      }
      ASSERT_EQ(second.restore(left), 0);
      EXPECT_EQ(second.carried_wrongly(), "");
      EXPECT_EQ(second.lock(ofd(2), {0, 9}, kU), 0);
      EXPECT_EQ(second.carried_wrongly(), "");
    }
  }
}

// Where an outsider has come in between, the lock stays and is carried as soon as that can be.
TEST(Restoring, AnOutsiderMayHaveComeBetween) {
  Book book;
  Life first(book);
  ASSERT_EQ(first.lock(ofd(1), {0, 9}, kX), 0);
  const Book left = book;
  Book again = left;
  Life second(again);
  ASSERT_EQ(second.backing->outsider_set(1, {0, 4}, kX), 0);
  ASSERT_EQ(second.restore(left), 0);
  EXPECT_STREQ(second.manager.check(), nullptr);
  EXPECT_EQ(second.held(), "ofd1 X[0,9] ");
  second.backing->outsider_leaves(1);
  ASSERT_EQ(second.lock(ofd(2), {20, 29}, kX), 0);
  EXPECT_EQ(second.carried_wrongly(), "");
}

TEST(Restoring, OfManyRangesOnlyThoseThatDifferAreSet) {
  constexpr Offset kLocks = 500;
  Book book;
  Life first(book);
  for (Offset i = 0; i < kLocks; ++i) {
    ASSERT_EQ(first.lock(ofd(1), {10 * i, 10 * i + 4}, kX), 0);
  }
  const Book left = book;
  Book again = left;
  Life second(again);
  for (const Segment& carried : first.backing->held()) second.carry(carried.range, carried.mode);
  second.carry({100, 104}, kU);
  second.carry({200, 209}, kX);
  second.carry({300, 301}, kS);
  const std::uint64_t before = second.backing->sets();
  ASSERT_EQ(second.restore(left), 0);
  EXPECT_EQ(second.backing->sets() - before, 3U);
  EXPECT_EQ(second.carried_wrongly(), "");
  EXPECT_STREQ(second.manager.check(), nullptr);
  // A backing that cannot tell is told all.
  Book third_book = left;
  Life third(third_book);
  third.backing->before_inspection = [] { return false; };
  ASSERT_EQ(third.restore(left), 0);
  EXPECT_EQ(third.carried_wrongly(), "");
}

// Locks that the policy of now would not have granted beside each other stay so.
TEST(Restoring, OlderLocksMayExcludeEachOther) {
  const Policy linux_policy = *Policy::named("linux");
  const Policy nfs = *Policy::named("nfs");
  Book book;
  Life first(book, linux_policy);
  ASSERT_EQ(first.lock(flock_of(1), kWholeFile, kX), 0);
  ASSERT_EQ(first.lock(ofd(2), {0, 9}, kX), 0);
  EXPECT_EQ(first.manager.switch_policy(nfs).conflicting, 2U);
  const auto epoch_of_last = [](const Book& b) { return b.entries().back().second.epoch; };
  const Book left = book;

  // Nothing was granted since the switch.
  Book again = left;
  Life second(again, nfs);
  ASSERT_EQ(second.restore(left), 0);
  EXPECT_STREQ(second.manager.check(), nullptr);
  EXPECT_EQ(second.carried_wrongly(), "");
  ASSERT_EQ(second.lock(ofd(2), {5, 9}, kU), 0);
  EXPECT_EQ(second.lock(ofd(3), {20, 29}, kX), EAGAIN);
  ASSERT_EQ(second.lock(flock_of(1), kWholeFile, kU), 0);
  ASSERT_EQ(second.lock(ofd(3), {20, 29}, kX), 0);
  EXPECT_EQ(epoch_of_last(again), 1);

  // Something was.
  ASSERT_EQ(first.lock(flock_of(1), kWholeFile, kU), 0);
  ASSERT_EQ(first.lock(flock_of(2), kWholeFile, kX), 0);  // does not exclude its own OFD locks
  EXPECT_EQ(epoch_of_last(book), 1);
  const Book later = book;
  Book once_more = later;
  Life third(once_more, nfs);
  ASSERT_EQ(third.restore(later), 0);
  EXPECT_STREQ(third.manager.check(), nullptr);
  ASSERT_EQ(third.lock(ofd(2), {20, 29}, kX), 0);
  EXPECT_EQ(epoch_of_last(once_more), 1);
}

// -- who waited ----------------------------------------------------------------------------------

TEST(ParkAgain, KeepsOrderAndWaitingTime) {
  Book book;
  Life first(book);
  ASSERT_EQ(first.lock(ofd(1), {0, 9}, kX), 0);
  const Book left = book;
  Book again = left;
  Life second(again, {}, {.waiters = 1});
  ASSERT_EQ(second.restore(left), 0);
  std::string ended;
  const auto park_again = [&](std::uint64_t n, Mode mode, int waited) {
    return second.file->park_again(
        second.opened(n), Life::request(ofd(n), {0, 9}, mode, true), second.manager.new_ticket(),
        [&ended, n](int error) { ended += std::to_string(n) + ":" + std::to_string(error) + " "; },
        second.manager.now() - std::chrono::seconds(waited));
  };
  EXPECT_FALSE(park_again(2, kX, 30));
  EXPECT_FALSE(park_again(3, kS, 20));
  EXPECT_FALSE(park_again(4, kX, 10));
  EXPECT_EQ(second.manager.counters().get(Counter::kWaits), 0U);
  EXPECT_EQ(second.manager.counters().get(Counter::kLimits), 0U);
  EXPECT_EQ(second.manager.longest_wait(), std::chrono::seconds(30));
  const std::vector<WaitView> waiters = second.file->waiters();
  ASSERT_EQ(waiters.size(), 3U);
  EXPECT_EQ(waiters[0].waited_seconds, 30U);
  EXPECT_EQ(waiters[2].waited_seconds, 10U);
  EXPECT_EQ(waiters[1].ahead, waiters[0].ticket);
  // Whoever is new comes last, and feels the limit.
  EXPECT_EQ(second.file->park(second.opened(5), Life::request(ofd(5), {0, 9}, kX, true),
                              second.manager.new_ticket(), [](int) {}),
            ENOLCK);
  EXPECT_STREQ(second.manager.check(), nullptr);
  ASSERT_EQ(second.lock(ofd(1), kWholeFile, kU), 0);
  EXPECT_EQ(ended, "2:0 ");
  ASSERT_EQ(second.lock(ofd(2), kWholeFile, kU), 0);
  EXPECT_EQ(ended, "2:0 3:0 ");
  ASSERT_EQ(second.lock(ofd(3), kWholeFile, kU), 0);
  EXPECT_EQ(ended, "2:0 3:0 4:0 ");
}

TEST(ParkAgain, MayBeGrantedAtOnceOrRefused) {
  Book book;
  Life life(book);
  life.file->restored();
  const auto park_again = [&](const OwnerId& owner, const Range& range) {
    return life.file->park_again(
        life.opened(owner.cookie), Life::request(owner, range, kX, true), life.manager.new_ticket(),
        [](int) {}, life.manager.now());
  };
  EXPECT_EQ(park_again(process(1), {0, 9}), 0);
  EXPECT_EQ(park_again(process(2), {10, 19}), 0);
  EXPECT_FALSE(park_again(process(1), {10, 19}));
  EXPECT_EQ(park_again(process(2), {0, 9}), EDEADLK);
}

TEST(ParkAgain, WaitsOutsideWithoutALimit) {
  Book book;
  Life life(book, {}, {.outside_waits = 1});
  life.file->restored();
  ASSERT_EQ(life.backing->outsider_set(1, {0, 99}, kX), 0);
  std::optional<int> result;
  const auto done = [&](int error) { result = error; };
  ASSERT_FALSE(life.file->park(life.opened(2), Life::request(ofd(2), {90, 99}, kX, true),
                               life.manager.new_ticket(), [](int) {}));
  const Request request = Life::request(ofd(1), {0, 9}, kX, true);
  ASSERT_FALSE(life.file->park(life.opened(1), request, life.manager.new_ticket(), done));
  ASSERT_EQ(result, ENOLCK);
  result.reset();
  ASSERT_FALSE(life.file->park_again(life.opened(1), request, life.manager.new_ticket(), done,
                                     life.manager.now()));
  EXPECT_FALSE(result.has_value());
  EXPECT_EQ(life.file->waiters().at(1).place, Waiter::Place::kOutside);
  life.backing->outsider_leaves(1);
  life.backing->deliver_all();
  EXPECT_EQ(result, 0);
}

// What its owner was granted while it waited is not what it gave up to convert.
TEST(ParkAgain, CostsTheOwnerNothing) {
  const Policy bsd = *Policy::named("bsd");
  Book book;
  Life life(book, bsd);
  life.file->restored();
  ASSERT_EQ(life.lock(flock_of(1), kWholeFile, kS), 0);
  ASSERT_EQ(life.lock(flock_of(2), kWholeFile, kS), 0);
  ASSERT_FALSE(life.file->park_again(
      life.opened(1), Life::request(flock_of(1), kWholeFile, kX, true), life.manager.new_ticket(),
      [](int) {}, life.manager.now()));
  EXPECT_EQ(life.file->locks().size(), 2U);
}

// -- a death at any point ------------------------------------------------------------------------

/// Positions 0..11 are bytes; the last stands for all that follows to the end of the file.
constexpr int kPositions = 13;
constexpr int kTail = kPositions - 1;
using Bytes = std::array<Mode, kPositions>;
/// By owner, without those who hold nothing.
using State = std::map<std::string, Bytes>;

int position_of(Offset at) { return at >= kTail ? kTail : static_cast<int>(at); }

void put(State& state, const OwnerId& owner, const Range& range, Mode mode) {
  Bytes& bytes = state[name_of(owner)];
  for (int i = position_of(range.first); i <= position_of(range.last); ++i) {
    bytes.at(static_cast<std::size_t>(i)) = mode;
  }
  if (bytes == Bytes{}) state.erase(name_of(owner));
}

State state_of(const std::vector<LockView>& locks) {
  State state;
  for (const LockView& lock : locks) put(state, lock.owner, lock.range, lock.mode);
  return state;
}

State state_of(const Book& book) {
  State state;
  for (const auto& [record, entry] : book.entries()) {
    put(state, entry.owner, entry.range, entry.mode);
  }
  return state;
}

std::string to_text(const State& state) {
  std::string text;
  for (const auto& [owner, bytes] : state) {
    text += owner + " ";
    for (const Mode mode : bytes) text += mode == kX ? 'X' : mode == kS ? 's' : '.';
    text += '\n';
  }
  return text;
}

/// Locks as text, in an order of their own.
template <typename Locks, typename Text>
std::vector<std::string> sorted(const Locks& locks, const Text& text) {
  std::vector<std::string> lines;
  for (const auto& lock : locks) lines.push_back(text(lock));
  std::sort(lines.begin(), lines.end());
  return lines;
}

/// What may be found after a death.
struct Expected {
  State before;
  State after;
};

class Deaths {
 public:
  Deaths(std::uint64_t seed, const char* policy)
      : random_(seed), policy_(*Policy::named(policy)), life_(book_, policy_) {
    life_.journal->before_call = [this] { look(); };
  }
  ~Deaths() { life_.journal->before_call = nullptr; }
  Deaths(const Deaths&) = delete;
  Deaths& operator=(const Deaths&) = delete;

  void step() {
    life_.manager.set_time(life_.manager.now() + std::chrono::seconds(1));
    const int what = random_.between(0, 99);
    const OwnerId owner = some_owner();
    if (what < 50) {
      request(owner, random_.one_in(2) ? kX : kS);
    } else if (what < 85) {
      request(owner, kU);
    } else if (what < 90) {
      life_.file->close_by_process(process(random_.below(kOwners)).cookie);
    } else if (what < 96) {
      life_.file->close(life_.opened(1 + random_.below(kOwners)));
    } else if (what < 98) {
      Range taken;
      std::ignore = life_.file->revoke(owner, some_range(owner), taken);
    } else {
      switch_policy();
    }
    // Between two operations what is written down is what is held.
    EXPECT_FALSE(book_.announced.has_value());
    EXPECT_EQ(to_text(state_of(book_)), to_text(state_of(life_.file->locks())));
    look();
  }

  std::uint64_t deaths = 0;
  std::uint64_t second_deaths = 0;
  std::uint64_t granted_late = 0;

 private:
  static constexpr std::uint64_t kOwners = 3;

  OwnerId some_owner() {
    const std::uint64_t n = random_.below(kOwners);
    switch (random_.below(3)) {
      case 0:
        return process(n);
      case 1:
        return ofd(1 + n);
      default:
        return flock_of(1 + n);
    }
  }
  Range some_range(const OwnerId& owner) {
    if (owner.type == OwnerType::kFlock) return kWholeFile;
    const int first = random_.between(0, kTail);
    const int last = random_.between(first, kTail);
    return {first, last == kTail ? kEof : last};
  }
  void request(const OwnerId& owner, Mode mode) {
    // Processes share open files with others.
    Opened& opened =
        life_.opened(owner.type == OwnerType::kProcess ? 1 + random_.below(kOwners) : owner.cookie);
    const bool wait = mode != kU && random_.one_in(3) && waiting_ < 4;
    const Request request = Life::request(owner, some_range(owner), mode, wait);
    if (life_.file->try_now(opened, request)) return;
    const auto result =
        life_.file->park(opened, request, life_.manager.new_ticket(), [this](int error) {
          --waiting_;
          granted_late += error == 0 ? 1 : 0;
        });
    if (!result) ++waiting_;
  }
  void switch_policy() {
    constexpr std::array kNames{"nfs", "dual", "guarded", "linux"};
    policy_ = *Policy::named(kNames.at(random_.below(kNames.size())));
    life_.manager.switch_policy(policy_);
  }

  /// The process dies here and now.
  void look() {
    if (!book_.announced) expected_.before = expected_.after = state_of(book_);
    if (book_.announced && !seen_announced_) {
      put(expected_.after, book_.announced->owner, book_.announced->range, book_.announced->mode);
    }
    seen_announced_ = book_.announced.has_value();
    ++deaths;
    succeed(book_, 1);
  }

  /// A process finds `left`.
  void succeed(const Book& left, int generation) {
    Book book = left;
    Life life(book, policy_);
    if (random_.one_in(2)) {
      for (const Segment& s : life_.backing->held()) life.carry(s.range, s.mode);
    } else if (random_.one_in(2)) {
      life.carry(some_range(ofd(1)), kX);
    }
    if (generation == 1) {
      life.journal->before_call = [this, &book] {
        ++second_deaths;
        succeed(book, 2);
      };
    }
    auto entries = left.entries();
    for (std::size_t i = entries.size(); i > 1; --i) {
      std::swap(entries[i - 1], entries[random_.below(i)]);
    }
    ASSERT_EQ(life.restore(entries, left.announced), 0);
    life.journal->before_call = nullptr;

    const std::vector<LockView> locks = life.file->locks();
    const State found = state_of(locks);
    EXPECT_TRUE(found == expected_.before || found == expected_.after)
        << "found\n"
        << to_text(found) << "instead of\n"
        << to_text(expected_.before) << "or\n"
        << to_text(expected_.after);
    EXPECT_STREQ(life.manager.check(), nullptr);
    EXPECT_EQ(life.carried_wrongly(), "");
    EXPECT_FALSE(book.announced.has_value());
    const std::uint32_t now = seconds_of(life.manager.now());
    EXPECT_EQ(sorted(locks,
                     [&](const LockView& l) {
                       return name_of(l.owner) + testing::to_text({{l.range, l.mode}}) +
                              std::to_string(now - l.held_seconds) + " " +
                              std::to_string(l.opened->name());
                     }),
              sorted(book.entries(), [](const std::pair<Record, Journal::Entry>& r) {
                const Journal::Entry& e = r.second;
                return name_of(e.owner) + testing::to_text({{e.range, e.mode}}) +
                       std::to_string(e.since) + " " + std::to_string(e.opened);
              }));
  }

  Random random_;
  Policy policy_;
  Book book_;
  Expected expected_;
  bool seen_announced_ = false;
  int waiting_ = 0;
  Life life_;
};

TEST(Restoring, NothingIsLostWhereverTheProcessDies) {
  const std::uint64_t seed = test_seed();
  std::uint64_t deaths = 0;
  std::uint64_t second_deaths = 0;
  std::uint64_t granted_late = 0;
  for (const char* policy : {"nfs", "dual", "guarded", "linux", "bsd"}) {
    SCOPED_TRACE(policy);
    for (int run = 0; run < scaled(6); ++run) {
      Deaths all(seed + static_cast<std::uint64_t>(run), policy);
      for (int i = 0; i < 150; ++i) {
        all.step();
        ASSERT_FALSE(::testing::Test::HasFailure()) << "run " << run << ", step " << i;
      }
      deaths += all.deaths;
      second_deaths += all.second_deaths;
      granted_late += all.granted_late;
    }
  }
  std::printf("%llu deaths, %llu of a second process, %llu late grants\n",
              static_cast<unsigned long long>(deaths),
              static_cast<unsigned long long>(second_deaths),
              static_cast<unsigned long long>(granted_late));
  EXPECT_GT(deaths, 1000U);
  EXPECT_GT(second_deaths, 500U);
  EXPECT_GT(granted_late, 5U);
}

}  // namespace
}  // namespace lockmgr
