#include "lockmgr/trace/bytes.h"

#include <boost/crc.hpp>

#include "lockmgr/trace/format.h"

namespace lockmgr::trace {

void put_varint(std::string& out, std::uint64_t value) {
  while (value >= 0x80) {
    out.push_back(static_cast<char>(value | 0x80));
    value >>= 7;
  }
  out.push_back(static_cast<char>(value));
}

void put_difference(std::string& out, std::int64_t value) {
  const auto doubled = static_cast<std::uint64_t>(value) << 1;
  put_varint(out, value < 0 ? ~doubled : doubled);
}

void put_string(std::string& out, std::string_view text) {
  if (text.size() > kMostString) text = text.substr(0, kMostString);
  put_varint(out, text.size());
  out.append(text);
}

void put_fixed(std::string& out, std::uint64_t value, int bytes) {
  for (int i = 0; i < bytes; ++i) out.push_back(static_cast<char>(value >> (8 * i)));
}

std::uint64_t get_fixed(std::string_view bytes) {
  std::uint64_t value = 0;
  for (std::size_t i = bytes.size(); i > 0; --i) {
    value = value << 8 | static_cast<unsigned char>(bytes[i - 1]);
  }
  return value;
}

std::uint32_t checksum(std::string_view head, std::string_view payload) {
  boost::crc_32_type crc;
  crc.process_bytes(head.data(), head.size());
  crc.process_bytes(payload.data(), payload.size());
  return crc.checksum();
}

std::uint64_t Scanner::fail() {
  ok_ = false;
  rest_ = {};
  return 0;
}

std::uint8_t Scanner::byte() {
  if (rest_.empty()) return static_cast<std::uint8_t>(fail());
  const auto value = static_cast<std::uint8_t>(rest_.front());
  rest_.remove_prefix(1);
  return value;
}

std::uint64_t Scanner::varint() {
  std::uint64_t value = 0;
  for (int shift = 0; shift < 64; shift += 7) {
    const std::uint64_t next = byte();
    if (!ok_) return 0;
    const std::uint64_t bits = next & 0x7f;
    if (shift == 63 && bits > 1) return fail();
    value |= bits << shift;
    if (next < 0x80) return value;
  }
  return fail();
}

std::int64_t Scanner::difference() {
  const std::uint64_t doubled = varint();
  const auto half = static_cast<std::int64_t>(doubled >> 1);
  return (doubled & 1) != 0 ? ~half : half;
}

std::string Scanner::string() {
  const std::uint64_t size = varint();
  if (!ok_ || size > rest_.size() || size > kMostString) {
    fail();
    return {};
  }
  std::string text(rest_.substr(0, size));
  rest_.remove_prefix(size);
  return text;
}

}  // namespace lockmgr::trace
