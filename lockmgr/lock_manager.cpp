#include "lockmgr/lock_manager.h"

#include <cassert>
#include <cerrno>
#include <thread>

#include "lockmgr/file_locks.h"

namespace lockmgr {

LockManager::LockManager(const Limits& limits, const Policy& policy, Observer* observer)
    : ledger_(limits), observer_(observer), leases_(policy.has_lease()), policy_(policy) {}

LockManager::~LockManager() { assert(files_.empty() && by_node_.empty()); }

std::shared_ptr<FileLocks> LockManager::open_file(const FileKey& key,
                                                  std::unique_ptr<Backing> backing) {
  auto file = std::make_shared<FileLocks>(*this, key, std::move(backing));
  const std::lock_guard guard(registry_mutex_);
  files_.push_back(*file);
  file->policy_ = policy_;  // a switch that came meanwhile has not met this file
  return file;
}

void LockManager::forget_file(FileLocks& file) noexcept {
  const std::lock_guard guard(registry_mutex_);
  files_.erase(files_.iterator_to(file));
}

Policy LockManager::policy() const {
  const std::lock_guard guard(registry_mutex_);
  return policy_;
}

PolicySwitch LockManager::switch_policy(const Policy& to) {
  PolicySwitch report;
  report.to = to;
  // Nobody parks a request that takes part in deadlock detection meanwhile.
  const std::lock_guard block(block_mutex_);
  {
    const std::lock_guard guard(registry_mutex_);
    std::vector<std::pair<Slot*, WaitNodes>> changed;
    std::set<std::pair<WaitGraph::Node, Ticket>> by_node;
    for (auto& [ticket, slot] : tickets_) {
      if (slot.waiter == nullptr) continue;
      const Waiter& waiter = *slot.waiter;
      const auto& [where, nodes] =
          changed.emplace_back(&slot, waiting_nodes(to, waiter.party(), waiter.request.caller));
      for (const auto& node : nodes) {
        if (node) by_node.emplace(*node, ticket);
      }
    }
    // From here on nothing throws.
    for (const auto& [slot, nodes] : changed) slot->nodes = nodes;
    by_node_.swap(by_node);
    report.from = std::exchange(policy_, to);
    leases_.store(to.has_lease(), std::memory_order_relaxed);
  }
  const std::vector<std::shared_ptr<FileLocks>> all = files();
  for (const auto& file : all) file->switch_policy(to, report);
  if (to.deadlock != report.from.deadlock) {
    for (const auto& file : all) file->refuse_cycles(report);
  }
  return report;
}

Ticket LockManager::new_ticket() {
  const std::lock_guard guard(registry_mutex_);
  tickets_.emplace_hint(tickets_.end(), next_ticket_, Slot{});
  return next_ticket_++;
}

/// Returns 0, or the error that the ticket was cancelled with, or everything shut down with,
/// before.
int LockManager::enroll(const std::shared_ptr<Waiter>& waiter) {
  const std::lock_guard guard(registry_mutex_);
  if (const int closed = closed_.load(); closed != 0) return closed;
  Slot& slot = tickets_.at(waiter->ticket);
  if (slot.cancelled != 0) return slot.cancelled;
  slot.nodes = waiting_nodes(policy_, waiter->party(), waiter->request.caller);
  for (const auto& node : slot.nodes) {
    if (node) by_node_.emplace(*node, waiter->ticket);
  }
  slot.waiter = waiter;
  return 0;
}

void LockManager::strike(Waiter& waiter) noexcept {
  std::shared_ptr<Waiter> last;  // freed after the mutex is released: it may hold the file
  const std::lock_guard guard(registry_mutex_);
  const auto it = tickets_.find(waiter.ticket);
  last = std::move(it->second.waiter);
  take_out(it);
}

void LockManager::use_up(Ticket ticket) noexcept {
  const std::lock_guard guard(registry_mutex_);
  if (const auto it = tickets_.find(ticket); it != tickets_.end()) take_out(it);
}

/// REQUIRES: registry_mutex_ held.
void LockManager::take_out(std::map<Ticket, Slot>::iterator it) noexcept {
  for (const auto& node : it->second.nodes) {
    if (node) by_node_.erase({*node, it->first});
  }
  tickets_.erase(it);
}

std::vector<std::shared_ptr<Waiter>> LockManager::waiters_at(WaitGraph::Node node) const {
  std::vector<std::shared_ptr<Waiter>> found;
  const std::lock_guard guard(registry_mutex_);
  for (auto it = by_node_.lower_bound({node, 0}); it != by_node_.end() && it->first == node; ++it) {
    // Null: enroll() ran out of memory half way.
    if (const auto& waiter = tickets_.at(it->second).waiter) found.push_back(waiter);
  }
  return found;
}

void LockManager::cancel(Ticket ticket, int error) noexcept {
  std::shared_ptr<Waiter> waiter;
  {
    const std::lock_guard guard(registry_mutex_);
    const auto it = tickets_.find(ticket);
    if (it == tickets_.end()) return;
    waiter = it->second.waiter;
    if (waiter == nullptr) it->second.cancelled = error;
  }
  if (waiter != nullptr) waiter->file->cancel(*waiter, error);
}

void LockManager::shut_down(int error) noexcept {
  closed_.store(error);
  // enroll() looks at closed_ under registry_mutex_, so whoever is parking meanwhile is refused
  // there or has its waiter in the registry by now.
  while (true) {
    std::shared_ptr<Waiter> waiter;
    {
      const std::lock_guard guard(registry_mutex_);
      for (const auto& [ticket, slot] : tickets_) {
        if (slot.waiter != nullptr) waiter = slot.waiter;
        if (waiter != nullptr) break;
      }
      if (waiter == nullptr) return;
    }
    waiter->file->cancel(*waiter, error);
    // Decided already: another thread is about to take it out of the registry.
    std::this_thread::yield();
  }
}

void LockManager::relent(Clock::time_point now) noexcept {
  const bool leases = leases_.load(std::memory_order_relaxed) && ledger_.waiters() != 0;
  if (!has_queued() && !leases) return;
  try {
    for (const auto& file : files()) {
      file->relent(now);
      if (leases) file->break_leases(now);
    }
  } catch (const std::bad_alloc&) {
    return;  // the next call comes soon
  }
}

std::vector<std::shared_ptr<FileLocks>> LockManager::files() const {
  std::vector<std::shared_ptr<FileLocks>> found;
  const std::lock_guard guard(registry_mutex_);
  found.reserve(files_.size());
  for (RegisteredFile& file : files_) {
    // Null: its destructor waits to take it out of the list.
    auto alive = static_cast<FileLocks&>(file).weak_from_this().lock();
    if (alive != nullptr) found.push_back(std::move(alive));
  }
  return found;
}

const char* LockManager::check() const {
  std::uint64_t locks = 0;
  std::uint64_t waiters = 0;
  for (const auto& file : files()) {
    if (const char* broken = file->check()) return broken;
    locks += file->locks().size();
    waiters += file->waiters().size();
  }
  if (locks != ledger_.locks()) return "the number of granted locks has drifted";
  if (waiters != ledger_.waiters()) return "the number of parked requests has drifted";
  return nullptr;
}

}  // namespace lockmgr
