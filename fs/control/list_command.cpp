// "list": every lock and every parked request, file after file.
#include <utility>

#include "fs/control/commands.h"
#include "lockmgr/file_locks.h"

namespace lockfs::control {

namespace {

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

/// {"file":...} followed by its {"lock":...} and {"wait":...}, for one file after the other.
class ListReply final : public Reply {
 public:
  ListReply(const Context& context, Json id, const FileFilter& filter)
      : context_(context), id_(std::move(id)), files_(files_of(context, filter)) {}

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
    out += line_of({{"id", id_}, {"file", file_json(context_, file)}});
  }

  const Context& context_;
  const Json id_;
  const std::vector<std::weak_ptr<lockmgr::FileLocks>> files_;
  std::size_t at_ = 0;
  Stage stage_ = Stage::kLocks;
  bool named_ = false;
  lockmgr::PageMark mark_;
  std::uint64_t locks_ = 0;
  std::uint64_t waiters_ = 0;
};

}  // namespace

Outcome list(Context& context, const Call& call) {
  const FileFilter filter(context, call.request);
  return {{}, std::make_unique<ListReply>(context, call.id, filter), {}};
}

}  // namespace lockfs::control
