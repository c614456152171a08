// The workloads as plans and as traces.
#include <gtest/gtest.h>

#include <chrono>
#include <string>

#include "lockmgr/trace/decoder.h"
#include "lockmgr/trace/encoder.h"
#include "mount-helpers/workload/plan.h"
#include "mount-helpers/workload/plan_trace.h"
#include "tests/replay/traces.h"

namespace replay::testing {
namespace {

class WorkloadTest : public ::testing::TestWithParam<std::size_t> {
 protected:
  static const workload::Workload& one() { return workload::workloads()[GetParam()]; }
  static lockmgr::trace::Trace trace(std::uint64_t seed) {
    return workload::trace_of(one().make({seed, std::chrono::seconds(3)}), "test");
  }
};

TEST_P(WorkloadTest, SameSeedSameBytes) {
  EXPECT_EQ(encode(trace(1)), encode(trace(1)));
  EXPECT_NE(encode(trace(1)), encode(trace(2)));
}

TEST_P(WorkloadTest, IsAValidTrace) {
  const auto decoded = lockmgr::trace::decode(encode(trace(1)));
  EXPECT_FALSE(decoded.damage) << decoded.damage->text;
  EXPECT_TRUE(decoded.trace.head.generated);
  EXPECT_FALSE(decoded.trace.events.empty());
}

TEST_P(WorkloadTest, ContendsAndComesToAnEnd) {
  const Outcome o = replay(trace(1));
  EXPECT_GT(o.waits.size() + o.refusals, 0U) << "nobody meets anybody";
  EXPECT_EQ(o.stuck, 0U);
  EXPECT_EQ(o.hazard_count, 0U) << "nfs must never let anybody in";
  EXPECT_EQ(o.errors, 0U);
  EXPECT_EQ(o.asked, o.grants + o.refusals + o.deadlocks + o.given_up);
}

INSTANTIATE_TEST_SUITE_P(All, WorkloadTest,
                         ::testing::Range<std::size_t>(0, workload::workloads().size()),
                         [](const auto& one) {
                           std::string name(workload::workloads()[one.param].name);
                           for (char& c : name) c = c == '-' ? '_' : c;
                           return name;
                         });

TEST(MailSpool, BlocksItselfUnderNfs) {
  for (const workload::Workload& one : workload::workloads()) {
    if (one.name != "mail-spool") continue;
    const Outcome o = replay(workload::trace_of(one.make({1, std::chrono::seconds(3)}), "test"));
    EXPECT_GT(o.given_up, 0U);
  }
}

}  // namespace
}  // namespace replay::testing
