/// Reads a trace, trusting nothing in it: each block by its checksum, each record by its bounds.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "lockmgr/trace/trace.h"

namespace lockmgr::trace {

/// Why a trace cannot be read.
struct Damage {
  enum class Kind : std::uint8_t {
    kNotATrace,  ///< something else
    kNewer,      ///< of a version to come
    kCut,        ///< it ends too early: what precedes is whole
    kBroken,     ///< bytes have changed, or were never right
  };
  Kind kind = Kind::kBroken;
  std::uint64_t offset = 0;  ///< of the block, or of what is missing, from the trace's first byte
  std::string text;          ///< one line without a name of the file
};

struct Decoded {
  Trace trace;  ///< up to the damage, if there is any
  std::optional<Damage> damage;
};

/// Decodes `bytes`. May throw std::bad_alloc; takes memory in proportion to the size of `bytes`.
Decoded decode(std::string_view bytes);

}  // namespace lockmgr::trace
