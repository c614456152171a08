#include "tests/ctl/commands.h"

#include <cstdlib>
#include <sstream>
#include <utility>

namespace lockfs::test {

std::string lockfsctl_program() {
  const std::string lockfs = lockfs_program();
  return lockfs.substr(0, lockfs.rfind('/')) + "/lockfsctl";
}

ProgramResult CommandTest::run(std::vector<std::string> arguments, const ProgramOptions& options) {
  arguments.insert(arguments.begin(), {lockfsctl_program(), "--socket", socket()});
  return run_program(arguments, options);
}

Json CommandTest::run_json(std::vector<std::string> arguments) {
  const ProgramResult result = run(std::move(arguments));
  EXPECT_EQ(result.status, 0) << result.output;
  Json json = Json::parse(result.output, nullptr, false);
  EXPECT_FALSE(json.is_discarded()) << result.output;
  return json;
}

Locker& CommandTest::hold(const std::string& name, Kind kind, Mode mode, Range range) {
  lockers_.push_back(std::make_unique<Locker>(in_mount(name)));
  EXPECT_EQ(lockers_.back()->try_lock(kind, mode, range), 0) << name;
  return *lockers_.back();
}

Locker& CommandTest::await(const std::string& name, Kind kind, Mode mode, Range range) {
  lockers_.push_back(std::make_unique<Locker>(in_mount(name)));
  lockers_.back()->start_lock(kind, mode, range);
  EXPECT_TRUE(lockers_.back()->waits()) << name;
  return *lockers_.back();
}

Locker& CommandTest::hold_outside(const std::string& name, Kind kind, Mode mode, Range range) {
  lockers_.push_back(std::make_unique<Locker>(fs().in_source(name)));
  EXPECT_EQ(lockers_.back()->try_lock(kind, mode, range), 0) << name;
  return *lockers_.back();
}

::testing::AssertionResult has_line(const std::string& text,
                                    const std::vector<std::string>& words) {
  std::istringstream lines(text);
  std::string line;
  while (std::getline(lines, line)) {
    std::size_t at = 0;
    bool all = true;
    for (const std::string& word : words) {
      at = line.find(word, at);
      if (at == std::string::npos) {
        all = false;
        break;
      }
      at += word.size();
    }
    if (all) return ::testing::AssertionSuccess();
  }
  std::string wanted;
  for (const std::string& word : words) wanted += word + " ... ";
  return ::testing::AssertionFailure() << "no line \"" << wanted << "\" in\n" << text;
}

}  // namespace lockfs::test
