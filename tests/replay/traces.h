/// Traces written by hand, for tests.
#pragma once

#include <cerrno>
#include <chrono>
#include <cstdint>
#include <optional>
#include <ostream>
#include <string>

#include "lockmgr/trace/trace.h"
#include "mount-helpers/replay/script.h"
#include "mount-helpers/replay/simulation.h"

namespace replay::testing {

using lockmgr::Mode;
using lockmgr::OwnerType;
using lockmgr::Range;
using lockmgr::trace::Index;
using std::chrono::milliseconds;

/// A trace in the making. Times are milliseconds and must not go back.
class TraceBuilder {
 public:
  /// Further locks of `actor` on `file`, through an open file of its own.
  struct Hand {
    Index actor = 0;
    Index open = 0;
    Index flock = 0;
    Index posix = 0;
  };

  TraceBuilder();

  Index file(const std::string& name);
  /// A program that opens `file`. `same_program`: another descriptor of that one.
  Hand hand(Index file, bool readable = true, bool writable = true,
            const Hand* same_program = nullptr);
  Hand remote(Index file);

  /// Returns the number of the ask.
  std::uint64_t ask(int at, const Hand& hand, OwnerType type, Mode mode, bool wait = true,
                    Range range = lockmgr::kWholeFile);
  /// The same, with the answer right away.
  std::uint64_t ask_answered(int at, const Hand& hand, OwnerType type, Mode mode, int error = 0,
                             bool wait = true, Range range = lockmgr::kWholeFile);
  void answer(int at, std::uint64_t ask, int error = 0);
  void close(int at, const Hand& hand);
  void outside(int at, Index file, std::uint32_t call, lockmgr::trace::OutsideSaid said,
               int error = 0);
  void outside_end(int at, std::uint64_t wait, int error = 0);
  void switch_to(int at, const std::string& policy);
  void revoke(int at, Index file, Index owner);

  lockmgr::trace::Trace trace;

 private:
  lockmgr::trace::TraceEvent& add(int at, lockmgr::trace::EventType type);

  std::uint64_t asks_ = 0;
};

/// Replays under a policy by its name.
Outcome replay(const lockmgr::trace::Trace& trace, const std::string& policy = "nfs");

/// The answer to that ask, in milliseconds of waiting; fails the test if there is none.
struct Told {
  int error = -1;
  std::int64_t waited = -1;
  friend bool operator==(const Told& a, const Told& b) {
    return a.error == b.error && a.waited == b.waited;
  }
};
Told told(const Outcome& outcome, std::uint64_t ask);
std::ostream& operator<<(std::ostream& out, const Told& told);

/// A whole trace, the same at each call: several files, owners of each type, waits, errors.
lockmgr::trace::Trace sample();

}  // namespace replay::testing
