// Thousands of random operations by several users, on the mount and on a plain directory: every
// result, every error number and the trees in between must agree.
// ctest: timeout=600
#include <dirent.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <csignal>
#include <cstring>
#include <deque>
#include <functional>
#include <set>
#include <string>
#include <vector>

#include "tests/mounted/fs/fs_support.h"

namespace lockfs::fstest {
namespace {

constexpr std::size_t kSlots = 8;
constexpr std::size_t kMaxIo = 70000;

/// One of the two sides: a directory and the files held open in it.
struct Side {
  const Dir& dir;
  std::array<Fd, kSlots> open;
};

using Step = std::function<Outcome(Side&)>;

class DifferentialTest : public FsTest, public ::testing::WithParamInterface<std::string> {
 protected:
  std::vector<std::string> options() const override { return {GetParam()}; }

  template <class T>
  const T& any_of(const std::vector<T>& choices) {
    return choices[below(random_, choices.size())];
  }
  bool chance(unsigned percent) { return below(random_, 100) < percent; }

  /// A path of up to three components. Few names, so that operations meet.
  std::string any_path() {
    static const std::vector<std::string> kNames{"a", "b", "c", "d", "e"};
    std::string path = any_of(kNames);
    while (chance(35)) path += "/" + any_of(kNames);
    if (chance(2)) path += "/.";
    if (chance(2)) path += "/..";
    if (chance(1)) path += "/";
    return path;
  }
  mode_t any_mode() {
    static const std::vector<mode_t> kModes{0644, 0755, 0777, 0666,  0600,  0700,  0664,  0555,
                                            0444, 0,    0711, 04755, 02755, 02777, 01777, 06777};
    return any_of(kModes);
  }
  /// Set-ID bits that a file gets while it is open go with the next passed-through write, even of
  /// root, who could leave them on the backing filesystem.
  static mode_t changeable() { return GetParam() == "passthrough=off" ? 07777 : 01777; }
  off_t any_offset() {
    static const std::vector<off_t> kLimits{10, 5000, 70000, 1 << 20};
    return static_cast<off_t>(below(random_, static_cast<std::uint64_t>(any_of(kLimits))));
  }
  std::size_t any_size() {
    static const std::vector<std::size_t> kLimits{20, 5000, kMaxIo};
    return below(random_, any_of(kLimits));
  }
  uid_t any_uid() {
    static const std::vector<uid_t> kUids{0, 54321, 54322, 54323};
    return any_of(kUids);
  }

  /// Chooses the next operation with all its arguments; says in words what it is.
  Step next_step(std::string& words);

  std::mt19937_64 random_ = make_random(std::hash<std::string>{}(GetParam()));
};

INSTANTIATE_TEST_SUITE_P(Options, DifferentialTest,
                         ::testing::Values("passthrough=auto", "passthrough=off",
                                           "attr_timeout=0,entry_timeout=0", "workers=1"),
                         [](const auto& test) {
                           std::string name = test.param;
                           std::erase_if(name, [](char c) { return std::isalnum(c) == 0; });
                           return name;
                         });

std::string flags_in_words(int flags) {
  std::string words = std::to_string(flags & O_ACCMODE);
  for (const auto& [flag, name] : {std::pair{O_CREAT, "|CREAT"},
                                   {O_EXCL, "|EXCL"},
                                   {O_TRUNC, "|TRUNC"},
                                   {O_APPEND, "|APPEND"},
                                   {O_NOFOLLOW, "|NOFOLLOW"},
                                   {O_DIRECTORY, "|DIRECTORY"}}) {
    if ((flags & flag) == flag) words += name;
  }
  return words;
}

Step DifferentialTest::next_step(std::string& words) {
  const std::string path = any_path();
  const std::string other = any_path();
  const std::size_t slot = below(random_, kSlots);
  const std::size_t slot2 = below(random_, kSlots);
  const mode_t mode = any_mode();
  const off_t offset = any_offset();
  const std::size_t size = any_size();
  const std::uint64_t tag = below(random_, 1000);
  const auto say = [&](const std::string& text) { words = text; };
  const std::string in_slot = " slot " + std::to_string(slot);
  const std::string place = " at " + std::to_string(offset) + " size " + std::to_string(size);

  switch (below(random_, 40)) {
    case 0:
    case 1:
    case 2:
    case 3: {
      static const std::vector<int> kFlags{O_RDONLY,
                                           O_WRONLY,
                                           O_RDWR,
                                           O_RDWR | O_CREAT,
                                           O_WRONLY | O_CREAT | O_TRUNC,
                                           O_RDWR | O_CREAT | O_EXCL,
                                           O_WRONLY | O_APPEND | O_CREAT,
                                           O_RDWR | O_TRUNC,
                                           O_RDONLY | O_NOFOLLOW,
                                           O_RDONLY | O_DIRECTORY,
                                           O_RDWR | O_APPEND};
      const int flags = any_of(kFlags);
      say("open " + path + " " + flags_in_words(flags) + " mode " + std::to_string(mode) + in_slot);
      return [=](Side& side) {
        // A FIFO must not block the test, so the flag is on for every open.
        Fd fd(::openat(side.dir.fd, path.c_str(), flags | O_NONBLOCK | O_CLOEXEC, mode));
        const Outcome outcome = call(fd.ok() ? 0 : -1);
        if (fd.ok()) side.open[slot] = std::move(fd);
        return outcome;
      };
    }
    case 4:
      say("close" + in_slot);
      return [=](Side& side) {
        side.open[slot].reset();
        return Outcome{};
      };
    case 5:
    case 6:
      say("pread" + in_slot + place);
      return [=](Side& side) {
        std::string bytes(size, '\0');
        Outcome outcome = call(::pread(side.open[slot], bytes.data(), size, offset));
        if (outcome.value > 0)
          outcome.data = bytes.substr(0, static_cast<std::size_t>(outcome.value));
        return outcome;
      };
    case 7:
    case 8:
      say("pwrite" + in_slot + place);
      return [=](Side& side) {
        const std::string bytes = pattern(tag, size);
        return call(::pwrite(side.open[slot], bytes.data(), size, offset));
      };
    case 9:
      say("write" + in_slot + " size " + std::to_string(size));
      return [=](Side& side) {
        const std::string bytes = pattern(tag, size);
        return call(::write(side.open[slot], bytes.data(), size));
      };
    case 10:
      say("read" + in_slot + " size " + std::to_string(size));
      return [=](Side& side) {
        std::string bytes(size, '\0');
        Outcome outcome = call(::read(side.open[slot], bytes.data(), size));
        if (outcome.value > 0)
          outcome.data = bytes.substr(0, static_cast<std::size_t>(outcome.value));
        return outcome;
      };
    case 11:
      say("ftruncate" + in_slot + " " + std::to_string(offset));
      return [=](Side& side) { return call(::ftruncate(side.open[slot], offset)); };
    case 12:
      say("truncate " + path + " " + std::to_string(offset));
      return [=](Side& side) { return call(::truncate((side.dir / path).c_str(), offset)); };
    case 13:
    case 14:
      say("mkdir " + path + " mode " + std::to_string(mode));
      return [=](Side& side) { return call(::mkdirat(side.dir.fd, path.c_str(), mode)); };
    case 15:
      say("rmdir " + path);
      return [=](Side& side) { return call(::unlinkat(side.dir.fd, path.c_str(), AT_REMOVEDIR)); };
    case 16:
    case 17:
      say("unlink " + path);
      return [=](Side& side) { return call(::unlinkat(side.dir.fd, path.c_str(), 0)); };
    case 18:
    case 19: {
      const unsigned flags = chance(60) ? 0U : static_cast<unsigned>(below(random_, 4));
      say("rename " + path + " " + other + " flags " + std::to_string(flags));
      return [=](Side& side) {
        return call(::renameat2(side.dir.fd, path.c_str(), side.dir.fd, other.c_str(), flags));
      };
    }
    case 20: {
      const int flags = chance(20) ? AT_SYMLINK_FOLLOW : 0;
      say("link " + path + " " + other + " flags " + std::to_string(flags));
      return [=](Side& side) {
        return call(::linkat(side.dir.fd, path.c_str(), side.dir.fd, other.c_str(), flags));
      };
    }
    case 21:
      say("symlink " + other + " at " + path);
      return
          [=](Side& side) { return call(::symlinkat(other.c_str(), side.dir.fd, path.c_str())); };
    case 22: {
      static const std::vector<mode_t> kTypes{S_IFREG, S_IFIFO, S_IFSOCK, S_IFCHR};
      const mode_t type = any_of(kTypes);
      say("mknod " + path + " mode " + std::to_string(type | mode));
      // The null device: opening it does nothing to anybody.
      return [=](Side& side) {
        return call(::mknodat(side.dir.fd, path.c_str(), type | mode, makedev(1, 3)));
      };
    }
    case 23: {
      const mode_t changed = mode & changeable();
      say("chmod " + path + " " + std::to_string(changed));
      return [=](Side& side) { return call(::fchmodat(side.dir.fd, path.c_str(), changed, 0)); };
    }
    case 24: {
      const mode_t changed = mode & changeable();
      say("fchmod" + in_slot + " " + std::to_string(changed));
      return [=](Side& side) { return call(::fchmod(side.open[slot], changed)); };
    }
    case 25: {
      const uid_t uid = chance(30) ? static_cast<uid_t>(-1) : any_uid();
      // Never neither: where the file has set-ID bits, a stranger then gets EPERM from the backing
      // filesystem, but the kernel's FUSE client does not say enough for the daemon to refuse.
      const gid_t gid =
          uid != static_cast<uid_t>(-1) && chance(30) ? static_cast<gid_t>(-1) : any_uid();
      const int flags = chance(50) ? AT_SYMLINK_NOFOLLOW : 0;
      say("chown " + path + " " + std::to_string(uid) + ":" + std::to_string(gid));
      return
          [=](Side& side) { return call(::fchownat(side.dir.fd, path.c_str(), uid, gid, flags)); };
    }
    case 26: {
      const std::array<timespec, 2> times{
          timespec{offset, chance(20) ? UTIME_OMIT : static_cast<long>(below(random_, 1000000000))},
          timespec{offset + 5,
                   chance(20) ? UTIME_OMIT : static_cast<long>(below(random_, 1000000000))}};
      const int flags = chance(50) ? AT_SYMLINK_NOFOLLOW : 0;
      say("utimensat " + path + " " + std::to_string(offset) + " flags " + std::to_string(flags));
      return [=](Side& side) {
        Outcome outcome = call(::utimensat(side.dir.fd, path.c_str(), times.data(), flags));
        struct stat stat {};
        if (outcome.error == 0 && times[1].tv_nsec != UTIME_OMIT &&
            ::fstatat(side.dir.fd, path.c_str(), &stat, flags) == 0) {
          outcome.data =
              std::to_string(stat.st_mtim.tv_sec) + "." + std::to_string(stat.st_mtim.tv_nsec);
        }
        return outcome;
      };
    }
    case 27: {
      static const std::vector<std::string> kNames{"user.x", "user.y", "trusted.z", "bad.w"};
      const std::string name = any_of(kNames);
      const int flags = static_cast<int>(below(random_, 3));
      const std::string value = pattern(tag, size % 200);
      say("setxattr " + path + " " + name + " flags " + std::to_string(flags));
      return [=](Side& side) {
        Outcome outcome = call(
            ::setxattr((side.dir / path).c_str(), name.c_str(), value.data(), value.size(), flags));
        std::string back(300, '\0');
        const Outcome got =
            call(::getxattr((side.dir / path).c_str(), name.c_str(), back.data(), back.size()));
        outcome.data = std::to_string(got.error) + back;
        return outcome;
      };
    }
    case 28: {
      const bool by_default = chance(40);
      const int kind = static_cast<int>(below(random_, 3));
      say("ACL " + std::to_string(kind) + (by_default ? " by default on " : " on ") + path);
      return [=](Side& side) {
        // user::rwx user:54322:rw- group::r-x mask::rwx other::r--, or the plain three. The group
        // can always execute: setgid without that is treated by the kernel's FUSE client in a way
        // of its own (it stays when an outsider writes).
        static const std::vector<std::vector<std::uint16_t>> kEntries{
            {1,      7,      0xffff, 0xffff, 2,      6,      54322, 0, 4,      5,
             0xffff, 0xffff, 16,     7,      0xffff, 0xffff, 32,    4, 0xffff, 0xffff},
            {1, 6, 0xffff, 0xffff, 4, 5, 0xffff, 0xffff, 32, 0, 0xffff, 0xffff}};
        const std::string name =
            by_default ? "system.posix_acl_default" : "system.posix_acl_access";
        if (kind == 2) return call(::removexattr((side.dir / path).c_str(), name.c_str()));
        const auto& entries = kEntries[static_cast<std::size_t>(kind)];
        std::string value("\2\0\0\0", 4);
        value.append(reinterpret_cast<const char*>(entries.data()), entries.size() * 2);
        return call(
            ::setxattr((side.dir / path).c_str(), name.c_str(), value.data(), value.size(), 0));
      };
    }
    case 29:
    case 30:
      say("stat " + path);
      return [=](Side& side) {
        struct statx stat {};
        // Without a forced refresh: what caches say must be right as well.
        Outcome outcome =
            call(::statx(side.dir.fd, path.c_str(), AT_SYMLINK_NOFOLLOW, STATX_BASIC_STATS, &stat));
        if (outcome.error == 0) outcome.data = describe(stat, false, false);
        return outcome;
      };
    case 31:
      say("fstat" + in_slot);
      return [=](Side& side) {
        struct statx stat {};
        Outcome outcome =
            call(::statx(side.open[slot], "", AT_EMPTY_PATH, STATX_BASIC_STATS, &stat));
        if (outcome.error == 0) outcome.data = describe(stat, false, false);
        return outcome;
      };
    case 32: {
      const int wanted = static_cast<int>(below(random_, 8));
      say("access " + path + " " + std::to_string(wanted));
      return [=](Side& side) {
        return call(::faccessat(side.dir.fd, path.c_str(), wanted, AT_EACCESS));
      };
    }
    case 33:
      say("list " + path);
      return [=](Side& side) {
        const int fd = ::openat(side.dir.fd, path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd < 0) return call(-1);
        DIR* stream = ::fdopendir(fd);
        std::set<std::string> names;
        while (const dirent* entry = ::readdir(stream)) {  // NOLINT(concurrency-mt-unsafe)
          names.insert(std::string(entry->d_name) + ":" + std::to_string(entry->d_type));
        }
        ::closedir(stream);
        Outcome outcome;
        for (const std::string& name : names) outcome.data += name + " ";
        return outcome;
      };
    case 34: {
      static const std::vector<int> kModes{
          0, FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, FALLOC_FL_ZERO_RANGE,
          FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE};
      const int how = any_of(kModes);
      say("fallocate " + std::to_string(how) + in_slot + place);
      return [=](Side& side) {
        return call(::fallocate(side.open[slot], how, offset, static_cast<off_t>(size)));
      };
    }
    case 35: {
      const off_t to = any_offset();
      say("copy_file_range" + in_slot + " to slot " + std::to_string(slot2) + place + " to " +
          std::to_string(to));
      return [=](Side& side) {
        off_t in = offset;
        off_t out = to;
        return call(::copy_file_range(side.open[slot], &in, side.open[slot2], &out, size, 0));
      };
    }
    case 36: {
      const int whence = static_cast<int>(below(random_, 5));  // SET, CUR, END, DATA, HOLE
      say("lseek " + std::to_string(whence) + in_slot + " " + std::to_string(offset));
      return [=](Side& side) {
        struct stat stat {};
        // What a directory's offsets mean is the filesystem's own business.
        if (::fstat(side.open[slot], &stat) != 0 || !S_ISREG(stat.st_mode)) return Outcome{};
        // Where holes are depends on caches and allocation as well (ext4 counts cached pages of
        // preallocated space as data); but data skipped, or a hole reported, must read as zeros.
        if (whence > 2) {
          Outcome outcome;
          const off_t found = ::lseek(side.open[slot], offset, whence);
          ::lseek(side.open[slot], 0, SEEK_SET);
          if (::fcntl(side.open[slot], F_GETFL) & O_WRONLY) return outcome;
          const bool at_hole = whence == SEEK_HOLE;
          const off_t from = at_hole ? found : offset;
          const off_t to = at_hole ? found + 1 : (found < 0 ? stat.st_size : found);
          if (from < 0 || from >= to) return outcome;
          std::string skipped(static_cast<std::size_t>(to - from), '\0');
          const ssize_t count = ::pread(side.open[slot], skipped.data(), skipped.size(), from);
          if (count < 0) return call(-1);
          outcome.data = skipped.find_first_not_of('\0') == std::string::npos ? "zeros" : "data";
          EXPECT_EQ(outcome.data, "zeros") << "skipped by " << whence << " from " << offset;
          outcome.data.clear();
          return outcome;
        }
        return call(::lseek(side.open[slot], offset, whence));
      };
    }
    case 37: {
      const bool writing = chance(50);
      say(std::string("mmap ") + (writing ? "write" : "read") + in_slot + place);
      return [=](Side& side) {
        struct stat stat {};
        if (::fstat(side.open[slot], &stat) != 0) return call(-1);
        if (!S_ISREG(stat.st_mode) || stat.st_size <= offset) return Outcome{};
        const std::size_t length =
            std::min<std::size_t>(size, static_cast<std::size_t>(stat.st_size - offset));
        if (length == 0) return Outcome{};
        const off_t page = offset & ~off_t{4095};
        const std::size_t skip = static_cast<std::size_t>(offset - page);
        void* memory = ::mmap(nullptr, skip + length, writing ? PROT_READ | PROT_WRITE : PROT_READ,
                              MAP_SHARED, side.open[slot], page);
        if (memory == MAP_FAILED) return call(-1);
        Outcome outcome;
        char* bytes = static_cast<char*>(memory) + skip;
        if (writing) {
          std::memcpy(bytes, pattern(tag, length).data(), length);
          // When the write is seen in the times is not specified; now it is.
          outcome = call(::msync(memory, skip + length, MS_SYNC));
        } else {
          outcome.data.assign(bytes, length);
        }
        ::munmap(memory, skip + length);
        return outcome;
      };
    }
    case 38:
      say("link slot " + std::to_string(slot) + " to " + path);
      return [=](Side& side) {
        return call(::linkat(AT_FDCWD, ("/proc/self/fd/" + std::to_string(side.open[slot])).c_str(),
                             side.dir.fd, path.c_str(), AT_SYMLINK_FOLLOW));
      };
    default:
      say("readlink " + path);
      return [=](Side& side) {
        std::string text(100, '\0');
        Outcome outcome = call(::readlinkat(side.dir.fd, path.c_str(), text.data(), text.size()));
        outcome.data = text;
        return outcome;
      };
  }
}

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
    std::string words;
    const Step step = next_step(words);
    const uid_t uid = chance(60) ? 0 : any_uid();
    words = std::to_string(number) + " as " + std::to_string(uid) + ": " + words;
    history.push_back(words);
    if (history.size() > 60) history.pop_front();
    Outcome outcome;
    {
      // Each user's group is his own, and 54321's group is 54322's second.
      const ScopedUser user(uid, uid,
                            uid == 54322 ? std::vector<gid_t>{54321} : std::vector<gid_t>{});
      const Outcome expected = step(there);
      outcome = step(here);
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
