// ctest: timeout=600
/// Many processes at once: no stale conflict after a close or an exit, no lost update, and two
/// programs known from the field.

#include <sched.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <deque>
#include <filesystem>
#include <set>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "tests/mounted/locks/lock_test.h"

namespace lockfs::test {
namespace {

/// Memory that forked processes share.
template <typename T>
class SharedMemory {
 public:
  SharedMemory()
      : object_(new (::mmap(nullptr, sizeof(T), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
                            -1, 0)) T()) {}
  ~SharedMemory() { ::munmap(object_, sizeof(T)); }
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;
  T* operator->() const { return object_; }
  T& operator*() const { return *object_; }

 private:
  T* object_;
};

int lock_call(int fd, Kind kind, short type, bool wait) {
  if (kind == kFlock) {
    const int operation = type == F_UNLCK ? LOCK_UN : type == F_RDLCK ? LOCK_SH : LOCK_EX;
    return ::flock(fd, wait ? operation : operation | LOCK_NB) == 0 ? 0 : errno;
  }
  struct flock lock {};
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  const int command =
      kind == kPosix ? (wait ? F_SETLKW : F_SETLK) : (wait ? F_OFD_SETLKW : F_OFD_SETLK);
  return ::fcntl(fd, command, &lock) == 0 ? 0 : errno;
}

/// Two processes take turns through a pair of pipes.
class Turns {
 public:
  Turns() {
    if (::pipe2(there_, O_CLOEXEC) != 0 || ::pipe2(back_, O_CLOEXEC) != 0) std::abort();
  }
  ~Turns() {
    for (const int fd : {there_[0], there_[1], back_[0], back_[1]}) ::close(fd);
  }
  Turns(const Turns&) = delete;
  Turns& operator=(const Turns&) = delete;
  bool give(bool first) const {
    const char byte = 0;
    return ::write(first ? there_[1] : back_[1], &byte, 1) == 1;
  }
  bool take(bool first) const {
    char byte = 0;
    return ::read(first ? back_[0] : there_[0], &byte, 1) == 1;
  }

 private:
  int there_[2];
  int back_[2];
};

/// Keeps the mount busy with everything but the file under test.
Process noise(const std::string& directory, int number) {
  return Process([directory, number] {
    for (unsigned round = 0;; ++round) {
      const std::string path = directory + "/noise-" + std::to_string(number);
      const UniqueFd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644));
      if (!fd.valid()) return 1;
      if (::write(fd.get(), "x", 1) != 1) return 1;
      lock_call(fd.get(), kPosix, F_WRLCK, true);
      struct stat info {};
      ::stat(path.c_str(), &info);
      if (round % 16 == 0) ::unlink(path.c_str());
    }
  });
}

class ContentionTest : public SharedMountTest {
 protected:
  static void expect_empty_mirror(const std::string& name) {
    fs().settle(name);
    EXPECT_TRUE(mirror_is(fs().pid(), in_source(name), {}));
  }
};

class StaleConflictTest : public ContentionTest, public ::testing::WithParamInterface<Kind> {};

/// After close() has returned, the next process's try must succeed: 100,000 rounds over the kinds.
TEST_P(StaleConflictTest, NoneAfterClose) {
  const Kind kind = GetParam();
  const std::string name = new_file();
  const std::string path = in_mount(name);
  const Process other = noise(mount(), 1);
  Turns turns;
  const int rounds = scaled(33334, 1000) / 2;  // each round is one of each process
  const auto play = [&](bool first) {
    for (int round = 0; round < rounds; ++round) {
      if (!(first && round == 0) && !turns.take(first)) return 10;
      const int fd = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
      if (fd < 0) return 11;
      const int error = lock_call(fd, kind, F_WRLCK, false);
      if (error != 0) {
        std::fprintf(stderr, "round %d: %s\n", round, std::strerror(error));
        return 12;
      }
      if (::close(fd) != 0) return 13;
      if (!turns.give(first)) return 14;
    }
    return 0;
  };
  Process one([&] { return play(true); });
  Process two([&] { return play(false); });
  for (Process* process : {&one, &two}) {
    // Slow machines need longer than one deadline.
    int status = -1;
    for (int patience = 0; patience < 8 && status == -1; ++patience) status = process->wait();
    EXPECT_EQ(status, 0);
    if (status != 0) break;  // the other one now waits for its turn for ever
  }
}

/// After waitpid() has returned, the parent's try must succeed.
TEST_P(StaleConflictTest, NoneAfterWaitpid) {
  const Kind kind = GetParam();
  const std::string name = new_file();
  const std::string path = in_mount(name);
  const Process other = noise(mount(), 2);
  const int rounds = scaled(2000, 100);
  Process parent([&] {
    for (int round = 0; round < rounds; ++round) {
      const bool killed = round % 2 == 0;
      const pid_t child = ::fork();
      if (child == 0) {
        const int fd = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
        if (fd < 0 || lock_call(fd, kind, F_WRLCK, false) != 0) ::_exit(1);
        if (killed) ::raise(SIGKILL);
        ::_exit(0);
      }
      int status = 0;
      ::waitpid(child, &status, 0);
      if (killed ? !WIFSIGNALED(status) : status != 0) return 10;
      const int fd = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
      const int error = lock_call(fd, kind, F_WRLCK, false);
      if (error != 0) {
        std::fprintf(stderr, "round %d: %s\n", round, std::strerror(error));
        return 12;
      }
      ::close(fd);
    }
    return 0;
  });
  int status = -1;
  for (int patience = 0; patience < 8 && status == -1; ++patience) status = parent.wait();
  EXPECT_EQ(status, 0);
}

INSTANTIATE_TEST_SUITE_P(Every, StaleConflictTest, ::testing::Values(kFlock, kPosix, kOfd),
                         kind_name);

// -- mutual exclusion
// -------------------------------------------------------------------------------

/// Processes inside with every call, and outside with fcntl, add to one number in the file.
TEST_F(ContentionTest, NoUpdateIsLost) {
  LOCKFS_NOT_PLAIN();
  const std::string name = new_file("0");
  const int rounds = scaled(400, 40);
  struct Party {
    bool inside;
    Kind kind;
  };
  const Party parties[] = {{true, kFlock}, {true, kPosix}, {true, kOfd},    {true, kFlock},
                           {true, kPosix}, {true, kOfd},   {false, kPosix}, {false, kOfd}};
  SharedMemory<std::atomic<int>> holders;
  std::deque<Process> processes;
  for (const Party& party : parties) {
    processes.emplace_back([&, party] {
      const std::string path = party.inside ? in_mount(name) : in_source(name);
      for (int round = 0; round < rounds; ++round) {
        const UniqueFd fd(::open(path.c_str(), O_RDWR | O_CLOEXEC));
        const int error = lock_call(fd.get(), party.kind, F_WRLCK, true);
        if (error != 0) {
          std::fprintf(stderr, "lock: %s\n", std::strerror(error));
          return 10;
        }
        if (holders->fetch_add(1) != 0) return 11;
        char text[32] = {};
        if (::pread(fd.get(), text, sizeof text - 1, 0) <= 0) return 12;
        const std::string next = std::to_string(std::atoi(text) + 1);
        if (::pwrite(fd.get(), next.data(), next.size(), 0) != static_cast<ssize_t>(next.size())) {
          return 13;
        }
        holders->fetch_sub(1);
        // Half of them leave it to close().
        if (round % 2 == 0 && lock_call(fd.get(), party.kind, F_UNLCK, false) != 0) return 14;
      }
      return 0;
    });
  }
  for (Process& process : processes) {
    int status = -1;
    for (int patience = 0; patience < 4 && status == -1; ++patience) status = process.wait();
    EXPECT_EQ(status, 0);
  }
  EXPECT_EQ(read_file(in_source(name)),
            std::to_string(rounds * static_cast<int>(std::size(parties))));
  expect_empty_mirror(name);
}

// -- known programs
// ---------------------------------------------------------------------------------

/// The program of the LWN article on file-private POSIX locks: three threads, each with an open
/// file of its own, append five lines each, under OFD write locks. There must always be 15 lines.
TEST_F(ContentionTest, ThreadsWithTheirOwnOpenFiles) {
  for (int round = 0; round < scaled(100, 10); ++round) {
    const std::string name = new_file();
    const std::string path = in_mount(name);
    Process program([&] {
      std::atomic<int> failures{0};
      const auto append = [&](int number) {
        const UniqueFd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666));
        for (int i = 0; i < 5; ++i) {
          const std::string line =
              std::to_string(number) + ": tid=" + std::to_string(number) + " fd=own\n";
          if (lock_call(fd.get(), kOfd, F_WRLCK, true) != 0) ++failures;
          // Not O_APPEND: where the end is, only the lock keeps true.
          if (::lseek(fd.get(), 0, SEEK_END) < 0) ++failures;
          if (::write(fd.get(), line.data(), line.size()) != static_cast<ssize_t>(line.size())) {
            ++failures;
          }
          if (::fsync(fd.get()) != 0) ++failures;
          if (lock_call(fd.get(), kOfd, F_UNLCK, true) != 0) ++failures;
          std::this_thread::yield();
        }
      };
      std::vector<std::thread> threads;
      for (int i = 0; i < 3; ++i) threads.emplace_back(append, i);
      for (std::thread& thread : threads) thread.join();
      return failures.load();
    });
    ASSERT_EQ(program.wait(), 0);
    std::istringstream lines(read_file(in_source(name)));
    std::vector<int> count(3);
    std::string line;
    int all = 0;
    while (std::getline(lines, line)) {
      ++all;
      ASSERT_TRUE(!line.empty() && line[0] >= '0' && line[0] <= '2') << line;
      ++count[static_cast<std::size_t>(line[0] - '0')];
    }
    ASSERT_EQ(all, 15) << "round " << round;
    ASSERT_EQ(count, (std::vector<int>{5, 5, 5}));
  }
}

/// A mail server's map file: hundreds of processes read it under shared flocks while a rebuild
/// replaces its content under exclusive ones. Every call must succeed, whatever the load, unlocks
/// of what is not locked included, and nothing may be left.
TEST_F(ContentionTest, HundredsOfReadersAndARebuild) {
  const auto content = [](int generation) {
    return std::string(3000 + static_cast<std::size_t>(generation % 50) * 7,
                       static_cast<char>('a' + generation % 26));
  };
  const std::string name = new_file(content(0));
  const int readers = scaled(300, 60);
  const int rounds = scaled(20, 5);
  const int rebuilds = scaled(60, 10);
  const Process load_one = noise(mount(), 3);
  const Process load_two = noise(mount(), 4);
  std::deque<Process> processes;
  for (int reader = 0; reader < readers; ++reader) {
    processes.emplace_back([&, reader] {
      const int fd = ::open(in_mount(name).c_str(), O_RDONLY | O_CLOEXEC);
      if (fd < 0) return 10;
      for (int round = 0; round < rounds; ++round) {
        if (::flock(fd, LOCK_UN) != 0) return 11;
        const bool polite = (reader + round) % 4 == 0;
        int error = 0;
        do {
          error = ::flock(fd, LOCK_SH | (polite ? LOCK_NB : 0)) == 0 ? 0 : errno;
          if (polite && error == EWOULDBLOCK) ::usleep(1000);
        } while (polite && error == EWOULDBLOCK);
        if (error != 0) {
          std::fprintf(stderr, "flock: %s\n", std::strerror(error));
          return error == ENOLCK ? 12 : 13;
        }
        char text[8192];
        const ssize_t size = ::pread(fd, text, sizeof text, 0);
        if (size < 3000) return 14;
        if (std::string(text, static_cast<std::size_t>(size)).find_first_not_of(text[0]) !=
            std::string::npos) {
          return 15;  // half old, half new
        }
        if (round % 3 != 0 && ::flock(fd, LOCK_UN) != 0) return 16;
        if (::flock(fd, LOCK_UN) != 0 || ::flock(fd, LOCK_UN) != 0) return 17;
      }
      return 0;
    });
  }
  Process rebuild([&] {
    for (int generation = 1; generation <= rebuilds; ++generation) {
      const int fd = ::open(in_mount(name).c_str(), O_RDWR | O_CLOEXEC);
      if (fd < 0) return 20;
      if (::flock(fd, LOCK_EX) != 0) return 21;
      const std::string text = content(generation);
      if (::ftruncate(fd, 0) != 0) return 22;
      // In two pieces, so that a reader let in early is sure to notice.
      const std::size_t half = text.size() / 2;
      if (::pwrite(fd, text.data(), half, 0) != static_cast<ssize_t>(half)) return 23;
      if (::pwrite(fd, text.data() + half, text.size() - half, static_cast<off_t>(half)) !=
          static_cast<ssize_t>(text.size() - half)) {
        return 24;
      }
      if (generation % 2 == 0 && ::flock(fd, LOCK_UN) != 0) return 25;
      if (::close(fd) != 0) return 26;
    }
    return 0;
  });
  const auto outcome = [](Process& process) {
    int status = -1;
    for (int patience = 0; patience < 4 && status == -1; ++patience) status = process.wait();
    return status;
  };
  for (Process& process : processes) ASSERT_EQ(outcome(process), 0);
  EXPECT_EQ(outcome(rebuild), 0);
  EXPECT_EQ(read_file(in_source(name)), content(rebuilds));
  expect_empty_mirror(name);
}

/// Whether all threads of a process may run anywhere, like others.
bool runs_freely(pid_t pid) {
  cpu_set_t all;
  CPU_ZERO(&all);
  if (::sched_getaffinity(pid, sizeof all, &all) != 0) return false;
  for (const auto& task :
       std::filesystem::directory_iterator("/proc/" + std::to_string(pid) + "/task")) {
    const pid_t tid = std::stoi(task.path().filename());
    cpu_set_t own;
    CPU_ZERO(&own);
    const int policy = ::sched_getscheduler(tid);
    if (policy < 0) continue;  // it has ended
    if (::sched_getaffinity(tid, sizeof own, &own) != 0) continue;
    if (policy != SCHED_OTHER || !CPU_EQUAL(&own, &all)) return false;
  }
  return true;
}

// The daemon's reader may follow a client that asks alone and go behind everybody else on its CPU;
// then others come that need every CPU.
TEST_F(ContentionTest, AClientAloneAndThenAmongBusyOnes) {
  LOCKFS_NOT_PLAIN();
  const std::string path = in_mount(new_file());
  const int rounds = scaled(20000, 2000);
  const SharedMemory<std::atomic<bool>> halfway;
  Process client([&] {
    const int fd = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
    for (int i = 0; i < rounds; ++i) {
      if (i == rounds / 2) *halfway = true;
      if (lock_call(fd, kFlock, F_WRLCK, true) != 0) return 1;
      if (lock_call(fd, kFlock, F_UNLCK, true) != 0) return 2;
    }
    return 0;
  });
  ASSERT_TRUE(eventually([&] { return halfway->load(); }));
  std::deque<Process> busy;
  for (unsigned i = 0; i < 2 * std::thread::hardware_concurrency(); ++i) {
    busy.emplace_back([]() -> int {
      while (true) ::getppid();
    });
  }
  EXPECT_EQ(client.wait(), 0);
  busy.clear();
  EXPECT_TRUE(eventually([&] { return runs_freely(fs().pid()); }));
}

}  // namespace
}  // namespace lockfs::test
