/// A backing that takes nothing new while NFS clients may still claim back what they held before
/// their server was restarted (ServerGrace). What the manager holds already may be kept, weakened
/// and released; whoever asks for more waits, or is put off (EINPROGRESS), as if the backing had
/// no answer.
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
#include <string>

#include "fs/nfs/server_grace.h"
#include "lockmgr/backing.h"

namespace lockfs {

class GraceBacking final : public lockmgr::Backing {
 public:
  /// `grace` must outlive the object and every wait.
  GraceBacking(std::unique_ptr<lockmgr::Backing> inner, ServerGrace& grace)
      : inner_(std::move(inner)), grace_(grace) {}

  int set(const lockmgr::Range& range, lockmgr::Mode mode,
          const Carried& carried) noexcept override;
  int test(const lockmgr::Range& range, lockmgr::Mode mode,
           std::optional<lockmgr::OutsideLock>& found) noexcept override;
  int wait(WaitId id, const lockmgr::Range& range, lockmgr::Mode mode, bool yield_first,
           WaitDone done) noexcept override;
  void recall(WaitId id) noexcept override;
  void expect_release() noexcept override { inner_->expect_release(); }
  bool outsiders_waiting() noexcept override { return inner_->outsiders_waiting(); }
  Inspector inspector() override { return inner_->inspector(); }
  lockmgr::Backing& flocks() noexcept override { return inner_->flocks(); }
  std::string name() const override { return inner_->name(); }

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

  const std::unique_ptr<lockmgr::Backing> inner_;
  ServerGrace& grace_;
};

}  // namespace lockfs
