/// A trace in memory: who did what to which lock when, and what the answer was.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "lockmgr/owner.h"
#include "lockmgr/range.h"

namespace lockmgr::trace {

using Nanoseconds = std::chrono::nanoseconds;

/// Positions in Trace's tables.
using Index = std::uint32_t;

struct Head {
  Nanoseconds begin{0};    ///< since 1970
  bool generated = false;  ///< else recorded: the answers are a daemon's
  std::string policy;      ///< that gave the answers
  std::string source;      ///< directory below the mount; empty if hidden or none
  std::string program;     ///< what wrote the trace
  /// How far into a second the manager's clock was at time 0: leases count whole seconds.
  Nanoseconds phase{0};
};

struct File {
  std::uint64_t device = 0;
  std::uint64_t inode = 0;
  std::string name;
};

struct Actor {
  pid_t pid = 0;
  pid_t tid = 0;
  uid_t uid = 0;
  std::string command;
};

/// Who holds the locks.
struct TraceOwner {
  OwnerType type = OwnerType::kProcess;  ///< without meaning if `remote`
  bool remote = false;                   ///< locks the backing directly, as NFS clients do
  std::uint64_t identity = 0;            ///< stands for OwnerId::cookie
};

/// An open file description.
struct Open {
  Index file = 0;
  bool readable = true;
  bool writable = true;
};

enum class EventType : std::uint8_t {
  kAsk,
  kAnswer,
  kFlush,
  kClose,
  kTick,
  kLost,
  kPolicy,      ///< the mount was switched to another policy
  kRevoke,      ///< an administrator took a lock away
  kOutside,     ///< what the backing said that is decided outside of the manager
  kOutsideEnd,  ///< a wait at the backing has ended
};

/// What the backing said to a call. What is not written down was "yes", or "nobody".
enum class OutsideSaid : std::uint8_t {
  kRefused,  ///< set(): with an errno
  kSeen,     ///< test(): somebody is in the way
  kWaiting,  ///< outsiders_waiting(): somebody does
  kWait,     ///< wait(): begun; the first has number 0
};

/// One thing that happened. Which fields mean something depends on the type.
struct TraceEvent {
  EventType type = EventType::kTick;
  Nanoseconds time{0};                       ///< since Head::begin
  Index actor = 0;                           ///< kAsk, kFlush, kClose
  Index open = 0;                            ///< kAsk, kFlush, kClose
  Index owner = 0;                           ///< kAsk, kFlush, kRevoke
  Range range;                               ///< kAsk, kRevoke
  Mode mode = Mode::kNone;                   ///< kAsk; kNone unlocks
  bool wait = false;                         ///< kAsk
  Nanoseconds patience{0};                   ///< kAsk: gives up after so long; 0: never
  std::uint64_t ask = 0;                     ///< kAnswer: the number of the ask, the first is 0
  int error = 0;                             ///< kAnswer, kOutside, kOutsideEnd
  Index file = 0;                            ///< kRevoke, kOutside
  Index policy = 0;                          ///< kPolicy: in Trace::policies
  OutsideSaid said = OutsideSaid::kRefused;  ///< kOutside
  std::uint32_t call = 0;  ///< kOutside: which call for the file within what happened at this time
  std::uint64_t wait_number = 0;  ///< kOutsideEnd
  std::uint64_t lost = 0;         ///< kLost
};

struct Trace {
  Head head;
  std::vector<File> files;
  std::vector<Actor> actors;
  std::vector<TraceOwner> owners;
  std::vector<Open> opens;
  std::vector<std::string> policies;  ///< that the mount was switched to
  std::vector<TraceEvent> events;
  std::uint64_t lost = 0;  ///< sum over the events
};

}  // namespace lockmgr::trace
