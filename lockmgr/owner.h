/// Who asks for locks: the identity of an owner, and a request as the caller states it.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <functional>

#include "lockmgr/range.h"

namespace lockmgr {

/// What an owner is, hence what ends its locks.
enum class OwnerType : std::uint8_t {
  kProcess,   ///< classic POSIX record locks: any close of the file by the process, exit
  kOpenFile,  ///< open-file-description locks: the last close of the open file
  kFlock,     ///< flock(2): the last close of the open file
};

/// "posix", "ofd" or "flock".
const char* to_string(OwnerType type);

/// Names an owner on one file. `cookie` identifies the process's file table (kProcess) or the open
/// file (the others); one open file's flock and OFD locks share a cookie and differ in the type.
struct OwnerId {
  OwnerType type = OwnerType::kProcess;
  std::uint64_t cookie = 0;

  friend bool operator==(const OwnerId& a, const OwnerId& b) {
    return a.type == b.type && a.cookie == b.cookie;
  }
};

struct OwnerIdHash {
  std::size_t operator()(const OwnerId& id) const noexcept {
    // Cookies may be addresses, alike in their low bits, and tables look at the low bits of a hash;
    // a multiply spreads what differs upwards.
    const std::uint64_t spread =
        (id.cookie ^ static_cast<std::uint64_t>(id.type)) * 0x9E3779B97F4A7C15ULL;
    return static_cast<std::size_t>(spread >> 32 ^ spread);
  }
};

/// Who is behind a request, for reports, accounting and the queue's courtesy to lock holders.
struct Caller {
  pid_t pid = 0;  ///< process (thread group); 0: unknown or outside the mount's pid namespace
  pid_t tid = 0;  ///< thread; 0: unknown
  uid_t uid = 0;
};

/// A request for a lock, or (mode kNone) for an unlock.
struct Request {
  OwnerId owner;
  Caller caller;
  Range range;
  Mode mode = Mode::kShared;
  bool wait = false;  ///< park it while it conflicts, instead of answering EAGAIN
};

/// Names a parked request; never 0, never used twice by one manager.
using Ticket = std::uint64_t;

/// Told the outcome of a parked request, exactly once: 0 when granted, else an errno. Called on the
/// thread whose action decided the request, with no lock of the manager held; it must not block for
/// long and must not throw.
using Completion = std::function<void(int error)>;

}  // namespace lockmgr
