/// Which mounts a source consists of, and what they forbid.
// ctest: links=lockfs_daemon

#include "fs/daemon/source_mounts.h"

#include <gtest/gtest.h>

#include <string>

namespace lockfs {
namespace {

constexpr std::uint64_t kRoot = 20;

/// The restrictions of /data, which lies on mount kRoot, as "nosuid:/data/a noexec:/".
std::string found_in(const std::string& lines) {
  const auto found = restrictors_of(parse_mountinfo(lines), kRoot, "/data");
  std::string text;
  for (std::size_t i = 0; i < kRestrictions; ++i) {
    for (const auto& [id, mount_point] : found[i]) {
      text += (text.empty() ? "" : " ") + std::string(restrictions()[i].name) + ":" + mount_point;
    }
  }
  return text;
}

const std::string kPlain = "20 1 8:1 / / rw,relatime - ext4 /dev/a rw\n";

TEST(SourceMounts, TheOneThatTheSourceLiesOn) {
  EXPECT_EQ(found_in(kPlain), "");
  EXPECT_EQ(found_in("20 1 8:1 / / rw,nosuid,nodev,relatime - ext4 /dev/a rw\n"),
            "nosuid:/ nodev:/");
  EXPECT_EQ(found_in("20 1 8:1 / / rw,noexec,nosymfollow - ext4 /dev/a rw\n"),
            "noexec:/ nosymfollow:/");
  EXPECT_EQ(found_in("21 1 8:1 / / rw,nosuid - ext4 /dev/a rw\n"), "") << "another mount";
}

TEST(SourceMounts, ThoseBelowIt) {
  EXPECT_EQ(found_in(kPlain + "30 20 0:30 / /data/a rw,nosuid - tmpfs a rw\n"
                              "31 30 0:31 / /data/a/b rw,noexec - tmpfs b rw\n"),
            "nosuid:/data/a noexec:/data/a/b");
  // The kernel lists them by place in the tree, not by age.
  EXPECT_EQ(found_in("31 30 0:31 / /data/a/b rw,noexec - tmpfs b rw\n" + kPlain +
                     "30 20 0:30 / /data/a rw - tmpfs a rw\n"),
            "noexec:/data/a/b");
}

TEST(SourceMounts, NotThoseBesideIt) {
  EXPECT_EQ(found_in(kPlain + "30 20 0:30 / /data2 rw,nosuid - tmpfs a rw\n"
                              "31 20 0:31 / /other rw,noexec - tmpfs b rw\n"),
            "");
}

// Mounted over itself, lockfs covers its source: what is mounted there lies on lockfs.
TEST(SourceMounts, NotThoseOnWhatCoversIt) {
  EXPECT_EQ(found_in(kPlain + "30 20 0:30 / /data rw,nosuid - fuse.lockfs /data rw\n"
                              "31 30 0:31 / /data/tmp rw,noexec - tmpfs b rw\n"),
            "");
}

}  // namespace
}  // namespace lockfs
