#include "fs/control_commands.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstring>
#include <string_view>
#include <utility>
#include <vector>

#include "fs/lock_text.h"
#include "fs/logging.h"
#include "fs/option_change.h"
#include "fs/preflight.h"

namespace lockfs {

namespace {

using lockmgr::Mode;
using lockmgr::OwnerType;

constexpr std::size_t kPage = 256;            ///< records collected while a file is held
constexpr std::size_t kMostDifferences = 64;  ///< reported per file
constexpr int kMostDepth = 8;                 ///< of a request

std::string line_of(const Json& json) {
  // Names of files may be any bytes.
  return json.dump(-1, ' ', false, Json::error_handler_t::replace) + '\n';
}

const char* text_of(Mode mode) {
  switch (mode) {
    case Mode::kNone:
      return "none";
    case Mode::kShared:
      return "shared";
    case Mode::kExclusive:
      return "exclusive";
  }
  return "none";
}

const char* text_of(lockmgr::Waiter::Place place) {
  switch (place) {
    case lockmgr::Waiter::Place::kBehind:
      return "behind";
    case lockmgr::Waiter::Place::kBlocked:
      return "blocked";
    case lockmgr::Waiter::Place::kOutside:
      return "outside";
    default:
      return "aside";
  }
}

Json last_json(lockmgr::Offset last) { return last == lockmgr::kEof ? Json() : Json(last); }

void add_owner(Json& json, const lockmgr::OwnerId& owner, const lockmgr::Caller& caller) {
  json["type"] = lockmgr::to_string(owner.type);
  json["owner"] = owner_name(owner);
  json["pid"] = caller.pid;
  json["tid"] = caller.tid;
  json["uid"] = caller.uid;
}

void add_range(Json& json, const lockmgr::Range& range, Mode mode) {
  json["mode"] = text_of(mode);
  json["start"] = range.first;
  json["end"] = last_json(range.last);
}

std::optional<lockmgr::OwnerId> parse_owner(const std::string& text) {
  const auto colon = text.find(':');
  if (colon == std::string::npos) return std::nullopt;
  lockmgr::OwnerId id;
  const std::string_view type = std::string_view(text).substr(0, colon);
  if (type == "posix") {
    id.type = OwnerType::kProcess;
  } else if (type == "ofd") {
    id.type = OwnerType::kOpenFile;
  } else if (type == "flock") {
    id.type = OwnerType::kFlock;
  } else {
    return std::nullopt;
  }
  const std::string digits = text.substr(colon + 1);
  if (digits.empty() || digits.size() > 16 ||
      digits.find_first_not_of("0123456789abcdef") != std::string::npos) {
    return std::nullopt;
  }
  id.cookie = std::strtoull(digits.c_str(), nullptr, 16);
  return id;
}

/// The mount may show the inode of a filesystem mounted below the source with a number in the upper
/// bits; see Device::shown_ino().
bool same_inode(std::uint64_t a, std::uint64_t b) { return ((a ^ b) << 16) == 0; }

std::uint64_t resident_bytes() {
  const std::unique_ptr<FILE, int (*)(FILE*)> file(std::fopen("/proc/self/statm", "re"),
                                                   std::fclose);
  unsigned long long pages = 0;
  if (file == nullptr || std::fscanf(file.get(), "%*u %llu", &pages) != 1) return 0;
  return pages * static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
}

}  // namespace

/// Why a request cannot be carried out.
struct ControlCommands::Failure {
  const char* code;
  std::string message;
};

namespace {

/// What a request may hold under `name`; nothing when it is absent.
template <typename Fail>
std::optional<std::int64_t> number_in(const Json& request, const char* name, const Fail& fail) {
  const auto it = request.find(name);
  if (it == request.end() || it->is_null()) return std::nullopt;
  if (!it->is_number_integer() ||
      (it->is_number_unsigned() && it->get<std::uint64_t>() > std::uint64_t{INT64_MAX}) ||
      it->get<std::int64_t>() < 0) {
    fail(fmt::format("'{}' is not a whole number from 0 on", name));
  }
  return it->get<std::int64_t>();
}

template <typename Fail>
std::optional<std::string> text_in(const Json& request, const char* name, const Fail& fail) {
  const auto it = request.find(name);
  if (it == request.end() || it->is_null()) return std::nullopt;
  if (!it->is_string()) fail(fmt::format("'{}' is not a string", name));
  return it->get<std::string>();
}

}  // namespace

ControlCommands::ControlCommands(const Options& options, Filesystem& filesystem, LockOps& lock_ops)
    : options_(options),
      current_(options),
      filesystem_(filesystem),
      lock_ops_(lock_ops),
      began_(std::chrono::steady_clock::now()) {
  const dev_t dev = filesystem.inodes().root()->id().dev;
  source_device_ = fmt::format("{}:{}", major(dev), minor(dev));
}

void ControlCommands::note_mount() {
  if (const auto mount = find_mount(options_.mountpoint_path)) mount_device_ = mount->device;
}

// -- parts of replies ----------------------------------------------------------------------------

Json ControlCommands::file_json(const lockmgr::FileLocks& file) const {
  std::string path = file.backing().name();
  constexpr std::string_view kDeleted = " (deleted)";
  const bool deleted = path.ends_with(kDeleted);
  if (deleted) path.resize(path.size() - kDeleted.size());
  std::string in_mount = path;
  const std::string& source = options_.source_path;
  if (source == "/") {
    in_mount = options_.mountpoint_path + path;
  } else if (path.starts_with(source) &&
             (path.size() == source.size() || path[source.size()] == '/')) {
    in_mount = options_.mountpoint_path + path.substr(source.size());
  }
  Json json;
  json["path"] = in_mount;
  json["source_path"] = path;
  json["deleted"] = deleted;
  json["device"] = fmt::format("{}:{}", major(file.key().device), minor(file.key().device));
  json["inode"] = file.key().inode;
  return json;
}

/// {"file":...} followed by its {"lock":...} and {"wait":...}, for one file after the other.
class ControlCommands::ListReply final : public Reply {
 public:
  ListReply(const ControlCommands& commands, Json id, std::optional<std::uint64_t> inode)
      : commands_(commands), id_(std::move(id)) {
    for (auto& file : commands.lock_ops_.manager().files()) {
      if (!inode || same_inode(file->key().inode, *inode)) files_.push_back(file);
    }
  }

  bool next(std::string& out) override {
    while (at_ < files_.size()) {
      const auto file = files_[at_].lock();
      if (file != nullptr && page(*file, out)) return true;
      ++at_;
      stage_ = Stage::kLocks;
      named_ = false;
      mark_ = {};
      if (!out.empty()) return true;
    }
    out += line_of({{"id", id_}, {"ok", true}, {"locks", locks_}, {"waiters", waiters_}});
    return false;
  }

 private:
  enum class Stage { kLocks, kWaiters };

  /// Returns whether the file has more.
  bool page(const lockmgr::FileLocks& file, std::string& out) {
    if (stage_ == Stage::kLocks) {
      std::vector<lockmgr::LockView> views;
      const bool more = file.locks_page(mark_, kPage, views);
      for (const auto& view : views) {
        name(file, out);
        Json json;
        add_owner(json, view.owner, view.caller);
        add_range(json, view.range, view.mode);
        json["held_s"] = view.held_seconds;
        out += line_of({{"id", id_}, {"lock", std::move(json)}});
      }
      locks_ += views.size();
      if (more) return true;
      stage_ = Stage::kWaiters;
      mark_ = {};
    }
    std::vector<lockmgr::WaitView> views;
    const bool more = file.waiters_page(mark_, kPage, views);
    for (const auto& view : views) {
      name(file, out);
      Json json;
      add_owner(json, view.request.owner, view.request.caller);
      add_range(json, view.request.range, view.request.mode);
      json["waited_s"] = view.waited_seconds;
      json["ticket"] = view.ticket;
      json["place"] = text_of(view.place);
      json["ahead"] = view.ahead != 0 ? Json(view.ahead) : Json();
      out += line_of({{"id", id_}, {"wait", std::move(json)}});
    }
    waiters_ += views.size();
    return more;
  }

  void name(const lockmgr::FileLocks& file, std::string& out) {
    if (std::exchange(named_, true)) return;
    out += line_of({{"id", id_}, {"file", commands_.file_json(file)}});
  }

  const ControlCommands& commands_;
  const Json id_;
  std::vector<std::weak_ptr<lockmgr::FileLocks>> files_;
  std::size_t at_ = 0;
  Stage stage_ = Stage::kLocks;
  bool named_ = false;
  lockmgr::PageMark mark_;
  std::uint64_t locks_ = 0;
  std::uint64_t waiters_ = 0;
};

/// Compares file after file with its backing; only differences are reported one by one.
class ControlCommands::VerifyReply final : public Reply {
 public:
  VerifyReply(const ControlCommands& commands, Json id) : commands_(commands), id_(std::move(id)) {
    for (auto& file : commands.lock_ops_.manager().files()) files_.push_back(file);
  }

  bool next(std::string& out) override {
    for (; at_ < files_.size(); ++at_) {
      const auto file = files_[at_].lock();
      if (file == nullptr) continue;
      std::vector<lockmgr::Difference> found;
      if (!file->audit(kMostDifferences, found)) {
        ++unknown_;
        continue;
      }
      ++compared_;
      for (const auto& difference : found) {
        Json json = commands_.file_json(*file);
        json["start"] = difference.range.first;
        json["end"] = last_json(difference.range.last);
        json["granted"] = text_of(difference.granted);
        json["carried"] = text_of(difference.carried);
        out += line_of({{"id", id_}, {"difference", std::move(json)}});
      }
      differences_ += found.size();
      // One file a turn, so that the other connections get theirs.
      if (++at_ < files_.size()) return true;
      break;
    }
    out += line_of({{"id", id_},
                    {"ok", true},
                    {"compared", compared_},
                    {"unknown", unknown_},
                    {"differences", differences_}});
    return false;
  }

 private:
  const ControlCommands& commands_;
  const Json id_;
  std::vector<std::weak_ptr<lockmgr::FileLocks>> files_;
  std::size_t at_ = 0;
  std::uint64_t compared_ = 0;
  std::uint64_t unknown_ = 0;
  std::uint64_t differences_ = 0;
};

Json ControlCommands::about() const {
  const auto uptime = std::chrono::steady_clock::now() - began_;
  return {{"protocol", kControlProtocol},
          {"version", LOCKFS_VERSION},
          {"pid", getpid()},
          {"source", options_.source_path},
          {"mountpoint", options_.mountpoint_path},
          {"source_device", source_device_},
          {"mount_device", mount_device_},
          {"policy", std::string(lock_ops_.manager().policy().name())},
          {"mirror", options_.mirror},
          {"uptime_s", std::chrono::duration_cast<std::chrono::seconds>(uptime).count()}};
}

Json ControlCommands::statistics() const {
  using lockmgr::Counter;
  constexpr auto kNames = std::to_array<std::pair<Counter, const char*>>({
      {Counter::kGrants, "grants"},
      {Counter::kRefusals, "conflicts"},
      {Counter::kWaits, "waits"},
      {Counter::kLooks, "looks"},
      {Counter::kInterrupts, "interrupts"},
      {Counter::kDeadlocks, "deadlocks"},
      {Counter::kLimits, "limits"},
      {Counter::kUnlocks, "unlocks"},
      {Counter::kBackingCalls, "mirror_calls"},
      {Counter::kBackingErrors, "backing_errors"},
      {Counter::kOutsideWaits, "outside_waits"},
      {Counter::kBypasses, "bypasses"},
      {Counter::kRevocations, "revocations"},
  });
  static_assert(kNames.size() == static_cast<std::size_t>(Counter::kCount));
  const lockmgr::LockManager& manager = lock_ops_.manager();
  Json counters;
  for (const auto& [counter, name] : kNames) counters[name] = manager.counters().get(counter);

  const auto inodes = filesystem_.inodes().counts();
  Json gauges = {{"locks", manager.ledger().locks()},
                 {"waiters", manager.ledger().waiters()},
                 {"waiting_outside", manager.outside_waits()},
                 {"files", manager.files().size()},
                 {"inodes", inodes.inodes},
                 {"pinned_descriptors", inodes.pinned},
                 {"resident_bytes", resident_bytes()}};

  Json timings;
  for (const auto& [what, name] : {std::pair(lockmgr::Timing::kWaits, "wait"),
                                   std::pair(lockmgr::Timing::kBackingCalls, "mirror_call")}) {
    const lockmgr::Histogram& histogram = manager.timing(what);
    Json buckets = Json::array();
    std::uint64_t count = 0;
    for (std::size_t i = 0; i < lockmgr::Histogram::kBuckets; ++i) {
      const std::uint64_t in_bucket = histogram.count(i);
      count += in_bucket;
      if (in_bucket != 0)
        buckets.push_back({{"below_ns", std::uint64_t{1} << i}, {"count", in_bucket}});
    }
    timings[name] = {
        {"count", count}, {"sum_ns", histogram.sum()}, {"buckets", std::move(buckets)}};
  }
  return {{"counters", counters}, {"gauges", gauges}, {"timings", timings}};
}

// -- commands ------------------------------------------------------------------------------------

/// Takes locks away: by inode, owner, pid and range; at least one of the first three. The file is
/// never named by path here, since paths change.
Json ControlCommands::take_away(const Json& request, const Peer& peer) {
  const auto fail = [](const std::string& message) { throw Failure{"bad_request", message}; };
  const auto inode = number_in(request, "inode", fail);
  const auto pid = number_in(request, "pid", fail);
  const auto start = number_in(request, "start", fail);
  const auto end = number_in(request, "end", fail);
  const auto owner_text = text_in(request, "owner", fail);
  std::optional<lockmgr::OwnerId> owner;
  if (owner_text) {
    owner = parse_owner(*owner_text);
    if (!owner) fail("'owner' is not TYPE:COOKIE as 'list' shows it");
  }
  if (!inode && !pid && !owner) fail("break needs 'inode', 'pid' or 'owner'");
  const lockmgr::Range range{start.value_or(0), end.value_or(lockmgr::kEof)};
  if (range.first > range.last) fail("'start' is behind 'end'");

  Json taken = Json::array();
  for (const auto& file : lock_ops_.manager().files()) {
    if (inode && !same_inode(file->key().inode, static_cast<std::uint64_t>(*inode))) continue;
    std::vector<lockmgr::LockView> all;
    lockmgr::PageMark mark;
    std::vector<std::pair<lockmgr::OwnerId, lockmgr::Caller>> owners;
    for (bool more = true; more;) {
      all.clear();
      more = file->locks_page(mark, kPage, all);
      for (const auto& view : all) {
        const bool wanted = view.range.overlaps(range) && (!owner || view.owner == *owner) &&
                            (!pid || view.caller.pid == *pid);
        const bool known = std::any_of(owners.begin(), owners.end(),
                                       [&](const auto& o) { return o.first == view.owner; });
        if (wanted && !known) owners.emplace_back(view.owner, view.caller);
      }
    }
    for (const auto& [id, caller] : owners) {
      lockmgr::Range gone;
      const int error = file->revoke(id, range, gone);
      if (error == ENOENT) continue;  // let go meanwhile
      if (error != 0) throw Failure{"failed", fmt::format("{}", std::strerror(error))};
      Json json = file_json(*file);
      add_owner(json, id, caller);
      json["start"] = gone.first;
      json["end"] = last_json(gone.last);
      log_event(spdlog::level::warn,
                fmt::format("lock: {}: BROKEN: {} lock of pid {} (uid {}, owner {}) on {}-{} taken "
                            "away by pid {} (uid {})",
                            file->backing().name(), lockmgr::to_string(id.type), caller.pid,
                            caller.uid, owner_name(id), gone.first,
                            gone.last == lockmgr::kEof ? "EOF" : std::to_string(gone.last),
                            peer.pid, peer.uid),
                {{"LOCKFS_OP", "revoke"},
                 {"LOCKFS_FILE", file->backing().name()},
                 {"LOCKFS_OWNER", owner_name(id)},
                 {"LOCKFS_OWNER_PID", std::to_string(caller.pid)},
                 {"LOCKFS_BY_UID", std::to_string(peer.uid)},
                 {"LOCKFS_BY_PID", std::to_string(peer.pid)}});
      taken.push_back(std::move(json));
    }
  }
  return {{"broken", std::move(taken)}};
}

/// Changes what may change while mounted: each field of the request but "v", "id", "cmd" and "check"
/// is an option, with true for one without value. All or nothing; with "check" nothing.
Json ControlCommands::change(const Json& request, const Peer& peer) {
  const auto fail = [](const std::string& message) { throw Failure{"bad_request", message}; };
  if (peer.uid != 0 && peer.uid != geteuid()) {
    throw Failure{"permission", "only root may change options of a mount"};
  }
  std::vector<MountOption> changes;
  std::string text;
  for (const auto& [name, value] : request.items()) {
    if (name == "v" || name == "id" || name == "cmd" || name == "check") continue;
    MountOption change{name, std::nullopt};
    if (value != true) change.value = value.is_string() ? value.get<std::string>() : line_of(value);
    if (!value.is_string() && change.value) change.value->pop_back();  // the newline
    text += fmt::format("{}{}{}{}", text.empty() ? "" : ",", name, change.value ? "=" : "",
                        change.value.value_or(""));
    changes.push_back(std::move(change));
  }
  OptionChange planned = plan_change(current_, changes);
  if (!planned.error.empty()) fail(planned.error);
  if (!request.value("check", false)) {
    current_ = std::move(planned.wanted);
    apply_current();
    log_event(spdlog::level::info,
              fmt::format("options changed by pid {} (uid {}): {}", peer.pid, peer.uid, text),
              {{"LOCKFS_OP", "set"},
               {"LOCKFS_BY_UID", std::to_string(peer.uid)},
               {"LOCKFS_BY_PID", std::to_string(peer.pid)}});
  }
  Json values;
  for (const auto& [name, value] : live_values(current_)) {
    Json parsed = Json::parse(value, nullptr, false);
    values[name] = parsed.is_number() ? std::move(parsed) : Json(value);
  }
  return values;
}

void ControlCommands::apply_current() {
  spdlog::set_level(spdlog::level::from_str(current_.log_level));
  Filesystem::CacheTimes& times = filesystem_.cache_times();
  times.attr = current_.attr_timeout;
  times.entry = current_.entry_timeout;
  times.negative = current_.negative_timeout;
  lock_ops_.set_limits(current_);
}

ControlCommands::Outcome ControlCommands::dispatch(const Json& request, const Json& id,
                                                   const Peer& peer) {
  const auto fail = [](const std::string& message) { throw Failure{"bad_request", message}; };
  const auto version = number_in(request, "v", fail);
  if (version != kControlProtocol) {
    throw Failure{"version",
                  fmt::format("this lockfs speaks version {} of the protocol; say \"v\":{}",
                              kControlProtocol, kControlProtocol)};
  }
  const std::string command = text_in(request, "cmd", fail).value_or("");
  const auto done = [&id](const char* name, Json value) {
    return Outcome{line_of({{"id", id}, {"ok", true}, {name, std::move(value)}}), nullptr, {}};
  };
  std::optional<std::uint64_t> inode;
  if (const auto number = number_in(request, "inode", fail)) {
    inode = static_cast<std::uint64_t>(*number);
  }
  if (command == "ping") return done("mount", about());
  if (command == "stats") return done("stats", statistics());
  if (command == "list") return {{}, std::make_unique<ListReply>(*this, id, inode), {}};
  if (command == "verify") return {{}, std::make_unique<VerifyReply>(*this, id), {}};
  if (command == "break") return done("result", take_away(request, peer));
  if (command == "set") return done("result", change(request, peer));
  if (command == "watch") {
    Outcome outcome = done("watching", true);
    outcome.watch =
        WatchFilter{inode, static_cast<pid_t>(number_in(request, "pid", fail).value_or(0))};
    return outcome;
  }
  throw Failure{"unknown_command", "'cmd' is not ping, list, stats, verify, break, set or watch"};
}

ControlCommands::Outcome ControlCommands::execute(const std::string& line, const Peer& peer) {
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
    return dispatch(request, id, peer);
  } catch (const Failure& failure) {
    return {error_line(id, failure.code, failure.message), nullptr, {}};
  } catch (const Json::exception& error) {
    return {error_line(id, "bad_request", error.what()), nullptr, {}};
  }
}

std::string ControlCommands::error_line(const Json& id, const char* code,
                                        const std::string& message) {
  return line_of({{"id", id}, {"ok", false}, {"code", code}, {"error", message}});
}

// -- events --------------------------------------------------------------------------------------

std::string ControlCommands::event_line(const FeedItem& item, const WatchFilter& filter) const {
  const lockmgr::Event& event = item.event;
  if (filter.inode && !same_inode(item.file->key().inode, *filter.inode)) return {};
  if (filter.pid != 0 && event.caller.pid != filter.pid) return {};
  const std::chrono::duration<double> time = item.time.time_since_epoch();
  Json json = {{"event", lockmgr::to_string(event.kind)}, {"time", time.count()}};
  json.update(file_json(*item.file));
  add_owner(json, event.owner, event.caller);
  add_range(json, event.range, event.mode);
  json["waited_ms"] = static_cast<double>(event.waited.count()) / 1e6;
  json["errno"] = event.error;
  return line_of(json);
}

std::string ControlCommands::lost_line(std::uint64_t count) {
  return line_of({{"event", "dropped"}, {"count", count}});
}

}  // namespace lockfs
