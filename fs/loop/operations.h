/// The operations of a session: for each what carries it out, and how the request loop paces it.
///
/// A handler can be entered in no other way, so a new one cannot be left without a pace. An
/// operation of the protocol that is entered with none is slow, which is right for all that do not
/// keep an order; tests/unit/operations_test.cpp has those that are entered.
///
/// Thread safety: none while it is filled; later a constant.
#pragma once

#include <fuse3/fuse_lowlevel.h>
#include <linux/fuse.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <type_traits>

namespace lockfs {

/// How the request loop treats a request.
enum class Pace : std::uint8_t {
  kOrdered,   ///< its handler says when it may be overtaken
  kQuick,     ///< carried out in place, may be overtaken at once
  kSlow,      ///< certain to take long: the lead is given up before
  kByLength,  ///< kSlow when it moves much data, else kQuick
};

class Operations {
 public:
  Operations() {
    paces_.fill(Pace::kSlow);
    // libfuse answers these itself; what they concern has been read before.
    for (const fuse_opcode opcode : {FUSE_INTERRUPT, FUSE_DESTROY}) pace(opcode, Pace::kOrdered);
  }

  /// Enters the handler of one or more operations of the protocol.
  template <typename Handler, typename... More>
  void enter(Handler fuse_lowlevel_ops::*member, std::type_identity_t<Handler> handler, Pace pace,
             fuse_opcode opcode, More... more) noexcept {
    table_.*member = handler;
    for (const fuse_opcode each : {opcode, more...}) this->pace(each, pace);
  }

  [[nodiscard]] const fuse_lowlevel_ops& table() const noexcept { return table_; }

  [[nodiscard]] Pace pace_of(std::uint32_t opcode) const noexcept {
    return opcode < paces_.size() ? paces_[opcode] : Pace::kSlow;
  }

 private:
  static constexpr std::size_t kMostOpcodes = 64;

  void pace(fuse_opcode opcode, Pace pace) noexcept {
    if (static_cast<std::size_t>(opcode) < kMostOpcodes) paces_[opcode] = pace;
  }

  fuse_lowlevel_ops table_{};
  std::array<Pace, kMostOpcodes> paces_{};
};

}  // namespace lockfs
