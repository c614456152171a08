/// What files and their parked requests are found by: the list of all files, the tickets of
/// requests, and for the search for deadlocks the nodes of the wait-for graph. Also the policy that
/// new files begin with, and whether anything is parked any more.
///
/// Thread safety: all methods may be called from any thread; each takes the registry's mutex, and
/// no other while it holds it.
///
/// Invariants:
///  1. A parked request is in here from before it is visible in its file until its completion is
///     about to be called.
#pragma once

#include <atomic>
#include <boost/intrusive/list.hpp>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <utility>
#include <vector>

#include "lockmgr/owner.h"
#include "lockmgr/policy.h"
#include "lockmgr/wait_graph.h"
#include "lockmgr/wait_nodes.h"
#include "lockmgr/waiter.h"

namespace lockmgr {

/// Names a file: the backing's device and inode number, never a path.
struct FileKey {
  std::uint64_t device = 0;
  std::uint64_t inode = 0;
};

/// What makes a FileLocks one of the list.
struct RegisteredFile {
  bi::list_member_hook<> registry_hook;  ///< guarded by the registry's mutex
};

class Registry {
 public:
  explicit Registry(const Policy& policy) : policy_(policy) {}
  /// REQUIRES: all files and parked requests are gone.
  ~Registry();
  Registry(const Registry&) = delete;
  Registry& operator=(const Registry&) = delete;

  // -- files -------------------------------------------------------------------------------------
  /// Enters a file that nobody else knows yet, and calls begin(policy in force): a switch from then
  /// on meets the file.
  template <typename Begin>
  void enter(RegisteredFile& file, const Begin& begin) {
    const std::lock_guard guard(mutex_);
    files_.push_back(file);
    begin(policy_);
  }
  void forget(RegisteredFile& file) noexcept;
  /// Calls begin(number of files), which may throw, then visit(RegisteredFile&) for each, with the
  /// registry's mutex held.
  template <typename Begin, typename Visit>
  void for_each_file(const Begin& begin, const Visit& visit) const {
    const std::lock_guard guard(mutex_);
    begin(files_.size());
    for (RegisteredFile& file : files_) visit(file);
  }

  Policy policy() const;
  /// Puts `to` in force and moves parked requests to the nodes that it gives them. Returns the old
  /// policy. May throw std::bad_alloc; then nothing has changed.
  Policy switch_policy(const Policy& to);

  // -- requests ----------------------------------------------------------------------------------
  /// A new name for a request. May throw std::bad_alloc.
  Ticket new_ticket();
  /// The name is no longer in use. Unknown ones are ignored.
  void use_up(Ticket ticket) noexcept;
  /// Enters a request that is about to be parked. Returns 0, or the error that its ticket was
  /// cancelled with, or everything shut down with, before. May throw std::bad_alloc.
  [[nodiscard]] int enroll(const std::shared_ptr<Waiter>& waiter);
  /// Takes out a request whose completion is about to be called.
  void strike(const Waiter& waiter) noexcept;
  /// The request of that name if it is parked. One that is about to be is answered `error` instead.
  std::shared_ptr<Waiter> find_to_cancel(Ticket ticket, int error) noexcept;
  /// The request of that name if it is parked, or null.
  std::shared_ptr<Waiter> find(Ticket ticket) const noexcept;
  /// The parked request whose ticket is the oldest, or null.
  std::shared_ptr<Waiter> any_waiter() const noexcept;
  /// Calls visit(std::shared_ptr<Waiter>) for the parked requests whose edges lead from `node`,
  /// with the registry's mutex held. Returns false when there were more than `most`, which are left
  /// out.
  template <typename Visit>
  bool waiters_at(WaitGraph::Node node, std::uint64_t most, const Visit& visit) const {
    const std::lock_guard guard(mutex_);
    auto it = by_node_.lower_bound({node, 0});
    for (; it != by_node_.end() && it->first == node; ++it) {
      if (most-- == 0) return false;
      // Null: enroll() ran out of memory half way.
      if (const auto& waiter = tickets_.at(it->second).waiter) visit(waiter);
    }
    return true;
  }

  /// enroll() returns `error` from now on.
  void close(int error) noexcept;
  /// The error of close(), 0 before.
  int closed() const noexcept { return closed_.load(); }

 private:
  /// What a ticket stands for.
  struct Slot {
    std::shared_ptr<Waiter> waiter;  ///< null: not parked yet
    int cancelled = 0;               ///< error that it was cancelled with before it was parked
    WaitNodes nodes;                 ///< under which it is in by_node_
  };
  using Files = bi::list<RegisteredFile, bi::member_hook<RegisteredFile, bi::list_member_hook<>,
                                                         &RegisteredFile::registry_hook>>;

  void take_out(std::map<Ticket, Slot>::iterator it) noexcept;

  std::atomic<int> closed_{0};
  mutable std::mutex mutex_;  ///< guards all that follows
  std::uint64_t next_enrolled_ = 1;
  Policy policy_;
  Ticket next_ticket_ = 1;
  std::map<Ticket, Slot> tickets_;
  std::set<std::pair<WaitGraph::Node, Ticket>> by_node_;
  mutable Files files_;
};

}  // namespace lockmgr
