/// Data under locks: a local program and two clients change one file under an exclusive lock, with
/// the default cache options of mount and clients. No update may be lost.

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <sstream>

#include "tests/nfs/laboratory.h"

namespace {

using namespace lockfs::test;
using namespace lockfs::test::nfs;

/// Takes and drops an exclusive lock of all data. Returns false on an error.
bool set_lock(int fd, Kind kind, bool on) {
  if (kind == Kind::kFlock) return ::flock(fd, on ? LOCK_EX : LOCK_UN) == 0;
  struct flock request {};
  request.l_type = on ? F_WRLCK : F_UNLCK;
  request.l_len = kFarAway;
  return ::fcntl(fd, kind == Kind::kOfd ? F_OFD_SETLKW : F_SETLKW, &request) == 0;
}

/// One change of the file `fd` under the lock. Returns false on an error.
using Change = bool (*)(int fd, void* map, int writer, int round);

bool add_one(int fd, void*, int, int) {
  std::array<char, 32> text{};
  if (::pread(fd, text.data(), text.size() - 1, 0) < 0) return false;
  const long value = std::strtol(text.data(), nullptr, 10) + 1;
  const int length = std::snprintf(text.data(), text.size(), "%ld\n", value);
  return ::pwrite(fd, text.data(), static_cast<std::size_t>(length), 0) == length;
}

bool append_line(int fd, void*, int writer, int round) {
  std::array<char, 64> line;
  const int length = std::snprintf(line.data(), line.size(), "writer %d line %d\n", writer, round);
  return ::write(fd, line.data(), static_cast<std::size_t>(length)) == length;
}

bool add_one_mapped(int, void* map, int, int) {
  volatile std::uint64_t* counter = static_cast<volatile std::uint64_t*>(map);
  *counter = *counter + 1;
  return true;
}

struct Work {
  const char* name;
  Change change;
  int flags;
  bool map;
  Kind kind;
  const char* content;
  std::size_t size;  ///< of the file at first
};
const std::array<Work, 4> kWorks{{
    {"counter, flock", add_one, O_RDWR, false, Kind::kFlock, "0\n", 0},
    {"counter, POSIX", add_one, O_RDWR, false, Kind::kPosix, "0\n", 0},
    {"append log, OFD", append_line, O_RDWR | O_APPEND, false, Kind::kOfd, "", 0},
    {"mmap counter, POSIX", add_one_mapped, O_RDWR, true, Kind::kPosix, "", 4096},
}};

/// `keep`: see keep_owner().
int write_rounds(const Work& work, const std::string& path, int writer, int rounds, bool keep) {
  const int fd = ::open(path.c_str(), work.flags);
  if (fd < 0) return 2;
  if (keep && !keep_owner(fd, work.kind)) return 7;
  void* map = nullptr;
  if (work.map) {
    map = ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED) return 3;
  }
  for (int round = 0; round < rounds; ++round) {
    if (!set_lock(fd, work.kind, true)) return 4;
    if (!work.change(fd, map, writer, round)) return 5;
    if (!set_lock(fd, work.kind, false)) return 6;
  }
  return 0;
}

/// How many updates the file has; negative for lines that are torn or out of order.
long updates_in(const Work& work, const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (work.change == add_one) {
    long value = -1;
    file >> value;
    return value;
  }
  if (work.change == add_one_mapped) {
    std::uint64_t value = 0;
    file.read(reinterpret_cast<char*>(&value), sizeof value);
    return static_cast<long>(value);
  }
  std::map<int, int> next;
  long count = 0;
  for (std::string line; std::getline(file, line); ++count) {
    int writer = -1;
    int round = -1;
    if (std::sscanf(line.c_str(), "writer %d line %d", &writer, &round) != 2) return -1;
    if (next[writer]++ != round) return -2;
  }
  return count;
}

void show_updates(Report& report, int rounds) {
  report.title("Updates of one file by a local program and two clients, " + std::to_string(rounds) +
               " each");
  std::vector<std::vector<std::string>> rows{{"version"}};
  for (const Work& work : kWorks) rows[0].emplace_back(work.name);
  for (const std::string& version : versions()) {
    rows.push_back({"v" + version});
    for (const Work& work : kWorks) {
      const std::string file = new_file(std::string(work.content) + std::string(work.size, '\0'));
      const std::vector<Site> sites{local_site(), client_site('A', version),
                                    client_site('B', version)};
      const auto start = Clock::now();
      std::vector<Process> writers;
      for (std::size_t i = 0; i < sites.size(); ++i) {
        writers.push_back(sites[i].process([&, i] {
          return write_rounds(work, sites[i].path(file), static_cast<int>(i), rounds,
                              frees_owners(version) && !sites[i].on_server());
        }));
      }
      for (std::size_t i = 0; i < writers.size(); ++i) {
        int status = -1;
        for (int tries = 0; tries < 6 && status == -1; ++tries) status = writers[i].wait();
        if (status != 0) {
          report.wrong("v" + version + ", " + work.name + ": " + sites[i].name() + " left with " +
                       std::to_string(status));
        }
      }
      const double took = seconds_since(start);
      const long wanted = 3L * rounds;
      const long found = updates_in(work, "/data/" + file);
      rows.back().push_back(std::to_string(found) + " of " + std::to_string(wanted) + ", " +
                            duration(took));
      report.count(1);
      if (found != wanted) {
        report.wrong("v" + version + ", " + work.name + ": " + std::to_string(found) + " of " +
                     std::to_string(wanted) + " updates");
      }
    }
  }
  report.table(rows);
}

}  // namespace

int main() {
  return run([](Report& report) { show_updates(report, scaled(2000)); });
}
