// Owners, ranges and modes in words.
#include "lockmgr/text.h"

#include <gtest/gtest.h>

#include <optional>

namespace lockmgr {
namespace {

TEST(Text, OwnersAreReadAsTheyAreWritten) {
  for (const OwnerId& id : {OwnerId{OwnerType::kProcess, 0}, OwnerId{OwnerType::kOpenFile, 0x1f},
                            OwnerId{OwnerType::kFlock, UINT64_MAX}}) {
    EXPECT_EQ(owner_from(text_of(id)), id) << text_of(id);
  }
  EXPECT_EQ(owner_from("ofd:1f"), (OwnerId{OwnerType::kOpenFile, 0x1f}));
}

TEST(Text, WhatIsNoOwnerIsNone) {
  for (const char* text : {"", ":", "posix", "posix:", "posix:x", "posix:1x", "posix:-1", "lease:1",
                           "posix:10000000000000000", "posix: 1"}) {
    EXPECT_EQ(owner_from(text), std::nullopt) << text;
  }
}

TEST(Text, RangesShowBothEnds) {
  EXPECT_EQ(text_of(Range{0, 99}), "0-99");
  EXPECT_EQ(text_of(kWholeFile), "0-EOF");
}

}  // namespace
}  // namespace lockmgr
