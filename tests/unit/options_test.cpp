/// The option parser: every option, its limits, and what is said about mistakes.
// ctest: links=lockfs_options

#include "fs/options/options.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

namespace lockfs {
namespace {

CommandLine parse(std::vector<std::string> arguments, bool root = true) {
  arguments.insert(arguments.end(), {"/data", "/export"});
  return parse_command_line(arguments, root);
}

/// Parses what must be right.
Options good(std::vector<std::string> arguments, bool root = true) {
  CommandLine command = parse(std::move(arguments), root);
  EXPECT_EQ(command.error, "");
  EXPECT_EQ(command.action, CommandLine::Action::kMount);
  EXPECT_EQ(command.options.source, "/data");
  EXPECT_EQ(command.options.mountpoint, "/export");
  return command.options;
}

std::string bad(std::vector<std::string> arguments, bool root = true) {
  const CommandLine command = parse(std::move(arguments), root);
  EXPECT_NE(command.error, "");
  EXPECT_EQ(command.error.find('\n'), std::string::npos) << command.error;
  return command.error;
}

void expect_says(const std::string& error, const std::vector<std::string>& parts) {
  for (const auto& part : parts) {
    EXPECT_NE(error.find(part), std::string::npos) << "missing: " << part << "\nin: " << error;
  }
}

using Strings = std::vector<std::string>;

TEST(Options, DefaultsOfRoot) {
  const Options options = good({});
  EXPECT_FALSE(options.foreground);
  EXPECT_FALSE(options.debug);
  EXPECT_FALSE(options.read_only);
  EXPECT_FALSE(options.nosuid);
  EXPECT_FALSE(options.nodev);
  EXPECT_FALSE(options.noexec);
  EXPECT_FALSE(options.noatime);
  EXPECT_TRUE(options.allow_other);
  EXPECT_TRUE(options.default_permissions);
  EXPECT_EQ(options.fsname, "");
  EXPECT_EQ(options.kernel_options, Strings{});
  EXPECT_EQ(options.log_level, "info");
  EXPECT_EQ(options.log_target, LogTarget::kAuto);
  EXPECT_EQ(options.workers, 0U);
  EXPECT_EQ(options.passthrough, DataPassthrough::kAuto);
  EXPECT_EQ(options.policy, lockmgr::Policy{});
  EXPECT_TRUE(options.mirror);
}

TEST(Options, DefaultsOfOthers) {
  const Options options = good({}, false);
  EXPECT_TRUE(options.nosuid);
  EXPECT_TRUE(options.nodev);
  EXPECT_FALSE(options.noexec);
  EXPECT_FALSE(options.allow_other);
  EXPECT_FALSE(options.default_permissions);
}

TEST(Options, AllowOtherBringsPermissionChecks) {
  EXPECT_TRUE(good({"-o", "allow_other"}, false).default_permissions);
  for (const bool root : {false, true}) {
    expect_says(bad({"-o", "allow_other,no_default_permissions"}, root),
                {"no_default_permissions", "no_allow_other"});
  }
  const Options closed = good({"-o", "no_default_permissions,no_allow_other"});
  EXPECT_FALSE(closed.allow_other);
  EXPECT_FALSE(closed.default_permissions);
}

TEST(Options, MountFlags) {
  const Options set = good({"-o", "ro,nosuid,nodev,noexec,noatime"});
  EXPECT_TRUE(set.read_only && set.nosuid && set.nodev && set.noexec && set.noatime);
  const Options last = good({"-o", "ro,nosuid,nodev,noexec,noatime,rw,suid,dev,exec,atime"});
  EXPECT_FALSE(last.read_only || last.nosuid || last.nodev || last.noexec || last.noatime);
  EXPECT_TRUE(good({"-r"}).read_only);
  EXPECT_FALSE(good({"-r", "-w"}).read_only);
  EXPECT_TRUE(good({"-w", "--ro"}).read_only);
}

TEST(Options, OnlyRootLetsSuidAndDevThrough) {
  expect_says(bad({"-o", "suid"}, false), {"'suid'", "only root"});
  expect_says(bad({"-o", "dev"}, false), {"'dev'", "only root"});
  EXPECT_TRUE(good({"-o", "suid,dev,nosuid,nodev"}, false).nosuid);
}

TEST(Options, WaysToWriteAnOption) {
  const std::vector<Strings> ways = {
      {"-o", "ro,attr_timeout=3"},        {"-oro,attr_timeout=3"},
      {"-o", "ro", "-oattr_timeout=3"},   {"--ro", "--attr-timeout=3"},
      {"--ro", "--attr_timeout", "3"},    {"--options=ro,attr_timeout=3"},
      {"--options", "ro,attr_timeout=3"}, {"-o", ",,ro,,attr_timeout=3,"},
      {"-o", "attr_timeout=\"3\",ro"},
  };
  for (const auto& way : ways) {
    const Options options = good(way);
    EXPECT_TRUE(options.read_only) << way[0];
    EXPECT_EQ(options.attr_timeout, 3.0) << way[0];
  }
}

TEST(Options, OptionsMayStandAnywhere) {
  for (const Strings& line :
       {Strings{"/data", "/export", "-o", "ro", "-f"}, Strings{"/data", "-f", "/export", "-oro"},
        Strings{"-fo", "ro", "/data", "/export"}, Strings{"-foro", "--", "/data", "/export"}}) {
    const CommandLine command = parse_command_line(line, true);
    EXPECT_EQ(command.error, "");
    EXPECT_EQ(command.options.source, "/data");
    EXPECT_EQ(command.options.mountpoint, "/export");
    EXPECT_TRUE(command.options.foreground);
    EXPECT_TRUE(command.options.read_only);
  }
}

TEST(Options, DoubleDashEndsOptions) {
  const CommandLine command = parse_command_line({"-f", "--", "-o", "-V"}, true);
  EXPECT_EQ(command.error, "");
  EXPECT_EQ(command.options.source, "-o");
  EXPECT_EQ(command.options.mountpoint, "-V");
}

TEST(Options, LoneDashIsAPath) {
  const CommandLine command = parse_command_line({"-", "/export"}, true);
  EXPECT_EQ(command.error, "");
  EXPECT_EQ(command.options.source, "-");
}

TEST(Options, Foreground) {
  EXPECT_TRUE(good({"-f"}).foreground);
  EXPECT_TRUE(good({"--foreground"}).foreground);
  EXPECT_EQ(good({"-f"}).log_level, "info");
  for (const Strings& debug : {Strings{"-d"}, Strings{"--debug"}, Strings{"-o", "debug"}}) {
    const Options options = good(debug);
    EXPECT_TRUE(options.debug);
    EXPECT_TRUE(options.foreground);
    EXPECT_EQ(options.log_level, "debug");
  }
  EXPECT_EQ(good({"-o", "log_level=warn", "-d"}).log_level, "warn");
  EXPECT_TRUE(good({"-fd"}).debug);
}

TEST(Options, HelpAndVersionNeedNoPaths) {
  for (const char* help : {"-h", "--help"}) {
    EXPECT_EQ(parse_command_line({help}, true).action, CommandLine::Action::kHelp);
    EXPECT_EQ(parse_command_line({"/data", help}, true).error, "");
  }
  for (const char* version : {"-V", "--version"}) {
    EXPECT_EQ(parse_command_line({version}, true).action, CommandLine::Action::kVersion);
  }
}

TEST(Options, Seconds) {
  const Options options = good({"-o", "attr_timeout=0.5,entry_timeout=10,negative_timeout=0"});
  EXPECT_EQ(options.attr_timeout, 0.5);
  EXPECT_EQ(options.entry_timeout, 10.0);
  EXPECT_EQ(options.negative_timeout, 0.0);
  EXPECT_EQ(good({"-o", "attr_timeout=31536000"}).attr_timeout, 31536000.0);
  const Options cache = good({"-o", "attr_timeout=9,cache=2.5,entry_timeout=7"});
  EXPECT_EQ(cache.attr_timeout, 2.5);
  EXPECT_EQ(cache.entry_timeout, 7.0);
  EXPECT_EQ(cache.negative_timeout, 0.0);
  for (const char* name : {"attr_timeout", "entry_timeout", "negative_timeout", "cache"}) {
    for (const char* value : {"", "-1", "-0", "x", "1x", "1,5s", "nan", "inf", "1e400", "0x10",
                              " 1", "1 ", "31536001", "1e3", "+1", "."}) {
      const auto error = bad({std::string("--") + name + "=" + value});
      expect_says(error, {"--" + std::string(name), "'" + std::string(value) + "'",
                          "seconds from 0 to 31536000"});
    }
  }
}

TEST(Options, Limits) {
  const Options options = good(
      {"-o",
       "max_locks=1,max_locks_per_user=2,max_locks_per_owner=3,max_waiters=4,"
       "max_waiters_per_user=1000000000,max_outside_waits=100000,max_outside_waits_per_user=5"});
  EXPECT_EQ(options.max_locks, 1U);
  EXPECT_EQ(options.max_locks_per_user, 2U);
  EXPECT_EQ(options.max_locks_per_owner, 3U);
  EXPECT_EQ(options.max_waiters, 4U);
  EXPECT_EQ(options.max_waiters_per_user, 1'000'000'000U);
  EXPECT_EQ(options.max_outside_waits, 100'000U);
  EXPECT_EQ(options.max_outside_waits_per_user, 5U);
  for (const char* name :
       {"max_locks", "max_locks_per_user", "max_locks_per_owner", "max_waiters",
        "max_waiters_per_user", "max_outside_waits", "max_outside_waits_per_user"}) {
    const std::string range = std::string(name).starts_with("max_outside_waits")
                                  ? "from 1 to 100000"
                                  : "from 1 to 1000000000";
    for (const char* value : {"", "0", "-1", "x", "1x", "1.5", "+1", "0x10", " 1", "1000000001",
                              "18446744073709551616", "99999999999999999999999"}) {
      expect_says(bad({"-o", std::string(name) + "=" + value}),
                  {"'" + std::string(name) + "'", "'" + std::string(value) + "'", range});
    }
  }
}

TEST(Options, Workers) {
  EXPECT_EQ(good({"-o", "workers=7"}).workers, 7U);
  EXPECT_EQ(good({"-o", "workers=1024"}).workers, 1024U);
  EXPECT_EQ(good({"-o", "workers=auto"}).workers, 0U);
  for (const char* value : {"0", "-3", "1025", "many", "", "4294967297"}) {
    expect_says(bad({"-o", std::string("workers=") + value}),
                {"'workers'", "'" + std::string(value) + "'", "from 1 to 1024"});
  }
}

TEST(Options, Choices) {
  EXPECT_EQ(good({"-o", "passthrough=on"}).passthrough, DataPassthrough::kOn);
  EXPECT_EQ(good({"-o", "passthrough=off"}).passthrough, DataPassthrough::kOff);
  EXPECT_EQ(good({"-o", "passthrough=off,passthrough=auto"}).passthrough, DataPassthrough::kAuto);
  expect_says(bad({"-o", "passthrough=yes"}), {"'passthrough'", "'yes'", "auto, on, off"});

  EXPECT_EQ(good({"-o", "policy=nfs"}).policy.text(), "nfs");
  expect_says(bad({"-o", "policy=afs"}), {"'policy'", "'afs'", "known: nfs"});
  expect_says(bad({"-o", "policy="}), {"'policy'", "known: nfs"});

  EXPECT_EQ(good({"-o", "log_target=stderr"}).log_target, LogTarget::kStderr);
  EXPECT_EQ(good({"-o", "log_target=syslog"}).log_target, LogTarget::kSyslog);
  EXPECT_EQ(good({"-o", "log_target=auto"}).log_target, LogTarget::kAuto);
#ifdef LOCKFS_HAVE_SYSTEMD
  EXPECT_EQ(good({"-o", "log_target=journal"}).log_target, LogTarget::kJournal);
#else
  expect_says(bad({"-o", "log_target=journal"}), {"log_target", "syslog"});
#endif
  expect_says(bad({"-o", "log_target=/tmp/x"}), {"'/tmp/x'", "auto, stderr, syslog, journal"});

  for (const char* level : {"trace", "debug", "info", "warn", "error", "critical", "off"}) {
    EXPECT_EQ(good({"-o", std::string("log_level=") + level}).log_level, level);
  }
  EXPECT_EQ(good({"-o", "log_level=warning"}).log_level, "warn");
  expect_says(bad({"-o", "log_level=loud"}), {"'log_level'", "'loud'", "trace, debug"});
}

TEST(Options, Mirror) {
  EXPECT_FALSE(good({"-o", "nomirror"}).mirror);
  EXPECT_FALSE(good({"--no-mirror"}).mirror);
  EXPECT_TRUE(good({"-o", "nomirror,mirror"}).mirror);
}

TEST(Options, FsnameAndEscapes) {
  EXPECT_EQ(good({"-o", "fsname=server:/data"}).fsname, "server:/data");
  EXPECT_EQ(good({"-o", "fsname=a=b,ro"}).fsname, "a=b");
  EXPECT_EQ(good({"-o", R"(fsname=a\,b\\c\d,ro)"}).fsname, R"(a,b\c\d)");
  EXPECT_EQ(good({"-o", R"(fsname="a,b",ro)"}).fsname, "a,b");
  EXPECT_TRUE(good({"-o", R"(fsname="a,b",ro)"}).read_only);
  expect_says(bad({"-o", "fsname="}), {"'fsname'", "empty"});
  expect_says(bad({"-o", R"(ro,fsname="a,b)"}), {"closing quote"});
}

TEST(Options, KernelOptions) {
  EXPECT_EQ(good({"-o", R"(context="system_u:object_r:t:s0:c1,c2",sync,ro)"}).kernel_options,
            (Strings{R"(context="system_u:object_r:t:s0:c1,c2")", "sync"}));
  EXPECT_EQ(good({"-o", "sync,dirsync,async"}).kernel_options, Strings{"dirsync"});
}

TEST(Options, MountOnlyOptionsPassSilently) {
  const Options plain = good({});
  const Options options =
      good({"-o",
            "defaults,_netdev,nofail,noauto,auto,user,user=anna,nouser,users,owner,group,x-a,"
            "x-systemd.automount,x-systemd.requires=nfs-server.service,X-mount.mkdir=0755,"
            "comment=any thing,relatime,nostrictatime,nolazytime,silent"});
  EXPECT_EQ(options.kernel_options, plain.kernel_options);
  EXPECT_EQ(options.read_only, plain.read_only);
  EXPECT_EQ(options.nosuid, plain.nosuid);
  good({"--x-systemd.automount"});
  bad({"-o", "x-"});
}

TEST(Options, WhatTheSourceHasToDoIsRefused) {
  for (const char* option : {"strictatime", "norelatime", "lazytime"}) {
    expect_says(bad({"-o", option}), {option, "source's own mount"});
  }
}

TEST(Options, WhatIsAskedForByName) {
  EXPECT_FALSE(good({}).asks_exec || good({"-o", "exec,noexec"}).asks_exec);
  const Options options = good({"-o", "suid,dev,exec,symfollow"});
  EXPECT_TRUE(options.asks_suid && options.asks_dev && options.asks_exec && options.asks_symfollow);
  EXPECT_TRUE(good({"-o", "nosymfollow"}).nosymfollow);
  EXPECT_TRUE(good({"-o", "exec,noexec"}).noexec);
}

TEST(Options, Remount) {
  const CommandLine command =
      parse({"-o", "remount,ro,user_id=0,x-foo=1", "--log-level=debug", "-o", "cache=2"});
  EXPECT_EQ(command.error, "");
  EXPECT_EQ(command.action, CommandLine::Action::kRemount);
  std::string options;
  for (const auto& [name, value] : command.mount_options) {
    options += name + (value ? "=" + *value : "") + " ";
  }
  EXPECT_EQ(options, "remount ro user_id=0 x-foo=1 log_level=debug cache=2 ");
  expect_says(bad({"-o", "remount,attr_timeout=x"}), {"'attr_timeout'"});
}

TEST(Options, CheckAndSloppy) {
  EXPECT_FALSE(parse({}).check_only);
  EXPECT_TRUE(parse({"--check"}).check_only);
  EXPECT_TRUE(good({"-o", "bogus,ro,sloppy,more=1"}).read_only);
  expect_says(bad({"-o", "bogus,ro"}), {"unknown option 'bogus'"});
  expect_says(bad({"-o", "sloppy,attr_timeout=x"}), {"'attr_timeout'"});
  expect_says(bad({"-o", "sloppy", "--bogus"}), {"unknown option '--bogus'"});
}

TEST(Options, UnknownOptions) {
  expect_says(bad({"-o", "atr_timeout=1"}), {"'atr_timeout'", "did you mean 'attr_timeout'"});
  expect_says(bad({"-o", "attr-timeout=1"}), {"did you mean 'attr_timeout'"});
  expect_says(bad({"-o", "alow_other"}), {"did you mean 'allow_other'"});
  expect_says(bad({"--attr-timout=1"}), {"'--attr-timout'", "did you mean '--attr-timeout'"});
  expect_says(bad({"--forground"}), {"did you mean '--foreground'"});
  expect_says(bad({"-o", "foreground"}), {"unknown option 'foreground'"});
  expect_says(bad({"-o", "help"}), {"unknown option 'help'"});
  expect_says(bad({"-x"}), {"'-x'", "--help"});
  expect_says(bad({"-fx"}), {"'-x'"});
  expect_says(bad({"-o", "=1"}), {"unknown option ''"});
  for (const Strings& line :
       {Strings{"-o", "xyzzy"}, Strings{"--xyzzy"}, Strings{"-o", std::string(100'000, 'a')}}) {
    const auto error = bad(line);
    expect_says(error, {"unknown option '", "lockfs --help"});
    EXPECT_EQ(error.find("did you mean"), std::string::npos) << error;
  }
}

TEST(Options, ValuesWhereNoneBelong) {
  expect_says(bad({"-o", "ro=1"}), {"'ro'", "takes no value", "'1'"});
  expect_says(bad({"--foreground=yes"}), {"'--foreground'", "takes no value"});
  expect_says(bad({"-o", "attr_timeout"}), {"'attr_timeout'", "attr_timeout=SECONDS"});
  expect_says(parse_command_line({"/data", "/export", "--workers"}, true).error,
              {"--workers", "needs a value"});
  expect_says(parse_command_line({"/data", "/export", "-o"}, true).error, {"'-o'", "ro,nosuid"});
  expect_says(parse_command_line({"/data", "/export", "--options"}, true).error, {"'--options'"});
}

TEST(Options, Paths) {
  expect_says(parse_command_line({}, true).error, {"SOURCE and MOUNTPOINT", "usage"});
  expect_says(parse_command_line({"-f"}, true).error, {"SOURCE and MOUNTPOINT"});
  expect_says(parse_command_line({"/data"}, true).error, {"MOUNTPOINT is missing", "usage"});
  expect_says(parse_command_line({"", "/export"}, true).error, {"SOURCE is empty"});
  expect_says(parse_command_line({"/data", ""}, true).error, {"MOUNTPOINT is empty"});
  expect_says(bad({"/third"}), {"unexpected argument '/export'"});
}

TEST(Options, HelpNamesEveryOptionThatActs) {
  const auto text = help_text();
  for (const char* name : {"-f",
                           "-d",
                           "-h",
                           "-V",
                           "-o",
                           "ro",
                           "rw",
                           "nosuid",
                           "nodev",
                           "noexec",
                           "noatime",
                           "fsname",
                           "allow_other",
                           "default_permissions",
                           "attr_timeout",
                           "entry_timeout",
                           "negative_timeout",
                           "cache",
                           "log_level",
                           "log_target",
                           "workers",
                           "passthrough",
                           "policy",
                           "mirror",
                           "nomirror",
                           "max_locks",
                           "max_locks_per_user",
                           "max_locks_per_owner",
                           "max_waiters",
                           "max_waiters_per_user",
                           "max_outside_waits",
                           "max_outside_waits_per_user"}) {
    EXPECT_NE(text.find("\n  " + std::string(name)), std::string::npos) << name;
  }
  EXPECT_NE(text.find("(default 4000000)"), std::string::npos);
  EXPECT_NE(text.find("Usage: lockfs [options] SOURCE MOUNTPOINT\n"), std::string::npos);
}

}  // namespace
}  // namespace lockfs
