#include "tests/unit/several_descriptions.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <vector>

namespace lockmgr::testing {

std::string SeveralDescriptions::descriptions() const {
  std::vector<Who> ours;
  {
    const std::lock_guard guard(mutex_);
    for (const auto& [who, holding] : held_) {
      if (is_ours(who) && !holding.empty()) ours.push_back(who);
    }
  }
  std::string text;
  for (auto who = ours.rbegin(); who != ours.rend(); ++who) {
    text += std::to_string(*who) + ": " + to_text(held(*who));
  }
  return text;
}

int SeveralDescriptions::waits_beside_locks() const {
  const std::lock_guard guard(mutex_);
  return waits_beside_locks_;
}

// -- looking -------------------------------------------------------------------------------------

std::optional<FakeBacking::Held> SeveralDescriptions::held_at(Who description, Offset at) const {
  const auto holding = held_.find(description);
  if (holding == held_.end()) return std::nullopt;
  auto it = holding->second.upper_bound(at);
  if (it == holding->second.begin()) return std::nullopt;
  --it;
  return it->second.last >= at ? std::optional(it->second) : std::nullopt;
}

const FakeBacking::Pending* SeveralDescriptions::wait_of(Who description) const {
  const auto it = std::find_if(pending_.begin(), pending_.end(),
                               [&](const Pending& p) { return p.who == description && !p.shut; });
  return it == pending_.end() ? nullptr : &*it;
}

bool SeveralDescriptions::rests(Who description) const {
  return wait_of(description) == nullptr &&
         std::none_of(due_.begin(), due_.end(),
                      [&](const Due& due) { return due.who == description && due.end.has_lock(); });
}

bool SeveralDescriptions::refused_by_resting(const Pending& pending) const {
  for (const auto& [who, holding] : held_) {
    if (!is_ours(who) || who == pending.who || !rests(who)) continue;
    for (const auto& [first, lock] : holding) {
      if (pending.range.overlaps({first, lock.last}) && modes_conflict(lock.mode, pending.mode)) {
        return true;
      }
    }
  }
  return false;
}

/// Where a lock belongs: with the exclusive wait that it would be in the way of, else by its mode.
FakeBacking::Who SeveralDescriptions::home(const Range& piece, Mode mode) const {
  const Pending* found = nullptr;
  for (const Pending& p : pending_) {
    if (!is_ours(p.who) || p.shut || p.mode != Mode::kExclusive || !p.range.contains(piece)) {
      continue;
    }
    if (found == nullptr || held_at(p.who, piece.first)) found = &p;
  }
  if (found != nullptr) return found->who;
  return mode == Mode::kExclusive ? kWritable : kReadOnly;
}

// -- changing ------------------------------------------------------------------------------------

bool SeveralDescriptions::take(Who description, const Range& range, Mode mode) {
  if (is_refused(description, range, mode)) return false;
  replace(description, range, mode);
  return true;
}

void SeveralDescriptions::move_shared(const Range& piece, Who target) {
  EXPECT_TRUE(take(target, piece, Mode::kShared)) << "a shared lock beside shared ones";
  for (auto& [who, holding] : held_) {
    if (is_ours(who) && who != target) replace(who, piece, Mode::kNone);
  }
}

/// `piece` is carried in one mode, and lies within or outside of each wait.
bool SeveralDescriptions::set_piece(const Range& piece, Mode mode) {
  std::vector<Who> holders;
  Mode now = Mode::kNone;
  for (const auto& [who, holding] : held_) {
    if (!is_ours(who)) continue;
    if (const auto lock = held_at(who, piece.first)) {
      holders.push_back(who);
      now = lock->mode;
    }
  }
  if (mode == Mode::kNone) {
    for (const Who who : holders) replace(who, piece, Mode::kNone);
    return true;
  }
  if (now == Mode::kExclusive && mode == Mode::kExclusive) return true;
  const Who target = home(piece, mode);
  if (now == Mode::kExclusive) {
    EXPECT_TRUE(take(holders.front(), piece, Mode::kShared)) << "a downgrade";
  }
  if (now != Mode::kNone) move_shared(piece, target);
  return take(target, piece, mode);
}

bool SeveralDescriptions::set_own(const Range& range, Mode mode) {
  std::set<Offset> edges{range.first};
  const auto add = [&](const Range& part) {
    if (part.first > range.first && part.first <= range.last) edges.insert(part.first);
    if (part.last >= range.first && part.last < range.last) edges.insert(part.last + 1);
  };
  for (const auto& [who, holding] : held_) {
    if (!is_ours(who)) continue;
    for (const auto& [first, lock] : holding) add({first, lock.last});
  }
  for (const Pending& p : pending_) {
    if (is_ours(p.who)) add(p.range);
  }
  // What is refused half way is undone by weakening only, which nobody can refuse.
  const std::map<Who, Holding> before = held_;
  for (auto it = edges.begin(); it != edges.end(); ++it) {
    const auto after = std::next(it);
    if (!set_piece({*it, after == edges.end() ? range.last : *after - 1}, mode)) {
      held_ = before;
      return false;
    }
  }
  return true;
}

FakeBacking::Who SeveralDescriptions::begin_own(const Range& range, Mode mode) {
  const Who fresh = next_--;
  const std::map<Who, Holding> before = held_;
  bool beside = false;
  for (const auto& [who, holding] : before) {
    if (!is_ours(who)) continue;
    beside = beside || !holding.empty();
    if (mode != Mode::kExclusive || !rests(who)) continue;
    for (const auto& [first, lock] : holding) {
      if (!range.overlaps({first, lock.last})) continue;
      const Range part = common({first, lock.last}, range);
      EXPECT_EQ(lock.mode, Mode::kShared)
          << "a wait for " << to_text(range) << " where " << to_text(part)
          << " is carried exclusively: it is to be for what is missing";
      if (lock.mode == Mode::kShared) move_shared(part, fresh);
    }
  }
  if (beside) ++waits_beside_locks_;
  return fresh;
}

/// What it took over for its wait goes back.
void SeveralDescriptions::give_up_own(Who who) {
  const Holding holding = held_[who];
  for (const auto& [first, lock] : holding) {
    const Range part{first, lock.last};
    if (lock.mode == Mode::kShared) move_shared(part, home(part, lock.mode));
  }
}

/// Ends waits that something on this side came to be in the way of.
void SeveralDescriptions::end_stuck() {
  for (std::size_t i = 0; i < pending_.size();) {
    const Pending& p = pending_[i];
    if (is_ours(p.who) && !p.shut && refused_by_resting(p)) {
      end_pending(i, WaitEnd::not_held());
      i = 0;
    } else {
      ++i;
    }
  }
}

void SeveralDescriptions::changed() {
  if (ending_) return;
  ending_ = true;
  end_stuck();
  ending_ = false;
  for (auto it = held_.begin(); it != held_.end();) {
    it = it->second.empty() && is_ours(it->first) ? held_.erase(it) : std::next(it);
  }
  check_rules();
}

void SeveralDescriptions::check_rules() const {
  for (const auto& [who, holding] : held_) {
    if (!is_ours(who)) continue;
    EXPECT_NE(who, kManager) << "a lock without a description";
    const Pending* wait = wait_of(who);
    for (const auto& [first, lock] : holding) {
      const Range range{first, lock.last};
      if (who == kReadOnly) {
        EXPECT_EQ(lock.mode, Mode::kShared) << to_text(range) << " on the read-only description";
      }
      if (wait == nullptr) continue;
      EXPECT_TRUE(wait->range.contains(range)) << "a description waits for " << to_text(wait->range)
                                               << " and carries " << to_text(range);
      EXPECT_LE(lock.mode, wait->mode);
    }
  }
  for (const Pending& p : pending_) {
    if (!is_ours(p.who) || p.shut) continue;
    EXPECT_FALSE(refused_by_resting(p)) << "waits for what this side carries: " << to_text(p.range);
  }
}

}  // namespace lockmgr::testing
