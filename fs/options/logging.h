/// Where the daemon's messages go. Everything logs through spdlog's default logger
/// (spdlog::info(...) and so on), which start_logging() sets up once; log_event() adds fields that
/// the journal stores beside the text.
///
/// Thread-safe after start_logging() has returned. Logging never throws and never fails loudly: a
/// missing syslog or journal costs the messages, nothing else.
#pragma once

#include <spdlog/spdlog.h>

#include <initializer_list>
#include <string>
#include <string_view>

#include "fs/options/options.h"

namespace lockfs {

/// A journal field; the name consists of capital letters, digits and underscores and doesn't begin
/// with an underscore. The text of the message has to say everything without it.
struct LogField {
  std::string_view name;
  std::string value;
};

/// What `auto` means here: stderr in the foreground, unless stderr already is the journal; in the
/// background the journal if it listens, else syslog. Other targets stay what they are.
LogTarget resolve_log_target(LogTarget target, bool background);

/// Replaces spdlog's default logger and takes over libfuse's messages. Call once, after any fork
/// and before threads start. Opens descriptors as late as the first message.
void start_logging(const Options& options, bool background);

/// Logs `message` with `fields` beside it. Only the journal keeps the fields.
void log_event(spdlog::level::level_enum level, std::string_view message,
               std::initializer_list<LogField> fields);

/// libfuse reports errors only through its log. Until this is called, its error messages are held
/// back; it returns them, joined in one line, and from then on they are logged as they come.
std::string take_libfuse_errors();

/// Writes "lockfs: " and `message` as one line to standard error. Control characters are escaped,
/// so that one error is always one line.
void print_error(std::string_view message);

}  // namespace lockfs
