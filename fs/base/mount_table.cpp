#include "fs/base/mount_table.h"

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <sstream>
#include <utility>

namespace lockfs {

std::string unescape_octal(std::string_view text) {
  const auto is_octal = [](char c) { return c >= '0' && c <= '7'; };
  std::string result;
  result.reserve(text.size());
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\\' && i + 3 < text.size() && is_octal(text[i + 1]) && is_octal(text[i + 2]) &&
        is_octal(text[i + 3])) {
      const int code = (text[i + 1] - '0') * 64 + (text[i + 2] - '0') * 8 + (text[i + 3] - '0');
      result.push_back(static_cast<char>(code));
      i += 3;
    } else {
      result.push_back(text[i]);
    }
  }
  return result;
}

std::vector<MountEntry> parse_mountinfo(std::string_view text) {
  // proc(5): 36 35 98:0 /root /mount/point options [tag...] - type source super-options
  std::vector<MountEntry> entries;
  std::istringstream lines{std::string(text)};
  for (std::string line; std::getline(lines, line);) {
    std::istringstream fields(line);
    const std::vector<std::string> words(std::istream_iterator<std::string>(fields), {});
    if (words.size() < 6) continue;
    const auto dash = std::find(words.begin() + 6, words.end(), "-");
    if (words.end() - dash < 3) continue;
    entries.push_back({unescape_octal(words[4]), unescape_octal(*(dash + 1)),
                       unescape_octal(*(dash + 2)), words[2], words[5],
                       words.end() - dash > 3 ? *(dash + 3) : std::string(),
                       std::strtoull(words[0].c_str(), nullptr, 10),
                       std::strtoull(words[1].c_str(), nullptr, 10)});
  }
  return entries;
}

std::optional<MountEntry> find_mount(const std::string& path, const std::string& mountinfo) {
  std::ifstream table(mountinfo);
  const std::string text{std::istreambuf_iterator<char>(table), {}};
  std::optional<MountEntry> found;
  for (MountEntry& entry : parse_mountinfo(text)) {
    if (entry.mount_point == path) found = std::move(entry);  // the last one covers the others
  }
  return found;
}

bool is_below(std::string_view path, std::string_view folder) {
  while (path.size() > 1 && path.ends_with('/')) path.remove_suffix(1);
  if (!path.starts_with(folder)) return false;
  return folder == "/" || path.size() == folder.size() || path[folder.size()] == '/';
}

}  // namespace lockfs
