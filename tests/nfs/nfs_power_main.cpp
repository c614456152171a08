/// A client on a machine of its own loses its power while it holds a lock and while it waits for
/// one, and comes back. The machine is switched by files of /lab/out, see scripts/nfs-lab.

#include <unistd.h>

#include <fstream>

#include "tests/nfs/laboratory.h"

namespace {

using namespace lockfs::test;
using namespace lockfs::test::nfs;
using std::chrono::seconds;

/// Longer than any lease, and than an emulated machine takes to boot.
constexpr auto kPatience = seconds(120);

bool exists(const std::string& path) { return ::access(path.c_str(), F_OK) == 0; }

/// Switches the client on, to do `task`; false when it does not say that it has.
bool power_on(const std::string& task) {
  std::ofstream("/lab/out/power.task") << task << '\n';
  std::ofstream("/lab/out/power.on");
  const bool ready = eventually([] { return exists("/lab/out/power.ready"); }, kPatience);
  ::unlink("/lab/out/power.ready");
  return ready;
}

bool power_cut() {
  std::ofstream("/lab/out/power.cut");
  return eventually([] { return exists("/lab/out/power.off"); }, kPatience) &&
         ::unlink("/lab/out/power.off") == 0;
}

void show_power_cut(Grid& grid, const std::string& v) {
  const bool v3 = v == "3";
  const std::string held = new_file();
  const std::string awaited = new_file();
  const std::string task = v + (v3 ? " /data " : " / ");
  Party waiter(local_site(), held);
  Party holder(local_site(), awaited);
  Party next(local_site(), awaited);
  holder.try_lock();
  grid.expect(v, "the client is up, holds and waits", power_on(task + held + " " + awaited));
  grid.expect(v, "local asks for what it holds", outcome_of(waiter.try_lock()), "refused");
  waiter.start_lock();
  grid.expect(v, "local waits for it", static_cast<bool>(waiter.actor.waits()));
  grid.expect(v, "its power is cut", power_cut());
  const auto start = Clock::now();
  if (v3) {
    // Longer than the lease of the other versions, after which those have it.
    const bool got = eventually([&] { return waiter.actor.has_result(); }, seconds(20));
    grid.expect(v, "NFSv3: local still waits after 20 s", !got);
  }
  holder.unlock();
  grid.note(v, "local lets go of what the dead client awaits, and asks again",
            outcome_of(next.try_lock()));
  next.unlock();
  if (v3) grid.expect(v, "the client is back", power_on(task));
  const bool got = eventually([&] { return waiter.actor.has_result(); }, kPatience);
  grid.expect(v, "local gets what it held", got ? outcome_of(waiter.actor.result()) : "nothing",
              "granted");
  if (!v3) grid.note(v, "after", duration(seconds_since(start)));
  if (!got) waiter.actor.kill(SIGKILL);
  waiter.unlock();
  std::string why;
  bool clean = nothing_left(held, {local_site(), client_site('A', v)}, &why);
  clean = nothing_left(awaited, {local_site(), client_site('A', v)}, &why) && clean;
  grid.expect(v, "nothing stays locked", clean, why);
  if (v3) grid.expect(v, "its power is cut again", power_cut());
}

}  // namespace

int main() {
  return run([](Report& report) {
    report.title("A client's machine loses its power");
    Grid grid(report);
    for (const std::string& version : versions()) show_power_cut(grid, version);
  });
}
