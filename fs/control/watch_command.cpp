// "watch": what happens to locks, as it happens.
#include <chrono>

#include "fs/control/commands.h"
#include "lockmgr/file_locks.h"

namespace lockfs::control {

Outcome watch(Context& context, const Call& call) {
  WatchFilter filter{FileFilter(context, call.request),
                     static_cast<pid_t>(number_in(call.request, "pid").value_or(0))};
  Outcome outcome = done(call, "watching", true);
  outcome.watch = filter;
  return outcome;
}

std::string event_line(const Context& context, const FeedItem& item) {
  const lockmgr::Event& event = item.event;
  const std::chrono::duration<double> time = item.time.time_since_epoch();
  Json json = {{"event", lockmgr::to_string(event.kind)}, {"time", time.count()}};
  json.update(file_json(context, *item.file));
  add_owner(json, event.owner, event.caller);
  add_range(json, event.range, event.mode);
  json["waited_ms"] = static_cast<double>(event.waited.count()) / 1e6;
  json["errno"] = event.error;
  return line_of(json);
}

std::string lost_line(std::uint64_t count) {
  return line_of({{"event", "dropped"}, {"count", count}});
}

}  // namespace lockfs::control
