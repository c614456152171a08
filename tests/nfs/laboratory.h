/// The NFS laboratory as its test programs see it: the places from which a file can be locked, and
/// the report they write.
///
/// A program runs on the server of the laboratory. Clients are processes in namespaces of their own
/// on the same machine; the environment names one process of each (CLIENT_A, CLIENT_B), and lockfs
/// serves /export from /data.
///
/// Thread safety: none; a program drives everything from its one thread, because it forks and
/// changes its own namespaces for a moment.
#pragma once

#include <chrono>
#include <functional>
#include <string>
#include <vector>

#include "tests/mounted/support/actor.h"
#include "tests/mounted/support/process.h"

namespace lockfs::test::nfs {

/// A place from which programs reach the files of the laboratory: a machine and a folder on it.
class Site {
 public:
  /// `process` is one that runs on the machine, 0 for the server itself.
  Site(std::string name, std::string folder, pid_t process = 0)
      : name_(std::move(name)), folder_(std::move(folder)), process_(process) {}

  [[nodiscard]] const std::string& name() const { return name_; }
  [[nodiscard]] bool on_server() const { return process_ == 0; }
  [[nodiscard]] pid_t process_id() const { return process_; }
  [[nodiscard]] std::string path(const std::string& file) const { return folder_ + "/" + file; }

  /// A process there that takes locks on command.
  [[nodiscard]] Actor actor() const;
  /// A process there that runs `body`.
  [[nodiscard]] Process process(const std::function<int()>& body) const;
  /// Runs a shell command there, in the site's folder, to its end.
  [[nodiscard]] ProgramResult shell(const std::string& command) const;

 private:
  /// Calls `make`, whose forked children then are on the site's machine.
  void there(const std::function<void()>& make) const;

  std::string name_;
  std::string folder_;
  pid_t process_;
};

/// Local programs on the mount of lockfs, and straight on its source.
Site local_site();
Site data_site();
/// A client ('A' or 'B') with an NFS mount of this version ("3", "4.2", ...).
Site client_site(char client, const std::string& version);

inline constexpr Kind kKinds[] = {Kind::kFlock, Kind::kPosix, Kind::kOfd};
inline constexpr Mode kModes[] = {Mode::kShared, Mode::kExclusive};

/// As the tables have them: "flock", "POSIX", "OFD"; "sh", "ex".
std::string short_name(Kind kind);
std::string short_name(Mode mode);

/// One process at a site with a file open. Throws when the file cannot be opened.
struct Party {
  Actor actor;
  int fd;

  Party(const Site& site, const std::string& file, int flags = O_RDWR);

  int try_lock(Kind kind = Kind::kFlock, Mode mode = Mode::kExclusive) {
    return actor.try_lock(fd, kind, mode);
  }
  void start_lock(Kind kind = Kind::kFlock, Mode mode = Mode::kExclusive) {
    actor.start_lock(fd, kind, mode);
  }
  int unlock(Kind kind = Kind::kFlock) { return actor.unlock(fd, kind); }
};

/// The versions to try: LAB_VERSIONS, or 3, 4.0, 4.1 and 4.2.
std::vector<std::string> versions();

/// A new file of /data that everybody may use; returns its name.
std::string new_file(const std::string& content = "");

/// Where the locks of `keep_owner` lie; POSIX and OFD locks of others have to end before.
inline constexpr long kFarAway = 1L << 40;

/// Keeps the state that an NFS server has of the owner of `fd`'s locks of this kind, until `fd` is
/// closed. Returns false when the server gives no lock.
///
/// A client of NFSv4.1 and later gives that state back (FREE_STATEID) when an owner's last lock on
/// a file is gone. When the owner locks again at once, the kernel's server now and then drops the
/// new lock as it frees the old state (nfs4_free_lock_stateid() closes the file in the name of the
/// owner, after the state was unhashed; seen in 6.1 with and without lockfs), and two hold the lock
/// at once.
bool keep_owner(int fd, Kind kind);

/// Whether clients of this version need `keep_owner`.
inline bool frees_owners(const std::string& version) {
  return version == "4.1" || version == "4.2";
}

using Clock = std::chrono::steady_clock;
double seconds_since(Clock::time_point start);
/// "12.3 ms": as many digits as are worth reading.
std::string duration(double seconds);
/// "min / median / max" of durations in seconds, "-" for none.
std::string spread(std::vector<double> seconds);

/// "granted", "refused", or the name of the error.
std::string outcome_of(int error);

/// Polls `condition` until it holds. Returns false when `limit` has passed.
bool eventually(const std::function<bool()>& condition,
                std::chrono::milliseconds limit = deadline());

/// Lines of /proc/locks about that file of /data, waiting ones included.
std::vector<std::string> kernel_locks(const std::string& file);

/// Success when, within the deadline, everybody in `sites` can lock the whole file exclusively in
/// turn with every kind of lock, and the kernel has no lock on it afterwards.
bool nothing_left(const std::string& file, const std::vector<Site>& sites, std::string* why);

/// Runs a shell command on the server; throws with its output unless it leaves with 0.
std::string must(const std::string& command);

/// What the program prints, as Markdown, and the count of what was wrong.
class Report {
 public:
  Report();
  void title(const std::string& text);
  void text(const std::string& text);
  /// A line "- text: outcome"; counts a failure unless `got` equals `wanted`.
  bool expect(const std::string& what, const std::string& got, const std::string& wanted);
  bool expect(const std::string& what, bool ok, const std::string& otherwise = "");
  /// An observation, right whatever it says.
  void note(const std::string& what, const std::string& outcome);
  /// The first row has the headings.
  void table(const std::vector<std::vector<std::string>>& rows);
  void wrong(const std::string& text);
  /// Counts checks that are printed as cells of a table only.
  void count(int checks) { checks_ += checks; }
  [[nodiscard]] int failures() const { return failures_; }
  /// Prints the count; the exit status of the program.
  int finish();

 private:
  Clock::time_point start_;
  int checks_ = 0;
  int failures_ = 0;
};

/// Checks that are made for every version: a table with a row for each check and a column for each
/// version, printed at the end. What was wrong is printed at once.
class Grid {
 public:
  /// `report` must outlive the grid.
  explicit Grid(Report& report) : report_(report) {}
  Grid(const Grid&) = delete;
  Grid& operator=(const Grid&) = delete;
  ~Grid();
  bool expect(const std::string& version, const std::string& what, const std::string& got,
              const std::string& wanted);
  bool expect(const std::string& version, const std::string& what, bool ok,
              const std::string& otherwise = "");
  /// An observation, right whatever it says.
  void note(const std::string& version, const std::string& what, const std::string& outcome);

 private:
  std::string& cell(const std::string& version, const std::string& what);

  Report& report_;
  std::vector<std::vector<std::string>> rows_;
};

/// main() of a program: runs `body`, prints what it throws, and returns the exit status.
int run(const std::function<void(Report&)>& body);

}  // namespace lockfs::test::nfs
