/// Repeatable randomness for tests: LOCKFS_TEST_SEED chooses the sequence, LOCKFS_TEST_SCALE
/// divides the number of rounds.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>

namespace lockmgr::testing {

/// The seed of this run: LOCKFS_TEST_SEED, else a fixed one, printed so that a failure in a run
/// with another seed can be repeated.
inline std::uint64_t test_seed() {
  const char* text = std::getenv("LOCKFS_TEST_SEED");
  const std::uint64_t seed = text != nullptr ? std::strtoull(text, nullptr, 0) : 20240607;
  std::printf("LOCKFS_TEST_SEED=%llu\n", static_cast<unsigned long long>(seed));
  return seed;
}

/// `rounds` divided by LOCKFS_TEST_SCALE, at least 1.
inline int scaled(int rounds) {
  const char* text = std::getenv("LOCKFS_TEST_SCALE");
  const long scale = text != nullptr ? std::strtol(text, nullptr, 0) : 1;
  if (scale <= 1) return rounds;
  const long left = rounds / scale;
  return left < 1 ? 1 : static_cast<int>(left);
}

class Random {
 public:
  explicit Random(std::uint64_t seed) : engine_(seed) {}
  /// A number in 0 .. below-1.
  std::uint64_t below(std::uint64_t limit) { return engine_() % limit; }
  int between(int low, int high) {
    return low + static_cast<int>(below(static_cast<std::uint64_t>(high - low) + 1));
  }
  bool one_in(std::uint64_t n) { return below(n) == 0; }

 private:
  std::mt19937_64 engine_;
};

}  // namespace lockmgr::testing
