/// What goes wrong while files are locked: clients cut off, the NFS server restarted, lockfs
/// killed, files removed or replaced, a source that turns read-only or full. For each the outcome
/// on both sides is printed; always, no two owners hold conflicting locks and nothing stays locked.

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>
#include <stdexcept>
#include <vector>

#include "tests/nfs/laboratory.h"

namespace {

using namespace lockfs::test;
using namespace lockfs::test::nfs;
using std::chrono::seconds;

/// Longer than any lease, poll (30 s) or retry of a client.
constexpr auto kPatience = seconds(90);

void wire_of_a(const std::string& state) { must("ip link set wire_a " + state); }

/// Ends with everybody able to lock the files.
void expect_clean(Grid& grid, const std::string& version, const std::string& what,
                  const std::vector<std::string>& files, const std::vector<Site>& sites) {
  std::string why;
  bool clean = true;
  for (const std::string& file : files) clean = clean && nothing_left(file, sites, &why);
  grid.expect(version, what + "nothing stays locked", clean, why);
}

/// Prints, when it goes, what lockfs has warned of meanwhile.
class Logged {
 public:
  explicit Logged(Report& report) : report_(report), before_(warnings().size()) {}
  Logged(const Logged&) = delete;
  Logged& operator=(const Logged&) = delete;
  ~Logged() {
    const std::vector<std::string> now = warnings();
    report_.note("warnings and errors in the log of lockfs", std::to_string(now.size() - before_));
    for (std::size_t i = before_; i < now.size() && i < before_ + 8; ++i) {
      report_.text("  - `" + now[i] + "`");
    }
  }

 private:
  static std::vector<std::string> warnings() {
    std::ifstream log(must("echo -n /lab/out/$(hostname).lockfs.log"));
    std::vector<std::string> result;
    for (std::string line; std::getline(log, line);) {
      if (line.find("warning") != std::string::npos || line.find("error") != std::string::npos) {
        result.push_back(line);
      }
    }
    return result;
  }

  Report& report_;
  std::size_t before_;
};

// -- a client's network ---------------------------------------------------------------------------

/// Client A of one version, cut off with one file locked and another waited for.
struct CutOff {
  std::string version;
  std::string held = new_file();
  std::string awaited = new_file();
  Party holder;        ///< client A on `held`
  Party local_waiter;  ///< for `held`
  Party local_holder;  ///< of `awaited`
  Party waiter;        ///< client A for `awaited`

  explicit CutOff(std::string name)
      : version(std::move(name)),
        holder(client_site('A', version), held, O_RDWR | O_SYNC),
        local_waiter(local_site(), held),
        local_holder(local_site(), awaited),
        waiter(client_site('A', version), awaited) {
    if (holder.try_lock() != 0 || local_holder.try_lock() != 0) {
      throw std::runtime_error("v" + version + ": cannot lock a new file");
    }
    local_waiter.start_lock();
    waiter.start_lock();
    if (!local_waiter.actor.waits() || !waiter.actor.waits()) {
      throw std::runtime_error("v" + version + ": a request for a locked file does not wait");
    }
  }
};

/// Where a client's lock is lost, its descriptor (O_SYNC) no longer writes.
std::string write_outcome(Party& party) {
  const auto written = party.actor.write(party.fd, "x", 0);
  return written == 1 ? "writes" : outcome_of(static_cast<int>(-written));
}

void show_cut(Report& report) {
  report.title("Client A cut off, holding one lock and waiting for another; then healed");
  report.text("Leases end after 10 s here. NFSv3 has none: lockd keeps a silent client's locks.\n");
  const Logged logged(report);
  Grid grid(report);
  std::vector<std::unique_ptr<CutOff>> cuts;
  for (const std::string& version : versions()) cuts.push_back(std::make_unique<CutOff>(version));
  wire_of_a("down");
  const auto start = Clock::now();
  for (auto& cut : cuts) {
    const std::string& v = cut->version;
    Party other(client_site('B', cut->version), cut->held);
    grid.expect(v, "just after the cut client B gets", outcome_of(other.try_lock()), "refused");
    grid.expect(v, "the local program still waits", !cut->local_waiter.actor.has_result());
    cut->local_holder.unlock();
  }
  for (auto& cut : cuts) {
    const std::string& v = cut->version;
    if (cut->version == "3") continue;
    const bool granted =
        eventually([&] { return cut->local_waiter.actor.has_result(); }, kPatience);
    grid.expect(v, "the local program gets the lock when the lease has run out",
                granted ? outcome_of(cut->local_waiter.actor.result()) : "nothing", "granted");
    grid.note(v, "that was after", duration(seconds_since(start)));
    Party other(local_site(), cut->awaited);
    grid.expect(v, "what client A waited for, another local program gets",
                outcome_of(other.try_lock()), "granted");
  }
  // Longer than the leases, so that v3 is seen to have none.
  eventually([&] { return seconds_since(start) > 15; }, seconds(20));
  for (auto& cut : cuts) {
    const std::string& v = cut->version;
    if (v != "3") continue;
    grid.expect(v, "after the time of a lease the local program still waits",
                !cut->local_waiter.actor.has_result());
    Party other(local_site(), cut->awaited);
    grid.expect(v, "lockd has given the dead client what it waited for; others get",
                outcome_of(other.try_lock()), "refused");
  }
  wire_of_a("up");
  const auto healed = Clock::now();
  for (auto& cut : cuts) {
    const std::string& v = cut->version;
    const bool back = eventually([&] { return cut->waiter.actor.has_result(); }, kPatience);
    grid.expect(v, "healed, the client's wait is granted",
                back ? outcome_of(cut->waiter.actor.result()) : "nothing", "granted");
    grid.note(v, "that was, after the healing, after", duration(seconds_since(healed)));
    Party local(local_site(), cut->awaited);
    grid.expect(v, "and a local program then gets", outcome_of(local.try_lock()), "refused");
    cut->waiter.unlock();
    if (cut->version == "3") {
      grid.expect(v, "the client still has what it held; it writes", write_outcome(cut->holder),
                  "writes");
      cut->holder.unlock();
      grid.expect(v, "unlocked, the local program gets the lock",
                  outcome_of(cut->local_waiter.actor.result()), "granted");
    } else {
      Party asks(client_site('A', cut->version), cut->held);
      grid.expect(v, "the client asks again for what it lost", outcome_of(asks.try_lock()),
                  "refused");
      grid.expect(v, "it cannot write through the descriptor that lost the lock",
                  write_outcome(cut->holder), "EIO");
    }
    cut->local_waiter.unlock();
    cut->holder.actor.exit();
    expect_clean(grid, v, "", {cut->held, cut->awaited},
                 {local_site(), client_site('A', cut->version)});
  }
}

// -- the NFS server -------------------------------------------------------------------------------

void restart_nfsd() { must("rpc.nfsd 0; rpc.nfsd -G 10 -L 10 8; sm-notify -f -v 10.0.0.1"); }

bool in_grace() {
  for (const char* path : {"/proc/fs/nfsd/v4_end_grace", "/proc/fs/lockd/nlm_end_grace"}) {
    std::ifstream file(path);
    if (file.get() == 'N') return true;
  }
  return false;
}

struct Restarted {
  std::string version;
  std::string clients_file = new_file();
  std::string locals_file = new_file();
  Party client_holder;
  Party local_holder;
  Party client_waiter;

  explicit Restarted(std::string name)
      : version(std::move(name)),
        client_holder(client_site('A', version), clients_file, O_RDWR | O_SYNC),
        local_holder(local_site(), locals_file),
        client_waiter(client_site('B', version), locals_file) {
    if (client_holder.try_lock() != 0 || local_holder.try_lock() != 0) {
      throw std::runtime_error("v" + version + ": cannot lock a new file");
    }
    client_waiter.start_lock();
    if (!client_waiter.actor.waits()) throw std::runtime_error("v" + version + ": does not wait");
  }
};

/// A local program that asks once, without waiting for the lock.
Process asks_locally(const std::string& file) {
  return local_site().process([path = local_site().path(file)] {
    const int fd = ::open(path.c_str(), O_RDWR);
    return fd >= 0 && ::flock(fd, LOCK_EX | LOCK_NB) == 0 ? 0 : errno;
  });
}

/// One that asks until it gets the lock.
Process polls_locally(const std::string& file) {
  return local_site().process([path = local_site().path(file)] {
    const int fd = ::open(path.c_str(), O_RDWR);
    while (::flock(fd, LOCK_EX | LOCK_NB) != 0) {
      if (errno != EAGAIN) return errno;
      ::usleep(1000);
    }
    return 0;
  });
}

void show_nfsd_restart(Report& report) {
  report.title("The NFS server restarted, with its grace period");
  const Logged logged(report);
  Grid grid(report);
  std::vector<std::unique_ptr<Restarted>> all;
  for (const std::string& version : versions()) all.push_back(std::make_unique<Restarted>(version));
  restart_nfsd();
  report.expect("the server is in its grace period", in_grace());
  // Before the clients had their time to reclaim.
  std::vector<Process> early;
  early.reserve(all.size());
  for (auto& one : all) early.push_back(asks_locally(one->clients_file));
  const bool over = eventually([] { return !in_grace(); }, kPatience);
  report.expect("the grace period ends", over);
  for (std::size_t i = 0; i < all.size(); ++i) {
    const auto& one = all[i];
    const std::string& v = one->version;
    grid.expect(v, "the client's lock was reclaimed: a local program that asked before that gets",
                outcome_of(early[i].wait()), "refused");
    Party local(local_site(), one->clients_file);
    grid.expect(v, "one that asks now", outcome_of(local.try_lock()), "refused");
    grid.expect(v, "the client writes on", write_outcome(one->client_holder), "writes");
    Party client(client_site('A', one->version), one->locals_file);
    grid.expect(v, "the local program's lock held throughout: a client gets",
                outcome_of(client.try_lock()), "refused");
    grid.expect(v, "client B still waits for it", !one->client_waiter.actor.has_result());
    one->local_holder.unlock();
    const bool granted =
        eventually([&] { return one->client_waiter.actor.has_result(); }, kPatience);
    grid.expect(v, "let go, client B gets it",
                granted ? outcome_of(one->client_waiter.actor.result()) : "nothing", "granted");
    grid.expect(v, "and the local program then", outcome_of(one->local_holder.try_lock()),
                "refused");
    one->client_waiter.unlock();
    one->client_holder.unlock();
    expect_clean(grid, v, "", {one->clients_file, one->locals_file},
                 {local_site(), client_site('B', one->version)});
  }
}

/// Local programs wait for, and ask for, what clients hold, while the server is away: the kernel
/// drops the locks of clients when nfsd ends.
void show_nfsd_restart_waited(Report& report) {
  report.title("The NFS server restarted while local programs want clients' locks");
  const Logged logged(report);
  Grid grid(report);
  struct Case {
    std::string version;
    std::string file = new_file();
    Party client;
    Party local;
    std::unique_ptr<Process> poller;
    explicit Case(const std::string& name)
        : version(name),
          client(client_site('A', name), file, O_RDWR | O_SYNC),
          local(local_site(), file) {
      if (client.try_lock() != 0) throw std::runtime_error("cannot lock a new file");
      poller = std::make_unique<Process>(polls_locally(file));
      local.start_lock();
      if (!local.actor.waits()) throw std::runtime_error("v" + name + ": does not wait");
    }
    [[nodiscard]] bool polls_on() const {
      siginfo_t info{};
      ::waitid(P_PID, static_cast<id_t>(poller->pid()), &info, WEXITED | WNOHANG | WNOWAIT);
      return info.si_pid == 0;
    }
  };
  std::vector<std::unique_ptr<Case>> all;
  for (const std::string& version : versions()) all.push_back(std::make_unique<Case>(version));
  restart_nfsd();
  eventually([] { return !in_grace(); }, kPatience);
  for (auto& one : all) {
    const std::string& v = one->version;
    grid.expect(v, "the client that held it writes on", write_outcome(one->client), "writes");
    grid.expect(v, "the local program that waited waits on", !one->local.actor.has_result());
    grid.expect(v, "the local program that polled polls on", one->polls_on());
    Party other(client_site('B', one->version), one->file);
    grid.expect(v, "a third party gets", outcome_of(other.try_lock()), "refused");
    one->client.unlock();
    // Either may be first; the one that polls lets go at once.
    grid.expect(v, "the client lets go, the local program that waited gets",
                outcome_of(one->local.actor.result()), "granted");
    one->local.unlock();
    grid.expect(v, "and the one that polled", outcome_of(one->poller->wait()), "granted");
    one->client.actor.exit();
    expect_clean(grid, v, "", {one->file}, {local_site(), client_site('A', one->version)});
  }
}

// -- lockfs ---------------------------------------------------------------------------------------

/// All of its processes, so that none goes on for another.
void kill_lockfs() {
  must("pkill -STOP -x lockfs && pkill -KILL -x lockfs");
  must("while pgrep -x lockfs >/dev/null; do sleep 0.05; done");
}

void restart_lockfs() {
  must(
      "umount -l /export; setsid \"$LAB_BIN/lockfs\" /data /export -f $LAB_LOCKFS_OPTIONS "
      ">>/lab/out/$(hostname).lockfs.log 2>&1 </dev/null & "
      "until mountpoint -q /export; do sleep 0.05; done");
}

/// A client holds one file and a local program waits for it; with the other it is the other way
/// round.
struct HeldBothWays {
  std::string version;
  std::string clients_file = new_file();
  std::string locals_file = new_file();
  Party client_holder;
  Party local_waiter;
  Party local_holder;
  Party client_waiter;
  explicit HeldBothWays(const std::string& name)
      : version(name),
        client_holder(client_site('A', name), clients_file),
        local_waiter(local_site(), clients_file),
        local_holder(local_site(), locals_file),
        client_waiter(client_site('B', name), locals_file) {
    if (client_holder.try_lock() != 0 || local_holder.try_lock() != 0) {
      throw std::runtime_error("cannot lock a new file");
    }
    local_waiter.start_lock();
    client_waiter.start_lock();
    if (!local_waiter.actor.waits() || !client_waiter.actor.waits()) {
      throw std::runtime_error("v" + name + ": does not wait");
    }
  }
};

std::vector<std::unique_ptr<HeldBothWays>> held_both_ways() {
  std::vector<std::unique_ptr<HeldBothWays>> all;
  for (const std::string& version : versions()) {
    all.push_back(std::make_unique<HeldBothWays>(version));
  }
  return all;
}

/// The process that serves.
std::string daemon_pid() {
  return must("\"$LAB_BIN/lockfsctl\" ping /export | sed -n 's/.*(pid \\([0-9]*\\)).*/\\1/p'");
}

void show_daemon_killed(Report& report) {
  report.title("lockfs's daemon killed (SIGKILL), time and again: another goes on");
  const Logged logged(report);
  Grid grid(report);
  constexpr int kDeaths = 10;
  const auto kill_daemon = [] {
    const std::string old = daemon_pid();
    must("kill -KILL " + old);
    if (!eventually([&] { return daemon_pid() != old; }, kPatience)) {
      throw std::runtime_error("no other daemon came");
    }
  };
  auto all = held_both_ways();
  for (int i = 0; i < kDeaths; ++i) kill_daemon();
  for (auto& one : all) {
    const std::string& v = one->version;
    grid.expect(v, "the local program that waited waits on", !one->local_waiter.actor.has_result());
    grid.expect(v, "the client that waited waits on", !one->client_waiter.actor.has_result());
    Party local(local_site(), one->clients_file);
    grid.expect(v, "another local program gets", outcome_of(local.try_lock()), "refused");
    Party client(client_site('A', v), one->locals_file);
    grid.expect(v, "another client gets", outcome_of(client.try_lock()), "refused");
  }
  kill_daemon();
  for (auto& one : all) {
    const std::string& v = one->version;
    one->client_holder.unlock();
    grid.expect(v, "the client lets go, the local program that waited gets",
                outcome_of(one->local_waiter.actor.result()), "granted");
    one->local_holder.unlock();
    grid.expect(v, "the local program lets go, the client that waited gets",
                outcome_of(one->client_waiter.actor.result()), "granted");
    kill_daemon();
    Party local(local_site(), one->locals_file);
    grid.expect(v, "what the client got is to others", outcome_of(local.try_lock()), "refused");
    Party client(client_site('A', v), one->clients_file);
    grid.expect(v, "what the local program got is to others", outcome_of(client.try_lock()),
                "refused");
    one->local_waiter.unlock();
    one->client_waiter.unlock();
    expect_clean(grid, v, "", {one->clients_file, one->locals_file},
                 {local_site(), client_site('A', v)});
  }
}

void show_lockfs_killed(Report& report) {
  report.title("lockfs killed (SIGKILL) and started again");
  const Logged logged(report);
  Grid grid(report);
  auto all = held_both_ways();
  kill_lockfs();
  for (auto& one : all) {
    const std::string& v = one->version;
    grid.expect(v, "the local program that waited gets",
                outcome_of(one->local_waiter.actor.result()), "ECONNABORTED");
    grid.expect(v, "the local holder's next call gets", outcome_of(one->local_holder.try_lock()),
                "ENOTCONN");
    const bool granted =
        eventually([&] { return one->client_waiter.actor.has_result(); }, kPatience);
    grid.expect(v, "the client that waited gets what the local program held",
                granted ? outcome_of(one->client_waiter.actor.result()) : "nothing", "granted");
  }
  restart_lockfs();
  for (auto& one : all) {
    const std::string& v = one->version;
    Party first(local_site(), one->clients_file);
    Party second(local_site(), one->locals_file);
    grid.expect(v, "after the restart a local program asks for the client's old lock",
                outcome_of(first.try_lock()), "refused");
    grid.expect(v, "and for its new one", outcome_of(second.try_lock()), "refused");
    one->client_holder.unlock();
    one->client_waiter.unlock();
    expect_clean(grid, v, "", {one->clients_file, one->locals_file},
                 {local_site(), client_site('A', one->version)});
  }
}

// -- names ----------------------------------------------------------------------------------------

std::string lock_outcome(const Site& site, const std::string& file) {
  Actor actor = site.actor();
  const int fd = actor.open(site.path(file), O_RDWR);
  if (fd < 0) return outcome_of(-fd);
  return outcome_of(actor.try_lock(fd, Kind::kFlock, Mode::kExclusive));
}

/// `holder` has the file locked; `other` removes, renames or replaces it.
void change_names(Grid& grid, const Site& holder, const Site& other, const std::string& v) {
  const std::string what = holder.name() + " holds, " + other.name();
  {
    const std::string file = new_file();
    Party party(holder, file);
    party.try_lock();
    grid.expect(v, what + " renames: the new name is",
                other.shell("mv " + file + " " + file + ".new").status == 0
                    ? lock_outcome(other, file + ".new")
                    : "not there",
                "refused");
    grid.expect(v, what + " renames: the holder unlocks", outcome_of(party.unlock()), "granted");
    expect_clean(grid, v, what + " renamed: ", {file + ".new"}, {local_site(), other});
  }
  {
    const std::string file = new_file("old");
    Party party(holder, file);
    party.try_lock();
    const auto moved = other.shell("echo new >" + file + ".tmp && chmod 666 " + file +
                                   ".tmp && mv " + file + ".tmp " + file);
    grid.expect(v, what + " replaces: the new file is",
                moved.status == 0 ? lock_outcome(other, file) : moved.output, "granted");
    // The old file is gone from the server; an NFSv3 client only has a handle of it.
    grid.note(v, what + " replaces: the holder reads", party.actor.read(party.fd, 3, 0));
    grid.note(v, what + " replaces: the holder unlocks", outcome_of(party.unlock()));
    party.actor.exit();
    expect_clean(grid, v, what + " replaced: ", {file}, {local_site(), other});
  }
  {
    const std::string file = new_file("old");
    Party party(holder, file);
    party.try_lock();
    const auto removed = other.shell("rm " + file);
    grid.expect(v, what + " removes it", removed.status == 0, removed.output);
    grid.note(v, what + " removes: the holder reads", party.actor.read(party.fd, 3, 0));
    grid.note(v, what + " removes: the holder unlocks", outcome_of(party.unlock()));
    party.actor.exit();
    must("install -m 666 /dev/null /data/" + file);
    expect_clean(grid, v, what + " removed, made anew: ", {file}, {local_site(), other});
  }
}

void show_names(Report& report) {
  report.title("Files renamed, replaced and removed while locked");
  const Logged logged(report);
  Grid grid(report);
  for (const std::string& version : versions()) {
    const Site client = client_site('A', version);
    change_names(grid, local_site(), client, version);
    change_names(grid, client, local_site(), version);
  }
}

// -- the source -----------------------------------------------------------------------------------

std::string open_and_lock(const Site& site, const std::string& file, int flags, Mode mode) {
  Actor actor = site.actor();
  const int fd = actor.open(site.path(file), flags);
  if (fd < 0) return std::string("open: ") + ::strerrorname_np(-fd);
  return outcome_of(actor.try_lock(fd, Kind::kFlock, mode));
}

void show_read_only(Report& report) {
  report.title("/data turns read-only under locks");
  const Logged logged(report);
  Grid grid(report);
  for (const std::string& version : versions()) {
    const std::string& v = version;
    const Site client = client_site('A', version);
    const std::string one = new_file();
    const std::string two = new_file();
    const std::string free = new_file();
    Party local(local_site(), one);
    Party remote(client, two);
    local.try_lock();
    remote.try_lock();
    must(
        "echo u >/proc/sysrq-trigger; until grep -q ' /data ext4 ro' /proc/mounts; do sleep 0.05; "
        "done");
    grid.expect(v, "the client asks for what the local program holds",
                open_and_lock(client, one, O_RDONLY, Mode::kShared), "refused");
    grid.expect(v, "the local program asks for what the client holds",
                open_and_lock(local_site(), two, O_RDONLY, Mode::kShared), "refused");
    grid.expect(v, "local, shared, on a free file",
                open_and_lock(local_site(), free, O_RDONLY, Mode::kShared), "granted");
    grid.expect(v, "client, shared, on a free file",
                open_and_lock(client, free, O_RDONLY, Mode::kShared), "granted");
    grid.expect(v, "local, opened for writing",
                open_and_lock(local_site(), free, O_RDWR, Mode::kExclusive), "open: EROFS");
    grid.note(v, "client, opened for writing",
              open_and_lock(client, free, O_RDWR, Mode::kExclusive));
    grid.expect(v, "local unlock", outcome_of(local.unlock()), "granted");
    grid.expect(v, "client unlock", outcome_of(remote.unlock()), "granted");
    must("mount -o remount,rw /data");
    // Not client A: an NFSv3 client remembers for a minute that it may not write.
    expect_clean(grid, v, "", {one, two}, {local_site(), client_site('B', version)});
  }
}

void show_full(Report& report) {
  report.title("/data full");
  const Logged logged(report);
  Grid grid(report);
  std::vector<std::string> files;
  for (std::size_t i = 0; i < versions().size(); ++i) files.push_back(new_file());
  must(
      "dd if=/dev/zero of=/data/filler bs=1M 2>/dev/null; dd if=/dev/zero of=/data/filler2 bs=1k "
      "2>/dev/null; ! echo x >/data/filler3 2>/dev/null");
  std::size_t i = 0;
  for (const std::string& version : versions()) {
    const std::string& v = version;
    const Site client = client_site('A', version);
    const std::string& file = files[i++];
    Party local(local_site(), file);
    Party remote(client, file);
    grid.expect(v, "local locks", outcome_of(local.try_lock()), "granted");
    grid.expect(v, "local writes", write_outcome(local), "ENOSPC");
    grid.expect(v, "the client asks", outcome_of(remote.try_lock()), "refused");
    local.unlock();
    grid.expect(v, "the client locks", outcome_of(remote.try_lock()), "granted");
    grid.expect(v, "local asks", outcome_of(local.try_lock()), "refused");
    remote.unlock();
    expect_clean(grid, v, "", {file}, {local_site(), client});
  }
  must("rm -f /data/filler*");
}

}  // namespace

int main() {
  return run([](Report& report) {
    // First: ext4 does not become writable again while deleted files are open.
    show_read_only(report);
    show_full(report);
    show_names(report);
    show_daemon_killed(report);
    show_lockfs_killed(report);
    show_nfsd_restart(report);
    show_nfsd_restart_waited(report);
    show_cut(report);
  });
}
