/// The request that the calling thread carries out: what came with it that libfuse does not hand
/// on, and its place in the request loop. For handlers; on a thread of no loop there is none, and
/// all calls have no effect.
///
/// Thread safety: all of it concerns the calling thread.
#pragma once

#include <cstdint>

struct fuse_in_header;
struct fuse_lk_in;

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
};

}  // namespace lockfs
