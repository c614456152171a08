/// lockfs on top of NFS client mounts: each client has lockfs from its NFS mount to /over. Local
/// programs of both machines and the server share one lock domain, and a server that is out of
/// reach holds up only those who need it.

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <fstream>
#include <stdexcept>

#include "tests/nfs/laboratory.h"

namespace {

using namespace lockfs::test;
using namespace lockfs::test::nfs;
using std::chrono::seconds;

/// Longer than a client takes to find its server again.
constexpr auto kPatience = seconds(120);

/// lockfs on a client, from `source` there to /over; the NFS mount is at `below` in it.
class Over {
 public:
  Over(char client, const std::string& version) : Over(client, version, "/mnt/" + version, "") {}
  Over(char client, const std::string& version, const std::string& source, const std::string& below)
      : nfs_(client_site(client, version)),
        site_(std::string("over ") + client, "/over" + below, nfs_.process_id()),
        log_(must("echo -n /lab/out/$(hostname)") + "." + client + ".log") {
    const ProgramResult result =
        nfs_.shell("mkdir -p /over && (setsid $LAB_BIN/lockfs " + source + " /over -f >" + log_ +
                   " 2>&1 </dev/null & echo $! >/run/over.pid) && "
                   "for n in $(seq 600); do mountpoint -q /over && exit 0; sleep 0.1; done; cat " +
                   log_ + "; exit 1");
    if (result.status != 0) throw std::runtime_error("lockfs over NFS: " + result.output);
    pid_ = std::atoi(nfs_.shell("cat /run/over.pid").output.c_str());
  }
  [[nodiscard]] const Site& site() const { return site_; }
  [[nodiscard]] const Site& nfs() const { return nfs_; }
  [[nodiscard]] pid_t pid() const { return pid_; }
  [[nodiscard]] bool gone() const { return ::kill(pid_, 0) != 0; }
  /// Whether lockfs said this, so many times.
  [[nodiscard]] bool said(const std::string& what, int times = 1) const {
    return eventually([&] {
      std::ifstream log(log_);
      int found = 0;
      for (std::string line; std::getline(log, line);) {
        if (line.find(what) != std::string::npos) ++found;
      }
      return found >= times;
    });
  }

  /// SIGTERM; how long the end took in seconds, negative if it did not come within a minute.
  double end() {
    const auto start = Clock::now();
    ::kill(pid_, SIGTERM);
    const bool ended = eventually([&] { return gone(); }, seconds(60));
    const double took = seconds_since(start);
    if (!ended) ::kill(pid_, SIGKILL);
    [[maybe_unused]] const ProgramResult ignored = nfs_.shell("umount -l /over 2>/dev/null");
    return ended ? took : -1;
  }

 private:
  Site nfs_;
  Site site_;
  std::string log_;
  pid_t pid_ = 0;
};

void show_domain(Report& report, const std::string& v, const Over& a, const Over& b) {
  report.title("v" + v + ": one lock domain");
  report.text("Exclusive locks, each kind against each; the outcome of the second.\n");
  const std::vector<Site> sites{a.site(), a.nfs(), b.site(), data_site()};
  std::vector<std::vector<std::string>> rows{{"holder"}};
  for (const Site& site : sites) rows[0].push_back(site.name() + " asks");
  for (const Site& first : sites) {
    rows.push_back({first.name()});
    for (const Site& second : sites) {
      std::string outcomes;
      for (const Kind held : kKinds) {
        for (const Kind asked : kKinds) {
          if (first.name() == "data" && held == Kind::kFlock) continue;
          if (second.name() == "data" && asked == Kind::kFlock) continue;
          const std::string file = new_file();
          Party holder(first, file);
          Party asking(second, file);
          const int error = holder.try_lock(held);
          const std::string outcome =
              error != 0 ? "holder " + outcome_of(error) : outcome_of(asking.try_lock(asked));
          if (outcomes.find(outcome) == std::string::npos) {
            outcomes += (outcomes.empty() ? "" : ", ") + outcome;
          }
        }
      }
      rows.back().push_back(outcomes);
      report.count(1);
      if (outcomes != "refused") {
        report.wrong(first.name() + " holds, " + second.name() + " asks: " + outcomes);
      }
    }
  }
  report.table(rows);
  const std::string file = new_file();
  for (const auto& [holds, waits] :
       {std::pair{a.site(), b.site()}, std::pair{b.site(), a.site()}}) {
    Party holder(holds, file);
    Party waiter(waits, file);
    holder.try_lock();
    waiter.start_lock();
    const bool waiting = static_cast<bool>(waiter.actor.waits());
    holder.unlock();
    report.expect(waits.name() + " waits for " + holds.name(),
                  waiting ? outcome_of(waiter.actor.result()) : "does not wait", "granted");
  }
  std::string why;
  const bool clean = nothing_left(file, {a.site(), b.site()}, &why);
  report.expect("nothing stays locked", clean, why);
}

void wire_of_a(const std::string& state) { must("ip link set wire_a " + state); }

/// A process that has the file open and stops; continued, it asks for an OFD lock without waiting
/// and leaves with the errno.
Process asks_later(const Site& site, const std::string& file) {
  Process process = site.process([path = site.path(file)] {
    struct sigaction action {};
    action.sa_handler = [](int) {};
    ::sigaction(SIGUSR1, &action, nullptr);
    const int fd = ::open(path.c_str(), O_RDWR);
    ::raise(SIGSTOP);
    struct flock request {};
    request.l_type = F_WRLCK;
    return ::fcntl(fd, F_OFD_SETLK, &request) == 0 ? 0 : errno;
  });
  siginfo_t info{};
  ::waitid(P_PID, static_cast<id_t>(process.pid()), &info, WSTOPPED);
  return process;
}

/// Sends it signals until it has left; its status, negative if it does not.
int interrupted(Process& process) {
  const bool left = eventually([&] {
    process.kill(SIGUSR1);
    siginfo_t info{};
    return ::waitid(P_PID, static_cast<id_t>(process.pid()), &info, WEXITED | WNOHANG | WNOWAIT) ==
               0 &&
           info.si_pid != 0;
  });
  return left ? process.wait() : -1;
}

/// The source of lockfs has a local folder beside the NFS mounts.
void show_dead_server(Grid& grid, const std::string& v) {
  const std::string asked = new_file("text");
  const std::string held = new_file("text");
  const Site nfs = client_site('A', v);
  const Site local("local", "/over/local", nfs.process_id());
  if (nfs.shell("mkdir -p /mnt/local; mountpoint -q /mnt/local || mount -t tmpfs tmpfs /mnt/local;"
                "echo text >/mnt/local/file")
          .status != 0) {
    throw std::runtime_error("no local folder beside the NFS mounts");
  }
  Over over('A', v, "/mnt", "/" + v);
  const Site& site = over.site();
  {
    Party waits(site, asked);
    Party killed(site, asked);
    Party stays(site, asked);
    Party holder(site, held);
    Party near(local, "file");
    Process without_wait = asks_later(site, asked);
    waits.actor.handle_signal(SIGUSR1);
    grid.expect(v, "a lock before", outcome_of(holder.try_lock()), "granted");
    wire_of_a("down");
    waits.start_lock();
    killed.start_lock(Kind::kPosix);
    stays.start_lock(Kind::kOfd);
    without_wait.kill(SIGCONT);
    grid.expect(v, "cut off: lockfs says so", over.said("has not answered"));
    [[maybe_unused]] const ProgramResult stuck = local.shell(
        "for n in $(seq 40); do stat " + site.path("none") + "$n & done >/dev/null 2>&1");
    const auto start = Clock::now();
    grid.expect(v, "another place of the mount: a lock", outcome_of(near.try_lock()), "granted");
    grid.expect(v, "another place of the mount: a file made and read",
                local.shell("printf new >made && cat made").output, "new");
    grid.note(v, "both, with 40 programs stuck", duration(seconds_since(start)));
    waits.actor.interrupt(SIGUSR1);
    const bool ended = eventually([&] { return waits.actor.has_result(); });
    grid.expect(v, "a waiting program is interrupted",
                ended ? outcome_of(waits.actor.result()) : "no", "EINTR");
    killed.actor.kill(SIGKILL);
    grid.expect(v, "one is killed", std::to_string(killed.actor.wait()),
                std::to_string(128 + SIGKILL));
    grid.expect(v, "one that asks without waiting is interrupted",
                outcome_of(interrupted(without_wait)), "EINTR");
    grid.expect(v, "an unlock", outcome_of(holder.unlock()), "granted");
    wire_of_a("up");
    const auto healed = Clock::now();
    const bool got = eventually([&] { return stays.actor.has_result(); }, kPatience);
    grid.expect(v, "healed: the one that still waits gets",
                got ? outcome_of(stays.actor.result()) : "nothing", "granted");
    grid.note(v, "that was, after the healing, after", duration(seconds_since(healed)));
    Party other(client_site('B', v), asked);
    grid.expect(v, "client B asks for the same", outcome_of(other.try_lock()), "refused");
    stays.unlock(Kind::kOfd);
    std::string why;
    const std::vector<Site> all{site, client_site('B', v), local_site()};
    bool clean = nothing_left(asked, all, &why);
    clean = nothing_left(held, all, &why) && clean;
    grid.expect(v, "nothing stays locked", clean, why);
  }
  Party waits(site, asked);
  wire_of_a("down");
  waits.start_lock();
  grid.expect(v, "cut off again: lockfs says so", over.said("has not answered", 2));
  const auto start = Clock::now();
  ::kill(over.pid(), SIGTERM);
  const Site machine("client A", "/", nfs.process_id());
  const bool unmounted =
      eventually([&] { return machine.shell("grep -q ' /over ' /proc/mounts").status == 1; });
  grid.expect(v, "SIGTERM: the mount is gone", unmounted);
  grid.note(v, "after", duration(seconds_since(start)));
  const bool told = eventually([&] { return waits.actor.has_result(); });
  grid.expect(v, "the program that waited is told",
              told ? outcome_of(waits.actor.result()) : "nothing", "ECONNABORTED");
  grid.note(v, "the process is gone", over.gone() ? "yes" : "no");
  // What an administrator can do; the kernel decides what comes of it.
  const std::string from =
      machine.shell("sed -n 's|^\\([^ ]*\\) /mnt/" + v + " nfs.*|\\1|p' /proc/mounts").output;
  grid.note(v, "umount -f of the NFS mount",
            machine.shell("timeout 20 umount -f /mnt/" + v).status == 0 ? "done" : "fails");
  grid.note(v, "then the process is gone",
            eventually([&] { return over.gone(); }, seconds(10)) ? "yes" : "no");
  wire_of_a("up");
  grid.expect(v, "healed: the process is gone", eventually([&] { return over.gone(); }, kPatience));
  [[maybe_unused]] const ProgramResult mounted =
      machine.shell("mountpoint -q /mnt/" + v + " || mount -t nfs -o vers=" + v + " " +
                    from.substr(0, from.find('\n')) + " /mnt/" + v);
  std::string why;
  const bool clean = nothing_left(asked, {client_site('A', v), local_site()}, &why);
  grid.expect(v, "nothing stays locked after that", clean, why);
}

}  // namespace

int main() {
  return run([](Report& report) {
    for (const std::string& version : versions()) {
      Over a('A', version);
      Over b('B', version);
      show_domain(report, version, a, b);
      report.expect("SIGTERM ends one", a.end() >= 0);
      report.expect("SIGTERM ends the other one", b.end() >= 0);
    }
    report.title("lockfs over NFS mounts whose server is out of reach");
    Grid grid(report);
    for (const std::string& version : versions()) show_dead_server(grid, version);
  });
}
