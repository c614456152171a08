/// Tells classic POSIX record locks from open-file-description locks: FUSE requests for the two
/// look alike, save that the first carry the cookie of a process and the others that of an open
/// file.
///
/// Thread safety: all functions may be called from any thread.
#pragma once

#include <sys/types.h>

#include <array>
#include <atomic>
#include <cstdint>

namespace lockfs {

enum class CallerLook : std::uint8_t {
  kProcess,   ///< it sits in a call for a classic POSIX lock
  kOpenFile,  ///< in one for an open-file-description lock
  kRuns,      ///< it has sent its request and does not sleep yet: to be looked at again
  kHidden,    ///< /proc does not tell, and will not
};

/// The kind of fcntl() that thread `tid` sits in: it waits there for the answer to its lock
/// request, so /proc shows the command. Costs some ten microseconds; looks up to `looks` times
/// while the thread runs. It runs until it gets to sleep in request_wait_answer(), signals or not;
/// but a thread that is short of processor time may take as long as it likes. kHidden: the thread
/// is in a pid namespace out of sight, or a kernel thread.
CallerLook look_at_caller(pid_t tid, int looks = 100);

/// Cookies that are known to be processes', having come with a FLUSH: that is always the cookie of
/// the file table of the process that closes. Forgetful; remembers the recent ones.
class KnownProcesses {
 public:
  void remember(std::uint64_t cookie) noexcept {
    slot(cookie).store(cookie, std::memory_order_relaxed);
  }
  bool contains(std::uint64_t cookie) noexcept {
    return slot(cookie).load(std::memory_order_relaxed) == cookie;
  }

 private:
  static constexpr std::size_t kSlots = 4096;
  std::atomic<std::uint64_t>& slot(std::uint64_t cookie) noexcept {
    return slots_[(cookie * 0x9E3779B97F4A7C15ULL) >> 52];
  }
  std::array<std::atomic<std::uint64_t>, kSlots> slots_{};
};

}  // namespace lockfs
