/// Records the lock traffic of a mount: takes the tape down as a trace and sends that to a peer, on
/// a thread of its own. The peer writes the file, so a full disk is its trouble, not the mount's.
///
/// Thread safety: all methods may be called from any thread but the recorder's.
///
/// Invariants:
///  1. At most one recording is under way.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "fs/base/unique_fd.h"
#include "fs/record/tape.h"
#include "fs/record/trace_writer.h"
#include "lockmgr/trace/trace.h"

namespace lockfs {

class Recorder {
 public:
  struct Settings {
    lockmgr::trace::Head head;
    bool hash_paths = false;
    std::uint64_t max_size = 0;  ///< bytes of the trace at which it ends; 0: none
  };

  /// `tape` must outlive the object. Throws std::system_error.
  explicit Recorder(Tape& tape);
  ~Recorder();
  Recorder(const Recorder&) = delete;
  Recorder& operator=(const Recorder&) = delete;

  /// Begins a recording into `peer`, a stream socket: `preface`, then the trace, then the end of
  /// the stream. It ends when the peer shuts its sending side down, or closes; when the trace has
  /// its size; or with stop(). Returns false if one is under way: `peer` is left alone then. Throws
  /// std::system_error and std::bad_alloc.
  bool start(UniqueFd& peer, const std::string& preface, const Settings& settings);

  [[nodiscard]] bool running() const noexcept { return running_; }

  /// Ends the recording under way, if any, with all that happened up to now. Waits for a peer that
  /// does not read for at most a second.
  void stop() noexcept;

 private:
  void run(int peer, TraceWriter& writer, std::uint64_t max_size) noexcept;
  bool record(int peer, TraceWriter& writer, std::uint64_t max_size);
  bool send_all(int peer, const std::string& bytes, bool last) const;

  Tape& tape_;
  UniqueFd stop_;  ///< eventfd: readable when the thread is to end
  std::atomic<bool> running_{false};
  std::mutex mutex_;
  std::thread thread_;  ///< guarded by mutex_
};

}  // namespace lockfs
