#include "fs/tree/repeats.h"

#include <fcntl.h>
#include <linux/limits.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <new>
#include <string_view>
#include <vector>

#include "fs/base/clock.h"
#include "fs/base/fnv.h"
#include "fs/base/scratch_buffer.h"
#include "fs/loop/current_request.h"
#include "fs/tree/inode.h"

namespace lockfs::repeats {
namespace {

std::int64_t nanoseconds_of(const statx_timestamp& time) noexcept {
  return nanoseconds(timespec{time.tv_sec, time.tv_nsec});
}

/// What a name stands for; all zero: nothing. The number alone may be that of a younger file.
struct Named {
  std::uint64_t device = 0;
  std::uint64_t inode = 0;
  std::int64_t born = 0;  ///< 0: the filesystem does not say
  bool operator==(const Named&) const = default;
};

Named at(int folder, const char* name) noexcept {
  struct statx at {};
  constexpr unsigned kWanted = STATX_INO | STATX_BTIME;
  if (::statx(folder, name, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT, kWanted, &at) != 0) return {};
  const bool dated = (at.stx_mask & STATX_BTIME) != 0;
  return {makedev(at.stx_dev_major, at.stx_dev_minor), at.stx_ino,
          dated ? nanoseconds_of(at.stx_btime) : 0};
}

/// Whether the part of the file has nothing but zeros, up to its end. Nothing: it cannot be said.
std::optional<bool> is_zero(int fd, off_t begin, off_t end) noexcept {
  constexpr off_t kMostLooked = off_t{1} << 26;
  const UniqueFd readable(reopen(fd, O_RDONLY | O_NONBLOCK));
  if (!readable) return {};
  std::array<char, 16384> part;
  off_t looked = 0;
  while (begin < end) {
    begin = ::lseek(readable.get(), begin, SEEK_DATA);
    if (begin < 0) return errno == ENXIO ? std::optional(true) : std::nullopt;
    if (begin >= end) return true;
    if (looked > kMostLooked) return {};
    const auto size = static_cast<std::size_t>(std::min<off_t>(part.size(), end - begin));
    const ssize_t got = ::pread(readable.get(), part.data(), size, begin);
    if (got < 0) return {};
    if (got == 0) return true;
    if (std::any_of(part.begin(), part.begin() + got, [](char c) { return c != 0; })) return false;
    begin += got;
    looked += got;
  }
  return true;
}

}  // namespace

bool has_made(int folder, const char* name, mode_t type, uid_t uid) noexcept {
  if (!CurrentRequest::repeated()) return false;
  struct statx at {};
  constexpr unsigned kWanted = STATX_TYPE | STATX_UID | STATX_BTIME;
  if (::statx(folder, name, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT, kWanted, &at) != 0) return false;
  if ((at.stx_mask & kWanted) != kWanted) return false;
  const std::int64_t born = nanoseconds_of(at.stx_btime);
  return (at.stx_mode & S_IFMT) == type && at.stx_uid == uid &&
         born >= CurrentRequest::begun_at() && born <= CurrentRequest::given_up_at();
}

bool has_removed(int folder, const char* name) noexcept {
  if (!CurrentRequest::outlives()) return false;
  const Named now = at(folder, name);
  if (const auto noted = CurrentRequest::noted()) {
    return now != Named{noted->device, noted->inode, noted->born};
  }
  CurrentRequest::note({.device = now.device, .inode = now.inode, .born = now.born});
  return false;
}

bool has_renamed(int from, const char* name, int to, const char* new_name,
                 bool exchanges) noexcept {
  if (!CurrentRequest::outlives()) return false;
  const Named source = at(from, name);
  const Named target = at(to, new_name);
  if (const auto noted = CurrentRequest::noted()) {
    const bool same = source == Named{noted->device, noted->inode, noted->born};
    if (!exchanges) return !same;
    return !same || target != Named{noted->other_device, noted->other_inode, noted->other_born};
  }
  CurrentRequest::note({.device = source.device,
                        .inode = source.inode,
                        .other_device = target.device,
                        .other_inode = target.inode,
                        .born = source.born,
                        .other_born = target.born});
  return false;
}

bool has_removed_attribute(const char* path, const char* name) noexcept try {
  if (!CurrentRequest::outlives()) return false;
  char* const value = scratch_buffer(XATTR_SIZE_MAX);
  const ssize_t size = ::getxattr(path, name, value, XATTR_SIZE_MAX);
  const std::uint64_t hash =
      size < 0 ? 0 : fnv1a(std::string_view(value, static_cast<std::size_t>(size)));
  if (const auto noted = CurrentRequest::noted()) {
    return noted->size >= 0 && (size != noted->size || hash != noted->inode);
  }
  CurrentRequest::note({.inode = hash, .size = size});
  return false;
} catch (const std::bad_alloc&) {
  return false;
}

Change look_at_change(int fd, std::optional<off_t> result_size) noexcept {
  if (!CurrentRequest::outlives()) return Change::kNotMade;
  struct stat st {};
  if (::fstat(fd, &st) != 0) return Change::kNotMade;
  const std::int64_t changed = nanoseconds(st.st_ctim);
  if (const auto noted = CurrentRequest::noted()) {
    // Whatever is done to a file changes this time, unless it was changed within the same tick of
    // the kernel's clock before.
    if (changed == noted->changed && st.st_size == noted->size) return Change::kNotMade;
    if (result_size == noted->size) return Change::kMade;  // it took nothing away
    if (result_size == st.st_size) return Change::kMade;
    return Change::kUnknown;
  }
  CurrentRequest::note({.size = st.st_size, .changed = changed});
  return Change::kNotMade;
}

Change look_at_truncation(int fd, off_t size) noexcept {
  const auto noted = CurrentRequest::noted();
  struct stat st {};
  // To make it longer takes nothing away.
  if (noted && size > noted->size && ::fstat(fd, &st) == 0) {
    return st.st_size >= size ? Change::kMade : Change::kNotMade;
  }
  return look_at_change(fd, size);
}

Change look_at_zeroing(int fd, off_t offset, off_t length, bool extends) noexcept {
  const bool begun = CurrentRequest::noted().has_value();
  const Change change = look_at_change(fd, std::nullopt);
  if (!begun || change == Change::kNotMade) return change;
  struct stat st {};
  if (::fstat(fd, &st) != 0) return Change::kUnknown;
  if (extends && st.st_size < offset + length) return Change::kUnknown;
  return is_zero(fd, offset, offset + length).value_or(false) ? Change::kMade : Change::kUnknown;
}

std::size_t length_to_copy(int from, off_t offset, std::size_t length) noexcept {
  if (!CurrentRequest::outlives()) return length;
  if (const auto noted = CurrentRequest::noted()) {
    return std::min(length, static_cast<std::size_t>(std::max<off_t>(noted->size - offset, 0)));
  }
  struct stat st {};
  if (::fstat(from, &st) == 0) CurrentRequest::note({.size = st.st_size});
  return length;
}

Change look_at_append(int fd, const char* data, std::size_t size, std::size_t& done) noexcept try {
  done = 0;
  if (!CurrentRequest::outlives()) return Change::kNotMade;
  struct stat st {};
  if (::fstat(fd, &st) != 0) return Change::kNotMade;
  const auto noted = CurrentRequest::noted();
  if (!noted) {
    CurrentRequest::note({.size = st.st_size});
    return Change::kNotMade;
  }
  if (st.st_size <= noted->size) return Change::kNotMade;
  // Others may have appended before it and behind it.
  constexpr off_t kMostLooked = off_t{1} << 26;
  if (st.st_size - noted->size > kMostLooked) return Change::kUnknown;
  const UniqueFd readable(reopen(fd, O_RDONLY | O_NONBLOCK));
  std::vector<char> tail(static_cast<std::size_t>(st.st_size - noted->size));
  const ssize_t got = ::pread(readable.get(), tail.data(), tail.size(), noted->size);
  if (got < 0) return Change::kUnknown;
  const auto end = tail.begin() + got;
  if (static_cast<std::size_t>(got) < size) {
    // A signal that kills may end the system call between two pages.
    if (std::equal(tail.begin(), end, data)) done = static_cast<std::size_t>(got);
    return Change::kNotMade;
  }
  return std::search(tail.begin(), end, data, data + size) != end ? Change::kMade
                                                                  : Change::kNotMade;
} catch (const std::bad_alloc&) {
  return Change::kUnknown;
}

}  // namespace lockfs::repeats
