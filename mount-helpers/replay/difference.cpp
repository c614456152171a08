#include "mount-helpers/replay/difference.h"

#include <fmt/format.h>

#include <cstring>

#include "mount-helpers/replay/report.h"

namespace replay {

using lockmgr::trace::EventType;

namespace {

std::string words(const std::optional<Answer>& answer) {
  if (!answer) return "never answered";
  const char* what = answer->error == 0 ? "granted" : std::strerror(answer->error);
  return fmt::format("{} after {}", what, readable(answer->waited));
}

}  // namespace

std::string first_difference(const Trace& trace, const Scripts& scripts, const Outcome& outcome) {
  const Step* first = nullptr;
  for (const auto& script : scripts.actors) {
    for (const Step& step : script) {
      const TraceEvent& event = trace.events[step.event];
      const bool compared = event.type == EventType::kAsk && !trace.owners[event.owner].remote;
      if (!compared || step.recorded == outcome.answers[step.ask]) continue;
      if (first == nullptr || step.event < first->event) first = &step;
    }
  }
  if (first == nullptr) return {};
  const TraceEvent& event = trace.events[first->event];
  return fmt::format("request {} at {} by pid {} on {}: recorded: {}; now: {}", first->ask,
                     readable(event.time), trace.actors[event.actor].pid,
                     trace.files[trace.opens[event.open].file].name, words(first->recorded),
                     words(outcome.answers[first->ask]));
}

}  // namespace replay
