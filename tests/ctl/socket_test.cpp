// The control socket as its peers see it: what it answers, what it stands, whom it lets in.
#include <fcntl.h>
#include <grp.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <list>
#include <random>
#include <thread>

#include "tests/ctl/control_peer.h"
#include "tests/mounted/locks/lock_test.h"

namespace lockfs::test {
namespace {

using namespace std::chrono_literals;

class Socket : public ControlTest {};

// -- replies
// ---------------------------------------------------------------------------------------

TEST_F(Socket, PingSaysWhatIsMounted) {
  ControlPeer peer(socket());
  const Json reply = peer.call("ping", {{"id", "mine"}});
  ASSERT_EQ(reply["ok"], true) << reply;
  EXPECT_EQ(reply["id"], "mine");
  EXPECT_EQ(reply["mount"]["source"], std::filesystem::canonical(fs().source()).string());
  EXPECT_EQ(reply["mount"]["mountpoint"], std::filesystem::canonical(fs().mount()).string());
  EXPECT_EQ(reply["mount"]["pid"], fs().pid());
}

TEST_F(Socket, ListsHoldersAndWaiters) {
  const std::uint64_t inode = make_file("f");
  make_file("other");
  Locker holder(in_mount("f"));
  Locker waiter(in_mount("f"));
  Locker elsewhere(in_mount("other"));
  ASSERT_EQ(holder.try_lock(kPosix, kExclusive, {10, 10}), 0);
  ASSERT_EQ(elsewhere.try_lock(kOfd, kShared), 0);
  waiter.start_lock(kFlock, kExclusive);
  ASSERT_TRUE(waiter.waits());

  ControlPeer peer(socket());
  std::vector<Json> lines = peer.ask("list", {{"inode", inode}});
  ASSERT_EQ(lines.size(), 4U);
  EXPECT_EQ(lines[0]["file"]["path"], in_mount("f"));
  EXPECT_EQ(lines[1]["lock"]["type"], "posix");
  EXPECT_EQ(lines[1]["lock"]["pid"], holder.pid());
  EXPECT_EQ(lines[1]["lock"]["start"], 10);
  EXPECT_EQ(lines[1]["lock"]["end"], 19);
  EXPECT_EQ(lines[2]["wait"]["type"], "flock");
  EXPECT_EQ(lines[2]["wait"]["pid"], waiter.pid());
  EXPECT_EQ(lines[2]["wait"]["end"], nullptr);
  EXPECT_EQ(lines[3]["locks"], 1);
  EXPECT_EQ(lines[3]["waiters"], 1);
  // By the name that the source gives it, too.
  const Json& file = lines[0]["file"];
  const auto same = peer.ask("list", {{"device", file["device"]}, {"source_inode", file["inode"]}});
  EXPECT_EQ(same.size(), 4U);
  EXPECT_EQ(peer.ask("list", {{"inode", inode + (std::uint64_t{1} << 48)}}).size(), 1U)
      << "the whole number counts";
  EXPECT_EQ(peer.call("list")["locks"], 2);
}

TEST_F(Socket, BreakGrantsTheNextAndLogsIt) {
  const std::uint64_t inode = make_file("f");
  Locker holder(in_mount("f"));
  Locker first(in_mount("f"));
  Locker second(in_mount("f"));
  ASSERT_EQ(holder.try_lock(kFlock, kExclusive), 0);
  first.start_lock(kFlock, kExclusive);
  ASSERT_TRUE(first.waits());
  second.start_lock(kPosix, kExclusive, {0, 10});
  ASSERT_TRUE(second.waits());

  ControlPeer peer(socket());
  EXPECT_EQ(peer.call("break")["code"], "bad_request") << "everything at once is no wish";
  const auto lines = peer.ask("break", {{"inode", inode}, {"pid", holder.pid()}});
  ASSERT_EQ(lines.size(), 2U);
  EXPECT_EQ(lines[0]["broken"]["pid"], holder.pid());
  EXPECT_EQ(lines[1]["broken"], 1);
  EXPECT_EQ(first.result(), 0);
  EXPECT_TRUE(second.waits());
  EXPECT_TRUE(mirror_is(fs().pid(), fs().in_source("f"), {{0, kEof, kExclusive}}));
  EXPECT_EQ(holder.unlock(kFlock), 0) << "the former holder sees nothing";
  EXPECT_EQ(holder.try_lock(kFlock, kExclusive), EWOULDBLOCK);
  EXPECT_NE(fs().log().find("BROKEN: flock lock of pid " + std::to_string(holder.pid())),
            std::string::npos);
  EXPECT_EQ(peer.call("stats")["stats"]["counters"]["revocations"], 1);
}

TEST_F(Socket, WatchTellsOfEachStep) {
  const std::uint64_t inode = make_file("f");
  Locker holder(in_mount("f"));
  Locker waiter(in_mount("f"));
  ControlPeer peer(socket());
  ASSERT_EQ(peer.call("watch", {{"inode", inode}})["ok"], true);
  const auto next = [&] {
    Json event = peer.json();
    EXPECT_EQ(event.value("path", ""), in_mount("f")) << event;
    return event.value("event", "") + " " + std::to_string(event.value("pid", 0));
  };
  ASSERT_EQ(holder.try_lock(kFlock, kExclusive), 0);
  EXPECT_EQ(next(), "grant " + std::to_string(holder.pid()));
  EXPECT_EQ(waiter.try_lock(kPosix, kShared), EAGAIN);
  EXPECT_EQ(next(), "refusal " + std::to_string(waiter.pid()));
  waiter.start_lock(kPosix, kShared);
  EXPECT_EQ(next(), "wait " + std::to_string(waiter.pid()));
  ASSERT_EQ(holder.unlock(kFlock), 0);
  EXPECT_EQ(next(), "release " + std::to_string(holder.pid()));
  EXPECT_EQ(next(), "grant " + std::to_string(waiter.pid()));
  EXPECT_EQ(waiter.result(), 0);
}

/// A descriptor of the daemon, in this process too.
UniqueFd daemon_descriptor(pid_t daemon, const std::string& file, bool with_lock) {
  const UniqueFd process(open_pidfd(daemon));
  for (const auto& entry :
       std::filesystem::directory_iterator("/proc/" + std::to_string(daemon) + "/fd")) {
    std::error_code error;
    if (std::filesystem::read_symlink(entry.path(), error) != file) continue;
    const std::string number = entry.path().filename();
    const std::string info = read_file("/proc/" + std::to_string(daemon) + "/fdinfo/" + number);
    if ((info.find("OFDLCK") != std::string::npos) != with_lock) continue;
    return UniqueFd(
        static_cast<int>(::syscall(SYS_pidfd_getfd, process.get(), std::atoi(number.c_str()), 0)));
  }
  return {};
}

TEST_F(Socket, OneRecordingAtATime) {
  ControlPeer first(socket());
  EXPECT_EQ(first.call("record", {{"hash_paths", 1}})["code"], "bad_request");
  EXPECT_EQ(first.call("record")["recording"], true);
  ControlPeer second(socket());
  EXPECT_EQ(second.call("record")["code"], "busy");
}

TEST_F(Socket, VerifyFindsALockThatTheBackingLost) {
  make_file("f");
  Locker holder(in_mount("f"));
  ASSERT_EQ(holder.try_lock(kPosix, kExclusive, {0, 100}), 0);
  ControlPeer peer(socket());
  Json reply = peer.call("verify");
  EXPECT_EQ(reply["compared"], 1) << reply;
  EXPECT_EQ(reply["differences"], 0) << reply;

  const UniqueFd stolen =
      daemon_descriptor(fs().pid(), std::filesystem::canonical(fs().in_source("f")), true);
  ASSERT_TRUE(stolen.valid());
  struct flock part {};
  part.l_type = F_UNLCK;
  part.l_start = 10;
  part.l_len = 20;
  ASSERT_EQ(::fcntl(stolen.get(), F_OFD_SETLK, &part), 0);
  const auto lines = peer.ask("verify");
  ASSERT_EQ(lines.size(), 2U);
  EXPECT_EQ(lines[0]["difference"]["path"], in_mount("f"));
  EXPECT_EQ(lines[0]["difference"]["start"], 10);
  EXPECT_EQ(lines[0]["difference"]["end"], 29);
  EXPECT_EQ(lines[0]["difference"]["granted"], "exclusive");
  EXPECT_EQ(lines[0]["difference"]["carried"], "none");
  EXPECT_EQ(lines[1]["differences"], 1);
}

// -- what it stands
// --------------------------------------------------------------------------------

TEST_F(Socket, BadLinesAreAnsweredAndHurtNobody) {
  ControlPeer peer(socket());
  const std::vector<std::string> bad = {
      "",
      "{",
      "[]",
      "null",
      "\"ping\"",
      "{}",
      R"({"v":1})",
      R"({"v":1,"cmd":7})",
      R"({"v":1,"cmd":"nothing"})",
      R"({"v":2,"cmd":"ping"})",
      R"({"v":"1","cmd":"ping"})",
      R"({"v":1.5,"cmd":"ping"})",
      R"({"v":-1,"cmd":"ping"})",
      R"({"v":1e999,"cmd":"ping"})",
      R"({"v":1,"cmd":"list","inode":-1})",
      R"({"v":1,"cmd":"list","inode":18446744073709551615})",
      R"({"v":1,"cmd":"list","inode":"7"})",
      R"({"v":1,"cmd":"list","device":"8:1"})",
      R"({"v":1,"cmd":"list","device":"8","source_inode":1})",
      R"({"v":1,"cmd":"list","device":"8:1:2","source_inode":1})",
      R"({"v":1,"cmd":"break","pid":1,"start":5,"end":4})",
      R"({"v":1,"cmd":"break","owner":"posix"})",
      R"({"v":1,"cmd":"break","owner":"posix:"})",
      R"({"v":1,"cmd":"break","owner":"posix:12345678901234567"})",
      R"({"v":1,"cmd":"break","owner":"posix:xyz"})",
      R"({"v":1,"cmd":"set","attr_timeout":-1})",
      R"({"v":1,"cmd":"set","attr_timeout":1e300})",
      R"({"v":1,"cmd":"set","log_level":"loud"})",
      std::string("\0\0\0", 3),
      "\xff\xfe{\"v\":1}",
      std::string(60000, '['),
      "{\"v\":1,\"cmd\":" + std::string(30000, '[') + std::string(30000, ']') + "}",
  };
  for (const std::string& line : bad) {
    peer.send(line + "\n");
    const Json reply = peer.json();
    EXPECT_EQ(reply.value("ok", true), false) << line.substr(0, 80);
    EXPECT_TRUE(reply.contains("code") && reply.contains("error")) << line.substr(0, 80);
  }
  EXPECT_EQ(peer.call("ping")["ok"], true) << "the same connection goes on";
}

TEST_F(Socket, RandomBytesHurtNobody) {
  std::mt19937 random(20261121);
  const std::string alphabet = "{}[]\",:0123456789.eE+-tfn\\u\n \"v\"cmd";
  for (int round = scaled(200); round > 0; --round) {
    ControlPeer peer(socket());
    ASSERT_TRUE(peer.valid());
    std::string bytes;
    for (auto left = random() % 2000; left > 0; --left) {
      bytes += round % 2 == 0 ? static_cast<char>(random()) : alphabet[random() % alphabet.size()];
    }
    peer.send(bytes);
    peer.end();
    EXPECT_TRUE(peer.closed());
  }
  ControlPeer peer(socket());
  EXPECT_EQ(peer.call("ping")["ok"], true);
}

TEST_F(Socket, AnEndlessLineEndsTheConnection) {
  ControlPeer endless(socket());
  const std::string chunk(32 * 1024, 'x');
  std::size_t sent = 0;
  while (true) {
    const std::size_t put = endless.send(chunk);
    sent += put;
    if (put < chunk.size()) break;
    ASSERT_LT(sent, 64U << 20) << "it swallows everything";
  }
  ControlPeer polite(socket());
  polite.send(std::string(100'000, 'x'));
  EXPECT_EQ(polite.json()["code"], "too_long");
  EXPECT_TRUE(polite.closed());
}

TEST_F(Socket, ASlowPeerHoldsNobodyUp) {
  ControlPeer slow(socket());
  ControlPeer quick(socket());
  const std::string request = R"({"v":1,"cmd":"ping"})";
  for (const char c : request) {
    slow.send(std::string(1, c));
    ASSERT_EQ(quick.call("ping")["ok"], true);
  }
  slow.send("\n");
  EXPECT_EQ(slow.json()["ok"], true);
}

TEST_F(Socket, PipelinedRequestsAreAnsweredInOrder) {
  ControlPeer peer(socket());
  std::string all;
  for (int i = 0; i < 500; ++i) {
    all += R"({"v":1,"cmd":"ping","id":)" + std::to_string(i) + "}\n";
  }
  peer.send(all);
  peer.end();
  for (int i = 0; i < 500; ++i) ASSERT_EQ(peer.json()["id"], i);
  EXPECT_TRUE(peer.closed());
}

TEST_F(Socket, ADeadWatcherDelaysNoLock) {
  make_file("f");
  ControlPeer dead(socket());
  ASSERT_EQ(dead.call("watch")["ok"], true);
  const UniqueFd fd(::open(in_mount("f").c_str(), O_RDWR | O_CLOEXEC));
  // Far more than the sockets, the output and the feed can hold together.
  constexpr int kRounds = 8000;
  for (int i = 0; i < kRounds; ++i) {
    ASSERT_EQ(::flock(fd.get(), LOCK_EX), 0);
    ASSERT_EQ(::flock(fd.get(), LOCK_UN), 0);
  }
  ControlPeer other(socket());
  ASSERT_EQ(other.call("ping")["ok"], true);
  // It wakes up: what it missed is counted, to the last event.
  std::uint64_t seen = 0;
  std::uint64_t dropped = 0;
  while (seen + dropped < 2 * kRounds) {
    const Json event = dead.json();
    ASSERT_TRUE(event.is_object()) << seen << " seen, " << dropped << " dropped";
    if (event["event"] == "dropped") {
      dropped += event["count"].get<std::uint64_t>();
    } else {
      ++seen;
    }
  }
  EXPECT_EQ(seen + dropped, 2U * kRounds);
  EXPECT_GT(dropped, 0U);
}

// However many come while the daemon does not get to run.
TEST_F(Socket, ManyMayConnectAtOnce) {
  constexpr int kPeers = 200;
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, socket().c_str(), sizeof address.sun_path - 1);
  ASSERT_EQ(kill(fs().pid(), SIGSTOP), 0);
  std::list<UniqueFd> peers;
  int refused = 0;
  for (int i = 0; i < kPeers; ++i) {
    UniqueFd peer(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (connect(peer.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
      ++refused;
    }
    peers.push_back(std::move(peer));
  }
  ASSERT_EQ(kill(fs().pid(), SIGCONT), 0);
  EXPECT_EQ(refused, 0);
  peers.clear();
  ControlPeer peer(socket());
  EXPECT_EQ(peer.call("ping")["ok"], true);
}

TEST_F(Socket, IdleConnectionsMakeRoomWatchersStay) {
  ControlPeer watcher(socket());
  ASSERT_EQ(watcher.call("watch")["ok"], true);
  std::list<ControlPeer> idle;
  for (int i = 0; i < 63; ++i) {
    idle.emplace_back(socket());
    ASSERT_TRUE(idle.back().valid()) << i << ": " << std::strerror(errno);
    ASSERT_EQ(idle.back().call("ping")["ok"], true) << i;
  }
  // Once they have been idle long enough the next one is let in, whoever it is.
  bool served = false;
  const auto end = std::chrono::steady_clock::now() + deadline();
  while (!served && std::chrono::steady_clock::now() < end) {
    ControlPeer next(socket());
    const Json reply = next.call("ping");
    served = reply.value("ok", false);
    if (!served) {
      EXPECT_EQ(reply.value("code", ""), "busy");
      std::this_thread::sleep_for(50ms);
    }
  }
  EXPECT_TRUE(served);
  make_file("f");
  Locker locker(in_mount("f"));
  ASSERT_EQ(locker.try_lock(kFlock, kExclusive), 0);
  EXPECT_EQ(watcher.json().value("event", ""), "grant");
}

TEST_F(Socket, TheMountEndsUnderWatchersAndHalfRequests) {
  make_file("f");
  ControlPeer watcher(socket());
  ASSERT_EQ(watcher.call("watch")["ok"], true);
  ControlPeer half(socket());
  half.send("{\"v\":1,");
  {
    Locker locker(in_mount("f"));
    ASSERT_EQ(locker.try_lock(kFlock, kExclusive), 0);
  }
  EXPECT_EQ(fs().stop(), "");
  EXPECT_TRUE(watcher.closed());
  EXPECT_TRUE(half.closed());
  EXPECT_FALSE(std::filesystem::exists(socket()));
}

TEST_F(Socket, SetChangesCachesAndLog) {
  ControlPeer peer(socket());
  const Json reply = peer.call("set", {{"attr_timeout", 7.5}, {"log_level", "debug"}});
  ASSERT_EQ(reply["ok"], true) << reply;
  EXPECT_EQ(reply["result"]["attr_timeout"], 7.5);
  EXPECT_EQ(reply["result"]["log_level"], "debug");
  // All or nothing.
  EXPECT_EQ(peer.call("set", {{"attr_timeout", 1}, {"entry_timeout", "x"}})["ok"], false);
  EXPECT_EQ(peer.call("set")["result"]["attr_timeout"], 7.5);
}

// -- who may
// ---------------------------------------------------------------------------------------

/// What a child that has become uid/gid 65534 (without other groups) is answered to `command`;
/// "no" when it cannot even connect.
std::string as_nobody(const std::string& path, const std::string& command) {
  int ends[2];
  EXPECT_EQ(::pipe(ends), 0);
  const UniqueFd in(ends[0]);
  UniqueFd out(ends[1]);
  Process child([&] {
    if (::setgroups(0, nullptr) != 0 || ::setgid(65534) != 0 || ::setuid(65534) != 0) return 1;
    ControlPeer peer(path);
    std::string answer = "no";
    if (peer.valid()) answer = peer.call(command, {{"pid", 1}}).dump();
    return ::write(out.get(), answer.data(), answer.size()) > 0 ? 0 : 1;
  });
  out.reset();
  EXPECT_EQ(child.wait(), 0);
  std::string answer(4096, '\0');
  answer.resize(static_cast<std::size_t>(
      std::max<ssize_t>(::read(in.get(), answer.data(), answer.size()), 0)));
  return answer;
}

void open_to_all(const std::string& folder) {
  std::filesystem::permissions(folder, std::filesystem::perms::others_exec,
                               std::filesystem::perm_options::add);
}

TEST_F(Socket, IsForRootOnly) {
  open_to_all(fs().scratch());
  EXPECT_EQ(as_nobody(socket(), "ping"), "no");
  // Even where somebody has opened it up by hand.
  ASSERT_EQ(::chmod(socket().c_str(), 0666), 0);
  EXPECT_EQ(Json::parse(as_nobody(socket(), "ping"))["code"], "permission");
}

class GroupSocket : public ControlTest {
 protected:
  [[nodiscard]] std::vector<std::string> options() const override {
    return {"control_group=65534"};
  }
};

TEST_F(GroupSocket, TheGroupMayLookButNotTouch) {
  open_to_all(fs().scratch());
  for (const char* command : {"ping", "list", "stats", "verify", "watch", "policy"}) {
    EXPECT_EQ(Json::parse(as_nobody(socket(), command))["ok"], true) << command;
  }
  for (const char* command : {"break", "set", "set_policy", "record", "upgrade"}) {
    EXPECT_EQ(Json::parse(as_nobody(socket(), command))["code"], "permission") << command;
  }
  struct stat status {};
  ASSERT_EQ(::stat(socket().c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0660U);
}

}  // namespace
}  // namespace lockfs::test
