/// The FUSE lock operations: getlk, setlk, flock, and the lock parts of flush and release. Turns
/// them into requests to the lock manager in the order in which the kernel queued them, and the
/// manager's decisions into replies. Holds no lock logic of its own.
///
/// Thread safety: handlers run on the threads of a RequestLoop, completions on any thread.
///
/// Invariants:
///  1. Requests on one file reach the manager in the order in which they were read from the device
///     (LockedFile::strand).
///  2. Every request is answered exactly once: at once, by the manager's completion, or by an
///     interrupt or the end, which go through the manager where the request is parked, and take it
///     out of put_off_ where it is put off.
///  3. Before a grant is answered, the kernel has dropped what it cached of the file: what the
///     holder reads next is what the last holder, here or elsewhere, left.
///  4. A backing that does not answer holds up a thread that serves requests for seconds only:
///     requests that do not wait are put off until it answers, and an interrupt ends them. So are
///     those that come while clients of the NFS server may claim back locks (GraceBacking), and
///     those of threads that cannot be looked at yet.
///  5. Whether a cookie is a process's or an open file's is never guessed where it can be known; a
///     guess is put right before the process that it was wrong about has closed the file.
///  6. An inode has a LockedFile while one of its handles has HandleLocks.
#pragma once

#include <fuse3/fuse_lowlevel.h>

#include <array>
#include <atomic>
#include <boost/container/small_vector.hpp>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "fs/base/strand.h"
#include "fs/locks/event_hub.h"
#include "fs/locks/lock_records.h"
#include "fs/locks/owner_class.h"
#include "fs/loop/current_request.h"
#include "fs/loop/operations.h"
#include "fs/loop/request_loop.h"
#include "fs/loop/requests.h"
#include "fs/mirror/backing_file.h"
#include "fs/mirror/descriptor_log.h"
#include "fs/mirror/outsider_watch.h"
#include "fs/mirror/remote_calls.h"
#include "fs/mirror/wait_threads.h"
#include "fs/nfs/server_grace.h"
#include "fs/options/options.h"
#include "fs/record/tape.h"
#include "fs/tree/filesystem.h"
#include "fs/tree/handle.h"
#include "fs/tree/lock_state.h"
#include "lockmgr/file_locks.h"
#include "lockmgr/lock_manager.h"

namespace lockfs {

class LockOps;

/// An inode on which locks are taken.
struct LockedFile {
  LockedFile(std::shared_ptr<lockmgr::FileLocks> file_locks, bool is_local,
             std::shared_ptr<RemoteCalls> remote_calls,
             std::shared_ptr<LockDescriptions> lock_descriptions)
      : locks(std::move(file_locks)),
        local(is_local),
        remote(std::move(remote_calls)),
        descriptions(std::move(lock_descriptions)) {}

  /// Requests of other files should not wait for those of this one.
  [[nodiscard]] bool may_take_long() const noexcept {
    return !local || (descriptions != nullptr && descriptions->slow());
  }

  const std::shared_ptr<lockmgr::FileLocks> locks;
  const bool local;  ///< calls to the backing take microseconds, unless it has very many locks
  const std::shared_ptr<RemoteCalls> remote;  ///< null unless calls to the backing may stall
  const std::shared_ptr<LockDescriptions> descriptions;  ///< null where nothing is carried
  Strand strand;
  std::uint32_t described = 0;  ///< the recording that knows of its locks; within the strand only
  /// Cookies that were taken for open files' without proof; within the strand only.
  boost::container::small_vector<std::uint64_t, 1> guessed;
  std::size_t handles = 0;  ///< guarded by LockOps::mutex_of()
};

/// What Inode::locks points to. Guarded by LockOps::mutex_of().
class InodeLocks final : public LockAttachment {
 public:
  explicit InodeLocks(std::shared_ptr<LockedFile> locked) : file(std::move(locked)) {}

  static InodeLocks* of(const Inode& inode) noexcept {
    return static_cast<InodeLocks*>(inode.locks.get());
  }
  const std::shared_ptr<LockedFile> file;
};

/// What Handle::locks points to: an open file through which locks were asked for. Made while the
/// request is still in order; `classes` is used within the strand only.
class HandleLocks final : public LockAttachment {
 public:
  HandleLocks(LockOps& ops, const Handle& handle, std::shared_ptr<LockedFile> locked,
              DescriptorShares::Share part);
  ~HandleLocks() override;

  /// Of an open file; null while no lock was asked for through it.
  static HandleLocks* of(const Handle& handle) noexcept {
    return static_cast<HandleLocks*>(handle.locks.get());
  }

  struct CookieClass {
    std::uint64_t cookie;
    lockmgr::OwnerType type;
  };

  const DescriptorShares::Share share;  ///< what the file has open for its locks
  LockOps& ops;
  Inode& inode;
  const std::shared_ptr<LockedFile> file;
  lockmgr::Opened opened;
  /// What is known of the cookies that came through this open file; see owner_class.h. It is right
  /// while the file is open: a cookie that is this open file's own cannot become a process's.
  boost::container::small_vector<CookieClass, 2> classes;
};

class LockOps final : public LockState, private lockmgr::Observer {
 public:
  /// `options` and `filesystem` must outlive the object, which must outlive every Handle.
  LockOps(const Options& options, Filesystem& filesystem, Book& book, KeptRequests& kept);
  ~LockOps() override;
  LockOps(const LockOps&) = delete;
  LockOps& operator=(const LockOps&) = delete;

  /// Enters getlk, setlk, flock, flush and release. The session's user data must be the Mount.
  static void fill_ops(Operations& ops) noexcept;

  /// Those of the mount that a request belongs to.
  static LockOps& of(fuse_req_t req) noexcept;

  /// The session that notifications go to; before the first request.
  void attach(fuse_session* session) { session_ = session; }

  /// Restores the locks that an earlier daemon has left in the book; before the first request, and
  /// after Filesystem::recover(). Requests of that daemon follow, as they were read. May throw
  /// std::bad_alloc.
  void recover();

  /// Carries out and answers a lock request, as the kernel sent it, if it can be decided at once.
  /// False: libfuse is to have it, which keeps what a request needs that waits, and takes 0.18 us
  /// for that. If the request was looked at, `request.note` says what came of it: the backing is
  /// not asked again. With the policy conversion=drop a refused change of mode has cost the old
  /// flock by then. On a thread of the loop, in order.
  bool answer_at_once(LockRequest& request) noexcept;

  [[nodiscard]] bool in_use(Inode& inode) noexcept override;

  /// Answers every parked request with ECONNABORTED, as the kernel does for those it still holds
  /// when a connection ends, and parks no more.
  void shut_down() noexcept;

  /// Waits until no handle is being closed and no file is waited for any more: the Filesystem may
  /// go then. After shut_down(). Blocks for as long as the backing filesystem does not answer.
  void drain() noexcept;

  /// Files whose backing filesystem has not answered for some seconds.
  [[nodiscard]] std::vector<std::string> overdue_files() const { return overdue_.names(); }

  /// Requests that do not wait for a lock but for a backing without an answer, the end of the NFS
  /// server's grace period, or a look at the thread that asked.
  [[nodiscard]] std::size_t put_off_requests() const noexcept {
    const std::lock_guard lock(put_off_mutex_);
    return put_off_.size();
  }

  [[nodiscard]] lockmgr::LockManager& manager() noexcept { return manager_; }

  /// LockManager::switch_policy() and FileLocks::revoke(), so that a recording is told.
  lockmgr::PolicySwitch switch_policy(const lockmgr::Policy& to);
  int revoke(lockmgr::FileLocks& file, const lockmgr::OwnerId& owner, const lockmgr::Range& range,
             lockmgr::Range& taken) noexcept;

  /// Takes the limits in `options` for requests from now on.
  void set_limits(const Options& options);

  /// Where to be told what happens to locks.
  [[nodiscard]] EventHub& events() noexcept { return events_; }

  /// Every request and answer, while it is open.
  [[nodiscard]] Tape& tape() noexcept { return tape_; }

 private:
  friend class HandleLocks;
  friend struct LockHandlers;

  /// What a lock request asks for, as it came.
  struct Asked {
    fuse_req_t req = nullptr;
    std::uint32_t kept = 0;  ///< its record, which it has until it is answered
    Handle* handle = nullptr;
    bool flock = false;
    std::uint64_t cookie = 0;
    lockmgr::Caller caller;
    lockmgr::Range range;
    lockmgr::Mode mode = lockmgr::Mode::kNone;
    bool wait = false;
    bool test = false;           ///< F_GETLK
    std::uint64_t taped = 0;     ///< the number it has on the tape; 0: it is not there
    lockmgr::Ticket ticket = 0;  ///< of one that may be parked
    bool tried = false;          ///< it cannot be decided at once
    lockmgr::Refusal refusal = lockmgr::Refusal::kNone;  ///< what the backing refused, if `tried`
    bool unanswered = false;                             ///< the backing did not answer
    bool unclassified = false;  ///< put off until it is known whose lock it asks for
  };

  /// The handle is null if there is none by the number in it.
  Asked asked(const LockRequest& request) const noexcept;
  void start(const Asked& asked) noexcept;
  std::optional<int> decide(Asked& asked, const lockmgr::Request& request);
  void before_decision(const Asked& asked);
  void before_answer(const Asked& asked, int error) noexcept;
  void carry_out(Asked asked) noexcept;
  void carry_out_waiting(Asked asked, lockmgr::Request request) noexcept;
  void carry_out_test(const Asked& asked) noexcept;
  void flush(fuse_req_t req, Handle& handle, std::uint64_t cookie) noexcept;
  void release(fuse_req_t req, Handle* handle) noexcept;
  void answer(const Asked& asked, int error) noexcept;
  void reply(fuse_req_t req, std::uint32_t kept, int error) noexcept;

  // -- backings that may stall (lock_ops_remote.cpp) ---------------------------------------------
  bool unanswered(const LockedFile& file) noexcept;
  bool put_off(const Asked& asked) noexcept;
  void put_off_interrupted(std::uint64_t id) noexcept;
  void end_put_off(int error) noexcept;
  template <typename Match>
  void ask_again(const Match& match) noexcept;
  void answered_late(const std::shared_ptr<LockedFile>& file) noexcept;
  void grace_ended() noexcept;
  void apart(const std::function<void()>& task) noexcept;
  void flush_apart(fuse_req_t req, std::uint32_t kept, Handle& handle) noexcept;
  void release_exiting() noexcept;

  // -- recording (lock_ops_record.cpp); within the file's strand where one is given ---------------
  std::uint64_t tape_ask(const Handle& handle, const lockmgr::Request& request) noexcept;
  void tape_answer(const Asked& asked, int error) noexcept;
  void tape_flush(const Handle& handle, LockedFile& file, std::uint64_t cookie,
                  const fuse_ctx& caller) noexcept;
  void tape_close(const Handle& handle) noexcept;
  void tape_tick() noexcept;
  void describe(LockedFile& file) noexcept;

  std::optional<lockmgr::OwnerType> classify(const Asked& asked, bool anew = false);
  std::optional<lockmgr::Request> request_of(const Asked& asked);
  void remember_class(HandleLocks& locks, const lockmgr::OwnerId& owner);
  void mend_guess(LockedFile& file, Handle& handle, std::uint64_t cookie) noexcept;
  void put_off_unclassified(Asked asked) noexcept;
  void classify_again() noexcept;
  HandleLocks* locks_of(Handle& handle, uid_t uid);
  HandleLocks* make_locks(Handle& handle, DescriptorShares::Share share);
  std::shared_ptr<LockedFile> find(Inode& inode) noexcept;
  std::shared_ptr<LockedFile> make_file(Inode& inode, InodePtr reference);
  void leave(Inode& inode, LockedFile& file) noexcept;
  std::mutex& mutex_of(const Inode& inode) noexcept;
  template <typename Task>
  void in_order(std::shared_ptr<LockedFile> file, Task&& task);

  void tell_size(const Handle& handle) noexcept;
  void drop_cached_data(Inode& inode) noexcept;
  void watch_queues();
  void search_cycles();
  void search_outside() noexcept;
  void wake_queue_watcher() noexcept;
  void end_threads() noexcept;

  void limit_reached(const lockmgr::FileLocks& file, const lockmgr::Request& request,
                     lockmgr::Limit limit, std::uint64_t value) override;
  void backing_failed(const lockmgr::FileLocks& file, const lockmgr::Range& range,
                      lockmgr::Mode mode, int error, bool unlocking) override;
  void deadlock(const lockmgr::FileLocks& file, const lockmgr::Request& request,
                const std::vector<std::uint64_t>& cycle) override;
  void lease_ended(const lockmgr::FileLocks& file, const lockmgr::LockView& lock,
                   const lockmgr::Request& waiter, std::uint64_t waiting) override;
  void event(const lockmgr::FileLocks& file, const lockmgr::Event& event) override {
    events_.push(file, event);
  }

  const Options& options_;
  Filesystem& filesystem_;
  KeptRequests& kept_;
  const bool writes_down_;  ///< for a daemon to come
  fuse_session* session_ = nullptr;
  LockRecords records_;
  DescriptorLog descriptors_;
  bool recovering_ = false;                                      ///< in recover()
  std::unordered_map<std::uint64_t, std::uint32_t> locks_left_;  ///< by nodeid, in recover()
  Tape tape_;
  lockmgr::LockManager manager_;
  EventHub events_{manager_};
  OverdueFiles overdue_;

  mutable std::mutex put_off_mutex_;
  std::condition_variable apart_done_;
  /// By the order they came in; guarded by put_off_mutex_.
  std::map<std::uint64_t, Asked> put_off_;
  std::uint64_t next_put_off_ = 1;  ///< guarded by put_off_mutex_
  /// How many of them are unclassified; changed with put_off_mutex_ held.
  std::atomic<std::size_t> unclassified_{0};
  std::size_t apart_ = 0;  ///< tasks of apart(); guarded by put_off_mutex_
  int closed_ = 0;         ///< error of shut_down(); guarded by put_off_mutex_

  ServerGrace grace_;  ///< after all that its thread uses, and so the next
  WaitThreads wait_threads_;
  OutsiderWatch outsider_watch_;
  KnownProcesses known_processes_;
  std::array<std::mutex, 64> mutexes_;  ///< each guards Inode::locks of its share of inodes

  std::mutex queue_mutex_;
  std::condition_variable queue_changed_;
  std::atomic<int> watcher_rests_{0};  ///< 1: it may sleep until it is woken
  bool ended_ = false;                 ///< guarded by queue_mutex_
  struct Flush {
    fuse_req_t req = nullptr;
    std::uint32_t kept = 0;
    pid_t caller = 0;
    std::chrono::steady_clock::time_point since;
  };
  std::map<std::uint64_t, Flush> flushes_;  ///< of flush_apart(); guarded by queue_mutex_
  std::uint64_t next_flush_ = 1;            ///< guarded by queue_mutex_
  /// While anybody waits: LockManager::relent(), release_exiting(), classify_again().
  std::thread queue_watcher_;
  bool outside_wanted_ = false;  ///< search_outside() is due; guarded by queue_mutex_
  // Of search_outside(), used by the searcher alone.
  std::chrono::steady_clock::time_point outside_rests_;  ///< until then for the last look's cost
  std::chrono::steady_clock::time_point outside_due_;    ///< no look before
  std::chrono::milliseconds outside_pause_{0};           ///< behind outside_rests_
  std::uint64_t outside_seen_ = 0;                       ///< requests parked by the last look
  std::condition_variable search_due_;
  std::thread searcher_;  ///< LockManager::search(), search_outside()
};

}  // namespace lockfs
