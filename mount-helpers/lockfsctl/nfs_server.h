/// What the kernel's NFS server says of its NFSv4 clients, and its interfaces for taking their
/// locks away.
///
/// Thread safety: free functions without state.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace lockfs::ctl {

/// An NFSv4 client that holds a lock on a file.
struct NfsLock {
  std::string folder;   ///< /proc/fs/nfsd/clients/N
  std::string address;  ///< such as "10.0.0.7:830"
  std::string device;   ///< "MAJOR:MINOR", decimal
  std::uint64_t inode = 0;
  std::string filename;  ///< the last part or parts of its path
};

/// Of every NFSv4 client; empty where there is no NFS server. `nfsd`: where its filesystem is.
std::vector<NfsLock> nfs_locks(const std::string& nfsd = "/proc/fs/nfsd");

/// Writes one line into a control file of the kernel. Returns an empty string or why not.
std::string write_control(const std::string& path, const std::string& text);

}  // namespace lockfs::ctl
