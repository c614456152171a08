// What lockfs makes of the NFS server's table of exports.
// ctest: links=lockfs_nfs
#include "fs/nfs/nfs_watch.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <fstream>
#include <string>

namespace lockfs {
namespace {

std::string exported(const std::string& table) {
  const std::string path = "etab";
  std::ofstream(path) << table;
  std::string found = NfsWatch("/data", "/ex port", path).exported();
  std::remove(path.c_str());
  return found;
}

TEST(NfsWatch, FindsTheMountAmongTheExports) {
  EXPECT_EQ(exported("/data\t*(rw)\n/ex\\040port\t10.0.0.0/8(rw,fsid=1)\n"), "/ex port");
  EXPECT_EQ(exported("/ex\\040port/below *(rw)\n"), "/ex port/below");
}

TEST(NfsWatch, LeavesOthersAlone) {
  EXPECT_EQ(exported(""), "");
  EXPECT_EQ(exported("/data\t*(rw)\n/\t*(ro)\n"), "");
  EXPECT_EQ(exported("/ex\\040port2\t*(rw)\n"), "");
  EXPECT_EQ(exported("/ex\t*(rw)\n"), "");
}

TEST(NfsWatch, NoTable) { EXPECT_EQ(NfsWatch("/data", "/export", "none").exported(), ""); }

}  // namespace
}  // namespace lockfs
