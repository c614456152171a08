/// The server loses its power while its local programs and a client on another machine hold and
/// wait for locks, and comes back with lockfs. This program runs on the client; the server is
/// switched, and told what to do, by files of /lab/out, see scripts/nfs-lab and
/// lab/reboot_server.sh.

#include <unistd.h>

#include <fstream>
#include <sstream>
#include <stdexcept>

#include "tests/nfs/laboratory.h"

namespace {

using namespace lockfs::test;
using namespace lockfs::test::nfs;
using std::chrono::seconds;

/// Longer than an emulated machine takes to boot, a client to find it and the grace period to end.
constexpr auto kPatience = seconds(180);

bool exists(const std::string& path) { return ::access(path.c_str(), F_OK) == 0; }

/// The server's machine.
class Server {
 public:
  static bool power_on() {
    std::ofstream("/lab/out/power.on");
    const bool ready = eventually([] { return exists("/lab/out/power.ready"); }, kPatience);
    ::unlink("/lab/out/power.ready");
    return ready;
  }
  static bool power_cut() {
    std::ofstream("/lab/out/power.cut");
    return eventually([] { return exists("/lab/out/power.off"); }, kPatience) &&
           ::unlink("/lab/out/power.off") == 0;
  }
  /// Runs a script there to its end.
  static ProgramResult shell(const std::string& script) {
    std::ofstream("/lab/out/power.command.new") << script << '\n';
    must("mv /lab/out/power.command.new /lab/out/power.command");
    if (!eventually([] { return exists("/lab/out/power.answer"); }, kPatience)) {
      throw std::runtime_error("the server does not answer: " + script);
    }
    std::ifstream answer("/lab/out/power.answer");
    ProgramResult result;
    answer >> result.status;
    answer.ignore();  // the end of that line
    std::ostringstream text;
    text << answer.rdbuf();
    result.output = text.str();
    ::unlink("/lab/out/power.answer");
    return result;
  }
  /// What a local program gets that asks for an exclusive flock and lets go at once.
  static std::string local_asks(const std::string& file) {
    const int status = shell("flock -n /export/" + file + " true").status;
    return status == 0 ? "granted" : status == 1 ? "refused" : "status " + std::to_string(status);
  }
  /// How a program of at_boot ended that wrote its status there.
  static std::string says(const std::string& name) {
    ProgramResult result;
    const bool ended = eventually(
        [&] {
          result = shell("cat /run/" + name);
          return result.status == 0 && !result.output.empty();
        },
        kPatience);
    return !ended ? "nothing" : result.output == "0\n" ? "granted" : "refused";
  }
  static bool in_grace() {
    return shell("grep -q N /proc/fs/lockd/nlm_end_grace /proc/fs/nfsd/v4_end_grace").status == 0;
  }
};

void show_power_cut(Grid& grid, const std::string& v) {
  const bool v3 = v == "3";
  must(std::string("mount -t nfs -o vers=") + v + " 10.0.2.1:" + (v3 ? "/data" : "/") +
       " /mnt/server");
  must(
      "cd /mnt/server && for file in held awaited taken; do echo text >$file; chmod 666 $file;"
      "done; sync");
  Server::shell("sync");
  const Site client("client", "/mnt/server");
  {
    Party holder(client, "held");
    Party other(client, "taken");
    Party waiter(client, "awaited");
    Server::shell("setsid flock /export/awaited sleep infinity >/dev/null 2>&1 & sleep 1");
    grid.expect(v, "the client takes one lock", outcome_of(holder.try_lock()), "granted");
    grid.expect(v, "and another", outcome_of(other.try_lock()), "granted");
    grid.expect(v, "it asks for what a local program holds", outcome_of(waiter.try_lock()),
                "refused");
    waiter.start_lock();
    grid.expect(v, "it waits for it", static_cast<bool>(waiter.actor.waits()));
    Server::shell("setsid flock /export/held sleep infinity >/dev/null 2>&1 &");
    grid.expect(v, "a local program waits for the client's",
                Server::shell("for n in $(seq 100); do for p in $(pgrep -x flock); do"
                              " grep -q '^73 ' /proc/$p/syscall && exit 0; done; sleep 0.1; done; "
                              "exit 1")
                        .status == 0);
    // Before the server answers clients again, local programs ask for what the client held.
    Server::shell(
        "echo '(setsid flock /export/taken true; echo $? >/run/waited) >/dev/null 2>&1 &"
        " (setsid flock -n /export/taken true; echo $? >/run/asked) >/dev/null 2>&1 & sleep 1' "
        ">/disk/at_boot; sync");
    grid.expect(v, "power cut", Server::power_cut());
    const auto start = Clock::now();
    grid.expect(v, "power on, /data and lockfs mounted, exported", Server::power_on());
    const auto booted = Clock::now();
    grid.note(v, "that took", duration(seconds_since(start)));
    grid.note(v, "grace period", Server::in_grace() ? "yes" : "over");
    const auto reclaims = [](const std::string& file) {
      return eventually(
          [&] {
            return Server::shell("grep -q \"POSIX.*:$(stat -c %i /data/" + file +
                                 ") \" /proc/locks")
                       .status == 0;
          },
          kPatience);
    };
    grid.expect(v, "the client reclaims what it held", reclaims("held") && reclaims("taken"));
    grid.note(v, "that was, after the boot, after", duration(seconds_since(booted)));
    const bool ended = eventually([] { return !Server::in_grace(); }, kPatience);
    grid.expect(v, "the grace period ends", ended);
    grid.note(v, "after", duration(seconds_since(booted)));
    grid.expect(v, "a local program that asked before the server was there gets",
                Server::says("asked"), "refused");
    grid.expect(v, "one that waits since then",
                Server::shell("test -e /run/waited").status == 0 ? "has it" : "waits", "waits");
    grid.expect(v, "one that asks now", Server::local_asks("held"), "refused");
    grid.expect(v, "the client writes there", holder.actor.write(holder.fd, "more", 0) == 4);
    grid.expect(v, "and to the other file", other.actor.write(other.fd, "more", 0) == 4);
    other.unlock();
    grid.expect(v, "lets go of that, and the local program that waited gets it",
                Server::says("waited"), "granted");
    const bool got = eventually([&] { return waiter.actor.has_result(); }, kPatience);
    grid.expect(v, "the client gets what it waited for",
                got ? outcome_of(waiter.actor.result()) : "nothing", "granted");
    grid.expect(v, "a local program then", Server::local_asks("awaited"), "refused");
    holder.unlock();
    grid.expect(v, "the client lets go, a local program gets", Server::local_asks("held"),
                "granted");
  }
  Server::shell("pkill -x flock; pkill -x sleep; rm -f /disk/at_boot /run/asked /run/waited; sync");
  for (const char* file : {"held", "awaited", "taken"}) {
    const bool clean = eventually([&] { return Server::local_asks(file) == "granted"; });
    grid.expect(v, "nothing stays locked", clean, file);
  }
  must("umount /mnt/server");
}

}  // namespace

int main() {
  return run([](Report& report) {
    report.title("The server loses its power and comes back");
    if (!Server::power_on()) throw std::runtime_error("the server does not come up");
    Grid grid(report);
    for (const std::string& version : versions()) show_power_cut(grid, version);
  });
}
