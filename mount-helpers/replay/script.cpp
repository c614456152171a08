#include "mount-helpers/replay/script.h"

#include <algorithm>
#include <cerrno>

namespace replay {

using lockmgr::trace::EventType;

namespace {

/// Where the answer to each ask is, by the ask's number; SIZE_MAX: nowhere.
std::vector<std::size_t> find_answers(const Trace& trace) {
  std::vector<std::size_t> answers;
  for (std::size_t i = 0; i < trace.events.size(); ++i) {
    const TraceEvent& event = trace.events[i];
    if (event.type == EventType::kAsk) answers.push_back(SIZE_MAX);
    if (event.type == EventType::kAnswer) answers[event.ask] = i;
  }
  return answers;
}

/// Fills in what came of an ask. Returns when it ended.
Nanoseconds conclude(Step& step, const Trace& trace, std::size_t answer) {
  const TraceEvent& ask = trace.events[step.event];
  if (ask.patience.count() > 0) step.patience = ask.patience;
  if (answer == SIZE_MAX) return ask.time;
  const TraceEvent& end = trace.events[answer];
  step.recorded = {end.error, end.time - ask.time};
  // A wait that a signal ended, or the end of the mount: it would have ended so under any policy,
  // had it lasted as long.
  if (end.error == EINTR || (end.error != 0 && end.error != EDEADLK && end.time > ask.time)) {
    step.patience = end.time - ask.time;
    step.gives_up_with = end.error;
    step.gives_up = answer;
  }
  return end.time;
}

}  // namespace

Scripts scripts_of(const Trace& trace) {
  Scripts scripts;
  scripts.actors.resize(trace.actors.size());
  const std::vector<std::size_t> answers = find_answers(trace);
  std::vector<Nanoseconds> ended(trace.actors.size(), Nanoseconds(0));
  for (std::size_t i = 0; i < trace.events.size(); ++i) {
    const TraceEvent& event = trace.events[i];
    if (event.type == EventType::kTick || event.type == EventType::kPolicy ||
        event.type == EventType::kRevoke || event.type == EventType::kOutsideEnd) {
      scripts.others.push_back(i);
    }
    const bool asks = event.type == EventType::kAsk;
    if (!asks && event.type != EventType::kFlush && event.type != EventType::kClose) continue;
    Nanoseconds& end = ended[event.actor];
    Step step;
    step.event = i;
    step.think = std::max(event.time - end, Nanoseconds(0));
    if (asks) step.ask = scripts.asks++;
    end = asks ? conclude(step, trace, answers[step.ask]) : event.time;
    scripts.actors[event.actor].push_back(step);
  }
  return scripts;
}

}  // namespace replay
