/// The one place that decides who conflicts, who queues behind whom and who takes part in deadlock
/// detection. Immutable: threads share it freely.
#pragma once

#include <optional>
#include <string_view>
#include <vector>

#include "lockmgr/owner.h"

namespace lockmgr {

class Policy {
 public:
  /// The policy called `name`, or nothing. Today: "nfs", the conflicts that NFS clients see.
  static std::optional<Policy> named(std::string_view name);

  /// The names that named() knows, the default first.
  static const std::vector<std::string_view>& names();

  Policy() = default;
  std::string_view name() const { return name_; }

  /// Whether locks of owners `a` and `b` exclude each other on a common byte, given that their
  /// modes conflict. An NFS client presents the flock and the OFD locks of one open file to its
  /// server under one lock owner (nfs4_get_lock_state() keys on fl_owner, the struct file for
  /// both), so these two do not exclude each other; everything else of different owners does.
  bool exclusive_of(const OwnerId& a, const OwnerId& b) const {
    if (a == b) return false;
    return a.cookie != b.cookie || a.type == OwnerType::kProcess || b.type == OwnerType::kProcess;
  }

  /// Whether a blocking request queues behind an earlier waiter it conflicts with although nothing
  /// granted stands in its way (first come, first served).
  bool queues_behind_waiters() const { return true; }

  /// Whether cycles through owners of this type are deadlocks (EDEADLK). POSIX defines it for
  /// process-owned locks only; an open file may be released by another process.
  bool in_deadlock_detection(OwnerType type) const { return type == OwnerType::kProcess; }

  /// Checks the open mode a flock needs: 0, or EBADF as from an NFS client (nfs_flock(), since its
  /// server-side lock is a POSIX lock). The kernel checks the other types before anybody is asked.
  int check_open_mode(OwnerType type, Mode mode, bool readable, bool writable) const;

 private:
  explicit Policy(std::string_view name) : name_(name) {}

  std::string_view name_ = "nfs";
};

}  // namespace lockmgr
