// When locks may be given to local programs, by what the kernel tells of its NFS server.
// ctest: links=lockfs_nfs
#include "fs/nfs/server_grace.h"

#include <gtest/gtest.h>

#include <atomic>

#include "tests/unit/nfs_server.h"

namespace lockfs {
namespace {

using namespace testing;  // NOLINT(google-build-using-namespace): the vocabulary of these tests

using ServerGraceTest = NfsServer;

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

}  // namespace
}  // namespace lockfs
