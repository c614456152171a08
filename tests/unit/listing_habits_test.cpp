#include "fs/listing_habits.h"

#include <gtest/gtest.h>

namespace lockfs {
namespace {

using Answer = ListingHabits::Answer;

TEST(ListingHabits, WhoLooksUpFilesGetsAttributes) {
  ListingHabits habits;
  EXPECT_EQ(habits.begin_listing(7), Answer::kAllButOne);
  habits.note_lookup(7);
  EXPECT_EQ(habits.begin_listing(7), Answer::kAttributes);
  EXPECT_EQ(habits.begin_listing(7), Answer::kAttributes);
}

TEST(ListingHabits, WhoDoesNotGetsNamesUntilItDoes) {
  ListingHabits habits;
  EXPECT_EQ(habits.begin_listing(7), Answer::kAllButOne);
  EXPECT_EQ(habits.begin_listing(7), Answer::kNames);
  habits.note_lookup(7);
  EXPECT_EQ(habits.begin_listing(7), Answer::kAttributes);
}

TEST(ListingHabits, ThreadsAreToldApart) {
  ListingHabits habits;
  EXPECT_EQ(habits.begin_listing(7), Answer::kAllButOne);
  habits.note_lookup(8);  // listed nothing yet
  EXPECT_EQ(habits.begin_listing(8), Answer::kAllButOne);
  habits.note_lookup(8);
  EXPECT_EQ(habits.begin_listing(7), Answer::kNames);
  EXPECT_EQ(habits.begin_listing(8), Answer::kAttributes);
}

TEST(ListingHabits, OneInTheSameSlotStartsAnew) {
  ListingHabits habits;
  habits.begin_listing(7);
  habits.note_lookup(7);
  for (pid_t other = 8; other < 1000; ++other) habits.begin_listing(other);
  EXPECT_EQ(habits.begin_listing(7), Answer::kAllButOne);
}

}  // namespace
}  // namespace lockfs
