/// How lockfsctl's subcommands are made known. mount-helpers/README.md tells how to add one.
///
/// Thread safety: none; lockfsctl has one thread.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <vector>

namespace lockfs::ctl {

using Json = nlohmann::ordered_json;

/// Ends the program: one line on standard error, naming the bad thing and the remedy.
class Error : public std::runtime_error {
 public:
  explicit Error(const std::string& message, int exit_status = 1)
      : std::runtime_error(message), status(exit_status) {}
  const int status;  ///< 1: failure, 2: wrong usage
};

/// Options before the subcommand.
struct Globals {
  std::string socket;  ///< path of a control socket; empty: found by mount or file
};

/// What the chosen subcommand does; returns the exit status, may throw Error.
using Run = std::function<int()>;

/// Adds a subcommand to `app`: when it is chosen, its callback sets `run`. Both `globals` and `run`
/// outlive the parsing and the run.
using Add = void (*)(CLI::App& app, const Globals& globals, Run& run);

/// All subcommands in the order of --help (subcommand_table.cpp).
const std::vector<Add>& subcommands();

void add_list(CLI::App& app, const Globals& globals, Run& run);
void add_who(CLI::App& app, const Globals& globals, Run& run);
void add_graph(CLI::App& app, const Globals& globals, Run& run);
void add_watch(CLI::App& app, const Globals& globals, Run& run);
void add_record(CLI::App& app, const Globals& globals, Run& run);
void add_top(CLI::App& app, const Globals& globals, Run& run);
void add_break(CLI::App& app, const Globals& globals, Run& run);
void add_policy(CLI::App& app, const Globals& globals, Run& run);
void add_stats(CLI::App& app, const Globals& globals, Run& run);
void add_verify(CLI::App& app, const Globals& globals, Run& run);
void add_ping(CLI::App& app, const Globals& globals, Run& run);
void add_mounts(CLI::App& app, const Globals& globals, Run& run);
void add_upgrade(CLI::App& app, const Globals& globals, Run& run);
void add_doctor(CLI::App& app, const Globals& globals, Run& run);

}  // namespace lockfs::ctl
