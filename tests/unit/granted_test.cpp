// What is granted, without anybody who waits and without a backing.
#include "lockmgr/granted.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/unit/parts.h"

namespace lockmgr {
namespace {

using namespace testing;  // NOLINT(google-build-using-namespace): the vocabulary of these tests

std::string held(const Owner& owner) {
  std::vector<Segment> segments;
  for (const Held& h : owner.locks) segments.push_back({h.range, h.mode});
  return to_text(segments);
}

TEST(Granted, ReplacesSplitsAndMerges) {
  GrantedAlone file;
  Owner& a = file.owner(ofd(1));
  file.set(a, {0, 9}, kS);
  file.set(a, {10, 19}, kS);
  EXPECT_EQ(held(a), "S[0,19] ");
  file.set(a, {5, 14}, kX);
  EXPECT_EQ(held(a), "S[0,4] X[5,14] S[15,19] ");
  file.set(a, {4, 15}, kU);
  EXPECT_EQ(held(a), "S[0,3] S[16,19] ");
  EXPECT_STREQ(file.granted.check(), nullptr);
  EXPECT_EQ(file.ledger().locks(), 2U);
}

// What growth() says before a grant is by how much it adds to the owner's locks.
TEST(Granted, GrowthIsWhatCommitAdds) {
  for (const Mode held_mode : {kS, kX}) {
    for (Offset first = 8; first <= 22; ++first) {
      for (Offset last = first; last <= 22; ++last) {
        GrantedAlone file;
        Owner& a = file.owner(ofd(1));
        file.set(a, {10, 14}, held_mode);
        file.set(a, {18, 20}, kX);
        const std::size_t before = a.locks.size();
        const std::uint64_t growth = Granted::growth(a, {first, last}, kX);
        file.set(a, {first, last}, kX);
        const std::size_t after = a.locks.size();
        EXPECT_EQ(growth, after > before ? after - before : 0) << first << "-" << last;
        EXPECT_STREQ(file.granted.check(), nullptr);
      }
    }
  }
}

TEST(Granted, FindsWhatIsInTheWay) {
  GrantedAlone file;
  file.set(process(1), {0, 9}, kS);
  file.set(ofd(2), {20, 29}, kX);
  const Party other{ofd(3), 0};
  const Granted& granted = file.granted;
  EXPECT_EQ(granted.find_conflict(other, nullptr, {0, 19}, kS), nullptr);
  EXPECT_NE(granted.find_conflict(other, nullptr, {9, 19}, kX), nullptr);
  EXPECT_NE(granted.find_conflict(other, nullptr, {29, 40}, kS), nullptr);
  const Owner* self = granted.find_owner(ofd(2));
  EXPECT_EQ(granted.find_conflict(self->party(), self, {20, 29}, kX), nullptr);
  // The flock and the OFD locks of one open file are one owner's to an NFS server.
  EXPECT_EQ(granted.find_conflict({flock_of(2), 0}, nullptr, {20, 29}, kX), nullptr);
}

TEST(Granted, CoverageIsTheStrongestModeAtEachByte) {
  GrantedAlone file;
  file.set(ofd(1), {0, 9}, kS);
  file.set(ofd(2), {5, 14}, kS);
  file.set(ofd(3), {20, kEof}, kX);
  const auto mode_at = [&](Offset at, const Owner* left_out) {
    Offset last = 0;
    const Mode mode = file.granted.mode_at(Space::kRecords, at, kEof, left_out, &last);
    EXPECT_GE(last, at);
    return mode;
  };
  EXPECT_EQ(mode_at(0, nullptr), kS);
  EXPECT_EQ(mode_at(14, nullptr), kS);
  EXPECT_EQ(mode_at(15, nullptr), kU);
  EXPECT_EQ(mode_at(kEof, nullptr), kX);
  EXPECT_EQ(mode_at(12, file.granted.find_owner(ofd(2))), kU);
  EXPECT_TRUE(Granted::covered(file.granted.space(Space::kRecords), {0, 14}));
  EXPECT_FALSE(Granted::covered(file.granted.space(Space::kRecords), {0, 15}));
  EXPECT_EQ(file.granted.strongest(), kX);
}

TEST(Granted, KeepsAFewIdleOwners) {
  GrantedAlone file;
  for (std::uint64_t n = 1; n <= 20; ++n) {
    file.set(ofd(n), {0, 9}, kX);
    file.set(ofd(n), {0, 9}, kU);
  }
  std::size_t kept = 0;
  for (const Owner& owner : file.granted.owners()) kept += owner.kept ? 1 : 0;
  EXPECT_EQ(kept, 4U);
  EXPECT_NE(file.granted.find_owner(ofd(20)), nullptr);
  EXPECT_EQ(file.granted.find_owner(ofd(1)), nullptr);
  EXPECT_STREQ(file.granted.check(), nullptr);
}

TEST(Granted, FlocksMoveWithThePolicy) {
  GrantedAlone file;
  file.set(flock_of(1), kWholeFile, kS);
  file.set(ofd(2), {0, 9}, kS);
  Policy separate;
  separate.conflict_space = ConflictSpace::kSeparate;
  ASSERT_TRUE(file.granted.follow(separate));
  EXPECT_FALSE(file.granted.space(Space::kFlocks).empty());
  EXPECT_EQ(file.granted.find_conflict({ofd(3), 0}, nullptr, {50, 59}, kX), nullptr);
  EXPECT_STREQ(file.granted.check(), nullptr);
  ASSERT_TRUE(file.granted.follow({}));
  EXPECT_TRUE(file.granted.space(Space::kFlocks).empty());
  EXPECT_NE(file.granted.find_conflict({ofd(3), 0}, nullptr, {50, 59}, kX), nullptr);
  EXPECT_STREQ(file.granted.check(), nullptr);
}

// -- planted breaks ------------------------------------------------------------------------------

TEST(GrantedCheck, FindsLocksThatExcludeEachOther) {
  GrantedAlone file;
  file.set(ofd(1), {0, 9}, kX);
  file.set(ofd(2), {9, 12}, kS);
  EXPECT_STREQ(file.granted.check(), "granted locks of owners that exclude each other overlap");
  file.set(ofd(2), {9, 12}, kU);
  EXPECT_STREQ(file.granted.check(), nullptr);
}

TEST(GrantedCheck, FindsALockThatOneSideDoesNotKnow) {
  GrantedAlone file;
  Owner& a = file.owner(ofd(1));
  file.set(a, {0, 9}, kX);
  file.set(a, {20, 29}, kX);
  const Held lost = *a.locks.begin();
  a.locks.erase(lost.range.first);
  a.tally.set(1);
  EXPECT_STREQ(file.granted.check(), "trees and owners disagree on what is granted");
  ASSERT_TRUE(a.locks.prepare(2));
  a.locks.insert(lost);
  a.tally.set(2);
  EXPECT_STREQ(file.granted.check(), nullptr);
  a.locks.insert({{40, 49}, 1, kX, 0});
  EXPECT_STREQ(file.granted.check(), "an owner's lock is not in the tree of its mode");
  a.locks.erase(40);
  EXPECT_STREQ(file.granted.check(), nullptr);
}

TEST(GrantedCheck, FindsNeighboursThatAreNotMerged) {
  GrantedAlone file;
  Owner& a = file.owner(ofd(1));
  file.set(a, {0, 9}, kX);
  ASSERT_TRUE(a.locks.prepare(1));
  a.locks.insert({{10, 19}, 1, kX, 0});
  EXPECT_STREQ(file.granted.check(), "an owner's neighbouring locks of one mode are not merged");
  a.locks.erase(10);
}

TEST(GrantedCheck, FindsATallyThatHasDrifted) {
  GrantedAlone file;
  Owner& a = file.owner(ofd(1));
  file.set(a, {0, 9}, kX);
  a.tally.set(2);
  EXPECT_STREQ(file.granted.check(), "an owner's tally has drifted");
  a.tally.set(1);
}

TEST(GrantedCheck, FindsAnIdleOwnerThatIsNotKept) {
  GrantedAlone file;
  Owner& a = file.owner(ofd(1));
  EXPECT_STREQ(file.granted.check(), "an idle owner is not kept, or a kept one not idle");
  file.granted.drop_if_idle(a);
  EXPECT_STREQ(file.granted.check(), nullptr);
}

}  // namespace
}  // namespace lockmgr
