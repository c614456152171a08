#include "fs/locks/lock_ops.h"

#include <fmt/format.h>
#include <linux/fuse.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <new>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>

#include "fs/base/clock.h"
#include "fs/base/death_point.h"
#include "fs/base/proc_locks.h"
#include "fs/loop/current_request.h"
#include "fs/loop/device_calls.h"
#include "fs/mirror/grace_backing.h"
#include "fs/mirror/record_lock.h"
#include "fs/options/logging.h"
#include "fs/record/taped_backing.h"
#include "fs/tree/filesystem.h"
#include "lockmgr/outsiders.h"
#include "lockmgr/text.h"

namespace lockfs {

namespace {

/// What Inode::granted_at is measured by.
std::int64_t coarse_now() noexcept { return nanoseconds_on(CLOCK_MONOTONIC_COARSE); }

using lockmgr::Mode;
using lockmgr::OwnerType;

constexpr std::chrono::milliseconds kQueueLook(250);
/// How many times as long as a look at outsiders' waits the pause behind it is.
constexpr int kOutsideCostFactor = 20;
/// Locks and waits of programs outside, where there are more, are not looked at.
constexpr std::size_t kMostOutsiders = 10'000;
/// The longest pause while nobody else begins to wait here.
constexpr std::chrono::milliseconds kMostOutsidePause(2000);
/// Before a search for a cycle is made again among locks that came and went.
constexpr auto kSearchPause = std::chrono::milliseconds(10);
/// How often to look at threads that run although they wait for an answer.
constexpr auto kClassLook = std::chrono::milliseconds(1);

// LockRequest::note of a request that answer_at_once() has looked at; 0 is that of all others.
std::uint8_t note_of(lockmgr::Refusal refusal) {
  return static_cast<std::uint8_t>(1 + static_cast<int>(refusal));
}
lockmgr::Refusal refusal_of(std::uint8_t note) { return static_cast<lockmgr::Refusal>(note - 1); }
/// The backing did not answer.
constexpr std::uint8_t kUnanswered = UINT8_MAX;

/// What an interrupt has to know of a request. Tickets are counted: 2^44 are enough.
void* packed(lockmgr::Ticket ticket, std::uint32_t kept) noexcept {
  return reinterpret_cast<void*>(ticket * KeptRequests::kMost + kept);
}

/// The backing of a mount whose locks are not carried to the files (mirror off).
class UncarriedFile final : public lockmgr::NoBacking {
 public:
  explicit UncarriedFile(InodePtr inode) : inode_(std::move(inode)) {}
  std::string name() const override { return inode_->path(); }

 private:
  const InodePtr inode_;
};

lockmgr::Limits limits_of(const Options& options) {
  return {.locks = options.max_locks,
          .locks_per_user = options.max_locks_per_user,
          .locks_per_owner = options.max_locks_per_owner,
          .waiters = options.max_waiters,
          .waiters_per_user = options.max_waiters_per_user,
          .outside_waits = options.max_outside_waits,
          .outside_waits_per_user = options.max_outside_waits_per_user};
}

/// What a request wants, in words: "exclusive lock", "unlock".
std::string wish(Mode mode) {
  return mode == Mode::kNone ? "unlock" : std::string(text_of(mode)) + " lock";
}

std::string words_for(const lockmgr::Request& request) {
  return fmt::format("{} {} of {} by pid {} (uid {}, {} owner {:#x})",
                     lockmgr::to_string(request.owner.type), wish(request.mode),
                     text_of(request.range), request.caller.pid, request.caller.uid,
                     lockmgr::to_string(request.owner.type), request.owner.cookie);
}

}  // namespace

/// The C functions that libfuse calls.
struct LockHandlers {
  static void ask(fuse_req_t req) {
    const LockRequest request = CurrentRequest::lock_request();
    if (request.what == nullptr) {
      fuse_reply_err(req, EINVAL);
      return;
    }
    LockOps::Asked asked = LockOps::of(req).asked(request);
    asked.req = req;
    if (asked.handle == nullptr) {
      fuse_reply_err(req, EBADF);
      return;
    }
    asked.kept = CurrentRequest::keep();
    LockOps::of(req).start(asked);
  }

  static void setlk(fuse_req_t req, fuse_ino_t, fuse_file_info*, struct flock*, int) { ask(req); }
  static void flock(fuse_req_t req, fuse_ino_t, fuse_file_info*, int) { ask(req); }
  static void getlk(fuse_req_t req, fuse_ino_t, fuse_file_info*, struct flock*) { ask(req); }

  static void flush(fuse_req_t req, fuse_ino_t, fuse_file_info* fi) {
    Handle* const handle = LockOps::of(req).filesystem_.find_handle(fi->fh);
    if (handle == nullptr) {
      fuse_reply_err(req, EBADF);
      return;
    }
    LockOps::of(req).flush(req, *handle, fi->lock_owner);
  }

  static void release(fuse_req_t req, fuse_ino_t, fuse_file_info* fi) {
    Handle* const handle = LockOps::of(req).filesystem_.find_handle(fi->fh);
    if (handle == nullptr) {
      fuse_reply_err(req, 0);  // an earlier process has done it, and died over the answer
      return;
    }
    LockOps::of(req).release(req, handle);
  }

  static void interrupt(fuse_req_t req, void* packed_up) {
    CurrentRequest::allow_overtaking();  // the file may be busy with a slow backing
    LockOps& ops = LockOps::of(req);
    const auto both = reinterpret_cast<std::uint64_t>(packed_up);
    // Before anything comes of it: the kernel says so once.
    ops.kept_.note_interrupted(static_cast<std::uint32_t>(both & (KeptRequests::kMost - 1)));
    {
      const Tape::Cause cause(ops.tape_);
      ops.manager_.cancel(both / KeptRequests::kMost, EINTR);
    }
    // Who gave up may have to be answered by the watcher, and have been the last to wait.
    ops.wake_queue_watcher();
  }
};

void LockOps::fill_ops(Operations& ops) noexcept {
  using Table = fuse_lowlevel_ops;
  using H = LockHandlers;
  ops.enter(&Table::setlk, &H::setlk, Pace::kOrdered, FUSE_SETLK, FUSE_SETLKW);
  ops.enter(&Table::flock, &H::flock, Pace::kOrdered, FUSE_SETLK, FUSE_SETLKW);
  ops.enter(&Table::getlk, &H::getlk, Pace::kOrdered, FUSE_GETLK);
  ops.enter(&Table::flush, &H::flush, Pace::kOrdered, FUSE_FLUSH);
  ops.enter(&Table::release, &H::release, Pace::kOrdered, FUSE_RELEASE);
}

// -- life ----------------------------------------------------------------------------------------

LockOps& LockOps::of(fuse_req_t req) noexcept {
  return static_cast<LockOps&>(static_cast<Mount*>(fuse_req_userdata(req))->locks);
}

HandleLocks::HandleLocks(LockOps& lock_ops, const Handle& handle,
                         std::shared_ptr<LockedFile> locked, DescriptorShares::Share part)
    : share(std::move(part)),
      ops(lock_ops),
      inode(*handle.inode),
      file(std::move(locked)),
      opened(handle.readable(), handle.writable(), handle.fh) {}

HandleLocks::~HandleLocks() {
  file->locks->close(opened);
  ops.leave(inode, *file);
}

LockOps::LockOps(const Options& options, Filesystem& filesystem, Book& book, KeptRequests& kept)
    : options_(options),
      filesystem_(filesystem),
      kept_(kept),
      writes_down_(book.is_shared()),
      records_(book),
      descriptors_(book),
      manager_(limits_of(options), options.policy, this),
      grace_({std::chrono::seconds(options.mirror ? options.server_wait : 0), options.await_server},
             [this] { grace_ended(); }) {
  queue_watcher_ = std::thread([this] { watch_queues(); });
  searcher_ = std::thread([this] { search_cycles(); });
}

LockOps::~LockOps() { end_threads(); }

/// They hold files for moments at a time.
void LockOps::end_threads() noexcept {
  {
    const std::lock_guard lock(queue_mutex_);
    ended_ = true;
  }
  queue_changed_.notify_all();
  search_due_.notify_all();
  for (std::thread* thread : {&queue_watcher_, &searcher_}) {
    if (thread->joinable()) thread->join();
  }
}

void LockOps::shut_down() noexcept {
  manager_.shut_down(ECONNABORTED);
  end_put_off(ECONNABORTED);
}

std::mutex& LockOps::mutex_of(const Inode& inode) noexcept {
  return mutexes_[inode.nodeid() % mutexes_.size()];
}

std::shared_ptr<LockedFile> LockOps::find(Inode& inode) noexcept {
  const std::lock_guard lock(mutex_of(inode));
  const InodeLocks* const locks = InodeLocks::of(inode);
  return locks == nullptr ? nullptr : locks->file;
}

bool LockOps::in_use(Inode& inode) noexcept {
  constexpr std::int64_t kLately = 1'000'000'000;
  const std::int64_t granted = inode.granted_at.load();
  if (granted != 0 && coarse_now() - granted < kLately) return true;
  const std::shared_ptr<LockedFile> file = find(inode);
  return file != nullptr && !file->locks->quiet();
}

std::shared_ptr<LockedFile> LockOps::make_file(Inode& inode, InodePtr reference) {
  const lockmgr::FileKey key{inode.id().dev, inode.id().ino};
  std::unique_ptr<lockmgr::Backing> backing;
  std::shared_ptr<RemoteCalls> remote;
  std::shared_ptr<LockDescriptions> descriptions;
  const auto self = std::make_shared<std::weak_ptr<LockedFile>>();
  if (options_.mirror) {
    if (inode.device().may_stall()) {
      remote = std::make_shared<RemoteCalls>(wait_threads_, overdue_, [this, self] {
        if (const auto file = self->lock()) answered_late(file);
      });
    }
    DescriptorLog* const log = writes_down_ ? &descriptors_ : nullptr;
    auto carried = std::make_unique<BackingFile>(std::move(reference), wait_threads_,
                                                 outsider_watch_, remote, log);
    if (recovering_) {
      constexpr std::uint32_t kFewLocks = 4;
      const bool few = locks_left_[inode.nodeid()] <= kFewLocks;
      if (carried->adopt(descriptors_.take_over(inode.nodeid()), few) != 0) throw std::bad_alloc();
    }
    descriptions = carried->descriptions();
    backing = std::move(carried);
    // What is mounted from another NFS server has a grace period there, which the client heeds.
    if (remote == nullptr) backing = std::make_unique<GraceBacking>(std::move(backing), grace_);
    backing = std::make_unique<TapedBacking>(std::move(backing), tape_, key);
  } else {
    backing = std::make_unique<UncarriedFile>(std::move(reference));
  }
  auto journal = writes_down_ ? records_.journal_of(inode.nodeid()) : nullptr;
  auto file =
      std::make_shared<LockedFile>(manager_.open_file(key, std::move(backing), std::move(journal)),
                                   inode.device().is_local(), remote, descriptions);
  *self = file;
  return file;
}

/// Null: the user has used up his share of descriptors. Throws std::bad_alloc.
HandleLocks* LockOps::locks_of(Handle& handle, uid_t uid) {
  if (HandleLocks* const there = HandleLocks::of(handle)) return there;
  auto [refused, share] = filesystem_.take_share(uid);
  return refused != 0 ? nullptr : make_locks(handle, std::move(share));
}

HandleLocks* LockOps::make_locks(Handle& handle, DescriptorShares::Share share) {
  Inode& inode = *handle.inode;
  std::shared_ptr<LockedFile> file;
  {
    const std::lock_guard lock(mutex_of(inode));
    if (inode.locks == nullptr) {
      inode.locks = std::make_unique<InodeLocks>(make_file(inode, handle.inode));
    }
    file = InodeLocks::of(inode)->file;
    ++file->handles;
  }
  try {
    handle.locks = std::make_unique<HandleLocks>(*this, handle, file, std::move(share));
  } catch (const std::bad_alloc&) {
    leave(inode, *file);
    throw;
  }
  return HandleLocks::of(handle);
}

/// A handle with locks has gone. The last one takes the LockedFile with it, and so the reference
/// that the backing holds on the inode.
void LockOps::leave(Inode& inode, LockedFile& file) noexcept {
  std::unique_ptr<LockAttachment> last;  // freed after the mutex is released
  const std::lock_guard lock(mutex_of(inode));
  if (--file.handles == 0) last = std::move(inode.locks);
}

// -- after a death -------------------------------------------------------------------------------

void LockOps::recover() {
  recovering_ = true;
  const auto changes = records_.take_changes();
  std::unordered_map<std::uint64_t, std::shared_ptr<LockedFile>> files;  // by nodeid
  std::size_t restored = 0;
  std::size_t lost = 0;
  const auto left = records_.take_left();
  for (const auto& [opened, locks] : left) {
    if (const Handle* const handle = filesystem_.find_handle(opened); handle != nullptr) {
      locks_left_[handle->inode->nodeid()] += static_cast<std::uint32_t>(locks.size());
    }
  }
  for (const auto& [opened, locks] : left) {
    Handle* const handle = filesystem_.find_handle(opened);
    if (handle == nullptr) {  // it was being released
      for (const auto& [record, entry] : locks) records_.drop(record);
      continue;
    }
    HandleLocks* own = HandleLocks::of(*handle);
    if (own == nullptr) {
      own = make_locks(*handle, filesystem_.take_share_again(locks.front().second.caller.uid));
    }
    LockedFile& file = *own->file;
    files.emplace(own->inode.nodeid(), own->file);
    for (const auto& [record, entry] : locks) {
      if (const int error = file.locks->restore(own->opened, entry, record); error != 0) {
        records_.drop(record);
        ++lost;
        continue;
      }
      ++restored;
      remember_class(*own, entry.owner);
    }
    own->inode.granted_at.store(coarse_now(), std::memory_order_relaxed);
  }
  for (const auto& [nodeid, change] : changes) {
    const auto file = files.find(nodeid);
    if (file == files.end()) continue;
    if (file->second->locks->finish_change(change.owner, change.range, change.mode) != 0) {
      throw std::bad_alloc();
    }
  }
  for (const auto& [nodeid, file] : files) file->locks->restored();
  // Of files without locks: nobody holds what they carry.
  descriptors_.abandoned().clear();
  records_.end_recovery();
  locks_left_ = {};
  recovering_ = false;
  if (restored + lost == 0) return;
  spdlog::log(lost == 0 ? spdlog::level::info : spdlog::level::err,
              "{} locks of {} files restored{}", restored, files.size(),
              lost == 0 ? "" : fmt::format("; {} lost for want of memory", lost));
}

/// What was known of the cookies of an owner that is restored.
void LockOps::remember_class(HandleLocks& locks, const lockmgr::OwnerId& owner) {
  if (owner.type == OwnerType::kFlock) return;
  if (owner.type == OwnerType::kProcess) known_processes_.remember(owner.cookie);
  const auto known = std::any_of(locks.classes.begin(), locks.classes.end(),
                                 [&](const auto& each) { return each.cookie == owner.cookie; });
  if (!known) locks.classes.push_back({owner.cookie, owner.type});
  // Whether it was a guess is not known any more: a FLUSH that says otherwise is right.
  auto& guessed = locks.file->guessed;
  if (owner.type == OwnerType::kOpenFile &&
      std::find(guessed.begin(), guessed.end(), owner.cookie) == guessed.end()) {
    guessed.push_back(owner.cookie);
  }
}

// -- owners --------------------------------------------------------------------------------------

/// Called within the file's strand. Nothing: the thread cannot be looked at yet.
std::optional<OwnerType> LockOps::classify(const Asked& asked, bool anew) {
  if (asked.flock) return OwnerType::kFlock;
  HandleLocks& locks = *HandleLocks::of(*asked.handle);
  HandleLocks::CookieClass* known = nullptr;
  for (HandleLocks::CookieClass& entry : locks.classes) {
    if (entry.cookie == asked.cookie) known = &entry;
  }
  if (known != nullptr && !anew) return known->type;
  if (!anew && known_processes_.contains(asked.cookie)) return OwnerType::kProcess;
  const CallerLook seen = look_at_caller(asked.caller.tid);
  if (seen == CallerLook::kRuns) return std::nullopt;
  const OwnerType type = seen == CallerLook::kProcess ? OwnerType::kProcess : OwnerType::kOpenFile;
  if (seen == CallerLook::kHidden) {
    // Taken for an open file: that asks least (no deadlock detection). A FLUSH proves a process.
    auto& guessed = locks.file->guessed;
    if (std::find(guessed.begin(), guessed.end(), asked.cookie) == guessed.end()) {
      guessed.push_back(asked.cookie);
    }
  }
  if (known != nullptr) {
    known->type = type;
  } else {
    // Processes come and go through a shared open file; its own cookie is found again.
    constexpr std::size_t kMostRemembered = 8;
    if (locks.classes.size() >= kMostRemembered) locks.classes.erase(locks.classes.begin());
    locks.classes.push_back({asked.cookie, type});
  }
  return type;
}

/// Nothing: as classify().
std::optional<lockmgr::Request> LockOps::request_of(const Asked& asked) {
  const auto type = classify(asked);
  if (!type) return std::nullopt;
  return lockmgr::Request{{*type, asked.cookie}, asked.caller, asked.range, asked.mode, asked.wait};
}

/// The kernel gives one cookie to a file table or to an open file, never to both at once: what was
/// taken for an open file's is the closing process's. Called within the file's strand.
void LockOps::mend_guess(LockedFile& file, Handle& handle, std::uint64_t cookie) noexcept {
  const auto guess = std::find(file.guessed.begin(), file.guessed.end(), cookie);
  if (guess == file.guessed.end()) return;
  file.guessed.erase(guess);
  file.locks->close_owner({OwnerType::kOpenFile, cookie});
  if (HandleLocks* const locks = HandleLocks::of(handle)) {
    for (HandleLocks::CookieClass& entry : locks->classes) {
      if (entry.cookie == cookie) entry.type = OwnerType::kProcess;
    }
  }
}

// -- requests ------------------------------------------------------------------------------------

// The reference of this call keeps the strand while it runs what other threads left there, the
// release of the last handle maybe.
template <typename Task>  // NOLINTNEXTLINE(performance-unnecessary-value-param)
void LockOps::in_order(std::shared_ptr<LockedFile> file, Task&& task) {
  file->strand.run(
      [local = file->local, slow = file->may_take_long(), task = std::forward<Task>(task)] {
        // With its place in the strand, a request to a slow backing need not hold up those of
        // others. Where it is known to take long that is not left to the watchdog to find.
        if (local && slow) {
          CurrentRequest::give_way();
        } else if (slow) {
          CurrentRequest::allow_overtaking();
        }
        task();
      });
}

LockOps::Asked LockOps::asked(const LockRequest& request) const noexcept {
  const fuse_in_header& header = *request.header;
  const fuse_lk_in& what = *request.what;
  Asked asked;
  asked.handle = filesystem_.find_handle(what.fh);
  asked.flock = (what.lk_flags & FUSE_LK_FLOCK) != 0;
  asked.cookie = what.owner;
  asked.caller = {static_cast<pid_t>(what.lk.pid != 0 ? what.lk.pid : header.pid),
                  static_cast<pid_t>(header.pid), header.uid};
  asked.range = {static_cast<lockmgr::Offset>(what.lk.start),
                 std::min(static_cast<lockmgr::Offset>(what.lk.end), lockmgr::kEof)};
  if (asked.flock) asked.range = lockmgr::kWholeFile;
  asked.mode = mode_of(static_cast<short>(what.lk.type));
  asked.wait = header.opcode == FUSE_SETLKW;
  asked.test = header.opcode == FUSE_GETLK;
  asked.unanswered = request.note == kUnanswered;
  asked.tried = request.note != 0 && !asked.unanswered;
  if (asked.tried) asked.refusal = refusal_of(request.note);
  return asked;
}

bool LockOps::answer_at_once(LockRequest& request) noexcept {
  Asked ask = asked(request);
  if (ask.handle == nullptr) return false;  // ask() answers
  HandleLocks* const locks = HandleLocks::of(*ask.handle);
  if (locks == nullptr || locks->file->may_take_long()) return false;
  // It may be released as soon as the answer is out, but for this.
  const std::shared_ptr<LockedFile> file = locks->file;
  std::optional<int> result;
  file->strand.run_if_idle([&] {
    if (tape_.is_open()) return;
    const Tape::Cause cause(tape_);
    try {
      const auto wanted = request_of(ask);
      if (!wanted) return;
      result = decide(ask, *wanted);
    } catch (const std::bad_alloc&) {
      result = ENOLCK;
    }
    ask.unanswered = result == EINPROGRESS;
    if (ask.unanswered) result.reset();
    if (!result) return;
    before_answer(ask, *result);
    const fuse_out_header answer{sizeof answer, -*result, request.header->unique};
    const iovec part{const_cast<fuse_out_header*>(&answer), sizeof answer};
    CurrentRequest::note_answer(&part, 1);
    // It fails only when nobody waits for it any more, as for libfuse.
    [[maybe_unused]] const ssize_t written =
        write_device(fuse_session_fd(session_), &answer, sizeof answer);
    death_point("answer.written");
  });
  if (ask.unanswered) {
    request.note = kUnanswered;
  } else if (ask.tried) {
    request.note = note_of(ask.refusal);
  }
  return result.has_value();
}

/// Within the file's strand. Returns what the request is answered; nothing: it has to wait, and
/// `asked` says what was refused. May throw std::bad_alloc.
std::optional<int> LockOps::decide(Asked& asked, const lockmgr::Request& request) {
  // An unlock takes nothing for whom it is made.
  const GraceBacking::Asker asker(asked.mode == Mode::kNone ? 0 : asked.caller.tid);
  before_decision(asked);
  HandleLocks& locks = *HandleLocks::of(*asked.handle);
  const auto now = locks.file->locks->try_now(locks.opened, request, &asked.refusal);
  asked.tried = !now;
  return now;
}

void LockOps::start(const Asked& asked) noexcept {
  try {
    HandleLocks* const locks = locks_of(*asked.handle, asked.caller.uid);
    if (locks == nullptr) {
      reply(asked.req, asked.kept, ENOLCK);
      return;
    }
    in_order(locks->file, [this, asked] { carry_out(asked); });
  } catch (const std::bad_alloc&) {
    reply(asked.req, asked.kept, ENOLCK);
  }
}

void LockOps::carry_out(Asked asked) noexcept {
  if (asked.test) {
    carry_out_test(asked);
    return;
  }
  describe(*HandleLocks::of(*asked.handle)->file);
  const Tape::Cause cause(tape_);
  try {
    const auto wanted = request_of(asked);
    if (!wanted) {
      put_off_unclassified(asked);
      return;
    }
    const lockmgr::Request& request = *wanted;
    if (asked.taped == 0) asked.taped = tape_ask(*asked.handle, request);
    // A recording that began meanwhile is to have the whole story.
    if (tape_.is_open()) asked.tried = asked.unanswered = false;
    std::optional<int> now;
    const bool was_parked = asked.kept != 0 && kept_[asked.kept].parked_at != 0;
    if (asked.unanswered) {
      now = EINPROGRESS;
    } else if (!asked.tried && !was_parked) {
      now = decide(asked, request);
    }
    if (now) {
      answer(asked, *now);
    } else {
      carry_out_waiting(asked, request);
    }
  } catch (const std::bad_alloc&) {
    reply(asked.req, asked.kept, ENOLCK);
  }
}

void LockOps::carry_out_waiting(Asked asked, lockmgr::Request request) noexcept {
  try {
    HandleLocks& locks = *HandleLocks::of(*asked.handle);
    const std::int64_t parked_at = asked.kept != 0 ? kept_[asked.kept].parked_at : 0;
    // Deadlock detection must not take an open file for a process; now there is time to look.
    if (request.owner.type == OwnerType::kProcess) {
      const auto type = classify(asked, true);
      if (!type) {
        tape_answer(asked, EINPROGRESS);
        put_off_unclassified(asked);
        return;
      }
      request.owner.type = *type;
    }
    const lockmgr::Ticket ticket = manager_.new_ticket();
    asked.ticket = ticket;
    // From here on an interrupt cancels the ticket, parked or not. libfuse calls back at once if
    // the interrupt came before.
    fuse_req_interrupt_func(asked.req, &LockHandlers::interrupt, packed(ticket, asked.kept));
    const GraceBacking::Asker asker(asked.caller.tid);
    const auto done = [this, asked](int error) { answer(asked, error); };
    std::optional<int> now;
    if (parked_at != 0) {
      const lockmgr::Clock::time_point since{std::chrono::nanoseconds(parked_at)};
      now = locks.file->locks->park_again(locks.opened, request, ticket, done, since);
      // An earlier daemon was told of the interrupt, and died before it had answered.
      if (!now && kept_[asked.kept].interrupted != 0) manager_.cancel(ticket, EINTR);
    } else {
      const auto since = manager_.now().time_since_epoch();
      kept_.note_parked(asked.kept,
                        std::chrono::duration_cast<std::chrono::nanoseconds>(since).count());
      now = locks.file->locks->park(locks.opened, request, ticket, done, asked.refusal);
    }
    death_point("lock.parked");
    if (now) {
      answer(asked, *now);
    } else {
      wake_queue_watcher();
      if (manager_.has_searches()) {
        { const std::lock_guard lock(queue_mutex_); }  // the searcher either waits or looks again
        search_due_.notify_one();
      }
    }
  } catch (const std::bad_alloc&) {
    reply(asked.req, asked.kept, ENOLCK);
  }
}

/// The handle lives until the request is answered: the kernel releases a file only then.
void LockOps::answer(const Asked& asked, int error) noexcept {
  tape_answer(asked, error);
  if (error == EINPROGRESS) {
    Asked again = asked;
    again.taped = 0;  // a request of its own, when it comes
    again.ticket = 0;
    kept_.note_parked(again.kept, 0);
    again.tried = again.unanswered = false;
    if (!put_off(again)) start(again);
    return;
  }
  death_point("lock.to_be_answered");
  before_answer(asked, error);
  reply(asked.req, asked.kept, error);
}

/// The one answer of a request that was kept.
void LockOps::reply(fuse_req_t req, std::uint32_t kept, int error) noexcept {
  kept_.answering(kept, error);
  fuse_reply_err(req, error);
  kept_.give(kept);
}

/// Called within the file's strand.
void LockOps::carry_out_test(const Asked& asked) noexcept {
  const GraceBacking::Asker asker(asked.caller.tid);
  std::optional<lockmgr::Blocker> blocker;
  int error = ENOLCK;
  try {
    const auto wanted = request_of(asked);
    if (!wanted) {
      put_off_unclassified(asked);
      return;
    }
    error = HandleLocks::of(*asked.handle)->file->locks->test(*wanted, blocker);
  } catch (const std::bad_alloc&) {
    error = ENOLCK;
  }
  if (error != 0) {
    answer(asked, error);
    return;
  }
  struct flock found = record_lock(asked.range, Mode::kNone);
  if (blocker) {
    found = record_lock(blocker->range, blocker->mode);
    // The kernel looks the pid up in the mount's namespace; an open file has none to show.
    const bool process = !blocker->owner || blocker->owner->type != OwnerType::kOpenFile;
    found.l_pid = process && blocker->pid > 0 ? blocker->pid : 0;
  }
  fuse_reply_lock(asked.req, &found);
  kept_.give(asked.kept);
}

void LockOps::flush(fuse_req_t req, Handle& handle, std::uint64_t cookie) noexcept {
  known_processes_.remember(cookie);
  const std::uint32_t kept = CurrentRequest::keep();
  const auto finish = [this, req, kept, &handle] {
    if (handle.inode->device().may_stall() && handle.writable()) {
      flush_apart(req, kept, handle);
      return;
    }
    CurrentRequest::allow_overtaking();
    reply(req, kept, handle.writable() ? filesystem_.flush_data(handle) : 0);
  };
  const std::shared_ptr<LockedFile> file = find(*handle.inode);
  if (file == nullptr) {
    finish();
    return;
  }
  try {
    in_order(file, [this, file, cookie, finish, &handle, caller = *fuse_req_ctx(req)] {
      describe(*file);
      const Tape::Cause cause(tape_);
      tape_flush(handle, *file, cookie, caller);
      file->locks->close_by_process(cookie);
      mend_guess(*file, handle, cookie);
      finish();
    });
  } catch (const std::bad_alloc&) {
    file->locks->close_by_process(cookie);
    finish();
  }
}

void LockOps::release(fuse_req_t req, Handle* handle) noexcept {
  const std::uint32_t kept = CurrentRequest::keep();
  const auto finish = [this, req, kept, handle] {
    CurrentRequest::allow_overtaking();
    const auto file = handle->writable() ? find(*handle->inode) : nullptr;
    filesystem_.close_handle(handle);
    // The last writer takes the daemon's own writable descriptor with it.
    if (file != nullptr && file->descriptions != nullptr && file->remote == nullptr) {
      file->descriptions->close_idle();
    }
    reply(req, kept, 0);
  };
  if (handle->locks == nullptr) {
    finish();
    return;
  }
  const std::shared_ptr<LockedFile> file = HandleLocks::of(*handle)->file;
  try {
    in_order(file, [this, file, handle, finish] {
      describe(*file);
      const Tape::Cause cause(tape_);
      tape_close(*handle);
      handle->locks.reset();
      file->remote == nullptr ? finish() : apart(finish);
    });
  } catch (const std::bad_alloc&) {
    finish();
  }
}

// -- coherence -----------------------------------------------------------------------------------

/// Called within the file's strand.
void LockOps::before_decision(const Asked& asked) {
  // In daemon io, pages written through mmap reach the backing before others may lock the range
  // (as nfs_lock() does with nfs_sync_mapping()).
  if (asked.mode == Mode::kNone && asked.handle->writable()) drop_cached_data(*asked.handle->inode);
}

/// Who is granted a lock sees what others wrote before.
void LockOps::before_answer(const Asked& asked, int error) noexcept {
  if (error != 0 || asked.mode == Mode::kNone) return;
  Inode& inode = *asked.handle->inode;
  inode.granted_at.store(coarse_now(), std::memory_order_relaxed);
  drop_cached_data(inode);
  filesystem_.forget_attributes(inode);
  if (!asked.handle->passthrough) tell_size(*asked.handle);
}

/// A mapping ends where the kernel takes the file to end (filemap_fault()), which it does not ask
/// about: whoever maps a file that has grown would get SIGBUS. The one notification that makes it
/// know a larger size brings data (fuse_notify_store()): the last byte. Not where the backing may
/// keep one waiting for it.
void LockOps::tell_size(const Handle& handle) noexcept {
  Inode& inode = *handle.inode;
  struct stat st {};
  if (inode.type() != S_IFREG || inode.device().may_stall()) return;
  if (::fstat(inode.fd(), &st) != 0 || st.st_size <= inode.known_size) return;
  UniqueFd own;
  if (!handle.readable()) {
    constexpr int kFlags = O_RDONLY | O_NONBLOCK;
    own.reset(inode.reopen(kFlags | O_NOATIME));
    if (!own) own.reset(inode.reopen(kFlags));
  }
  char last = 0;
  const off_t at = st.st_size - 1;
  if (::pread(handle.readable() ? handle.fd.get() : own.get(), &last, 1, at) != 1) return;
  fuse_bufvec data = FUSE_BUFVEC_INIT(1);
  data.buf[0].mem = &last;
  inode.data_cached.store(true);
  // Waits for the page if it is being read or written, which other threads must serve.
  const CurrentRequest::Blocking blocking;
  const int error =
      fuse_lowlevel_notify_store(session_, inode.nodeid(), at, &data, fuse_buf_copy_flags{});
  if (error == 0) inode.raise_known_size(st.st_size);
}

void LockOps::drop_cached_data(Inode& inode) noexcept {
  if (!inode.data_cached.exchange(false)) return;
  // Waits for pages that are being read or written, which other threads must serve.
  const CurrentRequest::Blocking blocking;
  fuse_lowlevel_notify_inval_inode(session_, inode.nodeid(), 0, 0);
}

/// Costs nothing where it is awake, looking from time to time.
void LockOps::wake_queue_watcher() noexcept {
  // Both write to it: either the watcher sees who waits, or this sees that it rests.
  if (watcher_rests_.fetch_or(0) == 0) return;
  { const std::lock_guard lock(queue_mutex_); }  // the watcher either waits or looks again
  queue_changed_.notify_one();
}

void LockOps::watch_queues() {
  auto looked = std::chrono::steady_clock::now();
  std::unique_lock lock(queue_mutex_);
  while (!ended_) {
    watcher_rests_.exchange(1);
    const bool waiters = manager_.ledger().waiters() != 0 || manager_.has_queued();
    const bool unclassified = unclassified_ != 0;
    if (!waiters && flushes_.empty() && !unclassified) {
      queue_changed_.wait(lock);
      continue;
    }
    watcher_rests_.store(0);
    queue_changed_.wait_for(lock, unclassified ? kClassLook : kQueueLook,
                            [&] { return ended_ || (!unclassified && unclassified_ != 0); });
    if (unclassified) {
      lock.unlock();
      classify_again();
      lock.lock();
    }
    const auto now = std::chrono::steady_clock::now();
    if (now - looked < kQueueLook) continue;
    looked = now;
    release_exiting();
    if (!waiters) continue;
    outside_wanted_ = true;
    search_due_.notify_one();
    lock.unlock();
    tape_tick();
    lock.lock();
  }
}

/// Cycles that lead through local programs outside. To read the table of locks may take long, and
/// hinders everybody who locks meanwhile: there are pauses of many times that, and the longer the
/// same requests wait, the longer.
void LockOps::search_outside() noexcept try {
  const auto began = std::chrono::steady_clock::now();
  const std::uint64_t waits = manager_.counters().get(lockmgr::Counter::kWaits);
  if (waits != outside_seen_) {
    outside_seen_ = waits;
    outside_pause_ = kQueueLook;
    outside_due_ = std::min(outside_due_, outside_rests_ + kQueueLook);
  }
  // Who has only begun to wait is seldom there still when the table has been read.
  if (began < outside_due_ || manager_.longest_wait() < kQueueLook) return;
  std::vector<lockmgr::OutsiderLock> found;
  for (const LockLine& line : posix_locks_of_waiting_programs(kMostOutsiders)) {
    found.push_back({{makedev(line.dev_major, line.dev_minor), line.ino},
                     line.pid,
                     line.range,
                     line.mode,
                     line.waiting});
  }
  if (!found.empty()) {
    const Tape::Cause cause(tape_);
    manager_.search_outside(lockmgr::Outsiders(found));
  }
  const auto ended = std::chrono::steady_clock::now();
  outside_rests_ = ended + kOutsideCostFactor * (ended - began);
  outside_due_ = outside_rests_ + outside_pause_;
  outside_pause_ = std::min(outside_pause_ * 2, kMostOutsidePause);
} catch (const std::bad_alloc&) {
  return;  // the next look comes soon
}

void LockOps::search_cycles() {
  std::unique_lock lock(queue_mutex_);
  while (!ended_) {
    if (std::exchange(outside_wanted_, false)) {
      lock.unlock();
      search_outside();
      wake_queue_watcher();  // as in LockHandlers::interrupt()
      lock.lock();
      continue;
    }
    if (!manager_.has_searches()) {
      search_due_.wait(lock);
      continue;
    }
    lock.unlock();
    bool told = false;
    {
      const Tape::Cause cause(tape_);
      told = manager_.search();
    }
    wake_queue_watcher();  // as in LockHandlers::interrupt()
    lock.lock();
    if (!told) search_due_.wait_for(lock, kSearchPause, [this] { return ended_; });
  }
}

void LockOps::set_limits(const Options& options) { manager_.set_limits(limits_of(options)); }

// -- reports -------------------------------------------------------------------------------------

namespace {

void log_refusal(spdlog::level::level_enum level, const lockmgr::FileLocks& file,
                 const lockmgr::Request& request, int error, const std::string& why) {
  log_event(level,
            fmt::format("lock: {}: {} refused: {}: {}", file.backing().name(), words_for(request),
                        std::strerror(error), why),
            {{"LOCKFS_OP", "lock"},
             {"LOCKFS_FILE", file.backing().name()},
             {"LOCKFS_RANGE", text_of(request.range)},
             {"LOCKFS_MODE", wish(request.mode)},
             {"LOCKFS_OWNER", lockmgr::text_of(request.owner)},
             {"LOCKFS_OWNER_PID", std::to_string(request.caller.pid)},
             {"LOCKFS_OWNER_UID", std::to_string(request.caller.uid)},
             {"LOCKFS_WHY", why},
             {"ERRNO", std::to_string(error)}});
}

}  // namespace

void LockOps::limit_reached(const lockmgr::FileLocks& file, const lockmgr::Request& request,
                            lockmgr::Limit limit, std::uint64_t value) {
  log_refusal(spdlog::level::warn, file, request, ENOLCK,
              fmt::format("limit {}={} reached (uid {})", lockmgr::to_string(limit), value,
                          request.caller.uid));
}

void LockOps::backing_failed(const lockmgr::FileLocks& file, const lockmgr::Range& range, Mode mode,
                             int error, bool unlocking) {
  log_event(spdlog::level::err,
            fmt::format("lock: {}: backing file: {} of {}: {} (errno {}){}", file.backing().name(),
                        wish(mode), text_of(range), std::strerror(error), error,
                        unlocking ? "; will be set right with the next request" : ""),
            {{"LOCKFS_OP", unlocking ? "backing_unlock" : "backing_lock"},
             {"LOCKFS_FILE", file.backing().name()},
             {"LOCKFS_RANGE", text_of(range)},
             {"LOCKFS_MODE", wish(mode)},
             {"ERRNO", std::to_string(error)}});
}

void LockOps::deadlock(const lockmgr::FileLocks& file, const lockmgr::Request& request,
                       const std::vector<std::uint64_t>& cycle) {
  log_refusal(spdlog::level::info, file, request, EDEADLK,
              fmt::format("cycle of {} processes", cycle.size()));
}

void LockOps::lease_ended(const lockmgr::FileLocks& file, const lockmgr::LockView& lock,
                          const lockmgr::Request& waiter, std::uint64_t waiting) {
  const std::string name = file.backing().name();
  log_event(
      spdlog::level::warn,
      fmt::format("lock: {}: BROKEN: {} {} of {} by pid {} (uid {}) taken away after {} s, "
                  "its lease has ended: {} waiting, {} among them",
                  name, lockmgr::to_string(lock.owner.type), wish(lock.mode), text_of(lock.range),
                  lock.caller.pid, lock.caller.uid, lock.held_seconds, waiting, words_for(waiter)),
      {{"LOCKFS_EVENT", "lease"},
       {"LOCKFS_FILE", name},
       {"LOCKFS_OWNER_PID", std::to_string(lock.caller.pid)}});
}

}  // namespace lockfs
