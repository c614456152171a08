/// Reads requests from the FUSE device and has libfuse carry them out: leader and followers.
///
/// Exactly one thread, the leader, is blocked in read(2) on the device. It also carries out what it
/// has read, in place: a second reader would make the kernel wake threads in turn on other CPUs,
/// which costs a lock call several times its price. For the same reason it follows a lone client to
/// its CPU (CpuFollower), unless the kernel reads ahead for that. A handler that blocks must not
/// hold the next request up, so a leader can be overtaken: a watchdog sees that it has been stuck
/// for a moment and gives the lead to a follower; the old leader finishes its request and becomes a
/// follower. The watchdog also sets a leader free that is bound to a CPU and does not get to run
/// there.
///
/// Order: what happens before a handler allows itself to be overtaken happens in the order in which
/// the requests were read. Lock requests rely on that (the RELEASE of a file is queued before
/// close(2) returns to the last holder); the loop lets all other requests be overtaken at once.
///
/// Thread safety: start() is called once; the other methods from any thread.
///
/// Invariants:
///  1. At most one thread is leader, and when the lead becomes vacant another thread is there to
///     take it. When all threads are busy, requests that may block are put by, and the leader goes
///     on reading. A thread that has been in one request for long, because a backing filesystem
///     does not answer, no longer counts as busy: what it waits for must not take all threads.
///  2. Every request read is carried out exactly once, in the end also those put by; but for those
///     that a daemon which died had begun, which are begun once more (CurrentRequest::repeated()).
#pragma once

#include <fuse3/fuse_lowlevel.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "fs/loop/cpu_follower.h"
#include "fs/loop/current_request.h"
#include "fs/loop/operations.h"
#include "fs/loop/requests.h"
#include "fs/loop/watchdog.h"

namespace lockfs {

class RequestLoop final : private Watchdog::Loop {
 public:
  /// Carries out and answers a lock request at once; or returns false, and the handler is to.
  using AnswerLock = std::function<bool(LockRequest& request)>;

  /// What is to be undone before a request is begun once more.
  struct Undo {
    /// What a request with that number has opened.
    std::function<void(std::uint64_t unique)> discard_opened;
    /// One lookup of a file.
    std::function<void(std::uint64_t nodeid)> take_back;
    /// The lookup count of a file; 0: it is not known.
    std::function<std::uint64_t(std::uint64_t nodeid)> count_of;
    std::int64_t died_at = 0;  ///< CurrentRequest::given_up_at()
  };

  /// `operations`: how each operation of the session is paced. `workers`: how many threads may
  /// carry out requests at once, at least 2. `session` and the requests must outlive the loop.
  /// `answer_lock`, unless empty, is given each lock request before libfuse. `on_disconnect` is
  /// called, on a thread of the loop, when the kernel has ended the connection (unmounted,
  /// aborted).
  RequestLoop(fuse_session* session, const Operations& operations, unsigned workers,
              RequestSlots& slots, KeptRequests& kept, AnswerLock answer_lock,
              std::function<void()> on_disconnect);
  /// REQUIRES: stop() has returned true, or start() was not called.
  ~RequestLoop();
  RequestLoop(const RequestLoop&) = delete;
  RequestLoop& operator=(const RequestLoop&) = delete;

  /// Before start(): what an earlier daemon left is answered first, in the order in which the
  /// kernel asked. Locks, and what else keeps an order, before anything new is read. `on_settled`
  /// is called, on any thread, when all of it has been carried out. May throw std::bad_alloc.
  void resume(Undo undo, std::function<void()> on_settled);

  /// Starts the threads. Returns 0 or an errno.
  int start();

  /// Whether the loop reads no more.
  bool ended() const { return ended_.load(); }

  /// Makes every thread leave as soon as its handler returns, and waits for that, at most
  /// `patience`. False: a handler is stuck.
  bool stop(std::chrono::milliseconds patience);

 private:
  friend class CurrentRequest;

  using Phase = LeadState::Phase;

  /// A request that was put by, or that an earlier daemon left: in a slot, or small and kept.
  struct Request {
    RequestSlot* slot = nullptr;
    std::uint32_t kept = 0;
    bool left = false;             ///< by an earlier daemon
    std::int64_t given_up_at = 0;  ///< CurrentRequest::given_up_at(); 0: when that died
  };

  /// A thread of the loop. Guarded by mutex_.
  struct Worker {
    std::chrono::steady_clock::time_point busy_since;  ///< without the lead; the epoch: it is not
    bool stuck = false;                                ///< counted in stuck_
    bool blocking = false;                             ///< counted in blocking_
  };

  /// What a thread of a loop is doing.
  struct Role {
    RequestLoop* loop = nullptr;
    bool leads = false;       ///< it was leader when it began the request under way
    std::uint64_t count = 0;  ///< the number of that request
    LockRequest lock_request;
    bool clears_set_id_bits = false;
    Worker* worker = nullptr;
    RequestSlot* slot = nullptr;  ///< of the request under way, or to be read
    std::uint32_t kept = 0;       ///< its record, if it was kept before
    bool repeated = false;
    std::int64_t given_up_at = 0;  ///< of the request under way; 0: when the earlier daemon died
  };

  /// How a request is paced: never kByLength.
  [[nodiscard]] Pace classify(const fuse_buf& buffer) const;

  void work();
  void lead();
  bool read_request(fuse_buf& buffer);
  bool take_lead();
  bool keep_lead();
  void give_up_lead();
  void carry_out(const fuse_buf& buffer);
  void carry_out_slot(const fuse_buf& buffer);
  void carry_out_kept(std::uint32_t record);
  void carry_out(const Request& request);
  void put_by(const fuse_buf& buffer);
  void watch_under_way();
  bool begin_again(const Request& request);
  void begin_as_leader(std::uint64_t count) noexcept;
  void carry_out_left(std::uint64_t count);
  void answer_again(RequestSlot& slot) const;
  void settled_one();
  void settle_count(RequestSlot& slot) const;
  void undo(RequestSlot& slot) const;
  void give_slot() noexcept;
  bool follower_ready();
  bool vacate(std::uint64_t expected);
  bool add_worker();
  bool has_room();
  void count_again(Worker& worker);
  void serve_put_by();
  void end();
  void watch();
  void wake_watchdog();

  // What the watchdog looks at and acts on.
  bool request_waits() const override;
  bool binds() const override { return follower_.binds(); }
  std::chrono::nanoseconds cpu_time() const override { return follower_.cpu_time(); }
  void overtake(std::uint64_t state) override;
  void set_free() override { follower_.set_free(); }
  void rescue(Watchdog::Clock::time_point now) override { follower_.rescue(now); }

  fuse_session* const session_;
  const Operations operations_;
  const unsigned most_workers_;
  RequestSlots& slots_;
  KeptRequests& kept_;
  const AnswerLock answer_lock_;
  const std::function<void()> on_disconnect_;

  std::vector<Request> left_;                  ///< by an earlier daemon, in order; the leader's
  std::atomic<std::size_t> left_to_begin_{0};  ///< at its end
  std::vector<Request> under_way_;  ///< left, and not over: is_under_way(); guarded by mutex_
  std::thread stuck_watcher_;
  Undo undo_;
  std::function<void()> on_settled_;
  std::atomic<std::size_t> unsettled_{0};  ///< requests that were left and are under way

  std::atomic<std::uint64_t> state_{
      0};                         ///< see LeadState; the number is that of the last request read
  std::atomic<pid_t> leader_{0};  ///< thread id
  std::atomic<bool> ended_{false};
  std::atomic<bool> watching_{false};     ///< the watchdog is ticking
  std::atomic<bool> overtakable_{false};  ///< since the last tick a request was
  std::atomic<unsigned> followers_{0};    ///< threads ready to take the lead; changed under mutex_
  std::atomic<bool> has_put_by_{false};   ///< !put_by_.empty(); changed under mutex_

  CpuFollower follower_;  ///< told by the leader, looked after by the watchdog

  std::mutex mutex_;
  std::condition_variable follow_;   ///< the lead is vacant, a request was put by, or the end
  std::condition_variable changed_;  ///< a worker left, or the end
  std::deque<Request> put_by_;       ///< guarded by mutex_
  unsigned workers_ = 0;             ///< threads that live; guarded by mutex_
  unsigned blocking_ = 0;            ///< of these, inside a Blocking; guarded by mutex_
  unsigned stuck_ = 0;               ///< other ones, in one request for long; guarded by mutex_
  std::list<Worker> at_work_;        ///< one a thread; guarded by mutex_
  Worker* lead_worker_ = nullptr;    ///< whose lead it is; guarded by mutex_

  std::mutex watch_mutex_;
  std::condition_variable watch_wake_;
  std::thread watchdog_;

  static thread_local Role role_;
};

}  // namespace lockfs
