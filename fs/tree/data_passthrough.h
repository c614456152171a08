/// Decides for each open file whether the kernel reads and writes the backing file itself
/// (FUSE_PASSTHROUGH) or the daemon does.
///
/// Thread safety: all members may be called from any thread; enable() before the others.
///
/// Invariants:
///   1. All open handles of one inode are registered with the kernel or none is: it fails a mixed
///      open with EIO (fuse_file_io_open). The first open decides, until the last handle is gone.
///      One may ask besides that its reads and writes come to the daemon (FOPEN_DIRECT_IO), as for
///      files with set-ID bits; mmap then still goes to the backing file. Append-only files are
///      never registered by the first open: the kernel does not know that they are.
///   2. An inode has one backing id, whatever the number of its handles: the kernel refuses a
///      second (fuse_inode_uncached_io_start gives EBUSY).
///   3. What is registered is the inode's O_PATH descriptor, or one made for it: read-only, or on a
///      mount of its own that has noatime, since the kernel goes by the flags of that mount. The
///      kernel pins a registered file until it is unregistered; a handle's own would keep its write
///      access alive too long, and so would a read-only one keep leases away: that is unregistered
///      with the last handle. The kernel writes with the rights of the thread that registers,
///      which are a stranger's: what is written loses its set-ID bits, and takes nothing that the
///      filesystem keeps for root.
///   4. The inode's record has its backing id: the kernel keeps registrations when the process
///      dies, and serves open files by them. One that was made or given up at that moment, with no
///      record to tell, stays until the connection ends, and does no more than keep a file.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <mutex>

#include "fs/options/options.h"
#include "fs/tree/handle.h"

namespace lockfs {

class DataPassthroughTable {
 public:
  /// `wanted` is what the user asked for: it decides how loudly a refusal is logged. While
  /// `keep_access_times`, which must outlive the object, what the kernel reads from files that are
  /// attached leaves their access times alone.
  DataPassthroughTable(DataPassthrough wanted, const std::atomic<bool>& keep_access_times) noexcept
      : wanted_(wanted), keep_access_times_(keep_access_times) {}

  /// The kernel granted passthrough in INIT; `fuse_fd` is the session's device descriptor.
  void enable(int fuse_fd) noexcept { fuse_fd_.store(fuse_fd); }

  /// That descriptor is about to be closed, which ends every registration.
  void disconnect() noexcept { fuse_fd_.store(-1); }

  /// Counts a new handle and sets its `passthrough`; its `append_only` is set. Returns the backing
  /// id for the OPEN reply, or 0 if the daemon is to read and write. Each call needs one detach().
  std::int32_t attach(Handle& handle) noexcept;

  /// attach() of a handle that an earlier process had open: the kernel knows how it is served,
  /// which is as the inode's record says.
  void attach_again(Handle& handle) noexcept;

  /// Ends a registration that an earlier process made.
  void unregister(std::int32_t id) const noexcept { const BackingId old(fuse_fd_, id); }

  /// Whether the kernel can read and write a backing file itself.
  [[nodiscard]] bool is_enabled() const noexcept { return fuse_fd_ >= 0; }

  /// The handle is going. Its inode keeps the backing id for the next open, as long as it keeps its
  /// descriptor: to register costs more than to open.
  void detach(Handle& handle) noexcept;

 private:
  /// Sets the inode's backing id, if the kernel gives one. Returns 0 or errno.
  int register_backing(const Inode& inode, DataMode& mode) const noexcept;
  static void give_up(Inode& inode) noexcept;
  /// With `opens` and `backing` settled.
  static void count(Handle& handle) noexcept;
  void report_refusal(int error) noexcept;
  std::mutex& mutex_of(const Inode& inode) noexcept;

  const DataPassthrough wanted_;
  const std::atomic<bool>& keep_access_times_;
  std::atomic<int> fuse_fd_{-1};
  std::atomic<bool> refusal_reported_{false};
  std::array<std::mutex, 64> mutexes_;  ///< each guards Inode::data_mode of its share of inodes
};

}  // namespace lockfs
