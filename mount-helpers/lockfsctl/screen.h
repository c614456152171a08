/// The terminal as `lockfsctl top` uses it.
///
/// Thread safety: none; one at a time in a program.
#pragma once

#include <string>

namespace lockfs::ctl {

class Screen {
 public:
  /// Takes over the terminal. Throws Error when there is none.
  Screen();
  ~Screen();
  Screen(const Screen&) = delete;
  Screen& operator=(const Screen&) = delete;

  [[nodiscard]] int rows() const;
  /// Begins a new picture.
  void clear();
  /// Adds a line below the last one, cut at the right edge; no-op at the bottom.
  void line(const std::string& text, bool bold = false);
  /// Shows the picture.
  void show();
  /// The next key that was pressed, or -1. Does not wait.
  int key();

 private:
  int row_ = 0;
};

}  // namespace lockfs::ctl
