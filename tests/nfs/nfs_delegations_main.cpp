/// Delegations: an NFSv4 client that was promised to be told of others keeps a shared lock to
/// itself. Conflicts are right all the same, since what could conflict needs an open for writing,
/// which takes the promise back; and what that costs.

#include <fcntl.h>
#include <sys/stat.h>

#include <fstream>
#include <memory>

#include "tests/nfs/laboratory.h"

namespace {

using namespace lockfs::test;
using namespace lockfs::test::nfs;

/// Whether the server has a delegation of that file out.
bool delegated(const std::string& file) {
  struct stat info {};
  if (::stat(("/data/" + file).c_str(), &info) != 0) return false;
  const std::string mark = ":" + std::to_string(info.st_ino) + " ";
  std::ifstream table("/proc/locks");
  for (std::string line; std::getline(table, line);) {
    if (line.find("DELEG") != std::string::npos && line.find(mark) != std::string::npos)
      return true;
  }
  return false;
}

std::vector<std::string> versions_with_delegations() {
  std::vector<std::string> result;
  for (const std::string& version : versions()) {
    if (version != "3") result.push_back(version);
  }
  return result;
}

void show_conflicts(Report& report) {
  report.title("Client A has a shared flock through a read-only descriptor, and a delegation");
  Grid grid(report);
  for (const std::string& v : versions_with_delegations()) {
    const Site a = client_site('A', v);
    const std::string file = new_file("text");
    Party holder(a, file, O_RDONLY);
    grid.expect(v, "the client gets the lock",
                outcome_of(holder.try_lock(Kind::kFlock, Mode::kShared)), "granted");
    grid.note(v, "the server has a delegation out", delegated(file) ? "yes" : "no");
    grid.note(v, "locks in the server's table", std::to_string(kernel_locks(file).size()));
    Party reader(local_site(), file, O_RDONLY);
    grid.expect(v, "local, read-only, shared",
                outcome_of(reader.try_lock(Kind::kFlock, Mode::kShared)), "granted");
    grid.expect(v, "local, read-only, exclusive", outcome_of(reader.try_lock()), "EBADF");
    reader.unlock();
    Party writer(local_site(), file);
    grid.expect(v, "local, read-write, exclusive", outcome_of(writer.try_lock()), "refused");
    grid.note(v, "the delegation is still out", delegated(file) ? "yes" : "no");
    grid.note(v, "locks in the server's table now", std::to_string(kernel_locks(file).size()));
    writer.start_lock();
    grid.expect(v, "the local program waits", static_cast<bool>(writer.actor.waits()));
    holder.unlock();
    grid.expect(v, "the client lets go, the local program gets", outcome_of(writer.actor.result()),
                "granted");
    writer.unlock();
    writer.actor.exit();
    holder.actor.exit();
    std::string why;
    const bool clean = nothing_left(file, {local_site(), a}, &why);
    grid.expect(v, "nothing stays locked", clean, why);
  }
}

void show_cost(Report& report) {
  report.title("What the recall of a delegation costs");
  report.text("A local program opens the file read-write and locks it; min / median / max.\n");
  std::vector<std::vector<std::string>> rows{
      {"version", "no delegation", "delegation recalled", "rounds with a delegation"}};
  const int rounds = scaled(20, 5);
  for (const std::string& version : versions_with_delegations()) {
    std::vector<double> plain;
    std::vector<double> recalled;
    for (int round = 0; round < rounds; ++round) {
      for (const bool with : {false, true}) {
        const std::string file = new_file("text");
        Actor client = client_site('A', version).actor();
        if (with) client.open(client_site('A', version).path(file), O_RDONLY);
        const bool out = delegated(file);
        if (with && !out) continue;
        Actor local = local_site().actor();
        const auto start = Clock::now();
        const int fd = local.open(local_site().path(file), O_RDWR);
        const int error = local.try_lock(fd, Kind::kFlock, Mode::kExclusive);
        (with ? recalled : plain).push_back(seconds_since(start));
        report.count(1);
        if (error != 0) report.wrong("v" + version + ": " + outcome_of(error));
      }
    }
    rows.push_back({"v" + version, spread(plain), spread(recalled),
                    std::to_string(recalled.size()) + " of " + std::to_string(rounds)});
    if (recalled.empty()) report.wrong("v" + version + ": the server gave no delegation");
  }
  report.table(rows);
}

void show_silent_client(Report& report) {
  report.title("The client with the delegation is cut off");
  const std::vector<std::string> with = versions_with_delegations();
  const std::string& version = with.back();
  const std::string other = new_file("text");
  // For some time after a recall the server gives none for that file, and by chance for others: it
  // remembers them in a Bloom filter (delegation_blocked()).
  std::string file;
  std::unique_ptr<Party> holder;
  bool out = false;
  for (int attempt = 0; attempt < 5 && !out; ++attempt) {
    file = new_file("text");
    holder = std::make_unique<Party>(client_site('A', version), file, O_RDONLY);
    holder->try_lock(Kind::kFlock, Mode::kShared);
    out = delegated(file);
  }
  report.expect("the server has a delegation out", out);
  must("ip link set wire_a down");
  const auto start = Clock::now();
  Process opener = local_site().process([&] {
    const int fd = ::open(local_site().path(file).c_str(), O_RDWR);
    return fd < 0 ? 1 : 0;
  });
  // The opener stands still now; nobody else has to.
  const auto meanwhile = Clock::now();
  Party neighbour(local_site(), other);
  report.expect("meanwhile another file of the mount is locked", outcome_of(neighbour.try_lock()),
                "granted");
  report.note("that took", duration(seconds_since(meanwhile)));
  report.expect("the local open succeeds in the end", std::to_string(opener.wait()), "0");
  report.note("that took", duration(seconds_since(start)));
  must("ip link set wire_a up");
}

}  // namespace

int main() {
  return run([](Report& report) {
    show_conflicts(report);
    show_cost(report);
    show_silent_client(report);
  });
}
