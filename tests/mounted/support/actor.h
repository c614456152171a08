/// Processes and threads that take locks on command.
///
/// An Actor is a child process, a Lane one thread of it; both understand the same commands, one at
/// a time. Every call runs its system call in the child, in the named thread, and returns its
/// outcome: a value >= 0, or -errno. Locks are asked for with
///
///     Actor a;
///     int fd = a.open(path, O_RDWR);
///     EXPECT_EQ(a.try_lock(fd, Kind::kFlock, Mode::kExclusive), 0);
///
/// Lock calls return 0 or the errno as a positive number. A blocking request is started with
/// start_lock(); then waits() says whether it is blocked, and result() gives its outcome.
///
/// Thread safety: none; driven by the one thread of the test program.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <ostream>
#include <string>

#include "tests/mounted/support/process.h"

namespace lockfs::test {

/// Which call asks for the lock.
enum class Kind { kFlock, kPosix, kOfd };
enum class Mode { kShared, kExclusive };

const char* name_of(Kind kind);
const char* name_of(Mode mode);
std::ostream& operator<<(std::ostream& out, Kind kind);
std::ostream& operator<<(std::ostream& out, Mode mode);

/// Bytes start .. start + length - 1; length 0 means up to the end of all files.
struct Range {
  std::int64_t start = 0;
  std::int64_t length = 0;
};
inline constexpr Range kWholeFile{};
std::ostream& operator<<(std::ostream& out, const Range& range);

/// What F_GETLK or F_OFD_GETLK said.
struct QueryResult {
  int error = 0;      ///< errno, or 0
  bool free = false;  ///< F_UNLCK: the lock could be taken
  Mode mode = Mode::kShared;
  Range range;
  pid_t pid = 0;
};
std::ostream& operator<<(std::ostream& out, const QueryResult& result);

/// Fixed size header of a command; a text may follow.
struct ActorRequest;
struct ActorReply;

/// One thread that executes commands.
class Lane {
 public:
  Lane(Lane&&) = default;
  Lane& operator=(Lane&&) = default;
  Lane(const Lane&) = delete;
  Lane& operator=(const Lane&) = delete;
  virtual ~Lane() = default;

  [[nodiscard]] pid_t pid() const { return pid_; }
  [[nodiscard]] pid_t tid() const { return tid_; }

  // -- files: descriptor or 0, or -errno -------------------------------------------------------
  /// Opens with exactly these flags: without O_CLOEXEC the descriptor survives exec().
  int open(const std::string& path, int flags, mode_t mode = 0644);
  int close(int fd);
  int dup(int fd);
  int dup2(int fd, int to);
  int unlink(const std::string& path);
  int rename(const std::string& from, const std::string& to);
  int link(const std::string& from, const std::string& to);
  std::int64_t write(int fd, const std::string& text, std::int64_t offset);
  /// What pread() gave; "error: ..." on failure.
  std::string read(int fd, std::size_t size, std::int64_t offset);
  /// fstat(); st_nlink is 0 and st_ino 0 on failure.
  struct stat fstat(int fd);
  int truncate(int fd, std::int64_t size);
  int seek(int fd, std::int64_t offset);

  // -- locks: 0 or errno -----------------------------------------------------------------------
  int try_lock(int fd, Kind kind, Mode mode, Range range = kWholeFile);
  int unlock(int fd, Kind kind, Range range = kWholeFile);
  /// kind: kPosix (F_GETLK) or kOfd (F_OFD_GETLK).
  QueryResult query(int fd, Kind kind, Mode mode, Range range = kWholeFile);
  /// Blocking request; returns when it is over.
  int lock(int fd, Kind kind, Mode mode, Range range = kWholeFile);
  /// fcntl() with a ready struct flock, for odd ranges and whences. Returns 0 or errno.
  int fcntl_lock(int fd, int command, struct flock request);

  /// Sends a blocking request and returns at once.
  void start_lock(int fd, Kind kind, Mode mode, Range range = kWholeFile);
  /// Success when the started request is blocked: the thread sleeps in its system call, still does
  /// so after another lock request for the same file has gone through and come back.
  /// Failure when it got its result instead (which is kept for result()).
  ::testing::AssertionResult waits();
  /// Outcome of the started request: 0 or errno; ETIMEDOUT when the deadline passed.
  int result();
  /// True when the started request has its result already.
  bool has_result();

  // -- the process -----------------------------------------------------------------------------
  /// Installs a handler that does nothing, without SA_RESTART unless asked.
  int handle_signal(int signal, bool restart = false);
  /// Sends a signal to this very thread.
  int interrupt(int signal) const;
  /// waitpid() for a child of this actor: exit status or 128 + signal, or -errno.
  int wait_for(pid_t child);
  /// Sends descriptor `fd` through socket `socket` (SCM_RIGHTS).
  int send_fd(int socket, int fd);
  /// Takes a descriptor from socket `socket`.
  int receive_fd(int socket);
  /// Gives up root for this user and group, without other groups. Returns 0 or errno.
  int become(uid_t uid, gid_t gid);
  /// Tells the actor to leave through _exit(status); returns at once.
  void start_exit(int status);

 protected:
  Lane(UniqueFd socket, pid_t pid, pid_t tid);
  Lane() = default;

  ActorReply call(ActorRequest& request, const std::string& text = "");
  ActorReply call(ActorRequest& request, const std::string& text, int pass_fd);
  void send(ActorRequest& request, const std::string& text = "", int pass_fd = -1);
  bool receive(ActorReply& reply, std::chrono::milliseconds limit);

  UniqueFd socket_;
  pid_t pid_ = -1;
  pid_t tid_ = -1;
  bool pending_ = false;
  int pending_fd_ = -1;
};

/// A child process and its first thread. The destructor kills it and waits for its end.
class Actor : public Lane {
 public:
  /// Forks off the test program; only standard input and output stay open.
  Actor();
  Actor(Actor&&) = default;
  Actor& operator=(Actor&&) = delete;
  ~Actor() override;

  /// A further thread of this process.
  Lane thread();
  /// fork(): a child of this process that shares its open files.
  Actor fork();
  /// execve() of the test program: descriptors without O_CLOEXEC survive and keep their numbers,
  /// the process id stays.
  int exec();

  void kill(int signal) const;
  /// Waits until the process is gone (its descriptors closed). Exit status, 128 + signal, -1 when
  /// the deadline passed; always 0 for one made by fork(), which only its parent can ask.
  int wait();
  /// start_exit() and wait().
  int exit(int status = 0);

  /// Gives both actors one end of a new socket pair, for send_fd() and receive_fd().
  static std::pair<int, int> connect(Actor& one, Actor& other);

 private:
  Actor(UniqueFd socket, pid_t pid);
  int adopt(int fd);

  UniqueFd pidfd_;
  bool own_child_ = true;
  bool gone_ = false;
};

/// Loop of an actor: executes commands from `socket` until it is closed. Never returns.
[[noreturn]] void serve_actor(int socket);

}  // namespace lockfs::test
