// "break": takes locks away from their owners.
#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <cerrno>
#include <cstring>
#include <unordered_map>
#include <utility>

#include "fs/control/commands.h"
#include "fs/options/logging.h"
#include "lockmgr/file_locks.h"

namespace lockfs::control {

namespace {

constexpr std::size_t kMostATurn = 64;  ///< owners dealt with before other connections get a turn

using Owners = std::unordered_map<lockmgr::OwnerId, lockmgr::Caller, lockmgr::OwnerIdHash>;

/// {"broken":...} for each owner that has lost something, file after file.
class BreakReply final : public Reply {
 public:
  BreakReply(const Context& context, const Call& call, const FileFilter& filter)
      : context_(context),
        id_(call.id),
        peer_(call.peer),
        files_(files_of(context, filter)),
        range_(range_in(call.request)),
        owner_(owner_in(call.request)),
        pid_(number_in(call.request, "pid")) {
    if (filter.fits_all() && !pid_ && !owner_) {
      throw Failure{"bad_request", "break needs a file, 'pid' or 'owner'"};
    }
  }

  bool next(std::string& out) override {
    for (std::size_t turn = 0; turn < kMostATurn; ++turn) {
      if (owners_.empty()) {
        if (at_ == files_.size()) {
          out += line_of({{"id", id_}, {"ok", true}, {"broken", broken_}});
          return false;
        }
        file_ = files_[at_++].lock();
        if (file_ != nullptr) collect();
        continue;
      }
      const auto [id, caller] = *owners_.begin();
      owners_.erase(owners_.begin());
      if (const int error = take_from(id, caller, out); error != 0) {
        out += error_line(id_, "failed", std::strerror(error));
        return false;
      }
    }
    return true;
  }

 private:
  [[nodiscard]] bool wanted(const lockmgr::LockView& view) const {
    return view.range.overlaps(range_) && (!owner_ || view.owner == *owner_) &&
           (!pid_ || view.caller.pid == *pid_);
  }

  void collect() {
    std::vector<lockmgr::LockView> page;
    lockmgr::PageMark mark;
    for (bool more = true; more;) {
      page.clear();
      more = file_->locks_page(mark, kPage, page);
      for (const auto& view : page) {
        if (wanted(view)) owners_.emplace(view.owner, view.caller);
      }
    }
  }

  /// Returns 0 or an errno.
  int take_from(const lockmgr::OwnerId& id, const lockmgr::Caller& caller, std::string& out) {
    lockmgr::Range gone;
    const int error = context_.lock_ops.revoke(*file_, id, range_, gone);
    if (error != 0) return error == ENOENT ? 0 : error;  // ENOENT: let go meanwhile
    ++broken_;
    Json json = file_json(context_, *file_);
    add_owner(json, id, caller);
    json["start"] = gone.first;
    json["end"] = last_json(gone.last);
    out += line_of({{"id", id_}, {"broken", std::move(json)}});
    const std::string name = file_->backing().name();
    log_event(spdlog::level::warn,
              fmt::format("lock: {}: BROKEN: {} lock of pid {} (uid {}, owner {}) on {} taken away "
                          "by pid {} (uid {})",
                          name, lockmgr::to_string(id.type), caller.pid, caller.uid, text_of(id),
                          text_of(gone), peer_.pid, peer_.uid),
              {{"LOCKFS_OP", "break"},
               {"LOCKFS_FILE", name},
               {"LOCKFS_RANGE", text_of(gone)},
               {"LOCKFS_OWNER", text_of(id)},
               {"LOCKFS_OWNER_PID", std::to_string(caller.pid)},
               {"LOCKFS_BY_UID", std::to_string(peer_.uid)},
               {"LOCKFS_BY_PID", std::to_string(peer_.pid)}});
    return 0;
  }

  const Context& context_;
  const Json id_;
  const Peer peer_;
  const std::vector<std::weak_ptr<lockmgr::FileLocks>> files_;
  const lockmgr::Range range_;
  const std::optional<lockmgr::OwnerId> owner_;
  const std::optional<std::int64_t> pid_;
  std::size_t at_ = 0;
  std::shared_ptr<lockmgr::FileLocks> file_;  ///< whose owners are in `owners_`
  Owners owners_;
  std::uint64_t broken_ = 0;
};

}  // namespace

Outcome take_away(Context& context, const Call& call) {
  const FileFilter filter(context, call.request);
  return {{}, std::make_unique<BreakReply>(context, call, filter), {}};
}

}  // namespace lockfs::control
