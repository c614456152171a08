// Who may poll for a lock, by what the NFS server tells of its clients, and how often they get a
// turn.
// ctest: links=lockfs_mirror
#include "fs/mirror/nfs_pollers.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

namespace lockfs {
namespace {

using namespace std::chrono_literals;

constexpr ino_t kFile = 131;

class NfsPollersTest : public ::testing::Test {
 protected:
  NfsPollersTest() { std::filesystem::create_directory(folder_); }
  ~NfsPollersTest() override { std::filesystem::remove_all(folder_); }

  void add_client(const std::string& name, int minor_version, const std::string& type, ino_t ino) {
    const std::string client = folder_ + "/" + name;
    std::filesystem::create_directory(client);
    std::ofstream(client + "/info")
        << "clientid: 0x1\naddress: \"10.0.0.1:700\"\nstatus: confirmed\n"
        << "minor version: " << minor_version << "\n";
    std::ofstream(client + "/states")
        << "- 0x000000011: { type: open, access: r-, deny: --, superblock: \"fe:00:7\", "
           "filename: \"other\" }\n"
        << "- 0x000000012: { type: " << type
        << ", access: rw, deny: --, superblock: \"fe:00:" << ino << "\", filename: \"mbox\" }\n";
  }

  /// In how many of 1,000 hand-overs, a millisecond from each other, it was somebody else's turn.
  int turns() {
    NfsPollers pollers(kFile, folder_.c_str());
    int due = 0;
    for (int i = 0; i < 1000; ++i) {
      now_ += 1ms;
      if (pollers.due(now_)) ++due;
    }
    return due;
  }

  const std::string folder_ = "clients." + std::to_string(::getpid());
  NfsPollers::Clock::time_point now_ = NfsPollers::Clock::now();
};

TEST_F(NfsPollersTest, AnOldClientWithTheFileOpenGetsTurns) {
  add_client("3", 0, "open", kFile);
  EXPECT_GT(turns(), 10);
}

TEST_F(NfsPollersTest, OthersDoNot) {
  EXPECT_EQ(turns(), 0);
  add_client("1", 0, "open", kFile + 1);
  add_client("2", 0, "deleg", kFile);
  add_client("3", 1, "open", kFile);
  add_client("4", 2, "open", kFile);
  EXPECT_EQ(turns(), 0);
}

TEST_F(NfsPollersTest, NoServer) {
  NfsPollers pollers(kFile, "/nowhere");
  for (int i = 0; i < 1000; ++i) EXPECT_FALSE(pollers.due(now_ += 1ms));
}

TEST_F(NfsPollersTest, AShortRowOfHandOversKeepsNobodyOut) {
  add_client("3", 0, "open", kFile);
  NfsPollers pollers(kFile, folder_.c_str());
  for (int row = 0; row < 10; ++row) {
    for (int i = 0; i < 50; ++i) EXPECT_FALSE(pollers.due(now_ += 1ms));
    now_ += 200ms;
  }
}

TEST_F(NfsPollersTest, OneWhoComesLaterIsSeen) {
  NfsPollers pollers(kFile, folder_.c_str());
  for (int i = 0; i < 500; ++i) EXPECT_FALSE(pollers.due(now_ += 1ms));
  add_client("3", 0, "open", kFile);
  int due = 0;
  for (int i = 0; i < 2000; ++i) due += pollers.due(now_ += 1ms) ? 1 : 0;
  EXPECT_GT(due, 0);
}

}  // namespace
}  // namespace lockfs
