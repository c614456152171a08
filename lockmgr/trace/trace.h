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

enum class EventType : std::uint8_t { kAsk, kAnswer, kFlush, kClose, kTick, kLost };

/// One thing that happened. Which fields mean something depends on the type.
struct TraceEvent {
  EventType type = EventType::kTick;
  Nanoseconds time{0};      ///< since Head::begin
  Index actor = 0;          ///< kAsk, kFlush, kClose
  Index open = 0;           ///< kAsk, kFlush, kClose
  Index owner = 0;          ///< kAsk, kFlush
  Range range;              ///< kAsk
  Mode mode = Mode::kNone;  ///< kAsk; kNone unlocks
  bool wait = false;        ///< kAsk
  Nanoseconds patience{0};  ///< kAsk: gives up after so long; 0: never
  std::uint64_t ask = 0;    ///< kAnswer: the number of the ask, the first is 0
  int error = 0;            ///< kAnswer
  std::uint64_t lost = 0;   ///< kLost
};

struct Trace {
  Head head;
  std::vector<File> files;
  std::vector<Actor> actors;
  std::vector<TraceOwner> owners;
  std::vector<Open> opens;
  std::vector<TraceEvent> events;
  std::uint64_t lost = 0;  ///< sum over the events
};

}  // namespace lockmgr::trace
