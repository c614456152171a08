#include "lockmgr/registry.h"

#include <cassert>

namespace lockmgr {

Registry::~Registry() { assert(files_.empty() && by_node_.empty()); }

// -- files ---------------------------------------------------------------------------------------

void Registry::forget(RegisteredFile& file) noexcept {
  const std::lock_guard guard(mutex_);
  files_.erase(files_.iterator_to(file));
}

Policy Registry::policy() const {
  const std::lock_guard guard(mutex_);
  return policy_;
}

Policy Registry::switch_policy(const Policy& to) {
  const std::lock_guard guard(mutex_);
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
  return std::exchange(policy_, to);
}

// -- requests ------------------------------------------------------------------------------------

Ticket Registry::new_ticket() {
  const std::lock_guard guard(mutex_);
  tickets_.emplace_hint(tickets_.end(), next_ticket_, Slot{});
  return next_ticket_++;
}

int Registry::enroll(const std::shared_ptr<Waiter>& waiter) {
  const std::lock_guard guard(mutex_);
  if (const int closed = closed_.load(); closed != 0) return closed;
  Slot& slot = tickets_.at(waiter->ticket);
  if (slot.cancelled != 0) return slot.cancelled;
  slot.nodes = waiting_nodes(policy_, waiter->party(), waiter->request.caller);
  for (const auto& node : slot.nodes) {
    if (node) by_node_.emplace(*node, waiter->ticket);
  }
  slot.waiter = waiter;
  waiter->enrolled = next_enrolled_++;
  return 0;
}

void Registry::strike(const Waiter& waiter) noexcept {
  std::shared_ptr<Waiter> last;  // freed after the mutex is released: it may hold the file
  const std::lock_guard guard(mutex_);
  const auto it = tickets_.find(waiter.ticket);
  last = std::move(it->second.waiter);
  take_out(it);
}

void Registry::use_up(Ticket ticket) noexcept {
  const std::lock_guard guard(mutex_);
  if (const auto it = tickets_.find(ticket); it != tickets_.end()) take_out(it);
}

/// REQUIRES: mutex_ held.
void Registry::take_out(std::map<Ticket, Slot>::iterator it) noexcept {
  for (const auto& node : it->second.nodes) {
    if (node) by_node_.erase({*node, it->first});
  }
  tickets_.erase(it);
}

std::shared_ptr<Waiter> Registry::find_to_cancel(Ticket ticket, int error) noexcept {
  const std::lock_guard guard(mutex_);
  const auto it = tickets_.find(ticket);
  if (it == tickets_.end()) return nullptr;
  if (it->second.waiter == nullptr) it->second.cancelled = error;
  return it->second.waiter;
}

std::shared_ptr<Waiter> Registry::find(Ticket ticket) const noexcept {
  const std::lock_guard guard(mutex_);
  const auto it = tickets_.find(ticket);
  return it == tickets_.end() ? nullptr : it->second.waiter;
}

std::shared_ptr<Waiter> Registry::any_waiter() const noexcept {
  const std::lock_guard guard(mutex_);
  for (const auto& [ticket, slot] : tickets_) {
    if (slot.waiter != nullptr) return slot.waiter;
  }
  return nullptr;
}

void Registry::close(int error) noexcept { closed_.store(error); }

}  // namespace lockmgr
