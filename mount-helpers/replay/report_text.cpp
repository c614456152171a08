#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "mount-helpers/replay/report.h"

namespace replay {

namespace {

double seconds(Nanoseconds time) { return std::chrono::duration<double>(time).count(); }

}  // namespace

std::string readable(Nanoseconds time) {
  const auto ns = static_cast<double>(time.count());
  if (time.count() == 0) return "0";
  if (ns < 1e3) return fmt::format("{:.0f} ns", ns);
  if (ns < 1e6) return fmt::format("{:.3g} us", ns / 1e3);
  if (ns < 999.5e6) return fmt::format("{:.3g} ms", ns / 1e6);
  return fmt::format("{:.2f} s", ns / 1e9);
}

const std::vector<Row>& rows() {
  static const std::vector<Row> kRows = {
      {"locks asked for", "requests for a lock, unlocks not counted",
       [](const Summary& s) { return std::to_string(s.asked); }},
      {"granted", "at once or after waiting",
       [](const Summary& s) { return std::to_string(s.grants); }},
      {"refused", "EAGAIN: somebody held a conflicting lock and the caller would not wait",
       [](const Summary& s) { return std::to_string(s.refusals); }},
      {"deadlocks", "EDEADLK", [](const Summary& s) { return std::to_string(s.deadlocks); }},
      {"given up", "EINTR: a signal or a time-out ended the wait",
       [](const Summary& s) { return std::to_string(s.given_up); }},
      {"other errors", "EBADF, ENOLCK and others",
       [](const Summary& s) { return std::to_string(s.errors); }},
      {"waiting at the end", "never answered: nothing was left that could have ended the wait",
       [](const Summary& s) { return std::to_string(s.stuck); }},
      {"granted after waiting", "the waiting times below are of these",
       [](const Summary& s) { return std::to_string(s.waited); }},
      {"wait, mean", "", [](const Summary& s) { return readable(s.wait_mean); }},
      {"wait, median", "", [](const Summary& s) { return readable(s.wait_p50); }},
      {"wait, 99 %", "99 of 100 waits were not longer",
       [](const Summary& s) { return readable(s.wait_p99); }},
      {"wait, longest", "", [](const Summary& s) { return readable(s.wait_max); }},
      {"queue, mean", "requests waiting, on all files, over time",
       [](const Summary& s) { return fmt::format("{:.2f}", s.queue.mean); }},
      {"queue, longest", "on one file",
       [](const Summary& s) { return std::to_string(s.queue.most_on_file); }},
      {"fairness",
       "Jain's index of the part of its time that each thread did not wait; 1: all alike",
       [](const Summary& s) { return fmt::format("{:.3f}", s.fairness); }},
      {"grants a second", "of simulated time",
       [](const Summary& s) { return fmt::format("{:.4g}", s.throughput); }},
      {"lost exclusion", "two programs held locks at once that an NFS client would have kept apart",
       [](const Summary& s) { return std::to_string(s.hazards); }},
      {"simulated time", "", [](const Summary& s) { return readable(s.length); }},
      {"answers as recorded", "of all requests, unlocks included; the waits equal too",
       [](const Summary& s) { return fmt::format("{} of {}", s.as_recorded, s.requests); }},
  };
  return kRows;
}

std::string text_report(const Comparison& comparison) {
  std::vector<Summary> summaries;
  for (const Outcome& outcome : comparison.outcomes) summaries.push_back(summarise(outcome));
  std::vector<std::size_t> widths;
  for (const Summary& s : summaries) {
    std::size_t width = s.policy.size();
    for (const Row& row : rows()) width = std::max(width, row.value(s).size());
    widths.push_back(width);
  }
  std::string out = fmt::format("{:<22}", "");
  for (std::size_t i = 0; i < summaries.size(); ++i) {
    out += fmt::format("  {:>{}}", summaries[i].policy, widths[i]);
  }
  out += '\n';
  for (const Row& row : rows()) {
    // A generated trace holds no answers of anybody.
    if (comparison.trace.head.generated && std::string_view(row.name) == "answers as recorded") {
      continue;
    }
    out += fmt::format("{:<22}", row.name);
    for (std::size_t i = 0; i < summaries.size(); ++i) {
      out += fmt::format("  {:>{}}", row.value(summaries[i]), widths[i]);
    }
    out += '\n';
  }
  return out;
}

std::string json_report(const Comparison& comparison) {
  using Json = nlohmann::ordered_json;
  const Trace& trace = comparison.trace;
  Json json;
  json["trace"] = {{"name", comparison.trace_name},
                   {"generated", trace.head.generated},
                   {"policy", trace.head.policy},
                   {"program", trace.head.program},
                   {"begin", seconds(trace.head.begin)},
                   {"files", trace.files.size()},
                   {"actors", trace.actors.size()},
                   {"events", trace.events.size()},
                   {"lost", trace.lost}};
  json["policies"] = Json::array();
  for (const Outcome& outcome : comparison.outcomes) {
    const Summary s = summarise(outcome);
    Json one = {{"policy", s.policy},
                {"asked", s.asked},
                {"granted", s.grants},
                {"refused", s.refusals},
                {"deadlocks", s.deadlocks},
                {"given_up", s.given_up},
                {"errors", s.errors},
                {"waiting_at_end", s.stuck},
                {"wait",
                 {{"count", s.waited},
                  {"mean", seconds(s.wait_mean)},
                  {"p50", seconds(s.wait_p50)},
                  {"p99", seconds(s.wait_p99)},
                  {"max", seconds(s.wait_max)}}},
                {"queue",
                 {{"mean", s.queue.mean},
                  {"most", s.queue.most},
                  {"most_on_one_file", s.queue.most_on_file}}},
                {"fairness", s.fairness},
                {"throughput", s.throughput},
                {"hazards", s.hazards},
                {"requests", s.requests},
                {"as_recorded", s.as_recorded},
                {"length", seconds(s.length)}};
    one["first_hazards"] = Json::array();
    for (const Hazard& hazard : outcome.hazards) {
      one["first_hazards"].push_back({{"time", seconds(hazard.time)},
                                      {"file", trace.files[hazard.file].name},
                                      {"holder_pid", trace.actors[hazard.holder].pid},
                                      {"intruder_pid", trace.actors[hazard.intruder].pid}});
    }
    json["policies"].push_back(std::move(one));
  }
  // A name need not be UTF-8.
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace replay
