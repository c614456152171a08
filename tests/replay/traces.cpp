#include "tests/replay/traces.h"

#include <gtest/gtest.h>

#include "lockmgr/policy.h"

namespace replay::testing {

using lockmgr::trace::EventType;
using lockmgr::trace::TraceEvent;

TraceBuilder::TraceBuilder() {
  trace.head.policy = "nfs";
  trace.head.program = "test";
  trace.head.begin = std::chrono::hours(24 * 365 * 50);
}

Index TraceBuilder::file(const std::string& name) {
  trace.files.push_back({1, trace.files.size() + 10, name});
  return static_cast<Index>(trace.files.size() - 1);
}

TraceBuilder::Hand TraceBuilder::hand(Index file, bool readable, bool writable,
                                      const Hand* same_program) {
  Hand hand;
  if (same_program != nullptr) {
    hand.actor = same_program->actor;
    hand.posix = same_program->posix;
  } else {
    hand.actor = static_cast<Index>(trace.actors.size());
    const auto pid = static_cast<pid_t>(100 + hand.actor);
    trace.actors.push_back({pid, pid, 1000, "program"});
    hand.posix = static_cast<Index>(trace.owners.size());
    trace.owners.push_back({OwnerType::kProcess, false, trace.owners.size()});
  }
  hand.open = static_cast<Index>(trace.opens.size());
  trace.opens.push_back({file, readable, writable});
  hand.flock = static_cast<Index>(trace.owners.size());
  trace.owners.push_back({OwnerType::kFlock, false, trace.owners.size()});
  return hand;
}

TraceBuilder::Hand TraceBuilder::remote(Index file) {
  const Hand hand = this->hand(file);
  trace.owners[hand.posix].remote = true;
  return hand;
}

TraceEvent& TraceBuilder::add(int at, EventType type) {
  trace.events.emplace_back();
  trace.events.back().type = type;
  trace.events.back().time = milliseconds(at);
  return trace.events.back();
}

std::uint64_t TraceBuilder::ask(int at, const Hand& hand, OwnerType type, Mode mode, bool wait,
                                Range range) {
  TraceEvent& event = add(at, EventType::kAsk);
  event.actor = hand.actor;
  event.open = hand.open;
  event.owner = type == OwnerType::kProcess ? hand.posix : hand.flock;
  event.mode = mode;
  event.wait = wait;
  event.range = range;
  return asks_++;
}

std::uint64_t TraceBuilder::ask_answered(int at, const Hand& hand, OwnerType type, Mode mode,
                                         int error, bool wait, Range range) {
  const std::uint64_t number = ask(at, hand, type, mode, wait, range);
  answer(at, number, error);
  return number;
}

void TraceBuilder::answer(int at, std::uint64_t ask, int error) {
  TraceEvent& event = add(at, EventType::kAnswer);
  event.ask = ask;
  event.error = error;
}

void TraceBuilder::outside(int at, Index file, std::uint32_t call, lockmgr::trace::OutsideSaid said,
                           int error) {
  TraceEvent& event = add(at, EventType::kOutside);
  event.file = file;
  event.call = call;
  event.said = said;
  event.error = error;
}

void TraceBuilder::outside_end(int at, std::uint64_t wait, int error) {
  TraceEvent& event = add(at, EventType::kOutsideEnd);
  event.wait_number = wait;
  event.error = error;
}

void TraceBuilder::switch_to(int at, const std::string& policy) {
  trace.policies.push_back(policy);
  add(at, EventType::kPolicy).policy = static_cast<Index>(trace.policies.size() - 1);
}

void TraceBuilder::revoke(int at, Index file, Index owner) {
  TraceEvent& event = add(at, EventType::kRevoke);
  event.file = file;
  event.owner = owner;
}

void TraceBuilder::close(int at, const Hand& hand) {
  for (const EventType type : {EventType::kFlush, EventType::kClose}) {
    TraceEvent& event = add(at, type);
    event.actor = hand.actor;
    event.open = hand.open;
    if (type == EventType::kFlush) event.owner = hand.posix;
  }
}

Outcome replay(const lockmgr::trace::Trace& trace, const std::string& policy) {
  Choice choice;
  EXPECT_EQ(choose(trace, policy, choice), "");
  return simulate(trace, scripts_of(trace), choice);
}

Told told(const Outcome& outcome, std::uint64_t ask) {
  if (ask >= outcome.answers.size() || !outcome.answers[ask]) return {};
  const Answer& answer = *outcome.answers[ask];
  return {answer.error,
          std::chrono::duration_cast<std::chrono::milliseconds>(answer.waited).count()};
}

std::ostream& operator<<(std::ostream& out, const Told& told) {
  return out << "error " << told.error << " after " << told.waited << " ms";
}

lockmgr::trace::Trace sample() {
  TraceBuilder b;
  const Index mail = b.file("mail/\xc3\xa9t\xc3\xa9");
  const Index data = b.file("<data> & \"more\"");
  const auto first = b.hand(mail);
  const auto second = b.hand(mail, true, false);
  const auto third = b.hand(data);
  b.ask_answered(1, first, OwnerType::kFlock, Mode::kExclusive);
  const auto waits = b.ask(2, second, OwnerType::kFlock, Mode::kShared);
  b.ask_answered(3, third, OwnerType::kProcess, Mode::kExclusive, 0, true, {100, 199});
  b.ask_answered(3, third, OwnerType::kProcess, Mode::kNone, 0, false, {150, lockmgr::kEof});
  b.ask_answered(4, third, OwnerType::kFlock, Mode::kShared, EAGAIN, false);
  b.close(7, first);
  b.answer(7, waits);
  b.close(9, second);
  b.close(11, third);
  return b.trace;
}

}  // namespace replay::testing
