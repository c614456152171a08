/// read(2) and write(2) on the FUSE device, twice for every request.
///
/// By syscall(2), because the C library's own are cancellation points: in a process with threads
/// these take two locked instructions more each. Nobody cancels a thread here.
#pragma once

#include <sys/syscall.h>
#include <unistd.h>

#include <cstddef>

namespace lockfs {

/// As read(2).
inline ssize_t read_device(int fd, void* buffer, std::size_t size) noexcept {
  return ::syscall(SYS_read, fd, buffer, size);
}

/// As write(2).
inline ssize_t write_device(int fd, const void* data, std::size_t size) noexcept {
  return ::syscall(SYS_write, fd, data, size);
}

}  // namespace lockfs
