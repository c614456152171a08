/// Who conflicts with whom: the bug that lockfs is for, the full matrix of holders and requesters,
/// and what the mode of opening allows. The measure is always what two NFS clients see of each
/// other; a local program must see the same and be seen the same, cell by cell.

#include <array>
#include <cerrno>
#include <cstdio>
#include <map>

#include "tests/nfs/laboratory.h"

namespace {

using namespace lockfs::test;
using namespace lockfs::test::nfs;

/// Where the requester's range lies in respect to the holder's. A flock has the whole file.
struct Relation {
  const char* name;
  Range holder;
  Range requester;
};
constexpr Relation kRelations[] = {
    {"whole file", kWholeFile, kWholeFile},
    {"overlapping ranges", {100, 100}, {150, 100}},
    {"disjoint ranges", {100, 100}, {200, 100}},
};

// -- the bug --------------------------------------------------------------------------------------

/// Outcome of `requester`'s exclusive flock while `holder` has one.
std::string second_flock(const Site& holder, const Site& requester) {
  const std::string file = new_file();
  Party first(holder, file);
  Party second(requester, file);
  if (const int error = first.actor.try_lock(first.fd, Kind::kFlock, Mode::kExclusive)) {
    return "the first got " + outcome_of(error);
  }
  return outcome_of(second.actor.try_lock(second.fd, Kind::kFlock, Mode::kExclusive));
}

void show_bug(Report& report) {
  report.title("The bug: flock() of a local program and of an NFS client on the same file");
  std::vector<std::vector<std::string>> rows{
      {"client", "first", "second", "bare server (/data)", "through lockfs (/export)"}};
  for (const std::string& version : versions()) {
    const Site client = client_site('A', version);
    const std::array<std::string, 2> bare{second_flock(data_site(), client),
                                          second_flock(client, data_site())};
    const std::array<std::string, 2> cured{second_flock(local_site(), client),
                                           second_flock(client, local_site())};
    rows.push_back({"v" + version, "local", "client", bare[0], cured[0]});
    rows.push_back({"v" + version, "client", "local", bare[1], cured[1]});
    report.count(4);
    for (const std::string& outcome : bare) {
      if (outcome != "granted") report.wrong("the bare server does not show the bug: " + outcome);
    }
    for (const std::string& outcome : cured) {
      if (outcome != "refused") report.wrong("the bug is there with lockfs: " + outcome);
    }
  }
  report.table(rows);
}

// -- the matrix -----------------------------------------------------------------------------------

/// One request as it stands in a row or a column of the matrix.
struct Request {
  Kind kind;
  Mode mode;
  auto operator<=>(const Request&) const = default;
  [[nodiscard]] std::string name() const { return short_name(kind) + " " + short_name(mode); }
};

std::vector<Request> all_requests() {
  std::vector<Request> result;
  for (const Kind kind : kKinds) {
    for (const Mode mode : kModes) result.push_back({kind, mode});
  }
  return result;
}

/// flock straight on the source is no record lock; nobody is to use it there.
bool possible(const Site& site, const Request& request) {
  return site.name() != "data" || request.kind != Kind::kFlock;
}

/// Counts of one cell of the printed table, over all versions.
struct Tally {
  std::string reference;  ///< what two clients see of each other
  int same = 0;
  int all = 0;
};
using Table = std::map<std::pair<Request, Request>, Tally>;

/// The processes of one NFS version, all with one file open, and every cell among them.
class Matrix {
 public:
  Matrix(Report& report, std::string version) : report_(report), version_(std::move(version)) {
    for (const char client : {'A', 'B'}) sites_.push_back(client_site(client, version_));
    sites_.push_back(local_site());
    sites_.push_back(data_site());
    const std::string file = new_file();
    for (const Site& site : sites_) {
      holders_.emplace_back(site, file);
      requesters_.emplace_back(site, file);
    }
  }

  /// Adds the outcomes to `tables`, one for each relation. Returns a row for the summary.
  std::vector<std::string> run(std::vector<Table>& tables) {
    const auto start = Clock::now();
    for (std::size_t relation = 0; relation < std::size(kRelations); ++relation) {
      outcomes_.clear();
      for (std::size_t holder = 0; holder < sites_.size(); ++holder) {
        for (const Request& held : all_requests()) {
          if (possible(sites_[holder], held)) try_all(holder, held, kRelations[relation]);
        }
      }
      compare(kRelations[relation], tables[relation]);
    }
    // 3 + 3 + 3 + 2 kinds at the four sites, 2 modes each, holder by requester, 3 relations.
    constexpr int kCells = 22 * 22 * 3;
    report_.count(cells_);
    if (cells_ != kCells) {
      report_.wrong("only " + std::to_string(cells_) + " cells of " + std::to_string(kCells));
    }
    return {"v" + version_, std::to_string(cells_), std::to_string(different_),
            duration(seconds_since(start))};
  }

 private:
  struct Pair {
    std::size_t holder;
    std::size_t requester;
  };
  static constexpr Pair kReference{0, 1};  // client A holds, client B asks

  static Range range_of(Kind kind, const Range& range) {
    return kind == Kind::kFlock ? kWholeFile : range;
  }

  void try_all(std::size_t holder, const Request& held, const Relation& relation) {
    Party& first = holders_[holder];
    const Range range = range_of(held.kind, relation.holder);
    int error = first.actor.try_lock(first.fd, held.kind, held.mode, range);
    if (error != 0) {
      report_.wrong(sites_[holder].name() + " cannot hold " + held.name() + ": " +
                    outcome_of(error));
      return;
    }
    for (std::size_t asking = 0; asking < sites_.size(); ++asking) {
      Party& second = requesters_[asking];
      for (const Request& asked : all_requests()) {
        if (!possible(sites_[asking], asked)) continue;
        const Range wanted = range_of(asked.kind, relation.requester);
        error = second.actor.try_lock(second.fd, asked.kind, asked.mode, wanted);
        if (error == 0) {
          const int undone = second.actor.unlock(second.fd, asked.kind, wanted);
          if (undone != 0) report_.wrong("unlock: " + outcome_of(undone));
        }
        outcomes_[{held, asked}].push_back({{holder, asking}, outcome_of(error)});
        ++cells_;
      }
    }
    error = first.actor.unlock(first.fd, held.kind, range);
    if (error != 0) report_.wrong("unlock: " + outcome_of(error));
  }

  void compare(const Relation& relation, Table& table) {
    for (const auto& [cell, results] : outcomes_) {
      std::string reference;
      for (const auto& [pair, outcome] : results) {
        if (pair.holder == kReference.holder && pair.requester == kReference.requester) {
          reference = outcome;
        }
      }
      Tally& tally = table[cell];
      if (tally.all == 0) tally.reference = reference;
      if (tally.reference != reference) {
        report_.wrong("v" + version_ + ", " + cell.first.name() + " against " + cell.second.name() +
                      ": two clients see " + reference + ", with the versions before " +
                      tally.reference);
      }
      for (const auto& [pair, outcome] : results) {
        ++tally.all;
        if (outcome == reference) {
          ++tally.same;
          continue;
        }
        ++different_;
        report_.wrong("v" + version_ + ", " + relation.name + ": " + sites_[pair.holder].name() +
                      " holds " + cell.first.name() + ", " + sites_[pair.requester].name() +
                      " asks " + cell.second.name() + ": " + outcome +
                      ", client against client: " + reference);
      }
    }
  }

  Report& report_;
  std::string version_;
  std::vector<Site> sites_;
  std::vector<Party> holders_;
  std::vector<Party> requesters_;
  std::map<std::pair<Request, Request>, std::vector<std::pair<Pair, std::string>>> outcomes_;
  int cells_ = 0;
  int different_ = 0;
};

void show_matrix(Report& report) {
  report.title("Matrix: every holder against every requester");
  report.text(
      "Sites: client A, client B, local through /export, local on /data (POSIX and OFD). A cell "
      "says "
      "what client B gets\nwhile client A holds, and for how many pairs of sites, over all "
      "versions, "
      "the outcome is the same.\n");
  std::vector<Table> tables(std::size(kRelations));
  std::vector<std::vector<std::string>> summary{{"version", "cells", "different", "time"}};
  for (const std::string& version : versions()) {
    summary.push_back(Matrix(report, version).run(tables));
  }
  for (std::size_t relation = 0; relation < tables.size(); ++relation) {
    std::vector<std::vector<std::string>> rows{
        {std::string(kRelations[relation].name) + ": holder"}};
    for (const Request& asked : all_requests()) rows[0].push_back("asks " + asked.name());
    for (const Request& held : all_requests()) {
      rows.push_back({held.name()});
      for (const Request& asked : all_requests()) {
        const Tally& tally = tables[relation][{held, asked}];
        rows.back().push_back(tally.reference + " " + std::to_string(tally.same) + "/" +
                              std::to_string(tally.all));
      }
    }
    report.table(rows);
  }
  report.table(summary);
}

// -- open modes -----------------------------------------------------------------------------------

/// Outcome of one lock on a file that nobody else uses.
std::string lone_lock(const Site& site, int flags, const Request& request) {
  const std::string file = new_file();
  Party party(site, file, flags);
  return outcome_of(party.actor.try_lock(party.fd, request.kind, request.mode));
}

void show_open_modes(Report& report) {
  report.title("What the mode of opening allows");
  struct OpenMode {
    const char* name;
    int flags;
  };
  const OpenMode modes[] = {
      {"read-only", O_RDONLY}, {"write-only", O_WRONLY}, {"read-write", O_RDWR}};
  std::vector<std::vector<std::string>> rows{{"descriptor", "lock"}};
  for (const std::string& version : versions()) rows[0].push_back("client v" + version);
  rows[0].insert(rows[0].end(), {"local (lockfs)", "plain ext4"});
  for (const OpenMode& mode : modes) {
    for (const Request& request : all_requests()) {
      rows.push_back({mode.name, request.name()});
      std::string wanted;
      for (const std::string& version : versions()) {
        wanted = lone_lock(client_site('A', version), mode.flags, request);
        rows.back().push_back(wanted);
      }
      // The newest version is the measure: NFSv3 has no open, and its server leaves the mode alone.
      const std::string local = lone_lock(local_site(), mode.flags, request);
      rows.back().push_back(local);
      rows.back().push_back(lone_lock(data_site(), mode.flags, request));
      report.count(1);
      if (local != wanted) {
        report.wrong(std::string(mode.name) + ", " + request.name() + ": local " + local +
                     ", client " + wanted);
      }
    }
  }
  report.table(rows);
}

}  // namespace

int main() {
  return run([](Report& report) {
    show_bug(report);
    show_matrix(report);
    show_open_modes(report);
  });
}
