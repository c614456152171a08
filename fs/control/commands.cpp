#include "fs/control/commands.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <charconv>
#include <utility>

#include "fs/base/mount_table.h"
#include "fs/options/option_change.h"

namespace lockfs::control {

namespace {

constexpr int kMostDepth = 8;  ///< of a request

/// "MAJOR:MINOR".
std::optional<dev_t> device_of(std::string_view text) {
  unsigned major_number = 0;
  unsigned minor_number = 0;
  const char* const end = text.data() + text.size();
  const auto first = std::from_chars(text.data(), end, major_number);
  if (first.ec != std::errc{} || first.ptr == end || *first.ptr != ':') return std::nullopt;
  const auto second = std::from_chars(first.ptr + 1, end, minor_number);
  if (second.ec != std::errc{} || second.ptr != end) return std::nullopt;
  return makedev(major_number, minor_number);
}

Outcome dispatch(Context& context, const Call& call) {
  const auto version = number_in(call.request, "v");
  if (version != kProtocol) {
    throw Failure{"version",
                  fmt::format("this lockfs speaks version {} of the protocol; say \"v\":{}",
                              kProtocol, kProtocol)};
  }
  const std::string name = text_in(call.request, "cmd").value_or("");
  const auto& all = commands();
  const auto it =
      std::find_if(all.begin(), all.end(), [&](const Command& c) { return c.name == name; });
  if (it == all.end()) {
    std::string known;
    for (const Command& c : all) known.append(known.empty() ? "" : ", ").append(c.name);
    throw Failure{"unknown_command", fmt::format("'cmd' is none of {}", known)};
  }
  if (it->access == Access::kChange && !call.peer.may_change) {
    throw Failure{"permission",
                  fmt::format("'{}' is for root; the control group may only look", name)};
  }
  return it->run(context, call);
}

}  // namespace

Context::Context(const Options& mount_options, Filesystem& fs, LockOps& ops, BookHeader& book)
    : options(mount_options),
      current(mount_options),
      filesystem(fs),
      lock_ops(ops),
      header(book),
      recorder(ops.tape()) {}

void Context::note_mount() {
  if (const auto mount = find_mount(options.mountpoint_path)) mount_device = mount->device;
}

void Context::save_options() const {
  if (!header.save(live_text(current))) {
    spdlog::error("the options are too long to be kept for a daemon to come");
  }
}

Outcome done(const Call& call, const char* name, Json value) {
  return {line_of({{"id", call.id}, {"ok", true}, {name, std::move(value)}}), nullptr, {}, {}};
}

Outcome execute(Context& context, const std::string& line, const Peer& peer) {
  Json id;
  try {
    // Deep nesting is left out unread: nothing here needs it.
    const Json request = Json::parse(
        line,
        [](int depth, Json::parse_event_t /*event*/, Json& /*parsed*/) {
          return depth <= kMostDepth;
        },
        false);
    if (!request.is_object()) throw Failure{"bad_request", "the line is no JSON object"};
    if (const auto it = request.find("id");
        it != request.end() && (it->is_number_integer() || it->is_string())) {
      id = *it;
    }
    return dispatch(context, {request, id, peer});
  } catch (const Failure& failure) {
    return {error_line(id, failure.code, failure.message), nullptr, {}, {}};
  } catch (const Json::exception& error) {
    return {error_line(id, "bad_request", error.what()), nullptr, {}, {}};
  }
}

// -- files ----------------------------------------------------------------------------------------

FileFilter::FileFilter(const Context& context, const Json& request) : context_(&context) {
  if (const auto number = number_in(request, "inode")) {
    shown_inode_ = static_cast<std::uint64_t>(*number);
  }
  const auto device = text_in(request, "device");
  const auto inode = number_in(request, "source_inode");
  if (device.has_value() != inode.has_value()) {
    throw Failure{"bad_request", "'device' and 'source_inode' go together"};
  }
  if (!device) return;
  const auto dev = device_of(*device);
  if (!dev) throw Failure{"bad_request", "'device' is not MAJOR:MINOR"};
  key_ = lockmgr::FileKey{*dev, static_cast<std::uint64_t>(*inode)};
}

bool FileFilter::fits(const lockmgr::FileLocks& file) const {
  const lockmgr::FileKey& its = file.key();
  if (key_ && (key_->device != its.device || key_->inode != its.inode)) return false;
  return !shown_inode_ ||
         context_->filesystem.inodes().shown_ino({its.device, its.inode}) == *shown_inode_;
}

std::vector<std::weak_ptr<lockmgr::FileLocks>> files_of(const Context& context,
                                                        const FileFilter& filter) {
  std::vector<std::weak_ptr<lockmgr::FileLocks>> files;
  for (const auto& file : context.lock_ops.manager().files()) {
    if (filter.fits(*file)) files.push_back(file);
  }
  return files;
}

Json file_json(const Context& context, const lockmgr::FileLocks& file) {
  const Options& options = context.options;
  std::string path = file.backing().name();
  constexpr std::string_view kDeleted = " (deleted)";
  const bool deleted = path.ends_with(kDeleted);
  if (deleted) path.resize(path.size() - kDeleted.size());
  std::string in_mount = path;
  const std::string& source = options.source_path;
  if (source == "/") {
    in_mount = options.mountpoint_path + path;
  } else if (path.starts_with(source) &&
             (path.size() == source.size() || path[source.size()] == '/')) {
    in_mount = options.mountpoint_path + path.substr(source.size());
  }
  Json json;
  json["path"] = in_mount;
  json["source_path"] = path;
  json["deleted"] = deleted;
  json["device"] = fmt::format("{}:{}", major(file.key().device), minor(file.key().device));
  json["inode"] = file.key().inode;
  return json;
}

}  // namespace lockfs::control
