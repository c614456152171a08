// The policy through the control socket: shown, listed, switched under held locks, explained.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/file.h>

#include <cerrno>
#include <string>
#include <vector>

#include "tests/ctl/control_peer.h"
#include "tests/mounted/locks/lock_test.h"
#include "tests/mounted/support/process.h"

namespace lockfs::test {
namespace {

class PolicyControl : public ControlTest {};

TEST_F(PolicyControl, ShowsAndLists) {
  ControlPeer peer(socket());
  const Json shown = peer.call("policy");
  EXPECT_EQ(shown["result"]["policy"], "nfs");
  EXPECT_EQ(shown["result"]["axes"]["fairness"], "fifo");
  const Json listed = peer.call("policy", {{"action", "list"}});
  EXPECT_EQ(listed["result"]["presets"][0]["name"], "nfs");
  EXPECT_GT(listed["result"]["presets"].size(), 3U);
  for (const Json& axis : listed["result"]["axes"]) {
    for (const Json& value : axis["values"]) EXPECT_NE(value["follows"], "") << axis;
  }
  EXPECT_EQ(peer.call("policy", {{"action", "sing"}})["code"], "bad_request");
}

TEST_F(PolicyControl, SwitchesWhileLocksAreHeld) {
  make_file("f");
  Locker holder(in_mount("f"));
  Locker other(in_mount("f"));
  Locker client(fs().in_source("f"));
  ASSERT_EQ(holder.try_lock(kFlock, kExclusive), 0);
  other.start_lock(kPosix, kExclusive);
  ASSERT_TRUE(other.waits());

  ControlPeer peer(socket());
  const Json report = peer.call("set_policy", {{"policy", "linux"}})["result"];
  EXPECT_EQ(report["from"], "nfs");
  EXPECT_EQ(report["to"], "linux");
  EXPECT_EQ(report["locks"], 1);
  EXPECT_EQ(report["waiters"], 1);
  EXPECT_EQ(report["granted"], 1);
  EXPECT_EQ(report["not_carried"], 0);
  EXPECT_EQ(other.result(), 0);
  EXPECT_EQ(client.try_lock(kFlock, kShared), EAGAIN) << "the flock is carried as a flock now";
  EXPECT_EQ(peer.call("policy")["result"]["policy"], "linux");

  // One axis on top of what is in force, and back.
  EXPECT_EQ(peer.call("set_policy", {{"policy", "handover=local"}})["result"]["to"],
            "linux,handover=local");
  EXPECT_EQ(peer.call("set_policy", {{"policy", "nfs"}})["result"]["conflicting"], 2);
  EXPECT_EQ(client.try_lock(kFlock, kShared), 0);
  EXPECT_EQ(client.try_lock(kPosix, kShared), EAGAIN);
  EXPECT_EQ(other.unlock(kPosix), 0);
  EXPECT_EQ(client.try_lock(kPosix, kShared), EAGAIN) << "the first is still held";

  const Json bad = peer.call("set_policy", {{"policy", "nfs,fairness=best"}});
  EXPECT_EQ(bad["code"], "bad_request");
  EXPECT_NE(bad["error"].get<std::string>().find("fifo, readers"), std::string::npos) << bad;
  EXPECT_EQ(peer.call("policy")["result"]["policy"], "nfs");
}

TEST_F(PolicyControl, SwitchKeepsHundredsOfSharedFlocks) {
  constexpr std::size_t kCount = 300;
  make_file("f");
  std::vector<UniqueFd> holders;
  for (std::size_t i = 0; i < kCount; ++i) {
    holders.emplace_back(::open(in_mount("f").c_str(), O_RDWR | O_CLOEXEC));
    ASSERT_EQ(::flock(holders.back().get(), LOCK_SH | LOCK_NB), 0) << i;
  }
  Locker client(fs().in_source("f"));
  ControlPeer peer(socket());
  EXPECT_EQ(peer.call("set_policy", {{"policy", "linux"}})["result"]["locks"], kCount);
  EXPECT_EQ(client.try_lock(kFlock, kExclusive), EAGAIN);
  EXPECT_EQ(peer.call("set_policy", {{"policy", "nfs"}})["result"]["locks"], kCount);
  while (!holders.empty()) {
    ASSERT_EQ(client.try_lock(kPosix, kExclusive), EAGAIN) << holders.size() << " are left";
    holders.pop_back();
  }
  // On the source nothing says that RELEASE has been carried out when close() returns.
  client.start_lock(kPosix, kExclusive);
  EXPECT_EQ(client.result(), 0);
}

TEST_F(PolicyControl, ExplainsWhoWouldBlockUnderEachPreset) {
  const std::uint64_t inode = make_file("f");
  Locker holder(in_mount("f"));
  ASSERT_EQ(holder.try_lock(kFlock, kExclusive), 0);
  ControlPeer peer(socket());
  const auto outcomes = [&](const Json& more) {
    Json request = {{"action", "explain"}, {"inode", inode}};
    request.update(more);
    const Json reply = peer.call("policy", request);
    EXPECT_EQ(reply["ok"], true) << reply;
    Json by_policy = Json::object();
    for (const Json& entry : reply["result"]["policies"]) {
      by_policy[entry["policy"].get<std::string>()] = entry;
    }
    return by_policy;
  };
  const Json others = outcomes({{"type", "posix"}, {"mode", "shared"}, {"start", 0}, {"end", 9}});
  EXPECT_EQ(others["now"]["outcome"], "blocked");
  EXPECT_EQ(others["nfs"]["outcome"], "blocked");
  EXPECT_EQ(others["nfs"]["obstacles"][0]["pid"], holder.pid());
  EXPECT_EQ(others["dual"]["outcome"], "blocked");
  EXPECT_EQ(others["linux"]["outcome"], "granted");
  EXPECT_EQ(others["linux"]["obstacles"][0]["blocks"], false);
  EXPECT_NE(others["linux"]["obstacles"][0]["why"].get<std::string>().find("separate"),
            std::string::npos);
  const Json own = outcomes({{"type", "posix"}, {"pid", holder.pid()}});
  EXPECT_EQ(own["nfs"]["outcome"], "blocked");
  EXPECT_EQ(own["dual"]["outcome"], "granted");
  const Json reader = outcomes({{"type", "flock"}, {"mode", "exclusive"}, {"open", "r"}});
  EXPECT_EQ(reader["nfs"]["outcome"], "EBADF");
  EXPECT_EQ(reader["bsd"]["outcome"], "blocked");
  EXPECT_EQ(peer.call("policy", {{"action", "explain"}})["code"], "bad_request");
}

TEST_F(PolicyControl, LeaseTakesALockThatOthersWaitFor) {
  make_file("f");
  Locker holder(in_mount("f"));
  Locker waiter(in_mount("f"));
  ASSERT_EQ(holder.try_lock(kFlock, kExclusive), 0);
  waiter.start_lock(kPosix, kExclusive);
  ASSERT_TRUE(waiter.waits());
  ControlPeer peer(socket());
  ASSERT_EQ(peer.call("set_policy", {{"policy", "lease=1"}})["ok"], true);
  EXPECT_EQ(waiter.result(), 0);
  EXPECT_NE(fs().log().find("its lease has ended"), std::string::npos);
  EXPECT_EQ(holder.try_lock(kFlock, kShared), EAGAIN);
}

}  // namespace
}  // namespace lockfs::test
