/// The mount of lockfs exported itself: LAB_SERVER says by whom, "knfsd" or "ganesha". Locks of the
/// clients then pass through lockfs, and file handles must outlive forgotten inodes and lockfs.

#include <fcntl.h>

#include <cstdlib>
#include <fstream>
#include <memory>
#include <sstream>
#include <stdexcept>

#include "tests/nfs/laboratory.h"

namespace {

using namespace lockfs::test;
using namespace lockfs::test::nfs;

bool by_kernel() {
  const char* server = std::getenv("LAB_SERVER");
  return server != nullptr && std::string(server) == "knfsd";
}

/// knfsd's NLM server does not lock FUSE files.
bool can_lock(const std::string& version) { return version != "3" || !by_kernel(); }

std::string lockfs_log() {
  std::ifstream log(must("echo -n /lab/out/$(hostname).lockfs.log"));
  std::ostringstream text;
  text << log.rdbuf();
  return text.str();
}

void show_conflicts(Report& report) {
  report.title("Who conflicts with whom");
  report.text("Exclusive locks, flock, POSIX and OFD, each against each: outcome of the second.\n");
  Grid grid(report);
  for (const std::string& v : versions()) {
    if (!can_lock(v)) continue;
    const std::vector<Site> sites{client_site('A', v), client_site('B', v), local_site(),
                                  data_site()};
    for (std::size_t first = 0; first < sites.size(); ++first) {
      for (std::size_t second = 0; second < sites.size(); ++second) {
        std::string outcomes;
        for (const Kind held : kKinds) {
          for (const Kind asked : kKinds) {
            if (sites[first].name() == "data" && held == Kind::kFlock) continue;
            if (sites[second].name() == "data" && asked == Kind::kFlock) continue;
            const std::string file = new_file();
            Party holder(sites[first], file);
            Party asking(sites[second], file);
            const int error = holder.try_lock(held);
            const std::string outcome =
                error != 0 ? "holder " + outcome_of(error) : outcome_of(asking.try_lock(asked));
            if (outcomes.find(outcome) == std::string::npos) {
              outcomes += (outcomes.empty() ? "" : ", ") + outcome;
            }
          }
        }
        grid.expect(v, sites[first].name() + " holds, " + sites[second].name() + " asks", outcomes,
                    "refused");
      }
    }
    const std::string file = new_file();
    for (const auto& [holds, waits] :
         {std::pair{sites[0], sites[2]}, std::pair{sites[2], sites[0]}}) {
      Party holder(holds, file);
      Party waiter(waits, file);
      holder.try_lock();
      waiter.start_lock();
      const bool waiting = static_cast<bool>(waiter.actor.waits());
      holder.unlock();
      grid.expect(v, waits.name() + " waits for " + holds.name(),
                  waiting ? outcome_of(waiter.actor.result()) : "does not wait", "granted");
    }
    std::string why;
    const bool clean = nothing_left(file, {sites[0], sites[2]}, &why);
    grid.expect(v, "nothing stays locked", clean, why);
  }
}

void show_enolck(Report& report) {
  report.title("NFSv3 and the kernel's server");
  Party client(client_site('A', "3"), new_file());
  report.expect("an NFSv3 client's lock on the exported mount", outcome_of(client.try_lock()),
                "ENOLCK");
  report.expect("lockfs warned of the export", eventually([] {
                  return lockfs_log().find("the NFS server exports /export") != std::string::npos;
                }));
  // lockfs looks for the NLM server every few seconds.
  report.expect("lockfs warned of the lock", eventually([&] {
                  client.try_lock();
                  Party again(client_site('A', "3"), new_file());
                  again.try_lock();
                  return lockfs_log().find("an NFSv3 client asks for a lock") != std::string::npos;
                }));
  std::istringstream log(lockfs_log());
  for (std::string line; std::getline(log, line);) {
    if (line.find("warning") != std::string::npos) report.text("  - `" + line + "`");
  }
}

std::string read_path(const Site& site, const std::string& file) {
  const ProgramResult result = site.shell("cat " + file);
  return result.status == 0 ? result.output : "failed: " + result.output;
}

/// A client's open file, and a path with a directory in it, before and after `disturb`.
struct Used {
  std::string version;
  Site site;
  std::string file;
  std::string folder;
  std::string held_file = new_file();
  Party open;
  std::unique_ptr<Party> holder;  ///< of a lock, where there are any

  explicit Used(const std::string& name)
      : version(name),
        site(client_site('A', name)),
        file(new_file("content")),
        folder(file + ".d"),
        open(site, file) {
    must("mkdir -p /data/" + folder + "/deep && echo -n content >/data/" + folder + "/deep/file");
    read_path(site, folder + "/deep/file");
    // The laboratory's Ganesha gives its clients no grace period.
    if (!can_lock(version) || !by_kernel()) return;
    holder = std::make_unique<Party>(site, held_file, O_RDWR | O_SYNC);
    if (holder->try_lock() != 0) throw std::runtime_error("v" + name + ": cannot lock a new file");
  }
  void check(Grid& grid, const std::string& when) {
    must("echo 3 >/proc/sys/vm/drop_caches");
    grid.expect(version, when + ": the open file reads", open.actor.read(open.fd, 7, 0), "content");
    grid.expect(version, when + ": the open file writes",
                std::to_string(open.actor.write(open.fd, "content", 0)), "7");
    grid.expect(version, when + ": the path reads", read_path(site, folder + "/deep/file"),
                "content");
    if (can_lock(version)) {
      grid.expect(version, when + ": the open file locks", outcome_of(open.try_lock()), "granted");
      Party local(local_site(), file);
      grid.expect(version, when + ": a local program then gets", outcome_of(local.try_lock()),
                  "refused");
      open.unlock();
    }
    if (holder != nullptr) {
      Party asks(local_site(), held_file);
      grid.expect(version, when + ": what the client holds a local program asks for",
                  outcome_of(asks.try_lock()), "refused");
      grid.expect(version, when + ": the client writes there",
                  std::to_string(holder->actor.write(holder->fd, "content", 0)), "7");
    }
  }
};

void show_handles(Report& report) {
  report.title("File handles");
  Grid grid(report);
  std::vector<std::unique_ptr<Used>> all;
  for (const std::string& version : versions()) all.push_back(std::make_unique<Used>(version));
  for (auto& one : all) one->check(grid, "caches dropped");
  must("\"$LAB_RESTART\"");
  for (auto& one : all) one->check(grid, "server and lockfs restarted");
}

}  // namespace

int main() {
  return run([](Report& report) {
    if (by_kernel()) show_enolck(report);
    show_conflicts(report);
    show_handles(report);
  });
}
