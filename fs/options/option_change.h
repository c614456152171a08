/// Changes of options while mounted, decided before anything is touched.
///
/// Thread safety: functions without state.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "fs/options/options.h"

namespace lockfs {

struct OptionChange {
  Options wanted;     ///< the current options with the changes
  std::string error;  ///< empty, or one line: what cannot be changed, or not to that
};

/// What `changes` make of `current`. An option that may not change while mounted passes when it
/// already has the value, as fstab repeats all options with every remount; ro, nosuid and the like
/// pass as well, because the kernel looks after them.
OptionChange plan_change(const Options& current, const std::vector<MountOption>& changes);

/// Name and value of every option that may change while mounted.
std::vector<std::pair<std::string, std::string>> live_values(const Options& options);

/// The same as text, for read_live_values().
std::string live_text(const Options& options);
/// Gives `options` the values that the text has. Returns an empty string, or one line: why not;
/// then nothing has changed.
std::string read_live_values(std::string_view text, Options& options);

}  // namespace lockfs
