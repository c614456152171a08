// Directories: listing them whole and in parts, while they change, and when they are large.
// ctest: timeout=600
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "tests/mounted/fs/fs_support.h"

namespace lockfs::fstest {
namespace {

class DirectoryTest : public FsTest {
 protected:
  void fill(const Dir& dir, int count, const std::string& stem = "entry") {
    for (int number = 0; number < count; ++number) {
      const Fd fd(::openat(dir.fd, (stem + std::to_string(number)).c_str(),
                           O_WRONLY | O_CREAT | O_CLOEXEC, 0644));
      ASSERT_TRUE(fd.ok());
    }
  }
};

/// A directory stream that closes itself.
class Stream {
 public:
  explicit Stream(const std::string& path) : stream_(::opendir(path.c_str())) {
    EXPECT_NE(stream_, nullptr) << path;
  }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  ~Stream() {
    if (stream_ != nullptr) ::closedir(stream_);
  }
  DIR* get() const { return stream_; }
  /// The next entry; null at the end. A failure fails the test.
  const dirent* next() const {
    errno = 0;
    const dirent* entry = ::readdir(stream_);  // NOLINT(concurrency-mt-unsafe)
    EXPECT_EQ(errno, 0);
    return entry;
  }

 private:
  DIR* stream_;
};

std::vector<std::string> names_left(const Stream& stream) {
  std::vector<std::string> names;
  while (const dirent* entry = stream.next()) names.emplace_back(entry->d_name);
  return names;
}

TEST_F(DirectoryTest, ListsEveryEntryOnceWithTypeAndInode) {
  fill(behind_, 100);
  ASSERT_EQ(::mkdirat(behind_.fd, "dir", 0755), 0);
  ASSERT_EQ(::symlinkat("x", behind_.fd, "link"), 0);
  ASSERT_EQ(::mkfifoat(behind_.fd, "fifo", 0600), 0);
  ASSERT_EQ(::mknodat(behind_.fd, "null", S_IFCHR | 0600, 0x103), 0);
  const auto list = [](const Dir& dir) {
    std::map<std::string, std::pair<int, ino_t>> entries;
    const Stream stream(dir.path);
    while (const dirent* entry = stream.next()) {
      const std::string name = entry->d_name;
      // What ".." shows depends on what the mount hangs in.
      const ino_t inode = name == ".." ? 0 : entry->d_ino;
      EXPECT_TRUE(entries.emplace(name, std::pair{entry->d_type, inode}).second)
          << name << " twice";
    }
    return entries;
  };
  const auto here = list(mounted_);
  EXPECT_EQ(here, list(behind_));
  EXPECT_EQ(here.size(), 106U);
  for (const auto& [name, entry] : here) {
    if (name == "..") continue;
    EXPECT_EQ(attributes(mounted_.fd, name == "." ? "" : name).stx_ino, entry.second) << name;
  }
  EXPECT_EQ(here.at("dir").first, DT_DIR);
  EXPECT_EQ(here.at("link").first, DT_LNK);
}

TEST_F(DirectoryTest, EmptyDirectoryHasTwoEntries) {
  const Stream stream(mounted_.path);
  const std::vector<std::string> names = names_left(stream);
  EXPECT_EQ(std::set<std::string>(names.begin(), names.end()), (std::set<std::string>{".", ".."}));
  EXPECT_EQ(stream.next(), nullptr);  // and stays at the end
}

TEST_F(DirectoryTest, SeekdirReturnsToEveryPlace) {
  fill(behind_, 500);
  const Stream stream(mounted_.path);
  std::vector<long> places;
  std::vector<std::string> names;
  while (true) {
    const long place = ::telldir(stream.get());
    const dirent* entry = stream.next();
    if (entry == nullptr) break;
    places.push_back(place);
    names.emplace_back(entry->d_name);
  }
  ASSERT_EQ(names.size(), 502U);
  auto random = make_random(1);
  for (int round = 0; round < 1000; ++round) {
    const std::size_t at = below(random, names.size());
    ::seekdir(stream.get(), places[at]);
    for (std::size_t ahead = at; ahead < std::min(at + 3, names.size()); ++ahead) {
      const dirent* entry = stream.next();
      ASSERT_NE(entry, nullptr);
      EXPECT_EQ(entry->d_name, names[ahead]);
    }
  }
  // From each place, the rest is the rest.
  for (const std::size_t at :
       {std::size_t{0}, std::size_t{1}, std::size_t{250}, std::size_t{501}}) {
    ::seekdir(stream.get(), places[at]);
    EXPECT_EQ(names_left(stream),
              std::vector<std::string>(names.begin() + static_cast<long>(at), names.end()));
  }
}

TEST_F(DirectoryTest, RewinddirSeesWhatChanged) {
  fill(behind_, 10);
  const Stream stream(mounted_.path);
  EXPECT_EQ(names_left(stream).size(), 12U);
  ASSERT_EQ(::mkdirat(mounted_.fd, "new-by-mount", 0755), 0);
  ASSERT_EQ(::mkdirat(behind_.fd, "new-behind", 0755), 0);
  ASSERT_EQ(::unlinkat(mounted_.fd, "entry3", 0), 0);
  ASSERT_EQ(::unlinkat(behind_.fd, "entry4", 0), 0);
  ::rewinddir(stream.get());
  const std::vector<std::string> names = names_left(stream);
  const std::set<std::string> seen(names.begin(), names.end());
  EXPECT_EQ(names.size(), 12U);
  EXPECT_EQ(seen.count("new-by-mount"), 1U);
  EXPECT_EQ(seen.count("new-behind"), 1U);
  EXPECT_EQ(seen.count("entry3"), 0U);
  EXPECT_EQ(seen.count("entry4"), 0U);
}

TEST_F(DirectoryTest, RemovingWhileListingReachesEverything) {
  // What rm -r does: every entry found is removed at once, and the one listing must find them all.
  fill(behind_, 3000);
  const Stream stream(mounted_.path);
  int removed = 0;
  while (const dirent* entry = stream.next()) {
    const std::string name = entry->d_name;
    if (name == "." || name == "..") continue;
    ASSERT_EQ(::unlinkat(mounted_.fd, name.c_str(), 0), 0) << name;
    ++removed;
  }
  EXPECT_EQ(removed, 3000);
  EXPECT_EQ(::rmdir(mounted_.path.c_str()), 0);
  ASSERT_EQ(::mkdir(mounted_.path.c_str(), 0755), 0);
}

TEST_F(DirectoryTest, ChangesWhileListingTouchNothingElse) {
  // Entries that stay throughout appear exactly once, whatever comes and goes beside them, by the
  // mount or behind it. Entries that come or go may or may not appear, but not twice.
  fill(behind_, 2000, "stay");
  fill(behind_, 2000, "go");
  auto random = make_random(2);
  for (int round = 0; round < scaled(5); ++round) {
    std::map<std::string, int> seen;
    const Stream stream(mounted_.path);
    int number = 0;
    while (const dirent* entry = stream.next()) {
      ++seen[entry->d_name];
      const Dir& side = below(random, 2) == 0 ? mounted_ : behind_;
      const std::string victim = "go" + std::to_string(below(random, 2000));
      const std::string fresh = "fresh" + std::to_string(round) + "-" + std::to_string(number++);
      switch (below(random, 4)) {
        case 0:
          ::unlinkat(side.fd, victim.c_str(), 0);
          break;
        case 1:
          ::mknodat(side.fd, fresh.c_str(), S_IFREG | 0644, 0);
          break;
        default:
          break;
      }
    }
    for (const auto& [name, count] : seen) EXPECT_EQ(count, 1) << name;
    for (int each = 0; each < 2000; ++each) {
      EXPECT_EQ(seen.count("stay" + std::to_string(each)), 1U) << each;
    }
  }
}

TEST_F(DirectoryTest, SmallBuffersStillGetEverything) {
  // getdents64 with room for one or two entries at a time.
  const std::string long_name(250, 'l');
  fill(behind_, 50, long_name);
  for (const std::size_t size : {std::size_t{300}, std::size_t{600}, std::size_t{100000}}) {
    const Fd fd(::open(mounted_.path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    alignas(8) std::vector<char> buffer(size);
    std::set<std::string> names;
    while (true) {
      const long count = ::syscall(SYS_getdents64, int{fd}, buffer.data(), buffer.size());
      ASSERT_GE(count, 0);
      if (count == 0) break;
      for (long at = 0; at < count;) {
        const auto* entry = reinterpret_cast<const dirent64*>(buffer.data() + at);
        EXPECT_TRUE(names.insert(entry->d_name).second);
        at += entry->d_reclen;
      }
    }
    EXPECT_EQ(names.size(), 52U);
  }
  // Too small for any: an error, not an empty directory.
  same("tiny buffer", [](const Dir& dir) {
    ::mknodat(dir.fd, std::string(200, 'x').c_str(), S_IFREG | 0644, 0);
    const Fd fd(::openat(dir.fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    alignas(8) std::array<char, 16> buffer{};
    return call(::syscall(SYS_getdents64, int{fd}, buffer.data(), buffer.size()));
  });
}

TEST_F(DirectoryTest, ListingARemovedDirectoryFindsNothing) {
  same("removed", [](const Dir& dir) {
    EXPECT_EQ(::mkdirat(dir.fd, "gone", 0755), 0);
    const Fd fd(::openat(dir.fd, "gone", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    EXPECT_EQ(::unlinkat(dir.fd, "gone", AT_REMOVEDIR), 0);
    alignas(8) std::array<char, 4096> buffer{};
    return call(::syscall(SYS_getdents64, int{fd}, buffer.data(), buffer.size()));
  });
}

TEST_F(DirectoryTest, TwoListingsOfOneDirectoryDoNotDisturbEachOther) {
  fill(behind_, 1000);
  const Stream one(mounted_.path);
  const Stream two(mounted_.path);
  std::set<std::string> first;
  std::set<std::string> second;
  while (const dirent* entry = one.next()) {
    first.insert(entry->d_name);
    for (int ahead = 0; ahead < 3; ++ahead) {
      if (const dirent* other = two.next()) second.insert(other->d_name);
    }
  }
  EXPECT_EQ(first.size(), 1002U);
  EXPECT_EQ(first, second);
  // Nor do the two that share one open file, as after fork, lose or repeat an entry.
  const Fd shared(::open(mounted_.path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  const Fd same_file(::dup(shared));
  std::multiset<std::string> names;
  alignas(8) std::vector<char> buffer(1024);
  for (int turn = 0;; ++turn) {
    const int fd = turn % 2 == 0 ? shared : same_file;
    const long count = ::syscall(SYS_getdents64, fd, buffer.data(), buffer.size());
    ASSERT_GE(count, 0);
    if (count == 0) break;
    for (long at = 0; at < count;) {
      const auto* entry = reinterpret_cast<const dirent64*>(buffer.data() + at);
      names.insert(entry->d_name);
      at += entry->d_reclen;
    }
  }
  EXPECT_EQ(std::set<std::string>(names.begin(), names.end()), first);
  EXPECT_EQ(names.size(), first.size());
}

TEST_F(DirectoryTest, TwoHundredThousandEntries) {
  // Most are links to few files, as many as ext4 allows each: the size is the directory's, and ext4
  // makes and frees files slowly.
  const int count = scaled(200000, 1000);
  const int files = std::min(count / 2, 5000);
  fill(behind_, files);
  for (int number = files; number < count; ++number) {
    const std::string file = "entry" + std::to_string(number % 10);
    const std::string name = "entry" + std::to_string(number);
    ASSERT_EQ(::linkat(behind_.fd, file.c_str(), behind_.fd, name.c_str(), 0), 0);
  }
  std::vector<bool> seen(static_cast<std::size_t>(count), false);
  int found = 0;
  {
    const Stream stream(mounted_.path);
    while (const dirent* entry = stream.next()) {
      const std::string name = entry->d_name;
      if (name == "." || name == "..") continue;
      const auto number = static_cast<std::size_t>(std::stol(name.substr(5)));
      ASSERT_LT(number, seen.size());
      EXPECT_FALSE(seen[number]) << name << " twice";
      seen[number] = true;
      ++found;
    }
  }
  EXPECT_EQ(found, count);
  auto random = make_random(3);
  for (int round = 0; round < scaled(2000); ++round) {
    const std::string name =
        "entry" + std::to_string(below(random, static_cast<std::uint64_t>(count)));
    ASSERT_EQ(attributes(mounted_.fd, name).stx_ino, attributes(behind_.fd, name).stx_ino);
  }
  // The listing with attributes, as ls -l asks for it, and the whole removed through the mount.
  const std::string listing = must_run(mounted_.path, {"ls", "-ln", "--color=never", "-U", "."});
  EXPECT_EQ(std::count(listing.begin(), listing.end(), '\n'), count + 1);
  must_run(mount(), {"find", "m", "-type", "f", "-delete"});
  EXPECT_EQ(names_left(Stream(behind_.path)).size(), 2U);
}

}  // namespace
}  // namespace lockfs::fstest
