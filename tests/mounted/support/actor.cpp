#include "tests/mounted/support/actor.h"

#include <grp.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <utility>

#include "tests/mounted/support/mounted.h"

namespace lockfs::test {

using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;

namespace {

enum class Op : std::int32_t {
  kHello,
  kOpen,
  kClose,
  kDup,
  kDup2,
  kUnlink,
  kRename,
  kLink,
  kWrite,
  kRead,
  kStat,
  kTruncate,
  kSeek,
  kFlock,
  kFcntl,
  kHandleSignal,
  kWaitFor,
  kBecome,
  kSendFd,
  kReceiveFd,
  kExit,
  kThread,
  kFork,
  kExec,
  kAdopt,
};

constexpr std::size_t kMaxText = 16384;

}  // namespace

struct ActorRequest {
  Op op = Op::kHello;
  std::int32_t fd = -1;
  std::int64_t a = 0;
  std::int64_t b = 0;
  struct flock lock {};
  std::uint32_t text_size = 0;
};

struct ActorReply {
  std::int64_t value = 0;  ///< >= 0, or -errno
  std::int32_t tid = 0;
  struct flock lock {};
  struct stat info {};
  std::uint32_t text_size = 0;
  std::string text;
};

namespace {

constexpr std::size_t kReplyHeader = offsetof(ActorReply, text);

std::int64_t outcome(std::int64_t value) { return value < 0 ? -errno : value; }

/// One message, with a descriptor when `fd` >= 0.
bool send_message(int socket, const void* header, std::size_t header_size, const std::string& text,
                  int fd) {
  iovec parts[2] = {{const_cast<void*>(header), header_size},
                    {const_cast<char*>(text.data()), text.size()}};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = parts;
  message.msg_iovlen = text.empty() ? 1 : 2;
  if (fd >= 0) {
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    cmsghdr* rights = CMSG_FIRSTHDR(&message);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(rights), &fd, sizeof fd);
  }
  for (;;) {
    if (::sendmsg(socket, &message, MSG_NOSIGNAL) >= 0) return true;
    if (errno != EINTR) return false;
  }
}

/// Size of the message, 0 at the end, -1 on error. `fd` gets a passed descriptor or -1.
ssize_t receive_message(int socket, void* header, std::size_t header_size, char* text,
                        std::size_t text_size, int* fd) {
  iovec parts[2] = {{header, header_size}, {text, text_size}};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = parts;
  message.msg_iovlen = 2;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  ssize_t got = -1;
  do {
    got = ::recvmsg(socket, &message, 0);
  } while (got < 0 && errno == EINTR);
  *fd = -1;
  if (got >= 0) {
    const cmsghdr* rights = CMSG_FIRSTHDR(&message);
    if (rights != nullptr && rights->cmsg_type == SCM_RIGHTS) {
      std::memcpy(fd, CMSG_DATA(rights), sizeof *fd);
    }
  }
  return got;
}

void serve(int socket);

std::int64_t become_again(int socket) {
  // The socket must survive; everything the test opened with O_CLOEXEC must not.
  ::fcntl(socket, F_SETFD, 0);
  const std::string number = std::to_string(socket);
  ::execl("/proc/self/exe", "actor", "--serve-actor", number.c_str(), nullptr);
  return -errno;
}

void execute(int socket, const ActorRequest& request, std::string& text, int passed,
             ActorReply& reply) {
  const int fd = request.fd;
  const std::size_t split = text.find('\0');
  const char* first = text.c_str();
  const char* second = split == std::string::npos ? "" : first + split + 1;
  switch (request.op) {
    case Op::kHello:
      break;
    case Op::kOpen:
      reply.value =
          outcome(::open(first, static_cast<int>(request.a), static_cast<mode_t>(request.b)));
      break;
    case Op::kClose:
      reply.value = outcome(::close(fd));
      break;
    case Op::kDup:
      reply.value = outcome(::dup(fd));
      break;
    case Op::kDup2:
      reply.value = outcome(::dup2(fd, static_cast<int>(request.a)));
      break;
    case Op::kUnlink:
      reply.value = outcome(::unlink(first));
      break;
    case Op::kRename:
      reply.value = outcome(::rename(first, second));
      break;
    case Op::kLink:
      reply.value = outcome(::link(first, second));
      break;
    case Op::kWrite:
      reply.value = outcome(::pwrite(fd, text.data(), text.size(), request.a));
      break;
    case Op::kRead: {
      reply.text.resize(std::min(kMaxText, static_cast<std::size_t>(request.b)));
      reply.value = outcome(::pread(fd, reply.text.data(), reply.text.size(), request.a));
      reply.text.resize(reply.value > 0 ? static_cast<std::size_t>(reply.value) : 0);
      break;
    }
    case Op::kStat:
      reply.value = outcome(::fstat(fd, &reply.info));
      break;
    case Op::kTruncate:
      reply.value = outcome(::ftruncate(fd, request.a));
      break;
    case Op::kSeek:
      reply.value = outcome(::lseek(fd, request.a, SEEK_SET));
      break;
    case Op::kFlock:
      reply.value = outcome(::flock(fd, static_cast<int>(request.a)));
      break;
    case Op::kFcntl:
      reply.lock = request.lock;
      reply.value = outcome(::fcntl(fd, static_cast<int>(request.a), &reply.lock));
      break;
    case Op::kHandleSignal: {
      struct sigaction action {};
      action.sa_handler = [](int) {};
      action.sa_flags = request.b != 0 ? SA_RESTART : 0;
      reply.value = outcome(::sigaction(static_cast<int>(request.a), &action, nullptr));
      break;
    }
    case Op::kWaitFor: {
      int status = 0;
      reply.value = outcome(::waitpid(static_cast<pid_t>(request.a), &status, 0));
      if (reply.value > 0) {
        reply.value = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
      }
      break;
    }
    case Op::kBecome:
      reply.value = outcome(::setgroups(0, nullptr));
      if (reply.value == 0) reply.value = outcome(::setgid(static_cast<gid_t>(request.b)));
      if (reply.value == 0) reply.value = outcome(::setuid(static_cast<uid_t>(request.a)));
      break;
    case Op::kSendFd: {
      const char nothing = 0;
      reply.value = send_message(fd, &nothing, 1, "", static_cast<int>(request.a)) ? 0 : -errno;
      break;
    }
    case Op::kReceiveFd: {
      char nothing = 0;
      int got = -1;
      const ssize_t size = receive_message(fd, &nothing, 1, &nothing, 0, &got);
      reply.value = size < 0 ? -errno : got < 0 ? -ENODATA : got;
      break;
    }
    case Op::kExit:
      ::_exit(static_cast<int>(request.a));
    case Op::kThread:
      std::thread(serve, passed).detach();
      break;
    case Op::kFork: {
      const pid_t child = ::fork();
      if (child == 0) {
        ::close(socket);
        ::prctl(PR_SET_PDEATHSIG, 0);
        serve(passed);
        ::_exit(0);
      }
      ::close(passed);
      reply.value = outcome(child);
      break;
    }
    case Op::kExec:
      reply.value = become_again(socket);
      break;
    case Op::kAdopt:
      reply.value = passed;
      break;
  }
}

/// Executes commands until the other end is closed.
void serve(int socket) {
  const auto text_buffer = std::make_unique<char[]>(kMaxText);
  for (;;) {
    ActorRequest request;
    int passed = -1;
    const ssize_t got =
        receive_message(socket, &request, sizeof request, text_buffer.get(), kMaxText, &passed);
    // The test is over (or died): nothing of this process may stay.
    if (got < static_cast<ssize_t>(sizeof request)) ::_exit(0);
    std::string text(text_buffer.get(), request.text_size);
    ActorReply reply;
    execute(socket, request, text, passed, reply);
    reply.tid = static_cast<std::int32_t>(::syscall(SYS_gettid));
    reply.text_size = static_cast<std::uint32_t>(reply.text.size());
    if (!send_message(socket, &reply, kReplyHeader, reply.text, -1)) ::_exit(0);
  }
}

std::pair<UniqueFd, UniqueFd> socket_pair() {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) {
    std::perror("socketpair");
    std::abort();
  }
  return {UniqueFd(ends[0]), UniqueFd(ends[1])};
}

struct flock flock_of(short type, Range range) {
  struct flock lock {};
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  lock.l_start = range.start;
  lock.l_len = range.length;
  return lock;
}

short type_of(Mode mode) { return mode == Mode::kShared ? F_RDLCK : F_WRLCK; }

ActorRequest lock_request(int fd, Kind kind, short type, Range range, bool wait) {
  ActorRequest request;
  request.fd = fd;
  if (kind == Kind::kFlock) {
    request.op = Op::kFlock;
    request.a = type == F_UNLCK ? LOCK_UN : type == F_RDLCK ? LOCK_SH : LOCK_EX;
    if (!wait) request.a |= LOCK_NB;
    return request;
  }
  request.op = Op::kFcntl;
  request.lock = flock_of(type, range);
  if (kind == Kind::kPosix) {
    request.a = wait ? F_SETLKW : F_SETLK;
  } else {
    request.a = wait ? F_OFD_SETLKW : F_OFD_SETLK;
  }
  return request;
}

int to_errno(std::int64_t value) { return value < 0 ? static_cast<int>(-value) : 0; }

/// True when the thread sleeps in flock() or fcntl().
bool sleeps_in_lock_call(pid_t pid, pid_t tid) {
  const std::string text =
      read_file("/proc/" + std::to_string(pid) + "/task/" + std::to_string(tid) + "/syscall");
  // "running" when it runs or is about to.
  char* end = nullptr;
  const long number = std::strtol(text.c_str(), &end, 10);
  return end != text.c_str() && (number == SYS_fcntl || number == SYS_flock);
}

}  // namespace

const char* name_of(Kind kind) {
  switch (kind) {
    case Kind::kFlock:
      return "Flock";
    case Kind::kPosix:
      return "Posix";
    case Kind::kOfd:
      return "Ofd";
  }
  return "?";
}

const char* name_of(Mode mode) { return mode == Mode::kShared ? "Shared" : "Exclusive"; }

std::ostream& operator<<(std::ostream& out, Kind kind) { return out << name_of(kind); }
std::ostream& operator<<(std::ostream& out, Mode mode) { return out << name_of(mode); }
std::ostream& operator<<(std::ostream& out, const Range& range) {
  return out << range.start << "+" << range.length;
}
std::ostream& operator<<(std::ostream& out, const QueryResult& result) {
  if (result.error != 0) return out << "errno " << result.error;
  if (result.free) return out << "free";
  return out << result.mode << " " << result.range << " pid " << result.pid;
}

Lane::Lane(UniqueFd socket, pid_t pid, pid_t tid)
    : socket_(std::move(socket)), pid_(pid), tid_(tid) {}

void Lane::send(ActorRequest& request, const std::string& text, int pass_fd) {
  request.text_size = static_cast<std::uint32_t>(text.size());
  if (!send_message(socket_.get(), &request, sizeof request, text, pass_fd)) {
    ADD_FAILURE() << "actor " << pid_ << " is gone: " << std::strerror(errno);
  }
}

bool Lane::receive(ActorReply& reply, milliseconds limit) {
  if (!wait_readable(socket_.get(), limit)) return false;
  const auto text = std::make_unique<char[]>(kMaxText);
  int passed = -1;
  const ssize_t got =
      receive_message(socket_.get(), &reply, kReplyHeader, text.get(), kMaxText, &passed);
  if (got < static_cast<ssize_t>(kReplyHeader)) {
    reply.value = -ESRCH;
    return true;
  }
  reply.text.assign(text.get(), reply.text_size);
  tid_ = reply.tid;
  return true;
}

ActorReply Lane::call(ActorRequest& request, const std::string& text) {
  return call(request, text, -1);
}

ActorReply Lane::call(ActorRequest& request, const std::string& text, int pass_fd) {
  ActorReply reply;
  if (pending_) {
    ADD_FAILURE() << "actor " << pid_ << " is still busy with a blocking request";
    reply.value = -EBUSY;
    return reply;
  }
  send(request, text, pass_fd);
  if (!receive(reply, deadline())) {
    ADD_FAILURE() << "actor " << pid_ << " gave no answer in time, operation "
                  << static_cast<int>(request.op);
    reply.value = -ETIMEDOUT;
  }
  return reply;
}

int Lane::open(const std::string& path, int flags, mode_t mode) {
  ActorRequest request;
  request.op = Op::kOpen;
  request.a = flags;
  request.b = mode;
  return static_cast<int>(call(request, path).value);
}

int Lane::close(int fd) {
  ActorRequest request;
  request.op = Op::kClose;
  request.fd = fd;
  return static_cast<int>(call(request).value);
}

int Lane::dup(int fd) {
  ActorRequest request;
  request.op = Op::kDup;
  request.fd = fd;
  return static_cast<int>(call(request).value);
}

int Lane::dup2(int fd, int to) {
  ActorRequest request;
  request.op = Op::kDup2;
  request.fd = fd;
  request.a = to;
  return static_cast<int>(call(request).value);
}

int Lane::unlink(const std::string& path) {
  ActorRequest request;
  request.op = Op::kUnlink;
  return static_cast<int>(call(request, path).value);
}

int Lane::rename(const std::string& from, const std::string& to) {
  ActorRequest request;
  request.op = Op::kRename;
  return static_cast<int>(call(request, from + '\0' + to).value);
}

int Lane::link(const std::string& from, const std::string& to) {
  ActorRequest request;
  request.op = Op::kLink;
  return static_cast<int>(call(request, from + '\0' + to).value);
}

std::int64_t Lane::write(int fd, const std::string& text, std::int64_t offset) {
  ActorRequest request;
  request.op = Op::kWrite;
  request.fd = fd;
  request.a = offset;
  return call(request, text).value;
}

std::string Lane::read(int fd, std::size_t size, std::int64_t offset) {
  ActorRequest request;
  request.op = Op::kRead;
  request.fd = fd;
  request.a = offset;
  request.b = static_cast<std::int64_t>(size);
  const ActorReply reply = call(request);
  if (reply.value < 0) return std::string("error: ") + std::strerror(to_errno(reply.value));
  return reply.text;
}

struct stat Lane::fstat(int fd) {
  ActorRequest request;
  request.op = Op::kStat;
  request.fd = fd;
  return call(request).info;
}

int Lane::truncate(int fd, std::int64_t size) {
  ActorRequest request;
  request.op = Op::kTruncate;
  request.fd = fd;
  request.a = size;
  return static_cast<int>(call(request).value);
}

int Lane::seek(int fd, std::int64_t offset) {
  ActorRequest request;
  request.op = Op::kSeek;
  request.fd = fd;
  request.a = offset;
  return to_errno(call(request).value);
}

int Lane::try_lock(int fd, Kind kind, Mode mode, Range range) {
  ActorRequest request = lock_request(fd, kind, type_of(mode), range, false);
  return to_errno(call(request).value);
}

int Lane::unlock(int fd, Kind kind, Range range) {
  ActorRequest request = lock_request(fd, kind, F_UNLCK, range, false);
  return to_errno(call(request).value);
}

QueryResult Lane::query(int fd, Kind kind, Mode mode, Range range) {
  ActorRequest request;
  request.op = Op::kFcntl;
  request.fd = fd;
  request.a = kind == Kind::kOfd ? F_OFD_GETLK : F_GETLK;
  request.lock = flock_of(type_of(mode), range);
  const ActorReply reply = call(request);
  QueryResult result;
  result.error = to_errno(reply.value);
  result.free = reply.lock.l_type == F_UNLCK;
  result.mode = reply.lock.l_type == F_WRLCK ? Mode::kExclusive : Mode::kShared;
  result.range = {reply.lock.l_start, reply.lock.l_len};
  result.pid = reply.lock.l_pid;
  return result;
}

int Lane::lock(int fd, Kind kind, Mode mode, Range range) {
  start_lock(fd, kind, mode, range);
  return result();
}

int Lane::fcntl_lock(int fd, int command, struct flock lock) {
  ActorRequest request;
  request.op = Op::kFcntl;
  request.fd = fd;
  request.a = command;
  request.lock = lock;
  return to_errno(call(request).value);
}

void Lane::start_lock(int fd, Kind kind, Mode mode, Range range) {
  if (pending_) {
    ADD_FAILURE() << "actor " << pid_ << " is still busy with a blocking request";
    return;
  }
  ActorRequest request = lock_request(fd, kind, type_of(mode), range, true);
  send(request);
  pending_ = true;
  pending_fd_ = fd;
}

bool Lane::has_result() { return wait_readable(socket_.get(), milliseconds(0)); }

::testing::AssertionResult Lane::waits() {
  if (!pending_) return ::testing::AssertionFailure() << "no request was started";
  const auto end = Clock::now() + deadline();
  while (Clock::now() < end) {
    if (sleeps_in_lock_call(pid_, tid_)) {
      // Through FUSE a request that will be answered at once sleeps too, but it is queued. The
      // daemon handles those of one file in order, so after one more round trip an answered caller
      // has been woken and no longer counts as sleeping.
      settle_file_of(pid_, pending_fd_);
      if (sleeps_in_lock_call(pid_, tid_) && !has_result()) {
        return ::testing::AssertionSuccess();
      }
    }
    if (wait_readable(socket_.get(), milliseconds(1))) {
      return ::testing::AssertionFailure() << "the request did not block";
    }
  }
  return ::testing::AssertionFailure() << "the request neither blocked nor returned";
}

int Lane::result() {
  if (!pending_) {
    ADD_FAILURE() << "actor " << pid_ << " was given no blocking request";
    return EINVAL;
  }
  ActorReply reply;
  if (!receive(reply, deadline())) {
    ADD_FAILURE() << "actor " << pid_ << " got no result for its blocking request in time";
    return ETIMEDOUT;
  }
  pending_ = false;
  return to_errno(reply.value);
}

int Lane::handle_signal(int signal, bool restart) {
  ActorRequest request;
  request.op = Op::kHandleSignal;
  request.a = signal;
  request.b = restart ? 1 : 0;
  return to_errno(call(request).value);
}

int Lane::interrupt(int signal) const {
  return ::syscall(SYS_tgkill, pid_, tid_, signal) == 0 ? 0 : errno;
}

int Lane::wait_for(pid_t child) {
  ActorRequest request;
  request.op = Op::kWaitFor;
  request.a = child;
  return static_cast<int>(call(request).value);
}

int Lane::become(uid_t uid, gid_t gid) {
  ActorRequest request;
  request.op = Op::kBecome;
  request.a = uid;
  request.b = gid;
  return to_errno(call(request).value);
}

int Lane::send_fd(int socket, int fd) {
  ActorRequest request;
  request.op = Op::kSendFd;
  request.fd = socket;
  request.a = fd;
  return static_cast<int>(call(request).value);
}

int Lane::receive_fd(int socket) {
  ActorRequest request;
  request.op = Op::kReceiveFd;
  request.fd = socket;
  return static_cast<int>(call(request).value);
}

void Lane::start_exit(int status) {
  ActorRequest request;
  request.op = Op::kExit;
  request.a = status;
  send(request);
}

Actor::Actor() {
  auto [mine, theirs] = socket_pair();
  std::fflush(nullptr);
  pid_ = ::fork();
  if (pid_ < 0) {
    std::perror("fork");
    std::abort();
  }
  if (pid_ == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    // Descriptors of the test program, above all its ends of other actors' sockets, must not live
    // on here.
    int socket = 3;
    if (theirs.get() != socket) {
      ::dup2(theirs.release(), socket);
    } else {
      theirs.release();
    }
    ::close_range(4, ~0U, 0);
    ::fcntl(socket, F_SETFD, FD_CLOEXEC);
    serve_actor(socket);
  }
  socket_ = std::move(mine);
  tid_ = pid_;
  pidfd_.reset(open_pidfd(pid_));
}

Actor::Actor(UniqueFd socket, pid_t pid)
    : Lane(std::move(socket), pid, pid), pidfd_(open_pidfd(pid)), own_child_(false) {}

Actor::~Actor() {
  if (pid_ <= 0 || !pidfd_.valid() || gone_) return;
  kill(SIGKILL);
  if (wait() == -1) ADD_FAILURE() << "process " << pid_ << " cannot be killed";
}

Lane Actor::thread() {
  auto [mine, theirs] = socket_pair();
  ActorRequest request;
  request.op = Op::kThread;
  call(request, "", theirs.get());
  struct MakeLane : Lane {
    MakeLane(UniqueFd socket, pid_t pid) : Lane(std::move(socket), pid, -1) {}
    void greet() {
      ActorRequest hello;
      call(hello);  // its reply carries the thread id
    }
  };
  MakeLane lane(std::move(mine), pid_);
  lane.greet();
  return lane;
}

Actor Actor::fork() {
  auto [mine, theirs] = socket_pair();
  ActorRequest request;
  request.op = Op::kFork;
  const ActorReply reply = call(request, "", theirs.get());
  if (reply.value <= 0) ADD_FAILURE() << "fork failed in actor " << pid_;
  return {std::move(mine), static_cast<pid_t>(reply.value)};
}

int Actor::exec() {
  ActorRequest request;
  request.op = Op::kExec;
  send(request);
  // Success has no reply of its own; the new program answers the next command.
  ActorRequest hello;
  send(hello);
  ActorReply reply;
  if (!receive(reply, deadline())) return -ETIMEDOUT;
  if (reply.value < 0) {
    ActorReply second;
    receive(second, deadline());
  }
  return static_cast<int>(reply.value);
}

void Actor::kill(int signal) const {
  if (!gone_) ::kill(pid_, signal);
}

int Actor::wait() {
  if (gone_) return 0;
  int status = 0;
  if (own_child_) {
    status = reap(pid_, pidfd_.get(), deadline());
    if (status == -1) return -1;
  } else if (!wait_readable(pidfd_.get(), deadline())) {
    return -1;
  }
  gone_ = true;
  return status;
}

int Actor::exit(int status) {
  start_exit(status);
  return wait();
}

int Actor::adopt(int fd) {
  ActorRequest request;
  request.op = Op::kAdopt;
  return static_cast<int>(call(request, "", fd).value);
}

std::pair<int, int> Actor::connect(Actor& one, Actor& other) {
  auto [left, right] = socket_pair();
  return {one.adopt(left.get()), other.adopt(right.get())};
}

void serve_actor(int socket) {
  serve(socket);
  ::_exit(0);
}

}  // namespace lockfs::test
