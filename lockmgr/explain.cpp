#include "lockmgr/explain.h"

#include <cerrno>
#include <utility>

namespace lockmgr {

namespace {

bool one_open_file(const OwnerId& a, const OwnerId& b) {
  return a.cookie == b.cookie && a.type != OwnerType::kProcess && b.type != OwnerType::kProcess;
}

/// Why two owners whose ranges overlap and whose modes conflict do or do not exclude each other.
std::string_view reason(const Policy& policy, const Party& held, const Party& asked) {
  const bool mixed =
      (held.owner.type == OwnerType::kFlock) != (asked.owner.type == OwnerType::kFlock);
  if (policy.excludes(held, asked)) {
    return mixed ? "a flock and a record lock are in one conflict space"
                 : "different owners, overlapping bytes, one exclusive";
  }
  if (held.owner == asked.owner) return "the owner's own lock, which is replaced";
  if (one_open_file(held.owner, asked.owner)) {
    return "flock and OFD locks of one open file are one owner's to an NFS server";
  }
  if (policy.separates_flocks()) {
    return "conflict_space=separate: a flock and a record lock do not meet";
  }
  return "same_process=exempt: a flock and a record lock of one process go together";
}

void add_outsider(Explanation& out, const OutsideLock& lock, bool blocks, std::string_view why) {
  out.obstacles.push_back(
      {Obstacle::What::kOutsider, {}, lock.pid, lock.range, lock.mode, blocks, why});
}

}  // namespace

Explanation explain(const Policy& policy, std::string name, const Hypothesis& h) {
  const Request& r = h.request;
  const Party asker{r.owner, r.caller.pid};
  Explanation out;
  out.policy = std::move(name);
  out.error = policy.check_open_mode(r.owner.type, r.mode, h.readable, h.writable);
  if (out.error != 0) return out;

  for (const LockView& lock : h.locks) {
    if (!lock.range.overlaps(r.range) || !modes_conflict(lock.mode, r.mode)) continue;
    const Party holder{lock.owner, lock.caller.pid};
    const bool blocks = policy.excludes(holder, asker);
    if (blocks) out.error = EAGAIN;
    out.obstacles.push_back({Obstacle::What::kLock, lock.owner, lock.caller.pid, lock.range,
                             lock.mode, blocks, reason(policy, holder, asker)});
  }
  const bool as_flock = policy.space_of(r.owner.type) == Space::kFlocks;
  if (h.outside_record) {
    if (!as_flock) out.error = EAGAIN;
    add_outsider(out, *h.outside_record, !as_flock,
                 as_flock
                     ? "conflict_space=separate: a flock does not meet the record locks of the "
                       "source, which are what NFS clients hold"
                     : "a record lock on the source, such as an NFS client's");
  }
  if (h.outside_flock) {
    const bool blocks = as_flock || policy.guards();
    if (blocks) out.error = EAGAIN;
    add_outsider(out, *h.outside_flock, blocks,
                 as_flock ? "a flock straight on the source"
                 : blocks ? "guard=flock: a flock straight on the source"
                          : "a flock straight on the source is not seen");
  }
  if (!policy.queues_behind_waiters()) return out;
  for (const WaitView& waiter : h.waiters) {
    const Request& w = waiter.request;
    const Party party{w.owner, w.caller.pid};
    // The asker would be the last to come.
    if (!w.wait || !w.range.overlaps(r.range) || !modes_conflict(w.mode, r.mode) ||
        !policy.excludes(party, asker) || policy.turn(w.mode, 1) > policy.turn(r.mode, 2)) {
      continue;
    }
    out.queues = true;
    out.obstacles.push_back({Obstacle::What::kWaiter, w.owner, w.caller.pid, w.range, w.mode, true,
                             "waits already, and comes first if the request waits"});
  }
  return out;
}

std::vector<Explanation> explain_all(const Policy& in_force, const Hypothesis& hypothesis) {
  std::vector<Explanation> all;
  all.push_back(explain(in_force, "now", hypothesis));
  for (const Preset& preset : Policy::presets()) {
    all.push_back(explain(preset.policy, std::string(preset.name), hypothesis));
  }
  return all;
}

}  // namespace lockmgr
