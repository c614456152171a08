#include "lockmgr/owner_table.h"

#include <gtest/gtest.h>

#include <array>
#include <cstdint>
#include <iterator>
#include <memory>
#include <set>

namespace lockmgr {
namespace {

struct Named {
  Named(OwnerType type, std::uint64_t cookie) : id{type, cookie} { ++live; }
  ~Named() { --live; }
  Named(const Named&) = delete;
  Named& operator=(const Named&) = delete;

  const OwnerId id;
  boost::intrusive::unordered_set_member_hook<> table_hook;
  static inline int live = 0;
};
using Table = OwnerTable<Named>;

constexpr std::array<OwnerType, 3> kTypes{OwnerType::kProcess, OwnerType::kOpenFile,
                                          OwnerType::kFlock};

Named& insert(Table& table, OwnerType type, std::uint64_t cookie) {
  return table.insert(std::make_unique<Named>(type, cookie));
}

TEST(OwnerTable, FindsByTypeAndCookie) {
  Table table;
  EXPECT_EQ(table.begin(), table.end());
  EXPECT_EQ(table.find({OwnerType::kFlock, 7}), nullptr);
  Named& flock = insert(table, OwnerType::kFlock, 7);
  EXPECT_EQ(table.find({OwnerType::kFlock, 7}), &flock);
  EXPECT_EQ(table.find({OwnerType::kOpenFile, 7}), nullptr);
  Named& ofd = insert(table, OwnerType::kOpenFile, 7);
  EXPECT_EQ(table.find({OwnerType::kFlock, 7}), &flock);
  EXPECT_EQ(table.find({OwnerType::kOpenFile, 7}), &ofd);
  table.erase(flock);
  EXPECT_EQ(table.find({OwnerType::kFlock, 7}), nullptr);
  EXPECT_EQ(table.find({OwnerType::kOpenFile, 7}), &ofd);
  EXPECT_EQ(Named::live, 1);
}

// Cookies as addresses are: alike in their low bits.
TEST(OwnerTable, GrowsAndEmpties) {
  constexpr std::uint64_t kCount = 10'000;
  {
    Table table;
    for (std::uint64_t n = 0; n < kCount; ++n) insert(table, kTypes[n % 3], n * 4096);
    std::set<std::uint64_t> met;
    for (const Named& owner : table) met.insert(owner.id.cookie);
    EXPECT_EQ(met.size(), kCount);
    for (std::uint64_t n = 0; n < kCount; n += 2) {
      Named* owner = table.find({kTypes[n % 3], n * 4096});
      ASSERT_NE(owner, nullptr) << n;
      table.erase(*owner);
    }
    for (std::uint64_t n = 0; n < kCount; ++n) {
      ASSERT_EQ(table.find({kTypes[n % 3], n * 4096}) != nullptr, n % 2 == 1) << n;
    }
    EXPECT_EQ(static_cast<std::uint64_t>(std::distance(table.begin(), table.end())), kCount / 2);
    EXPECT_EQ(Named::live, static_cast<int>(kCount / 2));
  }
  EXPECT_EQ(Named::live, 0);
}

// A table looks at the low bits of a hash only.
TEST(OwnerTable, HashesOfAddressesDifferInTheirLowBits) {
  for (const std::uint64_t apart : {1, 16, 64, 4096, 1 << 20}) {
    std::set<std::size_t> low;
    for (std::uint64_t n = 0; n < 1024; ++n) {
      low.insert(OwnerIdHash()({OwnerType::kOpenFile, 0x7f0000000000 + n * apart}) & 1023U);
    }
    EXPECT_GT(low.size(), 400U) << apart;
  }
}

}  // namespace
}  // namespace lockmgr
