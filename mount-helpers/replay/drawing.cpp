#include "mount-helpers/replay/drawing.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <vector>

namespace replay {

namespace {

constexpr double kWidth = 1040;
constexpr double kLeft = 120;
constexpr double kRight = 20;
constexpr std::array<const char*, 8> kColours = {"#1f6fb4", "#d1570c", "#2a8b3c", "#8c4bb0",
                                                 "#8a5a2b", "#c23b7a", "#555555", "#0a8f8f"};

std::string open_svg(double height, std::string_view title) {
  return fmt::format(
      "<svg viewBox=\"0 0 {:.0f} {:.0f}\" width=\"{:.0f}\" height=\"{:.0f}\" role=\"img\">"
      "<title>{}</title>\n",
      kWidth, height, kWidth, height, escaped(title));
}

std::string text(double x, double y, std::string_view anchor, std::string_view what) {
  return fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\">{}</text>\n", x, y, anchor,
                     escaped(what));
}

std::string line(double x1, double y1, double x2, double y2) {
  return fmt::format(
      "<line x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\" stroke=\"#ddd\"/>\n", x1, y1,
      x2, y2);
}

/// The length of one UTF-8 sequence at the front of `text`, 0 if there is none.
std::size_t sequence(std::string_view text) {
  const auto first = static_cast<unsigned char>(text.front());
  const std::size_t size = first < 0x80   ? 1
                           : first < 0xc2 ? 0
                           : first < 0xe0 ? 2
                           : first < 0xf0 ? 3
                           : first < 0xf5 ? 4
                                          : 0;
  if (size > text.size()) return 0;
  for (std::size_t i = 1; i < size; ++i) {
    if ((static_cast<unsigned char>(text[i]) & 0xc0) != 0x80) return 0;
  }
  return size;
}

/// A curve of the waits' distribution: from the left edge, where those stand that did not wait.
std::string curve(const Outcome& outcome, double floor, double decades, double top, double height,
                  const char* colour) {
  const auto x_of = [&](Nanoseconds wait) {
    const double at =
        std::log10(std::max(static_cast<double>(wait.count()), floor)) - std::log10(floor);
    return kLeft + at / decades * (kWidth - kLeft - kRight);
  };
  const double all = outcome.asked == 0 ? 1 : static_cast<double>(outcome.asked);
  const auto y_of = [&](double count) { return top + height * (1 - count / all); };
  double count = static_cast<double>(outcome.grants - outcome.waits.size());
  std::string points = fmt::format("{:.1f},{:.1f}", kLeft, y_of(count));
  // A step for each wait; of very many only some, which nobody can tell apart.
  const std::size_t stride = std::max<std::size_t>(1, outcome.waits.size() / 1000);
  for (std::size_t i = 0; i < outcome.waits.size(); i += stride) {
    const std::size_t taken = std::min(stride, outcome.waits.size() - i);
    const double x = x_of(outcome.waits[i + taken - 1]);
    points += fmt::format(" {:.1f},{:.1f}", x, y_of(count));
    count += static_cast<double>(taken);
    points += fmt::format(" {:.1f},{:.1f}", x, y_of(count));
  }
  points += fmt::format(" {:.1f},{:.1f}", kWidth - kRight, y_of(count));
  return fmt::format("<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"2\"/>\n",
                     points, colour);
}

std::string label_of(const Trace& trace, Index actor) {
  const auto& who = trace.actors[actor];
  std::string command = who.command.empty() ? "pid" : who.command;
  if (command.size() > 11) command.resize(11);
  return fmt::format("{} {}", command, who.pid);
}

}  // namespace

std::string escaped(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    const std::size_t size = sequence(text);
    const char first = text.front();
    if (size == 0 || (static_cast<unsigned char>(first) < 0x20)) {
      out += '?';
    } else if (first == '<') {
      out += "&lt;";
    } else if (first == '>') {
      out += "&gt;";
    } else if (first == '&') {
      out += "&amp;";
    } else if (first == '"') {
      out += "&quot;";
    } else {
      out += text.substr(0, size);
    }
    text.remove_prefix(std::max<std::size_t>(size, 1));
  }
  return out;
}

std::string draw_waits(const Comparison& comparison) {
  constexpr double kTop = 14;
  constexpr double kHeight = 240;
  double floor = 1e12;
  double most = 1e3;
  for (const Outcome& outcome : comparison.outcomes) {
    if (outcome.waits.empty()) continue;
    floor = std::min(floor, static_cast<double>(outcome.waits.front().count()));
    most = std::max(most, static_cast<double>(outcome.waits.back().count()));
  }
  floor = std::pow(10, std::floor(std::log10(std::clamp(floor, 1e3, most))));
  const double decades = std::max(1.0, std::ceil(std::log10(most / floor)));
  const double rows = static_cast<double>(comparison.outcomes.size());
  std::string out = open_svg(kTop + kHeight + 40 + 18 * rows, "waiting times");
  for (int percent = 0; percent <= 100; percent += 25) {
    const double y = kTop + kHeight * (1 - percent / 100.0);
    out += line(kLeft, y, kWidth - kRight, y) +
           text(kLeft - 8, y + 4, "end", fmt::format("{} %", percent));
  }
  for (int i = 0; i <= static_cast<int>(decades); ++i) {
    const double x = kLeft + i / decades * (kWidth - kLeft - kRight);
    const Nanoseconds time(static_cast<std::int64_t>(floor * std::pow(10, i)));
    out += line(x, kTop, x, kTop + kHeight) +
           text(x, kTop + kHeight + 18, i == static_cast<int>(decades) ? "end" : "middle",
                i == 0 ? "at once" : readable(time));
  }
  for (std::size_t i = 0; i < comparison.outcomes.size(); ++i) {
    const char* colour = kColours[i % kColours.size()];
    const double y = kTop + kHeight + 40 + 18 * static_cast<double>(i);
    out += curve(comparison.outcomes[i], floor, decades, kTop, kHeight, colour);
    out += fmt::format("<rect x=\"{:.0f}\" y=\"{:.0f}\" width=\"22\" height=\"4\" fill=\"{}\"/>\n",
                       kLeft, y - 6, colour);
    out += text(kLeft + 30, y, "start", comparison.outcomes[i].policy);
  }
  return out + "</svg>\n";
}

std::string draw_stays(const Comparison& comparison, const Outcome& outcome, Index file) {
  constexpr std::size_t kMostLanes = 40;
  constexpr std::size_t kMostBars = 6000;
  constexpr double kLane = 16;
  std::map<Index, std::size_t> lanes;  // by actor, in order of their first appearance
  std::vector<Stay> stays;
  for (const Stay& stay : outcome.stays) {
    if (stay.file == file) stays.push_back(stay);
  }
  std::stable_sort(stays.begin(), stays.end(),
                   [](const Stay& a, const Stay& b) { return a.begin < b.begin; });
  const Nanoseconds begin = stays.empty() ? Nanoseconds(0) : stays.front().begin;
  bool left_out = stays.size() > kMostBars;
  if (left_out) stays.resize(kMostBars);
  for (const Stay& stay : stays) {
    if (lanes.size() < kMostLanes) lanes.emplace(stay.actor, lanes.size());
  }
  // Who holds one lock may wait for another: the wait lies on top.
  std::stable_partition(stays.begin(), stays.end(), [](const Stay& stay) { return stay.holds; });
  Nanoseconds end(1);
  for (const Stay& stay : stays) end = std::max(end, stay.end);
  const double scale =
      (kWidth - kLeft - kRight) / std::max(1.0, static_cast<double>((end - begin).count()));
  const auto x_of = [&](Nanoseconds time) {
    return kLeft + static_cast<double>((time - begin).count()) * scale;
  };
  const double bottom = 24 + kLane * static_cast<double>(lanes.size());
  std::string out = open_svg(bottom + 34, "time line under " + outcome.policy);
  out += text(kLeft, 14, "start", "under " + outcome.policy);
  for (const auto& [actor, lane] : lanes) {
    const double y = 24 + kLane * static_cast<double>(lane);
    out += line(kLeft, y + kLane - 1, kWidth - kRight, y + kLane - 1) +
           text(kLeft - 8, y + 12, "end", label_of(comparison.trace, actor));
  }
  for (const Stay& stay : stays) {
    const auto lane = lanes.find(stay.actor);
    if (lane == lanes.end()) {
      left_out = true;
      continue;
    }
    const double y = 24 + kLane * static_cast<double>(lane->second);
    const char* colour = !stay.holds                              ? "#e0523c"
                         : stay.mode == lockmgr::Mode::kExclusive ? "#1d4e79"
                                                                  : "#8fbce0";
    out += fmt::format(
        "<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.0f}\" fill=\"{}\"/>\n",
        x_of(stay.begin), stay.holds ? y + 1 : y + 5,
        std::max(0.7, x_of(stay.end) - x_of(stay.begin)), stay.holds ? kLane - 4 : kLane - 11,
        colour);
  }
  for (int i = 0; i <= 4; ++i) {
    const Nanoseconds time = begin + (end - begin) * i / 4;
    out += text(x_of(time), bottom + 16, i == 4 ? "end" : "middle", readable(time));
  }
  if (left_out)
    out += text(kLeft, bottom + 32, "start", "Not all fits here: more threads or stays follow.");
  return out + "</svg>\n";
}

}  // namespace replay
