/// Adds the locks of outsiders to a snapshot: lockd and nfsd for NFS clients, and local programs
/// that use the source and bypass the mount.
///
/// /proc/locks has them all but tells no path, and shows the mount's own mirror beside them. Local
/// programs are found by their descriptors; of the rest NFS clients' locks count, and waits, that
/// lie on a file which the mount knows, which was asked for, or, for NFS clients' locks, which is
/// found below the source.
#pragma once

#include "mount-helpers/lockfsctl/snapshot.h"

namespace lockfs::ctl {

/// `snapshot` holds what the mount said. Throws nothing: what cannot be read is left out.
void add_outsiders(Snapshot& snapshot, const Target& target);

}  // namespace lockfs::ctl
