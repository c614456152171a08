/// SipHash-2-4 (Aumasson and Bernstein): a hash that nobody can undo by trying names who does not
/// have the key.
#pragma once

#include <cstdint>
#include <string_view>

namespace lockfs {

std::uint64_t keyed_hash(std::uint64_t key0, std::uint64_t key1, std::string_view bytes);

}  // namespace lockfs
