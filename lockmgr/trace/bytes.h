/// The scalar parts of the trace format: varints, strings, fixed numbers, checksums.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace lockmgr::trace {

void put_varint(std::string& out, std::uint64_t value);
/// A number that may be negative.
void put_difference(std::string& out, std::int64_t value);
void put_string(std::string& out, std::string_view text);
void put_fixed(std::string& out, std::uint64_t value, int bytes);

std::uint64_t get_fixed(std::string_view bytes);

/// CRC-32 of the two parts one after the other.
std::uint32_t checksum(std::string_view head, std::string_view payload);

/// Takes scalars from the front of a piece of memory, which must outlive it. After the first that
/// is not there or not well formed everything reads as 0 and ok() is false.
class Scanner {
 public:
  explicit Scanner(std::string_view bytes) : rest_(bytes) {}

  std::uint64_t varint();
  std::int64_t difference();
  std::string string();
  std::uint8_t byte();

  bool ok() const { return ok_; }
  bool empty() const { return rest_.empty(); }
  std::size_t left() const { return rest_.size(); }

 private:
  std::uint64_t fail();

  std::string_view rest_;
  bool ok_ = true;
};

}  // namespace lockmgr::trace
