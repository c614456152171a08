// "record": the lock traffic of the mount as a trace, on the connection that asks for it.
#include <fmt/format.h>

#include <chrono>
#include <system_error>
#include <utility>

#include "fs/control/commands.h"

namespace lockfs::control {

namespace {

/// An optional boolean.
bool flag_in(const Json& request, const char* name) {
  const auto it = request.find(name);
  if (it == request.end()) return false;
  if (!it->is_boolean()) throw Failure{"bad_request", fmt::format("'{}' is no boolean", name)};
  return it->get<bool>();
}

}  // namespace

Outcome record(Context& context, const Call& call) {
  Recorder::Settings settings;
  settings.hash_paths = flag_in(call.request, "hash_paths");
  settings.max_size = static_cast<std::uint64_t>(number_in(call.request, "max_size").value_or(0));
  settings.head.begin = std::chrono::system_clock::now().time_since_epoch();
  settings.head.policy = context.lock_ops.manager().policy().text();
  if (!settings.hash_paths) settings.head.source = context.options.source;
  settings.head.program = "lockfs " LOCKFS_VERSION;
  if (context.recorder.running()) {
    throw Failure{"busy", "a recording of this mount is under way; end it first"};
  }
  Outcome outcome = done(call, "recording", true);
  outcome.hand_over = [&context, settings = std::move(settings)](
                          UniqueFd& peer, const std::string& unsent) -> std::string {
    try {
      context.recorder.start(peer, unsent, settings);
      return {};
    } catch (const std::system_error& error) {
      return error.what();
    }
  };
  return outcome;
}

}  // namespace lockfs::control
