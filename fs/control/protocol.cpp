#include "fs/control/protocol.h"

#include <fmt/format.h>

#include <cstdlib>
#include <string_view>

namespace lockfs::control {

namespace {

[[noreturn]] void fail(std::string message) { throw Failure{"bad_request", std::move(message)}; }

/// The member called `name`; null when it is absent or null.
const Json* member(const Json& request, const char* name) {
  const auto it = request.find(name);
  return it == request.end() || it->is_null() ? nullptr : &*it;
}

}  // namespace

std::optional<std::int64_t> number_in(const Json& request, const char* name) {
  const Json* value = member(request, name);
  if (value == nullptr) return std::nullopt;
  if (!value->is_number_integer() ||
      (value->is_number_unsigned() && value->get<std::uint64_t>() > std::uint64_t{INT64_MAX}) ||
      value->get<std::int64_t>() < 0) {
    fail(fmt::format("'{}' is not a whole number from 0 on", name));
  }
  return value->get<std::int64_t>();
}

std::optional<std::string> text_in(const Json& request, const char* name) {
  const Json* value = member(request, name);
  if (value == nullptr) return std::nullopt;
  if (!value->is_string()) fail(fmt::format("'{}' is not a string", name));
  return value->get<std::string>();
}

lockmgr::Range range_in(const Json& request) {
  const lockmgr::Range range{number_in(request, "start").value_or(0),
                             number_in(request, "end").value_or(lockmgr::kEof)};
  if (range.first > range.last) fail("'start' is behind 'end'");
  return range;
}

std::optional<lockmgr::OwnerId> owner_in(const Json& request) {
  const auto text = text_in(request, "owner");
  if (!text) return std::nullopt;
  if (const auto owner = lockmgr::owner_from(*text)) return owner;
  fail("'owner' is not TYPE:COOKIE as 'list' shows it");
}

std::string line_of(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace) + '\n';
}

std::string error_line(const Json& id, const char* code, const std::string& message) {
  return line_of({{"id", id}, {"ok", false}, {"code", code}, {"error", message}});
}

Json last_json(lockmgr::Offset last) { return last == lockmgr::kEof ? Json() : Json(last); }

void add_owner(Json& json, const lockmgr::OwnerId& owner, const lockmgr::Caller& caller) {
  json["type"] = lockmgr::to_string(owner.type);
  json["owner"] = text_of(owner);
  json["pid"] = caller.pid;
  json["tid"] = caller.tid;
  json["uid"] = caller.uid;
}

void add_range(Json& json, const lockmgr::Range& range, lockmgr::Mode mode) {
  json["mode"] = text_of(mode);
  json["start"] = range.first;
  json["end"] = last_json(range.last);
}

}  // namespace lockfs::control
