#include "lockmgr/policy.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <string>

namespace lockmgr {
namespace {

constexpr OwnerType kTypes[] = {OwnerType::kProcess, OwnerType::kOpenFile, OwnerType::kFlock};

Party party(OwnerType type, std::uint64_t cookie, pid_t process = 0) {
  return {{type, cookie}, process};
}

Policy with(std::string_view axis, std::string_view value) {
  Policy policy;
  EXPECT_EQ(policy.set(axis, value), "");
  return policy;
}

TEST(Policy, Names) {
  ASSERT_FALSE(Policy::names().empty());
  EXPECT_EQ(Policy::names().front(), "nfs");
  for (const auto name : Policy::names()) {
    const auto policy = Policy::named(name);
    ASSERT_TRUE(policy.has_value());
    EXPECT_EQ(policy->text(), name);
  }
  EXPECT_FALSE(Policy::named("").has_value());
  EXPECT_FALSE(Policy::named("nf").has_value());
  EXPECT_FALSE(Policy::named("NFS").has_value());
  EXPECT_EQ(Policy{}.text(), "nfs");
}

TEST(Policy, EveryValueIsReadAndWritten) {
  for (const Axis& axis : Policy::axes()) {
    ASSERT_FALSE(axis.values.empty());
    EXPECT_EQ(axis.get(Policy{}), axis.values.front().name) << axis.name << ": nfs comes first";
    for (const AxisValue& value : axis.values) {
      EXPECT_FALSE(value.follows.empty());
      const std::string text(value.name == "SECONDS" || value.name == "N" ? "7" : value.name);
      const Policy policy = with(axis.name, text);
      EXPECT_EQ(axis.get(policy), text);
      Policy parsed;
      EXPECT_EQ(Policy::parse(policy.text(), {}, parsed), "") << policy.text();
      EXPECT_EQ(parsed, policy) << policy.text();
    }
  }
}

TEST(Policy, ParsesAPresetAndAxesOnTop) {
  Policy policy;
  EXPECT_EQ(Policy::parse("bsd,fairness=readers", {}, policy), "");
  EXPECT_EQ(policy.open_mode, OpenMode::kRelaxed);
  EXPECT_EQ(policy.order, Order::kReaders);
  EXPECT_EQ(policy.text(), "bsd,fairness=readers");
  EXPECT_EQ(Policy::parse("handover=local", policy, policy), "");
  EXPECT_EQ(policy.text(), "bsd,fairness=readers,handover=local");
  for (const char* bad : {"", "afs", "nfs,", "nfs,dual", "nfs,fairness", "nfs,fairness=",
                          "nfs,fairness=first", "nfs,color=red", "fairness=fifo,nfs"}) {
    Policy kept = policy;
    const std::string error = Policy::parse(bad, {}, kept);
    EXPECT_NE(error.find("known: "), std::string::npos) << bad << ": " << error;
    EXPECT_EQ(kept, policy);
  }
}

TEST(Policy, OwnersExcludeEachOtherWhateverTheirTypes) {
  const Policy policy;
  for (const OwnerType a : kTypes) {
    for (const OwnerType b : kTypes) {
      EXPECT_TRUE(policy.excludes(party(a, 1), party(b, 2)));
      EXPECT_EQ(policy.excludes(party(a, 1), party(b, 1)),
                policy.excludes(party(b, 1), party(a, 1)));
      EXPECT_TRUE(policy.excludes(party(a, 1, 7), party(b, 2, 7))) << "one process is no excuse";
    }
    EXPECT_FALSE(policy.excludes(party(a, 1), party(a, 1)));
  }
}

TEST(Policy, OneOpenFilesFlockAndOfdLocksGoTogether) {
  const Policy policy;
  using enum OwnerType;
  EXPECT_FALSE(policy.excludes(party(kFlock, 1), party(kOpenFile, 1)));
  // A process cookie that happens to equal an open file's names somebody else.
  EXPECT_TRUE(policy.excludes(party(kProcess, 1), party(kOpenFile, 1)));
  EXPECT_TRUE(policy.excludes(party(kFlock, 1), party(kProcess, 1)));
}

TEST(Policy, ExemptsFlockAndRecordLocksOfOneProcess) {
  const Policy policy = with("same_process", "exempt");
  using enum OwnerType;
  EXPECT_FALSE(policy.excludes(party(kFlock, 1, 7), party(kProcess, 2, 7)));
  EXPECT_FALSE(policy.excludes(party(kProcess, 2, 7), party(kFlock, 1, 7)));
  EXPECT_FALSE(policy.excludes(party(kFlock, 1, 7), party(kOpenFile, 2, 7)));
  EXPECT_TRUE(policy.excludes(party(kFlock, 1, 7), party(kProcess, 2, 8)));
  EXPECT_TRUE(policy.excludes(party(kFlock, 1, 0), party(kProcess, 2, 0))) << "unknown";
  EXPECT_TRUE(policy.excludes(party(kFlock, 1, 7), party(kFlock, 2, 7)));
  EXPECT_TRUE(policy.excludes(party(kOpenFile, 1, 7), party(kProcess, 2, 7)));
}

TEST(Policy, TurnsFollowTheOrder) {
  const Policy fifo;
  EXPECT_LT(fifo.turn(Mode::kExclusive, 1), fifo.turn(Mode::kShared, 2));
  const Policy readers = with("fairness", "readers");
  EXPECT_LT(readers.turn(Mode::kShared, 2), readers.turn(Mode::kExclusive, 1));
  EXPECT_LT(readers.turn(Mode::kExclusive, 1), readers.turn(Mode::kExclusive, 2));
  const Policy writers = with("fairness", "writers");
  EXPECT_LT(writers.turn(Mode::kExclusive, 2), writers.turn(Mode::kShared, 1));
  EXPECT_FALSE(with("fairness", "newcomers").queues_behind_waiters());
}

TEST(Policy, RelaxedOpenModeLetsEveryDescriptorLock) {
  const Policy policy = with("open_mode", "relaxed");
  EXPECT_EQ(policy.check_open_mode(OwnerType::kFlock, Mode::kExclusive, true, false), 0);
  EXPECT_EQ(policy.check_open_mode(OwnerType::kFlock, Mode::kShared, false, true), 0);
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

TEST(Policy, DeadlockDetectionCanTakeAllOrNone) {
  for (const OwnerType type : kTypes) {
    EXPECT_TRUE(with("deadlock", "all").in_deadlock_detection(type));
    EXPECT_FALSE(with("deadlock", "off").in_deadlock_detection(type));
  }
}

TEST(OwnerType, Text) {
  EXPECT_EQ(std::string(to_string(OwnerType::kProcess)), "posix");
  EXPECT_EQ(std::string(to_string(OwnerType::kOpenFile)), "ofd");
  EXPECT_EQ(std::string(to_string(OwnerType::kFlock)), "flock");
}

}  // namespace
}  // namespace lockmgr
