#include "mount-helpers/lockfsctl/text.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <ctime>
#include <utility>

namespace lockfs::ctl {

namespace {

std::string time_text(std::int64_t seconds_ago, const char* format) {
  const std::time_t then = std::time(nullptr) - seconds_ago;
  std::tm local{};
  localtime_r(&then, &local);
  std::array<char, 64> buffer{};
  return {buffer.data(), std::strftime(buffer.data(), buffer.size(), format, &local)};
}

/// Columns that a UTF-8 text takes, near enough: its characters.
std::size_t width_of(const std::string& text) {
  return static_cast<std::size_t>(std::count_if(text.begin(), text.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xC0U) != 0x80U;
  }));
}

}  // namespace

std::string duration_text(std::int64_t seconds) {
  if (seconds < 60) return fmt::format("{}s", seconds);
  if (seconds < 3600) return fmt::format("{}m{:02}s", seconds / 60, seconds % 60);
  if (seconds < 86400) return fmt::format("{}h{:02}m", seconds / 3600, seconds / 60 % 60);
  return fmt::format("{}d{:02}h", seconds / 86400, seconds / 3600 % 24);
}

std::optional<std::int64_t> parse_duration(const std::string& text) {
  std::int64_t number = 0;
  const char* const end = text.data() + text.size();
  const auto [at, error] = std::from_chars(text.data(), end, number);
  if (error != std::errc{} || number < 0 || end - at > 1) return std::nullopt;
  constexpr std::array<std::pair<char, std::int64_t>, 4> kUnits = {
      {{'s', 1}, {'m', 60}, {'h', 3600}, {'d', 86400}}};
  if (at == end) return number;
  for (const auto& [unit, factor] : kUnits) {
    if (*at == unit && number <= INT64_MAX / factor) return number * factor;
  }
  return std::nullopt;
}

std::string short_time(double nanoseconds) {
  if (nanoseconds < 1e3) return fmt::format("{:.0f}ns", nanoseconds);
  if (nanoseconds < 1e6) return fmt::format("{:.1f}us", nanoseconds / 1e3);
  if (nanoseconds < 1e9) return fmt::format("{:.1f}ms", nanoseconds / 1e6);
  return fmt::format("{:.1f}s", nanoseconds / 1e9);
}

std::string short_number(double number) {
  if (number < 10 && number != static_cast<double>(static_cast<int>(number))) {
    return fmt::format("{:.1f}", number);
  }
  if (number < 1e4) return fmt::format("{:.0f}", number);
  if (number < 1e6) return fmt::format("{:.1f}k", number / 1e3);
  return fmt::format("{:.1f}M", number / 1e6);
}

std::string clock_text(std::int64_t seconds_ago) {
  const bool today = time_text(seconds_ago, "%F") == time_text(0, "%F");
  return time_text(seconds_ago, today ? "%T" : "%F %T");
}

std::string iso_time(std::int64_t seconds_ago) {
  std::string text = time_text(seconds_ago, "%FT%T%z");
  return text.insert(text.size() - 2, ":");
}

std::string printable(const std::string& text) {
  std::string out;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7f) {
      out += fmt::format("\\x{:02x}", byte);
    } else {
      out += c;
    }
  }
  return out;
}

std::string Table::text(bool headings, bool raw) const {
  std::vector<std::vector<std::string>> all;
  if (headings) {
    all.emplace_back();
    for (const Column& column : columns_) all.back().push_back(column.name);
  }
  all.insert(all.end(), rows_.begin(), rows_.end());
  std::vector<std::size_t> widths(columns_.size());
  for (const auto& row : all) {
    for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], width_of(row[i]));
  }
  std::string out;
  for (const auto& row : all) {
    for (std::size_t i = 0; i < row.size(); ++i) {
      const std::string pad(raw ? 0 : widths[i] - width_of(row[i]), ' ');
      if (i > 0) out += ' ';
      if (columns_[i].right) out += pad;
      out += raw && row[i].empty() ? "-" : row[i];
      if (!columns_[i].right && i + 1 < row.size()) out += pad;
    }
    out += '\n';
  }
  return out;
}

}  // namespace lockfs::ctl
