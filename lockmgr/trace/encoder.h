/// Turns events into the bytes of a trace, block by block. Does not write files: who uses it takes
/// the bytes when a block is full.
///
/// Thread safety: none; one thread uses an object.
///
/// Invariants:
///  1. Concatenated, what take() has returned is a trace that a Decoder reads up to its last block;
///     after finish(), a whole one.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "lockmgr/trace/format.h"
#include "lockmgr/trace/trace.h"

namespace lockmgr::trace {

class Encoder {
 public:
  explicit Encoder(const Head& head);

  // Definitions; each returns the number of what is defined.
  Index define(const File& file);
  Index define(const Actor& actor);
  Index define(const TraceOwner& owner);
  Index define(const Open& open);
  /// A policy, by its text.
  Index define(const std::string& policy);

  /// Appends an event. Returns the number of the ask for EventType::kAsk, else 0.
  std::uint64_t add(const TraceEvent& event);

  /// Closes the block under way; nothing is lost if the program ends after that.
  void end_block();
  /// Writes the end block. Nothing may be added any more.
  void finish();

  /// Whole blocks that were not taken yet; empties them here. A block ends by itself at kBlockSize.
  std::string take();
  /// Bytes that take() has returned and would return, the block under way included.
  std::uint64_t size() const { return taken_ + done_.size() + payload_.size() + kBlockHeader; }

 private:
  static constexpr std::size_t kBlockSize = std::size_t{32} * 1024;
  static constexpr std::size_t kTypes = 10;

  void tag(Tag tag);
  void put_block(Block type, const std::string& payload);

  std::string done_;
  std::string payload_;  ///< of the events block under way
  std::uint64_t taken_ = 0;
  Nanoseconds last_{0};
  std::uint64_t asks_ = 0;
  std::array<std::uint64_t, kTypes> counts_{};  ///< by EventType
  std::uint64_t lost_ = 0;
  Index files_ = 0;
  Index actors_ = 0;
  Index owners_ = 0;
  Index opens_ = 0;
  Index policies_ = 0;
};

/// The whole of a trace in the format.
std::string encode(const Trace& trace);

}  // namespace lockmgr::trace
