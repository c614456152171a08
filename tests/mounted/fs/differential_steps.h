/// The steps of the differential test: each is one random operation with all its arguments, to be
/// run on the mount and on a plain directory.
///
/// A new kind of step is a maker and a row of the table in differential_steps.cpp.
///
/// Thread safety: none; the test has one thread.
#pragma once

#include <sys/types.h>

#include <array>
#include <cstdint>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "tests/mounted/fs/fs_support.h"

namespace lockfs::fstest {

inline constexpr std::size_t kSlots = 8;

/// One of the two sides: a directory and the files held open in it.
struct Side {
  const Dir& dir;
  std::array<Fd, kSlots> open;
};

/// An operation with its arguments, and what it is in words.
struct Step {
  std::string words;
  std::function<Outcome(Side&)> run;
};

/// Random choices, few enough of each kind that operations meet.
class Choices {
 public:
  /// `set_id_bits`: whether the set-ID bits of a file may be changed.
  Choices(std::mt19937_64 random, bool set_id_bits) : random_(random), set_id_bits_(set_id_bits) {}

  std::uint64_t below(std::uint64_t bound) { return fstest::below(random_, bound); }
  bool chance(unsigned percent) { return below(100) < percent; }
  template <class T>
  const T& of(const std::vector<T>& choices) {
    return choices[below(choices.size())];
  }

  std::string path();  ///< of one component, seldom of more
  mode_t mode();
  off_t offset();
  std::size_t size();
  uid_t uid();
  /// The bits of a mode that chmod(2) may change here.
  mode_t changeable() const { return set_id_bits_ ? 07777 : 01777; }

 private:
  std::mt19937_64 random_;
  bool set_id_bits_;
};

/// Chooses the next step with all its arguments.
Step next_step(Choices& any);

}  // namespace lockfs::fstest
