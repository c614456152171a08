#include "lockmgr/lock_manager.h"

#include <algorithm>
#include <cerrno>
#include <new>
#include <thread>
#include <vector>

#include "lockmgr/file_locks.h"
#include "lockmgr/outsiders.h"

namespace lockmgr {

LockManager::LockManager(const Limits& limits, const Policy& policy, Observer* observer)
    : context_(limits, policy, observer), leases_(policy.has_lease()) {}

LockManager::~LockManager() = default;

std::shared_ptr<FileLocks> LockManager::open_file(const FileKey& key,
                                                  std::unique_ptr<Backing> backing) {
  auto file = std::make_shared<FileLocks>(context_, key, std::move(backing));
  context_.registry.enter(*file, [&](const Policy& policy) { file->begin_with(policy); });
  return file;
}

Policy LockManager::policy() const { return context_.registry.policy(); }

PolicySwitch LockManager::switch_policy(const Policy& to) {
  PolicySwitch report;
  report.to = to;
  Waiter::PeerList due;
  // Nobody parks a request that takes part in deadlock detection meanwhile.
  std::unique_lock parking(context_.parking);
  report.from = context_.registry.switch_policy(to);
  leases_.store(to.has_lease(), std::memory_order_relaxed);
  const std::vector<std::shared_ptr<FileLocks>> all = files();
  for (const auto& file : all) file->switch_policy(to, report, due);
  if (!to.finds_cycles_like(report.from)) {
    for (const auto& file : all) file->refuse_cycles(report, due);
  }
  parking.unlock();
  FileLocks::announce(due);
  return report;
}

Ticket LockManager::new_ticket() { return context_.registry.new_ticket(); }

void LockManager::cancel(Ticket ticket, int error) noexcept {
  const std::shared_ptr<Waiter> waiter = context_.registry.find_to_cancel(ticket, error);
  if (waiter != nullptr) waiter->file->cancel(*waiter, error, FileLocks::Answer::kOnceWithdrawn);
}

void LockManager::shut_down(int error) noexcept {
  // The registry enrolls nobody any more, so whoever is parking meanwhile is refused there or is in
  // it by now.
  context_.registry.close(error);
  while (const std::shared_ptr<Waiter> waiter = context_.registry.any_waiter()) {
    waiter->file->cancel(*waiter, error, FileLocks::Answer::kAtOnce);
    // Decided already: another thread is about to take it out of the registry.
    std::this_thread::yield();
  }
}

void LockManager::relent(Clock::time_point now) noexcept {
  const bool leases = leases_.load(std::memory_order_relaxed) && context_.ledger.waiters() != 0;
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

bool LockManager::search() noexcept {
  const std::shared_ptr<Waiter> waiter = context_.searches.take();
  if (waiter == nullptr) return true;
  try {
    if (waiter->file->search(*waiter)) return true;
    context_.searches.add(waiter);
    return false;
  } catch (const std::bad_alloc&) {
    // Not to know is no reason to let it wait for ever.
    waiter->file->cancel(*waiter, ENOLCK, FileLocks::Answer::kOnceWithdrawn);
    return true;
  }
}

/// The request that was parked last of those in a cycle in which `waiter` is, and `cycle` as that
/// closes it; empty: it is none any more. May throw std::bad_alloc.
std::shared_ptr<Waiter> LockManager::last_in(WaitGraph::Nodes& cycle,
                                             const std::shared_ptr<Waiter>& waiter,
                                             const Outsiders& outsiders) const {
  std::vector<std::shared_ptr<Waiter>> in_it{waiter};
  for (const WaitGraph::Node node : cycle) {
    context_.registry.waiters_at(node, UINT64_MAX,
                                 [&](const auto& other) { in_it.push_back(other); });
  }
  std::sort(in_it.begin(), in_it.end(),
            [](const auto& a, const auto& b) { return a->enrolled > b->enrolled; });
  cycle.clear();
  for (const auto& candidate : in_it) {
    cycle = candidate->file->find_cycle(*candidate, FileLocks::With::kEarlier, &outsiders);
    if (!cycle.empty()) return candidate;
  }
  return waiter;
}

bool LockManager::search_outside(Outsiders outsiders) noexcept try {
  std::map<Ticket, WaitGraph::Nodes> seen;
  if (!outsiders.nobody_waits()) {
    for (const auto& file : files()) {
      if (outsiders.know(file->key())) outsiders.enter(file->key(), file);
    }
  }
  outsiders.for_each_file([&](FileLocks& file) {
    for (const WaitView& view : file.waiters()) {
      if (view.place != Waiter::Place::kOutside) continue;
      const std::shared_ptr<Waiter> waiter = context_.registry.find(view.ticket);
      if (waiter == nullptr) continue;
      WaitGraph::Nodes cycle = file.find_cycle(*waiter, FileLocks::With::kAll, &outsiders);
      const std::shared_ptr<Waiter> last = last_in(cycle, waiter, outsiders);
      if (cycle.empty()) continue;
      const auto before = seen_outside_.find(last->ticket);
      if (before == seen_outside_.end() || before->second != cycle) {
        seen.emplace(last->ticket, std::move(cycle));
      } else {
        last->file->refuse_in_cycle(*last, std::move(cycle), &outsiders);
      }
    }
  });
  seen_outside_.swap(seen);
  return !seen_outside_.empty();
} catch (const std::bad_alloc&) {
  return true;
}

std::vector<std::shared_ptr<FileLocks>> LockManager::files() const {
  std::vector<std::shared_ptr<FileLocks>> found;
  context_.registry.for_each_file([&](std::size_t count) { found.reserve(count); },
                                  [&](RegisteredFile& file) {
                                    // Null: its destructor waits to take it out of the list.
                                    auto alive =
                                        static_cast<FileLocks&>(file).weak_from_this().lock();
                                    if (alive != nullptr) found.push_back(std::move(alive));
                                  });
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
  if (locks != context_.ledger.locks()) return "the number of granted locks has drifted";
  if (waiters != context_.ledger.waiters()) return "the number of parked requests has drifted";
  return nullptr;
}

}  // namespace lockmgr
