#include "lockmgr/backing.h"

#include <cerrno>

namespace lockmgr {

int NoBacking::wait(WaitId, const Range&, Mode, const Carried&, bool, WaitDone) noexcept {
  return ENOSYS;
}

}  // namespace lockmgr
