// The operations of a session: each that has a handler has the pace that it is meant to have, under
// every number that the protocol calls it by. A new handler fails here until it has its line.
// ctest: links=lockfs_locks
#include "fs/loop/operations.h"

#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <vector>

#include "fs/locks/lock_ops.h"
#include "fs/tree/filesystem.h"

namespace lockfs {
namespace {

struct Expected {
  std::size_t slot;  ///< in fuse_lowlevel_ops
  Pace pace;
  std::vector<std::uint32_t> opcodes;
};

#define LOCKFS_SLOT(member) offsetof(fuse_lowlevel_ops, member)

std::vector<Expected> all_operations() {
  return {
      {LOCKFS_SLOT(init), Pace::kOrdered, {FUSE_INIT}},
      {LOCKFS_SLOT(lookup), Pace::kQuick, {FUSE_LOOKUP}},
      {LOCKFS_SLOT(forget), Pace::kQuick, {FUSE_FORGET}},
      {LOCKFS_SLOT(forget_multi), Pace::kQuick, {FUSE_BATCH_FORGET}},
      {LOCKFS_SLOT(getattr), Pace::kQuick, {FUSE_GETATTR}},
      {LOCKFS_SLOT(setattr), Pace::kQuick, {FUSE_SETATTR}},
      {LOCKFS_SLOT(readlink), Pace::kQuick, {FUSE_READLINK}},
      {LOCKFS_SLOT(access), Pace::kQuick, {FUSE_ACCESS}},
      {LOCKFS_SLOT(statfs), Pace::kQuick, {FUSE_STATFS}},
      {LOCKFS_SLOT(mknod), Pace::kQuick, {FUSE_MKNOD}},
      {LOCKFS_SLOT(mkdir), Pace::kQuick, {FUSE_MKDIR}},
      {LOCKFS_SLOT(symlink), Pace::kQuick, {FUSE_SYMLINK}},
      {LOCKFS_SLOT(link), Pace::kQuick, {FUSE_LINK}},
      {LOCKFS_SLOT(unlink), Pace::kQuick, {FUSE_UNLINK}},
      {LOCKFS_SLOT(rmdir), Pace::kQuick, {FUSE_RMDIR}},
      {LOCKFS_SLOT(rename), Pace::kQuick, {FUSE_RENAME, FUSE_RENAME2}},
      {LOCKFS_SLOT(open), Pace::kQuick, {FUSE_OPEN}},
      {LOCKFS_SLOT(create), Pace::kQuick, {FUSE_CREATE}},
      {LOCKFS_SLOT(read), Pace::kByLength, {FUSE_READ}},
      {LOCKFS_SLOT(write), Pace::kByLength, {FUSE_WRITE}},
      {LOCKFS_SLOT(fsync), Pace::kSlow, {FUSE_FSYNC}},
      {LOCKFS_SLOT(fallocate), Pace::kSlow, {FUSE_FALLOCATE}},
      {LOCKFS_SLOT(copy_file_range), Pace::kSlow, {FUSE_COPY_FILE_RANGE}},
      {LOCKFS_SLOT(lseek), Pace::kQuick, {FUSE_LSEEK}},
      {LOCKFS_SLOT(ioctl), Pace::kQuick, {FUSE_IOCTL}},
      {LOCKFS_SLOT(opendir), Pace::kQuick, {FUSE_OPENDIR}},
      {LOCKFS_SLOT(readdir), Pace::kQuick, {FUSE_READDIR}},
      {LOCKFS_SLOT(readdirplus), Pace::kQuick, {FUSE_READDIRPLUS}},
      {LOCKFS_SLOT(releasedir), Pace::kQuick, {FUSE_RELEASEDIR}},
      {LOCKFS_SLOT(fsyncdir), Pace::kSlow, {FUSE_FSYNCDIR}},
      {LOCKFS_SLOT(setxattr), Pace::kQuick, {FUSE_SETXATTR}},
      {LOCKFS_SLOT(getxattr), Pace::kQuick, {FUSE_GETXATTR}},
      {LOCKFS_SLOT(listxattr), Pace::kQuick, {FUSE_LISTXATTR}},
      {LOCKFS_SLOT(removexattr), Pace::kQuick, {FUSE_REMOVEXATTR}},
      {LOCKFS_SLOT(setlk), Pace::kOrdered, {FUSE_SETLK, FUSE_SETLKW}},
      {LOCKFS_SLOT(flock), Pace::kOrdered, {FUSE_SETLK, FUSE_SETLKW}},
      {LOCKFS_SLOT(getlk), Pace::kOrdered, {FUSE_GETLK}},
      {LOCKFS_SLOT(flush), Pace::kOrdered, {FUSE_FLUSH}},
      {LOCKFS_SLOT(release), Pace::kOrdered, {FUSE_RELEASE}},
  };
}

TEST(Operations, EachHasItsPaceAndNoneIsLeftOut) {
  Operations operations;
  Filesystem::fill_ops(operations);
  LockOps::fill_ops(operations);
  std::map<std::size_t, bool> handled;
  const fuse_lowlevel_ops& table = operations.table();
  for (std::size_t slot = 0; slot < sizeof table; slot += sizeof(void*)) {
    void* handler = nullptr;
    std::memcpy(&handler, reinterpret_cast<const char*>(&table) + slot, sizeof handler);
    if (handler != nullptr) handled[slot] = false;
  }
  for (const Expected& expected : all_operations()) {
    const auto found = handled.find(expected.slot);
    ASSERT_NE(found, handled.end()) << "slot " << expected.slot / sizeof(void*);
    found->second = true;
    for (const std::uint32_t opcode : expected.opcodes) {
      EXPECT_EQ(operations.pace_of(opcode), expected.pace) << "operation " << opcode;
    }
  }
  EXPECT_EQ(operations.pace_of(FUSE_BMAP), Pace::kSlow) << "not entered";
  EXPECT_EQ(operations.pace_of(1000), Pace::kSlow) << "not known";
  for (const auto& [slot, known] : handled) {
    EXPECT_TRUE(known) << "a handler without a line here: slot " << slot / sizeof(void*);
  }
}

}  // namespace
}  // namespace lockfs
