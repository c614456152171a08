/// Reading the mount table and writing shell words.
// ctest: links=lockfs_daemon

#include "fs/daemon/preflight.h"

#include <gtest/gtest.h>

#include <string>

#include "fs/options/logging.h"

namespace lockfs {
namespace {

TEST(Mountinfo, Fields) {
  const auto entries = parse_mountinfo(
      "22 27 0:21 / /proc rw,relatime - proc proc rw\n"
      "40 27 0:50 /sub /mnt/a rw shared:1 master:2 - fuse.lockfs server:/data rw,user_id=0\n"
      "41 27 0:51 / /mnt/plain rw - ext4 /dev/sda1 rw\n");
  ASSERT_EQ(entries.size(), 3U);
  EXPECT_EQ(entries[0].mount_point, "/proc");
  EXPECT_EQ(entries[0].type, "proc");
  EXPECT_EQ(entries[1].mount_point, "/mnt/a");
  EXPECT_EQ(entries[1].type, "fuse.lockfs");
  EXPECT_EQ(entries[1].source, "server:/data");
  EXPECT_EQ(entries[2].source, "/dev/sda1");
}

TEST(Mountinfo, OctalEscapes) {
  const auto entries =
      parse_mountinfo(R"(40 27 0:50 / /mnt/a\040b\011c\012d\134e rw - fuse.lockfs /da\040ta rw)");
  ASSERT_EQ(entries.size(), 1U);
  EXPECT_EQ(entries[0].mount_point, "/mnt/a b\tc\nd\\e");
  EXPECT_EQ(entries[0].source, "/da ta");
}

TEST(Mountinfo, LinesThatDontFitAreLeftOut) {
  EXPECT_TRUE(parse_mountinfo("").empty());
  EXPECT_TRUE(parse_mountinfo("\n\n").empty());
  EXPECT_TRUE(parse_mountinfo("22 27 0:21 / /proc\n").empty());
  EXPECT_TRUE(parse_mountinfo("22 27 0:21 / /proc rw shared:1 proc proc rw\n").empty());
  EXPECT_TRUE(parse_mountinfo("22 27 0:21 / /proc rw -\n").empty());
}

TEST(Mountinfo, UnescapeTakesOnlyWholeEscapes) {
  EXPECT_EQ(unescape_octal(R"(\040)"), " ");
  EXPECT_EQ(unescape_octal(R"(\04)"), R"(\04)");
  EXPECT_EQ(unescape_octal(R"(a\)"), R"(a\)");
  EXPECT_EQ(unescape_octal(R"(\089\)"), R"(\089\)");
}

TEST(Paths, BelowAFolder) {
  for (const char* path : {"/a/b", "/a/b/", "/a/b/c", "/a/b//"})
    EXPECT_TRUE(is_below(path, "/a/b"));
  for (const char* path : {"/a", "/a/bc", "/", "/a/c/b"}) EXPECT_FALSE(is_below(path, "/a/b"));
  EXPECT_TRUE(is_below("/", "/") && is_below("/a", "/"));
}

TEST(ShellQuote, OneWordAlways) {
  EXPECT_EQ(shell_quote("/export/a-b_c.d:e@1"), "/export/a-b_c.d:e@1");
  EXPECT_EQ(shell_quote("/a b"), "'/a b'");
  EXPECT_EQ(shell_quote("/it's"), R"('/it'\''s')");
  EXPECT_EQ(shell_quote(""), "''");
  EXPECT_EQ(shell_quote("-x"), "'-x'");
  EXPECT_EQ(shell_quote("$(reboot)"), "'$(reboot)'");
}

TEST(PrintError, OneLineAlways) {
  ::testing::internal::CaptureStderr();
  print_error("a\nb\x7f\x1b[0m c\xc3\xa4");
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "lockfs: a\\012b\\177\\033[0m c\xc3\xa4\n");
}

}  // namespace
}  // namespace lockfs
