/// The three kinds of locks as benchmarks use them: exclusive, blocking, on a range of one file.
#pragma once

#include <sys/types.h>

#include <array>

namespace lockfs::bench {

enum class Kind { kFlock, kPosix, kOfd };

inline constexpr std::array<Kind, 3> kKinds = {Kind::kFlock, Kind::kPosix, Kind::kOfd};

/// "flock", "POSIX" or "OFD".
const char* name_of(Kind kind);

/// Locks `length` bytes from `start` on (0: to the end of the file; flock takes the whole file),
/// waiting for it. False with errno when it could not be had.
bool lock(Kind kind, int fd, off_t start = 0, off_t length = 0);
bool unlock(Kind kind, int fd, off_t start = 0, off_t length = 0);

}  // namespace lockfs::bench
