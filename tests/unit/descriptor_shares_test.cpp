// The files that each user may have open.
// ctest: links=lockfs_tree
#include "fs/tree/descriptor_shares.h"

#include <gtest/gtest.h>

#include <vector>

namespace lockfs {
namespace {

using Shares = std::vector<DescriptorShares::Share>;

/// Takes all that `uid` gets, up to `wanted`. Returns how many.
std::size_t take_all(DescriptorShares& shares, uid_t uid, Shares& taken,
                     std::size_t wanted = SIZE_MAX) {
  std::size_t count = 0;
  for (; count < wanted; ++count) {
    auto [error, share] = shares.take(uid);
    if (error != 0) {
      EXPECT_EQ(error, ENFILE);
      break;
    }
    taken.push_back(std::move(share));
  }
  EXPECT_EQ(shares.of(uid), count);
  return count;
}

TEST(DescriptorShares, WhoeverComesLastGetsSome) {
  DescriptorShares shares(1000, true);
  Shares taken;
  EXPECT_EQ(take_all(shares, 1, taken), 750U);
  EXPECT_EQ(take_all(shares, 2, taken), 188U);
  EXPECT_EQ(take_all(shares, 3, taken), 47U);
  EXPECT_GT(take_all(shares, 4, taken), 0U);
  taken.clear();
  EXPECT_EQ(shares.of(1), 0U);
  EXPECT_EQ(take_all(shares, 5, taken), 750U);
}

TEST(DescriptorShares, RootMayTakeWhatIsKept) {
  DescriptorShares shares(100, true);
  Shares of_root;
  EXPECT_EQ(take_all(shares, 0, of_root, 150), 150U);
  Shares taken;
  EXPECT_EQ(take_all(shares, 1, taken), 0U);
  of_root.clear();
  EXPECT_EQ(take_all(shares, 1, taken), 75U);
}

TEST(DescriptorShares, OneUserAloneMayHaveAll) {
  DescriptorShares shares(100, false);
  Shares taken;
  EXPECT_EQ(take_all(shares, 1, taken), 100U);
}

}  // namespace
}  // namespace lockfs
