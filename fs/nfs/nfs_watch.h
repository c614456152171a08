/// Notices that the kernel's NFS server exports the mount itself, where NFSv3 clients cannot lock:
/// the kernel answers every lock of its NLM server on a FUSE file with ENOLCK (fuse_setlk()) and
/// lockfs never hears of it. What shows are the list of exports and the files that lockd opens.
/// Each is said once in the log, with the way out.
///
/// Thread safety: look() is called by one thread; note_open() from any.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <ctime>
#include <string>

namespace lockfs {

class NfsWatch {
 public:
  /// `exports` is the table that exportfs(8) keeps.
  NfsWatch(std::string source, std::string mountpoint,
           std::string exports = "/var/lib/nfs/etab") noexcept
      : source_(std::move(source)),
        mountpoint_(std::move(mountpoint)),
        exports_(std::move(exports)) {}

  /// Looks at the exports, if they changed, and for lockd. Takes a moment; to be called every few
  /// seconds.
  void look() noexcept;

  /// A file is being opened by thread `caller`, for messages called `name()`.
  template <typename Name>
  void note_open(pid_t caller, const Name& name) {
    if (caller == lockd_.load(std::memory_order_relaxed) && caller != 0) warn_of_nlm(name());
  }

  /// The first export at or below the mountpoint; empty if there is none. May throw std::bad_alloc.
  [[nodiscard]] std::string exported() const;

 private:
  void warn_of_nlm(const std::string& file) noexcept;

  const std::string source_;
  const std::string mountpoint_;
  const std::string exports_;
  timespec exports_changed_{};   ///< used by look(), as is the next
  std::string export_;           ///< as last seen
  std::atomic<pid_t> lockd_{0};  ///< the thread of the NLM server; 0: none, or of no interest
  std::atomic_flag told_of_nlm_;
};

}  // namespace lockfs
