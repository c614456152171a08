// "verify": compares what is granted with what the backing files carry.
#include <utility>

#include "fs/control/commands.h"
#include "lockmgr/file_locks.h"

namespace lockfs::control {

namespace {

constexpr std::size_t kMostDifferences = 64;  ///< reported per file

/// Compares file after file; only differences are reported one by one.
class VerifyReply final : public Reply {
 public:
  VerifyReply(const Context& context, Json id, const FileFilter& filter)
      : context_(context), id_(std::move(id)), files_(files_of(context, filter)) {}

  bool next(std::string& out) override {
    while (at_ < files_.size()) {
      const auto file = files_[at_++].lock();
      if (file == nullptr) continue;
      compare(*file, out);
      // One file a turn, so that the other connections get theirs.
      if (at_ < files_.size()) return true;
    }
    out += line_of({{"id", id_},
                    {"ok", true},
                    {"compared", compared_},
                    {"unknown", unknown_},
                    {"changing", changing_},
                    {"differences", differences_}});
    return false;
  }

 private:
  void compare(const lockmgr::FileLocks& file, std::string& out) {
    std::vector<lockmgr::Difference> found;
    switch (file.audit(kMostDifferences, found)) {
      case lockmgr::Audit::kUnknown:
        ++unknown_;
        return;
      case lockmgr::Audit::kChanging:
        ++changing_;
        return;
      case lockmgr::Audit::kCompared:
        ++compared_;
    }
    for (const auto& difference : found) {
      Json json = file_json(context_, file);
      json["start"] = difference.range.first;
      json["end"] = last_json(difference.range.last);
      json["granted"] = text_of(difference.granted);
      json["carried"] = text_of(difference.carried);
      out += line_of({{"id", id_}, {"difference", std::move(json)}});
    }
    differences_ += found.size();
  }

  const Context& context_;
  const Json id_;
  const std::vector<std::weak_ptr<lockmgr::FileLocks>> files_;
  std::size_t at_ = 0;
  std::uint64_t compared_ = 0;
  std::uint64_t unknown_ = 0;
  std::uint64_t changing_ = 0;
  std::uint64_t differences_ = 0;
};

}  // namespace

Outcome verify(Context& context, const Call& call) {
  const FileFilter filter(context, call.request);
  return {{}, std::make_unique<VerifyReply>(context, call.id, filter), {}};
}

}  // namespace lockfs::control
