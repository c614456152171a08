/// Which options may change while mounted, and to what.
// ctest: links=lockfs_options

#include "fs/options/option_change.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "fs/options/option_table.h"

namespace lockfs {
namespace {

/// The options of a running daemon.
Options current() {
  CommandLine command =
      parse_command_line({"-o", "workers=9,attr_timeout=3", "/data", "/export"}, true);
  EXPECT_EQ(command.error, "");
  command.options.fsname = "/data";  // as check_start() fills it in
  return command.options;
}

OptionChange plan(const std::vector<MountOption>& changes) {
  return plan_change(current(), changes);
}

TEST(OptionChange, WhatMayChangeChanges) {
  const auto [wanted, error] =
      plan({{"log_level", "warning"}, {"cache", "7"}, {"entry_timeout", "8"}, {"max_locks", "5"}});
  EXPECT_EQ(error, "");
  EXPECT_EQ(wanted.log_level, "warn");
  EXPECT_EQ(wanted.attr_timeout, 7.0);
  EXPECT_EQ(wanted.entry_timeout, 8.0);
  EXPECT_EQ(wanted.max_locks, 5U);
  EXPECT_EQ(wanted.workers, 9U) << "what nobody mentions stays";
}

TEST(OptionChange, ThePolicyMayChange) {
  EXPECT_EQ(plan({{"policy", "dual"}}).wanted.policy.text(), "dual");
  EXPECT_EQ(plan({{"fairness", "readers"}, {"lease", "9"}}).wanted.policy.text(),
            "nfs,fairness=readers,lease=9");
  EXPECT_NE(plan({{"policy", "nosuch"}}).error.find("unknown policy"), std::string::npos);
}

TEST(OptionChange, NothingIsNoChange) {
  const auto [wanted, error] = plan({});
  EXPECT_EQ(error, "");
  EXPECT_EQ(live_values(wanted), live_values(current()));
}

TEST(OptionChange, TheRestMayOnlyBeRepeated) {
  for (const auto& [same, other] : std::vector<std::pair<MountOption, MountOption>>{
           {{"workers", "9"}, {"workers", "8"}},
           {{"workers", "9"}, {"workers", "auto"}},
           {{"mirror", {}}, {"nomirror", {}}},
           {{"passthrough", "auto"}, {"passthrough", "off"}},
           {{"log_target", "auto"}, {"log_target", "syslog"}},
           {{"fsname", "/data"}, {"fsname", "/other"}},
           {{"control", "auto"}, {"control", "off"}},
           {{"allow_other", {}}, {"no_allow_other", {}}},
           {{"default_permissions", {}}, {"no_default_permissions", {}}}}) {
    EXPECT_EQ(plan({same}).error, "") << same.name;
    const std::string error = plan({other}).error;
    EXPECT_NE(error.find("'" + other.name + "' cannot change while mounted"), std::string::npos)
        << error;
    EXPECT_NE(error.find("unmount and mount again"), std::string::npos) << error;
  }
  EXPECT_NE(plan({{"workers", "8"}}).error.find("(it is 9)"), std::string::npos);
  EXPECT_NE(plan({{"context", "c"}}).error.find("cannot change"), std::string::npos);
}

TEST(OptionChange, OneRefusalRefusesAll) {
  const auto [wanted, error] = plan({{"log_level", "debug"}, {"workers", "8"}});
  EXPECT_NE(error, "");
  EXPECT_EQ(live_values(wanted), live_values(current()));
}

TEST(OptionChange, WhatIsWrittenDownIsReadAgain) {
  const std::vector<std::vector<MountOption>> all = {
      {},
      {{"noatime", {}}, {"nodiratime", {}}},
      {{"attr_timeout", "0.25"}, {"negative_timeout", "7"}, {"log_level", "debug"}},
      {{"policy", "linux"}},
      {{"policy", "samba-friendly"}, {"fairness", "readers"}, {"lease", "9"}},
      {{"max_locks", "17"}, {"max_outside_waits_per_user", "3"}},
  };
  for (const auto& changes : all) {
    const Options before = plan(changes).wanted;
    for (const auto& other : all) {
      Options after = plan(other).wanted;
      EXPECT_EQ(read_live_values(live_text(before), after), "");
      EXPECT_EQ(live_values(after), live_values(before));
    }
  }
}

TEST(OptionChange, BadValuesAndNames) {
  EXPECT_NE(plan({{"attr_timeout", "x"}}).error.find("number of seconds"), std::string::npos);
  EXPECT_NE(plan({{"attr_timeout", {}}}).error.find("needs a value"), std::string::npos);
  EXPECT_NE(plan({{"log_levle", "debug"}}).error.find("did you mean 'log_level'"),
            std::string::npos);
  EXPECT_NE(plan({{"foreground", {}}}).error.find("unknown option"), std::string::npos);
}

TEST(OptionChange, EveryOptionOfLockfsCanBeCompared) {
  // What has no value to compare is the kernel's, mount(8)'s, or about the act of mounting.
  const std::vector<std::string> free = {"cache", "sloppy", "remount", "clear_dead"};
  for (const auto& spec : option::table()) {
    if (spec.section == option::Section::kIgnored || spec.section == option::Section::kCommand) {
      continue;
    }
    const bool compared = spec.show != nullptr;
    const bool of_kernel = spec.section == option::Section::kMount;
    const bool listed = std::find(free.begin(), free.end(), spec.name) != free.end();
    EXPECT_TRUE(compared || of_kernel || listed) << spec.name;
  }
}

}  // namespace
}  // namespace lockfs
