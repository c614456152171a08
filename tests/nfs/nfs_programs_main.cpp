/// Real programs on both sides of the divide: sqlite3, flock(1), git and a mail spool, with a local
/// program and two clients at work at once.

#include <sys/wait.h>

#include <cstdlib>

#include "tests/nfs/laboratory.h"

namespace {

using namespace lockfs::test;
using namespace lockfs::test::nfs;

/// Runs the script in every site's folder at once; WHO is the number of the site. Notes who failed.
void everywhere(Report& report, const std::string& what, const std::vector<Site>& sites,
                const std::string& script) {
  std::vector<Process> running;
  for (std::size_t i = 0; i < sites.size(); ++i) {
    running.push_back(sites[i].process([&, i] {
      const std::string command = "cd " + sites[i].path("") + " && WHO=" + std::to_string(i) +
                                  " && export HOME=$(mktemp -d) && " + script;
      const int status = std::system(command.c_str());
      return WIFEXITED(status) ? WEXITSTATUS(status) : 99;
    }));
  }
  for (std::size_t i = 0; i < sites.size(); ++i) {
    int status = -1;
    for (int tries = 0; tries < 10 && status == -1; ++tries) status = running[i].wait();
    if (status != 0) {
      report.wrong(what + ": " + sites[i].name() + " left with " + std::to_string(status));
    }
  }
}

std::string line_of(const ProgramResult& result) {
  std::string text = result.output;
  while (!text.empty() && text.back() == '\n') text.pop_back();
  return text;
}

void show_sqlite(Report& report, Grid& grid, const std::string& v, const std::vector<Site>& sites,
                 int rounds) {
  const std::string base = new_file() + ".db";
  must("sqlite3 /data/" + base + " 'create table t(who int, n int)' && chmod 666 /data/" + base);
  everywhere(report, "v" + v + ", sqlite3", sites,
             "for n in $(seq " + std::to_string(rounds) + "); do sqlite3 -cmd '.timeout 60000' " +
                 base + " \"insert into t values ($WHO, $n)\" || exit 1; done");
  const std::string wanted = std::to_string(rounds * static_cast<int>(sites.size()));
  grid.expect(v, "sqlite3: rows written by all",
              line_of(local_site().shell("sqlite3 " + base + " 'select count(*) from t'")), wanted);
  grid.expect(v, "sqlite3: as client A sees it",
              line_of(sites[1].shell("sqlite3 -newline ' ' " + base +
                                     " 'pragma integrity_check; select count(*) from t'")),
              "ok " + wanted + " ");
}

void show_flock(Report& report, Grid& grid, const std::string& v, const std::vector<Site>& sites,
                int rounds) {
  const std::string lock = new_file();
  const std::string counter = new_file("0\n");
  everywhere(report, "v" + v + ", flock(1)", sites,
             "for n in $(seq " + std::to_string(rounds) + "); do flock " + lock +
                 " sh -c 'n=$(cat " + counter + "); echo $((n + 1)) >" + counter +
                 "' || exit 1; done");
  grid.expect(v, "flock(1): a counter in another file",
              line_of(data_site().shell("cat " + counter)),
              std::to_string(rounds * static_cast<int>(sites.size())));
}

void show_git(Report& report, Grid& grid, const std::string& v, const std::vector<Site>& sites,
              int rounds) {
  const std::string repository = new_file() + ".git";
  must("git init -q --bare --shared=all /data/" + repository);
  const std::string git = "git -c user.name=x -c user.email=x@x -c safe.directory=* ";
  everywhere(report, "v" + v + ", git", sites,
             "here=$PWD; cd $HOME && git config --global safe.directory '*'; " + git +
                 "clone -q $here/" + repository +
                 " w 2>/dev/null; cd w || exit 1; for n in $(seq " + std::to_string(rounds) +
                 "); do echo $n >f$WHO; git add . ; " + git +
                 "commit -qm \"$WHO $n\" || exit 2; for try in $(seq 60); do " + git +
                 "pull -q --rebase origin master >/dev/null 2>&1; " + git +
                 "push -q origin HEAD:master >/dev/null 2>&1 && continue 2; done; exit 3; done");
  grid.expect(v, "git: commits pushed by all",
              line_of(local_site().shell(git + "-C " + repository + " rev-list --count master")),
              std::to_string(rounds * static_cast<int>(sites.size())));
  const ProgramResult check = sites[1].shell(git + "-C " + repository + " fsck --strict");
  grid.expect(v, "git: fsck on client A", check.status == 0, check.output);
}

/// procmail delivers locally, as it locks by itself (dot file and fcntl); a reader on a client
/// takes mail away under fcntl lock and dot lock, as mail readers do.
void show_mail(Report& report, Grid& grid, const std::string& v, const std::vector<Site>& sites,
               int rounds) {
  const std::string spool = new_file();
  const std::string taken = spool + ".taken";
  const std::string count = std::to_string(rounds);
  const std::vector<Site> parties{sites[0], sites[1]};
  everywhere(
      report, "v" + v + ", mail", parties,
      "if [ $WHO = 0 ]; then for n in $(seq " + count +
          "); do printf 'From: a\\nSubject: %s\\n\\nbody\\n' $n | procmail -p DEFAULT=$PWD/" +
          spool + " /dev/null || exit 1; done; else for try in $(seq 600); do lockfile -1 -l 60 " +
          spool + ".lock && flock " + spool + " sh -c 'cat " + spool + " >>" + taken + "; : >" +
          spool + "'; rm -f " + spool + ".lock; [ $(grep -c ^Subject: " + taken + ") -ge " + count +
          " ] && exit 0; sleep 0.1; done; exit 4; fi");
  grid.expect(v, "mail: letters taken by the client, of those delivered locally",
              line_of(data_site().shell("grep -c ^Subject: " + taken)), count);
}

}  // namespace

int main() {
  return run([](Report& report) {
    report.title("A local program and two clients at work on the same files");
    Grid grid(report);
    const int rounds = scaled(10, 5);
    for (const std::string& v : versions()) {
      const std::vector<Site> sites{local_site(), client_site('A', v), client_site('B', v)};
      show_sqlite(report, grid, v, sites, rounds);
      show_flock(report, grid, v, sites, rounds);
      show_git(report, grid, v, sites, scaled(5, 3));
      show_mail(report, grid, v, sites, rounds);
    }
  });
}
