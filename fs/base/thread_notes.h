/// One small note for each of the threads that were here lately: cheap to keep, and to be wrong
/// about. Threads whose numbers share a slot push each other's note out, and numbers of threads are
/// used again; so what is noted may only be a guess, or what can be found out anew.
///
/// Thread safety: all members may be called from any thread.
///
/// Invariants:
///  1. A thread is never told another thread's note (but for one that had the same number).
#pragma once

#include <sys/types.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

namespace lockfs {

/// `Note`: a number of up to 32 bits, or an enumeration on one, whose 0 means that nothing is
/// noted.
template <typename Note, std::size_t kSlots>
class ThreadNotes {
 public:
  [[nodiscard]] Note get(pid_t thread) const noexcept {
    const std::uint64_t found = slots_[index(thread)].load(std::memory_order_relaxed);
    return found >> 32 == number(thread) ? static_cast<Note>(found) : Note{};
  }

  void set(pid_t thread, Note note) noexcept {
    slots_[index(thread)].store(number(thread) << 32 | static_cast<std::uint32_t>(note),
                                std::memory_order_relaxed);
  }

 private:
  static std::uint64_t number(pid_t thread) noexcept { return static_cast<std::uint32_t>(thread); }
  static std::size_t index(pid_t thread) noexcept { return number(thread) % kSlots; }

  std::array<std::atomic<std::uint64_t>, kSlots> slots_{};
};

}  // namespace lockfs
