/// What SIGHUP asks for: the options that the administrator has written down for the mount are
/// applied anew.
///
/// Thread safety: a function without state.
#pragma once

#include <string>

#include "fs/options/options.h"

namespace lockfs {

/// Where lockfs@.service has the options of the mount on `mountpoint`: /etc/lockfs, and the mount
/// point as systemd-escape(1) --path writes it. "/export/a" has /etc/lockfs/export-a.conf.
std::string options_file(const std::string& mountpoint);

/// The value of the last line OPTIONS= in `text`, which is as systemd.exec(5) has it for
/// EnvironmentFile=, on one line and perhaps quoted. Empty: there is none.
std::string options_in(const std::string& text);

/// Has `program`, a lockfs, remount with the options in that file, and logs how that went. Blocks,
/// some seconds at most; other threads must serve meanwhile.
void reload(const Options& options, const std::string& program);

}  // namespace lockfs
