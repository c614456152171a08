// Which threads may open a file that has no name any more.
// ctest: links=lockfs_tree
#include "fs/tree/stale_names.h"

#include <gtest/gtest.h>

namespace lockfs {
namespace {

constexpr pid_t kThread = 7;
constexpr pid_t kOther = 8;
constexpr std::uint64_t kOld = 100;
constexpr std::uint64_t kNew = 101;

TEST(StaleNames, ARefusedFileMayBeOpenedAtTheSecondTry) {
  StaleNames names;
  EXPECT_TRUE(names.refuses(kThread, 0, kOld));
  EXPECT_FALSE(names.refuses(kThread, 0, kOld));
  EXPECT_TRUE(names.refuses(kThread, 0, kOld)) << "the note was used up";
}

TEST(StaleNames, WhatWasLookedUpAfterARefusalMayHaveLostItsNameToo) {
  StaleNames names;
  EXPECT_TRUE(names.refuses(kThread, 0, kOld));
  names.found(kThread, kNew);
  EXPECT_FALSE(names.refuses(kThread, 0, kNew));
}

TEST(StaleNames, ARefusalOpensNoOtherFile) {
  StaleNames names;
  EXPECT_TRUE(names.refuses(kThread, 0, kOld));
  EXPECT_TRUE(names.refuses(kThread, 0, kNew));
  EXPECT_TRUE(names.refuses(kOther, 0, kOld));
}

TEST(StaleNames, ALookupAloneOpensNothing) {
  StaleNames names;
  names.found(kThread, kNew);
  EXPECT_TRUE(names.refuses(kThread, 0, kNew));
}

TEST(StaleNames, AfterAnotherReasonTheLookupCounts) {
  StaleNames names;
  names.told(kThread);
  names.found(kThread, kNew);
  EXPECT_FALSE(names.refuses(kThread, 0, kNew));
}

TEST(StaleNames, AFileWithANameAlwaysOpensAndEndsIt) {
  StaleNames names;
  EXPECT_FALSE(names.refuses(kThread, 1, kNew));
  EXPECT_TRUE(names.refuses(kThread, 0, kOld));
  EXPECT_FALSE(names.refuses(kThread, 2, kNew));
  EXPECT_TRUE(names.refuses(kThread, 0, kOld));
  names.forget(kThread);
  EXPECT_TRUE(names.refuses(kThread, 0, kOld));
}

}  // namespace
}  // namespace lockfs
