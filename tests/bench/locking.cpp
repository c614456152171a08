#include "tests/bench/locking.h"

#include <fcntl.h>
#include <sys/file.h>

namespace lockfs::bench {
namespace {

bool record_lock(int fd, int command, short type, off_t start, off_t length) {
  struct flock lock = {};
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  lock.l_start = start;
  lock.l_len = length;
  return fcntl(fd, command, &lock) == 0;
}

}  // namespace

const char* name_of(Kind kind) {
  switch (kind) {
    case Kind::kFlock:
      return "flock";
    case Kind::kPosix:
      return "POSIX";
    case Kind::kOfd:
      return "OFD";
  }
  return "";
}

bool lock(Kind kind, int fd, off_t start, off_t length) {
  switch (kind) {
    case Kind::kFlock:
      return flock(fd, LOCK_EX) == 0;
    case Kind::kPosix:
      return record_lock(fd, F_SETLKW, F_WRLCK, start, length);
    case Kind::kOfd:
      return record_lock(fd, F_OFD_SETLKW, F_WRLCK, start, length);
  }
  return false;
}

bool unlock(Kind kind, int fd, off_t start, off_t length) {
  switch (kind) {
    case Kind::kFlock:
      return flock(fd, LOCK_UN) == 0;
    case Kind::kPosix:
      return record_lock(fd, F_SETLK, F_UNLCK, start, length);
    case Kind::kOfd:
      return record_lock(fd, F_OFD_SETLK, F_UNLCK, start, length);
  }
  return false;
}

}  // namespace lockfs::bench
