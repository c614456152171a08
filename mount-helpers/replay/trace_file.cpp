#include "mount-helpers/replay/trace_file.h"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>

#include "lockmgr/trace/decoder.h"

namespace replay {

namespace {

struct Closer {
  void operator()(std::FILE* file) const {
    if (file != stdin && file != stdout) std::fclose(file);
  }
};
using Stream = std::unique_ptr<std::FILE, Closer>;

}  // namespace

std::string read_trace(const std::string& path, bool partial, lockmgr::trace::Trace& trace) {
  using Kind = lockmgr::trace::Damage::Kind;
  const Stream stream(path == "-" ? stdin : std::fopen(path.c_str(), "rbe"));
  if (stream == nullptr) return path + ": " + std::strerror(errno);
  std::string bytes;
  char piece[64 * 1024];
  while (const std::size_t got = std::fread(piece, 1, sizeof piece, stream.get())) {
    bytes.append(piece, got);
  }
  if (std::ferror(stream.get()) != 0) return path + ": " + std::strerror(errno);

  lockmgr::trace::Decoded decoded = lockmgr::trace::decode(bytes);
  trace = std::move(decoded.trace);
  if (!decoded.damage) return {};
  std::string text = path + ": " + decoded.damage->text;
  if (decoded.damage->kind == Kind::kNotATrace || decoded.damage->kind == Kind::kNewer) return text;
  if (partial) return "note: " + text + "; what precedes is used";
  return text + "; --partial uses what precedes";
}

std::string write_whole_file(const std::string& path, const std::string& bytes) {
  const Stream stream(path == "-" ? stdout : std::fopen(path.c_str(), "wbe"));
  if (stream == nullptr) return path + ": " + std::strerror(errno);
  if (std::fwrite(bytes.data(), 1, bytes.size(), stream.get()) != bytes.size() ||
      std::fflush(stream.get()) != 0) {
    return path + ": " + std::strerror(errno);
  }
  return {};
}

}  // namespace replay
