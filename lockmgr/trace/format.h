/// The numbers of the trace format, version 1. mount-helpers/man/lockfs-trace.5 describes it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace lockmgr::trace {

inline constexpr std::string_view kMagic = "lockfs-trace\n";
inline constexpr std::uint16_t kVersion = 1;
inline constexpr std::size_t kFileHeader = kMagic.size() + 2;
inline constexpr std::size_t kBlockHeader = 9;
/// A reader takes longer ones for damage.
inline constexpr std::size_t kMostPayload = 1 << 20;
inline constexpr std::size_t kMostString = std::size_t{64} * 1024;

enum class Block : char { kHead = 'H', kEvents = 'E', kEnd = 'Z' };

enum class Tag : std::uint8_t {
  kFile = 1,
  kActor = 2,
  kOwner = 3,
  kOpen = 4,
  kAsk = 5,
  kAnswer = 6,
  kFlush = 7,
  kClose = 8,
  kTick = 9,
  kLost = 10,
  kPolicy = 11,
  kRevoke = 12,
  kOutside = 13,
  kOutsideEnd = 14,
  kPolicyText = 15,
};

namespace ask_flags {
inline constexpr std::uint64_t kMode = 3;
inline constexpr std::uint64_t kWait = 4;
inline constexpr std::uint64_t kWholeFile = 8;
inline constexpr std::uint64_t kPatience = 16;
}  // namespace ask_flags

}  // namespace lockmgr::trace
