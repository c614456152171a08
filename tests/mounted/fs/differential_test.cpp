// Thousands of random operations by several users, on the mount and on a plain directory: every
// result, every error number and the trees in between must agree.
// ctest: timeout=600
#include <cctype>
#include <csignal>
#include <deque>
#include <functional>
#include <string>
#include <vector>

#include "tests/mounted/fs/differential_steps.h"
#include "tests/mounted/fs/fs_support.h"

namespace lockfs::fstest {
namespace {

class DifferentialTest : public FsTest, public ::testing::WithParamInterface<std::string> {
 protected:
  std::vector<std::string> options() const override { return {GetParam()}; }

  /// Set-ID bits that a file gets while it is open go with the next passed-through write, even of
  /// root, who could leave them on the backing filesystem.
  Choices any_{make_random(std::hash<std::string>{}(GetParam())),
               /*set_id_bits=*/GetParam() == "passthrough=off"};
};

INSTANTIATE_TEST_SUITE_P(Options, DifferentialTest,
                         ::testing::Values("passthrough=auto", "passthrough=off",
                                           "attr_timeout=0,entry_timeout=0", "workers=1"),
                         [](const auto& test) {
                           std::string name = test.param;
                           std::erase_if(name, [](char c) { return std::isalnum(c) == 0; });
                           return name;
                         });

TEST_P(DifferentialTest, RandomOperationsAgree) {
  Side here{mounted_, {}};
  Side there{plain_, {}};
  const ScopedUmask umask(022);
  ::signal(SIGPIPE, SIG_IGN);  // writes into FIFOs without a reader
  std::deque<std::string> history;
  const int steps = scaled(10000, 500);
  const int between_trees = 400;
  int succeeded = 0;
  for (int number = 0; number < steps; ++number) {
    const Step step = next_step(any_);
    const uid_t uid = any_.chance(60) ? 0 : any_.uid();
    const std::string words =
        std::to_string(number) + " as " + std::to_string(uid) + ": " + step.words;
    history.push_back(words);
    if (history.size() > 60) history.pop_front();
    Outcome outcome;
    {
      // Each user's group is his own, and 54321's group is 54322's second.
      const ScopedUser user(uid, uid,
                            uid == 54322 ? std::vector<gid_t>{54321} : std::vector<gid_t>{});
      const Outcome expected = step.run(there);
      outcome = step.run(here);
      // same() runs on directories only; these also hold descriptors.
      if (!(outcome == expected)) {
        same(words, [&](const Dir& dir) { return &dir == &mounted_ ? outcome : expected; });
      }
    }
    if (outcome.error == 0) ++succeeded;
    if (number % between_trees == between_trees - 1) expect_same_trees(words);
    if (HasFailure()) {
      std::string log;
      for (const std::string& line : history) log += line + "\n";
      FAIL() << "after these steps (seed " << test_seed() << "):\n" << log;
    }
  }
  expect_same_trees("at the end");
  // Most random operations fail, but enough must not.
  EXPECT_GT(succeeded, steps / 8);
}

}  // namespace
}  // namespace lockfs::fstest
