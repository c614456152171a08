/// What the threads that list directories do with the files in them: whether it pays to answer
/// READDIRPLUS with attributes. The kernel always asks for them at the start of a directory, and
/// finding them costs many times what the names do; a program that goes on to ask for the files one
/// by one (ls -l) is spared a request for each, another (find -name) has no use for them.
///
/// A thread's first listing has attributes for all files but one. If that is looked up, so has its
/// next one, else that has only names, until the thread looks up a file of the directory it listed
/// last. What it does elsewhere or did before says nothing: git status opens what it finds in its
/// own directories, and then only wants the names of the tree.
///
/// Thread safety: all members may be called from any thread. What is remembered is a guess.
#pragma once

#include <sys/types.h>

#include <cstdint>

#include "fs/base/thread_notes.h"

namespace lockfs {

class ListingHabits {
 public:
  enum class Answer { kAllButOne, kNames };

  /// `thread` begins to list the directory with this nodeid.
  Answer begin_listing(pid_t thread, std::uint64_t directory) noexcept {
    const Note known = notes_.get(thread);
    notes_.set(thread, listed(directory));
    return known == 0 || known == kAsksForFiles ? Answer::kAllButOne : Answer::kNames;
  }

  /// `thread` looked up in `directory` what is no directory: those are looked up to go down as
  /// well. Or there was no file to leave out of its listing.
  void note_lookup(pid_t thread, std::uint64_t directory) noexcept {
    if (notes_.get(thread) == listed(directory)) notes_.set(thread, kAsksForFiles);
  }

 private:
  /// kAsksForFiles, or which directory it listed last: enough bits to guess by.
  using Note = std::uint32_t;
  static constexpr Note kAsksForFiles = 2;
  static Note listed(std::uint64_t directory) noexcept {
    return static_cast<Note>(directory) << 2 | 1;
  }

  ThreadNotes<Note, 64> notes_;
};

}  // namespace lockfs
