/// FUSE wire constants and structures newer than Debian 12's <linux/fuse.h> (protocol 7.38), as the
/// kernel's include/uapi/linux/fuse.h defines them since 6.9 (protocol 7.40).
#pragma once

#include <linux/fuse.h>
#include <sys/ioctl.h>

#include <cstdint>

namespace lockfs::proto {

/// INIT flags2: reads, writes and mmap may go straight to a registered backing file (bit 37).
inline constexpr std::uint64_t kInitPassthrough = 1ULL << 37;

/// INIT flags: the filesystem clears set-ID bits and file capabilities on write, truncation and
/// change of owner (bit 28; libfuse 3.14 cannot ask for it).
inline constexpr std::uint64_t kInitHandleKillprivV2 = FUSE_HANDLE_KILLPRIV_V2;

/// OPEN/CREATE reply flag: `backing_id` of the reply names the backing file.
inline constexpr std::uint32_t kOpenPassthrough = 1U << 7;

/// struct fuse_init_out as of 7.40: `max_stack_depth` took the first word of `unused`.
struct InitOut {
  std::uint32_t major, minor;
  std::uint32_t max_readahead;
  std::uint32_t flags;
  std::uint16_t max_background, congestion_threshold;
  std::uint32_t max_write;
  std::uint32_t time_gran;
  std::uint16_t max_pages, map_alignment;
  std::uint32_t flags2;
  std::uint32_t max_stack_depth;
  std::uint32_t unused[6];
};
static_assert(sizeof(InitOut) == sizeof(fuse_init_out));

/// struct fuse_open_out as of 7.40: `backing_id` took the place of `padding`.
struct OpenOut {
  std::uint64_t fh;
  std::uint32_t open_flags;
  std::int32_t backing_id;
};
static_assert(sizeof(OpenOut) == sizeof(fuse_open_out));

struct BackingMap {
  std::int32_t fd;
  std::uint32_t flags;
  std::uint64_t padding;
};

inline constexpr unsigned long kDevIocBackingOpen = _IOW(229, 1, BackingMap);
inline constexpr unsigned long kDevIocBackingClose = _IOW(229, 2, std::uint32_t);

}  // namespace lockfs::proto
