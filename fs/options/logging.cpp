#include "fs/options/logging.h"

#include <fmt/format.h>
#include <fuse3/fuse_log.h>
#include <spdlog/sinks/base_sink.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/sinks/syslog_sink.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <syslog.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#ifdef LOCKFS_HAVE_SYSTEMD
#include <systemd/sd-journal.h>
#endif

namespace lockfs {
namespace {

constexpr const char* kIdent = "lockfs";

/// The fields of the message this thread is logging right now. Sinks run on the logging thread, so
/// this reaches them past spdlog's interface, which knows text only.
thread_local const std::initializer_list<LogField>* current_fields = nullptr;

#ifdef LOCKFS_HAVE_SYSTEMD
int journal_priority(spdlog::level::level_enum level) {
  switch (level) {
    case spdlog::level::critical:
      return LOG_CRIT;
    case spdlog::level::err:
      return LOG_ERR;
    case spdlog::level::warn:
      return LOG_WARNING;
    case spdlog::level::info:
      return LOG_INFO;
    default:
      return LOG_DEBUG;
  }
}

/// Sends messages to the journal with the mount and the event's own fields. sd_journal_sendv() may
/// be called by several threads at once, so the sink needs no mutex.
class JournalSink : public spdlog::sinks::base_sink<spdlog::details::null_mutex> {
 public:
  JournalSink(const std::string& source, const std::string& mountpoint)
      : source_("LOCKFS_SOURCE=" + source), mountpoint_("LOCKFS_MOUNTPOINT=" + mountpoint) {}

 protected:
  void sink_it_(const spdlog::details::log_msg& message) override {
    std::vector<std::string> own;
    own.push_back(fmt::format("MESSAGE={}",
                              std::string_view(message.payload.data(), message.payload.size())));
    own.push_back(fmt::format("PRIORITY={}", journal_priority(message.level)));
    own.push_back(fmt::format("SYSLOG_IDENTIFIER={}", kIdent));
    own.push_back(fmt::format("TID={}", message.thread_id));
    if (current_fields != nullptr) {
      for (const auto& field : *current_fields) {
        own.push_back(fmt::format("{}={}", field.name, field.value));
      }
    }
    std::vector<iovec> parts;
    parts.reserve(own.size() + 2);
    for (auto& text : own) parts.push_back({text.data(), text.size()});
    parts.push_back({source_.data(), source_.size()});
    parts.push_back({mountpoint_.data(), mountpoint_.size()});
    // The parentheses keep out the macro that would add this file's name and line to every message.
    static_cast<void>((sd_journal_sendv)(parts.data(), static_cast<int>(parts.size())));
  }

  void flush_() override {}

 private:
  std::string source_;      ///< whole field, name included
  std::string mountpoint_;  ///< whole field, name included
};
#endif

#ifdef LOCKFS_HAVE_SYSTEMD
/// Whether standard error is a stream into the journal: systemd names it in $JOURNAL_STREAM.
bool stderr_is_journal() {
  const char* stream = getenv("JOURNAL_STREAM");  // NOLINT(concurrency-mt-unsafe): no threads yet
  struct stat status {};
  if (stream == nullptr || fstat(STDERR_FILENO, &status) != 0) return false;
  return fmt::format("{}:{}", status.st_dev, status.st_ino) == stream;
}
#endif

bool journal_listens() {
#ifdef LOCKFS_HAVE_SYSTEMD
  return access("/run/systemd/journal/socket", W_OK) == 0;
#else
  return false;
#endif
}

/// libfuse's errors before the mount is up.
struct HeldMessages {
  std::mutex mutex;
  bool holding = true;  // guarded by mutex
  std::string text;     // guarded by mutex
};

HeldMessages& held_messages() {
  static HeldMessages messages;
  return messages;
}

spdlog::level::level_enum libfuse_level(fuse_log_level level) {
  switch (level) {
    case FUSE_LOG_EMERG:
    case FUSE_LOG_ALERT:
    case FUSE_LOG_CRIT:
      return spdlog::level::critical;
    case FUSE_LOG_ERR:
      return spdlog::level::err;
    case FUSE_LOG_WARNING:
      return spdlog::level::warn;
    case FUSE_LOG_NOTICE:
    case FUSE_LOG_INFO:
      return spdlog::level::info;
    case FUSE_LOG_DEBUG:
      break;
  }
  return spdlog::level::debug;
}

extern "C" __attribute__((format(printf, 2, 0))) void log_libfuse(fuse_log_level fuse_level,
                                                                  const char* format,
                                                                  va_list arguments) {
  const auto level = libfuse_level(fuse_level);
  std::array<char, 2048> buffer{};
  const int length = std::vsnprintf(buffer.data(), buffer.size(), format, arguments);
  if (length <= 0) return;
  std::string_view text(buffer.data());
  while (text.ends_with('\n')) text.remove_suffix(1);
  if (text.empty()) return;
  try {
    if (level >= spdlog::level::err) {
      auto& held = held_messages();
      const std::lock_guard lock(held.mutex);
      if (held.holding) {
        if (!held.text.empty()) held.text += "; ";
        held.text += text;
        return;
      }
    }
    spdlog::log(level, "{}", text);
  } catch (
      ...) {  // NOLINT(bugprone-empty-catch): called from C; a lost message is all that remains
  }
}

}  // namespace

LogTarget resolve_log_target(LogTarget target, bool background) {
  if (target != LogTarget::kAuto) return target;
#ifdef LOCKFS_HAVE_SYSTEMD
  if (stderr_is_journal() && journal_listens()) return LogTarget::kJournal;
#endif
  if (!background) return LogTarget::kStderr;
  return journal_listens() ? LogTarget::kJournal : LogTarget::kSyslog;
}

void start_logging(const Options& options, bool background) {
  spdlog::sink_ptr sink;
  switch (resolve_log_target(options.log_target, background)) {
    case LogTarget::kJournal:
#ifdef LOCKFS_HAVE_SYSTEMD
      sink = std::make_shared<JournalSink>(options.source_path, options.mountpoint_path);
      break;
#endif
    case LogTarget::kAuto:
    case LogTarget::kSyslog:
      sink = std::make_shared<spdlog::sinks::syslog_sink_mt>(kIdent, LOG_PID, LOG_DAEMON, false);
      break;
    case LogTarget::kStderr:
      sink = std::make_shared<spdlog::sinks::stderr_sink_mt>();
      break;
  }
  auto logger = std::make_shared<spdlog::logger>(kIdent, std::move(sink));
  logger->set_pattern("%Y-%m-%d %H:%M:%S.%e lockfs[%P] %l: %v");
  logger->set_level(spdlog::level::from_str(options.log_level));
  // spdlog's own handler would write to a standard error that may be anybody's file by now.
  logger->set_error_handler([](const std::string& /*message*/) {});
  spdlog::set_default_logger(std::move(logger));
  fuse_set_log_func(log_libfuse);
}

void log_event(spdlog::level::level_enum level, std::string_view message,
               std::initializer_list<LogField> fields) {
  current_fields = &fields;
  spdlog::log(level, "{}", message);
  current_fields = nullptr;
}

std::string take_libfuse_errors() {
  auto& held = held_messages();
  const std::lock_guard lock(held.mutex);
  held.holding = false;
  return std::exchange(held.text, {});
}

void print_error(std::string_view message) {
  std::string line = "lockfs: ";
  for (const char c : message) {
    if (const auto code = static_cast<unsigned char>(c); code < 0x20 || code == 0x7f) {
      line += fmt::format("\\{:03o}", code);
    } else {
      line.push_back(c);
    }
  }
  line.push_back('\n');
  // One write, so that lines of several processes on one terminal don't mix.
  std::string_view rest = line;
  while (!rest.empty()) {
    const ssize_t written = write(STDERR_FILENO, rest.data(), rest.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return;
    rest.remove_prefix(static_cast<std::size_t>(written));
  }
}

}  // namespace lockfs
