#include "lockmgr/lock_manager.h"

#include <algorithm>
#include <cerrno>
#include <new>
#include <thread>
#include <vector>

#include "lockmgr/deadlock.h"
#include "lockmgr/file_locks.h"
#include "lockmgr/outsiders.h"

namespace lockmgr {

LockManager::LockManager(const Limits& limits, const Policy& policy, Observer* observer)
    : context_(limits, policy, observer), leases_(policy.has_lease()) {}

LockManager::~LockManager() = default;

std::shared_ptr<FileLocks> LockManager::open_file(const FileKey& key,
                                                  std::unique_ptr<Backing> backing,
                                                  std::unique_ptr<Journal> journal) {
  auto file = std::make_shared<FileLocks>(context_, key, std::move(backing), std::move(journal));
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

LockManager::Clock::duration LockManager::longest_wait() const noexcept {
  const std::shared_ptr<Waiter> first = context_.registry.any_waiter();
  return first == nullptr ? Clock::duration{0} : now() - first->since;
}

void LockManager::search_outside(Outsiders outsiders) noexcept try {
  for (const auto& file : files()) {
    if (outsiders.know(file->key())) outsiders.enter(file->key(), file);
  }
  // Some tenths of a second. What is left out is not told of a cycle.
  std::uint64_t left = 1'000'000;
  outsiders.for_each_waiting([&](pid_t process) {
    if (left == 0) return;
    WaitingOwners roaming(nullptr, context_.registry, {.most = left, .outsiders = &outsiders});
    const WaitGraph::Nodes cycle = roaming.find_cycle(process);
    left -= roaming.spent();
    context_.counters.add(Counter::kDeadlockLooks, roaming.looks());
    if (!cycle.empty()) refuse_last_in(cycle, outsiders);
  });
} catch (const std::bad_alloc&) {
  return;  // the next look comes soon
}

/// Refuses, of those that wait here in a cycle, the one that was parked last. May throw
/// std::bad_alloc.
void LockManager::refuse_last_in(const WaitGraph::Nodes& cycle, const Outsiders& outsiders) {
  std::vector<std::shared_ptr<Waiter>> in_it;
  for (const WaitGraph::Node node : cycle) {
    context_.registry.waiters_at(node, UINT64_MAX,
                                 [&](const auto& waiter) { in_it.push_back(waiter); });
  }
  std::sort(in_it.begin(), in_it.end(),
            [](const auto& a, const auto& b) { return a->enrolled > b->enrolled; });
  constexpr std::size_t kMostTried = 64;
  if (in_it.size() > kMostTried) in_it.resize(kMostTried);
  for (const auto& last : in_it) {
    auto closed = last->file->find_cycle(*last, &outsiders);
    if (closed.empty()) continue;  // it waits for others, too, who are in none
    last->file->refuse_in_cycle(*last, std::move(closed), &outsiders);
    return;
  }
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
