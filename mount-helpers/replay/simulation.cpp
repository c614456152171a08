#include "mount-helpers/replay/simulation.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <map>
#include <queue>
#include <tuple>
#include <utility>

#include "lockmgr/file_locks.h"
#include "lockmgr/lock_manager.h"
#include "mount-helpers/replay/simulated_file.h"

namespace replay {

namespace {

using lockmgr::Mode;
using lockmgr::trace::EventType;
using lockmgr::trace::TraceOwner;

/// How often the daemon tells the manager that time passes, and how long it is worth while when
/// nothing else happens.
constexpr Nanoseconds kTickEvery = std::chrono::milliseconds(250);
constexpr int kMostIdleTicks = 400;

/// Something that will happen. Of two at one time, what came first in the trace comes first.
struct Due {
  enum class What : std::uint8_t { kStep, kGiveUp, kServeRemote, kRecorded, kTick };
  Nanoseconds time{0};
  std::size_t order = 0;  ///< position in the trace
  What what = What::kStep;
  Index actor = 0;
  std::size_t step = 0;

  friend bool operator>(const Due& a, const Due& b) {
    return std::pair(a.time, a.order) > std::pair(b.time, b.order);
  }
};

/// A trace that somebody made up may ask for more time than there is.
Nanoseconds later(Nanoseconds time, Nanoseconds by) {
  constexpr Nanoseconds kMost = std::chrono::hours(24 * 365 * 200);
  return time > kMost - by ? kMost : time + by;
}

class Simulation final : private lockmgr::Observer {
 public:
  Simulation(const Trace& trace, const Scripts& scripts, const Choice& choice);
  ~Simulation() override;
  Simulation(const Simulation&) = delete;
  Simulation& operator=(const Simulation&) = delete;

  Outcome run();

 private:
  struct FileState {
    FileState(const bool& follows, const SimulatedFile::Moment& now) : backing(follows, now) {}
    SimulatedFile backing;
    std::shared_ptr<lockmgr::FileLocks> locks;
    std::uint64_t waiting = 0;
  };
  struct OpenState {
    std::unique_ptr<lockmgr::Opened> opened;
    std::uint64_t waiting = 0;
    bool closes = false;  ///< as soon as nobody waits through it
  };
  struct ActorState {
    std::size_t step = 0;  ///< under way
    std::optional<Nanoseconds> waits_since;
    lockmgr::Ticket ticket = 0;
  };
  struct Completed {
    Index actor;
    int error;
  };

  void event(const lockmgr::FileLocks& file, const lockmgr::Event& event) override;

  void schedule(Index actor, Nanoseconds after);
  void carry_out(const Due& due);
  void ask(Index actor, const Step& step, const TraceEvent& event);
  std::optional<int> ask_local(Index actor, const TraceEvent& event);
  std::optional<int> ask_remote(Index actor, const Step& step, const TraceEvent& event);
  void flush(const TraceEvent& event);
  void close(Index open);
  void close_if_due(Index open);
  void give_up(Index actor);
  void settle();
  void park(Index actor, const Step& step, const TraceEvent& event);
  void answered(Index actor, int error);
  void count(Index actor, const TraceEvent& event, int error, std::optional<Nanoseconds> waited);
  void note_queue(std::int64_t change, Index file);
  void tick(bool recorded);
  void happen(const TraceEvent& event);
  void diverge();
  void finish();

  const TraceEvent& event_of(Index actor) const {
    return trace_.events[scripts_.actors[actor][actors_[actor].step].event];
  }
  Index file_of(const TraceEvent& event) const { return trace_.opens[event.open].file; }
  Holders::Who who(Index actor, const TraceEvent& event) const;
  lockmgr::OwnerId owner_id(Index owner) const {
    return {trace_.owners[owner].type, trace_.owners[owner].identity};
  }

  const Trace& trace_;
  const Scripts& scripts_;
  const bool switches_;
  bool follows_;  ///< the outside is taken from the trace
  SimulatedFile::Moment moment_;
  lockmgr::LockManager manager_;
  std::vector<std::unique_ptr<FileState>> files_;
  std::map<const lockmgr::FileLocks*, Index> file_index_;
  std::vector<OpenState> opens_;
  std::vector<ActorState> actors_;
  std::priority_queue<Due, std::vector<Due>, std::greater<>> due_;
  std::vector<Completed> completed_;
  std::vector<Index> touched_;    ///< files where outsiders may have their turn now
  std::vector<Index> wait_file_;  ///< of each recorded wait at a backing
  Holders holders_;
  Outcome outcome_;
  Nanoseconds now_{0};
  std::uint64_t waiting_ = 0;
  Nanoseconds queue_noted_{0};
  double queue_area_ = 0;
  bool as_recorded_ = true;  ///< so far every answer was
  bool ticking_ = false;     ///< a tick of our own is due
  int idle_ticks_ = 0;
};

lockmgr::LockManager::Clock::time_point clock_time(const Trace& trace, Nanoseconds time) {
  // Far from the clock's 0, so that "a while ago" is a time too.
  return lockmgr::LockManager::Clock::time_point(std::chrono::hours(24) + trace.head.phase + time);
}

/// Whether the answers of a trace are those of this policy.
bool is_of(const Trace& trace, const lockmgr::Policy& policy) {
  lockmgr::Policy recorded;
  return !trace.head.generated && lockmgr::Policy::parse(trace.head.policy, {}, recorded).empty() &&
         recorded == policy;
}

Simulation::Simulation(const Trace& trace, const Scripts& scripts, const Choice& choice)
    : trace_(trace),
      scripts_(scripts),
      switches_(choice.switches),
      follows_(is_of(trace, choice.policy)),
      manager_(lockmgr::Limits{}, choice.policy, this) {
  manager_.set_time(clock_time(trace_, now_));
  manager_.watch(true);
  for (Index i = 0; i < trace.files.size(); ++i) {
    auto state = std::make_unique<FileState>(follows_, moment_);
    state->locks = manager_.open_file({0, i}, state->backing.backing());
    file_index_[state->locks.get()] = i;
    files_.push_back(std::move(state));
  }
  opens_.resize(trace.opens.size());
  actors_.resize(trace.actors.size());
  outcome_.actors.resize(trace.actors.size());
  outcome_.answers.resize(scripts.asks);
  for (Index i = 0; i < trace.actors.size(); ++i) {
    if (scripts.actors[i].empty()) continue;
    outcome_.actors[i].begin = scripts.actors[i].front().think;
    due_.push(
        {scripts.actors[i].front().think, scripts.actors[i].front().event, Due::What::kStep, i, 0});
  }
  for (const std::size_t i : scripts.others) {
    due_.push({trace.events[i].time, i, Due::What::kRecorded, 0, i});
  }
  for (const TraceEvent& event : trace.events) {
    if (event.type != EventType::kOutside) continue;
    const bool waits = event.said == lockmgr::trace::OutsideSaid::kWait;
    files_[event.file]->backing.tell(event.time, event.call,
                                     {event.said, event.error, wait_file_.size()});
    if (waits) wait_file_.push_back(event.file);
  }
}

Simulation::~Simulation() {
  for (Index i = 0; i < opens_.size(); ++i) {
    if (opens_[i].opened != nullptr) files_[trace_.opens[i].file]->locks->close(*opens_[i].opened);
  }
}

Holders::Who Simulation::who(Index actor, const TraceEvent& event) const {
  return {owner_id(event.owner), trace_.owners[event.owner].remote, trace_.actors[actor].pid,
          actor};
}

/// What the manager has granted or taken: the truth about holders, whatever the answers say.
void Simulation::event(const lockmgr::FileLocks& file, const lockmgr::Event& event) {
  const Index index = file_index_.at(&file);
  if (event.kind == lockmgr::EventKind::kGrant) {
    // The thread id is the actor's number here; see ask_local().
    const auto actor = static_cast<Index>(event.caller.tid - 1);
    const Holders::Who who{event.owner, false, trace_.actors[actor].pid, actor};
    holders_.grant(index, who, event.range, event.mode, now_);
  } else if (event.kind == lockmgr::EventKind::kRelease ||
             event.kind == lockmgr::EventKind::kRevoke) {
    holders_.release(index, event.owner, false, event.range, now_);
  }
}

// -- steps ---------------------------------------------------------------------------------------

/// Has the actor's next step come `after` from now.
void Simulation::schedule(Index actor, Nanoseconds after) {
  const auto& script = scripts_.actors[actor];
  const std::size_t step = actors_[actor].step;
  if (step == script.size()) return;
  due_.push({later(now_, after), script[step].event, Due::What::kStep, actor, step});
}

void Simulation::carry_out(const Due& due) {
  switch (due.what) {
    case Due::What::kGiveUp:
      // Only if it still waits in that same step.
      if (actors_[due.actor].step == due.step && actors_[due.actor].waits_since) give_up(due.actor);
      return;
    case Due::What::kServeRemote: {
      const TraceEvent& event = event_of(due.actor);
      files_[file_of(event)]->backing.force(event.owner, event.range, event.mode);
      touched_.push_back(file_of(event));
      completed_.push_back({due.actor, 0});
      return;
    }
    case Due::What::kRecorded:
      happen(trace_.events[due.step]);
      return;
    case Due::What::kTick:
      tick(false);
      return;
    case Due::What::kStep:
      break;
  }
  idle_ticks_ = 0;
  const Step& step = scripts_.actors[due.actor][due.step];
  const TraceEvent& event = trace_.events[step.event];
  if (event.type == EventType::kAsk) {
    ask(due.actor, step, event);
    return;
  }
  touched_.push_back(file_of(event));
  if (event.type == EventType::kFlush) flush(event);
  if (event.type == EventType::kClose) close(event.open);
  outcome_.actors[due.actor].end = now_;
  ++actors_[due.actor].step;
  const auto& script = scripts_.actors[due.actor];
  const std::size_t next = actors_[due.actor].step;
  if (next < script.size()) schedule(due.actor, script[next].think);
}

void Simulation::ask(Index actor, const Step& step, const TraceEvent& event) {
  if (event.mode != Mode::kNone) ++outcome_.asked;
  touched_.push_back(file_of(event));
  const bool remote = trace_.owners[event.owner].remote;
  const std::optional<int> result =
      remote ? ask_remote(actor, step, event) : ask_local(actor, event);
  if (result) {
    answered(actor, *result);
  } else {
    park(actor, step, event);
  }
}

std::optional<int> Simulation::ask_local(Index actor, const TraceEvent& event) {
  OpenState& open = opens_[event.open];
  if (open.opened == nullptr) {
    const auto& made = trace_.opens[event.open];
    open.opened = std::make_unique<lockmgr::Opened>(made.readable, made.writable);
  }
  lockmgr::Request request;
  request.owner = owner_id(event.owner);
  // Thread ids of a trace may come again or be unknown; numbers of actors don't.
  request.caller = {trace_.actors[actor].pid, static_cast<pid_t>(actor + 1),
                    trace_.actors[actor].uid};
  request.range = event.range;
  request.mode = event.mode;
  request.wait = event.wait;
  lockmgr::FileLocks& locks = *files_[file_of(event)]->locks;
  // As the daemon does.
  lockmgr::Refusal refusal = lockmgr::Refusal::kNone;
  if (const auto now = locks.try_now(*open.opened, request, &refusal)) return now;
  const lockmgr::Ticket ticket = manager_.new_ticket();
  actors_[actor].ticket = ticket;
  const auto now = locks.park(
      *open.opened, request, ticket,
      [this, actor](int error) {
        completed_.push_back({actor, error});
      },
      refusal);
  while (manager_.has_searches()) manager_.search();
  return now;
}

std::optional<int> Simulation::ask_remote(Index actor, const Step& step, const TraceEvent& event) {
  const Index file = file_of(event);
  if (follows_ && step.recorded && step.recorded->error == 0) {
    if (const Nanoseconds waits = step.recorded->waited; waits.count() > 0) {
      due_.push({later(now_, waits), SIZE_MAX, Due::What::kServeRemote, actor, 0});
      return std::nullopt;
    }
    files_[file]->backing.force(event.owner, event.range, event.mode);
    holders_.grant(file, who(actor, event), event.range, event.mode, now_);
    return 0;
  }
  const auto result =
      files_[file]->backing.ask(event.owner, event.range, event.mode, event.wait, [this, actor] {
        completed_.push_back({actor, 0});
      });
  // A remote holder is no event of the manager's.
  if (result == 0 && event.mode != Mode::kNone) {
    holders_.grant(file, who(actor, event), event.range, event.mode, now_);
  } else if (result == 0) {
    holders_.release(file, owner_id(event.owner), true, event.range, now_);
  }
  return result;
}

void Simulation::flush(const TraceEvent& event) {
  FileState& file = *files_[file_of(event)];
  const TraceOwner& owner = trace_.owners[event.owner];
  if (owner.remote) {
    file.backing.release_all(event.owner);
    holders_.release(file_of(event), owner_id(event.owner), true, lockmgr::kWholeFile, now_);
  } else {
    file.locks->close_by_process(owner.identity);
  }
}

void Simulation::close(Index open) {
  opens_[open].closes = true;
  close_if_due(open);
}

/// The kernel sends the last close when no call uses the open file any more.
void Simulation::close_if_due(Index open) {
  OpenState& state = opens_[open];
  if (!state.closes || state.waiting != 0) return;
  state.closes = false;
  if (state.opened == nullptr) return;
  touched_.push_back(trace_.opens[open].file);
  files_[trace_.opens[open].file]->locks->close(*state.opened);
  state.opened.reset();
}

// -- waiting -------------------------------------------------------------------------------------

void Simulation::park(Index actor, const Step& step, const TraceEvent& event) {
  ActorState& state = actors_[actor];
  state.waits_since = now_;
  ++opens_[event.open].waiting;
  note_queue(1, file_of(event));
  if (step.patience) {
    due_.push({later(now_, *step.patience), step.gives_up, Due::What::kGiveUp, actor, state.step});
  }
}

void Simulation::give_up(Index actor) {
  const TraceEvent& event = event_of(actor);
  const int error = scripts_.actors[actor][actors_[actor].step].gives_up_with;
  touched_.push_back(file_of(event));
  if (trace_.owners[event.owner].remote) {
    files_[file_of(event)]->backing.forget(event.owner);
    completed_.push_back({actor, error});
  } else {
    manager_.cancel(actors_[actor].ticket, error);
  }
}

/// Serves all who can be served now that something has changed.
void Simulation::settle() {
  while (!touched_.empty() || !completed_.empty()) {
    for (const Index file : std::exchange(touched_, {})) {
      if (files_[file]->backing.settle()) touched_.push_back(file);
    }
    for (const Completed& done : std::exchange(completed_, {})) answered(done.actor, done.error);
  }
}

void Simulation::answered(Index actor, int error) {
  ActorState& state = actors_[actor];
  const Step& step = scripts_.actors[actor][state.step];
  const TraceEvent& event = trace_.events[step.event];
  std::optional<Nanoseconds> waited;
  if (state.waits_since) {
    waited = now_ - *state.waits_since;
    const bool remote = trace_.owners[event.owner].remote;
    outcome_.stays.push_back({file_of(event), actor, false, event.mode, *state.waits_since, now_});
    state.waits_since.reset();
    note_queue(-1, file_of(event));
    if (remote && error == 0) {
      holders_.grant(file_of(event), who(actor, event), event.range, event.mode, now_);
    }
  }
  count(actor, event, error, waited);
  const Answer answer{error, waited.value_or(Nanoseconds(0))};
  outcome_.answers[step.ask] = answer;
  // What outsiders were told nobody has recorded.
  if (step.recorded == answer || trace_.owners[event.owner].remote) {
    ++outcome_.as_recorded;
  } else {
    as_recorded_ = false;
    diverge();
  }
  ++state.step;
  const auto& script = scripts_.actors[actor];
  if (state.step < script.size()) {
    const TraceEvent& next = trace_.events[script[state.step].event];
    const bool lets_go = next.type != EventType::kAsk || next.mode == Mode::kNone;
    const bool lost = error != 0 && step.recorded && step.recorded->error == 0;
    schedule(actor, lost && lets_go ? Nanoseconds(0) : script[state.step].think);
  }
  if (waited) {
    --opens_[event.open].waiting;
    close_if_due(event.open);
  }
}

void Simulation::count(Index actor, const TraceEvent& event, int error,
                       std::optional<Nanoseconds> waited) {
  ActorOutcome& mine = outcome_.actors[actor];
  mine.end = now_;
  if (waited) mine.waiting += *waited;
  if (event.mode == Mode::kNone) return;
  if (error == 0) {
    ++outcome_.grants;
    ++mine.grants;
    if (waited) outcome_.waits.push_back(*waited);
  } else if (error == EAGAIN) {
    ++outcome_.refusals;
  } else if (error == EDEADLK) {
    ++outcome_.deadlocks;
  } else if (error == EINTR) {
    ++outcome_.given_up;
  } else {
    ++outcome_.errors;
  }
}

void Simulation::note_queue(std::int64_t change, Index file) {
  queue_area_ += static_cast<double>(waiting_) * static_cast<double>((now_ - queue_noted_).count());
  queue_noted_ = now_;
  waiting_ += static_cast<std::uint64_t>(change);
  std::uint64_t& here = files_[file]->waiting;
  here += static_cast<std::uint64_t>(change);
  outcome_.queue.most = std::max(outcome_.queue.most, waiting_);
  outcome_.queue.most_on_file = std::max(outcome_.queue.most_on_file, here);
}

void Simulation::tick(bool recorded) {
  if (!recorded) {
    ticking_ = false;
    ++idle_ticks_;
  }
  manager_.relent(manager_.now());
  for (Index i = 0; i < files_.size(); ++i) touched_.push_back(i);
}

/// What no actor did.
void Simulation::happen(const TraceEvent& event) {
  lockmgr::Policy policy;
  lockmgr::Range taken;
  switch (event.type) {
    case EventType::kTick:
      if (as_recorded_) tick(true);
      return;
    case EventType::kRevoke:
      // Under another policy there may be nothing to take away.
      std::ignore = files_[event.file]->locks->revoke(owner_id(event.owner), event.range, taken);
      touched_.push_back(event.file);
      return;
    case EventType::kOutsideEnd:
      if (follows_)
        files_[wait_file_[event.wait_number]]->backing.end_wait(event.wait_number, event.error);
      touched_.push_back(wait_file_[event.wait_number]);
      return;
    case EventType::kPolicy:
      if (!switches_) {
        diverge();
      } else if (lockmgr::Policy::parse(trace_.policies[event.policy], {}, policy).empty()) {
        manager_.switch_policy(policy);
        for (Index i = 0; i < files_.size(); ++i) touched_.push_back(i);
      }
      return;
    default:
      return;
  }
}

/// From now on the trace says no more what those outside do.
void Simulation::diverge() {
  if (!std::exchange(follows_, false)) return;
  for (Index i = 0; i < files_.size(); ++i) touched_.push_back(i);
}

// -- the whole -----------------------------------------------------------------------------------

Outcome Simulation::run() {
  while (!due_.empty()) {
    const Due due = due_.top();
    due_.pop();
    now_ = due.time;
    manager_.set_time(clock_time(trace_, now_));
    ++moment_.turn;
    moment_.time = now_;
    const std::uint64_t waited_before = waiting_;
    carry_out(due);
    settle();
    if (waiting_ != waited_before) idle_ticks_ = 0;
    // As long as all is as recorded, time passes for the manager when it did in the recording.
    const bool own_ticks = !as_recorded_ || trace_.head.generated;
    if (own_ticks && !ticking_ && waiting_ > 0 && idle_ticks_ < kMostIdleTicks) {
      ticking_ = true;
      due_.push({later(now_, kTickEvery), SIZE_MAX, Due::What::kTick, 0, 0});
    }
  }
  finish();
  return std::move(outcome_);
}

/// Nothing can happen any more: who waits now waits for ever.
void Simulation::finish() {
  // Ticks that changed nothing are no part of what happened.
  for (const ActorOutcome& actor : outcome_.actors) {
    outcome_.length = std::max(outcome_.length, actor.end);
  }
  now_ = outcome_.length;
  for (Index i = 0; i < actors_.size(); ++i) {
    ActorState& state = actors_[i];
    if (!state.waits_since) continue;
    ++outcome_.stuck;
    const TraceEvent& event = event_of(i);
    const Nanoseconds since = std::min(*state.waits_since, now_);
    outcome_.stays.push_back({file_of(event), i, false, event.mode, since, now_});
    outcome_.actors[i].end = now_;
    outcome_.actors[i].waiting += now_ - since;
    state.waits_since.reset();
    if (trace_.owners[event.owner].remote) files_[file_of(event)]->backing.forget(event.owner);
  }
  // A request that was never answered is as recorded if it was not answered then either.
  for (const auto& script : scripts_.actors) {
    for (const Step& step : script) {
      const bool asks = trace_.events[step.event].type == EventType::kAsk;
      if (asks && !step.recorded && !outcome_.answers[step.ask]) ++outcome_.as_recorded;
    }
  }
  if (outcome_.length.count() > 0) {
    outcome_.queue.mean = queue_area_ / static_cast<double>(outcome_.length.count());
  }
  std::sort(outcome_.waits.begin(), outcome_.waits.end());
  manager_.watch(false);
  manager_.shut_down(EINTR);
  for (const auto& file : files_) file->backing.settle();
  completed_.clear();
  holders_.end(now_);
  outcome_.hazard_count = holders_.hazard_count();
  outcome_.hazards = holders_.hazards();
  outcome_.stays.insert(outcome_.stays.end(), holders_.stays().begin(), holders_.stays().end());
}

}  // namespace

std::string choose(const Trace& trace, const std::string& name, Choice& choice) {
  const std::string recorded = trace.head.policy.empty() ? "nfs" : trace.head.policy;
  choice.switches = name == "recorded";
  choice.name = choice.switches && trace.policies.empty() ? recorded : name;
  return lockmgr::Policy::parse(choice.switches ? recorded : name, {}, choice.policy);
}

Outcome simulate(const Trace& trace, const Scripts& scripts, const Choice& choice) {
  Simulation simulation(trace, scripts, choice);
  Outcome outcome = simulation.run();
  outcome.policy = choice.name;
  return outcome;
}

}  // namespace replay
