/// The words of the control protocol: JSON in, JSON out, one object a line. The protocol as peers
/// see it is described in mount-helpers/lockfsctl/PROTOCOL.md.
///
/// Thread safety: free functions without state.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "lockmgr/owner.h"
#include "lockmgr/range.h"
#include "lockmgr/text.h"

namespace lockfs::control {

using Json = nlohmann::ordered_json;

/// The version of the protocol; a request names it as "v".
inline constexpr int kProtocol = 1;

/// Why a request cannot be carried out; thrown by commands and answered to the peer.
struct Failure {
  const char* code;     ///< a word for programs, such as "bad_request"
  std::string message;  ///< one line for people: the bad thing and the remedy
};

// -- requests: each throws Failure{"bad_request"} for a value of the wrong kind -------------------

/// A whole number from 0 to INT64_MAX; nothing when it is absent or null.
std::optional<std::int64_t> number_in(const Json& request, const char* name);
/// A string; nothing when it is absent or null.
std::optional<std::string> text_in(const Json& request, const char* name);
/// "start" and "end", both inclusive and both optional.
lockmgr::Range range_in(const Json& request);
/// "owner": "TYPE:COOKIE" as replies show it.
std::optional<lockmgr::OwnerId> owner_in(const Json& request);

// -- replies --------------------------------------------------------------------------------------

/// One line with its newline. Bytes that are no UTF-8 (names of files) are replaced.
std::string line_of(const Json& json);
/// {"id":..,"ok":false,"code":..,"error":..} as a line.
std::string error_line(const Json& id, const char* code, const std::string& message);

/// The last byte; null for the end of all files.
Json last_json(lockmgr::Offset last);
/// Adds "type", "owner", "pid", "tid", "uid".
void add_owner(Json& json, const lockmgr::OwnerId& owner, const lockmgr::Caller& caller);
/// Adds "mode", "start", "end".
void add_range(Json& json, const lockmgr::Range& range, lockmgr::Mode mode);

}  // namespace lockfs::control
