// "set": changes what may change while mounted, all or nothing.
#include <spdlog/spdlog.h>

#include "fs/control/commands.h"

namespace lockfs::control {

Outcome set(Context& context, const Call& call) {
  const auto level = text_in(call.request, "log_level");
  auto wanted = spdlog::level::info;
  if (level) {
    wanted = spdlog::level::from_str(*level);
    if (wanted == spdlog::level::off && *level != "off") {
      throw Failure{"bad_request",
                    "'log_level' is not trace, debug, info, warn, error, critical or off"};
    }
  }
  const auto attr = seconds_in(call.request, "attr_timeout");
  const auto entry = seconds_in(call.request, "entry_timeout");
  const auto negative = seconds_in(call.request, "negative_timeout");

  if (level) spdlog::set_level(wanted);
  Filesystem::CacheTimes& times = context.filesystem.cache_times();
  if (attr) times.attr = *attr;
  if (entry) times.entry = *entry;
  if (negative) times.negative = *negative;
  return done(
      call, "result",
      {{"attr_timeout", times.attr.load()},
       {"entry_timeout", times.entry.load()},
       {"negative_timeout", times.negative.load()},
       {"log_level", std::string(spdlog::level::to_string_view(spdlog::get_level()).data())}});
}

}  // namespace lockfs::control
