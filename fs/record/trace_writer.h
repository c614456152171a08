/// Writes a tape down as a trace: numbers files, threads, owners and open files, and finds names.
///
/// Thread safety: none; one thread uses an object.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "fs/record/tape.h"
#include "lockmgr/trace/encoder.h"

namespace lockfs {

class TraceWriter {
 public:
  /// `hash_paths`: files are called by a keyed hash of their path, commands are left out; the key
  /// is drawn anew for each object and never written.
  TraceWriter(const lockmgr::trace::Head& head, bool hash_paths);

  /// `lost`: how many entries of the tape were lost after these. Throws std::bad_alloc.
  void write(const std::vector<TapeItem>& items, std::uint64_t lost);
  /// What has been written so far is made complete: a block ends here.
  void flush() { encoder_.end_block(); }
  void finish();

  /// The bytes that were not taken yet.
  std::string take() { return encoder_.take(); }
  /// Of all bytes, those taken included.
  [[nodiscard]] std::uint64_t size() const { return encoder_.size(); }

 private:
  using Index = lockmgr::trace::Index;

  void write(const TapeItem& item);
  void write_ask(const TapeItem& item);
  Index file_of(const TapeItem& item);
  Index actor_of(const lockmgr::Caller& caller);
  Index owner_of(const lockmgr::OwnerId& id);
  Index open_of(const TapeItem& item);
  [[nodiscard]] std::string name_of(const lockmgr::FileLocks& file) const;
  [[nodiscard]] lockmgr::trace::Nanoseconds time_of(const TapeItem& item) const;
  void forget(lockmgr::trace::Nanoseconds now);

  // -- outsiders: what is known of them is when one was in the way, so that is when each is there
  // --
  void write_outside(const TapeItem& item);
  void write_outside_end(const TapeItem& item);
  void meet(const TapeItem& item);
  void part(std::uint64_t wait, lockmgr::trace::Nanoseconds time);
  /// Somebody outside who has `range` from `granted` on.
  std::size_t enter(Index file, const lockmgr::Range& range, lockmgr::Mode mode,
                    lockmgr::trace::Nanoseconds asked, lockmgr::trace::Nanoseconds granted);
  void leave(std::size_t outsider, lockmgr::trace::Nanoseconds time);
  void settle_glance();

  const bool hash_paths_;
  const TapeItem::Clock::time_point began_ = TapeItem::Clock::now();
  std::array<std::uint64_t, 2> key_{};  ///< of the hash
  lockmgr::trace::Encoder encoder_;
  // What has been numbered.
  std::map<std::pair<std::uint64_t, std::uint64_t>, Index> files_;  ///< by device and inode
  struct Thread {
    pid_t pid = 0;  ///< 0: not known yet
    Index index = 0;
  };
  std::unordered_map<pid_t, Thread> threads_;                    ///< by thread id
  std::map<std::pair<std::uint64_t, int>, Index> owners_;        ///< by cookie and type
  std::unordered_map<std::uint64_t, std::uint64_t> identities_;  ///< by cookie
  std::uint64_t next_identity_ = 0;
  struct OpenFile {
    Index index = 0;
    Index last_actor = 0;  ///< who used it last: whose close the last one is
  };
  std::map<std::pair<Index, const void*>, OpenFile> opens_;
  struct Outsider {
    Index file = 0;
    Index actor = 0;
    Index owner = 0;
    Index open = 0;
    lockmgr::Range range;
    lockmgr::Mode mode = lockmgr::Mode::kNone;
    std::uint32_t waits = 0;  ///< for it
    bool present = false;
  };
  std::vector<Outsider> outsiders_;
  std::unordered_map<std::uint64_t, std::size_t> outside_waits_;   ///< the outsider, by wait
  std::unordered_map<std::uint64_t, std::uint64_t> wait_numbers_;  ///< the trace's, by wait
  std::uint64_t next_wait_ = 0;
  lockmgr::trace::Nanoseconds last_request_{-1};  ///< when the last lock was asked for
  /// One who was in the way of somebody that does not wait, as far as is known yet.
  std::optional<TapeItem> glance_;
  std::unordered_map<lockmgr::Ticket, std::uint64_t> waiting_;  ///< since before, by ticket
  std::unordered_map<std::uint64_t, std::uint64_t> asks_;  ///< not answered yet: the trace's number
};

}  // namespace lockfs
