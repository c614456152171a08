// Threads that lock, wait, cancel and close at once, with an independent witness of who has what.
// ctest: timeout=300
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "lockmgr/file_locks.h"
#include "lockmgr/lock_manager.h"
#include "tests/unit/fake_backing.h"
#include "tests/unit/random.h"

namespace lockmgr {
namespace {

using namespace std::chrono_literals;
using testing::FakeBacking;
using testing::Random;
using testing::scaled;

constexpr int kBytes = 32;
constexpr Range kAll{0, kEof};

/// Counts holders byte by byte. A thread enters after it was told of its grant and leaves before it
/// asks for the release, so any two that meet here held the same byte at the same time.
class Witness {
 public:
  void enter(const Range& range, Mode mode) { change(range, mode, 1); }
  void leave(const Range& range, Mode mode) { change(range, mode, -1); }
  int broken() const {
    const std::lock_guard guard(mutex_);
    return broken_;
  }

 private:
  void change(const Range& range, Mode mode, int by) {
    const std::lock_guard guard(mutex_);
    for (Offset at = range.first; at <= std::min<Offset>(range.last, kBytes - 1); ++at) {
      int& shared = shared_.at(static_cast<std::size_t>(at));
      int& exclusive = exclusive_.at(static_cast<std::size_t>(at));
      (mode == Mode::kExclusive ? exclusive : shared) += by;
      if (exclusive > 1 || (exclusive == 1 && shared > 0)) ++broken_;
    }
  }

  mutable std::mutex mutex_;
  std::array<int, kBytes> shared_{};
  std::array<int, kBytes> exclusive_{};
  int broken_ = 0;
};

/// Where a thread waits for the completion of its own request.
class Outcome {
 public:
  void set(int error) {
    const std::lock_guard guard(mutex_);
    EXPECT_FALSE(error_.has_value()) << "completed twice";
    error_ = error;
    changed_.notify_all();
  }
  int get() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return error_.has_value(); });
    return *error_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::optional<int> error_;
};

struct File {
  std::shared_ptr<FileLocks> locks;
  FakeBacking* backing = nullptr;
  Witness witness;
};

class Stress {
 public:
  Stress(int files, bool outsiders) : outsiders_(outsiders), manager_({}, Policy{}, nullptr) {
    for (int i = 0; i < files; ++i) {
      auto file = std::make_unique<File>();
      auto backing = std::make_unique<FakeBacking>();
      backing->lazy_recalls = outsiders;
      file->backing = backing.get();
      file->locks = manager_.open_file({1, static_cast<std::uint64_t>(i)}, std::move(backing));
      files_.push_back(std::move(file));
    }
  }

  void run(int threads, int rounds) {
    std::vector<std::thread> workers;
    for (int t = 0; t < threads; ++t) {
      workers.emplace_back([this, t, rounds] { work(t, rounds); });
    }
    std::thread canceller([this] { cancel_some(); });
    std::thread backing([this] { serve(); });
    for (std::thread& worker : workers) worker.join();
    stop_ = true;
    canceller.join();
    backing.join();
    for (const auto& file : files_) {
      for (int who = 1; who <= 2; ++who) file->backing->outsider_leaves(who);
      file->backing->land_recalls();
      file->backing->deliver_all();
    }
    EXPECT_STREQ(manager_.check(), nullptr);
    for (const auto& file : files_) {
      EXPECT_TRUE(file->locks->quiet());
      EXPECT_EQ(testing::to_text(file->backing->held()), "nothing");
      EXPECT_EQ(file->witness.broken(), 0);
    }
    EXPECT_EQ(manager_.ledger().locks(), 0U);
    EXPECT_EQ(manager_.ledger().waiters(), 0U);
    EXPECT_EQ(manager_.outside_waits(), 0U);
    EXPECT_FALSE(manager_.has_queued());
    EXPECT_GT(granted_.load(), 0);
    EXPECT_GT(waited_.load(), 0);
    std::printf("granted %d, of these after a wait %d; deadlocks %d, cancelled %d\n",
                granted_.load(), waited_.load(), deadlocks_.load(), cancelled_.load());
  }

 private:
  static Range some_range(Random& random) {
    if (random.one_in(6)) return kAll;
    const Offset first = random.between(0, kBytes - 1);
    return {first, std::min<Offset>(kBytes - 1, first + random.between(0, 7))};
  }

  /// Asks and sees it through: the errno, after a wait if need be.
  int ask(File& file, Opened& opened, const Request& request) {
    if (const auto now = file.locks->try_now(opened, request)) return *now;
    Outcome outcome;
    const Ticket ticket = manager_.new_ticket();
    latest_ = ticket;
    const auto now =
        file.locks->park(opened, request, ticket, [&outcome](int error) { outcome.set(error); });
    if (now) return *now;
    const int error = outcome.get();
    if (error == 0) ++waited_;
    return error;
  }

  void work(int number, int rounds) {
    Random random(testing_seed_ + static_cast<std::uint64_t>(number));
    const auto cookie = static_cast<std::uint64_t>(number) + 1;
    const OwnerType type = static_cast<OwnerType>(number % 3);
    const OwnerId owner{type, cookie};
    const Caller caller{number + 1, number + 1, static_cast<uid_t>(number % 2)};
    for (int round = 0; round < rounds; ++round) {
      // One or two files at a time, in any order, so that processes can deadlock.
      std::vector<std::size_t> chosen{random.below(files_.size())};
      if (random.one_in(2)) chosen.push_back(random.below(files_.size()));
      if (chosen.size() == 2 && chosen[0] == chosen[1]) chosen.pop_back();
      // Only processes are told of deadlocks; the others take files in order, alone.
      if (type != OwnerType::kProcess) chosen.resize(1);
      std::vector<std::unique_ptr<Opened>> opened;
      std::vector<Range> ranges;
      std::vector<Mode> modes;
      std::vector<std::size_t> held;
      for (const std::size_t i : chosen) {
        File& file = *files_[i];
        opened.push_back(std::make_unique<Opened>(true, true));
        Range range = type == OwnerType::kFlock ? kAll : some_range(random);
        const Mode mode = random.one_in(2) ? Mode::kExclusive : Mode::kShared;
        const int error =
            ask(file, *opened.back(), {owner, caller, range, mode, !random.one_in(3)});
        ranges.push_back(range);
        modes.push_back(mode);
        switch (error) {
          case 0:
            ++granted_;
            file.witness.enter(range, mode);
            held.push_back(ranges.size() - 1);
            break;
          case EAGAIN:
            break;
          case EDEADLK:
            EXPECT_EQ(type, OwnerType::kProcess);
            ++deadlocks_;
            break;
          case EINTR:
            ++cancelled_;
            break;
          default:
            ADD_FAILURE() << "error " << error;
        }
      }
      if (random.one_in(4)) std::this_thread::yield();
      for (const std::size_t k : held) {
        File& file = *files_[chosen[k]];
        file.witness.leave(ranges[k], modes[k]);
        if (modes[k] == Mode::kExclusive && random.one_in(3)) {
          EXPECT_EQ(ask(file, *opened[k], {owner, caller, ranges[k], Mode::kShared, false}), 0);
          file.witness.enter(ranges[k], Mode::kShared);
          std::this_thread::yield();
          file.witness.leave(ranges[k], Mode::kShared);
        }
        if (random.one_in(2)) {
          EXPECT_EQ(ask(file, *opened[k], {owner, caller, kAll, Mode::kNone, false}), 0);
        }
      }
      for (std::size_t k = 0; k < opened.size(); ++k) {
        File& file = *files_[chosen[k]];
        if (type == OwnerType::kProcess) file.locks->close_by_process(cookie);
        file.locks->close(*opened[k]);
      }
      if (random.one_in(16)) {
        std::optional<Blocker> blocker;
        EXPECT_EQ(
            files_[chosen[0]]->locks->test({owner, caller, kAll, Mode::kExclusive, false}, blocker),
            0);
        files_[chosen[0]]->locks->locks();
        files_[chosen[0]]->locks->waiters();
      }
    }
  }

  /// Cancels requests at any moment of their lives, and lets waiters pass.
  void cancel_some() {
    Random random(testing_seed_ ^ 99);
    while (!stop_) {
      const Ticket latest = latest_;
      if (random.one_in(8) && latest > 3) manager_.cancel(latest - random.below(3), EINTR);
      if (random.one_in(64)) manager_.relent(LockManager::Clock::now() + 1h);
      std::this_thread::yield();
    }
  }

  /// The backing's side: delivers what is due, and outsiders come and go.
  void serve() {
    Random random(testing_seed_ ^ 77);
    while (!stop_) {
      for (const auto& file : files_) {
        file->backing->deliver(random.below(2));
        file->backing->deliver();
        file->backing->land_recalls();
        if (!outsiders_) continue;
        const int who = random.between(1, 2);
        if (random.one_in(8)) {
          file->backing->outsider_wait(who, some_range(random),
                                       random.one_in(2) ? Mode::kExclusive : Mode::kShared);
        } else {
          file->backing->outsider_leaves(who);
        }
      }
      std::this_thread::yield();
    }
    // Whoever came last leaves in run().
  }

  const bool outsiders_;
  const std::uint64_t testing_seed_ = testing::test_seed();
  LockManager manager_;
  std::vector<std::unique_ptr<File>> files_;
  std::atomic<bool> stop_{false};
  std::atomic<Ticket> latest_{0};
  std::atomic<int> granted_{0};
  std::atomic<int> waited_{0};
  std::atomic<int> deadlocks_{0};
  std::atomic<int> cancelled_{0};
};

TEST(Stress, OneFile) { Stress(1, false).run(8, scaled(1500)); }
TEST(Stress, ThreeFiles) { Stress(3, false).run(8, scaled(2000)); }
TEST(Stress, ThreeFilesWithOutsiders) { Stress(3, true).run(8, scaled(1500)); }

}  // namespace
}  // namespace lockmgr
