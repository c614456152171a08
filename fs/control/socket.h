/// The control socket of a mount in the file system: its name, its permissions, its end.
///
/// Not thread-safe; used while the mount starts and ends.
///
/// Invariants:
///  1. Nobody can connect before the socket has its final permissions: it listens after that.
///  2. A socket that a living daemon listens on is never removed by another, nor that of a mount
///     whose daemon has died and is followed by another.
///  3. The lock by which daemons take turns is held only in open(): a daemon that dies there ends
///     its mount, with all its descriptors.
#pragma once

#include <sys/types.h>

#include <string>

#include "fs/base/book_header.h"
#include "fs/base/unique_fd.h"
#include "fs/options/options.h"

namespace lockfs::control {

/// The protocol's limit of sun_path, without the final zero.
inline constexpr std::size_t kMostSocketPath = 107;

/// The folder of control sockets: /run/lockfs for root; else $XDG_RUNTIME_DIR/lockfs, or empty.
std::string control_folder();

/// The file name that stands for a mount point: slashes become dashes, what is no letter, digit,
/// '.', '_' or ':' becomes \xNN, as systemd-escape(1) does. A long one ends in a hash.
std::string control_socket_name(const std::string& mountpoint);

/// Daemons whose mounts have the same mount point, one over the other or some detached by
/// `umount -l`, take turns with names up to this number.
inline constexpr int kMostSocketTwins = 100;

/// The socket's path for the `twin`th of them, counted from 0.
std::string control_socket_path(const std::string& folder, const std::string& mountpoint, int twin);

class ControlSocket {
 public:
  ControlSocket() = default;
  ~ControlSocket();
  ControlSocket(const ControlSocket&) = delete;
  ControlSocket& operator=(const ControlSocket&) = delete;

  /// Makes the socket that `options` ask for and listens. Returns an empty string, also when there
  /// is none to make, or one line: why not.
  std::string open(const Options& options);

  /// Goes on with the socket that an earlier daemon listened on. Returns as open().
  std::string adopt(const Options& options, const KeptSocket& kept);
  /// For a later daemon: where and on what this one listens, if it does.
  void note(KeptSocket& kept) const noexcept;

  /// The listening descriptor, owned by the object; -1: none.
  [[nodiscard]] int fd() const { return fd_.get(); }
  [[nodiscard]] const std::string& path() const { return path_; }
  /// Who may connect besides root and the daemon's own user; (gid_t)-1: nobody.
  [[nodiscard]] gid_t group() const { return group_; }

 private:
  std::string bind_at(const std::string& path);
  std::string open_default(const Options& options);

  UniqueFd fd_;
  std::string path_;
  gid_t group_ = static_cast<gid_t>(-1);
  dev_t device_ = 0;  ///< of the socket's file, to remove only this one
  ino_t inode_ = 0;
};

}  // namespace lockfs::control
