/// What the filesystem tests share: owned descriptors, outcomes that can be compared, acting as
/// another user, running programs, and a textual portrait of a directory tree.
///
/// Most tests here are differential: the same operations run on the mount and on a plain directory
/// of the same backing filesystem, and every result, error number and resulting tree must agree.
/// What the backing filesystem does is then the specification; nothing has to be guessed.
///
/// Thread safety: everything here is for single-threaded tests, save `Fd`, `call`, `read_file` and
/// `write_file`, which may run on any thread.
#pragma once

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <iosfwd>
#include <random>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tests/mounted/support/mounted.h"
#include "tests/mounted/support/process.h"

namespace lockfs::fstest {

/// An owned descriptor. Moves; closes when it goes.
class Fd {
 public:
  Fd() = default;
  explicit Fd(int fd) : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&& other) noexcept {
    if (this != &other) {
      reset();
      fd_ = std::exchange(other.fd_, -1);
    }
    return *this;
  }
  Fd(const Fd&) = delete;
  Fd& operator=(const Fd&) = delete;
  ~Fd() { reset(); }

  /// The number; -1 when nothing is owned. Lets a Fd go straight into a system call.
  operator int() const { return fd_; }  // NOLINT(google-explicit-constructor)
  bool ok() const { return fd_ >= 0; }
  void reset();

 private:
  int fd_ = -1;
};

/// What an operation gave: its value, its error number (0 when it succeeded) and whatever else is
/// worth comparing.
struct Outcome {
  long value = 0;
  int error = 0;
  std::string data;

  bool operator==(const Outcome&) const = default;
};
std::ostream& operator<<(std::ostream& out, const Outcome& outcome);

/// Wraps a system call's return value: a negative one becomes -1 and the current errno.
Outcome call(long result);

/// As `call`, for calls that return a descriptor: the number itself is not comparable, so success
/// is 0; the descriptor is closed.
Outcome call_fd(int fd);

/// A directory that operations are run in.
struct Dir {
  int fd = -1;       ///< opened with O_PATH | O_DIRECTORY
  std::string path;  ///< absolute, without a slash at the end

  std::string operator/(std::string_view name) const { return path + "/" + std::string(name); }
};

using Operation = std::function<Outcome(const Dir&)>;

/// Effective identity of this process while in scope. Capabilities go with uid 0 and come back with
/// it, as in any program that drops privileges for a while.
class ScopedUser {
 public:
  ScopedUser(uid_t uid, gid_t gid, const std::vector<gid_t>& groups = {});
  ScopedUser(const ScopedUser&) = delete;
  ScopedUser& operator=(const ScopedUser&) = delete;
  ~ScopedUser();

 private:
  std::vector<gid_t> saved_groups_;
};

/// umask of this process while in scope.
class ScopedUmask {
 public:
  explicit ScopedUmask(mode_t mask) : saved_(::umask(mask)) {}
  ScopedUmask(const ScopedUmask&) = delete;
  ScopedUmask& operator=(const ScopedUmask&) = delete;
  ~ScopedUmask() { ::umask(saved_); }

 private:
  mode_t saved_;
};

using test::plain_mode;
using test::scaled;

/// The seed of this run's random tests: LOCKFS_TEST_SEED, or a fresh one. Printed once, so a
/// failure can be repeated.
std::uint64_t test_seed();

/// A generator of its own for each use: `stream` keeps two uses of one seed apart.
std::mt19937_64 make_random(std::uint64_t stream);

/// Uniform in [0, bound).
std::uint64_t below(std::mt19937_64& random, std::uint64_t bound);

/// Bytes that tell a reader which file, generation and offset they belong to.
std::string pattern(std::uint64_t tag, std::size_t size);

/// The whole file; fails the test and returns "" when it can't be read.
std::string read_file(const std::string& path);

/// Creates or replaces the file's contents; fails the test when it can't.
void write_file(const std::string& path, std::string_view contents, mode_t mode = 0644);

/// The file's attributes with the kernel's caches by-passed (AT_STATX_FORCE_SYNC); symlinks are not
/// followed. Fails the test when it can't.
struct statx attributes(int dir_fd, const std::string& path);
struct statx attributes(const std::string& path);

/// The file's state in words. Modification and change time to the nanosecond when `with_times`;
/// inode number when `with_inode`. Neither access time nor block count: the one changes by looking,
/// the other when the kernel writes back.
std::string describe(const struct statx& stat, bool with_times, bool with_inode);

enum class Detail {
  kPortable,  ///< what two trees built by the same operations share: no times, no inode numbers
  kExact,     ///< times and inode numbers too: one tree seen two ways
};

/// One line for each file below `root`, sorted by path: type, mode, owner, links, size, device,
/// link target, a hash of the contents, extended attributes, and which paths are one file.
std::string portrait(const std::string& root, Detail detail);

/// Expects two portraits to be equal and shows only the lines that differ.
void expect_alike(const std::string& one, const std::string& two, const std::string& what);

/// Removes a tree of any depth, whatever its modes. Missing is fine.
void remove_tree(const std::string& path);

using test::ProgramResult;

/// Runs a program found in PATH in `directory`, with a time limit that only a hang reaches.
ProgramResult run_in(const std::string& directory, const std::vector<std::string>& command,
                     const std::vector<std::pair<std::string, std::string>>& environment = {});

/// Runs the program and fails the test unless it exits with 0.
/// Returns what it printed.
std::string must_run(const std::string& directory, const std::vector<std::string>& command,
                     const std::vector<std::pair<std::string, std::string>>& environment = {});

/// Runs `body` in a child process and returns what it returned. A child that dies gives error 255
/// and the signal as value.
Outcome in_child(const std::function<Outcome()>& body);

/// A fresh mount per test, and two directories on the same backing filesystem that anybody may
/// write to: one reached through the mount, one plain.
class FsTest : public test::MountedTest {
 protected:
  void SetUp() override;
  void TearDown() override;

  /// Runs the operation in both directories and expects equal outcomes; returns the mount's.
  Outcome same(const std::string& what, const Operation& operation);

  /// As `same`, with both run as the given user.
  Outcome same_as(uid_t uid, gid_t gid, const std::vector<gid_t>& groups, const std::string& what,
                  const Operation& operation);

  /// Expects the two directories to hold the same tree, and the mount to show exactly what its
  /// source holds.
  void expect_same_trees(const std::string& what = "");

  Dir mounted_;  ///< MOUNT/m
  Dir plain_;    ///< SOURCE/p
  Dir behind_;   ///< SOURCE/m: the files of mounted_, from behind the mount's back

 private:
  Fd mounted_fd_, plain_fd_, behind_fd_;
};

}  // namespace lockfs::fstest
