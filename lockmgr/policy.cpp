#include "lockmgr/policy.h"

#include <algorithm>
#include <cerrno>

namespace lockmgr {

const std::vector<std::string_view>& Policy::names() {
  static const std::vector<std::string_view> kNames{"nfs"};
  return kNames;
}

std::optional<Policy> Policy::named(std::string_view name) {
  const auto& known = names();
  const auto it = std::find(known.begin(), known.end(), name);
  if (it == known.end()) return std::nullopt;
  return Policy(*it);
}

int Policy::check_open_mode(OwnerType type, Mode mode, bool readable, bool writable) const {
  if (type != OwnerType::kFlock) return 0;
  if (mode == Mode::kExclusive && !writable) return EBADF;
  if (mode == Mode::kShared && !readable) return EBADF;
  return 0;
}

const char* to_string(OwnerType type) {
  switch (type) {
    case OwnerType::kProcess:
      return "posix";
    case OwnerType::kOpenFile:
      return "ofd";
    case OwnerType::kFlock:
      return "flock";
  }
  return "unknown";
}

}  // namespace lockmgr
