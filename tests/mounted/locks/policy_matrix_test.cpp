/// Every preset's conflict matrix, as system calls through a mount see it, against the table in
/// tests/policy_matrix.

#include <algorithm>
#include <string>
#include <string_view>

#include "lockmgr/policy.h"
#include "tests/mounted/locks/lock_test.h"
#include "tests/policy_matrix/matrix.h"

namespace lockfs::test {
namespace {

using policy_matrix::Call;
using policy_matrix::Relation;
using policy_matrix::Side;

Kind kind_of(const Side& side) {
  switch (side.call) {
    case Call::kPosix:
      return kPosix;
    case Call::kOfd:
      return kOfd;
    case Call::kFlock:
      return kFlock;
  }
  return kFlock;
}

Mode mode_of(const Side& side) { return side.exclusive ? kExclusive : kShared; }

class PolicyMatrixTest : public ::testing::TestWithParam<std::string_view> {};

TEST_P(PolicyMatrixTest, IsTheOneInTheTable) {
  LOCKFS_NOT_PLAIN();
  Mount mount;
  ASSERT_EQ(mount.start({"policy=" + std::string(GetParam())}), "");
  ASSERT_TRUE(write_file(mount.in_source("file"), ""));
  const std::string path = mount.in_mount("file");

  const auto granted = [&](const Side& held, const Side& asked, Relation relation) {
    Locker one(path);
    Locker other(path);
    EXPECT_EQ(one.try_lock(kind_of(held), mode_of(held)), 0);
    int error = 0;
    if (relation == Relation::kOtherProcess) {
      error = other.try_lock(kind_of(asked), mode_of(asked));
    } else {
      const int fd = relation == Relation::kSameOpenFile ? one.fd() : one.open(path, O_RDWR);
      error = one.Lane::try_lock(fd, kind_of(asked), mode_of(asked));
    }
    EXPECT_TRUE(error == 0 || error == EAGAIN) << std::strerror(error);
    // The actors end before the next cell begins.
    one.exit();
    other.exit();
    mount.settle("file");
    return error == 0;
  };
  const auto open_mode = [&](bool exclusive, bool readable) {
    Locker one(path, (readable ? O_RDONLY : O_WRONLY) | O_CLOEXEC);
    const int error = one.try_lock(kFlock, exclusive ? kExclusive : kShared);
    one.exit();
    mount.settle("file");
    return error;
  };
  std::string axes;
  const auto policy = lockmgr::Policy::named(GetParam());
  ASSERT_TRUE(policy.has_value());
  for (const lockmgr::Axis& axis : lockmgr::Policy::axes()) {
    axes += std::string(axis.name) + "=" + axis.get(*policy) + "\n";
  }
  EXPECT_EQ(policy_matrix::render(GetParam(), axes, granted, open_mode),
            policy_matrix::table_of(GetParam()));
  EXPECT_EQ(mount.stop(), "");
}

INSTANTIATE_TEST_SUITE_P(Presets, PolicyMatrixTest, ::testing::ValuesIn(lockmgr::Policy::names()),
                         [](const auto& test) {
                           std::string name(test.param);
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

}  // namespace
}  // namespace lockfs::test
