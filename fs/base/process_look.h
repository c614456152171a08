/// What /proc tells of other processes and threads.
///
/// Thread safety: all functions may be called from any thread. They read small files of the kernel
/// and do not wait for anybody: not /proc/<tid>/stat, which waits for an exec of that process,
/// which waits for our answer to FLUSH (see fs/loop/cpu_finder.h).
#pragma once

#include <sys/types.h>

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>

namespace lockfs {

using ProcText = std::array<char, 1024>;

/// The beginning of a file of /proc, in `text`; empty if it cannot be read.
std::string_view read_proc(const char* path, ProcText& text) noexcept;

/// The number at the beginning of `text` after `blanks` blanks.
std::optional<long> number_after(std::string_view text, int blanks) noexcept;

/// A process, or thread of the kernel, of that name which root owns: others may call themselves
/// anything. 0 if there is none. May throw std::bad_alloc.
pid_t find_process(std::string_view name);

/// Whether process `pid` is called that.
bool is_called(pid_t pid, std::string_view name) noexcept;

/// Whether the thread has no memory: it has come so far in do_exit(), where exit_mm() precedes
/// exit_files(), or is one of the kernel's. False if it cannot be seen.
bool has_no_memory(pid_t tid) noexcept;

/// How often the only thread of a program has been put on a CPU: while that does not change, it has
/// not run. Nothing if the process has more threads, is none of a program, or cannot be seen.
std::optional<long> turns_of_lone_thread(pid_t pid) noexcept;

/// The number of the system call that the thread sleeps in, as its own kind of program counts them.
/// Nothing if it runs, or cannot be seen.
std::optional<long> system_call_of(pid_t tid) noexcept;

/// What a thread that waits for an answer is known to be doing, by its system call. Looks a few
/// times, since it may not be asleep yet; of one that cannot be seen neither is known.
enum class Errand : std::uint8_t {
  kUnknown,
  kChangesOwner,  ///< chown(2) and its like
  kChangesData,   ///< write(2), fallocate(2) and their like
};
Errand errand_of(pid_t tid) noexcept;

/// Whether `pid` is called that and is a thread of the kernel.
bool is_kernel_thread(pid_t pid, std::string_view name) noexcept;

}  // namespace lockfs
