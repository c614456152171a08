#include "mount-helpers/lockfsctl/nfs_server.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <optional>

namespace lockfs::ctl {

namespace {

/// The text behind `name: "`, up to the next quote.
std::string quoted_after(const std::string& line, const std::string& name) {
  const auto at = line.find(name + ": \"");
  if (at == std::string::npos) return {};
  const auto begin = at + name.size() + 3;
  return line.substr(begin, line.find('"', begin) - begin);
}

std::string address_in(const std::filesystem::path& client) {
  std::ifstream info(client / "info");
  std::string line;
  while (std::getline(info, line)) {
    if (std::string address = quoted_after(line, "address"); !address.empty()) return address;
  }
  return "?";
}

/// - 0x00..: { type: lock, superblock: "fe:00:131", filename: "dir/file", owner: "..." }
std::optional<NfsLock> lock_in(const std::string& line) {
  if (line.find("type: lock") == std::string::npos) return std::nullopt;
  NfsLock lock;
  unsigned major_number = 0;
  unsigned minor_number = 0;
  if (std::sscanf(quoted_after(line, "superblock").c_str(), "%x:%x:%" SCNu64, &major_number,
                  &minor_number, &lock.inode) != 3) {
    return std::nullopt;
  }
  lock.device = fmt::format("{}:{}", major_number, minor_number);
  lock.filename = quoted_after(line, "filename");
  return lock;
}

}  // namespace

std::vector<NfsLock> nfs_locks(const std::string& nfsd) {
  std::vector<NfsLock> found;
  std::error_code error;
  for (const auto& client : std::filesystem::directory_iterator(nfsd + "/clients", error)) {
    std::ifstream states(client.path() / "states");
    std::string line;
    while (std::getline(states, line)) {
      auto lock = lock_in(line);
      if (!lock) continue;
      lock->folder = client.path();
      lock->address = address_in(client.path());
      found.push_back(std::move(*lock));
    }
  }
  return found;
}

std::string write_control(const std::string& path, const std::string& text) {
  const int fd = open(path.c_str(), O_WRONLY | O_CLOEXEC);
  if (fd < 0) return fmt::format("{}: {}", path, std::strerror(errno));
  const std::string line = text + '\n';
  const bool well = write(fd, line.data(), line.size()) == static_cast<ssize_t>(line.size());
  const int error = errno;
  close(fd);
  return well ? std::string() : fmt::format("{}: {}", path, std::strerror(error));
}

}  // namespace lockfs::ctl
