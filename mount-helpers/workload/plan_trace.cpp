#include "mount-helpers/workload/plan_trace.h"

#include <algorithm>
#include <map>
#include <utility>
#include <vector>

namespace workload {

namespace {

using lockmgr::OwnerType;
using lockmgr::trace::EventType;
using lockmgr::trace::Index;
using lockmgr::trace::Trace;
using lockmgr::trace::TraceEvent;

constexpr pid_t kFirstPid = 1000;

/// Writes the events of one program, in their order.
class ProgramTracer {
 public:
  ProgramTracer(Trace& trace, const Program& program)
      : trace_(trace), program_(program), actor_(static_cast<Index>(trace.actors.size())) {
    const auto pid = static_cast<pid_t>(kFirstPid + static_cast<pid_t>(actor_));
    trace.actors.push_back({pid, pid, 0, program.name});
    process_ = static_cast<Index>(trace.owners.size());
    trace.owners.push_back({OwnerType::kProcess, program.remote, identity()});
  }

  /// Events without their answers; TraceEvent::ask is not set yet.
  std::vector<TraceEvent> events();

 private:
  /// Of the process or open file about to be added.
  [[nodiscard]] std::uint64_t identity() const { return trace_.owners.size(); }
  void open(std::size_t file);
  Index owner_of(OwnerType type, std::size_t file);

  Trace& trace_;
  const Program& program_;
  const Index actor_;
  Index process_ = 0;
  std::map<std::size_t, Index> opens_;                           ///< by file
  std::map<std::size_t, std::uint64_t> identities_;              ///< of open files, by file
  std::map<std::pair<std::uint64_t, OwnerType>, Index> owners_;  ///< by identity of the open file
};

void ProgramTracer::open(std::size_t file) {
  opens_[file] = static_cast<Index>(trace_.opens.size());
  trace_.opens.push_back({static_cast<Index>(file), true, true});
  identities_[file] = 0;
}

Index ProgramTracer::owner_of(OwnerType type, std::size_t file) {
  if (type == OwnerType::kProcess || program_.remote) return process_;
  std::uint64_t& id = identities_.at(file);
  if (id == 0) id = identity();
  const auto [it, fresh] =
      owners_.try_emplace({id, type}, static_cast<Index>(trace_.owners.size()));
  if (fresh) trace_.owners.push_back({type, false, id});
  return it->second;
}

std::vector<TraceEvent> ProgramTracer::events() {
  std::vector<TraceEvent> events;
  Nanoseconds now = program_.start;
  for (const Action& action : program_.actions) {
    TraceEvent event;
    event.time = now;
    event.actor = actor_;
    switch (action.what) {
      case Action::What::kSleep:
        now += action.time;
        continue;
      case Action::What::kOpen:
        open(action.file);
        continue;
      case Action::What::kLock:
        event.type = EventType::kAsk;
        event.open = opens_.at(action.file);
        event.owner = owner_of(action.type, action.file);
        event.range = action.range;
        event.mode = action.mode;
        event.wait = action.wait;
        event.patience = action.patience;
        break;
      case Action::What::kClose:
        event.type = EventType::kFlush;
        event.open = opens_.at(action.file);
        event.owner = process_;
        events.push_back(event);
        event.type = EventType::kClose;
        break;
    }
    events.push_back(event);
  }
  return events;
}

}  // namespace

Trace trace_of(const Plan& plan, const std::string& program) {
  Trace trace;
  trace.head.generated = true;
  trace.head.program = program;
  for (std::size_t i = 0; i < plan.files.size(); ++i) trace.files.push_back({0, i, plan.files[i]});
  std::vector<TraceEvent> all;
  for (const Program& one : plan.programs) {
    const std::vector<TraceEvent> events = ProgramTracer(trace, one).events();
    all.insert(all.end(), events.begin(), events.end());
  }
  std::stable_sort(all.begin(), all.end(),
                   [](const TraceEvent& a, const TraceEvent& b) { return a.time < b.time; });
  std::uint64_t asks = 0;
  for (const TraceEvent& event : all) {
    trace.events.push_back(event);
    if (event.type != EventType::kAsk) continue;
    TraceEvent answer;
    answer.type = EventType::kAnswer;
    answer.time = event.time;
    answer.ask = asks++;
    trace.events.push_back(answer);
  }
  return trace;
}

}  // namespace workload
