// Adds lines to a file under a lock taken anew for each: the counter at the file's start is read,
// raised and written back, so that any two that overlap show as a lost count.
//
//   append_locked flock|posix|ofd FILE ROUNDS
#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string_view>

namespace {

int set_lock(std::string_view kind, int fd, bool locked) {
  if (kind == "flock") return ::flock(fd, locked ? LOCK_EX : LOCK_UN);
  struct flock lock {};
  lock.l_type = locked ? F_WRLCK : F_UNLCK;
  lock.l_whence = SEEK_SET;
  return ::fcntl(fd, kind == "posix" ? F_SETLKW : F_OFD_SETLKW, &lock);
}

int failed(const char* what) {
  std::fprintf(stderr, "%s: %s\n", what, ::strerrordesc_np(errno));
  return 1;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  const std::string_view kind = argv[1];
  const long rounds = std::strtol(argv[3], nullptr, 10);
  const int fd = ::open(argv[2], O_RDWR | O_CLOEXEC);
  if (fd < 0) return failed("open");
  for (long round = 0; round < rounds; ++round) {
    if (set_lock(kind, fd, true) != 0) return failed("lock");
    std::array<char, 32> text{};
    if (::pread(fd, text.data(), 16, 0) < 0) return failed("read");
    const long count = std::strtol(text.data(), nullptr, 10) + 1;
    std::snprintf(text.data(), text.size(), "%015ld", count);
    text[15] = '\n';
    if (::pwrite(fd, text.data(), 16, 0) != 16) return failed("write");
    if (set_lock(kind, fd, false) != 0) return failed("unlock");
  }
  return 0;
}
