#include "fs/base/kick.h"

#include <pthread.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>

namespace lockfs {

namespace {

constexpr int kSignal = SIGUSR2;
constexpr short kInvalidType = 0x7f;

/// The request that this thread is about to wait with. Only this thread and its handler look.
thread_local std::atomic<struct flock*> kickable{nullptr};
static_assert(std::atomic<struct flock*>::is_always_lock_free);

/// The descriptor that this thread is about to wait with, or -1.
thread_local std::atomic<int> kickable_fd{-1};
static_assert(std::atomic<int>::is_always_lock_free);

/// What a kick puts in its place.
int useless_fd = -1;

void on_kick(int) {
  if (const int fd = kickable_fd.load(std::memory_order_relaxed); fd >= 0) {
    const int error = errno;
    dup3(useless_fd, fd, O_CLOEXEC);
    errno = error;
  }
  if (struct flock* request = kickable.load(std::memory_order_relaxed)) {
    request->l_type = kInvalidType;
  }
}

}  // namespace

void install_kick_handler() {
  useless_fd = open("/", O_PATH | O_CLOEXEC);
  struct sigaction action {};
  action.sa_handler = on_kick;
  sigemptyset(&action.sa_mask);
  action.sa_flags = 0;  // without SA_RESTART: the call must return
  sigaction(kSignal, &action, nullptr);
}

void accept_only_kicks() {
  sigset_t mask;
  sigfillset(&mask);
  sigdelset(&mask, kSignal);
  pthread_sigmask(SIG_SETMASK, &mask, nullptr);
}

void kick(pid_t tid) { syscall(SYS_tgkill, getpid(), tid, kSignal); }

KickableDescriptor::KickableDescriptor(int fd)
    : fd_(useless_fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, 0)) {
  kickable_fd.store(fd_, std::memory_order_relaxed);
  std::atomic_signal_fence(std::memory_order_seq_cst);
}

KickableDescriptor::~KickableDescriptor() {
  std::atomic_signal_fence(std::memory_order_seq_cst);
  kickable_fd.store(-1, std::memory_order_relaxed);
  std::atomic_signal_fence(std::memory_order_seq_cst);
  if (fd_ >= 0) close(fd_);
}

KickableLock::KickableLock(struct flock* request) {
  kickable.store(request, std::memory_order_relaxed);
  std::atomic_signal_fence(std::memory_order_seq_cst);
}

KickableLock::~KickableLock() {
  std::atomic_signal_fence(std::memory_order_seq_cst);
  kickable.store(nullptr, std::memory_order_relaxed);
}

}  // namespace lockfs
