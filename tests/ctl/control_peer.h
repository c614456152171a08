/// One end of a connection to a mount's control socket, as any program could make it.
///
/// Thread safety: none.
#pragma once

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "tests/mounted/support/mounted.h"
#include "tests/mounted/support/process.h"

namespace lockfs::test {

using Json = nlohmann::json;

class ControlPeer {
 public:
  /// Connects; valid() tells whether that worked.
  explicit ControlPeer(const std::string& path);

  [[nodiscard]] bool valid() const { return fd_.valid(); }
  [[nodiscard]] int fd() const { return fd_.get(); }

  /// Sends bytes; returns how many went before the other side closed (all, as a rule).
  std::size_t send(const std::string& bytes);
  /// Ends sending; replies can still be read.
  void end();
  /// The next line without its newline; nothing when the other side closed or the deadline passed.
  std::optional<std::string> line();
  /// The next line as JSON; a discarded value when there is none or it is no JSON.
  Json json();
  /// Waits until the other side has closed; what came until then is lost.
  bool closed();

  /// Sends {"v":1,"cmd":command} with `more`, and returns all lines up to the one with "ok".
  std::vector<Json> ask(const std::string& command, Json more = Json::object());
  /// The line with "ok" of ask().
  Json call(const std::string& command, Json more = Json::object());

 private:
  UniqueFd fd_;
  std::string input_;
};

/// A mount with its control socket in the scratch directory.
class ControlTest : public ::testing::Test {
 protected:
  [[nodiscard]] virtual std::vector<std::string> options() const { return {}; }
  void SetUp() override;
  void TearDown() override;

  [[nodiscard]] Mount& fs() { return fs_; }
  [[nodiscard]] std::string in_mount(const std::string& name) const { return fs_.in_mount(name); }
  [[nodiscard]] std::string socket() const { return fs_.scratch() + "/control"; }
  /// A new file; its inode as the mount shows it.
  std::uint64_t make_file(const std::string& name);

 private:
  Mount fs_;
};

}  // namespace lockfs::test
