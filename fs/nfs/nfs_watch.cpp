#include "fs/nfs/nfs_watch.h"

#include <spdlog/spdlog.h>
#include <sys/stat.h>

#include <exception>
#include <fstream>

#include "fs/base/mount_table.h"
#include "fs/base/process_look.h"

namespace lockfs {

namespace {

bool is_at_or_below(const std::string& path, const std::string& top) {
  return path.starts_with(top) && (path.size() == top.size() || path[top.size()] == '/');
}

}  // namespace

std::string NfsWatch::exported() const {
  std::ifstream table(exports_);
  for (std::string line; std::getline(table, line);) {
    std::string path = unescape_octal(line.substr(0, line.find_first_of(" \t")));
    if (is_at_or_below(path, mountpoint_)) return path;
  }
  return {};
}

void NfsWatch::look() noexcept {
  try {
    struct stat st {};
    if (::stat(exports_.c_str(), &st) != 0) return;
    const bool changed = st.st_mtim.tv_sec != exports_changed_.tv_sec ||
                         st.st_mtim.tv_nsec != exports_changed_.tv_nsec;
    if (changed) {
      exports_changed_ = st.st_mtim;
      std::string now = exported();
      if (!now.empty() && now != export_) {
        spdlog::warn(
            "the NFS server exports {}, which is on this mount: NFSv3 clients get ENOLCK there for "
            "every lock (the kernel's NLM server does not lock FUSE files). Export {} instead, or "
            "have clients mount with vers=4",
            now, source_);
      }
      export_ = std::move(now);
    }
    // Its number is looked for only where it could matter, and again if it is somebody else's.
    const pid_t lockd = lockd_.load();
    if (export_.empty()) {
      lockd_ = 0;
    } else if (lockd == 0 || !is_called(lockd, "lockd")) {
      lockd_ = find_process("lockd");
    }
  } catch (const std::exception&) {
    // No memory, or a table that cannot be read: looked at again in a few seconds.
    exports_changed_ = {};
  }
}

void NfsWatch::warn_of_nlm(const std::string& file) noexcept {
  if (told_of_nlm_.test_and_set()) return;
  spdlog::warn(
      "{}: an NFSv3 client asks for a lock through the mount, and gets ENOLCK from the kernel, as "
      "for every other file here. Export {} instead of {}, or have clients mount with vers=4",
      file, source_, mountpoint_);
}

}  // namespace lockfs
