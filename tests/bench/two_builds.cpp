#include "tests/bench/two_builds.h"

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>

namespace lockfs::bench {
namespace {

std::string text_of(const std::optional<Interval>& interval) {
  if (!interval) return "-";
  char text[48];
  std::snprintf(text, sizeof text, "%.3f..%.3f", interval->low, interval->high);
  return text;
}

void print_names(const std::vector<std::string>& names) {
  for (const std::string& name : names) std::printf("  %s\n", name.c_str());
}

}  // namespace

void TwoBuilds::add(const RowKey& key, double mine, double other, double ratio) {
  auto row = std::find_if(rows_.begin(), rows_.end(), [&](const Row& r) { return r.key == key; });
  if (row == rows_.end()) row = rows_.insert(row, {key, {}, {}, {}});
  row->mine.push_back(mine);
  row->other.push_back(other);
  row->ratios.push_back(ratio);
}

bool TwoBuilds::settled() const {
  return std::all_of(rows_.begin() + static_cast<std::ptrdiff_t>(printed_), rows_.end(),
                     [](const Row& row) {
                       const std::optional<Interval> interval = paired_ratio(row.ratios).interval;
                       return interval && interval->high <= interval->low * kTolerated;
                     });
}

void TwoBuilds::print_rows() {
  const Row* last = nullptr;
  for (; printed_ < rows_.size(); ++printed_) {
    const Row& row = rows_[printed_];
    if (last == nullptr || last->key.group != row.key.group) {
      std::printf("\n%-42s %-22s %-13s %11s %11s %7s  %-14s %6s\n", row.key.group.c_str(), "where",
                  "unit", "this build", "the other", "ratio", "95 % interval", "passes");
      last = nullptr;
    }
    const PairedRatio ratio = paired_ratio(row.ratios);
    std::printf("%-42s %-22s %-13s %11.3f %11.3f %7.3f  %-14s %6zu\n",
                last != nullptr && last->key.name == row.key.name ? "" : row.key.name.c_str(),
                row.key.target.c_str(), row.key.unit.c_str(), median_of(row.mine),
                median_of(row.other), ratio.ratio, text_of(ratio.interval).c_str(),
                row.ratios.size());
    last = &row;
  }
  std::fflush(stdout);
}

void TwoBuilds::print_verdict() const {
  std::vector<std::string> above;
  std::vector<std::string> open;
  for (const Row& row : rows_) {
    const PairedRatio ratio = paired_ratio(row.ratios);
    std::string name = row.key.group + ": " + row.key.name;
    if (!row.key.target.empty()) name += ", " + row.key.target;
    name += ", " + row.key.unit + " (" + text_of(ratio.interval) + ")";
    if (ratio.interval && ratio.interval->low > kTolerated) {
      above.push_back(std::move(name));
    } else if (!ratio.interval || ratio.interval->high > kTolerated) {
      open.push_back(std::move(name));
    }
  }
  std::printf("\n%zu of %zu rows lie above %.2f with their whole interval%s\n", above.size(),
              rows_.size(), kTolerated, above.empty() ? "." : ":");
  print_names(above);
  std::printf("%zu of %zu rows have an interval that reaches across %.2f: undecided%s\n",
              open.size(), rows_.size(), kTolerated, open.empty() ? "." : ":");
  print_names(open);
}

nlohmann::json TwoBuilds::json() const {
  nlohmann::json rows = nlohmann::json::array();
  for (const Row& row : rows_) {
    const PairedRatio ratio = paired_ratio(row.ratios);
    nlohmann::json result = {
        {"group", row.key.group}, {"name", row.key.name},        {"target", row.key.target},
        {"unit", row.key.unit},   {"this", median_of(row.mine)}, {"other", median_of(row.other)},
        {"ratio", ratio.ratio},   {"interval", nullptr},         {"ratios", row.ratios}};
    if (ratio.interval) result["interval"] = {ratio.interval->low, ratio.interval->high};
    rows.push_back(std::move(result));
  }
  return rows;
}

}  // namespace lockfs::bench
