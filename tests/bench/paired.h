/// Statistics of paired measurements: what was measured twice under the same conditions, as two
/// builds are in one pass. Pure functions.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <optional>
#include <vector>

namespace lockfs::bench {

/// The middle value; the mean of the middle two of an even number. `values` must not be empty.
inline double median_of(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const std::size_t half = values.size() / 2;
  return values.size() % 2 == 1 ? values[half] : (values[half - 1] + values[half]) / 2;
}

struct Interval {
  double low = 0;
  double high = 0;
};

/// A typical ratio and where it lies; no interval where there are too few pairs for one.
struct PairedRatio {
  double ratio = 0;
  std::optional<Interval> interval;
};

/// The largest k for which the Wilcoxon signed-rank statistic of `pairs` pairs is below k with a
/// probability of at most `tail` if neither side is the larger; 0 where there is none. (A table of
/// critical values has k - 1; for 2.5 % it begins with 6 pairs, k = 1.)
inline std::size_t signed_rank_bound(std::size_t pairs, double tail) {
  // chance[w]: that the ranks with a plus sign add up to w, each rank having one or not like a
  // coin.
  std::vector<double> chance(pairs * (pairs + 1) / 2 + 1, 0);
  chance[0] = 1;
  for (std::size_t rank = 1; rank <= pairs; ++rank) {
    for (std::size_t w = chance.size(); w-- > 0;) {
      chance[w] = (chance[w] + (w >= rank ? chance[w - rank] : 0)) / 2;
    }
  }
  double below = 0;
  std::size_t k = 0;
  while (k < chance.size() && below + chance[k] <= tail) below += chance[k++];
  return k;
}

/// The typical one of `ratios` (all above 0), each that of one pair, and a 95 % interval of it.
///
/// The Hodges-Lehmann estimate: the median of the means of all two logarithms, each with itself
/// too; the interval is the set of ratios that Wilcoxon's signed-rank test does not reject. Unlike
/// a t-interval it assumes no normal distribution, and one pass in which the machine did something
/// else moves it little: the noise has to be symmetrical only, which turning the order about sees
/// to.
inline PairedRatio paired_ratio(const std::vector<double>& ratios) {
  if (ratios.empty()) return {};
  std::vector<double> means;
  for (std::size_t i = 0; i < ratios.size(); ++i) {
    for (std::size_t j = i; j < ratios.size(); ++j) {
      means.push_back((std::log(ratios[i]) + std::log(ratios[j])) / 2);
    }
  }
  std::sort(means.begin(), means.end());
  PairedRatio result{std::exp(median_of(means)), std::nullopt};
  if (const std::size_t k = signed_rank_bound(ratios.size(), 0.025); k > 0) {
    result.interval = {std::exp(means[k - 1]), std::exp(means[means.size() - k])};
  }
  return result;
}

}  // namespace lockfs::bench
