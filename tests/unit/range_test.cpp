#include "lockmgr/range.h"

#include <gtest/gtest.h>

namespace lockmgr {
namespace {

TEST(Modes, OnlySharedLocksGoTogether) {
  const Mode all[] = {Mode::kNone, Mode::kShared, Mode::kExclusive};
  for (const Mode a : all) {
    for (const Mode b : all) {
      const bool locked = a != Mode::kNone && b != Mode::kNone;
      const bool exclusive = a == Mode::kExclusive || b == Mode::kExclusive;
      EXPECT_EQ(modes_conflict(a, b), locked && exclusive);
    }
  }
}

TEST(Relate, SixCases) {
  const Range wanted{10, 19};
  EXPECT_EQ(relate({0, 5}, wanted), Overlap::kApart);
  EXPECT_EQ(relate({30, 35}, wanted), Overlap::kApart);
  EXPECT_EQ(relate({10, 19}, wanted), Overlap::kEqual);
  EXPECT_EQ(relate({5, 25}, wanted), Overlap::kContains);
  EXPECT_EQ(relate({12, 15}, wanted), Overlap::kInside);
  EXPECT_EQ(relate({5, 15}, wanted), Overlap::kOverHead);
  EXPECT_EQ(relate({15, 25}, wanted), Overlap::kOverTail);
}

TEST(Relate, SharedEndsNeedNoSplit) {
  const Range wanted{10, 19};
  EXPECT_EQ(relate({10, 25}, wanted), Overlap::kOverTail);
  EXPECT_EQ(relate({5, 19}, wanted), Overlap::kOverHead);
  EXPECT_EQ(relate({10, 15}, wanted), Overlap::kInside);
  EXPECT_EQ(relate({15, 19}, wanted), Overlap::kInside);
  EXPECT_EQ(relate({5, 10}, wanted), Overlap::kOverHead);
  EXPECT_EQ(relate({19, 25}, wanted), Overlap::kOverTail);
  EXPECT_EQ(relate({5, 9}, wanted), Overlap::kApart);
  EXPECT_EQ(relate({20, 25}, wanted), Overlap::kApart);
}

TEST(Relate, EndOfFile) {
  EXPECT_EQ(relate(kWholeFile, kWholeFile), Overlap::kEqual);
  EXPECT_EQ(relate(kWholeFile, {0, 5}), Overlap::kOverTail);
  EXPECT_EQ(relate(kWholeFile, {5, kEof}), Overlap::kOverHead);
  EXPECT_EQ(relate(kWholeFile, {5, 6}), Overlap::kContains);
  EXPECT_EQ(relate({kEof, kEof}, kWholeFile), Overlap::kInside);
  EXPECT_EQ(relate({kEof, kEof}, {kEof, kEof}), Overlap::kEqual);
  EXPECT_EQ(relate({0, kEof - 1}, {kEof, kEof}), Overlap::kApart);
}

TEST(Touches, NeighboursAndTheLastByte) {
  EXPECT_TRUE((Range{0, 4}).touches({5, 9}));
  EXPECT_TRUE((Range{5, 9}).touches({0, 4}));
  EXPECT_FALSE((Range{0, 4}).touches({6, 9}));
  EXPECT_FALSE((Range{6, 9}).touches({0, 4}));
  // Nothing may be added to the last byte of all.
  EXPECT_TRUE((Range{0, kEof}).touches({0, kEof}));
  EXPECT_TRUE((Range{kEof, kEof}).touches({0, kEof - 1}));
  EXPECT_TRUE((Range{0, kEof - 1}).touches({kEof, kEof}));
  EXPECT_FALSE((Range{kEof, kEof}).touches({0, kEof - 2}));
}

// Every pair of ranges of a small file against the definitions, byte by byte.
TEST(Range, AgreesWithBytes) {
  constexpr Offset kBytes = 7;
  const auto has = [](const Range& r, Offset at) { return r.first <= at && at <= r.last; };
  for (Offset a = 0; a < kBytes; ++a) {
    for (Offset b = a; b < kBytes; ++b) {
      for (Offset c = 0; c < kBytes; ++c) {
        for (Offset d = c; d < kBytes; ++d) {
          const Range held{a, b};
          const Range wanted{c, d};
          int common = 0;
          for (Offset at = 0; at < kBytes; ++at) common += has(held, at) && has(wanted, at);
          const bool before = a < c;
          const bool behind = b > d;
          EXPECT_EQ(held.overlaps(wanted), common > 0);
          EXPECT_EQ(held.contains(wanted), common == d - c + 1);
          EXPECT_EQ(held.touches(wanted), common > 0 || b + 1 == c || d + 1 == a);
          const Overlap expected = common == 0          ? Overlap::kApart
                                   : held == wanted     ? Overlap::kEqual
                                   : before && behind   ? Overlap::kContains
                                   : !before && !behind ? Overlap::kInside
                                   : before             ? Overlap::kOverHead
                                                        : Overlap::kOverTail;
          EXPECT_EQ(relate(held, wanted), expected);
        }
      }
    }
  }
}

}  // namespace
}  // namespace lockmgr
