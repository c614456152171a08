/// What a switch of the policy came to; see LockManager::switch_policy().
#pragma once

#include <cstdint>

#include "lockmgr/policy.h"

namespace lockmgr {

struct PolicySwitch {
  Policy from;
  Policy to;
  std::uint64_t files = 0;        ///< looked at
  std::uint64_t locks = 0;        ///< granted, and kept
  std::uint64_t conflicting = 0;  ///< of these, such as the new policy would not grant side by side
  std::uint64_t waiters = 0;      ///< looked at again
  std::uint64_t granted = 0;      ///< of these, granted
  std::uint64_t deadlocks = 0;    ///< of these, refused with EDEADLK
  std::uint64_t left_behind = 0;  ///< files that kept their policy for want of memory
  std::uint64_t not_carried = 0;  ///< files whose backing refused, since an outsider is in the way;
                                  ///< tried again with each request
};

}  // namespace lockmgr
