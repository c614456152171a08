// Random requests of many owners, beside a model that knows nothing of trees: one mode a position
// for each owner, a list of waiters, and a look at each of them after every step.
// ctest: timeout=300
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "tests/unit/fake_backing.h"
#include "tests/unit/random.h"
#include "tests/unit/several_descriptions.h"
#include "tests/unit/world.h"

namespace lockmgr {
namespace {

using namespace testing;  // NOLINT(google-build-using-namespace): the vocabulary of these tests

/// Positions 0..63 are bytes; the last stands for all that follows to the end of the file.
constexpr int kPositions = 65;
constexpr int kTail = kPositions - 1;

struct Span {
  int first = 0;
  int last = 0;
  bool overlaps(const Span& o) const { return first <= o.last && o.first <= last; }
  Range range() const { return {first, last == kTail ? kEof : last}; }
};

struct OwnerOrder {
  bool operator()(const OwnerId& a, const OwnerId& b) const {
    return std::pair(a.type, a.cookie) < std::pair(b.type, b.cookie);
  }
};

/// What may happen in a run.
struct Mix {
  int owners = 6;              ///< of each kind
  bool outsiders = false;      ///< outsiders lock, wait and leave
  bool lazy = false;           ///< recalls and outsiders take effect late
  bool restarts = false;       ///< the backing starts afresh now and then
  bool grace = false;          ///< the backing takes nothing new now and then
  bool relents = false;        ///< waiters pass out of turn
  bool several = false;        ///< the manager has several descriptions at the backing
  bool threads = false;        ///< requests name their threads, which use several owners
  const char* policy = "nfs";  ///< deadlock=all is not in the model
};

class Run {
 public:
  Run(std::uint64_t seed, const Mix& mix)
      : random_(seed),
        mix_(mix),
        policy_(policy_of(mix.policy)),
        world_({}, 1, policy_, mix.several ? &several_descriptions : &one_description) {
    // Waiters pass when relent() says so, not because the machine is slow.
    world_.manager().set_time(LockManager::Clock::time_point(std::chrono::hours(1)));
    for (FakeBacking* backing : backings()) {
      backing->lazy_recalls = mix.lazy;
      backing->lazy_outsiders = mix.lazy;
    }
  }

  void step() {
    const int what = random_.between(0, 99);
    if (what < 55) {
      request();
    } else if (what < 70) {
      unlock();
    } else if (what < 76) {
      cancel();
    } else if (what < 80) {
      close_process();
    } else if (what < 83) {
      close_open_file();
    } else if (what < 97) {
      outside();
    } else if (what < 98 && mix_.relents) {
      relent();
    } else {
      drain();
    }
    settle();
  }

  /// Lets everything under way come to its end, and the manager know that time passes: then nobody
  /// may wait for nothing.
  void drain() {
    world_.backing().set_shut(false);
    let_end();
    world_.relent({});
    do {
      let_end();
    } while (stir_all());
    check_nobody_is_due();
  }

  int granted = 0;
  int granted_late = 0;
  int refused = 0;
  int deadlocks = 0;
  int passed = 0;
  int put_off = 0;

 private:
  using Bytes = std::array<Mode, kPositions>;
  struct Pending {
    AnswerPtr answer;
    OwnerId owner;
    Span span;
    Mode mode;
    bool wait;
    pid_t tid;
    int via;
  };

  // -- the model -------------------------------------------------------------------------------
  static std::unique_ptr<FakeBacking> one_description() { return std::make_unique<FakeBacking>(); }
  static std::unique_ptr<FakeBacking> several_descriptions() {
    return std::make_unique<SeveralDescriptions>();
  }
  static Policy policy_of(const char* text) {
    Policy policy;
    EXPECT_EQ(Policy::parse(text, {}, policy), "");
    return policy;
  }
  /// Open file n and process n are of one program.
  static pid_t pid_of(const OwnerId& id) {
    return static_cast<pid_t>(id.type == OwnerType::kProcess ? id.cookie - process(0).cookie
                                                             : id.cookie) +
           1;
  }
  bool exclusive_of(const OwnerId& a, const OwnerId& b) const {
    if (a == b) return false;
    const bool mixed = (a.type == OwnerType::kFlock) != (b.type == OwnerType::kFlock);
    if (mixed && policy_.conflict_space == ConflictSpace::kSeparate) return false;
    if (mixed && policy_.same_process == SameProcess::kExempt && pid_of(a) == pid_of(b)) {
      return false;
    }
    const bool open_files = a.type != OwnerType::kProcess && b.type != OwnerType::kProcess;
    return !(open_files && a.cookie == b.cookie);
  }
  Bytes& bytes(const OwnerId& owner) {
    const auto [it, fresh] = held_.try_emplace(owner);
    if (fresh) it->second.fill(Mode::kNone);
    return it->second;
  }
  static bool hits(const Bytes& held, const Span& span, Mode mode) {
    for (int i = span.first; i <= span.last; ++i) {
      if (modes_conflict(held[static_cast<std::size_t>(i)], mode)) return true;
    }
    return false;
  }
  bool conflicts(const OwnerId& owner, const Span& span, Mode mode) const {
    return std::any_of(held_.begin(), held_.end(), [&](const auto& h) {
      return exclusive_of(h.first, owner) && hits(h.second, span, mode);
    });
  }
  bool in_each_others_way(const Pending& a, const Pending& b) const {
    return a.span.overlaps(b.span) && modes_conflict(a.mode, b.mode) &&
           exclusive_of(a.owner, b.owner);
  }
  /// Of record locks, and of flocks where they are apart.
  std::vector<FakeBacking*> backings() {
    std::vector<FakeBacking*> all{&world_.backing()};
    if (policy_.conflict_space == ConflictSpace::kSeparate || policy_.guards()) {
      all.push_back(&world_.backing().flocks());
    }
    return all;
  }
  FakeBacking& backing_of(const OwnerId& owner) {
    return policy_.space_of(owner.type) == Space::kFlocks ? world_.backing().flocks()
                                                          : world_.backing();
  }
  bool outsiders_refuse(const OwnerId& owner, const Span& span, Mode mode) {
    return backing_of(owner).refused(FakeBacking::kManager, span.range(), mode) ||
           (policy_.guards() &&
            world_.backing().flocks().refused(FakeBacking::kManager, kWholeFile, mode));
  }
  /// A wait of the manager under way that may take a part of `span`.
  bool wait_under_way(const OwnerId& owner, const Span& span) {
    for (const Segment& s : backing_of(owner).under_way()) {
      if (s.range.overlaps(span.range())) return true;
    }
    if (policy_.guards()) return !world_.backing().flocks().under_way().empty();
    return false;
  }

  /// Whether `waiter` waits, at once or through those it queues behind, for a lock of `owner` or of
  /// one whom the same thread used last.
  bool depends(const Pending& waiter, const OwnerId& owner, pid_t tid, std::size_t index) {
    for (const auto& [id, held] : held_) {
      const bool theirs = id == owner || (tid != 0 && last_tid_[id] == tid);
      if (theirs && exclusive_of(id, waiter.owner) && hits(held, waiter.span, waiter.mode)) {
        return true;
      }
    }
    for (std::size_t i = 0; i < index; ++i) {
      if (pending_[i].wait && in_each_others_way(pending_[i], waiter) &&
          depends(pending_[i], owner, tid, i)) {
        return true;
      }
    }
    return false;
  }

  /// Nobody passes an earlier waiter in whose way he is, unless that one depends on him.
  void check_turn(const Pending& p, std::size_t before) {
    if (mix_.relents || policy_.order != Order::kFifo) return;
    for (std::size_t i = before; i-- > 0;) {
      const Pending& earlier = pending_[i];
      if (!earlier.wait || !earlier.answer->waiting() || !in_each_others_way(earlier, p)) continue;
      ++passed;
      EXPECT_TRUE(depends(earlier, p.owner, p.tid, i)) << "passed an earlier waiter";
      return;  // who may pass the latest may pass them all
    }
  }

  /// A conversion that was not granted may cost the old lock.
  void refuse(const Pending& p) {
    if (policy_.conversion != Conversion::kDrop || p.owner.type != OwnerType::kFlock) return;
    Bytes& held = bytes(p.owner);
    if (held[0] != p.mode) held.fill(Mode::kNone);
  }

  void grant(const OwnerId& owner, const Span& span, Mode mode) {
    EXPECT_FALSE(conflicts(owner, span, mode)) << "granted against " << span.first;
    Bytes& held = bytes(owner);
    for (int i = span.first; i <= span.last; ++i) held[static_cast<std::size_t>(i)] = mode;
  }

  bool closes_cycle(const OwnerId& owner, const Span& span, Mode mode) {
    if (policy_.deadlock == Deadlock::kOff) return false;
    std::set<std::uint64_t> reached;
    std::vector<std::uint64_t> todo;
    const auto follow = [&](const OwnerId& who, const Span& where, Mode what) {
      for (const auto& [id, held] : held_) {
        if (id.type == OwnerType::kProcess && exclusive_of(id, who) && hits(held, where, what) &&
            reached.insert(id.cookie).second) {
          todo.push_back(id.cookie);
        }
      }
    };
    follow(owner, span, mode);
    while (!todo.empty()) {
      const std::uint64_t cookie = todo.back();
      todo.pop_back();
      if (cookie == owner.cookie) return true;
      for (const Pending& p : pending_) {
        if (p.owner.type == OwnerType::kProcess && p.owner.cookie == cookie &&
            p.answer->waiting()) {
          follow(p.owner, p.span, p.mode);
        }
      }
    }
    return reached.contains(owner.cookie);
  }

  /// Lets take effect what is late.
  void stir() {
    if (!mix_.lazy) return;
    for (FakeBacking* backing : backings()) {
      backing->let_outsiders_in();
      backing->land_recalls();
    }
  }

  /// The same for what waits for others, but not for ever. Returns whether a wait has ended.
  bool stir_all() {
    stir();
    const auto all = backings();
    for (FakeBacking* backing : all) backing->stop_yielding();
    return std::any_of(all.begin(), all.end(), [](FakeBacking* b) { return b->due() != 0; });
  }

  void let_end() {
    stir();
    const auto deliver = [this] {
      const auto all = backings();
      return std::any_of(all.begin(), all.end(), [](FakeBacking* b) { return b->deliver(); });
    };
    for (int i = 0; deliver(); ++i) {
      ASSERT_LT(i, 2000) << "waits end and begin again without end";
      settle();
      if (!mix_.lazy) continue;
      for (FakeBacking* backing : backings()) backing->land_recalls();
    }
  }

  // -- steps -----------------------------------------------------------------------------------
  OwnerId some_owner() {
    const std::uint64_t n = random_.below(static_cast<std::uint64_t>(mix_.owners));
    switch (random_.below(3)) {
      case 0:
        return process(n);
      case 1:
        return ofd(n);
      default:
        return flock_of(n);
    }
  }
  Span some_span(const OwnerId& owner) {
    if (owner.type == OwnerType::kFlock) return {0, kTail};
    const int first = random_.between(0, kTail);
    switch (random_.below(8)) {
      case 0:
        return {first, kTail};
      case 1:
        return {0, first};
      case 2:
        return {first, first};
      default:
        return {first, std::min(kTail, first + random_.between(0, 20))};
    }
  }
  /// An open file belongs to one owner; processes share two each.
  int some_opened(const OwnerId& owner) {
    if (owner.type != OwnerType::kProcess) return World::number_of(owner);
    return World::number_of(owner) * 2 + random_.between(0, 1);
  }

  void request() {
    Pending p;
    p.owner = some_owner();
    p.span = some_span(p.owner);
    p.mode = random_.one_in(2) ? kX : kS;
    p.wait = random_.one_in(2) && pending_.size() < 24;
    p.tid = mix_.threads ? random_.between(1, 8) : 0;
    p.via = some_opened(p.owner);
    if (mix_.restarts && random_.one_in(8)) world_.backing().restart_next = true;

    const bool conflict = conflicts(p.owner, p.span, p.mode);
    const bool outside = outsiders_refuse(p.owner, p.span, p.mode);
    const bool under_way = wait_under_way(p.owner, p.span);
    const bool shut = world_.backing().is_shut();
    bool queue = false;
    for (const Pending& other : pending_) queue |= other.wait && in_each_others_way(other, p);
    queue = queue && policy_.queues_behind_waiters();
    const bool cycle = p.owner.type == OwnerType::kProcess && closes_cycle(p.owner, p.span, p.mode);
    // A change that only weakens what the owner has meets nobody.
    const How how{p.via, p.tid, 0, pid_of(p.owner)};
    p.answer = p.wait ? world_.wait(p.owner, p.span.range(), p.mode, how)
                      : world_.ask(p.owner, p.span.range(), p.mode, how);
    last_tid_[p.owner] = p.tid;
    if (p.answer->waiting()) {
      EXPECT_TRUE(conflict || queue || outside || under_way || shut) << "waits for nothing";
      EXPECT_TRUE(p.wait || (under_way && !conflict && (!outside || shut)))
          << "a try was left open";
      EXPECT_FALSE(p.wait && cycle) << "an undetected deadlock";
      if (p.wait) refuse(p);
      pending_.push_back(p);
      return;
    }
    if (p.answer->parked) {
      // It stood aside and was answered by the time we look; settle() takes it from there.
      pending_.push_back(p);
      return;
    }
    switch (*p.answer->error) {
      case 0:
        EXPECT_FALSE(outside);
        if (p.wait) check_turn(p, pending_.size());
        grant(p.owner, p.span, p.mode);
        ++granted;
        break;
      case EAGAIN:
        EXPECT_FALSE(p.wait);
        EXPECT_TRUE(conflict || outside) << "refused for nothing";
        refuse(p);
        ++refused;
        break;
      case EINPROGRESS:
        EXPECT_TRUE(shut && !p.wait) << "put off for nothing";
        ++put_off;
        break;
      case EDEADLK:
        EXPECT_TRUE(p.wait && cycle) << "no deadlock";
        ++deadlocks;
        break;
      default:
        ADD_FAILURE() << "error " << *p.answer->error;
    }
  }

  void unlock() {
    const OwnerId owner = some_owner();
    const Span span = random_.one_in(3) ? Span{0, kTail} : some_span(owner);
    Bytes& held = bytes(owner);
    for (int i = span.first; i <= span.last; ++i) held[static_cast<std::size_t>(i)] = kU;
    EXPECT_EQ(world_.unlock(owner, span.range()), 0);
  }

  void cancel() {
    if (pending_.empty()) return;
    const auto at = pending_.begin() + static_cast<std::ptrdiff_t>(random_.below(pending_.size()));
    world_.cancel(at->answer, EINTR);
    if (!at->answer->waiting()) return;
    leaving_.push_back(at->answer);
    pending_.erase(at);
  }

  void close_process() {
    const OwnerId owner = process(random_.below(static_cast<std::uint64_t>(mix_.owners)));
    bytes(owner).fill(Mode::kNone);
    world_.close_by_process(owner);
  }

  void close_open_file() {
    const int number = random_.between(0, mix_.owners - 1);
    for (const OwnerType type : {OwnerType::kOpenFile, OwnerType::kFlock}) {
      bytes({type, static_cast<std::uint64_t>(number)}).fill(Mode::kNone);
    }
    closing_ = number;
    world_.close(number);
  }

  void outside() {
    const auto all = backings();
    FakeBacking& backing = *all[random_.below(all.size())];
    if (random_.one_in(2)) {
      backing.deliver(random_.below(3));
      return;
    }
    if (mix_.grace && random_.one_in(4)) {
      world_.backing().set_shut(!world_.backing().is_shut());
      return;
    }
    if (!mix_.outsiders) return;
    const FakeBacking::Who who = random_.between(1, 3);
    const Span span = &backing == &world_.backing() ? some_span(ofd(0)) : Span{0, kTail};
    switch (random_.below(mix_.lazy ? 6 : 4)) {
      case 0:
        backing.outsider_set(who, span.range(), random_.one_in(2) ? kX : kS);
        break;
      case 1:
        // One thread an outsider: it does not ask while it waits, so this is taken back first.
        backing.outsider_leaves(who);
        backing.outsider_wait(who, span.range(), random_.one_in(2) ? kX : kS);
        break;
      case 2:
        backing.outsider_leaves(who);
        break;
      case 3:
        backing.outsider_set(who, span.range(), kU);
        break;
      case 4:
        backing.let_outsiders_in();
        break;
      default:
        backing.land_recalls();
        break;
    }
  }

  void relent() {
    hours_ += 1;
    world_.relent(std::chrono::hours(hours_));
  }

  /// Applies to the model what was answered in this step, in the order of the answers, and
  /// compares.
  void settle() {
    std::vector<std::size_t> answered;
    for (std::size_t i = 0; i < pending_.size(); ++i) {
      if (!pending_[i].answer->waiting()) answered.push_back(i);
    }
    std::sort(answered.begin(), answered.end(), [this](std::size_t a, std::size_t b) {
      return pending_[a].answer->order < pending_[b].answer->order;
    });
    for (const std::size_t i : answered) {
      const Pending& p = pending_[i];
      EXPECT_EQ(p.answer->completions, 1);
      switch (*p.answer->error) {
        case 0:
          if (p.wait) check_turn(p, i);
          grant(p.owner, p.span, p.mode);
          ++granted_late;
          break;
        case EAGAIN:
          EXPECT_FALSE(p.wait);
          refuse(p);
          ++refused;
          break;
        case EINTR:
          break;
        case EINPROGRESS:
          EXPECT_TRUE(!p.wait && world_.backing().is_shut());
          ++put_off;
          break;
        case EBADF:
          EXPECT_EQ(p.via, closing_);
          break;
        default:
          ADD_FAILURE() << "error " << *p.answer->error;
      }
    }
    std::erase_if(pending_, [](const Pending& p) { return !p.answer->waiting(); });
    std::erase_if(leaving_, [](const AnswerPtr& answer) {
      if (answer->waiting()) return false;
      EXPECT_EQ(answer->error, EINTR);
      EXPECT_EQ(answer->completions, 1);
      return true;
    });
    EXPECT_TRUE(leaving_.empty() || !world_.file().quiet()) << "waits for a wait that has ended";
    closing_ = -1;
    compare_state();
    check_reasons();
    world_.inspect();
  }

  void compare_state() {
    std::map<OwnerId, Bytes, OwnerOrder> found;
    for (const LockView& lock : world_.file().locks()) {
      const auto [it, fresh] = found.try_emplace(lock.owner);
      if (fresh) it->second.fill(Mode::kNone);
      for (int i = 0; i < kPositions; ++i) {
        if (lock.range.first <= i && i <= lock.range.last) {
          it->second[static_cast<std::size_t>(i)] = lock.mode;
        }
      }
      EXPECT_TRUE(lock.range.last == kEof || lock.range.last < kTail);
    }
    for (const auto& [owner, held] : held_) {
      const auto it = found.find(owner);
      const bool same = it == found.end()
                            ? std::all_of(held.begin(), held.end(), [](Mode m) { return m == kU; })
                            : it->second == held;
      EXPECT_TRUE(same) << to_string(owner.type) << " " << owner.cookie << " holds "
                        << world_.held(owner);
      if (it != found.end()) found.erase(it);
    }
    EXPECT_TRUE(found.empty()) << "locks of somebody who asked for none";
    EXPECT_EQ(world_.file().waiters().size(), pending_.size());
  }

  /// Whether something granted is in the way of the i-th waiter, or he queues behind another.
  bool waits_for_the_mount(std::size_t i) {
    const Pending& p = pending_[i];
    if (conflicts(p.owner, p.span, p.mode)) return true;
    if (!p.wait || !policy_.queues_behind_waiters()) return false;
    for (std::size_t k = 0; k < (policy_.reorders() ? pending_.size() : i); ++k) {
      if (pending_[k].wait && in_each_others_way(pending_[k], p)) return true;
    }
    return false;
  }

  /// Once all that is due was delivered, every waiter has something in its way.
  void check_reasons() {
    bool quiet = true;
    for (FakeBacking* backing : backings()) {
      if (backing->due() != 0) return;
      quiet = quiet && backing->under_way().empty();
    }
    if (world_.backing().is_shut()) return;
    for (std::size_t i = 0; i < pending_.size(); ++i) {
      const Pending& p = pending_[i];
      if (waits_for_the_mount(i)) continue;
      EXPECT_FALSE(quiet) << "waiter " << i << " of " << pending_.size() << " waits for nothing";
      // A wait of the manager is under way; unless things take effect late, outsiders are why.
      if (!mix_.lazy && !outsiders_refuse(p.owner, p.span, p.mode)) {
        EXPECT_TRUE(wait_under_way(p.owner, p.span));
      }
    }
  }

  /// Everything under way has come to its end, and the manager has looked again at those aside.
  void check_nobody_is_due() {
    for (std::size_t i = 0; i < pending_.size(); ++i) {
      const Pending& p = pending_[i];
      if (waits_for_the_mount(i) || outsiders_refuse(p.owner, p.span, p.mode)) continue;
      ADD_FAILURE() << "waiter " << i << " of " << pending_.size() << " is forgotten";
    }
  }

  Random random_;
  const Mix mix_;
  const Policy policy_;
  World world_;
  std::map<OwnerId, Bytes, OwnerOrder> held_;
  std::map<OwnerId, pid_t, OwnerOrder> last_tid_;
  std::vector<Pending> pending_;    ///< in order of arrival
  std::vector<AnswerPtr> leaving_;  ///< given up, until the backing has withdrawn their waits
  int closing_ = -1;
  int hours_ = 0;
};

/// `runs` short runs rather than a long one: each starts from nothing and ends with everybody gone.
void play(const Mix& mix, int runs) {
  const std::uint64_t seed = test_seed();
  int granted = 0;
  int late = 0;
  int refused = 0;
  int deadlocks = 0;
  int passed = 0;
  int put_off = 0;
  for (int i = 0; i < scaled(runs); ++i) {
    Mix varied = mix;
    varied.owners = 2 + i % mix.owners;
    Run run(seed + static_cast<std::uint64_t>(i), varied);
    for (int step = 0; step < 400; ++step) {
      run.step();
      if (::testing::Test::HasFailure()) {
        FAIL() << "LOCKFS_TEST_SEED=" << seed << " run " << i << " step " << step;
      }
    }
    granted += run.granted;
    late += run.granted_late;
    refused += run.refused;
    deadlocks += run.deadlocks;
    passed += run.passed;
    put_off += run.put_off;
  }
  std::printf("granted %d at once and %d later, refused %d, put off %d, deadlocks %d, passed %d\n",
              granted, late, refused, put_off, deadlocks, passed);
  // The mix is worth nothing if it does not reach these; a shortened run need not meet the rare
  // one.
  EXPECT_GT(granted, 0);
  EXPECT_GT(late, 0);
  EXPECT_GT(refused, 0);
  EXPECT_EQ(put_off > 0, mix.grace);
  Policy policy;
  EXPECT_EQ(Policy::parse(mix.policy, {}, policy), "");
  if (scaled(runs) == runs && policy.deadlock != Deadlock::kOff) {
    EXPECT_GT(deadlocks, 0);
  }
}

TEST(Property, NobodyOutside) { play({}, 60); }
TEST(Property, NobodyOutsideWithThreads) { play({.threads = true}, 40); }
TEST(Property, NobodyOutsideWithRelenting) { play({.relents = true}, 40); }
TEST(Property, Outsiders) { play({.outsiders = true}, 60); }
TEST(Property, OutsidersLate) { play({.outsiders = true, .lazy = true}, 60); }
TEST(Property, OutsidersLateWithRestarts) {
  play({.outsiders = true, .lazy = true, .restarts = true}, 40);
}
TEST(Property, OutsidersWithGracePeriods) { play({.outsiders = true, .grace = true}, 60); }
TEST(Property, OutsidersLateWithGracePeriods) {
  play({.outsiders = true, .lazy = true, .grace = true, .relents = true, .threads = true}, 60);
}
TEST(Property, SeveralDescriptions) { play({.outsiders = true, .several = true}, 60); }
TEST(Property, SeveralDescriptionsLate) {
  play({.outsiders = true, .lazy = true, .several = true}, 60);
}
TEST(Property, SeveralDescriptionsWithGracePeriods) {
  play({.outsiders = true, .lazy = true, .grace = true, .several = true}, 60);
}
TEST(Property, Everything) {
  play({.owners = 8, .outsiders = true, .lazy = true, .relents = true, .threads = true}, 60);
}

/// Each value that the policy nfs does not have, and presets, under all that can happen.
class PropertyOfPolicy : public ::testing::TestWithParam<const char*> {};

TEST_P(PropertyOfPolicy, NobodyOutside) { play({.threads = true, .policy = GetParam()}, 40); }
TEST_P(PropertyOfPolicy, Outsiders) {
  play({.outsiders = true, .lazy = true, .relents = true, .policy = GetParam()}, 40);
}
TEST_P(PropertyOfPolicy, OutsidersWithGracePeriods) {
  play({.outsiders = true, .lazy = true, .grace = true, .policy = GetParam()}, 30);
}
TEST_P(PropertyOfPolicy, SeveralDescriptions) {
  play({.outsiders = true, .lazy = true, .relents = true, .several = true, .policy = GetParam()},
       40);
}
INSTANTIATE_TEST_SUITE_P(Values, PropertyOfPolicy,
                         ::testing::Values("dual", "nfs,fairness=readers", "nfs,fairness=writers",
                                           "nfs,fairness=newcomers", "nfs,handover=local",
                                           "nfs,conversion=drop", "nfs,deadlock=off", "linux",
                                           "nfs,conflict_space=separate", "guarded",
                                           "dual,guard=flock,handover=local",
                                           "bsd,deadlock=process,fairness=writers,handover=local",
                                           "samba-friendly,fairness=readers,handover=local"));

}  // namespace
}  // namespace lockmgr
