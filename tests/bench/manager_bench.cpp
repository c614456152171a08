/// The lock manager alone, with 1 to 1,000,000 granted locks on one file, or a million files; and
/// the kernel's own record locks on a plain file for comparison.
///
/// Every iteration is one lock and one unlock, so a time is that of the pair.
#include <benchmark/benchmark.h>
#include <fcntl.h>
#include <malloc.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <tuple>
#include <vector>

#include "lockmgr/backing.h"
#include "lockmgr/file_locks.h"
#include "lockmgr/lock_manager.h"
#include "lockmgr/policy.h"

namespace {

using lockmgr::FileLocks;
using lockmgr::LockManager;
using lockmgr::Mode;
using lockmgr::Offset;
using lockmgr::Opened;
using lockmgr::OwnerId;
using lockmgr::OwnerType;
using lockmgr::Range;
using lockmgr::Request;

// Lock i covers the first kHeld bytes from i * kStride; the rest is free. Locks of one owner so far
// apart don't merge.
constexpr Offset kStride = 20;
constexpr Offset kHeld = 10;

constexpr std::uint64_t kHolder = 1'000'000'000;
constexpr std::uint64_t kRequester = 2'000'000'000;

lockmgr::Limits no_limits() {
  lockmgr::Limits limits;
  limits.locks = limits.locks_per_user = limits.locks_per_owner = UINT64_MAX / 2;
  return limits;
}

Request request(std::uint64_t cookie, Range range, Mode mode) {
  Request result;
  result.owner = OwnerId{OwnerType::kProcess, cookie};
  result.caller = {1, 1, 0};
  result.range = range;
  result.mode = mode;
  return result;
}

std::size_t heap_bytes() {
  const struct mallinfo2 info = mallinfo2();
  return info.uordblks + info.hblkhd;
}

/// Who holds the locks of a LoadedFile.
enum class Holders {
  kOne,        ///< one owner
  kMany,       ///< one owner a lock, each with an open file of its own
  kInherited,  ///< one owner a lock, all through one open file, as processes that inherited it
};

/// One file with `count` exclusive locks, or shared ones on the very same bytes.
class LoadedFile {
 public:
  LoadedFile(std::int64_t count, Holders holders, bool same_bytes = false) : count_(count) {
    const auto owners = static_cast<std::size_t>(holders == Holders::kOne ? 1 : count);
    const std::size_t opens = holders == Holders::kMany ? owners : 1;
    for (std::size_t i = 0; i < opens; ++i) opens_.push_back(std::make_unique<Opened>(true, true));
    const std::size_t before = heap_bytes();
    for (std::int64_t i = 0; i < count; ++i) {
      const auto n = static_cast<std::size_t>(i);
      const Offset first = same_bytes ? 0 : i * kStride;
      const Request held = request(kHolder + n % owners, {first, first + kHeld - 1},
                                   same_bytes ? Mode::kShared : Mode::kExclusive);
      if (file_->try_now(*opens_[n % opens], held) != 0) std::abort();
    }
    bytes_ = heap_bytes() - before;
  }
  LoadedFile(const LoadedFile&) = delete;
  LoadedFile& operator=(const LoadedFile&) = delete;
  ~LoadedFile() {
    file_->close(opened_);
    for (const auto& opened : opens_) file_->close(*opened);
  }

  FileLocks& file() { return *file_; }
  /// An open file that holds no lock of the load.
  Opened& opened() { return opened_; }
  /// The open file of the first lock.
  Opened& loaded_opened() { return *opens_.front(); }
  std::int64_t count() const { return count_; }
  double bytes_per_lock() const {
    return static_cast<double>(bytes_) / static_cast<double>(count_);
  }

 private:
  const std::int64_t count_;
  LockManager manager_{no_limits(), *lockmgr::Policy::named("nfs"), nullptr};
  std::shared_ptr<FileLocks> file_ =
      manager_.open_file({1, 1}, std::make_unique<lockmgr::NoBacking>());
  Opened opened_{true, true};
  std::vector<std::unique_ptr<Opened>> opens_;
  std::size_t bytes_ = 0;
};

/// Numbers of locks, drawn beforehand.
std::vector<Offset> random_places(std::int64_t count) {
  std::mt19937_64 random(1);
  std::vector<Offset> places(1 << 16);
  for (Offset& place : places) {
    place = static_cast<Offset>(random() % static_cast<std::uint64_t>(count));
  }
  return places;
}

/// Locks and unlocks ranges near random locks of the file: `offset` bytes after the lock's begin.
void lock_and_unlock(benchmark::State& state, LoadedFile& loaded, Opened& opened,
                     std::uint64_t owner, Offset offset, int expected = 0) {
  constexpr Offset kLength = 4;
  const std::vector<Offset> places = random_places(loaded.count());
  std::size_t next = 0;
  for (auto _ : state) {
    const Offset first = places[next++ % places.size()] * kStride + offset;
    const Range range{first, first + kLength - 1};
    const auto locked = loaded.file().try_now(opened, request(owner, range, Mode::kExclusive));
    if (locked != expected) {
      state.SkipWithError("unexpected answer");
      return;
    }
    if (expected == 0)
      std::ignore = loaded.file().try_now(opened, request(owner, range, Mode::kNone));
  }
  if (loaded.count() >= 1000) state.counters["bytes/lock"] = loaded.bytes_per_lock();
}

/// Another owner's locks all around, none in the way.
void BM_LockUnlock(benchmark::State& state) {
  LoadedFile loaded(state.range(0), Holders::kOne);
  lock_and_unlock(state, loaded, loaded.opened(), kRequester, kHeld + 2);
}

/// The same with one owner and one open file a lock.
void BM_LockUnlockManyOwners(benchmark::State& state) {
  LoadedFile loaded(state.range(0), Holders::kMany);
  lock_and_unlock(state, loaded, loaded.opened(), kRequester, kHeld + 2);
}

/// The same with one owner a lock, all of one open file, the requester's too.
void BM_LockUnlockInherited(benchmark::State& state) {
  LoadedFile loaded(state.range(0), Holders::kInherited);
  lock_and_unlock(state, loaded, loaded.loaded_opened(), kRequester, kHeld + 2);
}

/// The owner of all the locks adds one more and drops it.
void BM_LockUnlockOwnLocks(benchmark::State& state) {
  LoadedFile loaded(state.range(0), Holders::kOne);
  lock_and_unlock(state, loaded, loaded.loaded_opened(), kHolder, kHeld + 2);
}

/// Refused for a conflict.
void BM_Refused(benchmark::State& state) {
  LoadedFile loaded(state.range(0), Holders::kOne);
  lock_and_unlock(state, loaded, loaded.opened(), kRequester, 2, EAGAIN);
}

/// Shared locks of as many owners on the very same bytes, and one more.
void BM_SharedOnSameBytes(benchmark::State& state) {
  LoadedFile loaded(state.range(0), Holders::kMany, true);
  constexpr Range kRange{0, kHeld - 1};
  for (auto _ : state) {
    const auto locked =
        loaded.file().try_now(loaded.opened(), request(kRequester, kRange, Mode::kShared));
    if (locked != 0) {
      state.SkipWithError("unexpected answer");
      break;
    }
    std::ignore = loaded.file().try_now(loaded.opened(), request(kRequester, kRange, Mode::kNone));
  }
  if (loaded.count() >= 1000) state.counters["bytes/lock"] = loaded.bytes_per_lock();
}

/// Many files with one lock each; random ones get a second.
void BM_ManyFiles(benchmark::State& state) {
  const auto count = static_cast<std::size_t>(state.range(0));
  LockManager manager(no_limits(), *lockmgr::Policy::named("nfs"), nullptr);
  std::vector<std::shared_ptr<FileLocks>> files;
  std::vector<std::unique_ptr<Opened>> opens;
  files.reserve(count);
  opens.reserve(count);
  const std::size_t before = heap_bytes();
  for (std::size_t i = 0; i < count; ++i) {
    files.push_back(manager.open_file({1, i + 1}, std::make_unique<lockmgr::NoBacking>()));
    opens.push_back(std::make_unique<Opened>(true, true));
    const Request held = request(kHolder, {0, kHeld - 1}, Mode::kExclusive);
    if (files.back()->try_now(*opens.back(), held) != 0) std::abort();
  }
  const std::size_t bytes = heap_bytes() - before;
  if (count >= 1000) {
    state.counters["bytes/file"] = static_cast<double>(bytes) / static_cast<double>(count);
  }

  const std::vector<Offset> places = random_places(state.range(0));
  std::size_t next = 0;
  for (auto _ : state) {
    const auto i = static_cast<std::size_t>(places[next++ % places.size()]);
    constexpr Range kRange{kHeld + 2, kHeld + 5};
    if (files[i]->try_now(*opens[i], request(kRequester, kRange, Mode::kExclusive)) != 0) {
      state.SkipWithError("unexpected answer");
      break;
    }
    std::ignore = files[i]->try_now(*opens[i], request(kRequester, kRange, Mode::kNone));
  }
  for (std::size_t i = 0; i < count; ++i) files[i]->close(*opens[i]);
}

bool kernel_lock(int fd, Offset first, Offset length, short type) {
  struct flock lock = {};
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  lock.l_start = first;
  lock.l_len = length;
  return fcntl(fd, F_OFD_SETLK, &lock) == 0;
}

/// The kernel's OFD locks on a plain file: one open file holds the locks, another asks.
void BM_KernelLockUnlock(benchmark::State& state) {
  char path[] = "/tmp/lockfs-manager-bench.XXXXXX";
  const int holder = mkostemp(path, O_CLOEXEC);
  const int requester = open(path, O_RDWR | O_CLOEXEC);
  unlink(path);
  if (holder < 0 || requester < 0) {
    state.SkipWithError("no scratch file in /tmp");
    return;
  }
  // From the end on, since the kernel keeps a list and each lock then goes to its head.
  for (std::int64_t i = state.range(0) - 1; i >= 0; --i) {
    if (!kernel_lock(holder, i * kStride, kHeld, F_WRLCK)) std::abort();
  }
  const std::vector<Offset> places = random_places(state.range(0));
  std::size_t next = 0;
  for (auto _ : state) {
    const Offset first = places[next++ % places.size()] * kStride + kHeld + 2;
    if (!kernel_lock(requester, first, 4, F_WRLCK) || !kernel_lock(requester, first, 4, F_UNLCK)) {
      state.SkipWithError("unexpected answer");
      break;
    }
  }
  close(holder);
  close(requester);
}

BENCHMARK(BM_LockUnlock)->RangeMultiplier(10)->Range(1, 1'000'000);
BENCHMARK(BM_LockUnlockManyOwners)->RangeMultiplier(10)->Range(1, 1'000'000);
BENCHMARK(BM_LockUnlockInherited)->RangeMultiplier(10)->Range(1, 10'000);
BENCHMARK(BM_LockUnlockOwnLocks)->RangeMultiplier(10)->Range(1, 1'000'000);
BENCHMARK(BM_Refused)->RangeMultiplier(10)->Range(1, 1'000'000);
BENCHMARK(BM_SharedOnSameBytes)->RangeMultiplier(10)->Range(1, 1'000'000);
BENCHMARK(BM_ManyFiles)->RangeMultiplier(10)->Range(1, 1'000'000);
BENCHMARK(BM_KernelLockUnlock)->RangeMultiplier(10)->Range(1, 10'000);

}  // namespace

BENCHMARK_MAIN();
