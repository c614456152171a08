/// lockfs on top of NFS client mounts: each client has lockfs from its NFS mount to /over. Local
/// programs of both machines and the server share one lock domain.

#include <signal.h>

#include <cstdlib>
#include <stdexcept>

#include "tests/nfs/laboratory.h"

namespace {

using namespace lockfs::test;
using namespace lockfs::test::nfs;
using std::chrono::seconds;

/// lockfs on a client, from /mnt/VERSION to /over.
class Over {
 public:
  Over(char client, const std::string& version)
      : nfs_(client_site(client, version)),
        site_(std::string("over ") + client, "/over", nfs_.process_id()) {
    const std::string log = must("echo -n /lab/out/$(hostname)") + "." + client + ".log";
    const ProgramResult result = nfs_.shell(
        "mkdir -p /over && (setsid $LAB_BIN/lockfs /mnt/" + version + " /over -f >" + log +
        " 2>&1 </dev/null & echo $! >/run/over.pid) && "
        "for n in $(seq 600); do mountpoint -q /over && exit 0; sleep 0.1; done; cat " +
        log + "; exit 1");
    if (result.status != 0) throw std::runtime_error("lockfs over NFS: " + result.output);
    pid_ = std::atoi(nfs_.shell("cat /run/over.pid").output.c_str());
  }
  [[nodiscard]] const Site& site() const { return site_; }
  [[nodiscard]] const Site& nfs() const { return nfs_; }
  [[nodiscard]] pid_t pid() const { return pid_; }

  /// SIGTERM; how long the end took in seconds, negative if it did not come within a minute.
  double end() {
    const auto start = Clock::now();
    ::kill(pid_, SIGTERM);
    const bool gone = eventually([&] { return ::kill(pid_, 0) != 0; }, seconds(60));
    const double took = seconds_since(start);
    if (!gone) ::kill(pid_, SIGKILL);
    [[maybe_unused]] const ProgramResult ignored = nfs_.shell("umount -l /over 2>/dev/null");
    return gone ? took : -1;
  }

 private:
  Site nfs_;
  Site site_;
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
  });
}
