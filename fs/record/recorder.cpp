#include "fs/record/recorder.h"

#include <poll.h>
#include <pthread.h>
#include <spdlog/spdlog.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <exception>
#include <system_error>
#include <utility>
#include <vector>

namespace lockfs {

namespace {

/// How long what happened may stay unsent, so that blocks are worth their heads.
constexpr int kGatherMs = 200;
/// How long the end of a recording waits for a peer that does not read.
constexpr int kPatienceMs = 1000;

bool readable(int fd) {
  pollfd entry{fd, POLLIN, 0};
  return poll(&entry, 1, 0) > 0;
}

}  // namespace

Recorder::Recorder(Tape& tape) : tape_(tape), stop_(eventfd(0, EFD_CLOEXEC)) {
  if (!stop_) throw std::system_error(errno, std::generic_category(), "eventfd");
}

Recorder::~Recorder() { stop(); }

bool Recorder::start(UniqueFd& peer, const std::string& preface, const Settings& settings) {
  const std::lock_guard guard(mutex_);
  if (running_) return false;
  if (thread_.joinable()) thread_.join();
  auto writer = std::make_unique<TraceWriter>(settings.head, settings.hash_paths);
  tape_.open();
  running_ = true;
  try {
    const int fd = peer.get();
    thread_ = std::thread([this, fd, preface, max_size = settings.max_size,
                           writer = std::shared_ptr<TraceWriter>(std::move(writer))] {
      pthread_setname_np(pthread_self(), "lockfs-record");
      const UniqueFd owned(fd);
      if (send_all(fd, preface, false)) run(fd, *writer, max_size);
      tape_.close();
      running_ = false;
    });
  } catch (...) {
    tape_.close();
    running_ = false;
    throw;
  }
  static_cast<void>(peer.release());
  return true;
}

void Recorder::stop() noexcept {
  const std::lock_guard guard(mutex_);
  if (!thread_.joinable()) return;
  std::uint64_t count = 1;
  while (write(stop_.get(), &count, sizeof count) < 0 && errno == EINTR) {
  }
  thread_.join();
  static_cast<void>(!read(stop_.get(), &count, sizeof count));
}

void Recorder::run(int peer, TraceWriter& writer, std::uint64_t max_size) noexcept {
  try {
    // The head at once: it tells the peer that the recording has begun.
    if (!send_all(peer, writer.take(), false)) return;
    while (record(peer, writer, max_size)) {
    }
  } catch (const std::exception& error) {
    spdlog::error("record: {}; the recording ends here", error.what());
  }
}

/// One turn: waits for something to happen, and sends it. Returns whether to go on.
bool Recorder::record(int peer, TraceWriter& writer, std::uint64_t max_size) {
  std::array<pollfd, 3> entries = {pollfd{stop_.get(), POLLIN, 0},
                                   pollfd{peer, POLLIN | POLLRDHUP, 0},
                                   pollfd{tape_.fd(), POLLIN, 0}};
  if (poll(entries.data(), entries.size(), -1) < 0 && errno != EINTR) {
    throw std::system_error(errno, std::generic_category(), "poll");
  }
  bool ends = entries[0].revents != 0 || entries[1].revents != 0;
  // A burst goes into one block.
  if (!ends) ends = poll(entries.data(), 2, kGatherMs) > 0;
  std::vector<TapeItem> items;
  const std::uint64_t lost = tape_.take(items);
  writer.write(items, lost);
  items.clear();
  const bool full = max_size != 0 && writer.size() >= max_size;
  if (full) spdlog::info("record: the trace has reached its size; the recording ends");
  if (ends || full) {
    writer.finish();
    send_all(peer, writer.take(), true);
    return false;
  }
  writer.flush();
  return send_all(peer, writer.take(), false);
}

/// Returns false when the peer has gone, or the end has come before it read all.
bool Recorder::send_all(int peer, const std::string& bytes, bool last) const {
  std::size_t sent = 0;
  while (sent < bytes.size()) {
    const ssize_t put =
        send(peer, bytes.data() + sent, bytes.size() - sent, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (put >= 0) {
      sent += static_cast<std::size_t>(put);
      continue;
    }
    if (errno == EINTR) continue;
    if (errno != EAGAIN) {
      spdlog::info("record: {}; the recording ends", std::strerror(errno));
      return false;
    }
    // Meanwhile the tape fills, and then counts what it loses.
    std::array<pollfd, 2> entries = {pollfd{peer, POLLOUT, 0}, pollfd{stop_.get(), POLLIN, 0}};
    const bool hurried = last || readable(stop_.get());
    const int ready = poll(entries.data(), hurried ? 1 : 2, hurried ? kPatienceMs : -1);
    if (hurried && ready == 0) return false;
  }
  return true;
}

}  // namespace lockfs
