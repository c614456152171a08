/// What the threads that list directories do with the files in them: whether it pays to answer
/// READDIRPLUS with attributes. The kernel always asks for them at the start of a directory, and
/// finding them costs many times what the names do; a program that goes on to ask for the files one
/// by one (ls -l) is spared a request for each, another (find -name) has no use for them.
///
/// A thread's first listing has attributes for all files but one. If that is looked up, its later
/// listings have attributes, else only names, until it looks a file up.
///
/// Thread safety: all members may be called from any thread. What is remembered is a guess: threads
/// may share a slot, numbers of threads are used again.
#pragma once

#include <sys/types.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

namespace lockfs {

class ListingHabits {
 public:
  enum class Answer { kAttributes, kNames, kAllButOne };

  /// `thread` begins to list a directory.
  Answer begin_listing(pid_t thread) noexcept {
    std::atomic<std::uint64_t>& slot = slot_of(thread);
    const std::uint64_t known = slot.load(std::memory_order_relaxed);
    if (known == pack(thread, true)) return Answer::kAttributes;
    if (known == pack(thread, false)) return Answer::kNames;
    slot.store(pack(thread, false), std::memory_order_relaxed);
    return Answer::kAllButOne;
  }

  /// `thread` looked up something that is no directory: those are looked up to go down as well.
  void note_lookup(pid_t thread) noexcept {
    std::atomic<std::uint64_t>& slot = slot_of(thread);
    if (slot.load(std::memory_order_relaxed) == pack(thread, false)) {
      slot.store(pack(thread, true), std::memory_order_relaxed);
    }
  }

 private:
  static constexpr std::size_t kSlots = 64;

  static constexpr std::uint64_t pack(pid_t thread, bool asks_for_files) noexcept {
    return static_cast<std::uint64_t>(thread) << 1 | static_cast<std::uint64_t>(asks_for_files);
  }
  std::atomic<std::uint64_t>& slot_of(pid_t thread) noexcept {
    return slots_[static_cast<std::size_t>(thread) % kSlots];
  }

  std::array<std::atomic<std::uint64_t>, kSlots> slots_{};
};

}  // namespace lockfs
