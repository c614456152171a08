/// How the granted locks of a file are written down, so that they outlive the process: a process
/// that comes after one that has died, at whatever instant, puts them back (FileLocks::restore()).
/// One Journal serves one file, as a Backing does.
///
/// A change of an owner's locks is announced first; then new records come before old ones are
/// shortened or go; the end is told last. Example: 1 holds 0-9 and 20-29 exclusively, and shares
/// 10-99 from now on:
///
///   begin(1, 10-99, shared)
///   add(10-99, shared)
///   remove(20-29)
///   end()
///
/// So after a death between any two calls the records of an owner contain every byte that it held
/// before the change and is to keep, and of those that it was to lose or to get some or all: they
/// overlap each other in one mode, or in two modes within the announced range. To make the
/// announced change once more puts that right, and does no harm where it had been made.
///
/// Thread safety: all calls come one at a time, under the mutex of the file.
///
/// Invariants that an implementation keeps:
///  1. Each call takes effect as a whole or, where the process dies within it, not at all.
///  2. At most one change is announced at a time: begin() and end() alternate, but for the end() of
///     a change that a process before had announced (FileLocks::finish_change()), and for a loss,
///     which is announced once more before the backing lets go: who may have it by then gets it.
#pragma once

#include <sys/types.h>

#include <cstdint>

#include "lockmgr/owner.h"
#include "lockmgr/range.h"

namespace lockmgr {

class Journal {
 public:
  /// Names what add() wrote, until remove(). 0: none.
  using Record = std::uint32_t;

  /// A granted lock, and what else the next process has to know of its owner.
  struct Entry {
    OwnerId owner;
    Caller caller;             ///< who asked for it, or in whose favour it was changed last
    pid_t process = 0;         ///< of the owner; see Party
    std::uint64_t opened = 0;  ///< Opened::name() of the open file that the owner came through
    Range range;
    Mode mode = Mode::kNone;
    std::uint32_t since = 0;  ///< seconds on the manager's clock when it was granted
    std::uint16_t epoch = 0;  ///< how often the policy had been switched then
  };

  virtual ~Journal() = default;

  /// Takes the memory that the next `records` calls of add() need, at least 1; what was taken
  /// before and not used counts. Returns false when there is none; then nothing has changed. Does
  /// not block.
  [[nodiscard]] virtual bool provide(unsigned records) noexcept = 0;

  /// What the owner holds on `range` is about to become exactly `mode`.
  virtual void begin(const OwnerId& owner, const Range& range, Mode mode) noexcept = 0;
  /// Writes down a lock. REQUIRES: provide() has provided for it. Returns its name, not 0.
  virtual Record add(const Entry& entry) noexcept = 0;
  /// The lock ends with `last` from now on, which is not before its first byte.
  virtual void shorten(Record record, Offset last) noexcept = 0;
  /// The lock is no more, or part of another.
  virtual void remove(Record record) noexcept = 0;
  /// The announced change is whole.
  virtual void end() noexcept = 0;
};

}  // namespace lockmgr
