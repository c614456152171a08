// lockfsctl record: the lock traffic of a mount, as a trace for lockfs-replay.
#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <iostream>

#include "mount-helpers/lockfsctl/client.h"
#include "mount-helpers/lockfsctl/text.h"

namespace lockfs::ctl {

namespace {

struct RecordOptions {
  std::string path;
  std::string output;
  bool hash_paths = false;
  std::uint64_t max_size = std::uint64_t{256} << 20;
  std::string time;
};

/// A descriptor of the program's own, closed at its end.
struct Descriptor {
  explicit Descriptor(int number) : fd(number) {}
  ~Descriptor() {
    if (fd >= 0) close(fd);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  const int fd;
};

/// Readable when the program is to end.
int open_signals() {
  sigset_t signals;
  sigemptyset(&signals);
  for (const int number : {SIGINT, SIGTERM, SIGHUP}) sigaddset(&signals, number);
  sigprocmask(SIG_BLOCK, &signals, nullptr);
  return signalfd(-1, &signals, SFD_CLOEXEC);
}

/// The file is written here and with the caller's rights: a full disk, or a file that may not be
/// written, is no trouble of the mount's.
void write_all(int fd, const std::string& output, std::string_view bytes, std::uint64_t before) {
  while (!bytes.empty()) {
    const ssize_t put = write(fd, bytes.data(), bytes.size());
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) {
      throw Error(
          fmt::format("{}: {} after {} bytes; what is there can be used with lockfs-replay "
                      "--partial, the mount goes on",
                      output, std::strerror(errno), before));
    }
    bytes.remove_prefix(static_cast<std::size_t>(put));
    before += static_cast<std::uint64_t>(put);
  }
}

/// Copies what the mount sends until it ends. Returns the number of bytes.
std::uint64_t copy(int peer, int file, const std::string& output, int limit_ms, std::string begun) {
  const Descriptor signals(open_signals());
  std::uint64_t written = 0;
  bool ending = false;
  std::array<char, std::size_t{64} * 1024> buffer{};
  while (true) {
    write_all(file, output, begun, written);
    written += begun.size();
    begun.clear();
    std::array<pollfd, 2> entries = {pollfd{peer, POLLIN, 0},
                                     pollfd{ending ? -1 : signals.fd, POLLIN, 0}};
    const int ready = poll(entries.data(), entries.size(), ending ? -1 : limit_ms);
    if (!ending && (ready == 0 || entries[1].revents != 0)) {
      // The mount sends what is left and the end of the trace, and closes.
      shutdown(peer, SHUT_WR);
      ending = true;
    }
    if (entries[0].revents == 0) continue;
    const ssize_t got = recv(peer, buffer.data(), buffer.size(), 0);
    if (got == 0) return written;
    if (got < 0 && errno != EINTR && errno != EAGAIN) {
      throw Error(fmt::format("the mount has gone: {}", std::strerror(errno)));
    }
    if (got > 0) begun.assign(buffer.data(), static_cast<std::size_t>(got));
  }
}

/// Throws Error if the recording has ended with the daemon: another serves now.
void check_daemon(const MountInfo& before) {
  std::string death;
  try {
    const Client client(before.socket);
    if (client.mount().generation == before.generation) return;
    death = client.mount().last_death;
  } catch (const Error&) {
    return;  // the mount has ended, and the recording with it
  }
  throw Error(fmt::format(
      "the daemon of {} was {}, and the recording ended; what it has sent can be used with "
      "lockfs-replay --partial",
      before.mountpoint, death.empty() ? "replaced" : death));
}

int record(const Globals& globals, const RecordOptions& options) {
  int limit_ms = -1;
  if (!options.time.empty()) {
    const auto seconds = parse_duration(options.time);
    if (!seconds || *seconds <= 0 || *seconds > 86400L * 7) {
      throw Error(fmt::format("--time {}: say 90s, 10m or 2h, up to 7d", options.time), 2);
    }
    limit_ms = static_cast<int>(*seconds * 1000);
  }
  Target target = find_one(globals, options.path);
  // It tells names of files and who uses them.
  const Descriptor file(
      open(options.output.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  if (file.fd < 0) throw Error(fmt::format("{}: {}", options.output, std::strerror(errno)));
  target.client.call("record",
                     {{"hash_paths", options.hash_paths}, {"max_size", options.max_size}});
  const std::uint64_t written =
      copy(target.client.fd(), file.fd, options.output, limit_ms, target.client.take_rest());
  check_daemon(target.client.mount());
  std::cout << fmt::format("{}: {} bytes\n", options.output, written);
  return 0;
}

}  // namespace

void add_record(CLI::App& app, const Globals& globals, Run& run) {
  auto* sub = app.add_subcommand(
      "record", "Write every lock request and answer into a trace, until interrupted");
  auto o = std::make_shared<RecordOptions>();
  sub->add_option("PATH", o->path, "A mount point or a source (default: the only mount)");
  sub->add_option("--output,-o", o->output, "The trace to write")->required();
  sub->add_flag("--hash-paths", o->hash_paths,
                "Call files by a hash that cannot be undone, and programs not at all");
  sub->add_option("--max-size", o->max_size, "End at this size, such as 64MB (default 256MB)")
      ->transform(CLI::AsSizeValue(false));
  sub->add_option("--time,-t", o->time, "End after so long, such as 10m");
  sub->callback([&globals, &run, o] { run = [&globals, o] { return record(globals, *o); }; });
}

}  // namespace lockfs::ctl
