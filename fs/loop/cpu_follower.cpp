#include "fs/loop/cpu_follower.h"

#include <pthread.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <optional>
#include <system_error>
#include <thread>

#include "fs/base/clock.h"
#include "fs/base/process_look.h"

namespace lockfs {
namespace {

using namespace std::chrono_literals;

// The figures are of a virtual machine with two CPUs. On one CPU with the reader, a client that
// does nothing else asks again 4 to 18 us after its answer; on a CPU of its own, with each halting
// while the other works, 30 to 60 us after. An example with requests A, B, C ... of one client:
//
//   after the answer   is        so far                    what happens
//   A, 40 us           slow      1 slow in a row           nothing
//   B, 45 us           slow      2, kEnough                the client's CPU is looked up
//   C, 42 us           slow      the look has its answer   the reader moves there
//   D, 6 us            at once   counts kCertain = 2       nothing
//   E, F, G, 6 us      at once   8, kHelped                the look has helped: in_vain_ is 0
//   E, 40 us instead   slow      nothing has helped        looks go on; after kPatience of them in
//                                                          vain, with pauses that double

/// A request that comes later than this after the answer before was slow to come.
constexpr auto kSlow = 25us;
/// A request that comes later than this says nothing of CPUs: the client had work of its own.
constexpr auto kIdle = 500us;
/// How old the answer to a look may be. The request upon which the look was asked for may itself
/// take long, as a lock among many thousands on the backing does.
constexpr auto kStale = 5ms;
/// Slow requests in a row before a look.
constexpr int kEnough = 2;
/// Looks in a row, none of which has helped, before there are pauses between looks.
constexpr int kPatience = 4;
/// The first of these pauses; a look and a move cost some 30 us.
constexpr auto kLeastPause = 250us;
/// How often the pause doubles.
constexpr int kMostDoublings = 6;
/// What requests that came at once must count, in a row, to show that the last look has helped.
constexpr int kHelped = 8;
/// What such a request counts that did not take long itself; one that did counts 1.
constexpr int kCertain = 2;
/// How long none is bound after a bound thread did not get to run; doubles when that happens again
/// soon.
constexpr auto kLeastUnbound = 25ms;
constexpr auto kMostUnbound = 1600ms;
constexpr auto kSoon = 5s;

/// The CPUs that this process may use: those of its first thread, which answers no requests.
bool read_allowed(cpu_set_t& allowed) noexcept {
  return ::sched_getaffinity(::getpid(), sizeof allowed, &allowed) == 0;
}

bool set_policy(pid_t tid, int policy) noexcept {
  const sched_param none{};
  return ::sched_setscheduler(tid, policy, &none) == 0;
}

void free_thread(pid_t tid) noexcept {
  set_policy(tid, SCHED_OTHER);
  if (cpu_set_t allowed; read_allowed(allowed)) ::sched_setaffinity(tid, sizeof allowed, &allowed);
}

}  // namespace

bool CpuFollower::others_run() noexcept {
  // "0.00 0.01 0.05 1/123 4567": the fourth word is how many threads can run, of how many.
  ProcText text;
  return number_after(read_proc("/proc/loadavg", text), 3).value_or(2) > 1;
}

CpuFollower::CpuFollower(bool (*busy)() noexcept) : busy_(busy) {
  // To leave SCHED_IDLE again takes CAP_SYS_NICE, so a thread that does nothing else tries it.
  if (::sched_getscheduler(0) != SCHED_OTHER) return;
  try {
    std::thread([this] {
      may_bind_ = set_policy(0, SCHED_IDLE) && set_policy(0, SCHED_OTHER);
    }).join();
  } catch (const std::system_error&) {
    may_bind_ = false;
  }
}

bool CpuFollower::note(pid_t caller, Clock::time_point now) noexcept {
  if (caller == 0) return false;  // the kernel itself
  const auto since = now - last_;
  wants_end_ = now - read_ >= kSlow;
  read_ = last_ = now;
  if (caller != caller_ || since > kIdle) {
    set_free();
    caller_ = caller;
    slow_ = 0;
    quick_ = 0;
    return false;
  }
  if (since < kSlow) {
    // To wake another CPU may itself take so long that the client asks again meanwhile: that a
    // request which took long was followed at once says little.
    quick_ += wants_end_ ? 1 : kCertain;
    if (quick_ >= kHelped) in_vain_ = 0;
    if (!wants_end_ || quick_ >= kHelped) slow_ = 0;
    return false;
  }
  quick_ = 0;
  if (const std::optional<int> cpu = finder_.answer(caller); cpu && now - asked_ < kStale) {
    slow_ = 0;
    return follow(*cpu, may_bind_ && now.time_since_epoch().count() >= unbound_until_.load());
  }
  if (++slow_ < kEnough) return false;
  if (in_vain_ > kPatience) set_free();
  if (now < again_) return false;
  slow_ = 0;
  if (++in_vain_ > kPatience) {
    // One more try, until the next two slow ones.
    again_ = now + kLeastPause * (1 << std::min(in_vain_ - kPatience, kMostDoublings));
  }
  finder_.ask(caller);
  asked_ = now;
  return false;
}

bool CpuFollower::follow(int cpu, bool bind) noexcept {
  cpu_set_t allowed;
  if (!read_allowed(allowed) || !CPU_ISSET(cpu, &allowed)) return false;
  cpu_set_t there;
  CPU_ZERO(&there);
  CPU_SET(cpu, &there);
  // Moves the thread at once.
  if (::sched_setaffinity(0, sizeof there, &there) != 0) return false;
  if (bind && !busy_() && set_policy(0, SCHED_IDLE)) {
    keep_off(cpu, allowed);
    clockid_t clock = CLOCK_REALTIME;
    ::pthread_getcpuclockid(::pthread_self(), &clock);
    cpu_clock_.store(clock);
    bound_.store(::gettid());
    return true;
  }
  ::sched_setaffinity(0, sizeof allowed, &allowed);
  return false;
}

std::chrono::nanoseconds CpuFollower::cpu_time() const noexcept {
  return std::chrono::nanoseconds(nanoseconds_on(cpu_clock_.load()));
}

void CpuFollower::set_free() noexcept {
  if (bound_.load() == 0) return;
  if (const pid_t tid = bound_.exchange(0); tid != 0) free_thread(tid);
}

void CpuFollower::rescue(Clock::time_point now) noexcept {
  if (!binds()) return;
  const bool soon = now - rescued_ < kSoon;
  unbound_for_ = soon ? std::min<Clock::duration>(2 * unbound_for_, kMostUnbound) : kLeastUnbound;
  rescued_ = now;
  unbound_until_.store((now + unbound_for_).time_since_epoch().count());
  set_free();
}

void CpuFollower::keep_off(int cpu, cpu_set_t elsewhere) noexcept {
  const pid_t keeper = keeper_.load();
  if (keeper == 0 || cpu == kept_off_) return;
  CPU_CLR(cpu, &elsewhere);
  if (CPU_COUNT(&elsewhere) == 0) return;
  if (::sched_setaffinity(keeper, sizeof elsewhere, &elsewhere) == 0) kept_off_ = cpu;
}

void CpuFollower::look_after() noexcept { keeper_.store(::gettid()); }

void CpuFollower::rest() noexcept {
  if (kept_off_.exchange(-1) != -1) free_thread(0);
}

void CpuFollower::start_free() noexcept {
  if (::sched_getscheduler(0) == SCHED_IDLE) free_thread(0);
}

}  // namespace lockfs
