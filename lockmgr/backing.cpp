#include "lockmgr/backing.h"

#include <cerrno>

namespace lockmgr {

int NoBacking::wait(WaitId, const Range&, Mode, bool, WaitDone) noexcept { return ENOSYS; }

}  // namespace lockmgr
