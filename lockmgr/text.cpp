#include "lockmgr/text.h"

#include <array>
#include <cinttypes>
#include <cstdio>

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

}  // namespace lockmgr
