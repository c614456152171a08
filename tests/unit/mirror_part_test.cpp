// What the backing carries for what is granted, without anybody who waits or decides.
#include <gtest/gtest.h>

#include <cerrno>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "lockmgr/mirror.h"
#include "lockmgr/pages.h"
#include "tests/unit/parts.h"
#include "tests/unit/random.h"

namespace lockmgr {
namespace {

using namespace testing;  // NOLINT(google-build-using-namespace): the vocabulary of these tests

constexpr Reply kDone = Reply::done();

class MirrorTest : public ::testing::Test {
 protected:
  explicit MirrorTest(const Policy& policy = {}) : file(policy) {}

  /// What FileLocks does for a grant that nothing is in the way of, and for a release.
  Reply grant(const OwnerId& id, const Range& range, Mode mode) {
    Owner& owner = file.owner(id);
    if (mirror.must_raise(owner, range, mode)) {
      if (const Reply reply = mirror.raise(owner, range, mode); !reply.is_done()) return reply;
    }
    file.set(owner, range, mode);
    mirror.set_guard(false);
    return Reply::done();
  }
  void release(const OwnerId& id, const Range& range) {
    Owner& owner = file.owner(id);
    mirror.lower(owner, range);
    file.set(owner, range, kU);
    mirror.set_guard(false);
    file.granted.drop_if_idle(owner);
  }
  std::string carried() { return to_text(backing.held()); }

  /// Where what is granted and what the backing says it holds differ.
  std::vector<Difference> differences() {
    std::vector<CarriedLock> granted;
    Coverage(file.granted, Space::kRecords).for_each([&](const Range& range, Mode mode) {
      granted.push_back({range, mode});
      return true;
    });
    std::vector<CarriedLock> found;
    EXPECT_TRUE(backing.inspector()(found));
    std::vector<Difference> all;
    compare(granted, found, {}, 100, all);
    return all;
  }
  void expect_in_step() {
    EXPECT_STREQ(mirror.check(), nullptr);
    EXPECT_TRUE(differences().empty()) << carried();
  }

  GrantedAlone file;
  std::unique_ptr<FakeBacking> owned = std::make_unique<FakeBacking>();
  FakeBacking& backing = *owned;
  Outside outside;
  Reports reports{file.context, nullptr};
  Mirror mirror{std::move(owned), file.granted, outside, reports};
};

TEST_F(MirrorTest, FollowsWhatIsGranted) {
  ASSERT_EQ(grant(ofd(1), {0, 9}, kS), kDone);
  ASSERT_EQ(grant(ofd(2), {5, 14}, kS), kDone);
  ASSERT_EQ(grant(ofd(3), {20, 29}, kX), kDone);
  EXPECT_EQ(carried(), "S[0,14] X[20,29] ");
  release(ofd(1), kWholeFile);
  EXPECT_EQ(carried(), "S[5,14] X[20,29] ");
  const auto calls = backing.sets();
  ASSERT_EQ(grant(ofd(4), {6, 7}, kS), kDone);
  EXPECT_EQ(backing.sets(), calls);
  expect_in_step();
}

TEST_F(MirrorTest, ARefusedRaiseChangesNothing) {
  ASSERT_EQ(grant(ofd(1), {0, 9}, kX), kDone);
  ASSERT_EQ(grant(flock_of(1), {20, 29}, kX), kDone);
  ASSERT_EQ(backing.outsider_set(1, {40, 49}, kX), 0);
  Owner& owner = file.owner(ofd(1));
  EXPECT_EQ(mirror.raise(owner, {0, 49}, kS), Reply::refused());
  EXPECT_EQ(carried(), "X[0,9] X[20,29] ");
  expect_in_step();
}

TEST_F(MirrorTest, WhatCannotBeLoweredIsStaleUntilRepaired) {
  ASSERT_EQ(grant(ofd(1), {0, 9}, kX), kDone);
  backing.fail_set = [](const Range&, Mode) { return EIO; };
  release(ofd(1), {0, 4});
  EXPECT_EQ(carried(), "X[0,9] ");
  EXPECT_STREQ(mirror.check(), nullptr) << "it is known to be stale";
  EXPECT_EQ(differences().size(), 1U);
  mirror.repair();
  EXPECT_EQ(carried(), "X[0,9] ");
  backing.fail_set = nullptr;
  mirror.repair();
  EXPECT_EQ(carried(), "X[5,9] ");
  expect_in_step();
}

TEST_F(MirrorTest, OfSeveralPartsTheOneThatAnOutsiderHasIsAwaited) {
  ASSERT_EQ(grant(ofd(1), {3, 4}, kX), kDone);
  ASSERT_EQ(grant(ofd(1), {6, 7}, kX), kDone);
  ASSERT_EQ(backing.outsider_set(1, {5, 5}, kX), 0);
  EXPECT_EQ(mirror.awaited_part({ofd(1), {}, {0, 9}, kS, true}), (Range{5, 5}));
  EXPECT_EQ(mirror.awaited_part({ofd(1), {}, {3, 4}, kS, true}), std::nullopt);
  // Of an exclusive request, too, only what is missing.
  EXPECT_EQ(mirror.awaited_part({ofd(1), {}, {3, 9}, kX, true}), (Range{5, 5}));
  EXPECT_EQ(mirror.awaited_part({ofd(1), {}, {4, 9}, kX, true}), (Range{5, 5}));
}

class GuardTest : public MirrorTest {
 protected:
  GuardTest() : MirrorTest(*Policy::named("guarded")) {}
  std::string guard() { return to_text(backing.flocks().held()); }
};

TEST_F(GuardTest, CarriesTheStrongestModeAsAFlock) {
  ASSERT_EQ(grant(ofd(1), {0, 9}, kS), kDone);
  EXPECT_EQ(guard(), "S[0,EOF] ");
  ASSERT_EQ(grant(ofd(2), {20, 29}, kX), kDone);
  EXPECT_EQ(guard(), "X[0,EOF] ");
  release(ofd(2), kWholeFile);
  EXPECT_EQ(guard(), "S[0,EOF] ");
  release(ofd(1), kWholeFile);
  EXPECT_EQ(guard(), "nothing");
  expect_in_step();
}

TEST_F(GuardTest, AnOutsidersFlockRefuses) {
  ASSERT_EQ(backing.flocks().outsider_set(1, kWholeFile, kS), 0);
  EXPECT_TRUE(mirror.outsider_refuses(Space::kRecords, {0, 9}, kX, false));
  EXPECT_FALSE(mirror.outsider_refuses(Space::kRecords, {0, 9}, kS, false));
  EXPECT_EQ(mirror.raise_guard(kX, nullptr), Reply::refused());
  EXPECT_EQ(mirror.raise_guard(kS, nullptr), kDone);
  EXPECT_EQ(mirror.guard(), kS);
}

// Random grants and releases of owners that do not meet, and of some that the policy exempts.
TEST_F(MirrorTest, StaysInStepUnderRandomChanges) {
  Random random(test_seed());
  for (int step = 0; step < 2000; ++step) {
    const auto n = static_cast<std::uint64_t>(random.between(1, 4));
    const OwnerId id = random.one_in(2) ? ofd(n) : flock_of(n);
    const Offset first = random.between(0, 40);
    const Range range{first, random.one_in(8) ? kEof : first + random.between(0, 20)};
    const Mode mode = random.one_in(2) ? kX : kS;
    Owner& owner = file.owner(id);
    if (random.one_in(3)) {
      release(id, range);
    } else if (file.granted.find_conflict(owner.party(), &owner, range, mode) == nullptr) {
      ASSERT_EQ(grant(id, range, mode), kDone);
    } else {
      file.granted.drop_if_idle(owner);
    }
    expect_in_step();
    if (HasFailure()) FAIL() << "step " << step;
  }
}

// -- planted breaks ------------------------------------------------------------------------------

/// The check of builds that remember what the backing was told.
void expect_found([[maybe_unused]] const Mirror& mirror, [[maybe_unused]] const char* what) {
#ifdef LOCKMGR_CHECK_INVARIANTS
  EXPECT_STREQ(mirror.check(), what);
#endif
}

TEST_F(MirrorTest, CheckFindsALowerThatWasSkipped) {
  ASSERT_EQ(grant(ofd(1), {0, 9}, kX), kDone);
  ASSERT_EQ(grant(ofd(2), {20, 29}, kX), kDone);
  file.set(ofd(1), {5, 9}, kU);
  expect_found(mirror, "the backing does not carry the strongest mode granted");
  const std::vector<Difference> found = differences();
  ASSERT_EQ(found.size(), 1U);
  EXPECT_EQ(found[0].range, (Range{5, 9}));
  EXPECT_EQ(found[0].carried, kX);
  mirror.restore(Space::kRecords, {5, 9});
  expect_in_step();
}

TEST_F(MirrorTest, CheckFindsARaiseThatWasSkipped) {
  ASSERT_EQ(grant(ofd(1), {0, 9}, kS), kDone);
  file.set(ofd(1), {9, 9}, kX);
  expect_found(mirror, "the backing does not carry the strongest mode granted");
  EXPECT_EQ(differences().size(), 1U);
  mirror.restore(Space::kRecords, kWholeFile);
  file.set(ofd(1), {0, kEof}, kS);
  expect_found(mirror, "the backing does not carry the strongest mode granted");
  EXPECT_FALSE(differences().empty());
}

TEST_F(GuardTest, CheckFindsAGuardThatIsNotWhatIsGranted) {
  ASSERT_EQ(grant(ofd(1), {0, 9}, kS), kDone);
  Owner& owner = file.owner(ofd(1));
  ASSERT_EQ(mirror.raise(owner, {0, 9}, kX), kDone);
  file.set(owner, {0, 9}, kX);
  expect_found(mirror, "the guard is not the strongest mode granted");
  EXPECT_EQ(guard(), "S[0,EOF] ");
  mirror.set_guard(false);
  expect_in_step();
}

}  // namespace
}  // namespace lockmgr
