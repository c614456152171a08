// Which folders are listed for their names only.
// ctest: links=lockfs_tree
#include "fs/tree/listing_habits.h"

#include <gtest/gtest.h>

namespace lockfs {
namespace {

using Answer = ListingHabits::Answer;

constexpr std::uint64_t kFolder = 1000;
constexpr std::uint64_t kOther = 2000;

TEST(ListingHabits, WhoLooksUpFilesGetsAttributes) {
  ListingHabits habits;
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(habits.begin_listing(7, kFolder), Answer::kAllButOne);
    habits.note_lookup(7, kFolder);
  }
}

TEST(ListingHabits, WhoDoesNotGetsNamesUntilItDoes) {
  ListingHabits habits;
  EXPECT_EQ(habits.begin_listing(7, kFolder), Answer::kAllButOne);
  EXPECT_EQ(habits.begin_listing(7, kFolder), Answer::kNames);
  habits.note_lookup(7, kFolder);
  EXPECT_EQ(habits.begin_listing(7, kFolder), Answer::kAllButOne);
  EXPECT_EQ(habits.begin_listing(7, kFolder), Answer::kNames);
}

TEST(ListingHabits, FilesElsewhereSayNothing) {
  ListingHabits habits;
  EXPECT_EQ(habits.begin_listing(7, kFolder), Answer::kAllButOne);
  habits.note_lookup(7, kOther);
  EXPECT_EQ(habits.begin_listing(7, kOther), Answer::kNames);
  habits.note_lookup(7, kFolder);  // not the one it listed last
  EXPECT_EQ(habits.begin_listing(7, kFolder), Answer::kNames);
  habits.note_lookup(7, kFolder);
  EXPECT_EQ(habits.begin_listing(7, kOther), Answer::kAllButOne);
}

TEST(ListingHabits, ThreadsAreToldApart) {
  ListingHabits habits;
  EXPECT_EQ(habits.begin_listing(7, kFolder), Answer::kAllButOne);
  habits.note_lookup(8, kFolder);  // listed nothing yet
  EXPECT_EQ(habits.begin_listing(8, kFolder), Answer::kAllButOne);
  habits.note_lookup(8, kFolder);
  EXPECT_EQ(habits.begin_listing(7, kFolder), Answer::kNames);
  EXPECT_EQ(habits.begin_listing(8, kFolder), Answer::kAllButOne);
}

TEST(ListingHabits, OneInTheSameSlotStartsAnew) {
  ListingHabits habits;
  habits.begin_listing(7, kFolder);
  habits.note_lookup(7, kFolder);
  for (pid_t other = 8; other < 1000; ++other) habits.begin_listing(other, kFolder);
  EXPECT_EQ(habits.begin_listing(7, kFolder), Answer::kAllButOne);
}

}  // namespace
}  // namespace lockfs
