/// Mounts for the benchmarks. Each is undone by its destructor.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>

#include "tests/bench/compare.h"

namespace lockfs::bench {

/// A mount below the scratch folder. Throws std::runtime_error when it can't be had.
class Mount {
 public:
  /// lockfs over a new folder `source()`, with `options` as for -o (may be empty).
  static Mount lockfs(const Settings& settings, const std::string& name,
                      const std::string& options);
  /// A FUSE program of another project over a new folder `source()`, with `options` as for -o. None
  /// when it is not installed.
  static std::optional<Mount> peer(const Settings& settings, const std::string& program,
                                   const std::string& name, const std::string& options);
  /// The do-nothing daemon; it shows one file, "file".
  static Mount null(const Settings& settings);

  Mount(Mount&& other) noexcept;
  Mount& operator=(Mount&&) = delete;
  Mount(const Mount&) = delete;
  Mount& operator=(const Mount&) = delete;
  ~Mount();

  /// Where the mount is.
  [[nodiscard]] const std::string& dir() const { return dir_; }
  /// The folder that is mounted there; empty for the do-nothing daemon.
  [[nodiscard]] const std::string& source() const { return source_; }

 private:
  Mount(std::string dir, std::string source, pid_t daemon)
      : dir_(std::move(dir)), source_(std::move(source)), daemon_(daemon) {}

  std::string dir_;
  std::string source_;
  pid_t daemon_ = -1;  ///< a child to wait for after unmounting; -1: the daemon runs by itself
};

/// Makes a folder below the scratch folder and returns its path.
std::string make_folder(const Settings& settings, const std::string& name);

/// Throws std::runtime_error naming `what` and errno unless `ok`.
void check(bool ok, const std::string& what);

/// A descriptor that closes itself. Throws std::runtime_error if the open fails.
class File {
 public:
  File(const std::string& path, int flags, mode_t mode = 0666);
  File(File&& other) noexcept : fd_(other.fd_) { other.fd_ = -1; }
  File& operator=(File&&) = delete;
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  ~File();

  [[nodiscard]] int fd() const { return fd_; }

 private:
  int fd_;
};

}  // namespace lockfs::bench
