// When locks may be given to local programs, by what the kernel tells of its NFS server; and what a
// backing does that heeds it.
// ctest: links=lockfs_mirror
#include "fs/nfs/server_grace.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "fs/mirror/grace_backing.h"

namespace lockfs {
namespace {

using lockmgr::Mode;
using lockmgr::Range;
using lockmgr::Reply;
using lockmgr::WaitEnd;
using namespace std::chrono_literals;

constexpr auto kNever = 100s;  // longer than a test takes

bool eventually(const std::function<bool()>& condition) {
  const auto end = std::chrono::steady_clock::now() + 60s;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::sleep_for(1ms);
  }
  return true;
}

class ServerGraceTest : public ::testing::Test {
 protected:
  ServerGraceTest() {
    std::filesystem::create_directories(folder_ + "/nfsd");
    std::filesystem::create_directories(folder_ + "/lockd");
  }
  ~ServerGraceTest() override {
    end_thread();
    std::filesystem::remove_all(folder_);
  }

  /// A process that passes for a thread of the server.
  void begin_thread() {
    thread_ = ::fork();
    ASSERT_GE(thread_, 0);
    if (thread_ == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      ::prctl(PR_SET_NAME, "nfsd");
      while (true) ::pause();
    }
    const std::string comm = "/proc/" + std::to_string(thread_) + "/comm";
    EXPECT_TRUE(eventually([&] {
      std::string name;
      std::ifstream(comm) >> name;
      return name == "nfsd";
    }));
  }
  void end_thread() {
    if (thread_ <= 0) return;
    ::kill(thread_, SIGKILL);
    ::waitpid(thread_, nullptr, 0);
    thread_ = 0;
  }
  void put(const std::string& name, const std::string& text) {
    std::ofstream(folder_ + "/new") << text << "\n";
    std::filesystem::rename(folder_ + "/new", folder_ + "/" + name);
  }
  void serve(bool grace = false) {
    put("nfsd/v4_end_grace", grace ? "N" : "Y");
    put("nfsd/threads", "8");
  }
  ServerGrace::Settings settings(ServerGrace::Clock::duration absence = kNever,
                                 bool awaited = false) {
    return {absence, awaited, folder_};
  }

  const std::string folder_ = "server." + std::to_string(::getpid());
  std::atomic<int> told_{0};  ///< calls of on_settled
  const std::function<void()> tell_ = [this] { ++told_; };
  pid_t thread_ = 0;
};

TEST_F(ServerGraceTest, NothingIsWaitedForWithoutAServer) {
  ServerGrace grace(settings(), tell_);
  EXPECT_TRUE(eventually([&] { return grace.settled(); }));
  ServerGrace off(settings({}), tell_);
  serve(true);
  EXPECT_TRUE(off.settled());
}

TEST_F(ServerGraceTest, BothGracePeriodsCount) {
  serve(true);
  put("lockd/nlm_end_grace", "N");
  ServerGrace grace(settings(), tell_);
  EXPECT_FALSE(grace.settled());
  put("nfsd/v4_end_grace", "Y");
  // A wait ends after another look.
  std::atomic<bool> looked{false};
  ASSERT_EQ(grace.wait(1, [&looked](lockmgr::WaitEnd) { looked = true; }), 0);
  grace.recall(1);
  EXPECT_TRUE(eventually([&] { return looked.load(); }));
  EXPECT_FALSE(grace.settled());
  EXPECT_EQ(told_, 0);
  put("lockd/nlm_end_grace", "Y");
  EXPECT_TRUE(eventually([&] { return told_ > 0; }));
  EXPECT_TRUE(grace.settled());
}

TEST_F(ServerGraceTest, TheEndOfAThreadIsSeenAtOnce) {
  begin_thread();
  serve();
  ServerGrace grace(settings(), tell_);
  ASSERT_TRUE(eventually([&] { return grace.settled(); }));
  end_thread();
  EXPECT_FALSE(grace.settled());  // with no time between the two
  // The others go on.
  EXPECT_TRUE(eventually([&] { return grace.settled(); }));
  begin_thread();
  EXPECT_TRUE(eventually([&] { return grace.settled(); }));
}

TEST_F(ServerGraceTest, WithoutAThreadToBeSeenTheEndIsSeenSoon) {
  serve();
  ServerGrace grace(settings(), tell_);
  ASSERT_TRUE(eventually([&] { return grace.settled(); }));
  put("nfsd/threads", "0");
  EXPECT_TRUE(eventually([&] { return !grace.settled(); }));
}

TEST_F(ServerGraceTest, AnAbsentServerIsWaitedForSoLong) {
  ServerGrace awaits(settings(300ms, true), tell_);
  EXPECT_FALSE(awaits.settled());
  EXPECT_TRUE(eventually([&] { return told_ == 1; }));
  EXPECT_TRUE(awaits.settled());
  serve();
  ServerGrace served(settings(300ms), tell_);
  ASSERT_TRUE(eventually([&] { return served.settled(); }));
  put("nfsd/threads", "0");
  EXPECT_TRUE(eventually([&] { return !served.settled(); }));
  EXPECT_TRUE(eventually([&] { return served.settled(); }));
}

TEST_F(ServerGraceTest, WaitsEndOnceWhenTheyAreRecalledOrAllIsSettled) {
  serve(true);
  std::atomic<int> recalled{0};
  std::atomic<int> ended{0};
  ServerGrace grace(settings(), tell_);
  EXPECT_FALSE(grace.settled());
  const auto count = [](std::atomic<int>& calls) {
    return
        [&calls](lockmgr::WaitEnd end) { calls += end == lockmgr::WaitEnd::not_held() ? 1 : 100; };
  };
  ASSERT_EQ(grace.wait(1, count(recalled)), 0);
  ASSERT_EQ(grace.wait(2, count(ended)), 0);
  grace.recall(1);
  grace.recall(3);
  EXPECT_TRUE(eventually([&] { return recalled == 1; }));
  EXPECT_EQ(ended, 0);
  put("nfsd/v4_end_grace", "Y");
  EXPECT_TRUE(eventually([&] { return ended == 1; }));
  // One that comes too late has nothing to wait for.
  ASSERT_EQ(grace.wait(4, count(ended)), 0);
  EXPECT_TRUE(eventually([&] { return ended == 2; }));
  EXPECT_EQ(recalled, 1);
}

/// Remembers what it was told, and does something of the test's in between.
class TestBacking final : public lockmgr::NoBacking {
 public:
  bool carries() const noexcept override { return true; }
  struct Call {
    Range range;
    Mode mode;
    bool operator==(const Call&) const = default;
  };
  lockmgr::Reply set(const Range& range, Mode mode, const Carried&) noexcept override {
    calls.push_back({range, mode});
    if (meanwhile) std::exchange(meanwhile, nullptr)();
    return lockmgr::Reply::done();
  }
  int wait(WaitId, const Range&, Mode, const Carried&, bool, WaitDone done) noexcept override {
    waiting = std::move(done);
    return 0;
  }

  std::vector<Call> calls;
  std::function<void()> meanwhile;
  WaitDone waiting;
};

class Carried final : public lockmgr::Backing::Carried {
 public:
  explicit Carried(std::vector<lockmgr::CarriedLock> locks) : locks_(std::move(locks)) {}
  void for_each(const std::function<bool(const Range&, Mode)>& visit) const override {
    for (const auto& lock : locks_) {
      if (!visit(lock.range, lock.mode)) return;
    }
  }

 private:
  const std::vector<lockmgr::CarriedLock> locks_;
};

class GraceBackingTest : public ServerGraceTest {
 protected:
  /// Bytes 0-9 shared, 10-19 exclusive, 30-39 exclusive.
  const Carried carried_{
      {{{0, 9}, Mode::kShared}, {{10, 19}, Mode::kExclusive}, {{30, 39}, Mode::kExclusive}}};
  const Carried nothing_{{}};

  void serve_well() {
    begin_thread();
    serve();
    grace_.emplace(settings(), tell_);
    backing_.emplace(std::unique_ptr<lockmgr::Backing>(inner_), *grace_);
    ASSERT_TRUE(eventually([&] { return grace_->settled(); }));
  }
  void stop() {
    put("nfsd/threads", "0");
    end_thread();
  }

  std::optional<ServerGrace> grace_;
  TestBacking* const inner_ = new TestBacking;  // owned by backing_
  std::optional<GraceBacking> backing_;
};

TEST_F(GraceBackingTest, NothingNewIsTakenMeanwhile) {
  serve_well();
  stop();
  std::optional<lockmgr::OutsideLock> found;
  EXPECT_EQ(backing_->set({0, 99}, Mode::kShared, nothing_), Reply::put_off());
  EXPECT_EQ(backing_->set({20, 20}, Mode::kShared, carried_), Reply::put_off());
  EXPECT_EQ(backing_->set({5, 12}, Mode::kExclusive, carried_), Reply::put_off());
  EXPECT_EQ(backing_->set({15, 35}, Mode::kShared, carried_), Reply::put_off());
  EXPECT_EQ(backing_->set({35, lockmgr::kEof}, Mode::kExclusive, carried_), Reply::put_off());
  EXPECT_EQ(backing_->test({0, 9}, Mode::kShared, found), Reply::put_off());
  EXPECT_TRUE(inner_->calls.empty());
  // What is held may stay or go.
  EXPECT_EQ(backing_->set({0, 9}, Mode::kShared, carried_), Reply::done());
  EXPECT_EQ(backing_->set({5, 15}, Mode::kShared, carried_), Reply::done());
  EXPECT_EQ(backing_->set({32, 39}, Mode::kExclusive, carried_), Reply::done());
  EXPECT_EQ(backing_->set({0, lockmgr::kEof}, Mode::kNone, carried_), Reply::done());
  EXPECT_EQ(inner_->calls.size(), 4U);
}

TEST_F(GraceBackingTest, WhatWasTakenAsTheServerWentIsGivenBack) {
  serve_well();
  inner_->meanwhile = [this] { stop(); };
  EXPECT_EQ(backing_->set({5, 34}, Mode::kExclusive, carried_), Reply::put_off());
  const std::vector<TestBacking::Call> expected = {{{5, 34}, Mode::kExclusive},
                                                   {{5, 9}, Mode::kShared},
                                                   {{10, 19}, Mode::kExclusive},
                                                   {{20, 29}, Mode::kNone},
                                                   {{30, 34}, Mode::kExclusive}};
  EXPECT_EQ(inner_->calls, expected);
}

TEST_F(GraceBackingTest, WhatAWaitTookAsTheServerWentIsInDoubt) {
  serve_well();
  WaitEnd result = WaitEnd::failed(-1);
  const auto done = [&result](WaitEnd end) { result = end; };
  ASSERT_EQ(backing_->wait(1, {0, 9}, Mode::kShared, nothing_, false, done), 0);
  inner_->waiting(WaitEnd::held());
  EXPECT_EQ(result, WaitEnd::held());
  ASSERT_EQ(backing_->wait(2, {0, 9}, Mode::kShared, nothing_, false, done), 0);
  stop();
  inner_->waiting(WaitEnd::held());
  EXPECT_EQ(result, WaitEnd::in_doubt());
  inner_->waiting(WaitEnd::not_held());
  EXPECT_EQ(result, WaitEnd::not_held());
}

}  // namespace
}  // namespace lockfs
