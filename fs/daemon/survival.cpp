#include "fs/daemon/survival.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string_view>

#include "fs/daemon/daemonize.h"
#include "fs/locks/lock_records.h"
#include "fs/loop/requests.h"
#include "fs/mirror/descriptor_log.h"
#include "fs/options/option_change.h"
#include "fs/tree/filesystem.h"
#include "fs/tree/records.h"

namespace lockfs {

void book_shapes(const Options& options, Book::Shapes& shapes) noexcept {
  const auto set = [&shapes](Kind kind, Book::Shape shape) {
    shapes[static_cast<std::size_t>(kind)] = shape;
  };
  set(Kind::kInodes, kInodeShape);
  set(Kind::kNames, kNameShape);
  set(Kind::kHandles, kHandleShape);
  set(Kind::kDescriptors, DescriptorLog::kShape);
  set(Kind::kLockedFiles, LockRecords::kFileShape);
  set(Kind::kLocks, LockRecords::shape_for(options.max_locks));
  set(Kind::kKept, KeptRequests::kShape);
  set(Kind::kSlots, RequestSlots::kShape);
}

namespace {

void put(char (&to)[4096], std::string_view text) noexcept {
  const std::size_t length = std::min(text.size(), sizeof to - 1);
  std::memcpy(to, text.data(), length);
  to[length] = 0;
}

}  // namespace

void begin_header(Book& book, const Options& options) noexcept {
  auto& header = book.header<BookHeader>();
  header.book_fd = book.fd();
  header.program_since = 1;
  header.version = BookHeader::kVersion;
  put(header.source_path, options.source_path);
  put(header.mountpoint_path, options.mountpoint_path);
  header.source_mount = options.source_mount;
  if (!options.foreground) {
    std::copy(kReportDescriptors.begin(), kReportDescriptors.end(), header.report_fds);
  }
  // As it is called now: what will stand there later is another program.
  const ssize_t length = ::readlink("/proc/self/exe", header.program, sizeof header.program - 1);
  header.program[std::max<ssize_t>(length, 0)] = 0;
  header.magic = BookHeader::kMagic;
}

std::string check_version(int fd) {
  struct {
    std::uint64_t magic = 0;
    std::uint32_t version = 0;
  } begin;
  constexpr std::size_t kSize = sizeof begin.magic + sizeof begin.version;
  const ssize_t got = ::pread(fd, &begin, kSize, 0);
  if (got < 0) return fmt::format("cannot read the book of the mount: {}", std::strerror(errno));
  if (got != static_cast<ssize_t>(kSize) || begin.magic != BookHeader::kMagic) {
    return "the memory that was handed on is no book of a mount";
  }
  if (begin.version == BookHeader::kVersion) return {};
  return fmt::format("the book of the mount has version {}, and this program knows {}",
                     begin.version, BookHeader::kVersion);
}

std::string check_belongs(const BookHeader& header) {
  if (header.standby != ::getpid()) {
    return fmt::format("the book is that of process {}, not of this one", header.standby.load());
  }
  struct stat device {};
  struct stat root {};
  constexpr unsigned kMiscMajor = 10;
  constexpr unsigned kFuseMinor = 229;
  const bool has_device = ::fstat(header.fuse_fd, &device) == 0 && S_ISCHR(device.st_mode) &&
                          device.st_rdev == makedev(kMiscMajor, kFuseMinor);
  if (!has_device) return "the book's connection to the kernel is not open";
  if (::fstat(header.root_fd, &root) == 0 && S_ISDIR(root.st_mode)) return {};
  return "the book's source is not open";
}

std::string take_header(const BookHeader& header, Options& options) {
  const auto is_path = [](const char(&text)[4096]) {
    return text[0] == '/' && std::memchr(text, 0, sizeof text) != nullptr;
  };
  if (!is_path(header.program) || !is_path(header.source_path) ||
      !is_path(header.mountpoint_path) || header.phase != BookHeader::kServing) {
    return "the book of the mount is damaged: its header is not that of a mount that serves";
  }
  options.source_path = header.source_path;
  options.mountpoint_path = header.mountpoint_path;
  options.source_mount = header.source_mount;
  if (options.fsname.empty()) options.fsname = options.source_path;
  return {};
}

std::string damage_in(Book& book) {
  const auto& header = book.header<BookHeader>();
  if (header.magic != BookHeader::kMagic || header.version != BookHeader::kVersion) {
    return "the book of the mount is damaged: its header is none";
  }
  if (!book.is_sound()) return "the book of the mount is damaged: it has too many records";
  for (const auto look : {Filesystem::damage_in, DescriptorLog::damage_in, LockRecords::damage_in,
                          RequestSlots::damage_in, KeptRequests::damage_in}) {
    if (const std::string_view what = look(book); !what.empty()) {
      return fmt::format("the book of the mount is damaged: the record of {} is none", what);
    }
  }
  return {};
}

void known_descriptors(const Book& book, std::vector<int>& known) {
  const auto& header = book.header<BookHeader>();
  for (const int fd :
       {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO, book.fd(), header.fuse_fd, header.root_fd,
        header.control.fd, header.report_fds[0], header.report_fds[1]}) {
    known.push_back(fd);
  }
  Filesystem::known_descriptors(book, known);
  DescriptorLog::known_descriptors(book, known);
}

void sweep_descriptors(Book& book) {
  Filesystem::leave_idle_descriptors(book);
  std::vector<int> known;
  known_descriptors(book, known);
  std::sort(known.begin(), known.end());
  unsigned next = 0;
  for (const int fd : known) {
    if (fd < 0) continue;
    const auto number = static_cast<unsigned>(fd);
    if (number > next) ::close_range(next, number - 1, 0);
    next = std::max(next, number + 1);
  }
  ::close_range(next, ~0U, 0);
}

void load_settings(const BookHeader& header, Options& options) {
  if (const std::string error = read_live_values(header.saved(), options); !error.empty()) {
    spdlog::error("options changed while mounted are lost: {}", error);
  }
}

}  // namespace lockfs
