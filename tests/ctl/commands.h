/// Runs lockfsctl against the mount of a ControlTest.
///
/// Thread safety: none.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <vector>

#include "tests/ctl/control_peer.h"
#include "tests/mounted/locks/lock_test.h"

namespace lockfs::test {

/// Path of the lockfsctl program under test.
std::string lockfsctl_program();

class CommandTest : public ControlTest {
 protected:
  void TearDown() override {
    lockers_.clear();  // they keep the mount busy
    ControlTest::TearDown();
  }

  /// lockfsctl with the mount's socket; standard output and error together.
  ProgramResult run(std::vector<std::string> arguments, const ProgramOptions& options = {});
  /// What it prints as JSON; a failure is recorded when that is none or the status is not 0.
  Json run_json(std::vector<std::string> arguments);

  /// A process that holds a lock on a file of the mount from now on.
  Locker& hold(const std::string& name, Kind kind, Mode mode, Range range = kWholeFile);
  /// A process that waits for one.
  Locker& await(const std::string& name, Kind kind, Mode mode, Range range = kWholeFile);
  /// A process that holds a lock on the file in the source.
  Locker& hold_outside(const std::string& name, Kind kind, Mode mode, Range range = kWholeFile);

 private:
  std::vector<std::unique_ptr<Locker>> lockers_;
};

/// Whether the text has a line with all of these words, in this order.
::testing::AssertionResult has_line(const std::string& text, const std::vector<std::string>& words);

}  // namespace lockfs::test
