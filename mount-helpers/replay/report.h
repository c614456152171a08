/// A comparison of policies on one trace, as text, JSON or a page for a browser.
#pragma once

#include <string>
#include <vector>

#include "mount-helpers/replay/simulation.h"
#include "mount-helpers/replay/summary.h"

namespace replay {

/// What a report is made from. References must outlive it.
struct Comparison {
  const Trace& trace;
  std::string trace_name;
  const std::vector<Outcome>& outcomes;
};

/// A table with a column for each policy.
std::string text_report(const Comparison& comparison);

/// One JSON document, with a newline at its end; times in seconds.
std::string json_report(const Comparison& comparison);

/// One HTML page that needs nothing else: style and drawings are inside.
std::string html_report(const Comparison& comparison);

/// A time as people read it: "0", "12 us", "3.40 ms", "2.50 s".
std::string readable(Nanoseconds time);

/// A line of the table: what it shows and its value for a policy.
struct Row {
  const char* name;
  const char* meaning;
  std::string (*value)(const Summary& summary);
};
const std::vector<Row>& rows();

}  // namespace replay
