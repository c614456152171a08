#include "lockmgr/text.h"

#include <array>
#include <charconv>
#include <cinttypes>
#include <cstdio>
#include <system_error>

namespace lockmgr {

const char* text_of(Mode mode) {
  switch (mode) {
    case Mode::kNone:
      return "none";
    case Mode::kShared:
      return "shared";
    case Mode::kExclusive:
      return "exclusive";
  }
  return "none";
}

std::string text_of(const Range& range) {
  return std::to_string(range.first) + '-' +
         (range.last == kEof ? "EOF" : std::to_string(range.last));
}

std::string text_of(const OwnerId& id) {
  std::array<char, 17> cookie{};
  std::snprintf(cookie.data(), cookie.size(), "%016" PRIx64, id.cookie);
  return std::string(to_string(id.type)) + ':' + cookie.data();
}

std::optional<OwnerId> owner_from(std::string_view text) noexcept {
  const std::size_t colon = text.find(':');
  if (colon == std::string_view::npos) return std::nullopt;
  const std::string_view cookie = text.substr(colon + 1);
  for (const OwnerType type : {OwnerType::kProcess, OwnerType::kOpenFile, OwnerType::kFlock}) {
    if (text.substr(0, colon) != to_string(type)) continue;
    OwnerId id{type, 0};
    const char* const end = cookie.data() + cookie.size();
    const auto [at, error] = std::from_chars(cookie.data(), end, id.cookie, 16);
    if (error == std::errc() && at == end) return id;
  }
  return std::nullopt;
}

}  // namespace lockmgr
