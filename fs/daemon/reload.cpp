#include "fs/daemon/reload.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <fstream>
#include <sstream>
#include <string_view>
#include <utility>
#include <vector>

#include "fs/base/run_program.h"
#include "fs/control/socket.h"

namespace lockfs {
namespace {

constexpr auto kPatience = std::chrono::seconds(10);

}  // namespace

std::string options_file(const std::string& mountpoint) {
  return fmt::format("/etc/lockfs/{}.conf", control::control_socket_name(mountpoint));
}

std::string options_in(const std::string& text) {
  constexpr std::string_view kKey = "OPTIONS=";
  std::string found;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    const auto begin = line.find_first_not_of(" \t");
    if (begin == std::string::npos || line.compare(begin, kKey.size(), kKey) != 0) continue;
    std::string value = line.substr(begin + kKey.size());
    const auto last = value.find_last_not_of(" \t\r");
    value.erase(last == std::string::npos ? 0 : last + 1);
    const bool quoted = value.size() >= 2 && (value.front() == '"' || value.front() == '\'') &&
                        value.back() == value.front();
    found = quoted ? value.substr(1, value.size() - 2) : value;
  }
  return found;
}

void reload(const Options& options, const std::string& program) {
  const std::string& mountpoint = options.mountpoint_path;
  const std::string file = options_file(mountpoint);
  std::ifstream in(file);
  if (!in) {
    spdlog::info("{}: nothing to reload: there is no {}", mountpoint, file);
    return;
  }
  std::stringstream text;
  text << in.rdbuf();
  const std::string wanted = options_in(text.str());
  std::vector<std::string> words{program, "-o", "remount"};
  if (!wanted.empty()) words.insert(words.end(), {"-o", wanted});
  words.insert(words.end(), {"--", options.source_path, mountpoint});
  const ProgramRun run = run_program(std::move(words), kPatience);
  if (run.error != 0) {
    spdlog::error("{}: cannot reload {}: {}: {}", mountpoint, file, program,
                  std::strerror(run.error));
  } else if (run.status == 0) {
    spdlog::info("{}: reloaded {}{}{}", mountpoint, file, run.said.empty() ? "" : ": ", run.said);
  } else {
    spdlog::error("{}: cannot reload {}: {}", mountpoint, file, run.said);
  }
}

}  // namespace lockfs
