/// A backing that takes nothing new while NFS clients may still claim back what they held before
/// their server was restarted (ServerGrace). What the manager holds already may be kept, weakened
/// and released; whoever asks for more waits, or is put off.
///
/// The server itself may take more: where it exports the mount, what its clients claim back comes
/// as its own request (nfsd4_lock() through fuse_setlk()).
///
/// flocks() is the inner one's: clients' locks are record locks.
///
/// Thread safety: as lockmgr::Backing demands.
///
/// Invariants:
///  1. What was taken while the server's locks were going is given back before anybody is told.
#pragma once

#include <sys/types.h>

#include <memory>
#include <optional>
#include <utility>

#include "fs/nfs/server_grace.h"
#include "lockmgr/backing.h"
#include "lockmgr/forwarding_backing.h"

namespace lockfs {

class GraceBacking final : public lockmgr::ForwardingBacking {
 public:
  /// `grace` must outlive the object and every wait.
  GraceBacking(std::unique_ptr<lockmgr::Backing> inner, ServerGrace& grace)
      : ForwardingBacking(*inner), grace_(grace), inner_(std::move(inner)) {}

  lockmgr::Reply set(const lockmgr::Range& range, lockmgr::Mode mode,
                     const Carried& carried) noexcept override;
  lockmgr::Reply test(const lockmgr::Range& range, lockmgr::Mode mode,
                      std::optional<lockmgr::OutsideLock>& found) noexcept override;
  int wait(WaitId id, const lockmgr::Range& range, lockmgr::Mode mode, const Carried& carried,
           bool yield_first, WaitDone done) noexcept override;
  void recall(WaitId id) noexcept override;

  /// While it lives, calls on this thread are made for thread `caller`, 0: for nobody in
  /// particular.
  class Asker {
   public:
    explicit Asker(pid_t caller) noexcept { caller_ = caller; }
    ~Asker() { caller_ = 0; }
    Asker(const Asker&) = delete;
    Asker& operator=(const Asker&) = delete;

   private:
    friend class GraceBacking;
    static thread_local pid_t caller_;
  };

 private:
  [[nodiscard]] bool may_take() const noexcept;

  ServerGrace& grace_;
  const std::unique_ptr<lockmgr::Backing> inner_;
};

}  // namespace lockfs
