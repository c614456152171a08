/// The header of the book: what the generations of a daemon hand on that there is one of.
///
/// Thread safety: each field says who writes it; save() is called by one thread at a time.
#pragma once

#include <pthread.h>
#include <sys/types.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

namespace lockfs {

/// A socket that listens, and stays when a daemon dies.
struct KeptSocket {
  std::int32_t fd;       ///< 0: there is none
  char path[108];        ///< as sockaddr_un has it
  std::uint64_t device;  ///< of the socket's file
  std::uint64_t inode;
};

struct BookHeader {
  static constexpr std::uint64_t kMagic = 0x6b6f6f4273666b6c;  // "lkfsBook"
  /// Goes up whenever a record changes its shape or its meaning.
  static constexpr std::uint32_t kVersion = 2;
  // In every version the first two members are the magic number and the version.

  enum Phase : std::uint32_t {
    kStarting,  ///< a death ends the start
    kServing,
    kEnding,  ///< a death ends the mount
  };

  std::uint64_t magic;
  std::uint32_t version;
  std::atomic<std::uint32_t> phase;       ///< by the daemon
  std::atomic<std::uint32_t> generation;  ///< 1 for the first daemon; by the keeper
  std::atomic<std::int32_t> daemon;       ///< its process id; by the kernel, before it runs
  std::atomic<std::int32_t> standby;      ///< the first process; 0: there is none
  std::atomic<std::int32_t> keeper;       ///< the daemon's parent; by the kernel
  std::atomic<std::int32_t> upgrading;  ///< the next daemon is of another program; below 0: -errno
  std::atomic<std::uint32_t> program_since;  ///< the first generation of this program
  std::int32_t book_fd;                      ///< of the book's memory; -1: it does not outlive
  // By the first process, before all others.
  char program[4096];      ///< path of the program
  char source_path[4096];  ///< Options::source_path, mountpoint_path and source_mount
  char mountpoint_path[4096];
  std::uint64_t source_mount;
  std::int32_t oom_score;               ///< /proc/PID/oom_score_adj of the daemon
  std::int32_t report_fds[2];           ///< 0: there are none
  std::atomic<std::uint32_t> reported;  ///< whoever waits for the mount has been told
  // By the first daemon, before it serves.
  std::int32_t fuse_fd;
  std::int32_t root_fd;
  KeptSocket control;
  std::uint32_t passthrough;
  std::uint32_t init_size;
  char init[256];  ///< the INIT request
  // By those who look after the daemon.
  std::int64_t ended_at;    ///< when the last daemon ended, nanoseconds on CLOCK_REALTIME
  std::int64_t dead_since;  ///< the same on CLOCK_MONOTONIC
  std::int64_t died_at;     ///< as ended_at, of the last that died; 0: none has
  std::int32_t death;       ///< what that died of, as waitpid(2) has it
  // By the daemon that came after it.
  std::atomic<std::uint32_t> settled;  ///< the last generation that has answered all that was left
  std::atomic<std::int64_t> gap;       ///< nanoseconds without a daemon that serves
  pthread_mutex_t alive;               ///< robust: held by the daemon's main thread
  /// What save() was told; the one that counts is written before `settings` says so.
  std::atomic<std::uint32_t> settings;
  char setting[2][8192];

  /// Options as they are now, for the next daemon. False: it is too long, nothing has changed.
  bool save(std::string_view text) noexcept {
    const std::uint32_t next = settings.load() + 1;
    auto& to = setting[next % 2];
    if (text.size() >= sizeof to) return false;
    std::memcpy(to, text.data(), text.size());
    to[text.size()] = 0;
    settings.store(next, std::memory_order_release);
    return true;
  }
  /// What was saved last; empty: nothing.
  [[nodiscard]] std::string_view saved() const noexcept {
    return setting[settings.load(std::memory_order_acquire) % 2];
  }
};

/// "killed by signal 9 (Killed)", "exit status 1", of what waitpid(2) says.
std::string describe_death(int status);

}  // namespace lockfs
