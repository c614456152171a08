// Every preset's conflict matrix, as the manager decides it, printed and compared with the table in
// tests/policy_matrix.
#include <gtest/gtest.h>

#include <cerrno>
#include <cstdio>
#include <fstream>
#include <string>

#include "lockmgr/policy.h"
#include "tests/policy_matrix/matrix.h"
#include "tests/unit/world.h"

namespace lockmgr {
namespace {

using namespace testing;  // NOLINT(google-build-using-namespace): the vocabulary of these tests
using policy_matrix::Call;
using policy_matrix::Relation;
using policy_matrix::Side;

/// The owner of a call by process `pid` through open file `file`.
OwnerId owner_of(Call call, std::uint64_t pid, std::uint64_t file) {
  switch (call) {
    case Call::kPosix:
      return process(pid);
    case Call::kOfd:
      return ofd(file);
    case Call::kFlock:
      return flock_of(file);
  }
  return {};
}

Mode mode_of(const Side& side) { return side.exclusive ? kX : kS; }

std::string axes_of(const Policy& policy) {
  std::string text;
  for (const Axis& axis : Policy::axes()) {
    text += std::string(axis.name) + "=" + axis.get(policy) + "\n";
  }
  return text;
}

std::string matrix_of(const Preset& preset) {
  const auto granted = [&](const Side& held, const Side& asked, Relation relation) {
    World w({}, 1, preset.policy);
    const std::uint64_t pid = relation == Relation::kOtherProcess ? 2 : 1;
    const std::uint64_t file = relation == Relation::kSameOpenFile ? 1 : 2;
    EXPECT_EQ(w.lock(owner_of(held.call, 1, 1), kWholeFile, mode_of(held), {.via = 1, .pid = 1}),
              0);
    const int error = w.lock(owner_of(asked.call, pid, file), kWholeFile, mode_of(asked),
                             {.via = static_cast<int>(file), .pid = static_cast<pid_t>(pid)});
    EXPECT_TRUE(error == 0 || error == EAGAIN) << error;
    return error == 0;
  };
  const auto open_mode = [&](bool exclusive, bool readable) {
    return preset.policy.check_open_mode(OwnerType::kFlock, exclusive ? kX : kS, readable,
                                         !readable);
  };
  return policy_matrix::render(preset.name, axes_of(preset.policy), granted, open_mode);
}

TEST(PolicyMatrix, IsTheOneInTheTables) {
  for (const Preset& preset : Policy::presets()) {
    const std::string matrix = matrix_of(preset);
    std::printf("%s\n", matrix.c_str());
    if (policy_matrix::writes_tables()) {
      std::ofstream(policy_matrix::table_path(preset.name)) << matrix;
    }
    EXPECT_EQ(matrix, policy_matrix::table_of(preset.name))
        << "the matrix of " << preset.name << " is not that of "
        << policy_matrix::table_path(preset.name);
  }
}

}  // namespace
}  // namespace lockmgr
