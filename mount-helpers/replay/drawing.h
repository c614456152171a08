/// The drawings of the HTML report, as SVG elements to be put into the page.
#pragma once

#include <string>
#include <string_view>

#include "mount-helpers/replay/report.h"

namespace replay {

/// Text as XML wants it. Bytes that are no text become question marks.
std::string escaped(std::string_view text);

/// Share of the locks granted within a time, a curve for each policy.
std::string draw_waits(const Comparison& comparison);

/// Who held and who waited for a file when.
std::string draw_stays(const Comparison& comparison, const Outcome& outcome, Index file);

}  // namespace replay
