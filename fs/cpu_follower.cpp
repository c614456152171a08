#include "fs/cpu_follower.h"

#include <fcntl.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <optional>
#include <string_view>

#include "fs/unique_fd.h"

namespace lockfs {
namespace {

using namespace std::chrono_literals;

/// On one CPU a client that does nothing else asks every 4 us; beyond the second bound it has work
/// of its own, beside which a wake-up does not count.
constexpr auto kSlow = 15us;
constexpr auto kIdle = 500us;
/// Slow requests in a row before a look, and the time between two looks: a look and a move cost
/// some 30 us.
constexpr int kEnough = 8;
constexpr auto kPause = 5ms;

/// The CPU that a thread last ran on: field 39 of /proc/<tid>/stat.
std::optional<int> cpu_of(pid_t tid) noexcept {
  char path[32];
  std::snprintf(path, sizeof path, "/proc/%d/stat", tid);
  const UniqueFd file(::open(path, O_RDONLY | O_CLOEXEC));
  if (!file) return std::nullopt;
  std::array<char, 1024> text;
  const ssize_t got = ::read(file.get(), text.data(), text.size());
  if (got <= 0) return std::nullopt;
  std::string_view rest(text.data(), static_cast<std::size_t>(got));
  // The name, field 2, may hold anything; field 3 follows its closing parenthesis.
  rest.remove_prefix(std::min(rest.rfind(')'), rest.size()));
  for (int field = 2; field < 39; ++field) {
    const std::size_t space = rest.find(' ');
    if (space == std::string_view::npos) return std::nullopt;
    rest.remove_prefix(space + 1);
  }
  int cpu = 0;
  const auto [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), cpu);
  if (error != std::errc() || cpu < 0 || cpu >= CPU_SETSIZE) return std::nullopt;
  return cpu;
}

}  // namespace

void CpuFollower::note(pid_t caller) noexcept {
  if (caller == 0) return;  // the kernel itself
  const auto now = Clock::now();
  const auto since = now - last_;
  last_ = now;
  if (caller != caller_ || since < kSlow || since > kIdle) {
    caller_ = caller;
    slow_ = 0;
    return;
  }
  if (++slow_ < kEnough || now < again_) return;
  slow_ = 0;
  again_ = now + kPause;
  follow(caller);
}

void CpuFollower::follow(pid_t caller) noexcept {
  const std::optional<int> cpu = cpu_of(caller);
  if (!cpu || *cpu == ::sched_getcpu()) return;
  cpu_set_t allowed;
  if (::sched_getaffinity(0, sizeof allowed, &allowed) != 0 || !CPU_ISSET(*cpu, &allowed)) return;
  cpu_set_t there;
  CPU_ZERO(&there);
  CPU_SET(*cpu, &there);
  // Moves the thread at once; after that it may go where it likes.
  if (::sched_setaffinity(0, sizeof there, &there) == 0) {
    ::sched_setaffinity(0, sizeof allowed, &allowed);
  }
}

}  // namespace lockfs
