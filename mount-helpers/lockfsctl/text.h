/// Words and tables for people.
///
/// Thread safety: free functions without state.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace lockfs::ctl {

/// "3s", "4m05s", "2h10m", "3d04h".
std::string duration_text(std::int64_t seconds);
/// "90", "90s", "10m", "2h", "3d" in seconds; nothing when it is none of these.
std::optional<std::int64_t> parse_duration(const std::string& text);
/// A duration in nanoseconds with its unit: "850ns", "12us", "3.4ms", "1.2s".
std::string short_time(double nanoseconds);
/// "1.2k", "3.4M".
std::string short_number(double number);
/// Local time of now minus `seconds`, "HH:MM:SS" when that was today, else with the date.
std::string clock_text(std::int64_t seconds_ago);
/// The same in ISO 8601 with the offset from UTC.
std::string iso_time(std::int64_t seconds_ago);
/// Control characters and bytes that could not be shown replaced by \xNN.
std::string printable(const std::string& text);

/// Rows of cells, printed in columns as wide as their widest cell.
class Table {
 public:
  struct Column {
    std::string name;
    bool right = false;  ///< aligned to the right
  };
  explicit Table(std::vector<Column> columns) : columns_(std::move(columns)) {}
  void add(std::vector<std::string> cells) { rows_.push_back(std::move(cells)); }
  [[nodiscard]] bool empty() const { return rows_.empty(); }
  /// `raw`: single spaces, no padding. `headings`: the first line names the columns.
  [[nodiscard]] std::string text(bool headings = true, bool raw = false) const;

 private:
  std::vector<Column> columns_;
  std::vector<std::vector<std::string>> rows_;
};

}  // namespace lockfs::ctl
