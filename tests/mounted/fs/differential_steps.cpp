#include "tests/mounted/fs/differential_steps.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <set>
#include <utility>

namespace lockfs::fstest {

std::string Choices::path() {
  static const std::vector<std::string> kNames{"a", "b", "c", "d", "e"};
  std::string path = of(kNames);
  while (chance(35)) path += "/" + of(kNames);
  if (chance(2)) path += "/.";
  if (chance(2)) path += "/..";
  if (chance(1)) path += "/";
  return path;
}

mode_t Choices::mode() {
  static const std::vector<mode_t> kModes{0644, 0755, 0777, 0666,  0600,  0700,  0664,  0555,
                                          0444, 0,    0711, 04755, 02755, 02777, 01777, 06777};
  return of(kModes);
}

off_t Choices::offset() {
  static const std::vector<off_t> kLimits{10, 5000, 70000, 1 << 20};
  return static_cast<off_t>(below(static_cast<std::uint64_t>(of(kLimits))));
}

std::size_t Choices::size() {
  static const std::vector<std::size_t> kLimits{20, 5000, 70000};
  return below(of(kLimits));
}

uid_t Choices::uid() {
  static const std::vector<uid_t> kUids{0, 54321, 54322, 54323};
  return of(kUids);
}

namespace {

/// Arguments that most steps need, drawn before the step is chosen.
struct Draw {
  // The order of these lines is the order of the draws.
  explicit Draw(Choices& any)
      : path(any.path()),
        other(any.path()),
        slot(any.below(kSlots)),
        slot2(any.below(kSlots)),
        mode(any.mode()),
        offset(any.offset()),
        size(any.size()),
        tag(any.below(1000)) {}

  std::string path;
  std::string other;
  std::size_t slot;
  std::size_t slot2;
  mode_t mode;
  off_t offset;
  std::size_t size;
  std::uint64_t tag;

  std::string in_slot() const { return " slot " + std::to_string(slot); }
  std::string place() const {
    return " at " + std::to_string(offset) + " size " + std::to_string(size);
  }
};

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

Step make_open(Choices& any, const Draw& draw) {
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
  const int flags = any.of(kFlags);
  return {
      "open " + draw.path + " " + flags_in_words(flags) + " mode " + std::to_string(draw.mode) +
          draw.in_slot(),
      [=](Side& side) {
        // A FIFO must not block the test, so the flag is on for every open.
        Fd fd(::openat(side.dir.fd, draw.path.c_str(), flags | O_NONBLOCK | O_CLOEXEC, draw.mode));
        const Outcome outcome = call(fd.ok() ? 0 : -1);
        if (fd.ok()) side.open[draw.slot] = std::move(fd);
        return outcome;
      }};
}

Step make_close(Choices&, const Draw& draw) {
  return {"close" + draw.in_slot(), [=](Side& side) {
            side.open[draw.slot].reset();
            return Outcome{};
          }};
}

Step make_pread(Choices&, const Draw& draw) {
  return {"pread" + draw.in_slot() + draw.place(), [=](Side& side) {
            std::string bytes(draw.size, '\0');
            Outcome outcome =
                call(::pread(side.open[draw.slot], bytes.data(), draw.size, draw.offset));
            if (outcome.value > 0)
              outcome.data = bytes.substr(0, static_cast<std::size_t>(outcome.value));
            return outcome;
          }};
}

Step make_pwrite(Choices&, const Draw& draw) {
  return {"pwrite" + draw.in_slot() + draw.place(), [=](Side& side) {
            const std::string bytes = pattern(draw.tag, draw.size);
            return call(::pwrite(side.open[draw.slot], bytes.data(), draw.size, draw.offset));
          }};
}

Step make_write(Choices&, const Draw& draw) {
  return {"write" + draw.in_slot() + " size " + std::to_string(draw.size), [=](Side& side) {
            const std::string bytes = pattern(draw.tag, draw.size);
            return call(::write(side.open[draw.slot], bytes.data(), draw.size));
          }};
}

Step make_read(Choices&, const Draw& draw) {
  return {"read" + draw.in_slot() + " size " + std::to_string(draw.size), [=](Side& side) {
            std::string bytes(draw.size, '\0');
            Outcome outcome = call(::read(side.open[draw.slot], bytes.data(), draw.size));
            if (outcome.value > 0)
              outcome.data = bytes.substr(0, static_cast<std::size_t>(outcome.value));
            return outcome;
          }};
}

Step make_ftruncate(Choices&, const Draw& draw) {
  return {"ftruncate" + draw.in_slot() + " " + std::to_string(draw.offset),
          [=](Side& side) { return call(::ftruncate(side.open[draw.slot], draw.offset)); }};
}

Step make_truncate(Choices&, const Draw& draw) {
  return {"truncate " + draw.path + " " + std::to_string(draw.offset), [=](Side& side) {
            return call(::truncate((side.dir / draw.path).c_str(), draw.offset));
          }};
}

Step make_mkdir(Choices&, const Draw& draw) {
  return {"mkdir " + draw.path + " mode " + std::to_string(draw.mode),
          [=](Side& side) { return call(::mkdirat(side.dir.fd, draw.path.c_str(), draw.mode)); }};
}

Step make_rmdir(Choices&, const Draw& draw) {
  return {"rmdir " + draw.path, [=](Side& side) {
            return call(::unlinkat(side.dir.fd, draw.path.c_str(), AT_REMOVEDIR));
          }};
}

Step make_unlink(Choices&, const Draw& draw) {
  return {"unlink " + draw.path,
          [=](Side& side) { return call(::unlinkat(side.dir.fd, draw.path.c_str(), 0)); }};
}

Step make_rename(Choices& any, const Draw& draw) {
  const unsigned flags = any.chance(60) ? 0U : static_cast<unsigned>(any.below(4));
  return {"rename " + draw.path + " " + draw.other + " flags " + std::to_string(flags),
          [=](Side& side) {
            return call(::renameat2(side.dir.fd, draw.path.c_str(), side.dir.fd, draw.other.c_str(),
                                    flags));
          }};
}

Step make_link(Choices& any, const Draw& draw) {
  const int flags = any.chance(20) ? AT_SYMLINK_FOLLOW : 0;
  return {"link " + draw.path + " " + draw.other + " flags " + std::to_string(flags),
          [=](Side& side) {
            return call(
                ::linkat(side.dir.fd, draw.path.c_str(), side.dir.fd, draw.other.c_str(), flags));
          }};
}

Step make_symlink(Choices&, const Draw& draw) {
  return {"symlink " + draw.other + " at " + draw.path, [=](Side& side) {
            return call(::symlinkat(draw.other.c_str(), side.dir.fd, draw.path.c_str()));
          }};
}

Step make_mknod(Choices& any, const Draw& draw) {
  static const std::vector<mode_t> kTypes{S_IFREG, S_IFIFO, S_IFSOCK, S_IFCHR};
  const mode_t type = any.of(kTypes);

  // The null device: opening it does nothing to anybody.
  return {"mknod " + draw.path + " mode " + std::to_string(type | draw.mode), [=](Side& side) {
            return call(::mknodat(side.dir.fd, draw.path.c_str(), type | draw.mode, makedev(1, 3)));
          }};
}

Step make_chmod(Choices& any, const Draw& draw) {
  const mode_t changed = draw.mode & any.changeable();
  return {"chmod " + draw.path + " " + std::to_string(changed),
          [=](Side& side) { return call(::fchmodat(side.dir.fd, draw.path.c_str(), changed, 0)); }};
}

Step make_fchmod(Choices& any, const Draw& draw) {
  const mode_t changed = draw.mode & any.changeable();
  return {"fchmod" + draw.in_slot() + " " + std::to_string(changed),
          [=](Side& side) { return call(::fchmod(side.open[draw.slot], changed)); }};
}

Step make_chown(Choices& any, const Draw& draw) {
  const uid_t uid = any.chance(30) ? static_cast<uid_t>(-1) : any.uid();
  // Never neither: where the file has set-ID bits, a stranger then gets EPERM from the backing
  // filesystem, but the kernel's FUSE client does not say enough for the daemon to refuse.
  const gid_t gid =
      uid != static_cast<uid_t>(-1) && any.chance(30) ? static_cast<gid_t>(-1) : any.uid();
  const int flags = any.chance(50) ? AT_SYMLINK_NOFOLLOW : 0;
  return {"chown " + draw.path + " " + std::to_string(uid) + ":" + std::to_string(gid),
          [=](Side& side) {
            return call(::fchownat(side.dir.fd, draw.path.c_str(), uid, gid, flags));
          }};
}

Step make_utimensat(Choices& any, const Draw& draw) {
  const std::array<timespec, 2> times{
      timespec{draw.offset, any.chance(20) ? UTIME_OMIT : static_cast<long>(any.below(1000000000))},
      timespec{draw.offset + 5,
               any.chance(20) ? UTIME_OMIT : static_cast<long>(any.below(1000000000))}};
  const int flags = any.chance(50) ? AT_SYMLINK_NOFOLLOW : 0;
  return {"utimensat " + draw.path + " " + std::to_string(draw.offset) + " flags " +
              std::to_string(flags),
          [=](Side& side) {
            Outcome outcome =
                call(::utimensat(side.dir.fd, draw.path.c_str(), times.data(), flags));
            struct stat stat {};
            if (outcome.error == 0 && times[1].tv_nsec != UTIME_OMIT &&
                ::fstatat(side.dir.fd, draw.path.c_str(), &stat, flags) == 0) {
              outcome.data =
                  std::to_string(stat.st_mtim.tv_sec) + "." + std::to_string(stat.st_mtim.tv_nsec);
            }
            return outcome;
          }};
}

Step make_setxattr(Choices& any, const Draw& draw) {
  static const std::vector<std::string> kNames{"user.x", "user.y", "trusted.z", "bad.w"};
  const std::string name = any.of(kNames);
  const int flags = static_cast<int>(any.below(3));
  const std::string value = pattern(draw.tag, draw.size % 200);
  return {"setxattr " + draw.path + " " + name + " flags " + std::to_string(flags),
          [=](Side& side) {
            Outcome outcome = call(::setxattr((side.dir / draw.path).c_str(), name.c_str(),
                                              value.data(), value.size(), flags));
            std::string back(300, '\0');
            const Outcome got = call(
                ::getxattr((side.dir / draw.path).c_str(), name.c_str(), back.data(), back.size()));
            outcome.data = std::to_string(got.error) + back;
            return outcome;
          }};
}

Step make_acl(Choices& any, const Draw& draw) {
  const bool by_default = any.chance(40);
  const int kind = static_cast<int>(any.below(3));
  return {"ACL " + std::to_string(kind) + (by_default ? " by default on " : " on ") + draw.path,
          [=](Side& side) {
            // user::rwx user:54322:rw- group::r-x mask::rwx other::r--, or the plain three. The
            // group can always execute: setgid without that is treated by the kernel's FUSE client
            // in a way of its own (it stays when an outsider writes).
            static const std::vector<std::vector<std::uint16_t>> kEntries{
                {1,      7,      0xffff, 0xffff, 2,      6,      54322, 0, 4,      5,
                 0xffff, 0xffff, 16,     7,      0xffff, 0xffff, 32,    4, 0xffff, 0xffff},
                {1, 6, 0xffff, 0xffff, 4, 5, 0xffff, 0xffff, 32, 0, 0xffff, 0xffff}};
            const std::string name =
                by_default ? "system.posix_acl_default" : "system.posix_acl_access";
            if (kind == 2) return call(::removexattr((side.dir / draw.path).c_str(), name.c_str()));
            const auto& entries = kEntries[static_cast<std::size_t>(kind)];
            std::string value("\2\0\0\0", 4);
            value.append(reinterpret_cast<const char*>(entries.data()), entries.size() * 2);
            return call(::setxattr((side.dir / draw.path).c_str(), name.c_str(), value.data(),
                                   value.size(), 0));
          }};
}

Step make_stat(Choices&, const Draw& draw) {
  return {"stat " + draw.path, [=](Side& side) {
            struct statx stat {};
            // Without a forced refresh: what caches say must be right as well.
            Outcome outcome = call(::statx(side.dir.fd, draw.path.c_str(), AT_SYMLINK_NOFOLLOW,
                                           STATX_BASIC_STATS, &stat));
            if (outcome.error == 0) outcome.data = describe(stat, false, false);
            return outcome;
          }};
}

Step make_fstat(Choices&, const Draw& draw) {
  return {"fstat" + draw.in_slot(), [=](Side& side) {
            struct statx stat {};
            Outcome outcome =
                call(::statx(side.open[draw.slot], "", AT_EMPTY_PATH, STATX_BASIC_STATS, &stat));
            if (outcome.error == 0) outcome.data = describe(stat, false, false);
            return outcome;
          }};
}

Step make_access(Choices& any, const Draw& draw) {
  const int wanted = static_cast<int>(any.below(8));
  return {"access " + draw.path + " " + std::to_string(wanted), [=](Side& side) {
            return call(::faccessat(side.dir.fd, draw.path.c_str(), wanted, AT_EACCESS));
          }};
}

Step make_list(Choices&, const Draw& draw) {
  return {"list " + draw.path, [=](Side& side) {
            const int fd =
                ::openat(side.dir.fd, draw.path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
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
          }};
}

Step make_fallocate(Choices& any, const Draw& draw) {
  static const std::vector<int> kModes{
      0, FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, FALLOC_FL_ZERO_RANGE,
      FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE};
  const int how = any.of(kModes);
  return {"fallocate " + std::to_string(how) + draw.in_slot() + draw.place(), [=](Side& side) {
            return call(
                ::fallocate(side.open[draw.slot], how, draw.offset, static_cast<off_t>(draw.size)));
          }};
}

Step make_copy_file_range(Choices& any, const Draw& draw) {
  const off_t to = any.offset();
  return {"copy_file_range" + draw.in_slot() + " to slot " + std::to_string(draw.slot2) +
              draw.place() + " to " + std::to_string(to),
          [=](Side& side) {
            off_t in = draw.offset;
            off_t out = to;
            return call(::copy_file_range(side.open[draw.slot], &in, side.open[draw.slot2], &out,
                                          draw.size, 0));
          }};
}

Step make_lseek(Choices& any, const Draw& draw) {
  const int whence = static_cast<int>(any.below(5));  // SET, CUR, END, DATA, HOLE
  return {
      "lseek " + std::to_string(whence) + draw.in_slot() + " " + std::to_string(draw.offset),
      [=](Side& side) {
        struct stat stat {};
        // What a directory's offsets mean is the filesystem's own business.
        if (::fstat(side.open[draw.slot], &stat) != 0 || !S_ISREG(stat.st_mode)) return Outcome{};
        // Where holes are depends on caches and allocation as well (ext4 counts cached pages of
        // preallocated space as data); but data skipped, or a hole reported, must read as zeros.
        if (whence > 2) {
          Outcome outcome;
          const off_t found = ::lseek(side.open[draw.slot], draw.offset, whence);
          ::lseek(side.open[draw.slot], 0, SEEK_SET);
          if (::fcntl(side.open[draw.slot], F_GETFL) & O_WRONLY) return outcome;
          const bool at_hole = whence == SEEK_HOLE;
          const off_t from = at_hole ? found : draw.offset;
          const off_t to = at_hole ? found + 1 : (found < 0 ? stat.st_size : found);
          if (from < 0 || from >= to) return outcome;
          std::string skipped(static_cast<std::size_t>(to - from), '\0');
          const ssize_t count = ::pread(side.open[draw.slot], skipped.data(), skipped.size(), from);
          if (count < 0) return call(-1);
          outcome.data = skipped.find_first_not_of('\0') == std::string::npos ? "zeros" : "data";
          EXPECT_EQ(outcome.data, "zeros") << "skipped by " << whence << " from " << draw.offset;
          outcome.data.clear();
          return outcome;
        }
        return call(::lseek(side.open[draw.slot], draw.offset, whence));
      }};
}

Step make_mmap(Choices& any, const Draw& draw) {
  const bool writing = any.chance(50);
  return {std::string("mmap ") + (writing ? "write" : "read") + draw.in_slot() + draw.place(),
          [=](Side& side) {
            struct stat stat {};
            if (::fstat(side.open[draw.slot], &stat) != 0) return call(-1);
            if (!S_ISREG(stat.st_mode) || stat.st_size <= draw.offset) return Outcome{};
            const std::size_t length = std::min<std::size_t>(
                draw.size, static_cast<std::size_t>(stat.st_size - draw.offset));
            if (length == 0) return Outcome{};
            const off_t page = draw.offset & ~off_t{4095};
            const std::size_t skip = static_cast<std::size_t>(draw.offset - page);
            void* memory =
                ::mmap(nullptr, skip + length, writing ? PROT_READ | PROT_WRITE : PROT_READ,
                       MAP_SHARED, side.open[draw.slot], page);
            if (memory == MAP_FAILED) return call(-1);
            Outcome outcome;
            char* bytes = static_cast<char*>(memory) + skip;
            if (writing) {
              std::memcpy(bytes, pattern(draw.tag, length).data(), length);
              // When the write is seen in the times is not specified; now it is.
              outcome = call(::msync(memory, skip + length, MS_SYNC));
            } else {
              outcome.data.assign(bytes, length);
            }
            ::munmap(memory, skip + length);
            return outcome;
          }};
}

Step make_link_open(Choices&, const Draw& draw) {
  return {"link slot " + std::to_string(draw.slot) + " to " + draw.path, [=](Side& side) {
            return call(::linkat(AT_FDCWD,
                                 ("/proc/self/fd/" + std::to_string(side.open[draw.slot])).c_str(),
                                 side.dir.fd, draw.path.c_str(), AT_SYMLINK_FOLLOW));
          }};
}

Step make_readlink(Choices&, const Draw& draw) {
  return {"readlink " + draw.path, [=](Side& side) {
            std::string text(100, '\0');
            Outcome outcome =
                call(::readlinkat(side.dir.fd, draw.path.c_str(), text.data(), text.size()));
            outcome.data = text;
            return outcome;
          }};
}

struct Maker {
  unsigned weight;  ///< how often this kind of step comes, in parts of the sum
  Step (*make)(Choices& any, const Draw& draw);
};

constexpr std::array kMakers{
    Maker{4, make_open},      Maker{1, make_close},     Maker{2, make_pread},
    Maker{2, make_pwrite},    Maker{1, make_write},     Maker{1, make_read},
    Maker{1, make_ftruncate}, Maker{1, make_truncate},  Maker{2, make_mkdir},
    Maker{1, make_rmdir},     Maker{2, make_unlink},    Maker{2, make_rename},
    Maker{1, make_link},      Maker{1, make_symlink},   Maker{1, make_mknod},
    Maker{1, make_chmod},     Maker{1, make_fchmod},    Maker{1, make_chown},
    Maker{1, make_utimensat}, Maker{1, make_setxattr},  Maker{1, make_acl},
    Maker{2, make_stat},      Maker{1, make_fstat},     Maker{1, make_access},
    Maker{1, make_list},      Maker{1, make_fallocate}, Maker{1, make_copy_file_range},
    Maker{1, make_lseek},     Maker{1, make_mmap},      Maker{1, make_link_open},
    Maker{1, make_readlink},
};

constexpr unsigned kWeights =
    std::accumulate(kMakers.begin(), kMakers.end(), 0U,
                    [](unsigned sum, const Maker& maker) { return sum + maker.weight; });

}  // namespace

Step next_step(Choices& any) {
  const Draw draw(any);
  std::uint64_t number = any.below(kWeights);
  const auto* maker = kMakers.begin();
  for (; number >= maker->weight; ++maker) number -= maker->weight;
  return maker->make(any, draw);
}

}  // namespace lockfs::fstest
