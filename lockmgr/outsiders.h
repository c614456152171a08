/// What outsiders that wait hold and await at the backings, as far as anybody can tell: for cycles
/// of waits that lead through them. A process of theirs is a node of the wait-for graph like
/// an owner of this manager's.
///
/// Example: 1 holds byte 1 here; process 500 outside holds byte 2 and awaits byte 1; 1 awaits byte
/// 2. The graph of this manager alone shows 1 to wait for somebody outside, and no cycle.
///
/// Thread safety: none; not changed once it is made.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "lockmgr/range.h"
#include "lockmgr/registry.h"
#include "lockmgr/wait_graph.h"

namespace lockmgr {

class FileLocks;

/// A record lock of a process outside.
struct OutsiderLock {
  FileKey file;
  pid_t process = 0;
  Range range;
  Mode mode = Mode::kNone;
  bool awaited = false;  ///< it is not held, but waited for
};

class Outsiders {
 public:
  /// May throw std::bad_alloc, as all that follows.
  explicit Outsiders(const std::vector<OutsiderLock>& locks) {
    for (const OutsiderLock& lock : locks) {
      known_.insert(name_of(lock.file));
      if (lock.awaited) {
        awaited_[lock.process].push_back(lock);
      } else {
        held_[name_of(lock.file)].push_back(lock);
      }
    }
  }

  /// A file of the manager's. Others are in nobody's way.
  void enter(const FileKey& key, std::shared_ptr<FileLocks> file) {
    files_.emplace(name_of(key), std::move(file));
  }
  [[nodiscard]] FileLocks* find(const FileKey& key) const {
    const auto at = files_.find(name_of(key));
    return at == files_.end() ? nullptr : at->second.get();
  }
  /// Whether somebody holds or awaits something there.
  [[nodiscard]] bool know(const FileKey& key) const { return known_.contains(name_of(key)); }

  /// Calls visit(process) for each that holds what is in the way of `mode` on `range`, and look()
  /// for each lock that is looked at, until that returns false.
  template <typename Look, typename Visit>
  void for_each_holder(const FileKey& file, const Range& range, Mode mode, const Look& look,
                       const Visit& visit) const {
    const auto at = held_.find(name_of(file));
    if (at == held_.end()) return;
    for (const OutsiderLock& lock : at->second) {
      if (!look()) return;
      if (lock.range.overlaps(range) && modes_conflict(lock.mode, mode)) visit(lock.process);
    }
  }
  /// Calls visit(process) for each that waits.
  template <typename Visit>
  void for_each_waiting(const Visit& visit) const {
    for (const auto& [process, locks] : awaited_) visit(process);
  }
  /// Calls visit(lock) for each that the process waits for.
  template <typename Visit>
  void for_each_awaited(pid_t process, const Visit& visit) const {
    const auto at = awaited_.find(process);
    if (at == awaited_.end()) return;
    for (const OutsiderLock& lock : at->second) visit(lock);
  }

  /// The node of a process outside. An owner whose cookie looks like one, as one of 2^32 random
  /// ones does, is not found to wait for anybody.
  static WaitGraph::Node node_of(pid_t process) {
    return kTag | static_cast<std::uint32_t>(process);
  }
  static std::optional<pid_t> process_of(WaitGraph::Node node) {
    if ((node & kTag) != kTag) return std::nullopt;
    return static_cast<pid_t>(node & ~kTag);
  }

 private:
  using Name = std::pair<std::uint64_t, std::uint64_t>;
  static Name name_of(const FileKey& key) { return {key.device, key.inode}; }
  static constexpr WaitGraph::Node kTag = 0xffffffff00000000;

  std::set<Name> known_;
  std::map<Name, std::vector<OutsiderLock>> held_;
  std::map<pid_t, std::vector<OutsiderLock>> awaited_;
  std::map<Name, std::shared_ptr<FileLocks>> files_;
};

}  // namespace lockmgr
