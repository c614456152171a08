#include "tests/mounted/fs/fs_support.h"

#include <dirent.h>
#include <fcntl.h>
#include <grp.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <map>
#include <set>
#include <sstream>

namespace lockfs::fstest {
namespace {

constexpr unsigned kStatMask = STATX_BASIC_STATS;

std::uint64_t fnv1a(std::uint64_t hash, std::string_view bytes) {
  for (const char byte : bytes) {
    hash ^= static_cast<unsigned char>(byte);
    hash *= 1099511628211ULL;
  }
  return hash;
}

std::string errno_name(int error) {
  const char* name = ::strerrorname_np(error);
  return name != nullptr ? name : std::to_string(error);
}

/// Hash of the contents, holes skipped: a sparse file of gigabytes costs only its data.
std::string content_hash(int dir_fd, const char* name) {
  const Fd fd(::openat(dir_fd, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC));
  if (!fd.ok()) return "unreadable:" + errno_name(errno);
  std::uint64_t hash = 14695981039346656037ULL;
  std::vector<char> buffer(1 << 16);
  off_t position = 0;
  while (true) {
    const ssize_t count = ::pread(fd, buffer.data(), buffer.size(), position);
    if (count < 0) return "unreadable:" + errno_name(errno);
    if (count == 0) break;
    const std::string_view bytes(buffer.data(), static_cast<std::size_t>(count));
    if (bytes.find_first_not_of('\0') == std::string_view::npos) {
      const off_t data = ::lseek(fd, position + count, SEEK_DATA);
      const off_t end = ::lseek(fd, 0, SEEK_END);
      // Zeros count by position, not by number: where the next data begins says it all.
      position = data > position + count ? data : (data < 0 ? end : position + count);
      continue;
    }
    // Only blocks that are not all zero go in, each with its place.
    for (std::size_t at = 0; at < bytes.size(); at += 512) {
      const std::string_view block = bytes.substr(at, 512);
      if (block.find_first_not_of('\0') == std::string_view::npos) continue;
      hash = fnv1a(hash, std::to_string((position + static_cast<off_t>(at)) / 512));
      hash = fnv1a(hash, block.substr(0, block.find_last_not_of('\0') + 1));
    }
    position += count;
  }
  std::ostringstream text;
  text << std::hex << hash;
  return text.str();
}

std::string printable(std::string_view bytes) {
  std::ostringstream text;
  for (const char byte : bytes) {
    const auto value = static_cast<unsigned char>(byte);
    if (value >= 32 && value < 127 && byte != '\\') {
      text << byte;
    } else {
      std::array<char, 8> escape{};
      std::snprintf(escape.data(), escape.size(), "\\x%02x", value);
      text << escape.data();
    }
  }
  return text.str();
}

std::string xattr_list(const std::string& path) {
  std::string names(65536, '\0');
  const ssize_t size = ::llistxattr(path.c_str(), names.data(), names.size());
  if (size < 0) return "xattrs:" + errno_name(errno);
  std::map<std::string, std::string> found;
  for (std::size_t at = 0; at < static_cast<std::size_t>(size);) {
    const std::string name(names.c_str() + at);
    at += name.size() + 1;
    std::string value(65536, '\0');
    const ssize_t length = ::lgetxattr(path.c_str(), name.c_str(), value.data(), value.size());
    found[name] = length < 0 ? errno_name(errno)
                             : printable({value.data(), static_cast<std::size_t>(length)});
  }
  std::string text;
  for (const auto& [name, value] : found) text += " [" + name + "=" + value + "]";
  return text;
}

struct PortraitState {
  Detail detail;
  std::map<std::pair<std::uint64_t, std::uint64_t>, std::string> first_path;
  std::string text;
};

std::vector<std::string> sorted_names(int dir_fd) {
  std::vector<std::string> names;
  const int own = ::openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  DIR* stream = own >= 0 ? ::fdopendir(own) : nullptr;
  if (stream == nullptr) {
    ADD_FAILURE() << "can't list a directory: " << errno_name(errno);
    return names;
  }
  while (const dirent* entry = ::readdir(stream)) {  // NOLINT(concurrency-mt-unsafe)
    const std::string_view name = entry->d_name;
    if (name != "." && name != "..") names.emplace_back(name);
  }
  ::closedir(stream);
  std::sort(names.begin(), names.end());
  return names;
}

void portrait_of(PortraitState& state, int dir_fd, const std::string& prefix) {
  for (const std::string& name : sorted_names(dir_fd)) {
    const std::string path = prefix + name;
    struct statx stat {};
    if (::statx(dir_fd, name.c_str(), AT_SYMLINK_NOFOLLOW | AT_STATX_FORCE_SYNC, kStatMask,
                &stat) != 0) {
      state.text += printable(path) + " " + errno_name(errno) + "\n";
      continue;
    }
    // Contents first: reading may change the access time, and the line should show it settled.
    std::string contents;
    if (S_ISREG(stat.stx_mode)) {
      contents = " hash=" + content_hash(dir_fd, name.c_str());
    } else if (S_ISLNK(stat.stx_mode)) {
      std::string target(4096, '\0');
      const ssize_t length = ::readlinkat(dir_fd, name.c_str(), target.data(), target.size());
      contents =
          " -> " + (length < 0 ? errno_name(errno)
                               : printable({target.data(), static_cast<std::size_t>(length)}));
    }
    ::statx(dir_fd, name.c_str(), AT_SYMLINK_NOFOLLOW | AT_STATX_FORCE_SYNC, kStatMask, &stat);
    const bool exact = state.detail == Detail::kExact;
    state.text += printable(path) + " " + describe(stat, exact, exact) + contents;
    state.text += xattr_list("/proc/self/fd/" + std::to_string(dir_fd) + "/" + name);
    if (!S_ISDIR(stat.stx_mode) && stat.stx_nlink > 1) {
      const auto [it, fresh] = state.first_path.try_emplace(
          {stat.stx_ino, (std::uint64_t{stat.stx_dev_major} << 32) | stat.stx_dev_minor}, path);
      if (!fresh) state.text += " same-file-as=" + printable(it->second);
    }
    state.text += "\n";
    if (S_ISDIR(stat.stx_mode)) {
      const Fd child(
          ::openat(dir_fd, name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
      if (child.ok()) {
        portrait_of(state, child, path + "/");
      } else {
        state.text += printable(path) + "/ " + errno_name(errno) + "\n";
      }
    }
  }
}

/// Takes off the immutable and append-only flags, which stop even root from removing a file.
void clear_flags(int dir_fd, const char* name) {
  const Fd fd(::openat(dir_fd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
  if (!fd.ok()) return;
  constexpr unsigned long kGet = 0x80086601UL;  // FS_IOC_GETFLAGS on 64-bit machines
  constexpr unsigned long kSet = 0x40086602UL;  // FS_IOC_SETFLAGS
  long flags = 0;
  constexpr long kStopping = 0x10 | 0x20;  // FS_IMMUTABLE_FL | FS_APPEND_FL
  if (::syscall(SYS_ioctl, static_cast<int>(fd), kGet, &flags) == 0 && (flags & kStopping) != 0) {
    flags &= ~kStopping;
    ::syscall(SYS_ioctl, static_cast<int>(fd), kSet, &flags);
  }
}

/// Removes everything in a directory without recursion and without ever building a long path: a
/// directory that isn't empty has its subdirectories' children pulled up one level at a time.
void empty_directory(int dir_fd) {
  while (true) {
    std::vector<std::string> names = sorted_names(dir_fd);
    if (names.empty()) return;
    bool progress = false;
    for (const std::string& name : names) {
      if (::unlinkat(dir_fd, name.c_str(), 0) == 0) {
        progress = true;
        continue;
      }
      if (::unlinkat(dir_fd, name.c_str(), AT_REMOVEDIR) == 0) {
        progress = true;
        continue;
      }
      clear_flags(dir_fd, name.c_str());
      const Fd child(
          ::openat(dir_fd, name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
      if (!child.ok()) {
        if (::unlinkat(dir_fd, name.c_str(), 0) == 0) progress = true;
        continue;
      }
      static std::uint64_t serial = 0;
      for (const std::string& inner : sorted_names(child)) {
        clear_flags(child, inner.c_str());
        if (::unlinkat(child, inner.c_str(), 0) == 0) {
          progress = true;
        } else if (::renameat(child, inner.c_str(), dir_fd,
                              ("gone." + std::to_string(++serial)).c_str()) == 0) {
          progress = true;
        }
      }
    }
    if (!progress) {
      ADD_FAILURE() << "can't remove " << names.front() << ": " << errno_name(errno);
      return;
    }
  }
}

}  // namespace

void Fd::reset() {
  if (fd_ >= 0) ::close(std::exchange(fd_, -1));
}

std::ostream& operator<<(std::ostream& out, const Outcome& outcome) {
  out << "value " << outcome.value;
  if (outcome.error != 0) out << ", " << errno_name(outcome.error);
  if (!outcome.data.empty()) {
    constexpr std::size_t kShown = 300;
    out << ", data \"" << printable(std::string_view(outcome.data).substr(0, kShown)) << "\"";
    if (outcome.data.size() > kShown) out << "... (" << outcome.data.size() << " bytes)";
  }
  return out;
}

Outcome call(long result) {
  Outcome outcome;
  outcome.error = result < 0 ? errno : 0;
  outcome.value = result < 0 ? -1 : result;
  return outcome;
}

Outcome call_fd(int fd) {
  Outcome outcome = call(fd);
  if (fd >= 0) {
    ::close(fd);
    outcome.value = 0;
  }
  return outcome;
}

ScopedUser::ScopedUser(uid_t uid, gid_t gid, const std::vector<gid_t>& groups) {
  saved_groups_.resize(static_cast<std::size_t>(std::max(0, ::getgroups(0, nullptr))));
  if (!saved_groups_.empty()) {
    EXPECT_GE(::getgroups(static_cast<int>(saved_groups_.size()), saved_groups_.data()), 0);
  }
  EXPECT_EQ(::setgroups(groups.size(), groups.data()), 0);
  EXPECT_EQ(::setegid(gid), 0);
  EXPECT_EQ(::seteuid(uid), 0);
}

ScopedUser::~ScopedUser() {
  const int saved_errno = errno;
  EXPECT_EQ(::seteuid(0), 0);
  EXPECT_EQ(::setegid(0), 0);
  EXPECT_EQ(::setgroups(saved_groups_.size(), saved_groups_.data()), 0);
  errno = saved_errno;
}

std::uint64_t test_seed() {
  static const std::uint64_t seed = [] {
    const char* text = std::getenv("LOCKFS_TEST_SEED");  // NOLINT(concurrency-mt-unsafe)
    const std::uint64_t value =
        text != nullptr ? std::strtoull(text, nullptr, 10) : std::random_device{}();
    std::cout << "random seed " << value << " (repeat with LOCKFS_TEST_SEED=" << value << ")\n"
              << std::flush;
    return value;
  }();
  return seed;
}

std::mt19937_64 make_random(std::uint64_t stream) {
  std::seed_seq sequence{test_seed() & 0xffffffffU, test_seed() >> 32, stream & 0xffffffffU,
                         stream >> 32};
  return std::mt19937_64(sequence);
}

std::uint64_t below(std::mt19937_64& random, std::uint64_t bound) {
  return std::uniform_int_distribution<std::uint64_t>(0, bound - 1)(random);
}

std::string pattern(std::uint64_t tag, std::size_t size) {
  std::string bytes;
  bytes.reserve(size + 32);
  while (bytes.size() < size) {
    bytes += std::to_string(tag) + "@" + std::to_string(bytes.size()) + ";";
  }
  bytes.resize(size);
  return bytes;
}

std::string read_file(const std::string& path) {
  const Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.ok()) {
    ADD_FAILURE() << "open " << path << ": " << errno_name(errno);
    return {};
  }
  std::string contents;
  std::vector<char> buffer(1 << 16);
  while (true) {
    const ssize_t count = ::read(fd, buffer.data(), buffer.size());
    if (count < 0) {
      ADD_FAILURE() << "read " << path << ": " << errno_name(errno);
      return {};
    }
    if (count == 0) return contents;
    contents.append(buffer.data(), static_cast<std::size_t>(count));
  }
}

void write_file(const std::string& path, std::string_view contents, mode_t mode) {
  const Fd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode));
  if (!fd.ok()) {
    ADD_FAILURE() << "create " << path << ": " << errno_name(errno);
    return;
  }
  while (!contents.empty()) {
    const ssize_t count = ::write(fd, contents.data(), contents.size());
    if (count <= 0) {
      ADD_FAILURE() << "write " << path << ": " << errno_name(errno);
      return;
    }
    contents.remove_prefix(static_cast<std::size_t>(count));
  }
}

struct statx attributes(int dir_fd, const std::string& path) {
  struct statx stat {};
  const int flags = AT_SYMLINK_NOFOLLOW | AT_STATX_FORCE_SYNC | (path.empty() ? AT_EMPTY_PATH : 0);
  if (::statx(dir_fd, path.c_str(), flags, kStatMask, &stat) != 0) {
    ADD_FAILURE() << "statx " << path << ": " << errno_name(errno);
  }
  return stat;
}

struct statx attributes(const std::string& path) {
  return attributes(AT_FDCWD, path);
}

std::string describe(const struct statx& stat, bool with_times, bool with_inode) {
  std::ostringstream text;
  text << std::oct << stat.stx_mode << std::dec << " " << stat.stx_uid << ":" << stat.stx_gid
       << " links=" << stat.stx_nlink;
  // How large a directory is depends on its past, not on its contents.
  if (!S_ISDIR(stat.stx_mode) || with_inode) text << " size=" << stat.stx_size;
  if (S_ISCHR(stat.stx_mode) || S_ISBLK(stat.stx_mode)) {
    text << " device=" << stat.stx_rdev_major << "," << stat.stx_rdev_minor;
  }
  if (with_inode) text << " inode=" << stat.stx_ino;
  if (with_times) {
    // No access time: looking changes it.
    for (const auto& [name, time] :
         {std::pair{" mtime=", stat.stx_mtime}, std::pair{" ctime=", stat.stx_ctime}}) {
      text << name << time.tv_sec << "." << time.tv_nsec;
    }
  }
  return text.str();
}

std::string portrait(const std::string& root, Detail detail) {
  const Fd fd(::open(root.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd.ok()) {
    ADD_FAILURE() << "open " << root << ": " << errno_name(errno);
    return {};
  }
  PortraitState state{detail, {}, {}};
  const bool exact = detail == Detail::kExact;
  state.text = ". " + describe(attributes(fd, ""), exact, exact) +
               xattr_list("/proc/self/fd/" + std::to_string(fd)) + "\n";
  portrait_of(state, fd, "");
  return state.text;
}

void expect_alike(const std::string& one, const std::string& two, const std::string& what) {
  if (one == two) return;
  const auto lines_of = [](const std::string& text) {
    std::multiset<std::string> lines;
    std::istringstream stream(text);
    for (std::string line; std::getline(stream, line);) lines.insert(line);
    return lines;
  };
  const std::multiset<std::string> first = lines_of(one);
  const std::multiset<std::string> second = lines_of(two);
  std::string differences;
  const auto only_in = [&](const auto& here, const auto& there, const char* sign) {
    int shown = 0;
    for (const std::string& line : here) {
      if (there.count(line) == here.count(line)) continue;
      if (++shown > 20) break;
      differences += sign + line.substr(0, 400) + "\n";
    }
  };
  only_in(first, second, "  < ");
  only_in(second, first, "  > ");
  ADD_FAILURE() << what << ": the trees differ (" << first.size() << " and " << second.size()
                << " lines)\n"
                << differences;
}

void remove_tree(const std::string& path) {
  if (::unlink(path.c_str()) == 0 || errno == ENOENT) return;
  {
    const Fd fd(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    if (fd.ok()) empty_directory(fd);
  }
  if (::rmdir(path.c_str()) != 0 && errno != ENOENT) {
    ADD_FAILURE() << "can't remove " << path << ": " << errno_name(errno);
  }
}

ProgramResult run_in(const std::string& directory, const std::vector<std::string>& command,
                     const std::vector<std::pair<std::string, std::string>>& environment) {
  test::ProgramOptions options;
  options.directory = directory;
  options.environment = environment;
  options.limit = std::chrono::minutes(10);
  return test::run_program(command, options);
}

std::string must_run(const std::string& directory, const std::vector<std::string>& command,
                     const std::vector<std::pair<std::string, std::string>>& environment) {
  const ProgramResult result = run_in(directory, command, environment);
  if (result.status != 0) {
    std::string line;
    for (const std::string& word : command) line += word + " ";
    ADD_FAILURE() << line << "in " << directory << " ended with " << result.status << ":\n"
                  << result.output;
  }
  return result.output;
}

Outcome in_child(const std::function<Outcome()>& body) {
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) return call(-1);
  const pid_t child = ::fork();
  if (child == 0) {
    const Outcome outcome = body();
    std::string message(sizeof(long) + sizeof(int), '\0');
    std::memcpy(message.data(), &outcome.value, sizeof(long));
    std::memcpy(message.data() + sizeof(long), &outcome.error, sizeof(int));
    message += outcome.data;
    std::string_view rest = message;
    while (!rest.empty()) {
      const ssize_t count = ::write(ends[1], rest.data(), rest.size());
      if (count <= 0) ::_exit(1);
      rest.remove_prefix(static_cast<std::size_t>(count));
    }
    ::_exit(0);
  }
  ::close(ends[1]);
  std::string message;
  std::array<char, 4096> buffer{};
  while (true) {
    const ssize_t count = ::read(ends[0], buffer.data(), buffer.size());
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) break;
    message.append(buffer.data(), static_cast<std::size_t>(count));
  }
  ::close(ends[0]);
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  Outcome outcome;
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0 ||
      message.size() < sizeof(long) + sizeof(int)) {
    outcome.value = WIFSIGNALED(status) ? WTERMSIG(status) : -1;
    outcome.error = 255;
    return outcome;
  }
  std::memcpy(&outcome.value, message.data(), sizeof(long));
  std::memcpy(&outcome.error, message.data() + sizeof(long), sizeof(int));
  outcome.data = message.substr(sizeof(long) + sizeof(int));
  return outcome;
}

void FsTest::SetUp() {
  MountedTest::SetUp();
  if (HasFatalFailure()) return;
  behind_.path = in_source("m");
  plain_.path = in_source("p");
  mounted_.path = in_mount("m");
  for (const Dir* dir : {&behind_, &plain_}) {
    ASSERT_EQ(::mkdir(dir->path.c_str(), 0777), 0) << errno_name(errno);
    ASSERT_EQ(::chmod(dir->path.c_str(), 0777), 0) << errno_name(errno);
  }
  const auto open_dir = [](Dir& dir, Fd& fd) {
    fd = Fd(::open(dir.path.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    dir.fd = fd;
    ASSERT_TRUE(fd.ok()) << dir.path << ": " << errno_name(errno);
  };
  open_dir(behind_, behind_fd_);
  open_dir(plain_, plain_fd_);
  open_dir(mounted_, mounted_fd_);
}

void FsTest::TearDown() {
  mounted_fd_.reset();
  plain_fd_.reset();
  behind_fd_.reset();
  // The harness removes the rest; immutable files and very long paths are ours to undo.
  const char* keep = std::getenv("LOCKFS_TEST_KEEP");  // NOLINT(concurrency-mt-unsafe)
  if (keep == nullptr || std::string_view(keep) != "1") {
    for (const std::string& path : {behind_.path, plain_.path}) {
      if (!path.empty()) remove_tree(path);
    }
  }
  MountedTest::TearDown();
}

Outcome FsTest::same(const std::string& what, const Operation& operation) {
  const Outcome expected = operation(plain_);
  Outcome outcome = operation(mounted_);
  if (outcome != expected) {
    std::ostringstream difference;
    const auto [here, there] = std::mismatch(outcome.data.begin(), outcome.data.end(),
                                             expected.data.begin(), expected.data.end());
    const auto at = static_cast<std::size_t>(here - outcome.data.begin());
    if (here != outcome.data.end() || there != expected.data.end()) {
      const std::size_t from = at - std::min<std::size_t>(at, 60);
      difference << "data differs from byte " << at << ":\n  mount     ..."
                 << printable(std::string_view(outcome.data).substr(from, 120))
                 << "\n  directory ..."
                 << printable(std::string_view(expected.data).substr(from, 120)) << "\n";
    }
    ADD_FAILURE() << what << "\n  mount:     " << outcome << "\n  directory: " << expected << "\n"
                  << difference.str();
  }
  return outcome;
}

Outcome FsTest::same_as(uid_t uid, gid_t gid, const std::vector<gid_t>& groups,
                        const std::string& what, const Operation& operation) {
  const ScopedUser user(uid, gid, groups);
  return same(what + " (as " + std::to_string(uid) + ":" + std::to_string(gid) + ")", operation);
}

void FsTest::expect_same_trees(const std::string& what) {
  expect_alike(portrait(mounted_.path, Detail::kPortable), portrait(plain_.path, Detail::kPortable),
               what + " (mount against directory)");
  expect_alike(portrait(mounted_.path, Detail::kExact), portrait(behind_.path, Detail::kExact),
               what + " (mount against source)");
}

}  // namespace lockfs::fstest
