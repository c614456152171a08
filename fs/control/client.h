/// The asking end of a control socket, one question at a time.
///
/// Not thread-safe. Nothing blocks for longer than kPatience: the daemon at the other end may be
/// stopped or stuck.
#pragma once

#include <chrono>
#include <string>

#include "fs/base/unique_fd.h"
#include "fs/control/protocol.h"

namespace lockfs::control {

class Client {
 public:
  static constexpr std::chrono::seconds kPatience{10};

  /// Connects to the socket at `path`. Returns 0 or an errno.
  int connect(const std::string& path);

  /// Sends a request, to which "v" and "id" are added, and waits for its one line of answer.
  /// Returns an empty string and the answer in `reply`, or one line: what is wrong, in the daemon's
  /// words if it refused.
  std::string ask(Json request, Json& reply);

 private:
  std::string read_line(std::string& line);

  UniqueFd fd_;
  std::string input_;  ///< received, not yet read
};

}  // namespace lockfs::control
