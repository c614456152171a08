/// The conflict matrix of a policy as text: who is refused while whom holds what. Made by the unit
/// test from the manager and by the mounted test from system calls; both compare it with the table
/// kept beside this file, <preset>.txt. LOCKFS_WRITE_MATRIX=1 has the unit test write the tables.
#pragma once

#include <cstdlib>
#include <fstream>
#include <functional>
#include <iterator>
#include <string>
#include <string_view>

namespace policy_matrix {

enum class Call { kPosix, kOfd, kFlock };
enum class Relation { kSameOpenFile, kSameProcess, kOtherProcess };

/// One of the two sides of a cell.
struct Side {
  Call call;
  bool exclusive;
};

inline constexpr Side kSides[] = {{Call::kPosix, false}, {Call::kPosix, true},
                                  {Call::kOfd, false},   {Call::kOfd, true},
                                  {Call::kFlock, false}, {Call::kFlock, true}};
inline constexpr Relation kRelations[] = {Relation::kSameOpenFile, Relation::kSameProcess,
                                          Relation::kOtherProcess};

inline std::string text_of(const Side& side) {
  const char* const names[] = {"posix", "ofd", "flock"};
  return std::string(names[static_cast<int>(side.call)]) + (side.exclusive ? " X" : " S");
}

inline const char* text_of(Relation relation) {
  const char* const names[] = {"by the same open file", "by another open file of the same process",
                               "by another process"};
  return names[static_cast<int>(relation)];
}

/// Whether `asked`, not waiting, is granted while `held` is held on the whole file.
using Outcome = std::function<bool(const Side& held, const Side& asked, Relation relation)>;
/// The errno of a flock through a descriptor that is open for reading or writing only.
using OpenModeOutcome = std::function<int(bool exclusive, bool readable)>;

inline std::string render(std::string_view preset, std::string_view axes, const Outcome& granted,
                          const OpenModeOutcome& open_mode) {
  std::string text = "policy " + std::string(preset) + "\n" + std::string(axes);
  const auto pad = [](std::string cell) {
    cell.resize(10, ' ');
    return cell;
  };
  for (const Relation relation : kRelations) {
    text += "\nrows: held; columns: asked for " + std::string(text_of(relation)) + "\n";
    std::string head = pad("");
    for (const Side& asked : kSides) head += pad(text_of(asked));
    while (head.back() == ' ') head.pop_back();
    text += head + "\n";
    for (const Side& held : kSides) {
      std::string row = pad(text_of(held));
      for (const Side& asked : kSides) row += pad(granted(held, asked, relation) ? "." : "refused");
      while (row.back() == ' ') row.pop_back();
      text += row + "\n";
    }
  }
  text += "\nflock through a descriptor of one mode\n";
  for (const bool readable : {true, false}) {
    for (const bool exclusive : {false, true}) {
      const int error = open_mode(exclusive, readable);
      text += std::string(exclusive ? "exclusive" : "shared   ") +
              (readable ? ", read-only:  " : ", write-only: ") + (error == 0 ? "." : "EBADF") +
              "\n";
    }
  }
  return text;
}

inline std::string table_path(std::string_view preset) {
  return std::string(LOCKFS_SOURCE_DIR) + "/tests/policy_matrix/" + std::string(preset) + ".txt";
}

inline std::string table_of(std::string_view preset) {
  std::ifstream file(table_path(preset));
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

inline bool writes_tables() { return std::getenv("LOCKFS_WRITE_MATRIX") != nullptr; }

}  // namespace policy_matrix
