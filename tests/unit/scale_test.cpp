// Large numbers of locks and waiters. What is measured is counted, never timed.
#include <gtest/gtest.h>

#include <cerrno>
#include <memory>
#include <vector>

#include "lockmgr/file_locks.h"
#include "lockmgr/lock_manager.h"
#include "tests/unit/fake_backing.h"
#include "tests/unit/random.h"

namespace lockmgr {
namespace {

constexpr Mode kX = Mode::kExclusive;
constexpr Mode kS = Mode::kShared;
constexpr Mode kU = Mode::kNone;

/// Nobody outside; counts the calls.
class CountingBacking final : public NoBacking {
 public:
  bool carries() const noexcept override { return true; }
  std::uint64_t sets = 0;

  Reply set(const Range&, Mode, const Carried&) noexcept override {
    ++sets;
    return Reply::done();
  }
};

class Scale : public ::testing::Test {
 protected:
  Scale() : manager_(limits(), Policy{}, nullptr) {
    auto backing = std::make_unique<CountingBacking>();
    backing_ = backing.get();
    file_ = manager_.open_file({1, 1}, std::move(backing));
  }
  static Limits limits() {
    Limits l;
    l.locks = l.locks_per_user = l.locks_per_owner = 3'000'000;
    return l;
  }
  /// How often a parked request was looked at again.
  std::uint64_t looked() const { return manager_.counters().get(Counter::kLooks); }
  std::optional<int> ask(Opened& opened, std::uint64_t owner, const Range& range, Mode mode) {
    return file_->try_now(opened, {{OwnerType::kOpenFile, owner}, {}, range, mode, false});
  }
  void wait(Opened& opened, std::uint64_t owner, const Range& range, Mode mode) {
    const auto now = file_->park(opened, {{OwnerType::kOpenFile, owner}, {}, range, mode, true},
                                 manager_.new_ticket(), [this, owner](int error) {
                                   EXPECT_EQ(error, 0);
                                   granted_.push_back(owner);
                                 });
    EXPECT_FALSE(now.has_value());
  }

  LockManager manager_;
  CountingBacking* backing_ = nullptr;
  std::shared_ptr<FileLocks> file_;
  std::vector<std::uint64_t> granted_;
};

// A hand-over costs the same with ten thousand waiters as with two: one drop, one take, one grant.
TEST_F(Scale, HandOverAmongTenThousandWaiters) {
  constexpr std::uint64_t kWaiters = 10'000;
  std::vector<std::unique_ptr<Opened>> opened;
  for (std::uint64_t n = 0; n <= kWaiters; ++n) {
    opened.push_back(std::make_unique<Opened>(true, true));
    if (n == 0) {
      ASSERT_EQ(ask(*opened[0], 0, kWholeFile, kX), 0);
    } else {
      wait(*opened[n], n, kWholeFile, kX);
    }
  }
  EXPECT_EQ(manager_.ledger().waiters(), kWaiters);
  // Only one stands in the open, all others behind another.
  std::uint64_t blocked = 0;
  for (const WaitView& view : file_->waiters()) blocked += view.place == Waiter::Place::kBlocked;
  EXPECT_EQ(blocked, 1U);
  EXPECT_STREQ(file_->check(), nullptr);
  for (std::uint64_t n = 0; n < kWaiters; ++n) {
    const auto sets = backing_->sets;
    const auto looks = looked();
    file_->close(*opened[n]);
    ASSERT_EQ(granted_.size(), n + 1);
    ASSERT_EQ(granted_.back(), n + 1);
    ASSERT_EQ(backing_->sets, sets + 2);
    // The one that is granted, and the one behind it.
    ASSERT_LE(looked(), looks + 2);
  }
  file_->close(*opened[kWaiters]);
  EXPECT_TRUE(file_->quiet());
  EXPECT_STREQ(manager_.check(), nullptr);
}

TEST_F(Scale, TenThousandSharedWaitersAreWokenOnce) {
  constexpr std::uint64_t kWaiters = 10'000;
  Opened writer(true, true);
  Opened reader(true, true);
  ASSERT_EQ(ask(writer, 0, kWholeFile, kX), 0);
  for (std::uint64_t n = 1; n <= kWaiters; ++n) wait(reader, n, kWholeFile, kS);
  const auto sets = backing_->sets;
  // Neither an unlock of nothing nor a lock elsewhere makes anybody look.
  EXPECT_EQ(ask(reader, 1, kWholeFile, kU), 0);
  EXPECT_EQ(looked(), 0U);
  file_->close(writer);
  EXPECT_EQ(granted_.size(), kWaiters);
  EXPECT_EQ(looked(), kWaiters);
  // One drop; the first reader takes, the others find it taken.
  EXPECT_EQ(backing_->sets, sets + 2);
  for (std::uint64_t n = 0; n < granted_.size(); ++n) ASSERT_EQ(granted_[n], n + 1);
  file_->close(reader);
  EXPECT_TRUE(file_->quiet());
  EXPECT_EQ(backing_->sets, sets + 3);
}

// Waiters on ranges apart: a release looks at those on its own range only.
TEST_F(Scale, ReleasesOnRangesApart) {
  constexpr std::uint64_t kOwners = 5'000;
  std::vector<std::unique_ptr<Opened>> opened;
  for (std::uint64_t n = 0; n < kOwners; ++n) {
    const auto at = static_cast<Offset>(n);
    opened.push_back(std::make_unique<Opened>(true, true));
    ASSERT_EQ(ask(*opened[n], n, {at, at}, kX), 0);
  }
  Opened waiters(true, true);
  for (std::uint64_t n = 0; n < kOwners; ++n) {
    const auto at = static_cast<Offset>(n);
    wait(waiters, kOwners + n, {at, at}, kX);
  }
  for (std::uint64_t n = 0; n < kOwners; ++n) {
    const std::uint64_t turn = (n * 1237) % kOwners;
    const auto sets = backing_->sets;
    const auto looks = looked();
    file_->close(*opened[turn]);
    ASSERT_EQ(granted_.back(), kOwners + turn);
    ASSERT_EQ(granted_.size(), n + 1);
    ASSERT_EQ(backing_->sets, sets + 2);
    ASSERT_EQ(looked(), looks + 1);
  }
  file_->close(waiters);
  EXPECT_TRUE(file_->quiet());
}

TEST_F(Scale, CancelTenThousand) {
  constexpr std::uint64_t kWaiters = 10'000;
  Opened writer(true, true);
  Opened others(true, true);
  ASSERT_EQ(ask(writer, 0, kWholeFile, kX), 0);
  int cancelled = 0;
  for (std::uint64_t n = 1; n <= kWaiters; ++n) {
    ASSERT_FALSE(file_->park(others, {{OwnerType::kOpenFile, n}, {}, kWholeFile, kX, true},
                             manager_.new_ticket(), [&](int error) {
                               EXPECT_EQ(error, ENOTCONN);
                               ++cancelled;
                             }));
  }
  manager_.shut_down(ENOTCONN);
  EXPECT_EQ(cancelled, static_cast<int>(kWaiters));
  file_->close(others);
  file_->close(writer);
  EXPECT_TRUE(file_->quiet());
}

TEST_F(Scale, AMillionLocksOfOneOwner) {
  const Offset kLocks = testing::scaled(1'000'000);
  Opened opened(true, true);
  Opened stranger(true, true);
  for (Offset i = 0; i < kLocks; ++i) {
    // Scattered, and with a gap between any two.
    const Offset at = (i * 7919) % kLocks * 2;
    ASSERT_EQ(ask(opened, 1, {at, at}, i % 2 == 0 ? kX : kS), 0);
  }
  EXPECT_EQ(manager_.ledger().locks(), static_cast<std::uint64_t>(kLocks));
  EXPECT_STREQ(file_->check(), nullptr);
  ASSERT_EQ(ask(stranger, 2, {2 * kLocks, kEof}, kX), 0);
  EXPECT_EQ(ask(stranger, 2, {kLocks - 2, kLocks + 2}, kX), EAGAIN);
  for (Offset at = 1; at < 2 * kLocks; at += 20'000) {
    ASSERT_EQ(ask(stranger, 2, {at, at}, kX), 0);
    ASSERT_EQ(ask(opened, 1, {at - 1, at + 1}, kX), EAGAIN);
    ASSERT_EQ(ask(stranger, 2, {at, at}, kU), 0);
  }
  // One request takes them all in; one release ends it, with one call.
  ASSERT_EQ(ask(opened, 1, {0, 2 * kLocks - 1}, kX), 0);
  EXPECT_EQ(manager_.ledger().locks(), 2U);
  const auto sets = backing_->sets;
  file_->close(opened);
  EXPECT_EQ(backing_->sets, sets + 1);
  file_->close(stranger);
  EXPECT_TRUE(file_->quiet());
}

TEST_F(Scale, AMillionLocksOfManyOwners) {
  constexpr std::uint64_t kOwners = 100;
  const Offset kLocks = testing::scaled(1'000'000);
  std::vector<std::unique_ptr<Opened>> opened;
  for (std::uint64_t n = 0; n < kOwners; ++n) {
    opened.push_back(std::make_unique<Opened>(true, true));
  }
  for (Offset i = 0; i < kLocks; ++i) {
    const std::uint64_t n = static_cast<std::uint64_t>(i) % kOwners;
    ASSERT_EQ(ask(*opened[n], n, {i, i}, kX), 0);
  }
  EXPECT_EQ(manager_.ledger().locks(), static_cast<std::uint64_t>(kLocks));
  for (Offset i = 0; i < kLocks; i += 9'973) {
    const std::uint64_t n = static_cast<std::uint64_t>(i) % kOwners;
    ASSERT_EQ(ask(*opened[(n + 1) % kOwners], (n + 1) % kOwners, {i, i}, kS), EAGAIN);
    ASSERT_EQ(ask(*opened[n], n, {i, i}, kS), 0);
    ASSERT_EQ(ask(*opened[(n + 1) % kOwners], (n + 1) % kOwners, {i, i}, kS), 0);
  }
  EXPECT_STREQ(file_->check(), nullptr);
  for (const auto& o : opened) file_->close(*o);
  EXPECT_TRUE(file_->quiet());
  EXPECT_EQ(manager_.ledger().locks(), 0U);
}

}  // namespace
}  // namespace lockmgr
