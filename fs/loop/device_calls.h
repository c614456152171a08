/// read(2) and write(2) on the FUSE device, for every request and for the answers that do not go
/// through libfuse. Any thread may call them.
///
/// By syscall(2), because the C library's own are cancellation points: in a process with threads
/// these take two locked instructions more each. Nobody cancels a thread here. The thread sanitizer
/// knows only the C library's, from which it takes that a request comes after the answers that its
/// maker has seen.
#pragma once

#include <sys/syscall.h>
#include <unistd.h>

#include <cstddef>

namespace lockfs {

/// As read(2).
inline ssize_t read_device(int fd, void* buffer, std::size_t size) noexcept {
#ifdef __SANITIZE_THREAD__
  return ::read(fd, buffer, size);
#else
  return ::syscall(SYS_read, fd, buffer, size);
#endif
}

/// As write(2).
inline ssize_t write_device(int fd, const void* data, std::size_t size) noexcept {
#ifdef __SANITIZE_THREAD__
  return ::write(fd, data, size);
#else
  return ::syscall(SYS_write, fd, data, size);
#endif
}

}  // namespace lockfs
