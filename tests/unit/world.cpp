#include "tests/unit/world.h"

#include <array>
#include <cerrno>

namespace lockmgr::testing {

World::World(const Limits& limits, int files, const Policy& policy, MakeBacking make_backing)
    : manager_(limits, policy, &notes_) {
  for (int i = 0; i < files; ++i) {
    auto backing = make_backing();
    backings_.push_back(backing.get());
    files_.push_back(
        manager_.open_file({1, static_cast<std::uint64_t>(i) + 1}, std::move(backing)));
  }
}

void World::land_recalls() {
  for (FakeBacking* backing : backings_) {
    backing->land_recalls();
    if (FakeBacking* flocks = backing->known_flocks()) flocks->land_recalls();
  }
}

World::~World() {
  // Everybody leaves; nothing may remain.
  for (FakeBacking* backing : backings_) {
    backing->fail_set = nullptr;
    backing->fail_wait = nullptr;
    backing->fail_test = nullptr;
  }
  for (const AnswerPtr& answer : answers_) {
    if (answer->waiting()) manager_.cancel(answer->ticket, EINTR);
  }
  land_recalls();
  deliver();
  for (auto& [where, opened] : opened_) {
    files_[static_cast<std::size_t>(where.first)]->close(*opened);
  }
  land_recalls();
  deliver();
  for (const AnswerPtr& answer : answers_) {
    EXPECT_TRUE(answer->error.has_value()) << "a request was never answered";
    EXPECT_EQ(answer->completions, answer->parked ? 1 : 0);
  }
  for (std::size_t i = 0; i < files_.size(); ++i) {
    EXPECT_TRUE(files_[i]->quiet());
    EXPECT_EQ(to_text(backings_[i]->held()), "nothing");
    if (FakeBacking* flocks = backings_[i]->known_flocks()) {
      EXPECT_EQ(to_text(flocks->held()), "nothing");
    }
  }
  EXPECT_STREQ(manager_.check(), nullptr);
  EXPECT_EQ(manager_.ledger().locks(), 0U);
  EXPECT_EQ(manager_.ledger().waiters(), 0U);
  EXPECT_EQ(manager_.outside_waits(), 0U);
  EXPECT_FALSE(manager_.has_queued());
}

int World::number_of(const OwnerId& owner) { return static_cast<int>(owner.cookie); }

Opened& World::opened(int number) {
  std::unique_ptr<Opened>& slot = opened_[{current_, number}];
  if (slot == nullptr) slot = std::make_unique<Opened>(true, true);
  return *slot;
}

AnswerPtr World::send(const OwnerId& owner, const Range& range, Mode mode, bool wait,
                      const How& how) {
  auto answer = std::make_shared<Answer>();
  answers_.push_back(answer);
  const Request request{
      owner, {how.pid != 0 ? how.pid : static_cast<pid_t>(owner.cookie), how.tid, how.uid},
      range, mode,
      wait,
  };
  Opened& through = opened(how.via >= 0 ? how.via : number_of(owner));
  const auto on_done = [this, answer](int error) {
    ++answer->completions;
    answer->error = error;
    answer->order = ++completed_;
    if (answer->then) answer->then();
  };
  Refusal refusal = Refusal::kNone;
  std::optional<int> now = file().try_now(through, request, &refusal);
  if (!now) {
    answer->ticket = manager_.new_ticket();
    now = file().park(through, request, answer->ticket, on_done, refusal);
    answer->parked = !now.has_value();
    if (searches) search();
  }
  if (now) answer->error = now;
  inspect();
  return answer;
}

void World::search() {
  while (manager_.has_searches()) manager_.search();
}

AnswerPtr World::ask(const OwnerId& owner, const Range& range, Mode mode, const How& how) {
  return send(owner, range, mode, false, how);
}

AnswerPtr World::wait(const OwnerId& owner, const Range& range, Mode mode, const How& how) {
  return send(owner, range, mode, true, how);
}

int World::lock(const OwnerId& owner, const Range& range, Mode mode, const How& how) {
  const AnswerPtr answer = ask(owner, range, mode, how);
  EXPECT_TRUE(answer->error.has_value()) << "the request stands aside";
  return answer->error.value_or(-1);
}

std::optional<Blocker> World::blocker(const OwnerId& owner, const Range& range, Mode mode) {
  std::optional<Blocker> found;
  EXPECT_EQ(file().test({owner, {}, range, mode, false}, found), 0);
  return found;
}

void World::cancel(const AnswerPtr& answer, int error) {
  manager_.cancel(answer->ticket, error);
  inspect();
}

void World::close_by_process(const OwnerId& owner) {
  file().close_by_process(owner.cookie);
  inspect();
}

void World::close(int number) {
  const auto it = opened_.find({current_, number});
  if (it == opened_.end()) return;
  file().close(*it->second);
  opened_.erase(it);
  inspect();
}

void World::deliver() {
  bool again = true;
  while (again) {
    again = false;
    for (FakeBacking* backing : backings_) {
      again = backing->deliver_all() != 0 || again;
      if (FakeBacking* flocks = backing->known_flocks())
        again = flocks->deliver_all() != 0 || again;
    }
  }
  inspect();
}

void World::relent(LockManager::Clock::duration after) {
  manager_.relent(manager_.now() + after);
  inspect();
}

std::string World::held(const OwnerId& owner) {
  std::vector<Segment> segments;
  for (const LockView& lock : file().locks()) {
    if (lock.owner == owner) segments.push_back({lock.range, lock.mode});
  }
  return to_text(segments);
}

Waiter::Place World::place(const AnswerPtr& answer) {
  for (const WaitView& view : file().waiters()) {
    if (view.ticket == answer->ticket) return view.place;
  }
  return Waiter::Place::kDone;
}

void World::inspect() {
  EXPECT_STREQ(manager_.check(), nullptr);
  if (!mirror_checked) return;
  for (std::size_t i = 0; i < files_.size(); ++i) {
    const Policy policy = manager_.policy();
    std::array<std::vector<LockView>, kSpaces.size()> granted;
    for (const LockView& lock : files_[i]->locks()) {
      granted[static_cast<std::size_t>(policy.space_of(lock.owner.type))].push_back(lock);
    }
    EXPECT_EQ(backings_[i]->compare(granted[0]), "") << "file " << i;
    if (policy.guards()) {
      Mode strongest = Mode::kNone;
      for (const LockView& lock : granted[0]) strongest = std::max(strongest, lock.mode);
      granted[1].push_back({{}, {}, kWholeFile, strongest});
    }
    if (FakeBacking* flocks = backings_[i]->known_flocks()) {
      EXPECT_EQ(flocks->compare(granted[1]), "") << "flocks of file " << i;
    }
  }
}

}  // namespace lockmgr::testing
