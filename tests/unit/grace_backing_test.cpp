// What a backing does that heeds the grace period of the kernel's NFS server.
// ctest: links=lockfs_mirror
#include "fs/mirror/grace_backing.h"

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "tests/unit/nfs_server.h"

namespace lockfs {
namespace {

using namespace testing;  // NOLINT(google-build-using-namespace): the vocabulary of these tests
using lockmgr::Mode;
using lockmgr::Range;
using lockmgr::Reply;
using lockmgr::WaitEnd;

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

class GraceBackingTest : public NfsServer {
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
