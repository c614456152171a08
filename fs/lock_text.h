/// How messages, journal fields and the control socket spell an owner: "flock:00ab54a98ceb1f0a".
#pragma once

#include <fmt/format.h>

#include <string>

#include "lockmgr/owner.h"

namespace lockfs {

inline std::string owner_name(const lockmgr::OwnerId& id) {
  return fmt::format("{}:{:016x}", lockmgr::to_string(id.type), id.cookie);
}

}  // namespace lockfs
