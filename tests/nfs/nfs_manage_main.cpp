/// lockfsctl beside a real NFS server: clients' locks in its lists, their locks broken through the
/// server's own interfaces, the doctor's traps.

#include <fcntl.h>
#include <unistd.h>

#include "tests/nfs/laboratory.h"

namespace {

using namespace lockfs::test;
using namespace lockfs::test::nfs;

ProgramResult lockfsctl(const std::string& arguments) {
  return local_site().shell("$LAB_BIN/lockfsctl " + arguments + " 2>&1 </dev/null");
}

bool says(const ProgramResult& result, const std::string& text) {
  return result.output.find(text) != std::string::npos;
}

/// A client's lock is taken away while a local program waits for it.
void show_break(Grid& grid, const std::string& v, const std::string& how) {
  const std::string what = how.empty() ? "break --outside" : "break " + how;
  const Site a = client_site('A', v);
  const std::string file = new_file("text");
  const std::string path = local_site().path(file);
  Party holder(a, file);
  Party waiter(local_site(), file);
  grid.expect(v, what + ": the client holds", outcome_of(holder.try_lock()), "granted");
  waiter.start_lock();
  grid.expect(v, what + ": the local program waits", static_cast<bool>(waiter.actor.waits()));
  const ProgramResult list = lockfsctl("list " + path);
  grid.expect(v, what + ": list has it as outside",
              says(list, "outside") && says(list, v == "3" ? "lockd" : "nfsd"), list.output);
  const ProgramResult refused = lockfsctl("break --yes " + path);
  grid.expect(v, what + ": without --outside nothing is done",
              waiter.actor.has_result()       ? "done"
              : says(refused, "held outside") ? "told"
                                              : refused.output,
              "told");
  const ProgramResult broken = lockfsctl("break --yes --outside " + how + " " + path);
  grid.expect(v, what + ": done", broken.status == 0 && says(broken, "done"), broken.output);
  const bool granted = eventually([&] { return waiter.actor.has_result(); });
  grid.expect(v, what + ": the local program gets",
              granted ? outcome_of(waiter.actor.result()) : "nothing", "granted");
  if (!granted) waiter.actor.kill(SIGKILL);
  grid.note(v, what + ": the former holder asks again", outcome_of(holder.try_lock()));
  waiter.unlock();
  waiter.actor.exit();
  holder.actor.exit();
  std::string why;
  const bool clean = nothing_left(file, {local_site(), client_site('B', v)}, &why);
  grid.expect(v, what + ": nothing stays locked", clean, why);
}

void show_doctor(Report& report) {
  report.title("lockfsctl doctor on the server");
  const auto doctor = [] { return lockfsctl("doctor /data /export"); };
  const ProgramResult well = doctor();
  report.expect("the source exported: no trap of NFS",
                !says(well, "which is in the lockfs mount") && says(well, "rpc.statd runs"),
                well.output);
  must("exportfs -o rw,insecure,no_root_squash,no_subtree_check,fsid=77 '*:/export'");
  const ProgramResult exported = doctor();
  report.expect(
      "the mount exported, too: told, with the cure",
      says(exported, "NFSv3 clients get ENOLCK") && says(exported, "export /data instead"),
      exported.output);
  must("exportfs -u '*:/export'");
  report.expect("not exported any more: not told", !says(doctor(), "ENOLCK"));
  must("mount -t nfs -o vers=3,local_lock=all,addr=10.0.0.1 10.0.0.1:/data /mnt");
  const ProgramResult local = doctor();
  must("umount /mnt");
  report.expect("a mount with local_lock: told", says(local, "local_lock=all"), local.output);
  // Those of the clients as well: one machine has them all here.
  must("pkill -x rpc.statd; while pgrep -x rpc.statd >/dev/null; do sleep 0.1; done");
  const ProgramResult silent = doctor();
  report.expect("no rpc.statd: told", says(silent, "rpc.statd does not run"), silent.output);
}

}  // namespace

int main() {
  return run([](Report& report) {
    report.title("A client's lock broken");
    {
      Grid grid(report);
      for (const std::string& v : versions()) {
        show_break(grid, v, "");
        if (v == "3") show_break(grid, v, "--server-address 10.0.0.1");
      }
    }
    show_doctor(report);
  });
}
