#include "fs/loop/cpu_finder.h"

#include <sched.h>

#include <condition_variable>
#include <cstdio>
#include <mutex>
#include <new>
#include <string_view>
#include <system_error>
#include <utility>

#include "fs/base/process_look.h"

namespace lockfs {
namespace {

/// Field 39 of /proc/<tid>/stat. May wait for as long as an exec of that process takes.
std::optional<int> read_cpu(pid_t tid) noexcept {
  char path[32];
  std::snprintf(path, sizeof path, "/proc/%d/stat", tid);
  ProcText text;
  std::string_view rest = read_proc(path, text);
  // The name, field 2, may hold anything; field 3 follows its closing parenthesis.
  const std::size_t name_end = rest.rfind(')');
  if (name_end == std::string_view::npos) return std::nullopt;
  rest.remove_prefix(name_end);
  const std::optional<long> cpu = number_after(rest, 39 - 2);
  if (!cpu || *cpu < 0 || *cpu >= CPU_SETSIZE) return std::nullopt;
  return static_cast<int>(*cpu);
}

}  // namespace

struct CpuFinder::Shared {
  std::mutex mutex;  ///< guards what follows
  std::condition_variable changed;
  pid_t asked = 0;  ///< whose CPU is to be found, or is being looked up; 0: nobody's
  pid_t found = 0;  ///< whose CPU the last look found, until that is told
  int cpu = 0;      ///< of `found`
  bool ended = false;
};

CpuFinder::~CpuFinder() {
  if (shared_ == nullptr) return;
  bool looks = false;
  {
    const std::lock_guard lock(shared_->mutex);
    shared_->ended = true;
    looks = shared_->asked != 0;
  }
  shared_->changed.notify_one();
  if (looks) {
    thread_.detach();
  } else {
    thread_.join();
  }
}

void CpuFinder::start() noexcept try {
  auto shared = std::make_shared<Shared>();
  thread_ = std::thread([shared] { work(shared); });
  shared_ = std::move(shared);
} catch (const std::bad_alloc&) {
} catch (const std::system_error&) {
}

void CpuFinder::work(const std::shared_ptr<Shared>& shared) noexcept {
  std::unique_lock lock(shared->mutex);
  while (true) {
    shared->changed.wait(lock, [&] { return shared->ended || shared->asked != 0; });
    if (shared->ended) return;
    const pid_t tid = shared->asked;
    lock.unlock();
    const std::optional<int> cpu = read_cpu(tid);
    lock.lock();
    shared->found = cpu ? tid : 0;
    shared->cpu = cpu.value_or(0);
    shared->asked = 0;
  }
}

void CpuFinder::ask(pid_t tid) noexcept {
  if (shared_ == nullptr) return;
  {
    const std::lock_guard lock(shared_->mutex);
    if (shared_->asked != 0) return;
    shared_->asked = tid;
  }
  shared_->changed.notify_one();
}

bool CpuFinder::busy() const noexcept {
  if (shared_ == nullptr) return false;
  const std::lock_guard lock(shared_->mutex);
  return shared_->asked != 0;
}

std::optional<int> CpuFinder::answer(pid_t tid) noexcept {
  if (shared_ == nullptr) return std::nullopt;
  const std::lock_guard lock(shared_->mutex);
  if (shared_->asked != 0 || shared_->found != tid) return std::nullopt;
  shared_->found = 0;
  return shared_->cpu;
}

}  // namespace lockfs
