#include "fs/daemon/session.h"

#include <fmt/format.h>
#include <fuse3/fuse_lowlevel.h>
#include <pthread.h>
#include <spdlog/spdlog.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>

#include "fs/base/book.h"
#include "fs/base/clock.h"
#include "fs/base/death_point.h"
#include "fs/base/kick.h"
#include "fs/control/server.h"
#include "fs/daemon/keeper.h"
#include "fs/daemon/reload.h"
#include "fs/daemon/source_mounts.h"
#include "fs/daemon/survival.h"
#include "fs/locks/lock_ops.h"
#include "fs/loop/current_request.h"
#include "fs/loop/device_calls.h"
#include "fs/loop/fuse_protocol.h"
#include "fs/loop/request_loop.h"
#include "fs/loop/requests.h"
#include "fs/tree/filesystem.h"

namespace lockfs {

namespace {

using namespace std::chrono_literals;

/// How long handlers may take to end, and then everything else, before the process leaves behind
/// what is stuck.
constexpr auto kStopPatience = 10s;
constexpr auto kEndPatience = 15s;

/// The INIT reply may be edited on its way to the kernel: libfuse 3.14 knows nothing of protocol
/// 7.40. Set on the thread that serves INIT, while it does.
struct InitExchange {
  BookHeader* header = nullptr;  ///< where the request is put down
  bool again = false;  ///< it is the one put there by an earlier daemon; no answer goes out
  bool want_passthrough = false;
  std::uint64_t offered = 0;  ///< flags of the request
  bool passthrough = false;   ///< granted
};
thread_local InitExchange* init_exchange = nullptr;

void note_init_request(const char* bytes, std::size_t size) {
  const auto* header = reinterpret_cast<const fuse_in_header*>(bytes);
  if (size < sizeof(fuse_in_header) + sizeof(fuse_init_in) || header->opcode != FUSE_INIT) return;
  if (size <= sizeof init_exchange->header->init) {
    std::memcpy(init_exchange->header->init, bytes, size);
    init_exchange->header->init_size = static_cast<std::uint32_t>(size);
  }
  const auto* init = reinterpret_cast<const fuse_init_in*>(header + 1);
  init_exchange->offered = init->flags;
  if ((init->flags & FUSE_INIT_EXT) != 0) {
    init_exchange->offered |= static_cast<std::uint64_t>(init->flags2) << 32;
  }
}

/// Adds to the reply what libfuse leaves out.
void complete_init_reply(proto::InitOut& reply) {
  InitExchange& exchange = *init_exchange;
  // Without it the kernel asks for security.capability before each write (file_remove_privs()).
  reply.flags |= static_cast<std::uint32_t>(exchange.offered & proto::kInitHandleKillprivV2);
  // libfuse 3.14 takes this wish for granted but forgets to pass it on.
  if ((exchange.offered & FUSE_PARALLEL_DIROPS) != 0) reply.flags |= FUSE_PARALLEL_DIROPS;
  if (exchange.want_passthrough && (exchange.offered & proto::kInitPassthrough) != 0) {
    reply.flags |= FUSE_INIT_EXT;
    reply.flags2 |= static_cast<std::uint32_t>(proto::kInitPassthrough >> 32);
    // One layer: the backing filesystem may not itself be a stack (overlay) of full depth.
    reply.max_stack_depth = 1;
    exchange.passthrough = true;
  }
}

ssize_t receive(int fd, void* buffer, size_t size, void*) {
  if (init_exchange == nullptr) return read_device(fd, buffer, size);
  if (init_exchange->again) {
    const BookHeader& header = *init_exchange->header;
    std::memcpy(buffer, header.init, header.init_size);
    return static_cast<ssize_t>(header.init_size);
  }
  const ssize_t got = read_device(fd, buffer, size);
  if (got > 0) note_init_request(static_cast<const char*>(buffer), static_cast<std::size_t>(got));
  return got;
}

ssize_t send(int fd, iovec* parts, int count, void*) {
  if (init_exchange != nullptr && init_exchange->again) {
    return static_cast<const fuse_out_header*>(parts[0].iov_base)->len;
  }
  if (init_exchange != nullptr && count == 2 && parts[1].iov_len == sizeof(proto::InitOut)) {
    complete_init_reply(*static_cast<proto::InitOut*>(parts[1].iov_base));
  }
  CurrentRequest::note_answer(parts, count);
  const ssize_t written = writev(fd, parts, count);
  death_point("answer.written");
  return written;
}

/// Commas separate mount options; libfuse lets a backslash quote them.
std::string quoted(const std::string& value) {
  std::string text;
  for (const char c : value) {
    if (c == ',' || c == '\\') text += '\\';
    text += c;
  }
  return text;
}

std::string mount_options(const Options& options) {
  std::string text = "subtype=lockfs,fsname=" +
                     quoted(options.fsname.empty() ? options.source_path : options.fsname);
  const auto add = [&text](bool set, const char* name) {
    if (set) text.append(",").append(name);
  };
  add(options.allow_other, "allow_other");
  add(options.default_permissions, "default_permissions");
  add(options.read_only, "ro");
  // libfuse adds nosuid and nodev unless told otherwise, which only root may.
  add(true, options.nosuid ? "nosuid" : "suid");
  add(true, options.nodev ? "nodev" : "dev");
  add(options.noexec, "noexec");
  add(options.noatime, "noatime");
  for (const std::string& option : options.kernel_options) add(true, quoted(option).c_str());
  return text;
}

unsigned worker_count(const Options& options) {
  if (options.workers != 0) return std::max(options.workers, 2U);
  return std::clamp(4 * std::thread::hardware_concurrency(), 8U, 64U);
}

/// SIGHUP has the options reloaded, the others end the mount.
const std::array kServeSignals{SIGTERM, SIGINT, SIGHUP};

sigset_t serve_signals() {
  sigset_t set;
  sigemptyset(&set);
  for (const int signal : kServeSignals) sigaddset(&set, signal);
  return set;
}

struct SessionDeleter {
  void operator()(fuse_session* session) const { fuse_session_destroy(session); }
};
using SessionPtr = std::unique_ptr<fuse_session, SessionDeleter>;

/// Calls `too_long`, which must not return, when the process is still there some time later.
class EndWatch {
 public:
  EndWatch(std::chrono::milliseconds patience, std::function<void()> too_long)
      : thread_([this, patience, too_long = std::move(too_long)] {
          std::unique_lock lock(mutex_);
          if (!changed_.wait_for(lock, patience, [this] { return ended_; })) too_long();
        }) {}
  ~EndWatch() {
    {
      const std::lock_guard lock(mutex_);
      ended_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }
  EndWatch(const EndWatch&) = delete;
  EndWatch& operator=(const EndWatch&) = delete;

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool ended_ = false;  ///< guarded by mutex_
  std::thread thread_;
};

/// How long nobody served, up to now.
void note_gap(BookHeader& header) {
  header.gap = nanoseconds_on(CLOCK_MONOTONIC) - header.dead_since;
}

/// A mount from its making to its end. Members are destroyed from the last to the first: the open
/// files of `filesystem` go before the lock operations that they refer to.
class Session {
 public:
  /// `again`: an earlier daemon has mounted, and left in the book what it knew.
  Session(const Options& options, Book& book, bool again)
      : options_(options),
        header_(book.header<BookHeader>()),
        again_(again),
        slots_(book),
        kept_(book),
        filesystem_(std::make_unique<Filesystem>(options, book, again ? header_.root_fd : -1)),
        lock_ops_(options, *filesystem_, book, kept_),
        control_(std::make_unique<control::Server>(options, *filesystem_, lock_ops_, header_)) {
    filesystem_->set_lock_state(&lock_ops_);
  }

  ~Session() {
    source_mounts_.reset();
    control_.reset();  // it keeps files alive
    if (loop_ != nullptr) loop_->stop(kStopPatience);
    filesystem_->disconnect();
    if (mounted_.exchange(false)) unmount();
    lock_ops_.drain();
    // First what may still refer to locks, while these are there.
    filesystem_.reset();
  }
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  /// Mounts, or takes the mount over. Returns an empty string, or why it failed.
  std::string mount();
  /// Starts serving. Returns an empty string, or why it failed.
  std::string start();
  /// Serves until the end. Returns the exit status.
  int serve();

 private:
  std::string exchange_init(int fd);
  void take_up();
  void unmount() noexcept;
  void reload_options() noexcept;
  [[noreturn]] void leave_behind() noexcept;

  const Options& options_;
  BookHeader& header_;
  const bool again_;
  RequestSlots slots_;
  KeptRequests kept_;
  std::unique_ptr<EndWatch> end_watch_;  ///< outlives what may take long to destroy
  std::unique_ptr<Filesystem> filesystem_;
  LockOps lock_ops_;
  Mount mount_{*filesystem_, lock_ops_};  ///< what handlers find by the session
  std::unique_ptr<control::Server> control_;
  Operations operations_;
  SessionPtr session_;
  std::unique_ptr<RequestLoop> loop_;  ///< after what its threads use
  std::unique_ptr<SourceMounts> source_mounts_;
  std::atomic<bool> mounted_{false};
};

std::string Session::mount() {
  fuse_args args = FUSE_ARGS_INIT(0, nullptr);
  fuse_opt_add_arg(&args, "lockfs");
  fuse_opt_add_arg(&args, ("-o" + mount_options(options_)).c_str());
  if (options_.debug) fuse_opt_add_arg(&args, "-d");

  Filesystem::fill_ops(operations_);
  LockOps::fill_ops(operations_);
  const fuse_lowlevel_ops& table = operations_.table();
  session_.reset(fuse_session_new(&args, &table, sizeof table, &mount_));
  fuse_opt_free_args(&args);
  if (session_ == nullptr) {
    return fmt::format("cannot set up a FUSE session for {}", options_.mountpoint_path);
  }
  if (!again_ && fuse_session_mount(session_.get(), options_.mountpoint_path.c_str()) != 0) {
    return fmt::format("cannot mount {} on {}", options_.source_path, options_.mountpoint_path);
  }
  mounted_ = true;
  filesystem_->attach(session_.get());
  lock_ops_.attach(session_.get());
  return exchange_init(again_ ? header_.fuse_fd : fuse_session_fd(session_.get()));
}

std::string Session::exchange_init(int fd) {
  fuse_custom_io io{};
  io.read = receive;
  io.writev = send;
  if (const int error = fuse_session_custom_io(session_.get(), &io, fd); error != 0) {
    return fmt::format("cannot take over the FUSE device: {}", std::strerror(-error));
  }
  InitExchange exchange;
  exchange.header = &header_;
  exchange.again = again_;
  exchange.want_passthrough = options_.passthrough != DataPassthrough::kOff;
  init_exchange = &exchange;
  fuse_buf buffer{};
  int got = 0;
  do {
    got = fuse_session_receive_buf(session_.get(), &buffer);
  } while (got == -EINTR);
  if (got > 0) fuse_session_process_buf(session_.get(), &buffer);
  std::free(buffer.mem);  // libfuse allocated it with malloc
  init_exchange = nullptr;
  if (got <= 0 || fuse_session_exited(session_.get())) {
    return fmt::format("{}: the kernel did not accept the mount", options_.mountpoint_path);
  }
  if (again_) {
    exchange.passthrough = header_.passthrough != 0;
  } else {
    header_.passthrough = exchange.passthrough ? 1 : 0;
    header_.fuse_fd = fd;
    header_.root_fd = filesystem_->inodes().root()->fd();
  }
  filesystem_->set_kernel_passthrough(exchange.passthrough, fd);
  if (!exchange.passthrough && options_.passthrough != DataPassthrough::kOff) {
    spdlog::log(
        options_.passthrough == DataPassthrough::kOn ? spdlog::level::err : spdlog::level::info,
        "the kernel offers no data passthrough (Linux 6.9 and later do): file data goes "
        "through the daemon");
  }
  return {};
}

std::string Session::start() {
  RequestLoop::AnswerLock answer_lock;
  if (!options_.debug) {  // else libfuse is to trace them
    answer_lock = [this](LockRequest& request) { return lock_ops_.answer_at_once(request); };
  }
  // The end of the connection is one more signal to wait for.
  loop_ =
      std::make_unique<RequestLoop>(session_.get(), operations_, worker_count(options_), slots_,
                                    kept_, std::move(answer_lock), [] { kill(getpid(), SIGTERM); });
  std::string error = again_ ? control_->adopt() : control_->open();
  if (!error.empty()) return error;
  if (again_) take_up();
  // From here on somebody may have been answered: a death is no failure of the start any more.
  if (!again_) header_.settled = header_.generation.load();
  header_.phase = BookHeader::kServing;
  if (const int failed = loop_->start(); failed != 0) {
    return fmt::format("cannot start threads: {}", std::strerror(failed));
  }
  if (again_) note_gap(header_);  // before anybody can ask for it
  source_mounts_ = std::make_unique<SourceMounts>(options_);
  return control_->start();
}

/// Takes up what an earlier daemon has left.
void Session::take_up() {
  filesystem_->recover();
  death_point("recovery.files");
  lock_ops_.recover();
  death_point("recovery.locks");
  loop_->resume(
      {.discard_opened = [this](std::uint64_t unique) { filesystem_->discard_unanswered(unique); },
       .take_back = [this](std::uint64_t node) { filesystem_->inodes().forget(node, 1); },
       .count_of = [this](std::uint64_t node) { return filesystem_->inodes().lookups(node); },
       .died_at = header_.ended_at},
      [this] { header_.settled = header_.generation.load(); });
}

void Session::unmount() noexcept {
  again_ ? end_mount(options_, header_.fuse_fd) : fuse_session_unmount(session_.get());
}

/// Ends the process although threads of it are stuck in the backing filesystem. The mount goes and
/// all requests are answered (ECONNABORTED); the process stays as long as the kernel does not let
/// it go, for an NFS server that is down until it is back or the NFS mount was unmounted by force.
void Session::leave_behind() noexcept {
  std::string files;
  for (const std::string& name : lock_ops_.overdue_files()) files += " " + name;
  spdlog::error("{}: a request is stuck in the backing filesystem; leaving it behind{}{}",
                options_.mountpoint_path,
                files.empty() ? "" : "; without an answer for locks of:", files);
  if (mounted_.exchange(false)) unmount();
  std::_Exit(1);
}

void Session::reload_options() noexcept {
  try {
    reload(options_, header_.program);
  } catch (const std::exception& error) {
    spdlog::error("{}: cannot reload: {}", options_.mountpoint_path, error.what());
  }
}

int Session::serve() {
  const sigset_t signals = serve_signals();
  int signal = -1;
  while (signal < 0 || signal == SIGHUP) {
    signal = sigwaitinfo(&signals, nullptr);
    if (signal == SIGHUP) reload_options();
  }
  header_.phase = BookHeader::kEnding;
  if (!loop_->ended()) {
    spdlog::info("{}: unmounting {}", strsignal(signal), options_.mountpoint_path);
  }
  end_watch_ = std::make_unique<EndWatch>(kEndPatience, [this] { leave_behind(); });
  source_mounts_.reset();
  control_->stop();
  lock_ops_.shut_down();
  if (!loop_->stop(kStopPatience)) leave_behind();
  lock_ops_.shut_down();  // what was parked while the loop stopped
  spdlog::info("{} ended", options_.mountpoint_path);
  return 0;
}

/// For the log: what became of the daemon before, and how long nobody served.
void tell_of_end(const Options& options, BookHeader& header) {
  const double gap_ms = static_cast<double>(header.gap.load()) / 1e6;
  const unsigned generation = header.generation.load();
  const int upgrading = header.upgrading.exchange(0);
  if (upgrading > 0) {
    spdlog::info("{}: lockfs {} has taken over; generation {} goes on after {:.1f} ms",
                 options.mountpoint_path, LOCKFS_VERSION, generation, gap_ms);
  } else if (upgrading < 0) {
    spdlog::error("{}: cannot run {}: {}; generation {} of the old program goes on after {:.1f} ms",
                  options.mountpoint_path, header.program,
                  upgrading == -ECANCELED ? "it has ended at once" : std::strerror(-upgrading),
                  generation, gap_ms);
  } else {
    spdlog::error("{}: the daemon was {}; generation {} goes on after {:.1f} ms",
                  options.mountpoint_path, describe_death(header.death), generation, gap_ms);
  }
}

/// Where another daemon has died. What it does not come to terms with is left in the book as it is,
/// for the next to try: a session that is not ready is not destroyed.
int go_on(Options& options, Book& book,
          const std::function<void(const std::string& error)>& on_ready) noexcept {
  auto& header = book.header<BookHeader>();
  if (const std::string damage = damage_in(book); !damage.empty()) {
    spdlog::critical("{}: a new daemon cannot go on: {}; unmounting", options.mountpoint_path,
                     damage);
    header.phase = BookHeader::kEnding;
    end_mount(options, header.fuse_fd);
    std::_Exit(1);
  }
  // Before anybody can ask.
  if (header.upgrading > 0) header.program_since = header.generation.load();
  std::string error;
  Session* session = nullptr;
  try {
    sweep_descriptors(book);
    death_point("recovery.swept");
    load_settings(header, options);
    session = new Session(options, book, true);
    error = session->mount();
    if (error.empty()) error = session->start();
  } catch (const std::exception& thrown) {
    error = thrown.what();
  }
  if (!error.empty()) {
    spdlog::critical("{}: a new daemon cannot go on: {}", options.mountpoint_path, error);
    std::_Exit(1);
  }
  const std::unique_ptr<Session> mount(session);
  tell_of_end(options, header);
  if (header.reported == 0) on_ready({});
  header.reported = 1;
  return mount->serve();
}

}  // namespace

int run_session(const Options& wanted, Book& book,
                const std::function<void(const std::string& error)>& on_ready) {
  // Blocked in every thread that follows; serve() waits for them.
  const sigset_t signals = serve_signals();
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  install_kick_handler();
  auto& header = book.header<BookHeader>();
  const bool again = header.phase == BookHeader::kServing;
  Options options = wanted;
  if (again) return go_on(options, book, on_ready);
  try {
    Session mount(options, book, false);
    std::string error = mount.mount();
    if (error.empty()) error = mount.start();
    if (!error.empty()) {
      header.phase = BookHeader::kStarting;
      on_ready(error);
      return 1;
    }
    spdlog::info("{} mounted on {}, policy {}", options.source_path, options.mountpoint_path,
                 options.policy.text());
    on_ready({});
    header.reported = 1;
    return mount.serve();
  } catch (const std::system_error& error) {
    header.phase = BookHeader::kStarting;
    on_ready(error.what());
    return 1;
  }
}

}  // namespace lockfs
