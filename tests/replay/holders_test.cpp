// The reference that hazards are judged by.
#include "mount-helpers/replay/holders.h"

#include <gtest/gtest.h>

#include <chrono>

namespace replay::testing {
namespace {

using lockmgr::kWholeFile;
using lockmgr::Mode;
using lockmgr::OwnerType;
using std::chrono::seconds;

Holders::Who who(OwnerType type, std::uint64_t cookie, pid_t pid, bool remote = false) {
  return {{type, cookie}, remote, pid, static_cast<Index>(pid)};
}

TEST(Holders, TwoProgramsAtOnceAreAHazard) {
  Holders h;
  h.grant(0, who(OwnerType::kFlock, 1, 1), kWholeFile, Mode::kExclusive, seconds(1));
  h.grant(0, who(OwnerType::kProcess, 2, 2), {0, 9}, Mode::kShared, seconds(2));
  ASSERT_EQ(h.hazard_count(), 1U);
  EXPECT_EQ(h.hazards()[0].holder, 1U);
  EXPECT_EQ(h.hazards()[0].intruder, 2U);
}

TEST(Holders, NoHazardWithoutAConflict) {
  Holders h;
  const auto mine = who(OwnerType::kFlock, 1, 1);
  h.grant(0, mine, kWholeFile, Mode::kShared, seconds(0));
  h.grant(0, who(OwnerType::kFlock, 2, 2), kWholeFile, Mode::kShared, seconds(0));     // shared
  h.grant(1, who(OwnerType::kFlock, 3, 3), kWholeFile, Mode::kExclusive, seconds(0));  // elsewhere
  h.grant(1, who(OwnerType::kProcess, 4, 3), kWholeFile, Mode::kExclusive, seconds(0));  // itself
  h.grant(2, who(OwnerType::kProcess, 5, 5), {0, 9}, Mode::kExclusive, seconds(0));
  h.grant(2, who(OwnerType::kProcess, 6, 6), {10, 19}, Mode::kExclusive, seconds(0));  // beside
  h.release(0, mine.id, false, kWholeFile, seconds(1));
  EXPECT_EQ(h.hazard_count(), 0U);
}

TEST(Holders, OutsidersCount) {
  Holders h;
  h.grant(0, who(OwnerType::kProcess, 7, 1, true), {0, 0}, Mode::kExclusive, seconds(0));
  // The same numbers, but somebody else.
  h.grant(0, who(OwnerType::kProcess, 7, 1), {0, 0}, Mode::kExclusive, seconds(0));
  EXPECT_EQ(h.hazard_count(), 1U);
  h.release(0, {OwnerType::kProcess, 7}, true, kWholeFile, seconds(1));
  h.grant(0, who(OwnerType::kProcess, 8, 2), {1, 5}, Mode::kExclusive, seconds(2));
  EXPECT_EQ(h.hazard_count(), 1U);
}

TEST(Holders, StaysSpanWhatWasHeld) {
  Holders h;
  const auto mine = who(OwnerType::kProcess, 1, 1);
  h.grant(0, mine, {0, 9}, Mode::kShared, seconds(1));
  h.grant(0, mine, {20, 29}, Mode::kShared, seconds(2));
  h.grant(0, mine, {20, 29}, Mode::kExclusive, seconds(3));
  h.release(0, mine.id, false, {20, 29}, seconds(4));
  h.release(0, mine.id, false, {5, 9}, seconds(5));
  EXPECT_EQ(h.stays().size(), 1U);
  h.end(seconds(6));
  ASSERT_EQ(h.stays().size(), 2U);
  EXPECT_EQ(h.stays()[0].begin, seconds(1));
  EXPECT_EQ(h.stays()[0].end, seconds(3));
  EXPECT_EQ(h.stays()[0].mode, Mode::kShared);
  EXPECT_EQ(h.stays()[1].begin, seconds(3));
  EXPECT_EQ(h.stays()[1].end, seconds(6));
}

TEST(RangeMap, SplitsAndJoins) {
  RangeMap map;
  map.set({0, 99}, Mode::kExclusive);
  map.set({40, 49}, Mode::kNone);
  EXPECT_FALSE(map.conflicts({40, 49}, Mode::kExclusive));
  EXPECT_TRUE(map.conflicts({49, 50}, Mode::kShared));
  EXPECT_TRUE(map.conflicts({39, 40}, Mode::kShared));
  map.set({45, lockmgr::kEof}, Mode::kShared);
  EXPECT_TRUE(map.conflicts({50, 50}, Mode::kExclusive));
  EXPECT_FALSE(map.conflicts({50, 50}, Mode::kShared));
  map.set(kWholeFile, Mode::kNone);
  EXPECT_TRUE(map.empty());
}

}  // namespace
}  // namespace replay::testing
