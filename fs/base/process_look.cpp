#include "fs/base/process_look.h"

#include <dirent.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <system_error>

#include "fs/base/unique_fd.h"

namespace lockfs {

std::string_view read_proc(const char* path, ProcText& text) noexcept {
  const UniqueFd file(::open(path, O_RDONLY | O_CLOEXEC));
  const ssize_t got = file ? ::read(file.get(), text.data(), text.size()) : 0;
  return {text.data(), static_cast<std::size_t>(std::max<ssize_t>(got, 0))};
}

std::optional<long> number_after(std::string_view text, int blanks) noexcept {
  for (; blanks > 0; --blanks) {
    const std::size_t blank = text.find(' ');
    if (blank == std::string_view::npos) return std::nullopt;
    text.remove_prefix(blank + 1);
  }
  long number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  return error == std::errc() ? std::optional(number) : std::nullopt;
}

bool is_called(pid_t pid, std::string_view name) noexcept {
  char path[32];
  std::snprintf(path, sizeof path, "/proc/%d/comm", pid);
  ProcText text;
  std::string_view comm = read_proc(path, text);
  if (!comm.empty()) comm.remove_suffix(1);
  return comm == name;
}

bool has_no_memory(pid_t tid) noexcept {
  char path[32];
  std::snprintf(path, sizeof path, "/proc/%d/statm", tid);
  ProcText text;
  return number_after(read_proc(path, text), 0) == 0;
}

std::optional<long> turns_of_lone_thread(pid_t pid) noexcept {
  char path[40];
  std::snprintf(path, sizeof path, "/proc/%d/task", pid);
  struct stat tasks {};
  // Two and one for each thread (proc_task_getattr()).
  if (::stat(path, &tasks) != 0 || tasks.st_nlink != 3 || has_no_memory(pid)) return std::nullopt;
  std::snprintf(path, sizeof path, "/proc/%d/schedstat", pid);
  ProcText text;
  return number_after(read_proc(path, text), 2);
}

std::optional<long> system_call_of(pid_t tid) noexcept {
  char path[32];
  std::snprintf(path, sizeof path, "/proc/%d/syscall", tid);
  ProcText text;
  return number_after(read_proc(path, text), 0);  // "running" is no number
}

namespace {

// With those of 32-bit x86 programs, whose numbers of these calls are no number of the other kind.
constexpr auto kOwnerCalls = std::to_array<long>({
    SYS_fchown,
    SYS_fchownat,
#ifdef SYS_chown
    SYS_chown,
    SYS_lchown,
#endif
#ifdef __x86_64__
    16,
    95,
    182,
    207,
    212,
    298,
#endif
});
constexpr auto kDataCalls = std::to_array<long>({
    SYS_write,   SYS_pwrite64,  SYS_writev,
    SYS_pwritev, SYS_pwritev2,  SYS_sendfile,
    SYS_splice,  SYS_fallocate, SYS_copy_file_range,
#ifdef __x86_64__
    4,           146,           181,
    187,         239,           313,
    324,         334,           377,
    379,
#endif
});

}  // namespace

Errand errand_of(pid_t tid) noexcept {
  constexpr int kTries = 20;
  for (int i = 0; i < kTries; ++i) {
    if (const auto call = system_call_of(tid)) {
      const auto is_in = [&](const auto& calls) {
        return std::find(calls.begin(), calls.end(), *call) != calls.end();
      };
      if (is_in(kOwnerCalls)) return Errand::kChangesOwner;
      return is_in(kDataCalls) ? Errand::kChangesData : Errand::kUnknown;
    }
    ::sched_yield();
  }
  return Errand::kUnknown;
}

bool is_kernel_thread(pid_t pid, std::string_view name) noexcept {
  if (!is_called(pid, name) || !has_no_memory(pid)) return false;
  // A process that ends has no memory either, but only the kernel's threads are kthreadd's
  // children.
  constexpr std::string_view kLabel = "\nPPid:\t";
  constexpr long kKthreadd = 2;
  char path[32];
  std::snprintf(path, sizeof path, "/proc/%d/status", pid);
  ProcText text;
  std::string_view status = read_proc(path, text);
  const std::size_t label = status.find(kLabel);
  if (label == std::string_view::npos) return false;
  status.remove_prefix(label + kLabel.size());
  return number_after(status, 0) == kKthreadd;
}

pid_t find_process(std::string_view name) {
  const std::unique_ptr<DIR, int (*)(DIR*)> processes(::opendir("/proc"), ::closedir);
  if (processes == nullptr) return 0;
  while (const dirent* entry = ::readdir(processes.get())) {  // NOLINT(concurrency-mt-unsafe)
    const pid_t pid = static_cast<pid_t>(std::strtol(entry->d_name, nullptr, 10));
    struct stat st {};
    if (pid > 0 && is_called(pid, name) &&
        ::fstatat(::dirfd(processes.get()), entry->d_name, &st, 0) == 0 && st.st_uid == 0) {
      return pid;
    }
  }
  return 0;
}

}  // namespace lockfs
