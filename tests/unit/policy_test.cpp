#include "lockmgr/policy.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <string>

namespace lockmgr {
namespace {

constexpr OwnerType kTypes[] = {OwnerType::kProcess, OwnerType::kOpenFile, OwnerType::kFlock};

TEST(Policy, Names) {
  ASSERT_FALSE(Policy::names().empty());
  EXPECT_EQ(Policy::names().front(), "nfs");
  for (const auto name : Policy::names()) {
    const auto policy = Policy::named(name);
    ASSERT_TRUE(policy.has_value());
    EXPECT_EQ(policy->name(), name);
  }
  EXPECT_FALSE(Policy::named("").has_value());
  EXPECT_FALSE(Policy::named("nf").has_value());
  EXPECT_FALSE(Policy::named("NFS").has_value());
  EXPECT_EQ(Policy{}.name(), "nfs");
}

TEST(Policy, OwnersExcludeEachOtherWhateverTheirTypes) {
  const Policy policy;
  for (const OwnerType a : kTypes) {
    for (const OwnerType b : kTypes) {
      EXPECT_TRUE(policy.exclusive_of({a, 1}, {b, 2}));
      EXPECT_EQ(policy.exclusive_of({a, 1}, {b, 1}), policy.exclusive_of({b, 1}, {a, 1}));
    }
    EXPECT_FALSE(policy.exclusive_of({a, 1}, {a, 1}));
  }
}

TEST(Policy, OneOpenFilesFlockAndOfdLocksGoTogether) {
  const Policy policy;
  EXPECT_FALSE(policy.exclusive_of({OwnerType::kFlock, 1}, {OwnerType::kOpenFile, 1}));
  // A process cookie that happens to equal an open file's names somebody else.
  EXPECT_TRUE(policy.exclusive_of({OwnerType::kProcess, 1}, {OwnerType::kOpenFile, 1}));
  EXPECT_TRUE(policy.exclusive_of({OwnerType::kFlock, 1}, {OwnerType::kProcess, 1}));
}

TEST(Policy, FlockNeedsTheOpenMode) {
  const Policy policy;
  for (const bool readable : {false, true}) {
    for (const bool writable : {false, true}) {
      EXPECT_EQ(policy.check_open_mode(OwnerType::kFlock, Mode::kShared, readable, writable),
                readable ? 0 : EBADF);
      EXPECT_EQ(policy.check_open_mode(OwnerType::kFlock, Mode::kExclusive, readable, writable),
                writable ? 0 : EBADF);
      EXPECT_EQ(policy.check_open_mode(OwnerType::kFlock, Mode::kNone, readable, writable), 0);
      for (const OwnerType type : {OwnerType::kProcess, OwnerType::kOpenFile}) {
        EXPECT_EQ(policy.check_open_mode(type, Mode::kShared, readable, writable), 0);
        EXPECT_EQ(policy.check_open_mode(type, Mode::kExclusive, readable, writable), 0);
      }
    }
  }
}

TEST(Policy, OnlyProcessesTakePartInDeadlockDetection) {
  const Policy policy;
  EXPECT_TRUE(policy.in_deadlock_detection(OwnerType::kProcess));
  EXPECT_FALSE(policy.in_deadlock_detection(OwnerType::kOpenFile));
  EXPECT_FALSE(policy.in_deadlock_detection(OwnerType::kFlock));
}

TEST(OwnerType, Text) {
  EXPECT_EQ(std::string(to_string(OwnerType::kProcess)), "posix");
  EXPECT_EQ(std::string(to_string(OwnerType::kOpenFile)), "ofd");
  EXPECT_EQ(std::string(to_string(OwnerType::kFlock)), "flock");
}

}  // namespace
}  // namespace lockmgr
