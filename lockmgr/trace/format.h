/// The trace format, version 1.
///
///   trace    magic "lockfs-trace" 0x0a, version (2 bytes), then blocks: one head, any number of
///            events blocks, one end block, and nothing after it
///   block    type (1 byte: 'H', 'E' or 'Z'), length of the payload (4 bytes), CRC-32 of type,
///            length and payload (4 bytes; the polynomial of zlib), payload
///
/// Numbers of fixed size are little-endian. All others are varints: seven bits a byte, the lowest
/// first, the high bit set in all bytes but the last, at most ten bytes. A string is its length and
/// its bytes. Times are nanoseconds.
///
///   head     begin (since 1970), origin (0: recorded, 1: generated), policy, source, program: what
///            wrote it
///   events   records, one after the other; none lies across two blocks
///   end      number of records of each kind but definitions, number of events lost
///
/// A record is a tag byte and the fields below. Times are given as the difference to the record
/// before it in the trace (0 before the first): a difference n as 2n, or -2n-1 if it is negative,
/// since what several threads do is written down in an order of its own. Definitions have no time;
/// the first of a kind defines number 0, the next number 1 and so on; what is used was defined
/// before.
///
///   1 file      device, inode, name
///   2 actor     pid, tid, uid, command; the thread that calls, one at a time
///   3 owner     type (OwnerType, or 3: somebody who locks the backing directly, such as an NFS
///               client), identity (stands for OwnerId::cookie: the flock and the OFD locks of one
///               open file have the same one)
///   4 open      file, flags (1: readable, 2: writable): an open file description
///   5 ask       time, actor, open, owner, flags (bits 0-1 mode, 4: would wait, 8: whole file, 16:
///               has patience), unless whole file: first byte, last byte minus first; patience
///   6 answer    time, how many asks ago, error (errno, 0: granted or unlocked)
///   7 flush     time, actor, open, owner: a close by a process, which drops its POSIX locks
///   8 close     time, actor, open: the last close of an open file
///   9 tick      time: the manager was told that time had passed (LockManager::relent())
///  10 lost      time, how many events could not be recorded here
///
/// The asks of a thread are answered before it does anything else. An answer that the manager gave
/// while it carried out something carries the time of that, so a replay can tell what came of what.
/// `patience` is how long a waiting request is waited for before it is given up (generated traces).
///
/// A reader refuses what it does not know. A later version may add blocks and records.
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
inline constexpr std::size_t kMostString = 64 * 1024;

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
};

namespace ask_flags {
inline constexpr std::uint64_t kMode = 3;
inline constexpr std::uint64_t kWait = 4;
inline constexpr std::uint64_t kWholeFile = 8;
inline constexpr std::uint64_t kPatience = 16;
}  // namespace ask_flags

}  // namespace lockmgr::trace
