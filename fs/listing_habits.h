/// What the threads that list directories do with the files in them: whether it pays to answer
/// READDIRPLUS with attributes. The kernel always asks for them at the start of a directory, and
/// finding them costs many times what the names do; a program that goes on to ask for the files one
/// by one (ls -l) is spared a request for each, another (find -name) has no use for them.
///
/// A thread's first listing has attributes for all files but one. If that is looked up, its later
/// listings have attributes, else only names, until it looks a file up.
///
/// Thread safety: all members may be called from any thread. What is remembered is a guess.
#pragma once

#include <sys/types.h>

#include <cstdint>

#include "fs/thread_notes.h"

namespace lockfs {

class ListingHabits {
 public:
  enum class Answer { kAttributes, kNames, kAllButOne };

  /// `thread` begins to list a directory.
  Answer begin_listing(pid_t thread) noexcept {
    const Note known = notes_.get(thread);
    if (known == Note::kAsksForFiles) return Answer::kAttributes;
    if (known == Note::kLists) return Answer::kNames;
    notes_.set(thread, Note::kLists);
    return Answer::kAllButOne;
  }

  /// `thread` looked up something that is no directory: those are looked up to go down as well.
  void note_lookup(pid_t thread) noexcept {
    if (notes_.get(thread) == Note::kLists) notes_.set(thread, Note::kAsksForFiles);
  }

 private:
  enum class Note : std::uint8_t { kNone, kLists, kAsksForFiles };

  ThreadNotes<Note, 64> notes_;
};

}  // namespace lockfs
