/// The request that the calling thread carries out: what came with it that libfuse does not hand
/// on, and its place in the request loop. For handlers; on a thread of no loop there is none, and
/// all calls have no effect.
///
/// Thread safety: all of it concerns the calling thread.
#pragma once

#include <cstdint>
#include <optional>

struct fuse_in_header;
struct fuse_lk_in;
struct iovec;

namespace lockfs {

class RequestLoop;

/// A request for a lock, or a test of one, as the kernel sent it. Null pointers: there is none.
struct LockRequest {
  const fuse_in_header* header = nullptr;
  const fuse_lk_in* what = nullptr;
  std::uint8_t note = 0;  ///< what RequestLoop::AnswerLock leaves for the handler; 0: nothing
};

class CurrentRequest {
 public:
  /// To be called when the part of a lock request that must happen in order is done and what
  /// follows may block: the next request may be read before this one is finished.
  static void allow_overtaking();

  /// As allow_overtaking(), where what follows is known to take long: if the kernel has another
  /// request already, another thread takes the lead now.
  static void give_way();

  /// As allow_overtaking(), but certain to block: another thread takes the lead now. While it
  /// lives, the thread does not count as one of the workers, since what it waits for may need one.
  class Blocking {
   public:
    Blocking();
    ~Blocking();
    Blocking(const Blocking&) = delete;
    Blocking& operator=(const Blocking&) = delete;

   private:
    RequestLoop* const loop_;
  };

  /// The lock request under way; libfuse hands on less.
  static LockRequest lock_request();

  /// Whether the kernel demands that the WRITE or SETATTR under way clears set-ID bits, its caller
  /// having no right to leave them (FUSE_HANDLE_KILLPRIV_V2). libfuse 3.14 does not hand that on.
  static bool clears_set_id_bits();

  /// The kernel's number of it; 0: there is none.
  static std::uint64_t unique() noexcept;

  /// An earlier daemon had begun to carry it out, and died before it was answered: what it asks for
  /// may have been done. `begun_at`: nanoseconds on CLOCK_REALTIME_COARSE before that; whatever is
  /// younger may be its doing.
  static bool repeated() noexcept;
  static std::int64_t begun_at() noexcept;
  /// When that daemon died, at the latest: whatever is younger is not its doing.
  static std::int64_t given_up_at() noexcept;

  /// What a request is about, as it was before the request changed it: by that a later daemon tells
  /// whether it has. What the numbers mean, the handler knows.
  struct Note {
    std::uint64_t device = 0;
    std::uint64_t inode = 0;
    std::uint64_t other_device = 0;
    std::uint64_t other_inode = 0;
    std::int64_t born = 0;
    std::int64_t other_born = 0;
    std::int64_t size = 0;
    std::int64_t changed = 0;
  };
  /// Whether a note can outlive the process. False: it need not be taken.
  static bool outlives() noexcept;
  /// To be called just before the change.
  static void note(const Note& note) noexcept;
  /// The note that an earlier daemon took, of a repeated request; nothing: it had not come so far.
  static std::optional<Note> noted() noexcept;

  /// A change of a lookup count, by a request that makes several in a fixed order, so that each is
  /// made once although the daemon dies: REQUIRES that what guards the count is held while it
  /// lives. A repeated request that adds starts anew, what it had added being taken back; one that
  /// takes away is to leave out the first counts_made().
  class CountChange {
   public:
    /// `after`: what the count of that file is to be.
    CountChange(std::uint64_t nodeid, std::uint64_t after) noexcept;
    ~CountChange();
    CountChange(const CountChange&) = delete;
    CountChange& operator=(const CountChange&) = delete;
  };
  static std::uint32_t counts_made() noexcept;

  /// Keeps the request under way past the handler's return, also past a death: its record, which
  /// whoever answers it gives back (KeptRequests); 0: it will not outlive the process.
  static std::uint32_t keep() noexcept;

  /// An answer is about to be written to the device.
  static void note_answer(const iovec* parts, int count) noexcept;
};

}  // namespace lockfs
