/// The checks of `lockfsctl doctor`: known traps of a machine, each with its cure.
///
/// Thread safety: none.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "mount-helpers/lockfsctl/client.h"

namespace lockfs::ctl {

/// What a check has found.
struct Finding {
  enum class Grade { kFine, kNote, kTrap };
  Grade grade = Grade::kFine;
  std::string text;
  std::string cure;  ///< empty when there is nothing to do
};

/// What the checks look at.
struct Patient {
  std::string root;        ///< put before the paths of system files; empty on the real machine
  std::string source;      ///< canonical; empty: none named and no mount there
  std::string mountpoint;  ///< likewise
  std::optional<MountInfo> mount;

  /// A system file's path.
  [[nodiscard]] std::string at(const std::string& path) const { return root + path; }
  /// The first line of a system file; nothing when it cannot be read.
  [[nodiscard]] std::optional<std::string> line_of(const std::string& path) const;
};

using Check = std::vector<Finding> (*)(const Patient&);

// doctor_system.cpp
std::vector<Finding> check_device(const Patient& patient);
std::vector<Finding> check_passthrough(const Patient& patient);
std::vector<Finding> check_timeouts(const Patient& patient);
std::vector<Finding> check_descriptors(const Patient& patient);
std::vector<Finding> check_mounts(const Patient& patient);
std::vector<Finding> check_bypass(const Patient& patient);

// doctor_nfs.cpp
std::vector<Finding> check_exports(const Patient& patient);
std::vector<Finding> check_statd(const Patient& patient);
std::vector<Finding> check_grace(const Patient& patient);
std::vector<Finding> check_local_lock(const Patient& patient);

}  // namespace lockfs::ctl
