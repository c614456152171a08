/// The comparison of two builds (--against): pairs of figures, and the table of their ratios. Not
/// thread-safe.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "tests/bench/paired.h"

namespace lockfs::bench {

/// A row whose whole interval lies above this is slower, or larger, than it was.
inline constexpr double kTolerated = 1.03;

/// What names a row of the table.
struct RowKey {
  std::string group;
  std::string name;
  std::string target;
  std::string unit;

  bool operator==(const RowKey&) const = default;
};

class TwoBuilds {
 public:
  /// Notes what one pass showed for a row: a figure of either build, of which less is better, and
  /// this build's divided by the other's. All are above 0.
  void add(const RowKey& key, double mine, double other, double ratio);

  /// Whether the rows noted since the last print_rows() all have intervals narrow enough to tell
  /// kTolerated from 1: their ends are at most that far apart.
  [[nodiscard]] bool settled() const;

  /// Prints the rows noted since the last call.
  void print_rows();

  /// Prints how many rows lie above kTolerated with their whole interval, and how many reach across
  /// it, and names them.
  void print_verdict() const;

  /// An array with an object a row.
  [[nodiscard]] nlohmann::json json() const;

 private:
  struct Row {
    RowKey key;
    std::vector<double> mine;
    std::vector<double> other;
    std::vector<double> ratios;
  };

  std::vector<Row> rows_;
  std::size_t printed_ = 0;  ///< rows that print_rows() has dealt with
};

}  // namespace lockfs::bench
