// The daemon dies at each step between reading a request and answering it, one by one
// (fs/base/death_point.h): the caller and the source must see what they see undisturbed, and
// nothing may be left over. Builds that define NDEBUG (preset release) have no such steps and skip
// this; presets debug and asan run it.
// ctest: timeout=1200 cost=1200
#include <dirent.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/falloc.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "fs/base/death_point.h"
#include "tests/mounted/support/mounted.h"

namespace lockfs::test {
namespace {

using Action = DeathOrders::Action;

/// What is done in the mount's folder `dir`, which is the only thing that is watched and disturbed.
struct Operation {
  const char* name;
  /// Fills the folder, by the source.
  std::function<void(const std::string& dir)> prepare;
  /// In the caller's process, before: a descriptor, or whatever act() wants.
  std::function<int(const std::string& dir)> open;
  /// Returns 0 or an errno; 200 and above: what was seen is wrong.
  std::function<int(const std::string& dir, int fd)> act;
  /// In the same process, behind it. As act().
  std::function<int(const std::string& dir, int fd)> check;
};

int error_of(long result) { return result < 0 ? errno : 0; }

constexpr int kWrong = 200;

std::string content_of(std::size_t size) {
  std::string text(size, '\0');
  for (std::size_t i = 0; i < size; ++i) text[i] = static_cast<char>('a' + i / 512 % 26);
  return text;
}

void make(const std::string& path, const std::string& content) {
  if (!write_file(path, content)) ADD_FAILURE() << path << ": " << std::strerror(errno);
}

/// Files "a" and "b", and an attribute of "a".
void two_files(const std::string& dir) {
  make(dir + "/a", content_of(65536));
  make(dir + "/b", "text of b");
  ::setxattr((dir + "/a").c_str(), "user.there", "old", 3, 0);
}

std::string describe(const std::filesystem::path& path) {
  struct stat st {};
  if (::lstat(path.c_str(), &st) != 0) return "error";
  std::ostringstream out;
  out << std::oct << st.st_mode << std::dec << " links " << st.st_nlink << " owner " << st.st_uid
      << ":" << st.st_gid;
  if (S_ISREG(st.st_mode)) {
    const std::string content = read_file(path);
    out << " size " << st.st_size << " content " << std::hash<std::string>()(content);
    if (content.size() < 100) out << " '" << content << "'";
  }
  if (S_ISLNK(st.st_mode)) out << " -> " << std::filesystem::read_symlink(path).string();
  std::array<char, 4096> names{};
  const ssize_t size = ::llistxattr(path.c_str(), names.data(), names.size());
  for (ssize_t i = 0; i < size;) {
    const std::string name(names.data() + i);
    i += static_cast<ssize_t>(name.size()) + 1;
    std::array<char, 256> value{};
    const ssize_t length = ::lgetxattr(path.c_str(), name.c_str(), value.data(), value.size());
    if (length >= 0) out << " " << name << "=" << std::string(value.data(), std::size_t(length));
  }
  return out.str();
}

/// All of a folder in text, but for times.
std::string tree_of(const std::string& dir) {
  std::map<std::string, std::string> entries;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(dir)) {
    entries[entry.path().string().substr(dir.size())] = describe(entry.path());
  }
  std::string text = ". " + describe(dir) + "\n";
  for (const auto& [name, what] : entries) text += name + ": " + what + "\n";
  return text;
}

struct flock record_of(short type, off_t start, off_t length) {
  struct flock record {};
  record.l_type = type;
  record.l_whence = SEEK_SET;
  record.l_start = start;
  record.l_len = length;
  return record;
}

int lock(int fd, int command, short type, off_t start = 0, off_t length = 0) {
  struct flock record = record_of(type, start, length);
  return error_of(::fcntl(fd, command, &record));
}

/// Whether somebody else finds the bytes locked, or free, both on the mount and on the source.
bool sees(bool locked, const std::string& dir, off_t start, off_t length) {
  const std::string mark = "/mount/";
  std::string source = dir;
  source.replace(dir.find(mark), mark.size(), "/source/");
  for (const std::string& folder : {dir, source}) {
    const UniqueFd fd(::open((folder + "/a").c_str(), O_RDWR | O_CLOEXEC));
    struct flock record = record_of(F_WRLCK, start, length);
    if (::fcntl(fd.get(), F_OFD_GETLK, &record) != 0) return false;
    if ((record.l_type != F_UNLCK) != locked) return false;
  }
  return true;
}

/// In a process of its own: to close a file gives up what the process has locked of it.
bool is_locked(const std::string& dir, off_t start, off_t length) {
  Process other([&] { return sees(true, dir, start, length) ? 0 : 1; });
  return other.wait() == 0;
}
bool is_free(const std::string& dir, off_t start, off_t length) {
  Process other([&] { return sees(false, dir, start, length) ? 0 : 1; });
  return other.wait() == 0;
}

int open_a(const std::string& dir) { return ::open((dir + "/a").c_str(), O_RDWR | O_CLOEXEC); }
int open_locked(const std::string& dir, int command, short type) {
  const int fd = open_a(dir);
  return lock(fd, command, type) == 0 ? fd : -1;
}

/// A process that holds all of "a" and gives it up after a while; SIGKILL ends it with its parent.
void hold_for(const std::string& dir, bool flocked, unsigned milliseconds) {
  int ready[2];
  if (::pipe(ready) != 0) ::_exit(kWrong + 50);
  if (::fork() == 0) {
    ::close(ready[0]);
    const int fd = open_a(dir);
    const int error = flocked ? error_of(::flock(fd, LOCK_EX)) : lock(fd, F_OFD_SETLK, F_WRLCK);
    if (error != 0 || ::write(ready[1], "x", 1) != 1) ::_exit(1);
    ::usleep(milliseconds * 1000);
    ::_exit(flocked ? error_of(::flock(fd, LOCK_UN)) : lock(fd, F_OFD_SETLK, F_UNLCK));
  }
  ::close(ready[1]);
  char byte = 0;
  if (::read(ready[0], &byte, 1) != 1) ::_exit(kWrong + 51);
  ::close(ready[0]);
}

int join_holder() {
  int status = 0;
  if (::wait(&status) < 0) return kWrong + 52;
  return status == 0 ? 0 : kWrong + 53;
}

std::vector<Operation> operations() {
  const auto nothing = [](const std::string&) { return -1; };
  std::vector<Operation> all;
  const auto by_name = [&](const char* name, auto act) {
    all.push_back({name, two_files, nothing,
                   [act](const std::string& dir, int) {
                     return error_of(act(dir + "/a", dir + "/b", dir + "/new"));
                   },
                   nullptr});
  };
  const auto by_fd = [&](const char* name, auto act) {
    all.push_back({name, two_files, open_a, act, nullptr});
  };
  using Path = const std::string&;

  by_name("mkdir", [](Path, Path, Path to) { return ::mkdir(to.c_str(), 0750); });
  by_name("mkdir_there", [](Path a, Path, Path) { return ::mkdir(a.c_str(), 0750); });
  by_name("mknod", [](Path, Path, Path to) { return ::mknod(to.c_str(), S_IFIFO | 0640, 0); });
  by_name("mknod_file", [](Path, Path, Path to) { return ::mknod(to.c_str(), S_IFREG | 0640, 0); });
  by_name("symlink", [](Path, Path, Path to) { return ::symlink("somewhere", to.c_str()); });
  const auto create = [&](const char* name, int flags, mode_t mode, bool there) {
    by_name(name, [=](Path a, Path, Path to) {
      return ::open((there ? a : to).c_str(), flags | O_CREAT | O_CLOEXEC, mode);
    });
  };
  create("create_exclusive", O_RDWR | O_EXCL, 0640, false);
  create("create_exclusive_there", O_RDWR | O_EXCL, 0640, true);
  create("create", O_WRONLY, 0640, false);
  create("create_there", O_RDWR, 0640, true);
  create("create_truncating", O_RDWR | O_TRUNC, 0640, false);
  create("create_truncating_there", O_RDWR | O_TRUNC, 0640, true);
  all.push_back({"create_read_only_as_user",
                 [](const std::string& dir) { ::chmod(dir.c_str(), 0777); }, nothing,
                 [](const std::string& dir, int) {
                   if (::setresgid(4321, 4321, 4321) != 0 || ::setresuid(4321, 4321, 4321) != 0) {
                     return kWrong;
                   }
                   const int fd =
                       ::open((dir + "/new").c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0444);
                   return fd < 0 ? errno : error_of(::write(fd, "mine", 4));
                 },
                 nullptr});
  by_name("open", [](Path a, Path, Path) { return ::open(a.c_str(), O_RDWR | O_CLOEXEC); });
  by_name("open_truncating",
          [](Path a, Path, Path) { return ::open(a.c_str(), O_RDWR | O_TRUNC | O_CLOEXEC); });
  by_name("link", [](Path a, Path, Path to) { return ::link(a.c_str(), to.c_str()); });
  by_name("link_there", [](Path a, Path b, Path) { return ::link(a.c_str(), b.c_str()); });
  by_name("unlink", [](Path a, Path, Path) { return ::unlink(a.c_str()); });
  by_name("unlink_missing", [](Path, Path, Path to) { return ::unlink(to.c_str()); });
  by_name("rename", [](Path a, Path, Path to) { return ::rename(a.c_str(), to.c_str()); });
  by_name("rename_over", [](Path a, Path b, Path) { return ::rename(a.c_str(), b.c_str()); });
  const auto rename = [&](const char* name, unsigned flags, bool over) {
    by_name(name, [=](Path a, Path b, Path to) {
      return ::renameat2(AT_FDCWD, a.c_str(), AT_FDCWD, (over ? b : to).c_str(), flags);
    });
  };
  rename("rename_noreplace", RENAME_NOREPLACE, false);
  rename("rename_noreplace_there", RENAME_NOREPLACE, true);
  rename("exchange", RENAME_EXCHANGE, true);
  rename("exchange_missing", RENAME_EXCHANGE, false);
  all.push_back(
      {"rmdir", [](const std::string& dir) { ::mkdir((dir + "/d").c_str(), 0755); }, nothing,
       [](const std::string& dir, int) { return error_of(::rmdir((dir + "/d").c_str())); },
       nullptr});
  all.push_back(
      {"rmdir_full",
       [](const std::string& dir) {
         ::mkdir((dir + "/d").c_str(), 0755);
         make(dir + "/d/x", "x");
       },
       nothing, [](const std::string& dir, int) { return error_of(::rmdir((dir + "/d").c_str())); },
       nullptr});

  const auto set = [&](const char* name, const char* attribute, int flags) {
    by_name(name, [=](Path a, Path, Path) {
      return ::setxattr(a.c_str(), attribute, "value", 5, flags);
    });
  };
  set("setxattr", "user.there", 0);
  set("setxattr_create", "user.new", XATTR_CREATE);
  set("setxattr_create_there", "user.there", XATTR_CREATE);
  set("setxattr_replace", "user.there", XATTR_REPLACE);
  set("setxattr_replace_missing", "user.new", XATTR_REPLACE);
  by_name("removexattr", [](Path a, Path, Path) { return ::removexattr(a.c_str(), "user.there"); });
  by_name("removexattr_missing",
          [](Path a, Path, Path) { return ::removexattr(a.c_str(), "user.new"); });
  by_name("chmod", [](Path a, Path, Path) { return ::chmod(a.c_str(), 0700); });
  by_name("chown", [](Path a, Path, Path) { return ::chown(a.c_str(), 12, 34); });
  by_name("utimens", [](Path a, Path, Path) {
    const std::array<timespec, 2> times{timespec{1, 2}, timespec{3, 4}};
    return ::utimensat(AT_FDCWD, a.c_str(), times.data(), 0);
  });
  by_name("truncate", [](Path a, Path, Path) { return ::truncate(a.c_str(), 100); });
  by_name("truncate_longer", [](Path a, Path, Path) { return ::truncate(a.c_str(), 100000); });
  by_name("truncate_same", [](Path a, Path, Path) { return ::truncate(a.c_str(), 65536); });
  by_fd("ftruncate", [](Path, int fd) { return error_of(::ftruncate(fd, 0)); });

  by_fd("write",
        [](Path, int fd) { return ::pwrite(fd, "words", 5, 65534) == 5 ? 0 : errno + kWrong; });
  by_fd("write_large", [](Path, int fd) {
    const std::string text(600'000, 'x');
    return ::pwrite(fd, text.data(), text.size(), 1000) == 600'000 ? 0 : kWrong;
  });
  const auto append = [&](const char* name, std::size_t size) {
    all.push_back({name, two_files,
                   [](const std::string& dir) {
                     return ::open((dir + "/a").c_str(), O_WRONLY | O_APPEND | O_CLOEXEC);
                   },
                   [size](const std::string&, int fd) {
                     const std::string text(size, 'z');
                     return ::write(fd, text.data(), size) == ssize_t(size) ? 0 : kWrong;
                   },
                   nullptr});
  };
  append("append", 5);
  append("append_large", 600'000);
  const auto allocate = [&](const char* name, int mode, off_t offset, off_t length) {
    by_fd(name, [=](Path, int fd) { return error_of(::fallocate(fd, mode, offset, length)); });
  };
  allocate("fallocate", 0, 60000, 20000);
  allocate("fallocate_keep_size", FALLOC_FL_KEEP_SIZE, 60000, 20000);
  allocate("fallocate_punch", FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 5000, 20000);
  allocate("fallocate_zero", FALLOC_FL_ZERO_RANGE, 60000, 20000);
  allocate("fallocate_zero_keep_size", FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, 5000, 20000);
  // FUSE does not know these.
  allocate("fallocate_collapse", FALLOC_FL_COLLAPSE_RANGE, 4096, 8192);
  allocate("fallocate_insert", FALLOC_FL_INSERT_RANGE, 4096, 8192);
  const auto copy = [&](const char* name, off_t to, std::size_t length, ssize_t expected) {
    by_fd(name, [=](Path, int fd) {
      off_t from = 100;
      off_t target = to;
      const ssize_t got = ::copy_file_range(fd, &from, fd, &target, length, 0);
      return got == expected ? 0 : got < 0 ? errno : kWrong;
    });
  };
  copy("copy_file_range", 40000, 20000, 20000);
  copy("copy_file_range_behind_the_end", 65536, 100000, 65436);
  by_fd("read", [](Path, int fd) {
    std::string text(4096, '\0');
    if (::pread(fd, text.data(), text.size(), 512) != 4096) return kWrong;
    return text == content_of(65536).substr(512, 4096) ? 0 : kWrong + 1;
  });
  all.push_back({"readdir",
                 [](const std::string& dir) {
                   for (int i = 0; i < 150; ++i) make(dir + "/file" + std::to_string(i), "");
                 },
                 nothing,
                 [](const std::string& dir, int) {
                   DIR* const stream = ::opendir(dir.c_str());
                   if (stream == nullptr) return errno;
                   std::multiset<std::string> seen;
                   while (const dirent* entry = ::readdir(stream)) seen.insert(entry->d_name);
                   ::closedir(stream);
                   const std::set<std::string> once(seen.begin(), seen.end());
                   return seen.size() == 152 && once.size() == 152 ? 0 : kWrong;
                 },
                 nullptr});
  by_fd("close", [](Path, int fd) { return error_of(::close(fd)); });
  by_fd("unlink_open", [](Path dir, int fd) {
    if (::unlink((dir + "/a").c_str()) != 0) return errno;
    if (::pwrite(fd, "words", 5, 0) != 5) return kWrong;
    struct stat st {};
    if (::fstat(fd, &st) != 0) return errno;
    if (st.st_nlink != 0 || st.st_size != 65536) return kWrong + 1;
    return error_of(::close(fd));
  });
  all.push_back({"forget",
                 [](const std::string& dir) {
                   for (int i = 0; i < 20; ++i) make(dir + "/file" + std::to_string(i), "");
                 },
                 [](const std::string& dir) {
                   struct stat st {};
                   for (int i = 0; i < 20; ++i) {
                     ::stat((dir + "/file" + std::to_string(i)).c_str(), &st);
                   }
                   return -1;
                 },
                 [](const std::string& dir, int) {
                   for (int i = 0; i < 20; ++i) {
                     if (::unlink((dir + "/file" + std::to_string(i)).c_str()) != 0) return errno;
                   }
                   return 0;
                 },
                 nullptr});

  // Locks.
  const auto held = [](Path dir, int) { return is_locked(dir, 0, 1) ? 0 : kWrong + 10; };
  const auto unheld = [](Path dir, int) { return is_free(dir, 0, 0) ? 0 : kWrong + 11; };
  const auto locks = [&](const char* name, std::function<int(Path)> open,
                         std::function<int(Path, int)> act, std::function<int(Path, int)> check) {
    all.push_back({name, two_files, std::move(open), std::move(act), std::move(check)});
  };
  for (const bool posix : {true, false}) {
    const int now = posix ? F_SETLK : F_OFD_SETLK;
    const int wait = posix ? F_SETLKW : F_OFD_SETLKW;
    const auto locked = [now](Path dir) { return open_locked(dir, now, F_WRLCK); };
    const auto shared = [now](Path dir) { return open_locked(dir, now, F_RDLCK); };
    const auto name = [posix](const char* p, const char* o) { return posix ? p : o; };
    locks(
        name("posix_lock", "ofd_lock"), open_a,
        [now](Path, int fd) { return lock(fd, now, F_WRLCK, 0, 10); }, held);
    locks(
        name("posix_unlock", "ofd_unlock"), locked,
        [now](Path, int fd) { return lock(fd, now, F_UNLCK); }, unheld);
    locks(
        name("posix_split", "ofd_split"), locked,
        [now](Path, int fd) { return lock(fd, now, F_UNLCK, 100, 100); },
        [](Path dir, int) {
          const bool right =
              is_locked(dir, 99, 1) && is_locked(dir, 200, 1) && is_free(dir, 100, 100);
          return right ? 0 : kWrong + 12;
        });
    locks(
        name("posix_convert", "ofd_convert"), shared,
        [now](Path, int fd) { return lock(fd, now, F_WRLCK, 100, 100); },
        [](Path dir, int) {
          return is_locked(dir, 0, 1) && is_locked(dir, 100, 100) ? 0 : kWrong + 13;
        });
    locks(
        name("posix_downgrade", "ofd_downgrade"), locked,
        [now](Path, int fd) { return lock(fd, now, F_RDLCK, 0, 0); }, held);
    locks(
        name("posix_wait", "ofd_wait"),
        [](Path dir) {
          const int fd = open_a(dir);
          hold_for(dir, false, 100);
          return fd;
        },
        [wait](Path, int fd) { return lock(fd, wait, F_WRLCK, 0, 10); },
        [](Path dir, int) {
          if (const int error = join_holder(); error != 0) return error;
          return is_locked(dir, 0, 1) && is_free(dir, 10, 0) ? 0 : kWrong + 14;
        });
    locks(
        name("posix_interrupted", "ofd_interrupted"),
        [](Path dir) {
          const int fd = open_a(dir);
          hold_for(dir, false, 1500);
          return fd;
        },
        [wait](Path, int fd) {
          struct sigaction ignored {};
          ignored.sa_handler = [](int) {};
          ::sigaction(SIGALRM, &ignored, nullptr);
          const itimerval soon{{0, 0}, {0, 80'000}};
          ::setitimer(ITIMER_REAL, &soon, nullptr);
          return lock(fd, wait, F_WRLCK, 0, 10);
        },
        [](Path dir, int) {
          if (!is_locked(dir, 0, 1)) return kWrong + 15;
          if (const int error = join_holder(); error != 0) return error;
          return is_free(dir, 0, 0) ? 0 : kWrong + 16;
        });
    locks(
        name("posix_close", "ofd_close"), locked,
        [](Path, int fd) { return error_of(::close(fd)); },
        [](Path dir, int) {
          return eventually([&] { return is_free(dir, 0, 0); }) ? 0 : kWrong + 17;
        });
    locks(
        name("posix_refused", "ofd_refused"),
        [](Path dir) {
          hold_for(dir, false, 300);
          return open_a(dir);
        },
        [now](Path, int fd) { return lock(fd, now, F_WRLCK, 0, 10); },
        [](Path dir, int) {
          if (const int error = join_holder(); error != 0) return error;
          return is_free(dir, 0, 0) ? 0 : kWrong + 18;
        });
    locks(
        name("posix_query", "ofd_query"), locked,
        [](Path dir, int) {
          Process other([&] {
            const UniqueFd fd(open_a(dir));
            struct flock record = record_of(F_RDLCK, 5, 0);
            if (::fcntl(fd.get(), F_SETLK, &record) == 0) return kWrong;
            if (::fcntl(fd.get(), F_GETLK, &record) != 0) return errno;
            return record.l_type == F_WRLCK ? 0 : kWrong + 1;
          });
          return other.wait();
        },
        nullptr);
  }
  const auto flock_kept = [](Path dir, int) {
    const UniqueFd other(open_a(dir));
    return ::flock(other.get(), LOCK_SH | LOCK_NB) != 0 && errno == EWOULDBLOCK ? 0 : kWrong + 20;
  };
  const auto flock_gone = [](Path dir, int) {
    const UniqueFd other(open_a(dir));
    return error_of(::flock(other.get(), LOCK_EX | LOCK_NB));
  };
  const auto flocked = [](Path dir) {
    const int fd = open_a(dir);
    return ::flock(fd, LOCK_EX) == 0 ? fd : -1;
  };
  locks(
      "flock", open_a, [](Path, int fd) { return error_of(::flock(fd, LOCK_EX)); }, flock_kept);
  locks(
      "flock_unlock", flocked, [](Path, int fd) { return error_of(::flock(fd, LOCK_UN)); },
      flock_gone);
  locks(
      "flock_wait",
      [](Path dir) {
        const int fd = open_a(dir);
        hold_for(dir, true, 100);
        return fd;
      },
      [](Path, int fd) { return error_of(::flock(fd, LOCK_EX)); },
      [flock_kept](Path dir, int fd) {
        if (const int error = join_holder(); error != 0) return error;
        return flock_kept(dir, fd);
      });
  locks(
      "flock_close", flocked, [](Path, int fd) { return error_of(::close(fd)); },
      [flock_gone](Path dir, int fd) {
        return eventually([&] { return flock_gone(dir, fd) == 0; }) ? 0 : kWrong + 21;
      });
  return all;
}

struct Deaths {
  struct One {
    std::string point;
    std::uint32_t time = 1;
    Action action = Action::kDie;
  };
  std::vector<One> all;

  [[nodiscard]] std::string text() const {
    std::string text;
    for (const One& one : all) text += " " + one.point + "#" + std::to_string(one.time);
    return text;
  }
};

/// Parameter: whether file data bypasses the daemon.
class DeathPointsTest : public MountedTest, public ::testing::WithParamInterface<bool> {
 protected:
  std::vector<std::string> options() const override {
    std::vector<std::string> options{"survive=on"};
    if (!GetParam()) options.emplace_back("passthrough=off");
    return options;
  }

  void SetUp() override {
    LOCKFS_NOT_PLAIN();
#ifndef LOCKFS_HAS_DEATH_POINTS
    GTEST_SKIP() << "a release build has no points to die at";
#endif
    if (::geteuid() != 0) GTEST_SKIP() << "needs root";
    std::string path =
        (std::filesystem::temp_directory_path() / "lockfs-test-death-XXXXXX").string();
    const UniqueFd fd(::mkstemp(path.data()));
    ASSERT_EQ(::ftruncate(fd.get(), sizeof(DeathOrders)), 0);
    void* const memory =
        ::mmap(nullptr, sizeof(DeathOrders), PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
    ASSERT_NE(memory, MAP_FAILED);
    orders_ = static_cast<DeathOrders*>(memory);
    path_ = path;
    ::setenv("LOCKFS_TEST_DEATH", path.c_str(), 1);
    MountedTest::SetUp();
    fs().allow_log("the daemon was .*generation [0-9]+ goes on");
  }

  void TearDown() override {
    if (orders_ == nullptr) return;
    MountedTest::TearDown();
    ::unsetenv("LOCKFS_TEST_DEATH");
    ::unlink(path_.c_str());
    ::munmap(orders_, sizeof(DeathOrders));
  }

  void give_orders(const Deaths& deaths) {
    orders_->next = 0;
    std::uint32_t count = 0;
    for (const Deaths::One& one : deaths.all) {
      DeathOrders::Order& order = orders_->orders[count++];
      std::strncpy(order.point, one.point.c_str(), sizeof order.point - 1);
      order.point[std::min(one.point.size(), sizeof order.point - 1)] = '\0';
      order.left = one.time;
      order.action = one.action;
    }
    orders_->count = count;
  }
  void take_orders_back() { orders_->count = 0; }

  /// Empty: it does not answer.
  std::map<std::string, long> gauges() {
    const std::string program =
        (std::filesystem::path(lockfs_program()).parent_path() / "lockfsctl").string();
    const ProgramResult result = run_program({program, "stats", "-J", mount()});
    std::map<std::string, long> found;
    if (result.status != 0) return found;
    for (const char* name :
         {"locks", "waiters", "waiting_outside", "put_off", "files", "inodes", "generation"}) {
      const std::string key = "\"" + std::string(name) + "\":";
      // The gauges come behind the counters.
      auto at = result.output.find(key, result.output.find("\"gauges\":"));
      if (at == std::string::npos) return {};
      found[name] = std::atol(result.output.c_str() + at + key.size());
    }
    return found;
  }
  std::map<std::string, long> gauges_now() {
    std::map<std::string, long> now;
    eventually([&] { return !(now = gauges()).empty(); });
    return now;
  }

  /// Descriptors of the daemon in that folder.
  std::string open_below(const std::string& dir) const {
    std::string found;
    std::error_code ignored;
    const std::string folder = "/proc/" + std::to_string(fs().keeper_pid()) + "/fd";
    for (const auto& entry : std::filesystem::directory_iterator(folder, ignored)) {
      const std::string target = std::filesystem::read_symlink(entry.path(), ignored).string();
      if (target.starts_with(dir + "/") || target.starts_with(dir + " ") || target == dir) {
        found += entry.path().filename().string() + " -> " + target + "\n";
      }
    }
    return found;
  }

  struct Result {
    int status = 0;
    std::string tree;
    std::uint32_t deaths = 0;
    std::vector<std::string> passed;
  };

  /// `between`: done when a daemon died alone, before the next one comes. `after`: before the
  /// folder is removed.
  Result run(const Operation& operation, const Deaths& deaths,
             const std::function<void(const std::string& source)>& between = nullptr,
             const std::function<void(const std::string& source)>& after = nullptr) {
    const std::string name = std::string(operation.name) + "-" + std::to_string(++runs_);
    const std::string from = in_source(name);
    const std::string dir = in_mount(name);
    ::mkdir(from.c_str(), 0755);
    operation.prepare(from);
    struct stat st {};
    ::stat(dir.c_str(), &st);
    Result result;
    Process caller([&] {
      const int fd = operation.open(dir);
      orders_->size = 0;
      orders_->collects = deaths.all.empty() ? 1 : 0;
      give_orders(deaths);
      int error = operation.act(dir, fd);
      orders_->collects = 0;
      // What it has left behind it: closing, forgetting.
      if (!between) ::usleep(2000);
      take_orders_back();
      if (operation.check && error < kWrong) {
        if (const int wrong = operation.check(dir, fd); wrong != 0) error = wrong;
      }
      return error;
    });
    if (between) {
      const std::string keeper = "/proc/" + std::to_string(fs().keeper_pid()) + "/stat";
      const bool alone = eventually([&] {
        return orders_->next > 0 && read_file(keeper).find(") T ") != std::string::npos &&
               read_file("/proc/" + std::to_string(fs().daemon_pid()) + "/stat").find(") Z ") !=
                   std::string::npos;
      });
      EXPECT_TRUE(alone) << operation.name << deaths.text() << ": nobody died";
      if (alone) between(from);
      ::kill(fs().keeper_pid(), SIGCONT);
    }
    result.status = caller.wait();
    take_orders_back();
    result.deaths = orders_->next;
    result.tree = tree_of(from);
    if (after) after(from);
    const std::string passed(orders_->passed,
                             std::min<std::size_t>(orders_->size, sizeof orders_->passed));
    std::istringstream lines(passed);
    for (std::string line; std::getline(lines, line);) result.passed.push_back(line);
    if (result.status == -1) {
      ADD_FAILURE() << operation.name << deaths.text() << ": no answer\n" << fs().log();
      return result;
    }
    std::error_code error;
    std::filesystem::remove_all(dir, error);
    EXPECT_FALSE(error) << operation.name << deaths.text()
                        << ": cannot be removed afterwards: " << error.message();
    return result;
  }

  /// That nothing is left over of the last run.
  void expect_nothing_left(const std::string& what, std::map<std::string, long>& before,
                           std::uint32_t deaths) {
    std::map<std::string, long> expected = before;
    expected["generation"] += deaths;
    std::map<std::string, long> now;
    const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(5);
    do {
      now = gauges_now();
    } while (now != expected && std::chrono::steady_clock::now() < until);
    EXPECT_EQ(now, expected) << what;
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(2);
    std::string open;
    do {
      open =
          open_below(source() + "/" + what.substr(0, what.find(' ')) + "-" + std::to_string(runs_));
    } while (!open.empty() && std::chrono::steady_clock::now() < end);
    EXPECT_EQ(open, "") << what;
    before = now;
  }

  DeathOrders* orders_ = nullptr;
  std::string path_;
  int runs_ = 0;
};

INSTANTIATE_TEST_SUITE_P(Data, DeathPointsTest, ::testing::Bool(), [](const auto& instance) {
  return instance.param ? "Passthrough" : "ThroughTheDaemon";
});

TEST_P(DeathPointsTest, EachStepOfEachOperation) {
  const char* const only = std::getenv("LOCKFS_TEST_ONLY");
  std::map<std::string, long> before;
  int cases = 0;
  int died = 0;
  int number = 0;
  // With sanitizers a sample.
  constexpr int kAll = 1000;
  const int one_in = kAll / scaled(kAll);
  int looked = 0;
  for (const Operation& operation : operations()) {
    if (only != nullptr && std::string(operation.name).find(only) == std::string::npos) continue;
    const Result wanted = run(operation, {});
    if (before.empty()) before = gauges_now();
    ASSERT_LT(wanted.status, kWrong) << operation.name << ": wrong without a death";
    expect_nothing_left(operation.name, before, 0);
    // The first times each point is passed: what comes again and again is the same.
    std::vector<Deaths> plans;
    std::map<std::string, std::uint32_t> times;
    for (const std::string& point : wanted.passed) {
      const std::uint32_t time = ++times[point];
      if (time > 3 || ++looked % one_in != 0) continue;
      plans.push_back({{{point, time}}});
      // Others share the machine: every third death is followed by another.
      if (++number % 3 != 0) continue;
      const char* const again[] = {"recovery.swept",
                                   "recovery.files",
                                   "recovery.locks",
                                   "recovery.request",
                                   "recovery.takes_back",
                                   "recovery.answered_again",
                                   "recovery.before_settled",
                                   "recovery.found_twice",
                                   "source.after",
                                   "answer.stored"};
      plans.push_back({{{point, time}, {again[number / 3 % std::size(again)], 1}}});
    }
    for (const Deaths& deaths : plans) {
      const Result seen = run(operation, deaths);
      ++cases;
      died += static_cast<int>(seen.deaths);
      const std::string what = operation.name + deaths.text();
      EXPECT_EQ(seen.status, wanted.status) << what << ": " << std::strerror(seen.status);
      EXPECT_EQ(seen.tree, wanted.tree) << what;
      if (seen.status == -1) return;
      expect_nothing_left(what, before, seen.deaths);
    }
  }
  std::printf("%d cases, %d deaths\n", cases, died);
}

// -- an outsider in between -----------------------------------------------------------------------

/// What an outsider does when the daemon has died and no other is there, and what must be then.
struct Meeting {
  const char* operation;
  const char* point;  ///< of the death
  std::function<void(const std::string& dir)> outsider;
  int status;
  std::function<bool(const std::string& dir)> holds;
};

TEST_P(DeathPointsTest, AnOutsiderInBetween) {
  const auto put = [](const char* name, const char* text) {
    return [=](const std::string& dir) {
      ::unlink((dir + name).c_str());
      make(dir + name, text);
    };
  };
  const auto is = [](const char* name, const char* text) {
    return [=](const std::string& dir) { return read_file(dir + name) == text; };
  };
  const auto both = [](auto one, auto other) {
    return [=](const std::string& dir) { return one(dir) && other(dir); };
  };
  const auto add = [](const char* name, off_t at, const char* text) {
    return [=](const std::string& dir) {
      const UniqueFd fd(::open((dir + name).c_str(), O_WRONLY | O_CLOEXEC));
      const auto size = static_cast<ssize_t>(std::strlen(text));
      EXPECT_EQ(::pwrite(fd.get(), text, std::strlen(text), at), size);
    };
  };
  const auto has = [](const char* name, std::size_t at, const char* text) {
    return [=](const std::string& dir) {
      const std::string content = read_file(dir + name);
      return content.size() >= at && content.substr(at, std::strlen(text)) == text;
    };
  };
  const auto sized = [](const char* name, off_t size) {
    return [=](const std::string& dir) {
      struct stat st {};
      return ::stat((dir + name).c_str(), &st) == 0 && st.st_size == size;
    };
  };
  const auto set = [](const std::string& dir) {
    ::setxattr((dir + "/a").c_str(), "user.there", "theirs", 6, 0);
  };
  const auto is_set = [](const std::string& dir) {
    std::array<char, 64> now{};
    const ssize_t got = ::getxattr((dir + "/a").c_str(), "user.there", now.data(), now.size());
    return got == 6 && std::memcmp(now.data(), "theirs", 6) == 0;
  };
  const auto make_folder = [](const std::string& dir) { ::mkdir((dir + "/d").c_str(), 0700); };
  const auto has_folder = [](const std::string& dir) {
    return ::access((dir + "/d").c_str(), F_OK) == 0;
  };
  const auto replace_folder = [](const std::string& dir) {
    ::rmdir((dir + "/new").c_str());
    make(dir + "/new", "theirs");
  };
  const char* const made = "source.after";
  const char* const unmade = "source.before";
  std::vector<Meeting> all = {
      // Somebody else's file at the name: neither removed nor replaced, whether it was made or not.
      {"unlink", made, put("/a", "theirs"), 0, is("/a", "theirs")},
      {"unlink", unmade, put("/a", "theirs"), 0, is("/a", "theirs")},
      {"rename", made, put("/a", "theirs"), 0, both(is("/a", "theirs"), sized("/new", 65536))},
      {"rename", unmade, put("/a", "theirs"), 0, is("/a", "theirs")},
      {"rename_over", made, put("/b", "theirs"), 0, is("/b", "theirs")},
      {"exchange", made, put("/a", "theirs"), 0, both(is("/a", "theirs"), sized("/b", 65536))},
      {"exchange", unmade, put("/b", "theirs"), 0, is("/b", "theirs")},
      {"rmdir", made, make_folder, 0, has_folder},
      // Of another kind: not its doing.
      {"mkdir", unmade, put("/new", "theirs"), EEXIST, is("/new", "theirs")},
      {"mkdir", made, replace_folder, EEXIST, is("/new", "theirs")},
      {"symlink", unmade, put("/new", "theirs"), EEXIST, is("/new", "theirs")},
      {"link", made, put("/new", "theirs"), EEXIST, is("/new", "theirs")},
      // Of its kind: passes for it, and stays as it is.
      {"create_exclusive", unmade, put("/new", "theirs"), 0, is("/new", "theirs")},
      {"create_truncating", made, add("/new", 0, "theirs"), 0, is("/new", "theirs")},
      // Data.
      {"truncate", made, add("/a", 100, "theirs"), EIO, has("/a", 100, "theirs")},
      {"truncate", unmade, add("/a", 65536, "theirs"), EIO, has("/a", 65536, "theirs")},
      {"truncate_longer", made, add("/a", 100000, "theirs"), 0, has("/a", 100000, "theirs")},
      {"truncate_longer", unmade, add("/a", 65536, "theirs"), 0,
       both(has("/a", 65536, "theirs"), sized("/a", 100000))},
      {"open_truncating", made, add("/a", 0, "theirs"), EIO, has("/a", 0, "theirs")},
      {"ftruncate", made, add("/a", 0, "theirs"), EIO, has("/a", 0, "theirs")},
      {"fallocate_punch", made, add("/a", 6000, "theirs"), EIO, has("/a", 6000, "theirs")},
      {"fallocate_punch", made, add("/a", 0, "theirs"), 0, has("/a", 0, "theirs")},
      // Somebody else's value.
      {"removexattr", made, set, 0, is_set},
  };
  if (!GetParam()) {
    // Kept besides what somebody appended; and half of it there, as a signal that kills leaves it.
    all.push_back({"append", made, add("/a", 65541, "theirs"), 0,
                   both(has("/a", 65536, "zzzzztheirs"), sized("/a", 65547))});
    all.push_back({"append", unmade, add("/a", 65536, "theirs"), 0,
                   both(has("/a", 65536, "theirszzzzz"), sized("/a", 65547))});
    all.push_back({"append", unmade, add("/a", 65536, "zz"), 0,
                   both(has("/a", 65536, "zzzzz"), sized("/a", 65541))});
  }
  std::map<std::string, Operation> by_name;
  for (const Operation& each : operations()) by_name[each.name] = each;
  std::map<std::string, long> before = gauges_now();
  int number = 0;
  for (const Meeting& meeting : all) {
    const std::string what = std::string(meeting.operation) + " " + meeting.point + ", meeting " +
                             std::to_string(number++);
    bool holds = false;
    const Result seen =
        run(by_name.at(meeting.operation), {{{meeting.point, 1, Action::kDieAlone}}},
            meeting.outsider, [&](const std::string& dir) { holds = meeting.holds(dir); });
    EXPECT_EQ(seen.deaths, 1U) << what;
    EXPECT_EQ(seen.status, meeting.status) << what << ": " << std::strerror(seen.status);
    EXPECT_TRUE(holds) << what << "\n" << seen.tree;
    if (seen.status == -1) return;
    expect_nothing_left(what, before, seen.deaths);
  }
}

}  // namespace
}  // namespace lockfs::test
