// The workloads: cases about which people argue what a lock should do.
#include <cmath>
#include <random>
#include <utility>

#include "mount-helpers/workload/plan.h"

namespace workload {

namespace {

using lockmgr::Mode;
using lockmgr::OwnerType;
using lockmgr::Range;
using std::chrono::milliseconds;
using What = Action::What;

/// Times at random, the same for the same seed everywhere.
class Chance {
 public:
  explicit Chance(std::uint64_t seed) : engine_(seed) {}

  /// Exponentially distributed around `mean`, as of things that do not know of each other.
  Nanoseconds about(Nanoseconds mean) {
    return Nanoseconds(
        static_cast<std::int64_t>(-std::log(1 - share()) * static_cast<double>(mean.count())));
  }
  Nanoseconds between(Nanoseconds low, Nanoseconds high) {
    return low + Nanoseconds(static_cast<std::int64_t>(share() *
                                                       static_cast<double>((high - low).count())));
  }
  std::size_t below(std::size_t bound) {
    return static_cast<std::size_t>(share() * static_cast<double>(bound));
  }
  bool one_in(std::size_t n) { return below(n) == 0; }

 private:
  double share() { return static_cast<double>(engine_() >> 11) * 0x1p-53; }

  std::mt19937_64 engine_;
};

/// Writes down what a program does.
class Writer {
 public:
  Writer(Plan& plan, std::string name, Nanoseconds start) : plan_(plan) {
    program_.name = std::move(name);
    program_.start = start;
    now_ = start;
  }
  ~Writer() { plan_.programs.push_back(std::move(program_)); }
  Writer(const Writer&) = delete;
  Writer& operator=(const Writer&) = delete;

  Writer& remote() {
    program_.remote = true;
    return *this;
  }
  Writer& open(std::size_t file) { return add({.what = What::kOpen, .file = file}); }
  Writer& close(std::size_t file) { return add({.what = What::kClose, .file = file}); }
  Writer& lock(std::size_t file, OwnerType type, Mode mode, Range range = lockmgr::kWholeFile) {
    return add({.what = What::kLock, .file = file, .type = type, .range = range, .mode = mode});
  }
  /// The lock just written: gives up after so long.
  Writer& for_at_most(Nanoseconds patience) {
    program_.actions.back().patience = patience;
    return *this;
  }
  /// The lock just written: does not wait.
  Writer& or_not() {
    program_.actions.back().wait = false;
    return *this;
  }
  Writer& sleep(Nanoseconds time) {
    now_ += time;
    return add({.what = What::kSleep, .time = time});
  }

  /// When it would be here if nothing was waited for.
  [[nodiscard]] Nanoseconds now() const { return now_; }

 private:
  Writer& add(const Action& action) {
    program_.actions.push_back(action);
    return *this;
  }

  Plan& plan_;
  Program program_;
  Nanoseconds now_{0};
};

Plan readers_and_writer(const Settings& settings) {
  Plan plan{{"table"}, {}};
  Chance chance(settings.seed);
  for (int i = 0; i < 8; ++i) {
    Writer reader(plan, "reader", milliseconds(i));
    reader.open(0);
    while (reader.now() < settings.length) {
      reader.lock(0, OwnerType::kOpenFile, Mode::kShared)
          .sleep(chance.between(milliseconds(20), milliseconds(60)))
          .lock(0, OwnerType::kOpenFile, Mode::kNone)
          .sleep(chance.about(milliseconds(20)));
    }
    reader.close(0);
  }
  Writer writer(plan, "writer", milliseconds(50));
  writer.open(0);
  while (writer.now() < settings.length) {
    writer.lock(0, OwnerType::kOpenFile, Mode::kExclusive)
        .sleep(milliseconds(10))
        .lock(0, OwnerType::kOpenFile, Mode::kNone)
        .sleep(chance.about(milliseconds(200)));
  }
  writer.close(0);
  return plan;
}

/// Mail programs take an flock and a POSIX lock on the spool file, so as to agree with whatever the
/// other program takes. Each gives up after a while and tries again later.
Plan mail_spool(const Settings& settings) {
  constexpr Nanoseconds kPatience = milliseconds(2000);
  Plan plan{{"alice", "bob"}, {}};
  Chance chance(settings.seed);
  for (Nanoseconds at = milliseconds(10); at < settings.length;
       at += chance.about(milliseconds(150))) {
    const std::size_t box = chance.below(plan.files.size());
    Writer delivery(plan, "deliver", at);
    delivery.open(box)
        .lock(box, OwnerType::kFlock, Mode::kExclusive)
        .for_at_most(kPatience)
        .lock(box, OwnerType::kProcess, Mode::kExclusive)
        .for_at_most(kPatience)
        .sleep(chance.between(milliseconds(5), milliseconds(30)))
        .close(box);
  }
  for (std::size_t box = 0; box < plan.files.size(); ++box) {
    Writer reader(plan, "mailer", milliseconds(100));
    while (reader.now() < settings.length) {
      reader.open(box)
          .lock(box, OwnerType::kFlock, Mode::kShared)
          .for_at_most(kPatience)
          .lock(box, OwnerType::kProcess, Mode::kShared)
          .for_at_most(kPatience)
          .sleep(milliseconds(40))
          .close(box)
          .sleep(chance.about(milliseconds(400)));
    }
  }
  // A user who reads his mail on another machine, over NFS.
  Writer far(plan, "nfs-mailer", milliseconds(60));
  far.remote();
  while (far.now() < settings.length) {
    far.open(0)
        .lock(0, OwnerType::kProcess, Mode::kExclusive)
        .for_at_most(kPatience)
        .sleep(milliseconds(25))
        .close(0)
        .sleep(chance.about(milliseconds(300)));
  }
  return plan;
}

/// Rows of a table, locked one by one; transfers lock two rows in the order in which they come to
/// mind, which is what makes deadlocks.
Plan database(const Settings& settings) {
  constexpr lockmgr::Offset kRow = 128;
  constexpr std::size_t kRows = 40;
  const auto row = [](std::size_t number) {
    const auto first = static_cast<lockmgr::Offset>(number) * kRow;
    return Range{first, first + kRow - 1};
  };
  Plan plan{{"accounts.db"}, {}};
  Chance chance(settings.seed);
  for (int i = 0; i < 12; ++i) {
    Writer client(plan, i < 8 ? "transfer" : "query", milliseconds(3 * i));
    client.open(0);
    while (client.now() < settings.length) {
      if (i < 8) {
        const std::size_t from = chance.below(kRows);
        const std::size_t to = (from + 1 + chance.below(kRows - 1)) % kRows;
        client.lock(0, OwnerType::kProcess, Mode::kExclusive, row(from))
            .sleep(chance.about(milliseconds(2)))
            .lock(0, OwnerType::kProcess, Mode::kExclusive, row(to))
            .sleep(chance.about(milliseconds(4)));
      } else {
        const std::size_t first = chance.below(kRows - 8);
        client.lock(0, OwnerType::kProcess, Mode::kShared, {row(first).first, row(first + 7).last})
            .sleep(chance.about(milliseconds(8)));
      }
      client.lock(0, OwnerType::kProcess, Mode::kNone).sleep(chance.about(milliseconds(10)));
    }
    client.close(0);
  }
  return plan;
}

/// "flock -n job.lock job" every half second, for a job that now and then takes longer.
Plan cron_singleton(const Settings& settings) {
  Plan plan{{"job.lock"}, {}};
  Chance chance(settings.seed);
  for (Nanoseconds at(0); at < settings.length; at += milliseconds(500)) {
    const Nanoseconds work = chance.one_in(4)
                                 ? chance.between(milliseconds(800), milliseconds(1600))
                                 : chance.between(milliseconds(100), milliseconds(350));
    Writer job(plan, "cron-job", at);
    job.open(0).lock(0, OwnerType::kFlock, Mode::kExclusive).or_not().sleep(work).close(0);
  }
  return plan;
}

/// Workers fetch artefacts from a cache under a shared lock, and build the ones missing under an
/// exclusive one, beside a collector that wants the whole cache for itself.
Plan build_farm(const Settings& settings) {
  constexpr std::size_t kArtefacts = 12;
  Plan plan{{"cache.lock"}, {}};
  for (std::size_t i = 0; i < kArtefacts; ++i) plan.files.push_back("object-" + std::to_string(i));
  Chance chance(settings.seed);
  for (int i = 0; i < 10; ++i) {
    Writer worker(plan, "worker", milliseconds(5 * i));
    while (worker.now() < settings.length) {
      const std::size_t object = 1 + chance.below(kArtefacts);
      const bool builds = chance.one_in(4);
      worker.open(0).lock(0, OwnerType::kFlock, Mode::kShared).open(object);
      worker.lock(object, OwnerType::kFlock, builds ? Mode::kExclusive : Mode::kShared)
          .sleep(builds ? chance.between(milliseconds(60), milliseconds(160))
                        : chance.about(milliseconds(6)))
          .close(object)
          .close(0)
          .sleep(chance.about(milliseconds(15)));
    }
  }
  Writer collector(plan, "collector", milliseconds(700));
  while (collector.now() < settings.length) {
    collector.open(0)
        .lock(0, OwnerType::kFlock, Mode::kExclusive)
        .sleep(milliseconds(80))
        .close(0)
        .sleep(chance.about(milliseconds(1500)));
  }
  return plan;
}

/// A local job that flocks a file which NFS clients lock too: the case lockfs is for.
Plan nfs_and_local(const Settings& settings) {
  Plan plan{{"ledger"}, {}};
  Chance chance(settings.seed);
  for (int i = 0; i < 3; ++i) {
    Writer client(plan, "nfs-client", milliseconds(20 * i));
    client.remote();
    while (client.now() < settings.length) {
      client.open(0)
          .lock(0, OwnerType::kProcess, Mode::kExclusive)
          .sleep(chance.between(milliseconds(10), milliseconds(40)))
          .close(0)
          .sleep(chance.about(milliseconds(120)));
    }
  }
  for (int i = 0; i < 2; ++i) {
    Writer job(plan, "local-job", milliseconds(15 + 30 * i));
    while (job.now() < settings.length) {
      job.open(0)
          .lock(0, OwnerType::kFlock, Mode::kExclusive)
          .sleep(chance.between(milliseconds(20), milliseconds(60)))
          .close(0)
          .sleep(chance.about(milliseconds(150)));
    }
  }
  return plan;
}

}  // namespace

const std::vector<Workload>& workloads() {
  static const std::vector<Workload> kWorkloads = {
      {"readers-and-writer", "eight readers that overlap, and one writer who wants in",
       &readers_and_writer},
      {"mail-spool", "mail programs that take flock and POSIX locks on one file, and one over NFS",
       &mail_spool},
      {"database", "rows locked as byte ranges, two at a time and in any order", &database},
      {"cron-singleton", "a job started anew while its predecessor may still run", &cron_singleton},
      {"build-farm", "workers share a cache that a collector wants for itself", &build_farm},
      {"nfs-and-local", "a local job that uses flock against NFS clients", &nfs_and_local},
  };
  return kWorkloads;
}

}  // namespace workload
