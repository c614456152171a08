/// Whether NFS clients of this machine's kernel server may still come to claim back locks that they
/// held before it was restarted. A local program that is given such a lock meanwhile shares it with
/// a client: one of NFSv3 is never told, one of NFSv4 gets EIO once it asks for something.
///
/// The server forgets its clients' locks when it stops, gives them a grace period to reclaim them
/// when it is back, and refuses new locks to all clients until that ends (locks_in_grace()). So it
/// is with local programs here: they wait from the moment the server stops, for `absence` at most,
/// until the end of its grace period.
///
/// Thread safety: all methods may be called from any thread. Callbacks come from a thread of the
/// object, with no lock held.
///
/// Invariants:
///  1. settled() says yes only if no client's lock has gone with the server since it was last in
///     grace: what can be taken then is free. It asks a thread of the server itself, which ends
///     before the locks do (nfsd_svc() stops all threads, then nfs4_state_shutdown_net() runs);
///     only where the server's threads cannot be seen, as in a container, it may be late.
///  2. `done` of a wait() that was accepted is called exactly once.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <unordered_map>

#include "fs/base/unique_fd.h"
#include "lockmgr/backing.h"

namespace lockfs {

class ServerGrace {
 public:
  using Clock = std::chrono::steady_clock;
  using WaitId = lockmgr::Backing::WaitId;
  using WaitDone = lockmgr::Backing::WaitDone;

  struct Settings {
    /// How long a server that has stopped is waited for; zero: settled() always says yes.
    Clock::duration absence{};
    bool awaited = false;           ///< one that is not there at the start is waited for as well
    std::string proc = "/proc/fs";  ///< where the kernel tells of the server
  };

  /// `on_settled` is called each time after settled() has become true again. May throw
  /// std::system_error (no thread to be had) and std::bad_alloc.
  ServerGrace(Settings settings, std::function<void()> on_settled);
  ~ServerGrace();
  ServerGrace(const ServerGrace&) = delete;
  ServerGrace& operator=(const ServerGrace&) = delete;

  /// Whether nobody may have an older claim. Does not block.
  bool settled() noexcept;

  /// Calls `done` with kNotHeld once settled() is true, or after recall(). Returns 0 or an errno,
  /// and then `done` is not called. `id`: none that waits already.
  [[nodiscard]] int wait(WaitId id, WaitDone done) noexcept;
  /// Ends a wait early. Unknown ids are ignored. Does not block.
  void recall(WaitId id) noexcept;

 private:
  enum class State { kFree, kServed, kShut };
  enum class Reason { kNone, kAwaited, kGone, kGrace };
  struct Sight {
    bool serving = false;
    bool grace = false;
  };
  struct Wait {
    WaitDone done;
    bool recalled = false;
  };
  using Waits = std::unordered_map<WaitId, Wait>;

  void watch();
  [[nodiscard]] Sight look() const;
  void attach() noexcept;
  [[nodiscard]] bool server_lives() const noexcept;
  void take_in(const Sight& sight, Clock::time_point now) noexcept;
  void tell(Clock::time_point now) noexcept;
  Waits take_ended() noexcept;
  [[nodiscard]] Clock::duration pause() const noexcept;
  void nudge() noexcept;

  const Settings settings_;
  const std::function<void()> on_settled_;

  std::atomic<State> state_{State::kFree};
  std::atomic<bool> asked_{false};    ///< settled() has said no since on_settled_()
  std::atomic<bool> watched_{false};  ///< thread_ is of a thread of the server
  /// A pidfd. The descriptor stays while what it stands for is replaced, so that settled() may use
  /// it at any time.
  UniqueFd thread_;

  // Used by the thread only.
  bool was_serving_ = false;  ///< when last looked
  bool served_ = false;       ///< it was seen serving
  Clock::time_point absent_until_;
  Clock::time_point shut_since_;
  Reason reason_ = Reason::kNone;  ///< of kShut
  Reason told_ = Reason::kNone;    ///< the reason that was logged

  std::mutex mutex_;
  std::condition_variable changed_;
  Waits waits_;          ///< guarded by mutex_
  bool nudged_ = false;  ///< guarded by mutex_
  bool ended_ = false;   ///< guarded by mutex_
  std::thread watcher_;  ///< last: it uses all that
};

}  // namespace lockfs
