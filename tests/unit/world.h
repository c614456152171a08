/// A manager with one or more files over FakeBackings, and short ways to ask it for locks. Checks
/// the invariants and the mirror after each request, and at the end that nothing is left behind.
///
/// Thread safety: none; one thread uses a World.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "lockmgr/file_locks.h"
#include "lockmgr/lock_manager.h"
#include "tests/unit/fake_backing.h"

namespace lockmgr::testing {

inline constexpr Mode kS = Mode::kShared;
inline constexpr Mode kX = Mode::kExclusive;
inline constexpr Mode kU = Mode::kNone;

inline OwnerId process(std::uint64_t n) { return {OwnerType::kProcess, 1000 + n}; }
inline OwnerId ofd(std::uint64_t n) { return {OwnerType::kOpenFile, n}; }
inline OwnerId flock_of(std::uint64_t n) { return {OwnerType::kFlock, n}; }

/// What became of a request.
struct Answer {
  std::optional<int> error;  ///< nothing: still parked
  int completions = 0;       ///< how often the completion was called
  bool parked = false;
  Ticket ticket = 0;
  int order = 0;  ///< place among all answers of this World that came by completion; from 1
  std::function<void()> then;  ///< called by the completion

  bool waiting() const { return !error.has_value(); }
  bool granted() const { return error == 0; }
};
using AnswerPtr = std::shared_ptr<Answer>;

/// Records what the manager reports.
class Notes final : public Observer {
 public:
  void limit_reached(const FileLocks&, const Request& request, Limit limit,
                     std::uint64_t value) override {
    limits.emplace_back(limit, value);
    last_refused = request;
  }
  void backing_failed(const FileLocks&, const Range& range, Mode mode, int error,
                      bool unlocking) override {
    failures.push_back({range, mode, error, unlocking});
  }
  void deadlock(const FileLocks&, const Request&,
                const std::vector<std::uint64_t>& cycle) override {
    cycles.push_back(cycle);
  }
  void event(const FileLocks&, const Event& event) override { events.push_back(event); }

  void lease_ended(const FileLocks&, const LockView& lock, const Request&, std::uint64_t) override {
    leases.push_back(lock);
  }

  struct Failure {
    Range range;
    Mode mode;
    int error;
    bool unlocking;
  };
  std::vector<std::pair<Limit, std::uint64_t>> limits;
  std::vector<Failure> failures;
  std::vector<std::vector<std::uint64_t>> cycles;
  std::vector<LockView> leases;
  std::vector<Event> events;  ///< while LockManager::watch() is on
  Request last_refused;
};

/// The particulars of a request that most tests leave alone.
struct How {
  int via = -1;   ///< number of the Opened; -1: the owner's own
  pid_t tid = 0;  ///< 0: unknown
  uid_t uid = 0;
  pid_t pid = 0;  ///< 0: one of the owner's own
};

class World {
 public:
  /// Makes the backing of a file.
  using MakeBacking = std::unique_ptr<FakeBacking> (*)();

  explicit World(const Limits& limits = {}, int files = 1, const Policy& policy = {},
                 MakeBacking make_backing = &std::make_unique<FakeBacking>);
  ~World();
  World(const World&) = delete;
  World& operator=(const World&) = delete;

  // -- requests ------------------------------------------------------------------------------
  /// Asks without waiting. The answer is open only when the request stands aside.
  AnswerPtr ask(const OwnerId& owner, const Range& range, Mode mode, const How& how = {});
  /// Asks and waits if need be.
  AnswerPtr wait(const OwnerId& owner, const Range& range, Mode mode, const How& how = {});
  /// The errno of a request without waiting that must be decided at once.
  int lock(const OwnerId& owner, const Range& range, Mode mode, const How& how = {});
  int unlock(const OwnerId& owner, const Range& range) { return lock(owner, range, kU); }
  std::optional<Blocker> blocker(const OwnerId& owner, const Range& range, Mode mode);
  void cancel(const AnswerPtr& answer, int error = EINTR);
  void close_by_process(const OwnerId& owner);
  void close(int number);
  void close(const OwnerId& owner) { close(number_of(owner)); }
  /// Delivers all that is due at the backings of all files.
  void deliver();
  /// Makes the searches for cycles that were put off.
  void search();
  /// Lets the manager relent as if `after` had passed.
  void relent(LockManager::Clock::duration after);

  // -- state ---------------------------------------------------------------------------------
  Opened& opened(int number);
  static int number_of(const OwnerId& owner);
  /// Which file the calls above go to.
  void use_file(int number) { current_ = number; }
  FileLocks& file() { return *files_.at(static_cast<std::size_t>(current_)); }
  std::shared_ptr<FileLocks> file_pointer() {
    return files_.at(static_cast<std::size_t>(current_));
  }
  FakeBacking& backing() { return *backings_.at(static_cast<std::size_t>(current_)); }
  LockManager& manager() { return manager_; }
  Notes& notes() { return notes_; }
  /// What `owner` holds, such as "X[0,9] S[20,EOF] " or "nothing".
  std::string held(const OwnerId& owner);
  Waiter::Place place(const AnswerPtr& answer);
  std::uint64_t count(Counter c) const { return manager_.counters().get(c); }

  /// Verifies invariants, counts and mirror; also done after each request.
  void inspect();
  /// The mirror is known to be out of step until further notice.
  bool mirror_checked = true;
  /// search() is called after each request, as the daemon does.
  bool searches = true;

 private:
  void land_recalls();
  AnswerPtr send(const OwnerId& owner, const Range& range, Mode mode, bool wait, const How& how);

  Notes notes_;
  LockManager manager_;
  std::vector<std::shared_ptr<FileLocks>> files_;
  std::vector<FakeBacking*> backings_;
  std::map<std::pair<int, int>, std::unique_ptr<Opened>> opened_;  ///< by file and number
  std::vector<AnswerPtr> answers_;
  int current_ = 0;
  int completed_ = 0;
};

}  // namespace lockmgr::testing
