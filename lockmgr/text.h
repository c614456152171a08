/// Owners, ranges and modes in words: one spelling for logs, the control protocol and programs.
///
/// Thread safety: functions without state. Those that return a string may throw std::bad_alloc.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "lockmgr/owner.h"
#include "lockmgr/range.h"

namespace lockmgr {

/// "none", "shared" or "exclusive".
const char* text_of(Mode mode);
/// "FIRST-LAST", both inclusive, or "FIRST-EOF".
std::string text_of(const Range& range);
/// "TYPE:COOKIE", the cookie as sixteen hexadecimal digits.
std::string text_of(const OwnerId& id);
/// What text_of() would write so; with leading zeros left out, too. Else nothing.
std::optional<OwnerId> owner_from(std::string_view text) noexcept;

}  // namespace lockmgr
