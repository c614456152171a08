/// Random blocking requests of many processes at once, with signals, kills and outsiders, against
/// the model. After each step: nobody holds what he must not, nobody waits who could be served, and
/// the daemon holds on the backing file exactly the union of what is granted.
///
/// LOCKFS_TEST_SEED repeats a run; the seed of every run is printed.

#include <signal.h>

#include <cstdio>
#include <memory>
#include <optional>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "tests/mounted/locks/lock_model.h"
#include "tests/mounted/locks/lock_test.h"

namespace lockfs::test {
namespace {

constexpr int kInside = 8;
constexpr int kAll = 10;

class RandomQueueTest : public SharedMountTest {
 protected:
  struct Party {
    std::unique_ptr<Locker> process;
    bool waiting = false;
    std::optional<int> answer;  ///< result that the model cannot explain yet
    int arrival = 0;
    OwnerKey owner;
    Mode mode = kShared;
    Range range;
  };

  void begin(int number) {
    Party& party = party_of(number);
    party.process = std::make_unique<Locker>(number < kInside ? in_mount(name_) : in_source(name_));
    ASSERT_EQ(party.process->handle_signal(SIGUSR1), 0);
    party.waiting = false;
    party.answer.reset();
  }

  Party& party_of(int number) { return parties_[static_cast<std::size_t>(number)]; }

  static bool overlap(Range a, Range b) {
    return a.start <= Model::last_of(b) && b.start <= Model::last_of(a);
  }

  /// Whether `party` needs nobody's leave: nothing held is in its way, nor did anybody come earlier
  /// whose request conflicts with it.
  bool is_due(const Party& party) const {
    if (model_.conflicts(party.owner, party.mode, party.range)) return false;
    for (const Party& other : parties_) {
      if (!other.waiting || &other == &party) continue;
      if (other.arrival >= party.arrival && other.answer != 0) continue;
      if (!model_.exclude_each_other(other.owner, party.owner)) continue;
      if (other.mode == kShared && party.mode == kShared) continue;
      if (overlap(other.range, party.range)) return false;
    }
    return true;
  }

  /// Whether a waiting process waits in the end for itself, over POSIX locks of waiting processes
  /// only.
  bool is_deadlocked(const Party& party) const {
    if (party.owner.kind != kPosix) return false;
    std::set<int> reached;
    std::vector<const Party*> look{&party};
    while (!look.empty()) {
      const Party& waiter = *look.back();
      look.pop_back();
      for (const OwnerKey& holder : model_.blockers(waiter.owner, waiter.mode, waiter.range)) {
        if (holder.kind != kPosix || !reached.insert(holder.process).second) continue;
        if (holder.process == party.owner.process) return true;
        const Party& next = parties_[static_cast<std::size_t>(holder.process)];
        if (next.waiting && next.owner.kind == kPosix) look.push_back(&next);
      }
    }
    return false;
  }

  /// Takes the result of everybody who has one, and enters it into the model. False when the model
  /// does not allow some grant, or somebody is due and has no result yet.
  bool take_results() {
    bool unexplained = false;
    for (bool again = true; again;) {
      again = false;
      unexplained = false;
      for (Party& party : parties_) {
        if (!party.waiting) continue;
        if (!party.answer && party.process->has_result()) party.answer = party.process->result();
        if (!party.answer) continue;
        const int error = *party.answer;
        if (error == 0 && model_.conflicts(party.owner, party.mode, party.range)) {
          unexplained = true;
          continue;
        }
        if (error == 0) {
          model_.set(party.owner, party.range, cell_of(party.mode));
          ++granted_after_wait_;
        } else {
          EXPECT_EQ(error, EDEADLK);
          EXPECT_TRUE(is_deadlocked(party)) << "EDEADLK without a deadlock";
          ++deadlocks_;
        }
        party.answer.reset();
        party.waiting = false;
        again = true;
      }
    }
    // Only now, as a grant not entered yet may stand in the way: who waits for a second behind
    // others that stand still passes them.
    for (const Party& party : parties_) {
      unexplained = unexplained || (party.waiting && !party.answer && is_due(party));
    }
    return !unexplained;
  }

  /// Who waits, as the model has it.
  std::string waiting() const {
    std::ostringstream text;
    for (const Party& party : parties_) {
      if (!party.waiting) continue;
      text << "\n  process " << party.owner.process << ", arrival " << party.arrival << ": "
           << party.owner.kind << " " << party.mode << " " << party.range;
      if (party.answer) text << ", answered " << *party.answer;
      if (is_due(party)) text << ", due";
    }
    return text.str();
  }

  /// Waits for everybody who is due. A grant may show before the one that made room for it, of an
  /// owner who shares what he held exclusively; so it is wrong only if it stays unexplained.
  void collect() {
    ASSERT_TRUE(eventually([this] { return take_results(); }))
        << "somebody was granted a conflicting lock, or is due and still waits:" << waiting();
  }

  /// Enters the outcome of a request that does not wait. A waiter may have been let through just
  /// before it.
  void enter_try(int error, const OwnerKey& owner, Mode mode, Range range) {
    if ((error == EAGAIN) != model_.conflicts(owner, mode, range)) collect();
    const bool refused = model_.conflicts(owner, mode, range);
    ASSERT_EQ(error, refused ? EAGAIN : 0);
    if (!refused) model_.set(owner, range, cell_of(mode));
  }

  std::string name_;
  Model model_;
  std::vector<Party> parties_{kAll};
  int arrivals_ = 0;
  int granted_after_wait_ = 0;
  int deadlocks_ = 0;
};

TEST_F(RandomQueueTest, NobodyIsForgottenAndNobodyHoldsTooMuch) {
  LOCKFS_NOT_PLAIN();
  name_ = new_file();
  Dice dice(seed_of_run());
  for (int i = 0; i < kAll; ++i) ASSERT_NO_FATAL_FAILURE(begin(i));
  const int steps = scaled(6000, 300);
  int waited = 0;
  int interrupted = 0;
  for (int step = 0; step < steps; ++step) {
    const int number = dice.below(kAll);
    const bool inside = number < kInside;
    Party& party = party_of(number);
    Locker& process = *party.process;
    const int kind_pick = dice.below(10);
    const Kind kind = kind_pick < 4 || !inside ? kPosix : kind_pick < 8 ? kOfd : kFlock;
    const OwnerKey owner{number, kind == kPosix ? kNoFile : 0, kind};
    const Mode mode = dice.mode();
    const Range range = kind == kFlock ? kWholeFile : dice.range();
    const int action = dice.below(100);
    std::ostringstream what;
    what << "step " << step << ", " << (inside ? "inside" : "outside") << " process " << number
         << (party.waiting ? " (waiting)" : "") << ", " << kind << " " << mode << " " << range
         << ", action " << action;
    SCOPED_TRACE(what.str());

    if (action < 4) {
      process.kill(SIGKILL);
      ASSERT_EQ(process.wait(), 128 + SIGKILL);
      model_.drop_if([&](const OwnerKey& key) { return key.process == number; });
      ASSERT_NO_FATAL_FAILURE(begin(number));
    } else if (party.waiting) {
      if (action < 15) {
        ASSERT_EQ(process.interrupt(SIGUSR1), 0);
        const int error = process.result();
        party.waiting = false;
        // It may have been let through just before, behind others who stand still.
        if (error == 0) {
          ASSERT_FALSE(model_.conflicts(party.owner, party.mode, party.range));
          model_.set(party.owner, party.range, cell_of(party.mode));
        } else {
          ASSERT_EQ(error, EINTR);
          ++interrupted;
        }
      }
    } else if (!inside && action < 60) {
      // Straight on the source nobody waits, so that no cycle through the outside can arise.
      const int error = process.try_lock(kind, mode, range);
      ASSERT_NO_FATAL_FAILURE(enter_try(error, owner, mode, range));
    } else if (action < 45) {
      process.start_lock(kind, mode, range);
      party.waiting = true;
      party.arrival = ++arrivals_;
      party.owner = owner;
      party.mode = mode;
      party.range = range;
      // Either sleeps in the call, where a signal finds it, or has a result: EDEADLK where the
      // model has a conflict, or else collect() fails.
      if (process.waits()) {
        if (model_.conflicts(owner, mode, range)) ++waited;
      } else {
        ASSERT_TRUE(process.has_result());
      }
    } else if (action < 55) {
      const int error = process.try_lock(kind, mode, range);
      ASSERT_NO_FATAL_FAILURE(enter_try(error, owner, mode, range));
    } else {
      const Range freed = dice.percent(50) ? kWholeFile : range;
      ASSERT_EQ(process.unlock(kind, freed), 0);
      model_.set(owner, freed, Cell::kFree);
    }

    ASSERT_NO_FATAL_FAILURE(collect());
    for (const Party& waiter : parties_) {
      ASSERT_FALSE(waiter.waiting && is_deadlocked(waiter)) << "deadlock not noticed";
    }
    fs().settle(name_);
    const auto expected =
        model_.union_of([](const OwnerKey& key) { return key.process < kInside; });
    // Somebody may be let through at any moment who waits behind others only.
    auto held = locks_held_by(fs().pid(), in_source(name_));
    if (held != expected) {
      ASSERT_TRUE(eventually([&] {
        collect();
        held = locks_held_by(fs().pid(), in_source(name_));
        return ::testing::Test::HasFatalFailure() ||
               held == model_.union_of([](const OwnerKey& key) { return key.process < kInside; });
      })) << "the daemon holds "
          << ::testing::PrintToString(held) << ", expected " << ::testing::PrintToString(expected);
    }
  }
  std::printf("%d steps, %d waited, %d of them granted, %d deadlocks, %d interrupted\n", steps,
              waited, granted_after_wait_, deadlocks_, interrupted);
  EXPECT_GT(waited, steps / 50);
  EXPECT_GT(interrupted, 0);
  for (Party& party : parties_) party.process.reset();
  fs().settle(name_);
  EXPECT_TRUE(eventually([&] { return locks_held_by(fs().pid(), in_source(name_)).empty(); }));
}

}  // namespace
}  // namespace lockfs::test
