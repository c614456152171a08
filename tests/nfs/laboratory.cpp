#include "tests/nfs/laboratory.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <thread>

namespace lockfs::test::nfs {
namespace {

constexpr const char* kNamespaces[] = {"net", "uts", "mnt"};

/// Enters the network, host name and mounts of that process ("self" later leads back to one's own
/// only by descriptors that were opened before).
void enter(const std::vector<UniqueFd>& namespaces) {
  for (const UniqueFd& fd : namespaces) {
    if (::setns(fd.get(), 0) != 0) {
      throw std::runtime_error(std::string("cannot enter a namespace: ") + std::strerror(errno));
    }
  }
}

std::vector<UniqueFd> namespaces_of(const std::string& process) {
  std::vector<UniqueFd> result;
  for (const char* kind : kNamespaces) {
    const std::string path = "/proc/" + process + "/ns/" + kind;
    result.emplace_back(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!result.back().valid()) throw std::runtime_error("cannot open " + path);
  }
  return result;
}

pid_t client_process(char client) {
  const std::string name = std::string("CLIENT_") + client;
  const char* value = std::getenv(name.c_str());
  if (value == nullptr) throw std::runtime_error(name + " is not set: run this in the laboratory");
  return static_cast<pid_t>(std::atoi(value));
}

}  // namespace

void Site::there(const std::function<void()>& make) const {
  if (process_ == 0) {
    make();
    return;
  }
  const std::vector<UniqueFd> home = namespaces_of("self");
  enter(namespaces_of(std::to_string(process_)));
  make();
  enter(home);
}

Actor Site::actor() const {
  std::optional<Actor> made;
  there([&] { made.emplace(); });
  return std::move(*made);
}

Process Site::process(const std::function<int()>& body) const {
  std::optional<Process> made;
  there([&] { made.emplace(body); });
  return std::move(*made);
}

ProgramResult Site::shell(const std::string& command) const {
  ProgramResult result;
  there([&] {
    // "sh" changes the folder itself: its path means something on that machine only.
    result = run_program({"sh", "-c", "cd \"$0\" && " + command, folder_});
  });
  return result;
}

std::string short_name(Kind kind) {
  return kind == Kind::kFlock ? "flock" : kind == Kind::kPosix ? "POSIX" : "OFD";
}
std::string short_name(Mode mode) { return mode == Mode::kShared ? "sh" : "ex"; }

Party::Party(const Site& site, const std::string& file, int flags)
    : actor(site.actor()), fd(actor.open(site.path(file), flags)) {
  if (fd < 0) {
    throw std::runtime_error(site.name() + " cannot open " + site.path(file) + ": " +
                             outcome_of(-fd));
  }
}

bool keep_owner(int fd, Kind kind) {
  struct flock far {};
  far.l_type = F_RDLCK;
  far.l_start = kFarAway;
  far.l_len = 1;
  // An OFD lock has the same owner as flock: the open file. Unlocking the flock takes the far byte
  // from the server as well, not from the client.
  if (::fcntl(fd, kind == Kind::kPosix ? F_SETLKW : F_OFD_SETLKW, &far) != 0) return false;
  return kind != Kind::kFlock || (::flock(fd, LOCK_SH) == 0 && ::flock(fd, LOCK_UN) == 0);
}

Site local_site() { return {"local", "/export"}; }
Site data_site() { return {"data", "/data"}; }
Site client_site(char client, const std::string& version) {
  return {std::string("client ") + client, "/mnt/" + version, client_process(client)};
}

std::vector<std::string> versions() {
  const char* wanted = std::getenv("LAB_VERSIONS");
  std::istringstream words(wanted != nullptr && *wanted != 0 ? wanted : "3 4.0 4.1 4.2");
  std::vector<std::string> result;
  for (std::string word; words >> word;) result.push_back(word);
  return result;
}

std::string new_file(const std::string& content) {
  static int count = 0;
  std::string name = "file" + std::to_string(::getpid()) + "-" + std::to_string(++count);
  const std::string path = "/data/" + name;
  std::ofstream(path) << content;
  ::chmod(path.c_str(), 0666);
  return name;
}

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

std::string duration(double seconds) {
  char text[32];
  if (seconds < 0.0995) {
    std::snprintf(text, sizeof text, "%.1f ms", seconds * 1e3);
  } else {
    std::snprintf(text, sizeof text, "%.2f s", seconds);
  }
  return text;
}

std::string spread(std::vector<double> seconds) {
  if (seconds.empty()) return "-";
  std::sort(seconds.begin(), seconds.end());
  return duration(seconds.front()) + " / " + duration(seconds[seconds.size() / 2]) + " / " +
         duration(seconds.back());
}

std::string outcome_of(int error) {
  switch (error) {
    case 0:
      return "granted";
    case EAGAIN:
    case EACCES:
      return "refused";
    default: {
      const char* name = ::strerrorname_np(error);
      return name != nullptr ? name : "errno " + std::to_string(error);
    }
  }
}

bool eventually(const std::function<bool()>& condition, std::chrono::milliseconds limit) {
  const auto end = Clock::now() + limit;
  while (!condition()) {
    if (Clock::now() > end) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return true;
}

std::vector<std::string> kernel_locks(const std::string& file) {
  struct stat info {};
  std::vector<std::string> result;
  if (::stat(("/data/" + file).c_str(), &info) != 0) return result;
  const std::string mark = ":" + std::to_string(info.st_ino) + " ";
  std::ifstream table("/proc/locks");
  for (std::string line; std::getline(table, line);) {
    // Leases and delegations are in the table too, and are no locks.
    const bool lock = line.find("POSIX") != std::string::npos ||
                      line.find("OFDLCK") != std::string::npos ||
                      line.find("FLOCK") != std::string::npos;
    if (lock && line.find(mark) != std::string::npos) result.push_back(line);
  }
  return result;
}

bool nothing_left(const std::string& file, const std::vector<Site>& sites, std::string* why) {
  for (const Site& site : sites) {
    Actor actor = site.actor();
    int fd = -1;
    // A client believes for some seconds what it knew of a name or of its rights.
    if (!eventually([&] {
          fd = actor.open(site.path(file), O_RDWR);
          return fd >= 0;
        })) {
      *why = site.name() + " cannot open the file: " + outcome_of(-fd);
      return false;
    }
    for (const Kind kind : {Kind::kFlock, Kind::kPosix, Kind::kOfd}) {
      if (kind == Kind::kFlock && site.name() == "data") continue;  // sees nobody
      int error = EAGAIN;
      if (!eventually([&] {
            error = actor.try_lock(fd, kind, Mode::kExclusive);
            return error == 0;
          })) {
        *why = site.name() + " cannot lock: " + outcome_of(error);
        for (const std::string& line : kernel_locks(file)) *why += "\n  " + line;
        return false;
      }
      actor.unlock(fd, kind);
    }
  }
  if (eventually([&] { return kernel_locks(file).empty(); })) return true;
  *why = "the kernel still has:";
  for (const std::string& line : kernel_locks(file)) *why += "\n  " + line;
  return false;
}

std::string must(const std::string& command) {
  const ProgramResult result = run_program({"sh", "-c", command});
  if (result.status != 0) {
    throw std::runtime_error(command + ": status " + std::to_string(result.status) + ": " +
                             result.output);
  }
  return result.output;
}

Report::Report() : start_(Clock::now()) { std::setvbuf(stdout, nullptr, _IOLBF, 0); }

void Report::title(const std::string& text) { std::printf("\n### %s\n\n", text.c_str()); }

void Report::text(const std::string& text) { std::printf("%s\n", text.c_str()); }

bool Report::expect(const std::string& what, const std::string& got, const std::string& wanted) {
  ++checks_;
  if (got == wanted) {
    std::printf("- %s: %s\n", what.c_str(), got.c_str());
    return true;
  }
  ++failures_;
  std::printf("- **WRONG** %s: %s, not %s\n", what.c_str(), got.c_str(), wanted.c_str());
  return false;
}

bool Report::expect(const std::string& what, bool ok, const std::string& otherwise) {
  ++checks_;
  if (ok) {
    std::printf("- %s: yes\n", what.c_str());
  } else {
    ++failures_;
    std::printf("- **WRONG** %s: no%s%s\n", what.c_str(), otherwise.empty() ? "" : "; ",
                otherwise.c_str());
  }
  return ok;
}

void Report::note(const std::string& what, const std::string& outcome) {
  std::printf("- %s: %s\n", what.c_str(), outcome.c_str());
}

void Report::table(const std::vector<std::vector<std::string>>& rows) {
  std::vector<std::size_t> widths;
  for (const auto& row : rows) {
    widths.resize(std::max(widths.size(), row.size()));
    for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  for (std::size_t line = 0; line < rows.size(); ++line) {
    std::string text;
    for (std::size_t i = 0; i < widths.size(); ++i) {
      const std::string cell = i < rows[line].size() ? rows[line][i] : "";
      text += "| " + cell + std::string(widths[i] - cell.size() + 1, ' ');
    }
    std::printf("%s|\n", text.c_str());
    if (line == 0) {
      std::string rule;
      for (const std::size_t width : widths) rule += "|" + std::string(width + 2, '-');
      std::printf("%s|\n", rule.c_str());
    }
  }
  std::printf("\n");
}

void Report::wrong(const std::string& text) {
  ++failures_;
  std::printf("- **WRONG** %s\n", text.c_str());
}

int Report::finish() {
  // What the actors' own calls complained about counts as well.
  if (::testing::UnitTest::GetInstance()->ad_hoc_test_result().Failed()) {
    wrong("an actor failed; its messages are above");
  }
  std::printf("\n%d checks, %d wrong, %s\n", checks_, failures_,
              duration(seconds_since(start_)).c_str());
  return failures_ == 0 ? 0 : 1;
}

std::string& Grid::cell(const std::string& version, const std::string& what) {
  const std::vector<std::string> columns = versions();
  if (rows_.empty()) {
    rows_.push_back({"version"});
    for (const std::string& column : columns) rows_[0].push_back("v" + column);
  }
  auto row = std::find_if(rows_.begin() + 1, rows_.end(),
                          [&](const auto& cells) { return cells[0] == what; });
  if (row == rows_.end()) {
    row = rows_.insert(row, std::vector<std::string>(columns.size() + 1));
    (*row)[0] = what;
  }
  const auto column = std::find(columns.begin(), columns.end(), version) - columns.begin();
  return row->at(static_cast<std::size_t>(column) + 1);
}

bool Grid::expect(const std::string& version, const std::string& what, const std::string& got,
                  const std::string& wanted) {
  report_.count(1);
  const bool ok = got == wanted;
  cell(version, what) = ok ? got : "**" + got + "**";
  if (!ok) report_.wrong("v" + version + ": " + what + ": " + got + ", not " + wanted);
  return ok;
}

bool Grid::expect(const std::string& version, const std::string& what, bool ok,
                  const std::string& otherwise) {
  report_.count(1);
  cell(version, what) = ok ? "yes" : "**no**";
  if (!ok) report_.wrong("v" + version + ": " + what + ": no; " + otherwise);
  return ok;
}

void Grid::note(const std::string& version, const std::string& what, const std::string& outcome) {
  cell(version, what) = outcome;
}

Grid::~Grid() {
  if (!rows_.empty()) report_.table(rows_);
}

int run(const std::function<void(Report&)>& body) {
  Report report;
  try {
    body(report);
  } catch (const std::exception& error) {
    report.wrong(error.what());
  }
  return report.finish();
}

}  // namespace lockfs::test::nfs
