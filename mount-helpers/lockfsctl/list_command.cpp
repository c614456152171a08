// lockfsctl list: every lock and every request that waits.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <functional>
#include <iostream>
#include <sstream>

#include "mount-helpers/lockfsctl/snapshot.h"
#include "mount-helpers/lockfsctl/text.h"

namespace lockfs::ctl {

namespace {

struct ListOptions {
  std::string path;
  bool json = false;
  bool proc = false;
  bool waiting = false;
  bool no_headings = false;
  bool raw = false;
  bool no_outside = false;
  pid_t pid = 0;
  std::string older_than;
  std::string columns;  ///< names with commas between
};

/// What a cell is made of.
struct Row {
  const Snapshot& snapshot;
  const Record& record;
  const File& file;
};

struct ColumnSpec {
  const char* name;
  bool right;
  bool standard;
  std::string (*cell)(const Row&);
};

std::string upper(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
  return text;
}

std::string path_of(const File& file) {
  std::string path = printable(file.path);
  if (path.empty()) path = "?";
  return file.deleted ? path + " (deleted)" : path;
}

constexpr std::array kColumns = {
    ColumnSpec{
        "COMMAND", false, true,
        [](const Row& r) { return r.record.command.empty() ? "?" : printable(r.record.command); }},
    ColumnSpec{"PID", true, true,
               [](const Row& r) {
                 return r.record.pid > 0 ? std::to_string(r.record.pid) : std::string("-1");
               }},
    ColumnSpec{"USER", false, true, [](const Row& r) { return user_name(r.record.uid); }},
    ColumnSpec{"TYPE", false, true, [](const Row& r) { return upper(r.record.type); }},
    ColumnSpec{"MODE", false, true,
               [](const Row& r) {
                 return std::string(r.record.exclusive ? "WRITE" : "READ") +
                        (r.record.waiting ? "*" : "");
               }},
    ColumnSpec{"START", true, true, [](const Row& r) { return std::to_string(r.record.first); }},
    ColumnSpec{"END", true, true,
               [](const Row& r) {
                 return r.record.last == kEof ? std::string("EOF") : std::to_string(r.record.last);
               }},
    ColumnSpec{"SINCE", true, true,
               [](const Row& r) {
                 return r.record.seconds ? duration_text(*r.record.seconds) : std::string("?");
               }},
    ColumnSpec{"BEHIND", true, true,
               [](const Row& r) {
                 return r.record.waiting ? std::string()
                                         : std::to_string(r.snapshot.waiters_behind(r.record));
               }},
    ColumnSpec{"WHERE", false, true,
               [](const Row& r) { return std::string(r.record.outside ? "outside" : "mount"); }},
    ColumnSpec{"CLIENT", false, false, [](const Row& r) { return r.record.client; }},
    ColumnSpec{"TID", true, false, [](const Row& r) { return std::to_string(r.record.tid); }},
    ColumnSpec{"OWNER", false, false, [](const Row& r) { return r.record.owner; }},
    ColumnSpec{"INODE", false, true,
               [](const Row& r) { return fmt::format("{}:{}", r.file.device, r.file.inode); }},
    ColumnSpec{"PATH", false, true, [](const Row& r) { return path_of(r.file); }},
};

std::string column_names(bool standard) {
  std::string names;
  for (const ColumnSpec& column : kColumns) {
    if (standard && !column.standard) continue;
    names.append(names.empty() ? "" : ",").append(column.name);
  }
  return names;
}

std::vector<const ColumnSpec*> chosen_columns(const ListOptions& options) {
  std::vector<const ColumnSpec*> chosen;
  if (options.columns.empty()) {
    for (const ColumnSpec& column : kColumns) {
      if (column.standard) chosen.push_back(&column);
    }
  }
  std::istringstream names(options.columns);
  std::string name;
  while (std::getline(names, name, ',')) {
    const auto* const it =
        std::find_if(kColumns.begin(), kColumns.end(),
                     [&](const ColumnSpec& column) { return column.name == upper(name); });
    if (it == kColumns.end()) {
      throw Error(fmt::format("no column '{}'; there are {}", name, column_names(false)), 2);
    }
    chosen.push_back(it);
  }
  return chosen;
}

/// In the form of /proc/locks, a lock followed by those that wait for it, marked "->".
void print_proc(const Snapshot& s, const Record& r, std::size_t number) {
  const File& file = s.files[r.file];
  const auto colon = file.device.find(':');
  const char* type = r.type == "flock" ? "FLOCK " : r.type == "ofd" ? "OFDLCK" : "POSIX ";
  std::cout << fmt::format("{}: {}{} ADVISORY  {} {} {:02x}:{:02x}:{} {} {}\n", number,
                           r.waiting ? "-> " : "", type, r.exclusive ? "WRITE" : "READ ",
                           r.pid > 0 ? r.pid : -1, std::stoul(file.device.substr(0, colon)),
                           std::stoul(file.device.substr(colon + 1)), file.inode, r.first,
                           r.last == kEof ? std::string("EOF") : std::to_string(r.last));
}

Json json_of(const Snapshot& s, const Record& r) {
  const File& file = s.files[r.file];
  const auto or_null = [](bool known, Json value) { return known ? std::move(value) : Json(); };
  Json json = {{"mount", s.mount.mountpoint},
               {"path", or_null(!file.path.empty(), file.path)},
               {"source_path", or_null(!file.source_path.empty(), file.source_path)},
               {"deleted", file.deleted},
               {"device", file.device},
               {"inode", file.inode},
               {"type", r.type},
               {"owner", or_null(!r.owner.empty(), r.owner)},
               {"pid", or_null(r.pid > 0, r.pid)},
               {"tid", or_null(r.tid > 0, r.tid)},
               {"command", or_null(!r.command.empty(), r.command)},
               {"uid", r.uid ? Json(*r.uid) : Json()},
               {"user", r.uid ? Json(user_name(r.uid)) : Json()},
               {"mode", r.exclusive ? "exclusive" : "shared"},
               {"start", r.first},
               {"end", or_null(r.last != kEof, r.last)},
               {"outside", r.outside},
               {"client", or_null(!r.client.empty(), r.client)},
               {"since", r.seconds ? Json(iso_time(*r.seconds)) : Json()},
               {"seconds", r.seconds ? Json(*r.seconds) : Json()}};
  if (r.waiting) {
    json["place"] = r.place;
    json["ticket"] = or_null(r.ticket != 0, r.ticket);
    json["ahead"] = or_null(r.ahead != 0, r.ahead);
  } else {
    json["waiters"] = s.waiters_behind(r);
  }
  return json;
}

/// What the options leave of a mount's locks and requests, a file's locks before its requests.
std::vector<const Record*> selected(const Snapshot& s, const ListOptions& options,
                                    std::optional<std::int64_t> at_least) {
  std::vector<const Record*> rows;
  const auto add = [&](const Record& r) {
    if (options.waiting && !r.waiting) return;
    if (options.pid != 0 && r.pid != options.pid) return;
    // Nobody knows since when outsiders hold theirs.
    if (at_least && (!r.seconds || *r.seconds < *at_least)) return;
    rows.push_back(&r);
  };
  for (const Record& r : s.locks) add(r);
  for (const Record& r : s.waits) add(r);
  std::stable_sort(rows.begin(), rows.end(),
                   [](const Record* a, const Record* b) { return a->file < b->file; });
  return rows;
}

int list(const Globals& globals, const ListOptions& options) {
  std::optional<std::int64_t> at_least;
  if (!options.older_than.empty()) {
    at_least = parse_duration(options.older_than);
    if (!at_least) {
      throw Error(fmt::format("--older-than: '{}' is no time such as 90s, 10m, 2h or 3d",
                              options.older_than),
                  2);
    }
  }
  const auto columns = chosen_columns(options);
  std::vector<Table::Column> headings;
  headings.reserve(columns.size());
  for (const ColumnSpec* column : columns) headings.push_back({column->name, column->right});
  Table table(std::move(headings));
  Json locks = Json::array();
  Json waiters = Json::array();
  std::size_t number = 0;
  for (Target& target : find_targets(globals, options.path)) {
    const Snapshot s = take_snapshot(target, !options.no_outside);
    for (const Record* r : selected(s, options, at_least)) {
      if (options.json) {
        (r->waiting ? waiters : locks).push_back(json_of(s, *r));
      } else if (options.proc) {
        if (!r->waiting || number == 0) ++number;
        print_proc(s, *r, number);
      } else {
        std::vector<std::string> cells;
        cells.reserve(columns.size());
        for (const ColumnSpec* column : columns) {
          cells.push_back(column->cell({s, *r, s.files[r->file]}));
        }
        table.add(std::move(cells));
      }
    }
  }
  if (options.json) {
    std::cout << Json({{"locks", locks}, {"waiters", waiters}}).dump(2) << '\n';
  } else if (!options.proc) {
    std::cout << table.text(!options.no_headings, options.raw);
  }
  return 0;
}

}  // namespace

void add_list(CLI::App& app, const Globals& globals, Run& run) {
  auto* sub = app.add_subcommand("list", "List locks, and requests that wait (MODE with *)");
  auto o = std::make_shared<ListOptions>();
  sub->add_option("PATH", o->path, "A mount point, a source, or a file (default: all mounts)");
  auto* json = sub->add_flag("--json,-J", o->json, "Print JSON");
  sub->add_flag("--proc", o->proc, "Print in the format of /proc/locks")->excludes(json);
  sub->add_flag("--waiting", o->waiting, "Only requests that wait");
  sub->add_option("--pid,-p", o->pid, "Only of this process")->check(CLI::PositiveNumber);
  sub->add_option("--older-than", o->older_than, "Only held or waiting for at least this long");
  sub->add_flag("--no-outside", o->no_outside, "Without the locks of outsiders on the source");
  sub->add_option("--output,-o", o->columns, "Columns, of " + column_names(false));
  sub->add_flag("--noheadings,-n", o->no_headings, "Without the line of headings");
  sub->add_flag("--raw,-r", o->raw, "Columns without padding");
  sub->callback([&globals, &run, o] { run = [&globals, o] { return list(globals, *o); }; });
}

}  // namespace lockfs::ctl
