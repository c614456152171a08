// What a daemon that was killed has locked at the backing, and what the next one makes of it: the
// daemons are processes that share the table of descriptors of this one, which looks on.
// ctest: links=lockfs_mirror
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <memory>
#include <new>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "fs/base/book.h"
#include "fs/base/kick.h"
#include "fs/base/proc_locks.h"
#include "fs/base/unique_fd.h"
#include "fs/mirror/backing_file.h"
#include "fs/mirror/descriptor_log.h"
#include "fs/mirror/lock_descriptions.h"
#include "fs/mirror/record_lock.h"
#include "fs/tree/inode_table.h"
#include "fs/tree/records.h"
#include "tests/unit/random.h"
#include "tests/unit/waiting_lines.h"

namespace lockfs {
namespace {

using lockmgr::CarriedLock;
using lockmgr::Mode;
using lockmgr::Offset;
using lockmgr::Range;

constexpr Mode kX = Mode::kExclusive;
constexpr Mode kS = Mode::kShared;
constexpr Mode kU = Mode::kNone;
constexpr Offset kEof = lockmgr::kEof;
constexpr std::uint64_t kFile = 42;  // its nodeid

/// Memory that this process and its children share, of the type T.
template <typename T>
class Shared {
 public:
  Shared()
      : object_(new (::mmap(nullptr, sizeof(T), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
                            -1, 0)) T) {}
  ~Shared() { ::munmap(object_, sizeof(T)); }
  Shared(const Shared&) = delete;
  Shared& operator=(const Shared&) = delete;
  T* operator->() const { return object_; }

 private:
  T* const object_;
};

/// As fork(), but with one table of descriptors.
pid_t clone_with_descriptors() {
  int* thread_id = nullptr;  // where the C library has it
  unsigned long flags = CLONE_FILES | SIGCHLD;
  if (::prctl(PR_GET_TID_ADDRESS, &thread_id) == 0) flags |= CLONE_CHILD_SETTID;
  return static_cast<pid_t>(::syscall(SYS_clone, flags, nullptr, nullptr, thread_id, 0UL));
}

int set_through(int fd, const Range& range, Mode mode) {
  struct flock request = record_lock(range, mode);
  return ::fcntl(fd, F_OFD_SETLK, &request) == 0 ? 0 : errno;
}

/// A daemon's part of it. One that dies runs no destructor.
struct Daemon {
  explicit Daemon(Book& book, const std::atomic<std::uint32_t>* writers, bool listed = true)
      : log(book), ours(threads, writers, &log, kFile) {
    std::vector<LoggedFd> left = log.take_over(kFile);
    adopted = ours.adopt(left, listed);
  }

  WaitThreads threads;
  DescriptorLog log;
  LockDescriptions ours;
  int adopted = 0;
};

class LockAdoptionTest : public ::testing::Test {
 protected:
  void SetUp() override {
    install_kick_handler();
    path_ = ::testing::TempDir() + "lock_adoption.XXXXXX";
    ASSERT_TRUE(UniqueFd(::mkostemp(path_.data(), O_CLOEXEC)));
    path_fd_.reset(::open(path_.c_str(), O_PATH | O_CLOEXEC));
    outsider_.reset(::open(path_.c_str(), O_RDWR | O_CLOEXEC));
    ASSERT_TRUE(path_fd_ && outsider_);
  }
  void TearDown() override {
    heir_.reset();
    EXPECT_TRUE(known().empty());
    ::unlink(path_.c_str());
  }

  struct Stage {
    std::atomic<bool> ready{false};
    std::atomic<int> failed_at{0};  ///< a line
  };
  /// A daemon carries out `body`, which returns the line of what went wrong or 0, and is killed.
  void live_and_die(const std::function<int(Daemon&)>& body) {
    stage_->ready = false;
    const pid_t child = clone_with_descriptors();
    if (child == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      stage_->failed_at = body(*new Daemon(book_, &writers_));
      stage_->ready = true;
      while (true) ::pause();
    }
    ASSERT_GT(child, 0);
    while (!stage_->ready && ::waitpid(child, nullptr, WNOHANG) == 0) std::this_thread::yield();
    ::kill(child, SIGKILL);
    ::waitpid(child, nullptr, 0);
    ASSERT_EQ(stage_->failed_at, 0);
    ASSERT_TRUE(stage_->ready);
  }
  int set(Daemon& daemon, const Range& range, Mode mode) {
    return daemon.ours.set(path_fd_.get(), range, mode);
  }
  int set(const Range& range, Mode mode) { return set(*heir_, range, mode); }
  /// Starts to wait, and returns when it does.
  bool begin_to_sit(Daemon& daemon, const Range& range, Mode mode) {
    const int before = waiting_lines(path_);
    WaitThreads::Wait job;
    job.id = WaitThreads::own_id();
    job.sit = [this, &daemon, id = job.id, range, mode](const std::atomic<bool>& recalled) {
      return daemon.ours.wait(id, path_fd_.get(), range, mode, false, recalled);
    };
    job.done = [](int) {};
    if (daemon.threads.start(std::move(job)) != 0) return false;
    while (waiting_lines(path_) == before) std::this_thread::yield();
    return true;
  }

  /// Makes a daemon of this process.
  void adopt(bool listed = true) {
    heir_ = std::make_unique<Daemon>(book_, &writers_, listed);
    ASSERT_EQ(heir_->adopted, 0);
  }
  [[nodiscard]] std::vector<int> known() const {
    std::vector<int> found;
    DescriptorLog::known_descriptors(book_, found);
    return found;
  }
  /// The sum of what is held through the descriptors on record, byte by byte, and how many hold it.
  struct Bytes {
    static constexpr Offset kCount = 64;
    std::array<Mode, kCount + 1> modes{};  ///< the last stands for the rest
    std::array<int, kCount + 1> holders{};
  };
  [[nodiscard]] Bytes carried() const {
    Bytes bytes;
    for (const int fd : known()) {
      std::vector<CarriedLock> found;
      EXPECT_TRUE(read_open_file_locks(fd, found));
      for (const CarriedLock& lock : found) {
        for (Offset at = lock.range.first; at <= std::min(lock.range.last, Bytes::kCount); ++at) {
          Mode& mode = bytes.modes[static_cast<std::size_t>(at)];
          mode = std::max(mode, lock.mode);
          ++bytes.holders[static_cast<std::size_t>(at)];
        }
      }
    }
    return bytes;
  }
  [[nodiscard]] std::string text() const {
    const Bytes bytes = carried();
    std::string text;
    Offset first = 0;
    for (Offset at = 0; at <= Bytes::kCount; ++at) {
      const Mode mode = bytes.modes[static_cast<std::size_t>(at)];
      if (at < Bytes::kCount && mode == bytes.modes[static_cast<std::size_t>(at) + 1]) continue;
      if (mode != kU) {
        text += (mode == kX ? " X" : " S") + std::to_string(first) + "-" +
                (at == Bytes::kCount ? "end" : std::to_string(at));
      }
      first = at + 1;
    }
    return text;
  }
  [[nodiscard]] bool held_twice() const {
    const Bytes bytes = carried();
    return *std::max_element(bytes.holders.begin(), bytes.holders.end()) > 1;
  }
  int outsider(const Range& range, Mode mode) { return set_through(outsider_.get(), range, mode); }
  /// A descriptor that a dead daemon has left, with locks on it.
  void leave(DescriptorUse use, const std::vector<CarriedLock>& locks) {
    UniqueFd fd(
        ::open(path_.c_str(), (use == DescriptorUse::kExclusive ? O_RDWR : O_RDONLY) | O_CLOEXEC));
    for (const CarriedLock& lock : locks) {
      ASSERT_EQ(set_through(fd.get(), lock.range, lock.mode), 0);
    }
    DescriptorLog log(book_);
    LoggedFd left;
    ASSERT_EQ(LoggedFd::make(std::move(fd), use, &log, kFile, left), 0);
    left.leave();
  }

  /// While it lives, no lock can be taken or let go of through what is on record.
  class NoCalls {
   public:
    NoCalls(const std::vector<int>& known, int useless) : known_(known) {
      for (const int fd : known_) {
        kept_.emplace_back(::fcntl(fd, F_DUPFD_CLOEXEC, 0));
        ::dup3(useless, fd, O_CLOEXEC);
      }
    }
    ~NoCalls() {
      for (std::size_t i = 0; i < known_.size(); ++i) {
        ::dup3(kept_[i].get(), known_[i], O_CLOEXEC);
      }
    }
    NoCalls(const NoCalls&) = delete;
    NoCalls& operator=(const NoCalls&) = delete;

   private:
    const std::vector<int> known_;
    std::vector<UniqueFd> kept_;
  };

  static constexpr Book::Shapes kShapes = {{}, {}, {}, DescriptorLog::kShape};

  std::string path_;
  UniqueFd path_fd_;
  UniqueFd outsider_;
  std::atomic<std::uint32_t> writers_{0};
  Book book_{kShapes, 0, true};
  Shared<Stage> stage_;
  std::unique_ptr<Daemon> heir_;
};

TEST_F(LockAdoptionTest, WhatAgreesCostsNoCall) {
  live_and_die([this](Daemon& daemon) {
    if (set(daemon, {0, 9}, kX) != 0 || set(daemon, {20, 29}, kS) != 0) return __LINE__;
    return set(daemon, {40, kEof}, kX) == 0 ? 0 : __LINE__;
  });
  EXPECT_EQ(text(), " X0-9 S20-29 X40-end");
  EXPECT_EQ(outsider({9, 9}, kS), EAGAIN);
  adopt();
  {
    const NoCalls none(known(), path_fd_.get());
    ASSERT_EQ(outsider({9, 9}, kS), EAGAIN);
    EXPECT_EQ(set({0, 9}, kX), 0);
    EXPECT_EQ(set({10, 19}, kU), 0);
    EXPECT_EQ(set({20, 29}, kS), 0);
    EXPECT_EQ(set({30, 39}, kU), 0);
    EXPECT_EQ(set({40, kEof}, kX), 0);
    EXPECT_NE(set({10, 19}, kX), 0) << "the test cannot tell";
  }
  EXPECT_EQ(text(), " X0-9 S20-29 X40-end");
  EXPECT_EQ(known().size(), 2U);
  EXPECT_EQ(set({0, kEof}, kU), 0);
  EXPECT_EQ(outsider({0, kEof}, kX), 0);
}

TEST_F(LockAdoptionTest, WhatDiffersIsPutRight) {
  live_and_die([this](Daemon& daemon) {
    return set(daemon, {0, 9}, kX) == 0 && set(daemon, {20, 29}, kS) == 0 ? 0 : __LINE__;
  });
  adopt();
  EXPECT_EQ(set({0, 3}, kX), 0);
  EXPECT_EQ(set({4, 6}, kS), 0);
  EXPECT_EQ(set({7, 21}, kU), 0);
  EXPECT_EQ(set({22, 25}, kX), 0);
  EXPECT_EQ(set({26, 35}, kS), 0);
  EXPECT_EQ(set({36, kEof}, kU), 0);
  EXPECT_EQ(text(), " X0-3 S4-6 X22-25 S26-35");
  EXPECT_FALSE(held_twice());
}

TEST_F(LockAdoptionTest, ThereMayBeNothing) {
  live_and_die([this](Daemon& daemon) {
    return set(daemon, {0, 9}, kX) == 0 && set(daemon, {0, 9}, kU) == 0 ? 0 : __LINE__;
  });
  adopt();
  EXPECT_EQ(set({0, kEof}, kU), 0);
  EXPECT_EQ(set({0, kEof}, kX), 0);
  EXPECT_EQ(set({0, kEof}, kU), 0);
  EXPECT_EQ(outsider({0, kEof}, kX), 0);
}

/// It has taken over what was shared there.
TEST_F(LockAdoptionTest, AWaitDiesWithItsDaemon) {
  ASSERT_EQ(outsider({5, 9}, kS), 0);
  live_and_die([this](Daemon& daemon) {
    if (set(daemon, {0, 9}, kS) != 0) return __LINE__;
    return begin_to_sit(daemon, {0, 19}, kX) ? 0 : __LINE__;
  });
  EXPECT_EQ(waiting_lines(path_), 0);
  EXPECT_EQ(text(), " S0-9");
  EXPECT_EQ(known().size(), 2U);
  adopt();
  {
    const NoCalls none(known(), path_fd_.get());
    EXPECT_EQ(set({0, 9}, kS), 0);
    EXPECT_EQ(set({10, kEof}, kU), 0);
  }
  EXPECT_EQ(outsider({5, 9}, kU), 0);
  EXPECT_EQ(set({0, 19}, kX), 0);
  EXPECT_EQ(text(), " X0-19");
  EXPECT_EQ(set({0, kEof}, kU), 0);
  EXPECT_EQ(known().size(), 1U);
}

TEST_F(LockAdoptionTest, WhatWaitsHaveWonStays) {
  ASSERT_EQ(outsider({0, 39}, kX), 0);
  live_and_die([this](Daemon& daemon) {
    if (set(daemon, {50, 59}, kX) != 0) return __LINE__;
    if (!begin_to_sit(daemon, {0, 9}, kX) || !begin_to_sit(daemon, {5, 29}, kS)) return __LINE__;
    if (!begin_to_sit(daemon, {20, 39}, kS) || !begin_to_sit(daemon, {35, 37}, kX)) return __LINE__;
    if (outsider({10, 34}, kU) != 0 || outsider({0, 9}, kU) != 0) return __LINE__;
    while (text().find("X0-9") == std::string::npos && text().find("S5-29") == std::string::npos) {
    }
    return 0;
  });
  EXPECT_EQ(waiting_lines(path_), 0);
  const std::string found = text();
  EXPECT_NE(found.find("X50-59"), std::string::npos);
  adopt();
  const Bytes bytes = carried();
  {
    const NoCalls none(known(), path_fd_.get());
    for (Offset at = 0; at < Bytes::kCount; ++at) {
      EXPECT_EQ(set({at, at}, bytes.modes[static_cast<std::size_t>(at)]), 0) << at;
    }
  }
  EXPECT_EQ(text(), found);
  EXPECT_EQ(set({0, kEof}, kU), 0);
  EXPECT_EQ(text(), "");
  EXPECT_LE(known().size(), 1U);
}

TEST_F(LockAdoptionTest, HeldTwiceIsHeldOnce) {
  leave(DescriptorUse::kExclusive, {{{0, 9}, kX}, {{20, 29}, kS}});
  leave(DescriptorUse::kShared, {{{10, 22}, kS}, {{25, 40}, kS}});
  leave(DescriptorUse::kShared, {{{15, 50}, kS}});
  adopt();
  EXPECT_TRUE(held_twice());
  EXPECT_EQ(set({0, 9}, kX), 0);
  EXPECT_FALSE(held_twice());
  EXPECT_EQ(text(), " X0-9 S10-50");
  {
    const NoCalls none(known(), path_fd_.get());
    EXPECT_EQ(set({10, 50}, kS), 0);
    EXPECT_EQ(set({51, kEof}, kU), 0);
  }
  EXPECT_EQ(set({12, 45}, kX), 0);
  EXPECT_EQ(text(), " X0-9 S10-11 X12-45 S46-50");
  EXPECT_FALSE(held_twice());
}

/// Somebody outside tries to get what is held while it is adopted.
class Thief {
 public:
  /// Tries what `wanted` says, each on its own.
  Thief(const std::string& path, std::vector<CarriedLock> wanted) {
    child_ = ::fork();
    if (child_ != 0) {
      while (!state_->running) std::this_thread::yield();
      return;
    }
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    const int fd = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
    state_->running = true;
    while (!state_->ended) {
      for (const CarriedLock& each : wanted) {
        if (set_through(fd, each.range, each.mode) != 0) continue;
        state_->got = 1 + each.range.first;
        ::_exit(0);
      }
    }
    ::_exit(0);
  }
  ~Thief() { end(); }
  Thief(const Thief&) = delete;
  Thief& operator=(const Thief&) = delete;
  /// 0, or 1 and the first byte of what he got.
  Offset end() {
    state_->ended = true;
    if (child_ > 0) ::waitpid(std::exchange(child_, 0), nullptr, 0);
    return state_->got;
  }

 private:
  struct State {
    std::atomic<bool> running{false};
    std::atomic<bool> ended{false};
    std::atomic<Offset> got{0};
  };
  Shared<State> state_;
  pid_t child_ = 0;
};

/// Each byte is held in a mode through one description or, shared, two. Which, a filesystem that
/// lists no locks does not tell.
TEST_F(LockAdoptionTest, InDoubtNothingIsLost) {
  for (std::uint64_t seed = 0; seed < static_cast<std::uint64_t>(lockmgr::testing::scaled(60));
       ++seed) {
    lockmgr::testing::Random random(seed);
    constexpr Offset kBytes = 48;
    std::array<std::vector<CarriedLock>, 4> left;  // two of each kind
    std::vector<CarriedLock> stretches;            // what is to be held then: without gaps
    std::vector<CarriedLock> wanted;
    for (Offset at = 0; at < kBytes;) {
      const Range part{at, std::min(kBytes - 1, at + random.between(0, 5))};
      at = part.last + 1;
      const Mode mode = std::array{kU, kS, kX}[random.below(3)];
      if (mode == kX) left[random.below(2)].push_back({part, kX});
      if (mode == kS) {
        left[random.below(4)].push_back({part, kS});
        if (random.one_in(3)) left[random.below(4)].push_back({part, kS});
      }
      // A death may have left more or less than is wanted.
      const Mode granted = random.one_in(6) ? std::array{kU, kS, kX}[random.below(3)] : mode;
      if (!stretches.empty() && stretches.back().mode == granted) {
        stretches.back().range.last = part.last;
      } else {
        stretches.push_back({part, granted});
      }
      const Mode kept = std::min(mode, granted);
      if (kept == kX) wanted.push_back({{part.first, part.first}, kS});
      if (kept != kU) wanted.push_back({part, kX});
    }
    stretches.push_back({{kBytes, kEof}, kU});
    for (std::size_t i = 0; i < left.size(); ++i) {
      leave(i < 2 ? DescriptorUse::kExclusive : DescriptorUse::kShared, left[i]);
    }
    Thief thief(path_, wanted);
    adopt(false);
    std::string expected;
    std::vector<CarriedLock> pieces;
    for (const CarriedLock& each : stretches) {
      int error = set(each.range, each.mode);
      // The thief may be trying this very moment what was not held.
      for (int tries = 0; error == EAGAIN && tries < 1000; ++tries) {
        error = set(each.range, each.mode);
      }
      ASSERT_EQ(error, 0) << "seed " << seed << " at " << each.range.first;
      if (each.mode == kU) continue;
      expected += (each.mode == kX ? " X" : " S") + std::to_string(each.range.first) + "-" +
                  std::to_string(each.range.last);
    }
    ASSERT_EQ(thief.end(), 0) << "seed " << seed;
    ASSERT_EQ(text(), expected) << "seed " << seed;
    ASSERT_FALSE(held_twice()) << "seed " << seed;
    {
      const NoCalls none(known(), path_fd_.get());
      for (const CarriedLock& each : stretches) {
        ASSERT_EQ(set(each.range, each.mode), 0) << "seed " << seed;
      }
    }
    ASSERT_EQ(set({0, kEof}, kU), 0);
    ASSERT_LE(known().size(), 1U) << "seed " << seed;
    heir_.reset();
  }
}

TEST_F(LockAdoptionTest, InDoubtNobodyWaits) {
  leave(DescriptorUse::kShared, {{{0, 9}, kS}});
  adopt(false);
  const std::atomic<bool> recalled{false};
  EXPECT_EQ(heir_->ours.wait(1, path_fd_.get(), {5, 5}, kX, false, recalled), EINTR);
  EXPECT_EQ(set({0, 9}, kX), 0);
  EXPECT_EQ(set({10, kEof}, kU), 0);
  EXPECT_EQ(heir_->ours.wait(2, path_fd_.get(), {15, 15}, kX, false, recalled), 0);
  EXPECT_EQ(text(), " X0-9 X15-15");
}

// -- flocks --------------------------------------------------------------------------------------

/// Nothing is granted, as far as the backing is told.
class Nothing final : public lockmgr::Backing::Carried {
 public:
  void for_each(const std::function<bool(const Range&, Mode)>& /*visit*/) const override {}
};

TEST_F(LockAdoptionTest, FlocksStayWithTheRecordLocks) {
  const std::string folder = std::filesystem::path(path_).parent_path();
  Book files({kInodeShape, kNameShape, kHandleShape}, 1, false);
  InodeTable table(files, UniqueFd(::open(folder.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC)), 100);
  struct stat st {};
  ASSERT_EQ(::stat(path_.c_str(), &st), 0);
  InodePtr inode = table.intern(UniqueFd(::open(path_.c_str(), O_PATH | O_CLOEXEC)), st);
  constexpr Range kAll = lockmgr::kWholeFile;
  const Nothing nothing;
  const auto try_flock = [&](int how) {
    const UniqueFd other(::open(path_.c_str(), O_RDWR | O_CLOEXEC));
    return ::flock(other.get(), how | LOCK_NB) == 0;
  };
  for (const Mode mode : {kS, kX, kU}) {
    live_and_die([&](Daemon& daemon) {
      OutsiderWatch watch;
      auto* const file = new BackingFile(inode, daemon.threads, watch, nullptr, &daemon.log);
      if (!file->flocks().set(kAll, kS, nothing).is_done()) return __LINE__;
      if (!file->flocks().set(kAll, mode, nothing).is_done()) return __LINE__;
      return file->set({0, 9}, kX, nothing).is_done() ? 0 : __LINE__;
    });
    EXPECT_EQ(known().size(), 2U);
    EXPECT_EQ(text(), " X0-9");
    EXPECT_EQ(try_flock(LOCK_SH), mode != kX);
    EXPECT_EQ(try_flock(LOCK_EX), mode == kU);
    WaitThreads threads;
    OutsiderWatch watch;
    DescriptorLog log(book_);
    {
      BackingFile file(inode, threads, watch, nullptr, &log);
      ASSERT_EQ(file.adopt(log.take_over(inode->nodeid()), false), 0);
      {
        const NoCalls none(known(), path_fd_.get());
        EXPECT_TRUE(file.set({0, 9}, kX, nothing).is_done());
        EXPECT_TRUE(file.set({10, kEof}, kU, nothing).is_done());
      }
      EXPECT_EQ(try_flock(LOCK_SH), mode != kX);
      // What was held is known, so that a refused upgrade takes it back.
      const UniqueFd other(::open(path_.c_str(), O_RDWR | O_CLOEXEC));
      if (mode == kS) {
        ASSERT_EQ(::flock(other.get(), LOCK_SH), 0);
        EXPECT_TRUE(file.flocks().set(kAll, kX, nothing).is_refused());
        EXPECT_FALSE(try_flock(LOCK_EX));
        ASSERT_EQ(::flock(other.get(), LOCK_UN), 0);
        EXPECT_FALSE(try_flock(LOCK_EX));
      }
      EXPECT_TRUE(file.flocks().set(kAll, mode, nothing).is_done());
      EXPECT_TRUE(file.flocks().set(kAll, kU, nothing).is_done());
      EXPECT_TRUE(try_flock(LOCK_EX));
      EXPECT_EQ(outsider({0, 9}, kS), EAGAIN);
    }
    EXPECT_TRUE(known().empty());
    EXPECT_EQ(outsider({0, 9}, kX), 0);
    EXPECT_EQ(outsider({0, 9}, kU), 0);
  }
}

// -- a daemon that is killed at any time ---------------------------------------------------------

/// What daemons tell of what they do. Bytes from kWaited on are waited for.
struct Told {
  static constexpr Offset kBytes = 48;
  static constexpr Offset kWaited = 32;
  static constexpr Offset kPiece = 4;  ///< of those, for one wait each
  static constexpr std::size_t kPieces = 4;

  struct UnderWay {
    std::atomic<bool> is{false};
    std::atomic<Offset> first{0};
    std::atomic<Offset> last{0};
    std::atomic<Mode> mode{kU};

    void begin(const Range& range, Mode wanted) {
      first = range.first;
      last = range.last;
      mode = wanted;
      is = true;
    }
    [[nodiscard]] bool covers(Offset at) const { return is && first <= at && at <= last; }
  };

  [[nodiscard]] Mode granted_at(Offset at) const { return granted[static_cast<std::size_t>(at)]; }
  void grant(const Range& range, Mode mode) {
    for (Offset at = range.first; at <= range.last; ++at) {
      granted[static_cast<std::size_t>(at)] = mode;
    }
  }
  /// Whether a byte that carries `mode` is as it should be.
  [[nodiscard]] bool may_be(Offset at, Mode mode) const {
    // What was being let go of when a daemon died is carried until the next one has settled.
    const bool not_lowered_yet = !settled && under_way[0].covers(at) && mode > granted_at(at);
    return mode == granted_at(at) || not_lowered_yet ||
           std::any_of(under_way.begin(), under_way.end(),
                       [&](const UnderWay& each) { return each.covers(at) && each.mode == mode; });
  }

  std::array<std::atomic<Mode>, kBytes> granted{};
  std::array<UnderWay, 1 + kPieces> under_way;  ///< the first for set(), the others for waits
  std::atomic<std::uint32_t> changes{0};        ///< odd while a set() is under way
  std::atomic<bool> settled{false};             ///< the new daemon carries what was granted
  std::atomic<int> failed_at{0};                ///< a line
  std::atomic<int> sets{0};
  std::atomic<int> waits{0};  ///< ended with the lock
};

class KilledDaemonTest : public LockAdoptionTest {
 protected:
  /// The life of a daemon.
  void live(std::uint64_t seed) {
    auto& daemon = *new Daemon(book_, &writers_);
    if (daemon.adopted != 0) fail(__LINE__);
    // What was let go of may be somebody else's by now, so that goes on; else it is as it was.
    for (Offset at = 0; at < Told::kBytes; ++at) {
      const Told::UnderWay& last = told_->under_way[0];
      if (last.covers(at) && last.mode < told_->granted_at(at)) told_->grant({at, at}, last.mode);
    }
    for (Offset first = 0; first < Told::kBytes;) {  // as FileLocks::carry_anew() does
      Range stretch{first, first};
      const Mode mode = told_->granted_at(first);
      while (stretch.last + 1 < Told::kBytes && told_->granted_at(stretch.last + 1) == mode) {
        ++stretch.last;
      }
      const int error = set(daemon, stretch, mode);
      if (error != 0) fail(__LINE__);
      first = stretch.last + 1;
    }
    const Bytes bytes = carried();
    for (Offset at = 0; at < Told::kBytes; ++at) {
      if (bytes.modes[static_cast<std::size_t>(at)] != told_->granted_at(at)) fail(__LINE__);
    }
    if (held_twice()) fail(__LINE__);
    for (Told::UnderWay& each : told_->under_way) each.is = false;
    if (told_->changes % 2 == 1) ++told_->changes;
    told_->settled = true;
    lockmgr::testing::Random random(seed);
    while (true) {
      // Threads that wait come to their mutex.
      if (random.one_in(10)) std::this_thread::sleep_for(std::chrono::microseconds(50));
      if (random.one_in(3)) {
        wait_for_piece(daemon, random);
        continue;
      }
      Range range{random.between(0, Told::kWaited - 1), 0};
      range.last = std::min(Told::kWaited - 1, range.first + random.between(0, 12));
      set_told(daemon, range, std::array{kU, kS, kX}[random.below(3)]);
    }
  }
  /// Lets go of a piece, or starts to wait for it.
  void wait_for_piece(Daemon& daemon, lockmgr::testing::Random& random) {
    const auto piece = random.below(Told::kPieces);
    Told::UnderWay& under_way = told_->under_way[1 + piece];
    if (under_way.is) return;
    const Offset first = Told::kWaited + Told::kPiece * static_cast<Offset>(piece);
    const Range range{first, first + Told::kPiece - 1};
    if (told_->granted_at(first) != kU) {
      set_told(daemon, range, random.one_in(2) ? kU : kS);
      return;
    }
    const Mode mode = random.one_in(2) ? kS : kX;
    under_way.begin(range, mode);
    WaitThreads::Wait job;
    job.id = WaitThreads::own_id();
    job.sit = [this, &daemon, id = job.id, range, mode](const std::atomic<bool>& recalled) {
      return daemon.ours.wait(id, path_fd_.get(), range, mode, false, recalled);
    };
    job.done = [this, &under_way, range, mode](int error) {
      if (error == 0) {
        told_->grant(range, mode);
        ++told_->waits;
      } else if (error != EINTR) {
        fail(__LINE__);
      }
      under_way.is = false;
    };
    if (daemon.threads.start(std::move(job)) != 0) fail(__LINE__);
  }
  void set_told(Daemon& daemon, const Range& range, Mode mode) {
    told_->under_way[0].begin(range, mode);
    ++told_->changes;
    const int error = set(daemon, range, mode);
    if (error == 0) {
      told_->grant(range, mode);
    } else if (error != EAGAIN) {
      fail(__LINE__);
    }
    ++told_->changes;
    told_->under_way[0].is = false;
    ++told_->sets;
  }
  void fail(int line) {
    told_->failed_at = line;
    while (true) ::pause();
  }

  /// What an outsider does while it lives: takes what may be had, and must not get what is granted.
  void disturb(lockmgr::testing::Random& random) {
    const Offset at = random.between(0, Told::kBytes - 1);
    const Range range{at, std::min(Told::kBytes - 1, at + random.between(0, 3))};
    if (random.one_in(2)) {
      ASSERT_EQ(outsider(range, kU), 0);
      return;
    }
    const Mode mode = random.one_in(2) ? kS : kX;
    const std::uint32_t before = told_->changes;
    const bool first_free = !lockmgr::modes_conflict(told_->granted_at(at), mode);
    const Mode granted = told_->granted_at(at);
    const int error = outsider(range, mode);
    const bool still = told_->changes == before && before % 2 == 0 && at < Told::kWaited;
    if (still && !first_free) {
      ASSERT_EQ(error, EAGAIN) << "at " << at << " granted " << static_cast<int>(granted);
    }
    // Nobody is kept from his turn for long.
    if (random.one_in(8)) {
      ASSERT_EQ(outsider({0, kEof}, kU), 0);
      std::this_thread::sleep_for(std::chrono::microseconds(100));
    }
  }

  /// Closes what is on no record, as a new daemon does, and sees that nothing is held through it.
  void sweep(const std::vector<int>& own) {
    std::vector<int> known = this->known();
    known.insert(known.end(), own.begin(), own.end());
    std::vector<int> strangers;
    for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
      const int fd = std::stoi(entry.path().filename());
      if (std::find(known.begin(), known.end(), fd) == known.end()) strangers.push_back(fd);
    }
    for (const int fd : strangers) {
      std::vector<CarriedLock> found;
      if (read_open_file_locks(fd, found)) {
        EXPECT_TRUE(found.empty()) << "held through a descriptor on no record";
      }
      ::close(fd);
    }
  }

  Shared<Told> told_;
};

// Under the thread sanitizer a process that was not forked by the C library cannot have threads.
#ifndef __SANITIZE_THREAD__

TEST_F(KilledDaemonTest, WhatWasGrantedIsCarriedOn) {
  lockmgr::testing::Random random(lockmgr::testing::test_seed());
  std::vector<int> own;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    own.push_back(std::stoi(entry.path().filename()));
  }
  int settled = 0;
  const int rounds = lockmgr::testing::scaled(300);
  for (int round = 0; round < rounds; ++round) {
    told_->settled = false;
    const std::uint64_t seed = random.below(1U << 30U);
    const pid_t child = clone_with_descriptors();
    if (child == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      live(seed);
    }
    ASSERT_GT(child, 0);
    // Some die while they adopt.
    const auto life = std::chrono::microseconds(random.between(0, random.one_in(3) ? 800 : 8000));
    for (const auto until = std::chrono::steady_clock::now() + life;
         std::chrono::steady_clock::now() < until && !HasFailure();) {
      disturb(random);
    }
    ::kill(child, SIGKILL);
    ASSERT_EQ(::waitpid(child, nullptr, 0), child);
    ASSERT_EQ(told_->failed_at, 0) << "round " << round;
    settled += told_->settled ? 1 : 0;
    sweep(own);
    const Bytes bytes = carried();
    for (Offset at = 0; at < Told::kBytes; ++at) {
      const Mode mode = bytes.modes[static_cast<std::size_t>(at)];
      ASSERT_TRUE(told_->may_be(at, mode))
          << "round " << round << " at " << at << ": granted "
          << static_cast<int>(told_->granted_at(at)) << ", carried " << static_cast<int>(mode)
          << (told_->settled ? "" : ", while it was adopted");
    }
    ASSERT_FALSE(HasFailure()) << "round " << round;
  }
  EXPECT_GT(settled, rounds / 4);
  EXPECT_GT(told_->sets, rounds);
  EXPECT_GT(told_->waits, 0);
  std::printf("%d lives, %d of them with %d sets and %d waits won\n", rounds, settled,
              told_->sets.load(), told_->waits.load());
  adopt();
  EXPECT_EQ(set({0, kEof}, kU), 0);
}

#endif

}  // namespace
}  // namespace lockfs
