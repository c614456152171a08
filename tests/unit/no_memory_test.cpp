// Every allocation of every operation fails once: nothing crashes or is left behind.
#include <gtest/gtest.h>

#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <functional>
#include <memory>
#include <new>
#include <optional>

#include "lockmgr/file_locks.h"
#include "lockmgr/forwarding_backing.h"
#include "lockmgr/lock_manager.h"
#include "tests/unit/fake_backing.h"

namespace {

// How many allocations of this thread go well until one fails; -1: all go well.
thread_local int allocations_left = -1;
thread_local bool allocation_failed = false;

void* allocate(std::size_t size) {
  if (allocations_left == 0) {
    allocations_left = -1;
    allocation_failed = true;
    throw std::bad_alloc();
  }
  if (allocations_left > 0) --allocations_left;
  if (void* memory = std::malloc(size == 0 ? 1 : size)) return memory;
  throw std::bad_alloc();
}

/// The model of the backing is not what is tested: it always gets its memory.
class Spared {
 public:
  Spared() : left_(allocations_left) { allocations_left = -1; }
  ~Spared() { allocations_left = left_; }
  Spared(const Spared&) = delete;
  Spared& operator=(const Spared&) = delete;

 private:
  int left_;
};

}  // namespace

void* operator new(std::size_t size) { return allocate(size); }
void* operator new[](std::size_t size) { return allocate(size); }
void* operator new(std::size_t size, const std::nothrow_t&) noexcept {
  try {
    return allocate(size);
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}
void* operator new[](std::size_t size, const std::nothrow_t& quietly) noexcept {
  return operator new(size, quietly);
}
void operator delete(void* memory, const std::nothrow_t&) noexcept { std::free(memory); }
void operator delete[](void* memory, const std::nothrow_t&) noexcept { std::free(memory); }
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::size_t) noexcept { std::free(memory); }

namespace lockmgr {
namespace {

using testing::FakeBacking;

constexpr Mode kX = Mode::kExclusive;
constexpr Mode kS = Mode::kShared;
constexpr Mode kU = Mode::kNone;

class SparedBacking final : public ForwardingBacking {
 public:
  explicit SparedBacking(FakeBacking& backing) : ForwardingBacking(backing), model_(backing) {}

  Reply set(const Range& range, Mode mode, const Carried& carried) noexcept override {
    const Spared spared;
    return model_.set(range, mode, carried);
  }
  Reply test(const Range& range, Mode mode, std::optional<OutsideLock>& found) noexcept override {
    const Spared spared;
    return model_.test(range, mode, found);
  }
  int wait(WaitId id, const Range& range, Mode mode, const Carried& carried, bool yield_first,
           WaitDone done) noexcept override {
    const Spared spared;
    return model_.wait(id, range, mode, carried, yield_first, std::move(done));
  }
  void recall(WaitId id) noexcept override {
    const Spared spared;
    model_.recall(id);
  }
  Inspector inspector() override { return {}; }
  Backing& flocks() noexcept override {
    const Spared spared;
    if (flocks_ == nullptr) flocks_ = std::make_unique<SparedBacking>(model_.flocks());
    return *flocks_;
  }

 private:
  FakeBacking& model_;
  std::unique_ptr<SparedBacking> flocks_;
};

struct Scene {
  Scene() : manager({}, Policy{}, nullptr) {
    file = manager.open_file({1, 1}, std::make_unique<SparedBacking>(*backing));
  }
  ~Scene() {
    for (Opened* o : {&a, &b, &c}) {
      file->close(*o);
      backing->deliver_all();
    }
    EXPECT_TRUE(file->quiet());
    EXPECT_EQ(testing::to_text(backing->held()), "nothing");
    EXPECT_STREQ(manager.check(), nullptr);
    EXPECT_EQ(manager.ledger().waiters(), 0U);
    EXPECT_EQ(manager.ledger().locks(), 0U);
    EXPECT_EQ(manager.outside_waits(), 0U);
  }

  static OwnerId owner(std::uint64_t n, OwnerType type = OwnerType::kProcess) { return {type, n}; }
  int ask(Opened& opened, const OwnerId& id, const Range& range, Mode mode) {
    return file->try_now(opened, {id, {}, range, mode, false}).value_or(-1);
  }
  void inspect() {
    EXPECT_STREQ(manager.check(), nullptr);
    EXPECT_EQ(backing->compare(file->locks()), "");
  }

  LockManager manager;
  const std::unique_ptr<FakeBacking> backing = std::make_unique<FakeBacking>();
  std::shared_ptr<FileLocks> file;
  Opened a{true, true};
  Opened b{true, true};
  Opened c{true, true};
};

/// Plays `prepare` and `act` in a fresh scene again and again, the n-th time with the n-th
/// allocation of `act` failing, until none failed; `check` is told whether one did. Returns how
/// often.
int fail_each(const std::function<void(Scene&)>& prepare, const std::function<void(Scene&)>& act,
              const std::function<void(Scene&, bool failed)>& check) {
  for (int n = 0; n < 200; ++n) {
    Scene scene;
    prepare(scene);
    scene.inspect();
    allocation_failed = false;
    allocations_left = n;
    act(scene);
    allocations_left = -1;
    const bool failed = allocation_failed;
    check(scene, failed);
    scene.inspect();
    if (::testing::Test::HasFailure()) {
      ADD_FAILURE() << "allocation " << n;
      return n;
    }
    if (!failed) return n;
  }
  ADD_FAILURE() << "no end";
  return 0;
}

/// A test of one request without waiting: granted, or refused with ENOLCK.
int fail_request(const std::function<void(Scene&)>& prepare, const Range& range, Mode mode,
                 std::size_t locks_before, std::size_t locks_after) {
  int error = -1;
  return fail_each(
      prepare, [&](Scene& s) { error = s.ask(s.a, Scene::owner(1), range, mode); },
      [&](Scene& s, bool failed) {
        EXPECT_EQ(error, failed ? ENOLCK : 0);
        EXPECT_EQ(s.file->locks().size(), failed ? locks_before : locks_after);
      });
}

TEST(NoMemory, FirstLock) {
  EXPECT_GT(fail_request([](Scene&) {}, {0, 9}, kX, 0, 1), 2);
}

TEST(NoMemory, SplitByDowngrade) {
  const auto prepare = [](Scene& s) { ASSERT_EQ(s.ask(s.a, Scene::owner(1), {0, 99}, kX), 0); };
  EXPECT_EQ(fail_request(prepare, {10, 19}, kS, 1, 3), 2);
}

TEST(NoMemory, UnlockThatSplits) {
  const auto prepare = [](Scene& s) { ASSERT_EQ(s.ask(s.a, Scene::owner(1), {0, 99}, kX), 0); };
  EXPECT_EQ(fail_request(prepare, {10, 19}, kU, 1, 2), 2);
}

TEST(NoMemory, WholeUnlockAndCloseNeedNone) {
  const auto prepare = [](Scene& s) {
    ASSERT_EQ(s.ask(s.a, Scene::owner(1), {0, 9}, kX), 0);
    ASSERT_EQ(s.ask(s.a, Scene::owner(1), {20, 29}, kS), 0);
    ASSERT_EQ(s.ask(s.b, Scene::owner(2), {20, 24}, kS), 0);
  };
  const auto check = [](Scene& s, bool) { EXPECT_EQ(s.file->locks().size(), 1U); };
  EXPECT_EQ(fail_request(prepare, kWholeFile, kU, 3, 1), 0);
  EXPECT_EQ(fail_each(
                prepare, [](Scene& s) { s.file->close_by_process(1); }, check),
            0);
  EXPECT_EQ(fail_each(
                prepare, [](Scene& s) { s.file->close(s.a); }, check),
            0);
}

/// Parks a request; `error`: what became of it, -1 while it waits.
void park(Scene& s, Opened& opened, const OwnerId& id, Mode mode, Ticket ticket, int& error) {
  const Request request{id, {}, {0, 9}, mode, true};
  if (const auto now = s.file->try_now(opened, request)) {
    error = *now;
    return;
  }
  const auto now = s.file->park(opened, request, ticket, [&error](int result) { error = result; });
  if (now) error = *now;
}

/// A test of parking by owner 2 through `b`, which ends in `expected` when memory suffices. Returns
/// how often it was refused.
int fail_park(const std::function<void(Scene&)>& prepare, int expected) {
  int error = -1;
  int refused = 0;
  int done_without = 0;  // the table of owners does without more buckets
  Ticket ticket = 0;
  fail_each(
      [&](Scene& s) {
        prepare(s);
        error = -1;
        ticket = s.manager.new_ticket();
      },
      [&](Scene& s) { park(s, s.b, Scene::owner(2), kX, ticket, error); },
      [&](Scene&, bool failed) {
        if (failed) ++(error == ENOLCK ? refused : done_without);
        if (error != ENOLCK || !failed) {
          EXPECT_EQ(error, expected);
        }
      });
  EXPECT_LE(done_without, 1);
  return refused;
}

TEST(NoMemory, Park) {
  const auto prepare = [](Scene& s) { ASSERT_EQ(s.ask(s.a, Scene::owner(1), {0, 9}, kX), 0); };
  EXPECT_GT(fail_park(prepare, -1), 3);
}

TEST(NoMemory, ParkWithASearchForDeadlocks) {
  int first = -1;
  const auto prepare = [&](Scene& s) {
    first = -1;
    ASSERT_EQ(s.ask(s.a, Scene::owner(1), {0, 9}, kX), 0);
    ASSERT_EQ(s.ask(s.b, Scene::owner(2), {20, 29}, kX), 0);
    ASSERT_FALSE(s.file->park(s.a, {Scene::owner(1), {}, {20, 29}, kX, true},
                              s.manager.new_ticket(), [&](int result) { first = result; }));
  };
  EXPECT_GT(fail_park(prepare, EDEADLK), 3);
}

TEST(NoMemory, ParkOutside) {
  const auto prepare = [](Scene& s) { ASSERT_EQ(s.backing->outsider_set(1, {0, 9}, kX), 0); };
  EXPECT_GT(fail_park(prepare, -1), 3);
}

// An owner's only lock on a file needs no memory of its own: most hand-overs cannot fail for want
// of it.
TEST(NoMemory, HandOverOfAnOnlyLockNeedsNone) {
  int error = -1;
  const auto prepare = [&](Scene& s) {
    error = -1;
    ASSERT_EQ(s.ask(s.a, Scene::owner(1), {0, 9}, kX), 0);
    park(s, s.b, Scene::owner(2), kX, s.manager.new_ticket(), error);
    ASSERT_EQ(error, -1);
  };
  const int failures = fail_each(
      prepare, [](Scene& s) { s.file->close(s.a); }, [&](Scene&, bool) { EXPECT_EQ(error, 0); });
  EXPECT_EQ(failures, 0);
}

// A waiter whose grant finds no memory is refused; those after it get their turn.
TEST(NoMemory, HandOver) {
  int first = -1;
  int second = -1;
  const auto prepare = [&](Scene& s) {
    first = second = -1;
    ASSERT_EQ(s.ask(s.b, Scene::owner(2), {20, 29}, kX), 0);
    ASSERT_EQ(s.ask(s.a, Scene::owner(1), {0, 9}, kX), 0);
    park(s, s.b, Scene::owner(2), kX, s.manager.new_ticket(), first);
    park(s, s.c, Scene::owner(3), kS, s.manager.new_ticket(), second);
    ASSERT_EQ(first, -1);
    ASSERT_EQ(second, -1);
  };
  const int failures = fail_each(
      prepare, [](Scene& s) { s.file->close(s.a); },
      [&](Scene&, bool failed) {
        EXPECT_EQ(first, failed ? ENOLCK : 0);
        EXPECT_EQ(second, failed ? 0 : -1);
      });
  EXPECT_EQ(failures, 1);
}

TEST(NoMemory, EndOfAWaitOutside) {
  int error = -1;
  const auto prepare = [&](Scene& s) {
    error = -1;
    ASSERT_EQ(s.backing->outsider_set(1, {0, 9}, kX), 0);
    park(s, s.b, Scene::owner(2), kX, s.manager.new_ticket(), error);
    // What parking has provided is used up by then.
    for (Offset first = 20; first < 80; first += 20) {
      ASSERT_EQ(s.ask(s.b, Scene::owner(2), {first, first + 9}, kX), 0);
    }
    s.backing->outsider_leaves(1);
    ASSERT_EQ(s.backing->due(), 1U);
  };
  const int failures = fail_each(
      prepare, [](Scene& s) { s.backing->deliver(); },
      [&](Scene&, bool failed) { EXPECT_EQ(error, failed ? ENOLCK : 0); });
  EXPECT_EQ(failures, 2);  // among all of the mode, and among the owner's
}

// Either all flocks move to the other space or none does.
TEST(NoMemory, SwitchThatMovesFlocks) {
  constexpr std::uint64_t kFlocks = 60;
  const auto carried = [](const Scene& s) { return testing::to_text(s.backing->held()); };
  PolicySwitch report;
  const auto prepare = [&](Scene& s) {
    report = {};
    for (std::uint64_t n = 1; n <= kFlocks; ++n) {
      ASSERT_EQ(s.ask(s.a, Scene::owner(n, OwnerType::kFlock), kWholeFile, kS), 0);
    }
  };
  const auto act = [&](Scene& s) {
    try {
      report = s.manager.switch_policy(*Policy::named("linux"));
    } catch (const std::bad_alloc&) {
      // Nothing has changed, or this file follows with the next switch.
    }
  };
  int left_behind = 0;
  const int failures = fail_each(prepare, act, [&](Scene& s, bool failed) {
    left_behind += static_cast<int>(report.left_behind);
    const bool moved = carried(s) == "nothing";
    EXPECT_TRUE(moved || failed);  // a tree does without its finger
    EXPECT_EQ(testing::to_text(s.backing->flocks().held()), moved ? "S[0,EOF] " : "nothing");
    EXPECT_EQ(s.file->locks().size(), kFlocks);
    EXPECT_STREQ(s.manager.check(), nullptr);
    s.manager.switch_policy(*Policy::named("nfs"));
    EXPECT_EQ(carried(s), "S[0,EOF] ");
  });
  EXPECT_GE(failures, 4);
  EXPECT_GE(left_behind, 3);
}

class NumberedJournal final : public Journal {
 public:
  bool provide(unsigned) noexcept override { return true; }
  void begin(const OwnerId&, const Range&, Mode) noexcept override {}
  Record add(const Entry&) noexcept override { return next_++; }
  void shorten(Record, Offset) noexcept override {}
  void remove(Record) noexcept override {}
  void end() noexcept override {}

 private:
  Record next_ = 100;
};

// Locks that a process before had written down.
TEST(NoMemory, Restoring) {
  const auto entry = [](std::uint64_t owner, const Range& range, Mode mode) {
    return Journal::Entry{Scene::owner(owner), {}, 1, 1, range, mode, 0, 0};
  };
  int error = -1;
  std::shared_ptr<FileLocks> file;
  std::unique_ptr<Opened> opened;
  const auto prepare = [&](Scene& s) {
    file = s.manager.open_file({1, 2}, std::make_unique<NoBacking>(),
                               std::make_unique<NumberedJournal>());
    opened = std::make_unique<Opened>(true, true, 1);
    ASSERT_EQ(file->restore(*opened, entry(1, {0, 99}, kS), 1), 0);
  };
  const auto fail = [&](const std::function<void()>& act, std::size_t before, std::size_t after) {
    return fail_each(
        prepare, [&](Scene&) { act(); },
        [&](Scene&, bool failed) {
          EXPECT_EQ(error, failed ? ENOLCK : 0);
          EXPECT_EQ(file->locks().size(), failed ? before : after);
          file->restored();
          EXPECT_STREQ(file->check(), nullptr);
          file->close(*opened);
          file.reset();
        });
  };
  EXPECT_EQ(fail([&] { error = file->restore(*opened, entry(1, {10, 19}, kX), 2); }, 1, 3), 2);
  EXPECT_EQ(fail([&] { error = file->restore(*opened, entry(1, {50, 149}, kS), 2); }, 1, 1), 2);
  EXPECT_EQ(fail([&] { error = file->restore(*opened, entry(1, {200, 209}, kS), 2); }, 1, 2), 2);
  EXPECT_EQ(fail([&] { error = file->finish_change(Scene::owner(1), {10, 19}, kU); }, 1, 2), 2);
}

TEST(NoMemory, Relent) {
  int passing = -1;
  int ahead = -1;
  const auto prepare = [&](Scene& s) {
    passing = ahead = -1;
    ASSERT_EQ(s.ask(s.a, Scene::owner(1), {0, 4}, kX), 0);
    park(s, s.b, Scene::owner(2), kX, s.manager.new_ticket(), ahead);
    const Request request{Scene::owner(3), {}, {5, 9}, kX, true};
    ASSERT_FALSE(
        s.file->park(s.c, request, s.manager.new_ticket(), [&](int result) { passing = result; }));
  };
  bool refused = false;
  const int failures = fail_each(
      prepare,
      [](Scene& s) { s.manager.relent(LockManager::Clock::now() + std::chrono::hours(1)); },
      [&](Scene&, bool failed) {
        // Without memory for the list of files nothing happens; the next call comes soon.
        EXPECT_TRUE(failed ? passing == -1 || passing == ENOLCK : passing == 0);
        refused |= passing == ENOLCK;
        EXPECT_EQ(ahead, -1);
      });
  EXPECT_GE(failures, 2);
  EXPECT_TRUE(refused);
}

}  // namespace
}  // namespace lockmgr
