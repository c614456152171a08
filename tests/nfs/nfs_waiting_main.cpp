/// Blocking requests across the divide: local programs wait for NFS clients and clients for local
/// programs, how long a hand-over takes, interrupted and killed waiters, and that nobody starves.

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <ctime>
#include <memory>
#include <stdexcept>

#include "tests/nfs/laboratory.h"

namespace {

using namespace lockfs::test;
using namespace lockfs::test::nfs;

void nap(double seconds) {
  const timespec time{
      static_cast<time_t>(seconds),
      static_cast<long>((seconds - static_cast<double>(static_cast<time_t>(seconds))) * 1e9)};
  ::nanosleep(&time, nullptr);
}

// -- from release to grant ------------------------------------------------------------------------

/// Seconds from the unlock of `holder` to the grant of `waiter`'s blocked request; a negative value
/// when something was not as it should be.
double hand_over(Report& report, const Site& holder, const Site& waiter, Kind kind) {
  const std::string file = new_file();
  Party first(holder, file);
  Party second(waiter, file);
  const std::string what = waiter.name() + " waits for " + holder.name() + "'s " + short_name(kind);
  if (const int error = first.try_lock(kind)) {
    report.wrong(what + ": the holder got " + outcome_of(error));
    return -1;
  }
  second.start_lock(kind);
  const auto blocked = second.actor.waits();
  if (!blocked) {
    report.wrong(what + ": " + blocked.message());
    return -1;
  }
  const auto start = Clock::now();
  first.unlock(kind);
  const int error = second.actor.result();
  const double took = seconds_since(start);
  if (error != 0) {
    report.wrong(what + ": " + outcome_of(error));
    return -1;
  }
  if (const int again = first.try_lock(kind); outcome_of(again) != "refused") {
    report.wrong(what + ": granted, and then the former holder got " + outcome_of(again));
  }
  report.count(1);
  return took;
}

void show_hand_over(Report& report) {
  report.title("Time from release to grant");
  report.text("min / median / max; each kind of lock is tried.\n");
  std::vector<std::vector<std::string>> rows{{"version", "local waits for client",
                                              "client waits for local", "client waits for client",
                                              "local waits for local"}};
  for (const std::string& version : versions()) {
    const Site a = client_site('A', version);
    const Site b = client_site('B', version);
    const std::pair<Site, Site> pairs[] = {
        {a, local_site()}, {local_site(), a}, {a, b}, {local_site(), local_site()}};
    rows.push_back({"v" + version});
    for (const auto& [holder, waiter] : pairs) {
      std::vector<double> times;
      for (const Kind kind : kKinds) {
        const double took = hand_over(report, holder, waiter, kind);
        if (took >= 0) times.push_back(took);
      }
      rows.back().push_back(spread(times));
    }
  }
  report.table(rows);
}

// -- waiters that go away -------------------------------------------------------------------------

/// A signal ends the wait of `waiter` and leaves nothing behind.
void lose_waiter(Report& report, Grid& grid, const Site& holder, const Site& waiter, int signal,
                 const std::string& version) {
  const std::string file = new_file();
  const std::string what = waiter.name() + " waits for " + holder.name() +
                           (signal == SIGKILL ? ", killed" : ", interrupted");
  auto first = std::make_unique<Party>(holder, file);
  Party second(waiter, file);
  if (const int error = first->try_lock()) {
    report.wrong(what + ": the holder got " + outcome_of(error));
    return;
  }
  second.actor.handle_signal(SIGUSR1);
  second.start_lock();
  if (const auto blocked = second.actor.waits(); !blocked) {
    report.wrong(what + ": " + blocked.message());
    return;
  }
  std::string outcome;
  if (signal == SIGKILL) {
    second.actor.kill(SIGKILL);
    outcome = second.actor.wait() == 128 + SIGKILL ? "gone" : "still there";
  } else {
    second.actor.interrupt(signal);
    outcome = outcome_of(second.actor.result());
  }
  const Site& third = holder.on_server() ? waiter : local_site();
  const int guarded = Party(third, file).try_lock();
  first.reset();
  std::string why;
  const bool clean = nothing_left(file, {local_site(), waiter, holder}, &why);
  grid.expect(version, what, outcome, signal == SIGKILL ? "gone" : "EINTR");
  grid.expect(version, what + ": a third party gets", outcome_of(guarded), "refused");
  grid.expect(version, what + ": then nothing stays locked", clean, why);
}

void show_lost_waiters(Report& report) {
  report.title("Interrupted and killed waiters");
  Grid grid(report);
  for (const std::string& version : versions()) {
    const Site client = client_site('A', version);
    for (const int signal : {SIGUSR1, SIGKILL}) {
      lose_waiter(report, grid, client, local_site(), signal, version);
      lose_waiter(report, grid, local_site(), client, signal, version);
    }
  }
}

// -- no cycle -------------------------------------------------------------------------------------

/// One program on the mount holds byte 1, another waits for byte 2, which the client holds: the
/// client, who then asks for byte 1, waits for the first alone, and closes no cycle.
void wait_across(Report& report, Grid& grid, const std::string& version, Kind holds, Kind waits) {
  const std::string what =
      "mount holds by " + short_name(holds) + ", another waits by " + short_name(waits);
  constexpr Range kFirst{1, 1};
  constexpr Range kSecond{2, 1};
  const std::string file = new_file();
  Party holder(local_site(), file);
  Party waiter(local_site(), file);
  Party client(client_site('A', version), file);
  int error = holder.actor.try_lock(holder.fd, holds, Mode::kExclusive, kFirst);
  if (error == 0) {
    error = client.actor.try_lock(client.fd, Kind::kPosix, Mode::kExclusive, kSecond);
  }
  if (error != 0) {
    report.wrong(what + ": one of the holders got " + outcome_of(error));
    return;
  }
  waiter.actor.start_lock(waiter.fd, waits, Mode::kExclusive, kSecond);
  const auto waiter_waits = waiter.actor.waits();
  client.actor.start_lock(client.fd, Kind::kPosix, Mode::kExclusive, kFirst);
  const auto client_waits = client.actor.waits();
  nap(1);  // an answer that comes late is wrong, too
  const bool early = client.actor.has_result();
  holder.unlock(holds);
  const std::string outcome = outcome_of(client.actor.result());
  client.unlock(Kind::kPosix);
  const std::string last = outcome_of(waiter.actor.result());
  grid.expect(version, what + ": the client waits", waiter_waits && client_waits && !early,
              outcome);
  grid.expect(version, what + ": then the client gets", outcome, "granted");
  grid.expect(version, what + ": then the waiter gets", last, "granted");
}

void show_no_false_cycles(Report& report) {
  report.title("Waits on both sides that are no cycle");
  Grid grid(report);
  for (const std::string& version : versions()) {
    for (const Kind holds : {Kind::kPosix, Kind::kOfd}) {
      for (const Kind waits : {Kind::kPosix, Kind::kOfd}) {
        wait_across(report, grid, version, holds, waits);
      }
    }
  }
}

// -- many at once ---------------------------------------------------------------------------------

constexpr int kMostContenders = 8;

/// Shared between the test program and its contenders.
struct Arena {
  std::atomic<int> inside;    ///< who holds the lock now, counted from 1; 0: nobody
  std::atomic<int> overlaps;  ///< times that two held it at once
  std::atomic<int> errors;    ///< the last errno of a lock call
  std::atomic<int> rounds;    ///< hand-overs so far
  std::atomic<bool> go;
  std::atomic<bool> stop;
  std::atomic<int> turns[kMostContenders];
  std::atomic<long> longest_us[kMostContenders];
};

std::unique_ptr<Arena, void (*)(Arena*)> make_arena() {
  void* memory =
      ::mmap(nullptr, sizeof(Arena), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw std::runtime_error("no memory");
  return {new (memory) Arena{}, [](Arena* arena) { ::munmap(arena, sizeof(Arena)); }};
}

/// Takes the lock again and again, holds it for a millisecond, until the arena stops. `keep`: see
/// keep_owner().
int contend(Arena& arena, int number, const std::string& path, bool keep) {
  const int fd = ::open(path.c_str(), O_RDWR);
  if (fd < 0 || (keep && !keep_owner(fd, Kind::kFlock))) {
    arena.errors = errno;
    return 1;
  }
  while (!arena.go) nap(0.001);
  while (!arena.stop) {
    const auto start = Clock::now();
    if (::flock(fd, LOCK_EX) != 0) {
      if (!arena.stop) arena.errors = errno;
      return 1;
    }
    const auto waited = static_cast<long>(seconds_since(start) * 1e6);
    if (arena.inside.exchange(number + 1) != 0) ++arena.overlaps;
    if (waited > arena.longest_us[number]) arena.longest_us[number] = waited;
    ++arena.turns[number];
    ++arena.rounds;
    nap(0.001);
    int mine = number + 1;
    arena.inside.compare_exchange_strong(mine, 0);
    ::flock(fd, LOCK_UN);
  }
  return 0;
}

/// How long everybody may take to have a turn. A client of v4.0 polls, at last every 30 s: whether
/// it ever finds the lock free is chance, of which lockfs gives it more where local programs
/// contend (fs/mirror/nfs_pollers.h), while among clients it is the kernel's alone.
struct Turns {
  std::chrono::seconds within{90};
  bool judged = true;
};

/// Contenders at these sites, until `rounds` hand-overs are done and everybody had a turn. Clients
/// keep_owner(), where `keep` says so. Returns how often two held the lock at once.
int compete(Report& report, const std::string& what, const std::vector<Site>& sites, int rounds,
            bool keep, const Turns& turns_due, std::vector<std::vector<std::string>>& rows) {
  const std::string file = new_file();
  auto arena = make_arena();
  std::vector<Process> contenders;
  for (std::size_t i = 0; i < sites.size(); ++i) {
    const bool kept = keep && !sites[i].on_server();
    contenders.push_back(sites[i].process([&arena, i, kept, path = sites[i].path(file)] {
      return contend(*arena, static_cast<int>(i), path, kept);
    }));
  }
  const auto everybody = [&] {
    for (std::size_t i = 0; i < sites.size(); ++i) {
      if (arena->turns[i] == 0) return false;
    }
    return true;
  };
  const auto start = Clock::now();
  arena->go = true;
  eventually([&] { return arena->rounds >= rounds || arena->errors != 0; },
             std::chrono::milliseconds(120000));
  const double took = seconds_since(start);
  const int done = arena->rounds;
  std::vector<std::string> row{what, std::to_string(done), duration(took)};
  std::string turns;
  std::string longest;
  for (std::size_t i = 0; i < sites.size(); ++i) {
    const std::string sep = i == 0 ? "" : ", ";
    turns += sep + sites[i].name() + " " + std::to_string(arena->turns[i]);
    longest += sep + duration(static_cast<double>(arena->longest_us[i]) / 1e6);
  }
  row.push_back(turns);
  row.push_back(longest);
  // Who polls may come late; not never.
  const bool all = eventually([&] { return everybody() || arena->errors != 0; }, turns_due.within);
  row.push_back(all ? duration(seconds_since(start)) : "not in " + duration(seconds_since(start)));
  arena->stop = true;
  for (Process& contender : contenders) {
    if (contender.wait() == -1) report.wrong(what + ": a contender hangs");
  }
  row.push_back(std::to_string(arena->overlaps));
  rows.push_back(row);
  report.count(turns_due.judged ? 3 : 2);
  if (arena->errors != 0) report.wrong(what + ": a contender got " + outcome_of(arena->errors));
  if (!all && turns_due.judged) report.wrong(what + ": somebody starves");
  std::string why;
  if (!nothing_left(file, {local_site(), sites.back()}, &why)) report.wrong(what + ": " + why);
  return arena->overlaps;
}

std::vector<std::string> service_headings() {
  return {"contenders",    "hand-overs",           "time",       "turns",
          "longest waits", "all had a turn after", "two at once"};
}

void show_service(Report& report) {
  report.title("Order of service");
  constexpr int kRounds = 1000;
  std::vector<std::vector<std::string>> rows{service_headings()};
  for (const std::string& version : versions()) {
    const Site a = client_site('A', version);
    const Site b = client_site('B', version);
    const bool polls = version == "4.0";
    struct Contest {
      std::string who;
      std::vector<Site> sites;
      Turns turns;
    };
    const Contest contests[] = {{"2 local, 2 clients",
                                 {local_site(), local_site(), a, b},
                                 {std::chrono::seconds(polls ? 240 : 90), true}},
                                {"2 on client A, 2 on client B",
                                 {a, a, b, b},
                                 {std::chrono::seconds(polls ? 10 : 90), !polls}}};
    for (const Contest& contest : contests) {
      const std::string what = "v" + version + ": " + contest.who;
      if (compete(report, what, contest.sites, kRounds, frees_owners(version), contest.turns,
                  rows) != 0) {
        report.wrong(what + ": two held the lock at once");
      }
    }
  }
  report.table(rows);
}

/// How often the kernel's server drops the lock of an owner whose state it was just told to free,
/// see keep_owner(). Clients alone: lockfs has no lock on the file.
void show_freed_owners(Report& report) {
  report.title("Owners that unlock and lock again at once, as the kernel's server serves them");
  report.text("lockfs takes no part here. Any number in the last column is the server's.\n");
  std::vector<std::vector<std::string>> rows{service_headings()};
  for (const std::string& version : versions()) {
    if (!frees_owners(version)) continue;
    const Site a = client_site('A', version);
    const Site b = client_site('B', version);
    compete(report, "v" + version + ": clients A and B", {a, b}, scaled(20000), false, {}, rows);
  }
  report.table(rows);
}

}  // namespace

int main() {
  return run([](Report& report) {
    show_hand_over(report);
    show_lost_waiters(report);
    show_no_false_cycles(report);
    show_service(report);
    show_freed_owners(report);
  });
}
