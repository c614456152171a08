/// Where a test may have the daemon die: named steps between reading a request and answering it.
///
/// LOCKFS_TEST_DEATH names a file that the test and all generations of the daemon map. It says at
/// which point, the how manieth time it is passed, the process that passes it kills itself, and
/// collects the names of the points that were passed.
///
/// Release builds have none of it. Elsewhere a point costs a look at a variable while there is no
/// such file.
///
/// Thread safety: points may be passed by any thread; an order is read by one daemon at a time, and
/// given by the test while none is open.
///
/// Invariants:
///  1. Each order kills once, whatever number of threads and generations come by.
#pragma once

#ifndef NDEBUG
#define LOCKFS_HAS_DEATH_POINTS 1
#endif

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace lockfs {

/// What the file holds. Zero: nobody dies, and nothing is collected.
struct DeathOrders {
  enum Action : std::uint32_t {
    kDie,
    kDieAlone,  ///< the keeper is stopped first: no daemon follows until the test lets it go on
  };
  struct Order {
    char point[48];
    std::atomic<std::uint32_t> left;  ///< times to be passed still
    std::uint32_t action;
  };
  static constexpr std::uint32_t kMost = 4;

  std::atomic<std::uint32_t> count;  ///< of orders; written last
  std::atomic<std::uint32_t> next;   ///< the one that is open; those before were carried out
  Order orders[kMost];
  std::atomic<std::uint32_t> collects;
  std::atomic<std::uint32_t> size;  ///< of `passed`
  char passed[1 << 16];             ///< names, each with a newline behind it
};

#ifdef LOCKFS_HAS_DEATH_POINTS
void death_point(const char* name) noexcept;
#else
inline void death_point(const char* /*name*/) noexcept {}
#endif

}  // namespace lockfs
